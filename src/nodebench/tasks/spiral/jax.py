"""The latent ODE of the `spiral` task in JAX."""

from collections.abc import Callable, Mapping
from functools import partial
from math import log, pi

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nodebench.problem import Array, Field, Problem, State
from nodebench.tasks.spiral.task import HIDDEN, LATENT, N_POINTS, UNITS, further_times, span_times

JaxBatch = Mapping[str, jax.Array]
"""What `nodebench.tasks.spiral.task.draw` returns, on the device."""

JaxSolve = Callable[[Field, State, Array], Array]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""


class LinearLayer(eqx.Module):
    """`x A^T + b` over the last axis, for whole batches: `equinox.nn.LinearLayer` takes one vector.

    Args:
        n_in: Size of the input.
        n_out: Size of the output.
    """

    weight: jax.Array
    bias: jax.Array

    def __init__(self, n_in: int, n_out: int) -> None:
        self.weight, self.bias = jnp.zeros((n_out, n_in)), jnp.zeros(n_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer."""
        return x @ self.weight.T + self.bias


class Dynamics(eqx.Module):
    """The latent dynamics, autonomous, with one hidden layer of 20 units and SiLU."""

    hidden: LinearLayer
    output: LinearLayer

    def __init__(self) -> None:
        self.hidden, self.output = LinearLayer(LATENT, UNITS), LinearLayer(UNITS, LATENT)

    def __call__(self, t: Array, z: Array) -> jax.Array:  # noqa: ARG002  autonomous
        """Rate of the latent states, shape `(n, 4)`."""
        return self.output(jax.nn.silu(self.hidden(z)))


class Decoder(eqx.Module):
    """From the latent state to the plane, with one hidden layer of 20 units."""

    hidden: LinearLayer
    output: LinearLayer

    def __init__(self) -> None:
        self.hidden, self.output = LinearLayer(LATENT, UNITS), LinearLayer(UNITS, 2)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Points, shape `(..., 2)`, of latent states, shape `(..., 4)`."""
        return self.output(jax.nn.relu(self.hidden(z)))


class Recurrent(eqx.Module):
    """A recurrent layer with tanh: names and equations of `torch.nn.RNN`."""

    weight_ih_l0: jax.Array
    weight_hh_l0: jax.Array
    bias_ih_l0: jax.Array
    bias_hh_l0: jax.Array

    def __init__(self) -> None:
        self.weight_ih_l0, self.weight_hh_l0 = jnp.zeros((HIDDEN, 3)), jnp.zeros((HIDDEN, HIDDEN))
        self.bias_ih_l0, self.bias_hh_l0 = jnp.zeros(HIDDEN), jnp.zeros(HIDDEN)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Last hidden states, shape `(n, 25)`, of inputs with shape `(n, m, 3)`."""
        driven = jnp.swapaxes(inputs @ self.weight_ih_l0.T + self.bias_ih_l0 + self.bias_hh_l0, 0, 1)

        def advance(hidden: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(row + hidden @ self.weight_hh_l0.T), None

        last, _ = jax.lax.scan(advance, jnp.zeros_like(driven[0]), driven)
        return last


class Recognition(eqx.Module):
    """Recurrent network that reads the observations backwards in time, and tells where the latent trajectory starts.

    Each observation comes with the time to the next one that is read, the last with the time to the start.
    """

    rnn: Recurrent
    output: LinearLayer

    def __init__(self) -> None:
        self.rnn, self.output = Recurrent(), LinearLayer(HIDDEN, 2 * LATENT)

    def __call__(self, times: jax.Array, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of the latent state at time 0, each of shape `(n, 4)`."""
        gaps = jnp.diff(times, axis=1, prepend=0.0)
        inputs = jnp.concatenate([observations, gaps[:, :, None]], axis=2)[:, ::-1]
        mean, log_variance = jnp.split(self.output(self.rnn(inputs)), 2, axis=1)
        return mean, log_variance


class LatentODE(eqx.Module):
    """Variational autoencoder with an ODE between its encoder and decoder (section 5 of the paper).

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        noise_std: Standard deviation of the observations in the likelihood.
        distinct_times: How many different times a batch has at most, the start at 0 included.
    """

    recognition: Recognition
    field: Dynamics
    decoder: Decoder
    solve: JaxSolve = eqx.field(static=True)
    noise_std: float = eqx.field(static=True)
    distinct_times: int = eqx.field(static=True)

    def __init__(self, solve: JaxSolve, noise_std: float, distinct_times: int) -> None:
        self.solve, self.noise_std, self.distinct_times = solve, noise_std, distinct_times
        self.recognition, self.field, self.decoder = Recognition(), Dynamics(), Decoder()

    def problem(self, batch: JaxBatch) -> Problem:
        """Gradient of the observations' negative log-likelihood through the latent trajectories."""
        return self._problem(batch, *self.recognition(batch["times"], batch["observations"]))

    def loss(self, batch: JaxBatch) -> jax.Array:
        """Negative evidence lower bound in nats, the mean over the trajectories."""
        mean, log_variance = self.recognition(batch["times"], batch["observations"])
        problem = self._problem(batch, mean, log_variance)
        likelihood: jax.Array = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(1)
        return likelihood + divergence.mean()

    def metric(self, batch: JaxBatch) -> jax.Array:
        """Root-mean-square error of each trajectory at the 100 times beyond its span, from the posterior's mean."""
        return rms_error(self._predict(batch, np.append(0.0, further_times()))[:, 1:], batch["beyond"])

    def diagnostics(self, batch: JaxBatch) -> dict[str, jax.Array]:
        """The same error at the 100 times of the span."""
        return {"interpolation RMSE": rms_error(self._predict(batch, span_times()), batch["inside"])}

    def predictions(self, batch: JaxBatch) -> dict[str, jax.Array]:
        """Points at the 100 times of the span, `inside`, and the 100 `beyond`, and the `latent` states at all 200."""
        latent = self._states(batch, np.concatenate([span_times(), further_times()]))
        points = self.decoder(latent)
        return {"inside": points[:, :N_POINTS], "beyond": points[:, N_POINTS:], "latent": latent}

    def _predict(self, batch: JaxBatch, times: np.ndarray) -> jax.Array:
        return self.decoder(self._states(batch, times))

    def _states(self, batch: JaxBatch, times: np.ndarray) -> jax.Array:
        """Latent states from the posterior's mean, shape `(n, n_times, 4)`."""
        start, _ = self.recognition(batch["times"], batch["observations"])
        return jnp.swapaxes(self.solve(self.field, start, jnp.asarray(times, start.dtype)), 0, 1)

    def _problem(self, batch: JaxBatch, mean: jax.Array, log_variance: jax.Array) -> Problem:
        times, index = union_of_times(batch["times"], self.distinct_times)
        start = mean + jnp.exp(0.5 * log_variance) * batch["noise"]
        return Problem(self.field, start, times, Likelihood(self.decoder, batch["observations"], index, self.noise_std))


class Likelihood(eqx.Module):
    """Negative log-likelihood of the observations, each trajectory's at its own times.

    Args:
        decoder: From latent states to points.
        observations: Points, shape `(n, m, 2)`.
        index: Where each trajectory's times are among the solved ones, shape `(n, m)`.
        noise_std: Standard deviation of the observations.
    """

    decoder: Decoder
    observations: jax.Array
    index: jax.Array
    noise_std: float = eqx.field(static=True)

    def __call__(self, states: Array) -> jax.Array:
        """Nats of a trajectory, the mean over the batch, for latent states of shape `(n_times, n, 4)`."""
        own = jnp.take_along_axis(jnp.swapaxes(states, 0, 1), self.index[:, :, None], axis=1)
        squared = ((self.observations - self.decoder(own)) / self.noise_std) ** 2
        constant = log(self.noise_std) + 0.5 * log(2 * pi)
        return (0.5 * squared + constant).sum((1, 2)).mean()


@partial(jax.jit, static_argnames="limit")
def union_of_times(times: jax.Array, limit: int) -> tuple[jax.Array, jax.Array]:
    """All different times of a batch, to be solved for at once, and where each trajectory finds its own.

    A compiled program has fixed shapes, so that there are always `limit` times: where the batch has fewer, more follow
    after its last one, close together, and nobody reads them.

    Args:
        times: Times of each trajectory, none negative, shape `(n, observations)`.
        limit: How many different times there may be, the start at 0 included.

    Returns:
        The times, shape `(limit,)`, increasing from the start at 0, and the indices of each trajectory's times
        among them, shaped like `times`. With more than `limit` different times all are NaN, which ends the training
        as diverged.
    """
    everything = jnp.sort(jnp.append(times.ravel(), jnp.zeros((), times.dtype)))
    n_distinct = 1 + (jnp.diff(everything) > 0).sum()
    union = jnp.unique(everything, size=limit, fill_value=0.0)
    surplus = jnp.arange(limit) - (n_distinct - 1)
    last = everything[-1]
    union = jnp.where(surplus > 0, last * (1 + 0.01 * surplus / limit), union)
    union = jnp.where(n_distinct > limit, jnp.nan, union)
    return union, jnp.searchsorted(union, times)


def rms_error(points: jax.Array, clean: jax.Array) -> jax.Array:
    """Root-mean-square over the points and both coordinates of each trajectory, shape `(n,)`."""
    return jnp.sqrt(((points - clean) ** 2).mean((1, 2)))
