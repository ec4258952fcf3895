"""A solve of our own Runge-Kutta solver, and what the gradient methods around it have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.base import AbstractBackend
from nodebench.backends.runge_kutta.dense_output import DenseOutput, dense_output, differences
from nodebench.backends.runge_kutta.implicit import DenseField, ImplicitRungeKutta, Visit, reason_too_large
from nodebench.backends.runge_kutta.steps import AbstractMethod, RungeKutta, Scheme, Stepper, rms_ratio
from nodebench.backends.solvers import OURS, tableau
from nodebench.frameworks.torch.field import Layout, output_times, parameters
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid


@dataclass(frozen=True, slots=True)
class Step:
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


def steps_through(
    stepper: Stepper, marks: Sequence[float], ys: Tensor, dense: DenseOutput | None
) -> Iterator[tuple[Step, Tensor]]:
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
        for accepted in stepper.advance(marks[end]):
            h, next_one = accepted.end - accepted.start, first
            while next_one < end and (marks[next_one] <= accepted.end) == forwards:
                next_one += 1
            thetas = tuple((mark - accepted.start) / h for mark in marks[first:next_one])
            step = Step((accepted.start, accepted.end), accepted.fractions, (begin, end), first, thetas)
            if dense is not None and thetas:
                ys[step.inside] = dense.states(accepted.y0, stepper.rows, h, thetas)
            yield step, accepted.y0
            first = next_one
        ys[end] = stepper.y
        begin = end


class FieldRows:
    """Evaluates a field without a graph.

    Args:
        field: The field.
        shape: Layout of its state.
        rows: Buffer that it writes.
    """

    def __init__(self, field: Field, shape: Layout, rows: Tensor) -> None:
        self._field, self._layout = field, shape
        self._rows = [shape.parts(row) for row in rows]

    def __call__(self, stage: int, t: float, y: Tensor) -> None:
        """Write the derivative at `y` into row `stage`."""
        parts = self._layout.evaluate(self._field, t, self._layout.parts(y))
        for row, part in zip(self._rows[stage], parts, strict=True):
            row.copy_(part)


@dataclass(frozen=True, kw_only=True)
class SolveSetup:
    """What every autograd function of ours is handed first; some add options of their own.

    Attributes:
        field: The field.
        layout: Layout of its state.
        spec: How it is solved.
        land: Whether every output time is stepped onto; else all but the last are interpolated to, where the method
            can.
        max_step: Longest step; None for no limit.
    """

    field: Field
    layout: Layout
    spec: SolverSpec
    land: bool = False
    max_step: float | None = None


@dataclass(frozen=True, kw_only=True)
class AdjointSetup(SolveSetup):
    """What is solved, and how the error of the backward solve is measured.

    Attributes:
        full: Whether the parameters' gradients count, each with a norm of its own; else state and adjoint alone.
        compile: Whether steps are compiled, forward and backward.
    """

    full: bool = True
    compile: bool = False


def own_method(setup: SolveSetup, scheme: Scheme, visit: Visit | None = None) -> AbstractMethod:
    """The method of a solve.

    Args:
        setup: Field, layout and solver spec.
        scheme: Tableau and buffers.
        visit: Evaluates an explicit method's stages in place of the field alone; told of those of an implicit one.
    """
    ratio = rms_ratio(scheme, setup.spec)
    if scheme.tableau.implicit:
        return ImplicitRungeKutta(scheme, DenseField(setup.field, setup.layout), ratio, setup.spec, visit)
    return RungeKutta(scheme, visit or FieldRows(setup.field, setup.layout, scheme.rows), ratio)


class SteppedSolve:
    """A solve by some method from an initial state through all output times.

    Args:
        method: What a step is.
        setup: Field, layout and solver spec.
        y: Flat initial state.
        marks: Output times.

    Attributes:
        ys: States at the output times, filled in by `steps`, shape `(n_marks, n)`.
        method: What a step is.
        stepper: What takes the steps.
        dense: How states inside steps are interpolated, or None.
    """

    def __init__(self, method: AbstractMethod, setup: SolveSetup, y: Tensor, marks: Sequence[float]) -> None:
        self.method = method
        self.stepper = method.stepper(setup.spec, y, (marks[0], marks[-1]), setup.max_step)
        self.ys = y.new_empty(len(marks), y.numel())
        self.dense = dense_output(method.tableau, y, marks, land=setup.land)
        self._marks = marks

    def steps(self) -> Iterator[tuple[Step, Tensor]]:
        """Each step and the state it began at."""
        return steps_through(self.stepper, self._marks, self.ys, self.dense)


class PlainSolve(SteppedSolve):
    """A solve through the field itself, without a graph.

    Args:
        setup: Field, layout and solver spec.
        y: Flat initial state.
        marks: Output times.

    Attributes:
        scheme: Tableau and buffers.
    """

    def __init__(self, setup: SolveSetup, y: Tensor, marks: Sequence[float]) -> None:
        self.scheme = Scheme(tableau(setup.spec.solver), y)
        super().__init__(own_method(setup, self.scheme), setup, y, marks)


def solve_through(function: type[torch.autograd.Function], setup: SolveSetup, y0: State, times: Tensor) -> State:
    """Solve by an autograd function of (setup, flat y0, times, *params), or plainly where no gradient is wanted.

    Where the times are differentiated, every one of them is stepped onto.
    """
    if not torch.is_grad_enabled():
        return solve_plain(setup, y0, times)
    if times.requires_grad:
        setup = replace(setup, land=True)
    ys: Tensor = function.apply(  # type: ignore[no-untyped-call]
        setup, setup.layout.flatten(y0), times, *parameters(setup.field)
    )
    return setup.layout.state(ys)


def solve_plain(setup: SolveSetup, y0: State, times: Tensor) -> State:
    """Solve without a graph."""
    with torch.no_grad():
        solve = PlainSolve(setup, setup.layout.flatten(y0).detach(), output_times(times))
        for _ in solve.steps():
            pass
    return setup.layout.state(solve.ys)


def step_grid(setup: SolveSetup, y0: State, times: Tensor) -> StepGrid:
    """The steps of a solve, from a solve of its own."""
    marks = output_times(times)
    with torch.no_grad():
        solve = PlainSolve(setup, setup.layout.flatten(y0), marks)
        ends = [step.span[1] for step, _ in solve.steps()]
    method = solve.method
    solved = (method.n_jacobians, method.n_factorisations) if isinstance(method, ImplicitRungeKutta) else (None, None)
    return StepGrid((marks[0], *ends), solve.stepper.n_rejected, *solved)


def reason_unsupported(spec: SolverSpec) -> str | None:
    """Why our own solver cannot solve this, in one sentence, or None."""
    if spec.solver not in OURS:
        return f"the solver `{spec.solver}` is not one of ours: {', '.join(sorted(OURS))}."
    if not OURS[spec.solver].adaptive and spec.first_step is None:
        return f"`{spec.solver}` has no error estimate, so that it needs `first_step`."
    return None


class AbstractRungeKutta(AbstractBackend):
    """A gradient method of our own solver in torch, which takes the forward steps of `direct`.

    Attributes:
        land: Whether every output time is stepped onto; an option of each final subclass.
    """

    land: bool

    @abstractmethod
    def setup(self, field: Field, y0: State, spec: SolverSpec) -> SolveSetup:
        """What is solved, with this backend's options."""

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        return reason_unsupported(spec) or reason_too_large(problem.y0, spec)

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        return differences(spec, land=self.land)

    @property
    @override
    def exact_counterpart(self) -> str | None:
        return "direct[land=true]" if self.land else "direct"

    @override
    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        return step_grid(self.setup(field, y0, spec), y0, times)


class AbstractAdjointEquation(ABC):
    """The adjoint equation as something to take steps of, and the quadrature of the parameters' gradient."""

    @property
    @abstractmethod
    def method(self) -> AbstractMethod:
        """What takes the steps of [y, a], or of a alone where the state follows a path."""

    @abstractmethod
    def accept(self, h: float) -> None:
        """Add the share of an accepted step of length `h`, while its buffers are as it left them."""

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """The gradient with respect to each parameter so far."""
