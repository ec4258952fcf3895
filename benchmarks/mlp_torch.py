"""The model of `mlp_task.py` in torch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nodebench import Problem


class MlpField(nn.Module):
    """dy/dt of states `(n, 4)`, the same at all times.

    Args:
        layers: Inputs and outputs of `hidden1`, `hidden2` and `output`.
    """

    def __init__(self, layers: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.hidden1, self.hidden2, self.output = (nn.Linear(*size) for size in layers.values())

    def forward(self, t: Any, y: Tensor) -> Tensor:
        """The derivative."""
        del t
        rate: Tensor = self.output(torch.tanh(self.hidden2(torch.tanh(self.hidden1(y)))))
        return rate


class MlpODE(nn.Module):
    """Where initial states are carried.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        layers: Sizes of the field's layers.
        times: Beginning and end.
    """

    def __init__(
        self, solve: Callable[..., Tensor], layers: Mapping[str, tuple[int, int]], times: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.solve, self.times, self.field = solve, times, MlpField(layers)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error of the last state."""
        problem = self.problem(batch)
        loss: Tensor = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Root-mean-square error of each example, shape `(n,)`."""
        problem = self.problem(batch)
        last = self.solve(problem.field, problem.y0, problem.times)[-1]
        error: Tensor = (last - batch["end"]).pow(2).mean(1).sqrt()
        return error

    def problem(self, batch: Mapping[str, Tensor]) -> Problem:
        """What the gradient measurement differentiates."""
        times = torch.tensor(self.times, dtype=torch.float64, device=batch["y0"].device)
        return Problem(self.field, batch["y0"], times, partial(end_loss, batch["end"]))


def end_loss(end: Tensor, ys: Any) -> Tensor:
    """Mean squared error of the last of the states at the output times."""
    return functional.mse_loss(ys[-1], end)
