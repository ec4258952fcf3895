"""A solve through its output times: which of them it steps onto, and which it interpolates to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from nodebench.problem import SolverSpec
from nodebench.solvers.interpolant import Interpolant, interpolant
from nodebench.solvers.stepping import Stepper
from nodebench.solvers.tableau import TABLEAUS, Tableau


@dataclass(frozen=True, slots=True)
class Leg:
    """A step of a solve, and the output times inside it.

    Attributes:
        span: Beginning and end.
        fractions: Where they lie in the interval between the output times stepped onto, from 0 to 1.
        interval: Indices of these two output times.
        first: Index of the first output time that is interpolated to inside this step.
        thetas: The places of these output times, as fractions of the step.
    """

    span: tuple[float, float]
    fractions: tuple[float, float]
    interval: tuple[int, int]
    first: int
    thetas: tuple[float, ...]

    @property
    def h(self) -> float:
        """Length, negative where time runs backwards."""
        return self.span[1] - self.span[0]

    @property
    def inside(self) -> slice:
        """Indices of the output times inside."""
        return slice(self.first, self.first + len(self.thetas))


class DenseOutput:
    """States inside a step, from the stage derivatives that the step has left in the scheme's buffer.

    Args:
        continuous: The continuous extension.
        like: A tensor of the dtype and on the device of the states.
    """

    def __init__(self, continuous: Interpolant, like: Tensor) -> None:
        self._coefficients = like.new_tensor(continuous.coefficients)
        self._degree = self._coefficients.shape[1]

    def weights(self, thetas: Sequence[float]) -> Tensor:
        """b_i(θ) of every stage, shape `(n_thetas, stages)`."""
        return self.powers(thetas) @ self._coefficients.t()

    def powers(self, thetas: Sequence[float]) -> Tensor:
        """θ, θ², ... of each place, shape `(n_thetas, degree)`."""
        return self._coefficients.new_tensor([[theta ** (p + 1) for p in range(self._degree)] for theta in thetas])

    def polynomial(self, rows: Tensor) -> Tensor:
        """Coefficients of θ, θ², ... in (y - y0) / h, shape `(degree, n)`, of a step with these stage derivatives."""
        return self._coefficients.t() @ rows

    def states(self, y0: Tensor, rows: Tensor, leg: Leg) -> Tensor:
        """The states at the output times inside a step that began at `y0`, shape `(n_thetas, n)`."""
        return torch.addmm(y0, self.weights(leg.thetas), rows, alpha=leg.h)


def dense_output(method: Tableau, like: Tensor, marks: Sequence[float], *, land: bool) -> DenseOutput | None:
    """Dense output of a method; None where every output time is to be stepped onto, or the method has none."""
    return None if land or len(marks) == 2 else _dense_output(method.name, like.dtype, like.device)


@cache
def _dense_output(name: str, dtype: torch.dtype, device: torch.device) -> DenseOutput | None:
    continuous = interpolant(name)
    return None if continuous is None else DenseOutput(continuous, torch.empty(0, dtype=dtype, device=device))


def differences(spec: SolverSpec, *, land: bool) -> tuple[str, ...]:
    """What sets a solve apart from one that steps onto every output time, a sentence each."""
    if land or spec.solver not in TABLEAUS or interpolant(spec.solver) is None:
        return ()
    return ("it steps onto the last output time and interpolates to those before (its `land` option changes that).",)


def passage(
    stepper: Stepper, marks: Sequence[float], ys: Tensor, dense: DenseOutput | None
) -> Iterator[tuple[Leg, Tensor]]:
    """Step through all output times and write the states there.

    Args:
        stepper: A stepper at the first output time.
        marks: Output times.
        ys: Where the states go, shape `(n_marks, n)`.
        dense: How to interpolate; None to step onto every output time, else only onto the last.

    Yields:
        Each accepted step and the state it began at, with the buffers still as the step left them.
    """
    last = len(marks) - 1
    forwards = marks[last] > marks[0]
    ys[0] = stepper.y
    begin = 0
    for end in range(1, last + 1) if dense is None else (last,):
        first = begin + 1
        for step in stepper.advance(marks[end]):
            h, next_one = step.end - step.start, first
            while next_one < end and (marks[next_one] <= step.end) == forwards:
                next_one += 1
            thetas = tuple((mark - step.start) / h for mark in marks[first:next_one])
            leg = Leg((step.start, step.end), step.fractions, (begin, end), first, thetas)
            if dense is not None and thetas:
                ys[leg.inside] = dense.states(step.y0, stepper.rows, leg)
            yield leg, step.y0
            first = next_one
        ys[end] = stepper.y
        begin = end
