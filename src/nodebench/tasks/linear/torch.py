"""The linear ODE in torch."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from nodebench.problem import Array, Problem
from nodebench.tasks.linear.task import Loss

TorchBatch = Mapping[str, Tensor]
"""`y0`, shape `(n, d)`, and for training `observed`, shape `(n, n_times, d)`."""

TorchSolve = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""


class LinearField(nn.Module):
    """dy/dt = A y for each row of a state `(n, d)`.

    Args:
        dimension: d.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.zeros(dimension, dimension))

    @override
    def forward(self, t: Array, y: Tensor) -> Tensor:
        """The derivative, which does not depend on time."""
        del t
        return y @ self.A.t()


class LinearODE(nn.Module):
    """States at the output times, from the initial ones.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        dimension: Components of the state.
        times: Output times.
        loss: Loss of the gradient problem.
        differentiate_times: Whether the gradient problem differentiates with respect to the output times as well.
    """

    def __init__(
        self, solve: TorchSolve, dimension: int, times: tuple[float, ...], loss: Loss, *, differentiate_times: bool
    ) -> None:
        super().__init__()
        self.solve = solve
        self.field = LinearField(dimension)
        self._times, self._loss, self._differentiate_times = times, loss, differentiate_times

    @override
    def forward(self, y0: Tensor) -> Tensor:
        """States, shape `(n, n_times, d)`."""
        return self.solve(self.field, y0, self._time_tensor(y0)).transpose(0, 1)

    def loss(self, batch: TorchBatch) -> Tensor:
        """Mean squared error of the states."""
        mean: Tensor = (self(batch["y0"]) - batch["observed"]).pow(2).mean()
        return mean

    def metric(self, batch: TorchBatch) -> Tensor:
        """Root-mean-square error of each trajectory, shape `(n,)`."""
        error: Tensor = (self(batch["y0"]) - batch["observed"]).pow(2).mean(dim=(1, 2)).sqrt()
        return error

    def problem(self, batch: TorchBatch) -> Problem:
        """The gradient problem, of known solution."""
        y0 = batch["y0"]
        loss = end_loss if self._loss == "end" else path_loss
        return Problem(self.field, y0, self._time_tensor(y0), loss, self._differentiate_times)

    def _time_tensor(self, y0: Tensor) -> Tensor:
        return torch.tensor(self._times, dtype=torch.float64, device=y0.device)


def end_loss(ys: Array) -> Tensor:
    """Squared norm of the last state, summed over the batch."""
    total: Tensor = ys[-1].pow(2).sum()
    return total


def path_loss(ys: Array) -> Tensor:
    """Squared norms of all states after the first, summed."""
    total: Tensor = ys[1:].pow(2).sum()
    return total
