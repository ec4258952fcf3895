"""Solves without a graph: what every gradient method of ours does where no gradient is wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nodebench.frameworks.torch_field import parameters
from nodebench.problem import Field, SolverSpec, State, StepGrid
from nodebench.solvers.layout import Layout, output_times
from nodebench.solvers.method import RungeKutta
from nodebench.solvers.passage import Leg, dense_output, passage
from nodebench.solvers.scheme import Scheme, rms_ratio
from nodebench.solvers.stepping import Stepper
from nodebench.solvers.tableau import TABLEAUS, tableau


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
class Job:
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


class PlainSolve:
    """A solve through the field itself, without a graph.

    Args:
        job: Field, layout and solver spec.
        y: Flat initial state.
        marks: Output times.

    Attributes:
        ys: States at the output times, filled in by `legs`, shape `(n_marks, n)`.
        scheme: Tableau and buffers.
        stepper: What takes the steps.
        dense: How states inside steps are interpolated, or None.
    """

    def __init__(self, job: Job, y: Tensor, marks: Sequence[float]) -> None:
        self.scheme = Scheme(tableau(job.spec.solver), y)
        method = RungeKutta(
            self.scheme, FieldRows(job.field, job.layout, self.scheme.rows), rms_ratio(self.scheme, job.spec)
        )
        self.stepper = Stepper(method, job.spec, y, (marks[0], marks[-1]), job.max_step)
        self.ys = y.new_empty(len(marks), y.numel())
        self.dense = dense_output(self.scheme.tableau, y, marks, land=job.land)
        self._marks = marks

    def legs(self) -> Iterator[tuple[Leg, Tensor]]:
        """Each step and the state it began at."""
        return passage(self.stepper, self._marks, self.ys, self.dense)


def solve_through(function: type[torch.autograd.Function], job: Job, y0: State, times: Tensor) -> State:
    """Solve by an autograd function of (job, flat y0, times, *params), or plainly where no gradient is wanted.

    Where the times are differentiated, every one of them is stepped onto.
    """
    if not torch.is_grad_enabled():
        return solve_plain(job, y0, times)
    if times.requires_grad:
        job = replace(job, land=True)
    ys: Tensor = function.apply(  # type: ignore[no-untyped-call]
        job, job.layout.flatten(y0), times, *parameters(job.field)
    )
    return job.layout.state(ys)


def solve_plain(job: Job, y0: State, times: Tensor) -> State:
    """Solve without a graph."""
    with torch.no_grad():
        solve = PlainSolve(job, job.layout.flatten(y0).detach(), output_times(times))
        for _ in solve.legs():
            pass
    return job.layout.state(solve.ys)


def step_grid(job: Job, y0: State, times: Tensor) -> StepGrid:
    """The steps of a solve, from a solve of its own."""
    marks = output_times(times)
    with torch.no_grad():
        solve = PlainSolve(job, job.layout.flatten(y0), marks)
        ends = [leg.span[1] for leg, _ in solve.legs()]
    return StepGrid((marks[0], *ends), solve.stepper.n_rejected)


def reason_unsupported(spec: SolverSpec) -> str | None:
    """Why our own solver cannot solve this, in one sentence, or None."""
    if spec.solver not in TABLEAUS:
        return f"the solver `{spec.solver}` is not one of ours: {', '.join(sorted(TABLEAUS))}."
    if not TABLEAUS[spec.solver].adaptive and spec.first_step is None:
        return f"`{spec.solver}` has no error estimate, so that it needs `first_step`."
    return None
