"""A field of one's own in torch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nodebench.frameworks.base import Weights
from nodebench.problem import Problem
from nodebench.registry import load_class


class FieldODE(nn.Module):
    """Where a field carries its initial states.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        fields: Where the field's class lives, by framework.
        times: Output times.
    """

    def __init__(self, solve: Callable[..., Tensor], fields: Mapping[str, str], times: tuple[float, ...]) -> None:
        super().__init__()
        self.solve, self.times, self.field = solve, times, load_class(fields["torch"])()

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared distance of the last states from their targets."""
        return (self._ends(batch) - batch["end"]).pow(2).mean()

    def metric(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Root-mean-square distance of each example, shape `(n,)`."""
        return (self._ends(batch) - batch["end"]).pow(2).flatten(1).mean(1).sqrt()

    def problem(self, batch: Mapping[str, Tensor]) -> Problem:
        """What the gradient measurement differentiates."""
        times = torch.tensor(self.times, dtype=torch.float64, device=batch["y0"].device)
        return Problem(self.field, batch["y0"], times, partial(end_loss, batch["end"]))

    def _ends(self, batch: Mapping[str, Tensor]) -> Tensor:
        problem = self.problem(batch)
        return self.solve(problem.field, problem.y0, problem.times)[-1]


def end_loss(end: Tensor, ys: Any) -> Tensor:
    """Mean squared distance of the last of the states at the output times."""
    loss: Tensor = (ys[-1] - end).pow(2).mean()
    return loss


def initial_weights(target: str, seed: int) -> Weights:
    """Weights of a field made after seeding, by their names in the model; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = load_class(target)()
    return {f"field.{name}": value.detach().numpy().astype(np.float64) for name, value in field.named_parameters()}
