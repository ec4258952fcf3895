"""Fields of known solution in torch."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from nodebench.frameworks.torch.field import like_state, state_parts, to_array
from nodebench.problem import Array, Field, Problem, SolverSpec, State
from nodebench.tasks.linear.torch import TorchBatch


class KnownField(nn.Module):
    """dy/dt = A y for each row of a state `(n, d)`, or cos(t) A y.

    Args:
        dimension: d.
        split: Whether the state is a tuple: its first column, and the others.
        waving: Whether the rate is multiplied by cos(t).
        patience: Evaluations after which it raises, so that a solver that never gives up is no endless loop.
    """

    def __init__(self, dimension: int, *, split: bool, waving: bool, patience: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.zeros(dimension, dimension))
        self._split, self._waving, self._patience = split, waving, patience

    @override
    def forward(self, t: Array, y: Any) -> State:
        self._patience -= 1
        if self._patience < 0:
            raise RuntimeError("the solver evaluates the field without end")
        rate = (torch.cat(y, 1) if self._split else y) @ self.A.t()
        if self._waving:
            rate = rate * torch.as_tensor(t, dtype=rate.dtype, device=rate.device).cos()
        return (rate[:, :1], rate[:, 1:]) if self._split else rate


class KnownODE(nn.Module):
    """The gradient problem of a `KnownField`, whose loss is the sum of squares of all states after the first.

    Args:
        solve: What its backend solves with.
        dimension: Components of the state.
        times: Output times.
        timed: Whether the times are differentiated.
        options: The other arguments of the field.
    """

    def __init__(
        self, solve: Callable[..., State], dimension: int, times: tuple[float, ...], *, timed: bool, **options: Any
    ) -> None:
        super().__init__()
        self.solve, self._times, self._timed, self._split = solve, times, timed, options["split"]
        self.field = KnownField(dimension, **options)

    def problem(self, batch: TorchBatch) -> Problem:
        """The problem of initial states `y0`, shape `(n, d)`."""
        y0 = batch["y0"]
        times = torch.tensor(self._times, dtype=torch.float64, device=y0.device)
        state: State = (y0[:, :1].clone(), y0[:, 1:].clone()) if self._split else y0
        return Problem(self.field, state, times, path_loss, self._timed)


def path_loss(ys: State) -> Tensor:
    """Squares of all states after the first, summed."""
    parts = ys if isinstance(ys, tuple) else (ys,)
    return torch.stack([part[1:].pow(2).sum() for part in parts]).sum()


def euler(field: Field, y0: State, times: Tensor, spec: SolverSpec) -> State:
    """One step of Euler's method from each output time to the next: the same steps in every framework."""
    del spec
    states = [state_parts(y0)]
    for begin, end in pairwise(times):
        rates = state_parts(field(begin, like_state(states[-1], y0)))
        states.append(tuple(y + (end - begin).to(y.dtype) * rate for y, rate in zip(states[-1], rates, strict=True)))
    return like_state(tuple(torch.stack(part) for part in zip(*states, strict=True)), y0)


def hidden_gradient(solve: Callable[..., State], problem: Problem, spec: SolverSpec) -> np.ndarray | None:
    """The gradient with respect to the first parameter of a field that a plain function hides from the backend.

    Args:
        solve: What solves.
        problem: Field, state, times and loss.
        spec: How it is solved.

    Returns:
        The gradient; None where there is none, or it cannot be differentiated again.
    """

    def hiding(t: Array, y: State) -> State:
        return problem.field(t, y)

    states = solve(hiding, problem.y0, problem.times, spec)
    loss, parameters = problem.loss(states), list(problem.field.parameters())  # type: ignore[attr-defined]
    if not loss.requires_grad:
        return None
    (found,) = torch.autograd.grad(loss, parameters[:1], create_graph=True, allow_unused=True)
    return None if found is None or not found.requires_grad else to_array(found)
