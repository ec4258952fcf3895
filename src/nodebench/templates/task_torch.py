"""The model of `mine.py` in torch, written the way torch's users write one."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nodebench import Problem, check_same_shape


class MineField(nn.Module):
    """dy/dt of states `(n, 2)`: a network with one hidden layer.

    Args:
        hidden: Units of the hidden layer.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, hidden), nn.Linear(hidden, 2)

    def forward(self, t: Any, y: Tensor) -> Tensor:
        """The derivative; `t` is a scalar tensor."""
        del t
        rate: Tensor = self.outer(torch.tanh(self.inner(y)))
        return rate


class MineODE(nn.Module):
    """Where the field carries its initial states in one unit of time.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        hidden: Units of the hidden layer.
    """

    def __init__(self, solve: Callable[..., Tensor], hidden: int) -> None:
        super().__init__()
        self.solve, self.field = solve, MineField(hidden)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The scalar that is trained on."""
        problem = self.problem(batch)
        loss: Tensor = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The metric of each example, shape `(n,)`."""
        problem = self.problem(batch)
        last = self.solve(problem.field, problem.y0, problem.times)[-1]
        check_same_shape(last, batch["end"])
        error: Tensor = (last - batch["end"]).pow(2).mean(1).sqrt()
        return error

    def problem(self, batch: Mapping[str, Tensor]) -> Problem:
        """What the gradient measurement differentiates: one solve, and the loss of its states."""
        times = torch.tensor([0.0, 1.0], dtype=torch.float64, device=batch["start"].device)
        return Problem(self.field, batch["start"], times, partial(end_loss, batch["end"]))


def end_loss(end: Tensor, ys: Any) -> Tensor:
    """Mean squared error of the last of the states at the output times."""
    check_same_shape(ys[-1], end)  # else the difference of shapes `(n, 1)` and `(n,)` would be one of shape `(n, n)`
    loss: Tensor = (ys[-1] - end).pow(2).mean()
    return loss
