"""The linear ODE in JAX."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.problem import Array, Problem
from nodebench.tasks.linear.task import Loss

JaxBatch = Mapping[str, jax.Array]
"""`y0`, shape `(n, d)`, and for training `observed`, shape `(n, n_times, d)`."""

JaxSolve = Callable[[eqx.Module, jax.Array, np.ndarray], jax.Array]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""


class LinearField(eqx.Module):
    """dy/dt = A y for each row of a state `(n, d)`.

    Args:
        dimension: d.
    """

    A: jax.Array

    def __init__(self, dimension: int) -> None:
        self.A = jnp.zeros((dimension, dimension))

    def __call__(self, t: jax.Array, y: Array) -> jax.Array:
        """The derivative, which does not depend on time."""
        del t
        derivative: jax.Array = y @ self.A.T
        return derivative


class LinearODE(eqx.Module):
    """States at the output times, from the initial ones.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        dimension: Components of the state.
        times: Output times.
        loss: Loss of the gradient problem.
        differentiate_times: Whether the gradient problem differentiates with respect to the output times as well.
    """

    field: LinearField
    solve: JaxSolve = eqx.field(static=True)
    times: tuple[float, ...] = eqx.field(static=True)
    problem_loss: Loss = eqx.field(static=True)
    differentiate_times: bool = eqx.field(static=True)

    def __init__(
        self, solve: JaxSolve, dimension: int, times: tuple[float, ...], loss: Loss, *, differentiate_times: bool
    ) -> None:
        self.field = LinearField(dimension)
        self.solve = solve
        self.times, self.problem_loss, self.differentiate_times = times, loss, differentiate_times

    def __call__(self, y0: jax.Array) -> jax.Array:
        """States, shape `(n, n_times, d)`."""
        return self.solve(self.field, y0, np.asarray(self.times)).swapaxes(0, 1)

    def loss(self, batch: JaxBatch) -> jax.Array:
        """Mean squared error of the states."""
        return jnp.mean((self(batch["y0"]) - batch["observed"]) ** 2)

    def metric(self, batch: JaxBatch) -> jax.Array:
        """Root-mean-square error of each trajectory, shape `(n,)`."""
        return jnp.sqrt(jnp.mean((self(batch["y0"]) - batch["observed"]) ** 2, axis=(1, 2)))

    def problem(self, batch: JaxBatch) -> Problem:
        """The gradient problem, of known solution."""
        loss = Partial(end_loss if self.problem_loss == "end" else path_loss)
        return Problem(self.field, batch["y0"], np.asarray(self.times), loss, self.differentiate_times)


def end_loss(ys: jax.Array) -> jax.Array:
    """Squared norm of the last state, summed over the batch."""
    return jnp.sum(ys[-1] ** 2)


def path_loss(ys: jax.Array) -> jax.Array:
    """Squared norms of all states after the first, summed."""
    return jnp.sum(ys[1:] ** 2)
