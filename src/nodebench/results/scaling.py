"""How memory, evaluations and time grow: measured exponents beside those that theory states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nodebench.backends.solvers import method
from nodebench.results.record import Record
from nodebench.stats import MIN_POINTS, PowerLaw, fit_power_law

Axis = Literal["steps", "tolerance", "batch", "horizon"]
"""What is varied: fixed steps over the time span, the relative and absolute tolerance, the batch, or the time span."""

ScaledQuantity = Literal["memory", "saved", "nfe", "time"]


@dataclass(frozen=True)
class Scaling:
    """How one quantity of one backend grows along an axis.

    Attributes:
        task: The task.
        backend: The backend.
        axis: What was varied.
        quantity: `memory` (peak bytes), `saved` (bytes kept for the backward pass), `nfe` (evaluations, forward and
            backward) or `time` (of a gradient step).
        law: What was measured; None with fewer than three points.
        theory: The exponent that theory states, or None where it states none.
        reason: Why there is no law, or None.
    """

    task: str
    backend: str
    axis: Axis
    quantity: ScaledQuantity
    law: PowerLaw | None
    theory: float | None
    reason: str | None = None


def scalings(records: Sequence[Record], axis: Axis) -> list[Scaling]:
    """Fit what was measured along an axis, one power law per task, backend and quantity.

    Args:
        records: Records of cells that differ in nothing but backend and place; those that did not end well, or were not
            asked this, are left out. Evaluations and bytes may come from several machines, times must be of one.
        axis: The axis.
    """
    lines: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        lines.setdefault((f"{record.task}/{record.model}", str(record.backend)), []).append(record)
    return [
        _scaling((task, backend), axis, quantity, line)
        for (task, backend), line in lines.items()
        for quantity in get_args(ScaledQuantity)
    ]


def _scaling(name: tuple[str, str], axis: Axis, quantity: ScaledQuantity, line: Sequence[Record]) -> Scaling:
    points = [
        (place, value)
        for record in line
        if record.status == "ok"
        and (place := _place(axis, record)) is not None
        and (value := _value(quantity, record)) is not None
    ]
    law = fit_power_law(*zip(*points, strict=True)) if points else None
    reason = f"{len(points)} of {len(line)} points have this figure, fewer than {MIN_POINTS} differ"
    measured = next((record for record in line if record.status == "ok"), line[0])
    stated = theory(axis, quantity, measured)
    return Scaling(*name, axis, quantity, law, stated, None if law else reason)


def _place(axis: Axis, record: Record) -> float | None:
    # A solver that lands on many output times takes more steps than it was told.
    places = {
        "steps": record.n_accepted,
        "tolerance": record.rtol,
        "batch": record.batch_size,
        "horizon": record.horizon,
    }
    return places[axis]


def _value(quantity: ScaledQuantity, record: Record) -> float | None:
    if quantity == "nfe":
        return None if record.nfe_forward is None else record.nfe_forward + (record.nfe_backward or 0)
    return {"memory": record.peak_memory_bytes, "saved": record.saved_bytes, "time": record.step_s}[quantity]


def theory(axis: Axis, quantity: ScaledQuantity, record: Record) -> float | None:
    """The exponent that theory states, or None where it states none.

    Memory goes with n^p in the number n of steps, p being the record's `memory_exponent`; evaluations and time go with
    n. An adaptive solver of order q controls an error of h^q per step, h being the step, so that n goes with
    tolerance^(-1/q); one that changes its order has no q. Over the batch memory and time go with its size, once
    arithmetic outweighs what each call costs; over the horizon n goes with the time span, as long as the dynamics does
    not change its pace.
    """
    if axis == "batch":
        return 0.0 if quantity == "nfe" else 1.0
    in_steps = record.memory_exponent if quantity in ("memory", "saved") else 1.0
    if in_steps is None or record.solver is None:
        return None
    if axis != "tolerance" or in_steps == 0:
        return in_steps
    order = method(record.solver).order
    return None if order is None else -in_steps / order
