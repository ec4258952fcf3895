"""The models of the `spiral` task in torch."""

from collections.abc import Callable, Mapping
from functools import partial
from math import log, pi

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.problem import Array, Field, Problem, State
from nodebench.tasks.spiral.task import HIDDEN, LATENT, N_FURTHER, N_POINTS, SPACING, UNITS, further_times, span_times

TorchBatch = Mapping[str, Tensor]
"""What `nodebench.tasks.spiral.task.draw` returns, on the device."""

TorchSolve = Callable[[Field, State, Array], Array]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""


class Dynamics(nn.Module):
    """The latent dynamics, autonomous, with one hidden layer of 20 units, as in the paper.

    SiLU, since its slope has no kink, unlike that of the published example's ELU: trajectories extrapolate better, and
    solvers of high order keep it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(LATENT, UNITS)
        self.output = nn.Linear(UNITS, LATENT)

    @override
    def forward(self, t: Tensor | float, z: Tensor) -> Tensor:
        """Rate of the latent states, shape `(n, 4)`."""
        rate: Tensor = self.output(functional.silu(self.hidden(z)))
        return rate


class Decoder(nn.Module):
    """From the latent state to the plane, with one hidden layer of 20 units."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(LATENT, UNITS)
        self.output = nn.Linear(UNITS, 2)

    @override
    def forward(self, z: Tensor) -> Tensor:
        """Points, shape `(..., 2)`, of latent states, shape `(..., 4)`."""
        point: Tensor = self.output(torch.relu(self.hidden(z)))
        return point


class Recognition(nn.Module):
    """Recurrent network that reads the observations backwards in time, and tells where the latent trajectory starts.

    Each observation comes with the time to the next one that is read, the last with the time to the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, 2 * LATENT)

    @override
    def forward(self, times: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent state at time 0, each of shape `(n, 4)`."""
        gaps = torch.diff(times, dim=1, prepend=torch.zeros_like(times[:, :1])).to(observations.dtype)
        inputs = torch.cat([observations, gaps[:, :, None]], dim=2).flip(1)
        _, last = self.rnn(inputs)
        mean, log_variance = self.output(last[0]).split(LATENT, dim=1)
        return mean, log_variance


class LatentODE(nn.Module):
    """Variational autoencoder with an ODE between its encoder and decoder (section 5 of the paper).

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        noise_std: Standard deviation of the observations in the likelihood.
        distinct_times: How many different times a batch has at most, the start at 0 included.
    """

    def __init__(self, solve: TorchSolve, noise_std: float, distinct_times: int) -> None:
        super().__init__()
        self.solve, self.noise_std, self.distinct_times = solve, noise_std, distinct_times
        self.recognition = Recognition()
        self.field = Dynamics()
        self.decoder = Decoder()

    def problem(self, batch: TorchBatch) -> Problem:
        """Gradient of the observations' negative log-likelihood through the latent trajectories."""
        return self._problem(batch, *self.recognition(batch["times"], batch["observations"]))

    def loss(self, batch: TorchBatch) -> Tensor:
        """Negative evidence lower bound in nats, the mean over the trajectories."""
        mean, log_variance = self.recognition(batch["times"], batch["observations"])
        problem = self._problem(batch, mean, log_variance)
        likelihood: Tensor = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        loss: Tensor = likelihood + divergence.mean()
        return loss

    def metric(self, batch: TorchBatch) -> Tensor:
        """Root-mean-square error of each trajectory at the 100 times beyond its span, from the posterior's mean."""
        return rms_error(self._predict(batch, np.append(0.0, further_times()))[:, 1:], batch["beyond"])

    def diagnostics(self, batch: TorchBatch) -> dict[str, Tensor]:
        """The same error at the 100 times of the span."""
        return {"interpolation RMSE": rms_error(self._predict(batch, span_times()), batch["inside"])}

    def predictions(self, batch: TorchBatch) -> dict[str, Tensor]:
        """Points at the 100 times of the span, `inside`, and the 100 `beyond`, and the `latent` states at all 200."""
        latent = self._states(batch, np.concatenate([span_times(), further_times()]))
        points: Tensor = self.decoder(latent)
        return {"inside": points[:, :N_POINTS], "beyond": points[:, N_POINTS:], "latent": latent}

    def _predict(self, batch: TorchBatch, times: np.ndarray) -> Tensor:
        points: Tensor = self.decoder(self._states(batch, times))
        return points

    def _states(self, batch: TorchBatch, times: np.ndarray) -> Tensor:
        """Latent states from the posterior's mean, shape `(n, n_times, 4)`."""
        start, _ = self.recognition(batch["times"], batch["observations"])
        states: Tensor = self.solve(self.field, start, torch.from_numpy(times).to(start.device))
        return states.transpose(0, 1)

    def _problem(self, batch: TorchBatch, mean: Tensor, log_variance: Tensor) -> Problem:
        times, index = union_of_times(batch["times"], self.distinct_times)
        start = mean + (0.5 * log_variance).exp() * batch["noise"]
        return Problem(self.field, start, times, partial(self._likelihood, batch["observations"], index))

    def _likelihood(self, observations: Tensor, index: Tensor, states: Tensor) -> Tensor:
        # `take_along_dim` would look for negative indices first, which takes as long as to gather.
        own = states.transpose(0, 1).gather(1, index[:, :, None].expand(-1, -1, LATENT))
        return gaussian_nll(self.decoder(own), observations, self.noise_std)


class RNN(nn.Module):
    """Recurrent network that predicts the next observation from those so far and the time until it.

    Beyond the observed span it is fed with its own predictions.

    Args:
        noise_std: Standard deviation of an observation about its prediction in the likelihood.
    """

    def __init__(self, noise_std: float) -> None:
        super().__init__()
        self.noise_std = noise_std
        self.rnn = nn.RNN(3, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, 2)

    def loss(self, batch: TorchBatch) -> Tensor:
        """Negative log-likelihood in nats of all observations but the first, the mean over the trajectories."""
        return gaussian_nll(self._next(batch)[0], batch["observations"][:, 1:], self.noise_std)

    def metric(self, batch: TorchBatch) -> Tensor:
        """Root-mean-square error of each trajectory at the 100 times beyond its span."""
        return rms_error(self._continue(batch, self._next(batch)[1]), batch["beyond"])

    def predictions(self, batch: TorchBatch) -> dict[str, Tensor]:
        """Points: of each observation but the first, from those before it, `inside`; at the 100 times `beyond`."""
        inside, hidden = self._next(batch)
        return {"inside": inside, "beyond": self._continue(batch, hidden)}

    def _continue(self, batch: TorchBatch, hidden: Tensor) -> Tensor:
        """Points at the 100 times beyond the span, `(n, 100, 2)`, each from the one before."""
        observations = batch["observations"]
        point = observations[:, -1]
        gap = (further_times()[0] - batch["times"][:, -1:]).to(observations.dtype)
        points = []
        for _ in range(N_FURTHER):
            out, hidden = self.rnn(torch.cat([point, gap], dim=1)[:, None], hidden)
            point = self.output(out[:, 0])
            points.append(point)
            gap = torch.full_like(gap, SPACING)
        return torch.stack(points, dim=1)

    def diagnostics(self, batch: TorchBatch) -> dict[str, Tensor]:
        """The error of the predicted next observation, against the trajectory without noise."""
        index = (batch["times"][:, 1:, None] / SPACING).round().long()
        return {"interpolation RMSE": rms_error(self._next(batch)[0], batch["inside"].take_along_dim(index, dim=1))}

    def _next(self, batch: TorchBatch) -> tuple[Tensor, Tensor]:
        """Prediction of each observation but the first, `(n, observations - 1, 2)`, and the last hidden state."""
        observations = batch["observations"]
        gaps = torch.diff(batch["times"], dim=1).to(observations.dtype)
        out, hidden = self.rnn(torch.cat([observations[:, :-1], gaps[:, :, None]], dim=2))
        return self.output(out), hidden


def union_of_times(times: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """All different times of a batch, to be solved for at once, and where each trajectory finds its own.

    Args:
        times: Times of each trajectory, none negative, shape `(n, observations)`.
        limit: How many different times there may be, the start at 0 included.

    Returns:
        The times, increasing from the start at 0, and the indices of each trajectory's times among them, shaped like
        `times`.

    Raises:
        UserError: If there are more.
    """
    start = times.new_zeros(1)
    union, index = torch.unique(torch.cat([start, times.reshape(-1)]), sorted=True, return_inverse=True)
    if len(union) > limit:
        raise UserError(f"the batch has {len(union)} different times; `distinct_times` allows {limit}.")
    return union, index[1:].reshape(times.shape)


def gaussian_nll(mean: Tensor, observed: Tensor, std: float) -> Tensor:
    """Negative log-likelihood of points `(n, m, 2)` with white noise: nats of a trajectory, the mean over all n."""
    constant = log(std) + 0.5 * log(2 * pi)
    return (0.5 * ((observed - mean) / std) ** 2 + constant).sum((1, 2)).mean()


def rms_error(points: Tensor, clean: Tensor) -> Tensor:
    """Root-mean-square over the points and both coordinates of each trajectory, shape `(n,)`."""
    return ((points - clean) ** 2).mean((1, 2)).sqrt()
