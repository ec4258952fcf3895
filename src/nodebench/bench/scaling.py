"""The cells of a scaling measurement: one request at several places of an axis."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import get_args

from nodebench.backends.solvers import METHODS
from nodebench.bench.matrix import plan
from nodebench.bench.plan import Plan, joined
from nodebench.bench.request import Request
from nodebench.errors import UnknownNameError, UserError
from nodebench.results.scaling import Axis
from nodebench.stats import MIN_POINTS

VALUES: dict[Axis, tuple[float, ...]] = {
    "steps": (10, 20, 40, 80, 160),
    "tolerance": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    "batch": (8, 16, 32, 64, 128),
    "horizon": (1.0, 2.0, 4.0, 8.0),
}
"""Where each axis is measured unless told otherwise."""

FIXED_STEP_SOLVER = "rk4"


def scaling_plan(request: Request, axis: str, values: Sequence[float]) -> Plan:
    """Cells along an axis; those at one place of it are compared with each other.

    Args:
        request: What is measured, but for the axis.
        axis: One of `Axis`.
        values: Places along it; empty for `VALUES`.

    Raises:
        UserError: If axis, a value or the request is wrong, or fewer than three values are given.
    """
    if axis not in get_args(Axis):
        raise UnknownNameError("axis for --over", axis, get_args(Axis))
    places = tuple(dict.fromkeys(values or VALUES[axis]))  # type: ignore[index]  # checked above
    if len(places) < MIN_POINTS:
        raise UserError(f"`--values` must be at least {MIN_POINTS} different ones for an interval; got {len(places)}.")
    whole = axis in ("steps", "batch")
    for value in places:
        if not (value > 0 and isfinite(value)) or (whole and value != int(value)):
            raise UserError(f"`--values` must be positive{' whole' if whole else ''} numbers; got {value:g}.")
    return joined([_plan_at(replace(request, measure="gradient"), axis, value) for value in places])


def _plan_at(request: Request, axis: str, value: float) -> Plan:
    if axis == "tolerance":
        return plan(replace(request, rtols=(value,), atol=None))
    if axis == "batch":
        return plan(replace(request, batch_size=int(value)))
    if axis == "horizon":
        planned = plan(request)
        return replace(planned, cells=tuple(replace(cell, horizon=value) for cell in planned.cells))
    steps = int(value)
    solvers = request.solvers or (FIXED_STEP_SOLVER,)
    for solver in solvers:
        if solver in METHODS and METHODS[solver].adaptive:
            raise UserError(f"`--over steps` needs a solver of fixed steps; {solver} chooses its own.")
    # In proportion, since memory of some methods follows the limit; with room for steps that end on output times.
    limit = steps + steps // 2 + 5
    planned = plan(replace(request, solvers=solvers, max_steps=limit))
    fixed = (replace(cell, spec=replace(cell.spec, n_steps=steps, first_step=None)) for cell in planned.cells)
    return replace(planned, cells=tuple(fixed))
