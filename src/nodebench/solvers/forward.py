"""Solves without a graph: what every gradient method of ours does where no gradient is wanted."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nodebench.errors import UserError
from nodebench.frameworks.torch_field import impure_reason, parameters
from nodebench.problem import Field, SolverSpec, State, StepGrid
from nodebench.solvers.layout import Layout, layout, output_times
from nodebench.solvers.scheme import Scheme, rms_ratio
from nodebench.solvers.stepping import Dynamics, Stepper
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
        """Write the derivative at `y` into row `stage`.

        Raises:
            UserError: If the field changes its state in place, which would corrupt the solve, or returns other shapes.
        """
        version = y._version  # noqa: SLF001  torch's documented count of in-place changes has no public name
        result = self._field(t, self._layout.state(y))
        if y._version != version:  # noqa: SLF001
            raise UserError("the field changes its state in place; make its first operation one that does not.")
        for row, part in zip(self._rows[stage], self._layout.derivative(result), strict=True):
            row.copy_(part)


def plain_stepper(field: Field, shape: Layout, y: Tensor, times: Sequence[float], spec: SolverSpec) -> Stepper:
    """A stepper through the field itself, without a graph."""
    scheme = Scheme(tableau(spec.solver), y)
    dynamics = Dynamics(FieldRows(field, shape, scheme.rows), rms_ratio(scheme, spec))
    return Stepper(scheme, spec, dynamics, y, (times[0], times[-1]))


class Job(Protocol):
    """What every autograd function of ours is handed first; each adds its own options."""

    @property
    def field(self) -> Field:
        """The field."""

    @property
    def layout(self) -> Layout:
        """Layout of its state."""

    @property
    def spec(self) -> SolverSpec:
        """How it is solved."""


def solve_through(function: type[torch.autograd.Function], job: Job, y0: State, times: Tensor) -> State:
    """Solve by an autograd function of (job, flat y0, times, *params), or plainly where no gradient is wanted."""
    if not torch.is_grad_enabled():
        return solve_plain(job.field, y0, times, job.spec)
    ys: Tensor = function.apply(  # type: ignore[no-untyped-call]
        job, job.layout.flatten(y0), times, *parameters(job.field)
    )
    return job.layout.state(ys)


def solve_plain(field: Field, y0: State, times: Tensor, spec: SolverSpec) -> State:
    """Solve without a graph."""
    shape, marks = layout(y0), output_times(times)
    with torch.no_grad():
        y = shape.flatten(y0).detach()
        stepper = plain_stepper(field, shape, y, marks, spec)
        ys = y.new_empty(len(marks), y.numel())
        ys[0] = y
        for i, mark in enumerate(marks[1:], start=1):
            for _ in stepper.advance(mark):
                pass
            ys[i] = stepper.y
    return shape.state(ys)


def step_grid(field: Field, y0: State, times: Tensor, spec: SolverSpec) -> StepGrid:
    """The steps of a solve, from a solve of its own."""
    shape, marks = layout(y0), output_times(times)
    with torch.no_grad():
        stepper = plain_stepper(field, shape, shape.flatten(y0), marks, spec)
        ends = [step.end for mark in marks[1:] for step in stepper.advance(mark)]
    return StepGrid((marks[0], *ends), stepper.n_rejected)


def reason_unsupported(field: Field, spec: SolverSpec) -> str | None:
    """Why our own solver cannot solve this, in one sentence, or None."""
    if spec.solver not in TABLEAUS:
        return f"the solver `{spec.solver}` is none of ours: {', '.join(sorted(TABLEAUS))}."
    if not TABLEAUS[spec.solver].adaptive and spec.first_step is None:
        return f"`{spec.solver}` has no error estimate, so that it needs `first_step`."
    return impure_reason(field)
