"""A gradient method in torch: `nodebench run -b ./mine.py:Mine -t linear --measure gradient`.

As it stands it works: Runge-Kutta steps that torch tapes, so that autograd differentiates all of them. Put your own
method in its place and keep `nodebench check backend ./mine.py:Mine` content.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from nodebench import (
    TABLEAUS,
    AbstractBackend,
    Array,
    DivergedError,
    Field,
    Problem,
    SolverSpec,
    State,
    StepGrid,
    StepLimitError,
    Tableau,
    flat_layout,
    output_times,
)


@dataclass(frozen=True)
class Mine(AbstractBackend):
    """Backpropagation through everything: the tape of all steps.

    The first line is what `nodebench list` shows, and must be a sentence. Say here what it costs in memory and
    evaluations, when not to use it, and where it comes from.

    Attributes:
        safety: Each field of the class is an option, `./mine.py:Mine[safety=0.8]`. This one is the part of the longest
            promising step that is taken.
    """

    # A plain string, which planning reads without importing this file.
    framework: ClassVar[str] = "torch"
    # The backend that gives the exact gradient of these very steps; None where there is none of that name.
    exact_counterpart = None
    # The p of memory ~ n^p in the number n of steps, by theory.
    memory_exponent = 1.0
    # Whether torch's tape has all of a solve, so that any tensor that a field uses is differentiated by.
    on_tape = True
    safety: float = 0.9

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """What it cannot do, in a sentence that the record will carry, before anything is timed; None where it can."""
        if spec.solver not in TABLEAUS or not TABLEAUS[spec.solver].adaptive:
            return f"it has no `{spec.solver}`; it has the Runge-Kutta methods that estimate their error."
        if spec.controller != "integral":
            return "it has the integral controller alone."
        if problem.differentiate_times:
            return "it has no gradient with respect to times."
        return None

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """States at `times`, differentiable: the derivative is the method that is measured.

        A method with a backward pass of its own is a `torch.autograd.Function` here, called with the field's
        parameters among its inputs.
        """
        return self._walk(field, y0, times, spec)[0]

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps that `solve` takes; None would say that nobody can tell."""
        with torch.no_grad():
            return self._walk(field, y0, times, spec)[1]

    def _walk(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> tuple[State, StepGrid]:
        """Step onto each output time; a state of several arrays is one flat vector on the way."""
        method, shape, marks = TABLEAUS[spec.solver], flat_layout(y0), output_times(times)

        def rate(t: float, y: Tensor) -> Tensor:
            # The field is handed the time as a scalar tensor; what it returns must be like the state.
            return torch.cat([part.reshape(-1) for part in shape.evaluate(field, t, shape.parts(y))])

        y = shape.flatten(y0)
        ys, taken, n_rejected = [y], [marks[0]], 0
        h = spec.first_step or abs(marks[-1] - marks[0]) / 100
        for begin, end in pairwise(marks):
            t, left = begin, abs(end - begin)
            while left > 0:
                if len(taken) - 1 + n_rejected >= spec.max_steps:
                    raise StepLimitError(f"the limit of {spec.max_steps} steps was reached at t = {t:.6g}.")
                h = min(h, left)
                after, error = _step(method, rate, (t, h if end > begin else -h), y, spec)
                if not error < float("inf"):  # NaN is not smaller than anything
                    raise DivergedError(f"the state left the finite numbers at t = {t:.6g}.")
                if error <= 1:
                    left = 0.0 if h == left else left - h
                    t, y = end - left if end > begin else end + left, after
                    taken.append(t)
                else:
                    n_rejected += 1
                h *= min(10.0, max(0.2, self.safety * max(error, 1e-10) ** (-1 / method.order)))
            ys.append(y)
        return shape.state(torch.stack(ys)), StepGrid(tuple(taken), n_rejected)


def _step(
    method: Tableau,
    rate: Callable[[float, Tensor], Tensor],
    at: tuple[float, float],
    y: Tensor,
    spec: SolverSpec,
) -> tuple[Tensor, float]:
    """The state after a step, and its error in units of the tolerance; the step's length is not differentiated."""
    t, h = at
    k: list[Tensor] = []
    for c, row in zip(method.c, method.a, strict=True):
        k.append(rate(t + c * h, _sum(y, h, row, k)))
    after = _sum(y, h, method.b, k)
    with torch.no_grad():
        error = _sum(torch.zeros_like(y), h, method.b_error or (), k)
        scale = spec.atol + spec.rtol * torch.maximum(y.abs(), after.abs())
        return after, (error / scale).pow(2).mean().sqrt().item()


def _sum(y: Tensor, h: float, weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    for weight, slope in zip(weights, k, strict=True):
        y = y + h * weight * slope if weight else y
    return y
