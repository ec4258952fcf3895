"""A field of one's own in torch."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from nodebench.errors import PluginError
from nodebench.frameworks.base import Weights, check_alike, seeded_globally
from nodebench.frameworks.torch.field import refuse_complex, state_parts, whole_state
from nodebench.problem import Problem, State
from nodebench.registry import load_class
from nodebench.tasks.field.task import parts_of


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
        problem = self.problem(batch)
        loss: Tensor = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Root-mean-square distance of each example, shape `(n,)`."""
        problem = self.problem(batch)
        ys = self.solve(problem.field, problem.y0, problem.times)
        return distances(parts_of("end", batch), ys).mean(1).sqrt()

    def problem(self, batch: Mapping[str, Tensor]) -> Problem:
        """What the gradient measurement differentiates."""
        y0 = parts_of("y0", batch)
        times = torch.tensor(self.times, dtype=torch.float64, device=state_parts(y0)[0].device)
        return Problem(self.field, y0, times, partial(end_loss, parts_of("end", batch)))


def end_loss(end: State, ys: State) -> Tensor:
    """Mean squared distance of the last of the states at the output times, over all numbers of the state."""
    return distances(end, ys).mean()


def distances(end: State, ys: State) -> Tensor:
    """Squared distances of the last of the states from their targets, shape `(n, numbers of a state)`.

    Raises:
        PluginError: If the shapes of states and targets differ.
    """
    squares = []
    for last, target in zip((part[-1] for part in state_parts(ys)), state_parts(end), strict=True):
        check_alike(last, target)
        squares.append((last - target).pow(2).reshape(len(last), -1))
    return torch.cat(squares, dim=1)


def initial_weights(target: str, seed: int) -> Weights:
    """Weights of a field made after seeding, by their names in the model; all generators are left as they were."""
    cls = load_class(target)
    with torch.random.fork_rng(devices=[]), seeded_globally(seed):
        torch.manual_seed(seed)
        field = cls()
    if not isinstance(field, nn.Module):
        raise PluginError(f"`{target}` must be a `torch.nn.Module`; it made {type(field).__name__}.")
    refuse_complex(field)
    state = whole_state(field)
    return {f"field.{name}": state[name] for name, _ in field.named_parameters()}
