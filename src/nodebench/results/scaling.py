"""How memory, evaluations and time grow: measured exponents beside those that theory states."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal, get_args

from nodebench.backends.solvers import LibraryMethod, Multistep, Tableau, method
from nodebench.errors import Status, UserError
from nodebench.registry import describe, is_own, load_class, parse, spelled
from nodebench.results.quantities import KNOWN
from nodebench.results.record import Record
from nodebench.stats import MIN_POINTS, PowerLaw, fit_power_law

Axis = Literal["steps", "tolerance", "batch", "horizon", "stiffness", "parameters"]
"""What is varied: fixed steps over the time span, the relative and absolute tolerance, the batch, the time span, the
stiffness |λT| of a system, or the number of parameters."""

MEANING: Mapping[Axis, str] = {
    "steps": "accepted steps",
    "tolerance": "the tolerance",
    "batch": "the batch",
    "horizon": "the time span",
    "stiffness": "the stiffness |λT|",
    "parameters": "the number of parameters",
}

OF_TASK: tuple[Axis, ...] = ("horizon", "stiffness", "parameters")
"""Axes on which places may differ in an option of the task."""

ScaledQuantity = Literal["memory", "saved", "nfe", "time", "error"]

WENT_WRONG: tuple[Status, ...] = ("wrong_gradient", "diverged", "incomparable", "timeout", "oom", "failed")
"""How a cell ends from which on its method gives no gradient that is right; what is `unsupported` begins no line."""


@dataclass(frozen=True)
class Scaling:
    """How one quantity of one backend grows along an axis.

    Attributes:
        task: The task, and its model.
        backend: The backend.
        solver: The solver.
        axis: What was varied.
        quantity: `memory` (peak bytes), `saved` (bytes kept for the backward pass), `nfe` (evaluations, forward and
            backward), `time` (of a gradient step) or `error` (of d/dparams).
        law: What was measured; None with fewer than three points.
        theory: The exponent that theory states, or None where it states none.
        reason: Why there is no law, or None.
    """

    task: str
    backend: str
    solver: str
    axis: Axis
    quantity: ScaledQuantity
    law: PowerLaw | None
    theory: float | None
    reason: str | None = None


UNKNOWN = "unknown"
"""How a line ends where its cell is ok, but no reference knows the gradient."""


@dataclass(frozen=True)
class Limit:
    """How far along an axis the gradients of a backend are right.

    Attributes:
        task: The task, and its model.
        backend: The backend.
        solver: The solver.
        axis: What was varied.
        right: The last place at which its gradient is right; None where there is none.
        wrong: The first from which it is not, or not known to be; None where it is right at all that were measured.
        status: How the cell there ended, or `UNKNOWN`; empty where it is right at all.
        reason: Why, in a sentence or two; empty where it is right at all.
    """

    task: str
    backend: str
    solver: str
    axis: Axis
    right: float | None
    wrong: float | None = None
    status: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """It in a sentence."""
        who = f"`{self.backend}` with {self.solver} on `{self.task}`"
        if self.wrong is None:
            return f"{who}: right up to {_place_text(self.axis, self.right)}, the last that was measured."
        reached = "" if self.right is None else f", right up to {_place_text(self.axis, self.right)}"
        return f"{who}: {self.status} from {_place_text(self.axis, self.wrong)} on{reached}. {self.reason}"


def _place_text(axis: Axis, place: float | None) -> str:
    named = {"stiffness": "λT = -", "horizon": "a time span of ", "parameters": ""}
    return f"{named.get(axis, '')}{place:.4g}{' parameters' if axis == 'parameters' else ''}"


def without_varied(tasks: Iterable[str], axis: Axis) -> Mapping[str, str]:
    """What tasks are called without the option that varies them along an axis.

    Of a task of this package the option is the one that it names. Of another, whose code is not run for this, it is the
    one in which at least three of a kind differ, and nothing else.
    """
    kinds: dict[str, dict[str, Mapping[str, str]]] = {}
    for name in dict.fromkeys(tasks):
        base, options = parse(name)
        kinds.setdefault(base, {})[name] = options
    return {task: name for base, of in kinds.items() for task, name in _without(base, of, axis).items()}


def _without(base: str, tasks: Mapping[str, Mapping[str, str]], axis: Axis) -> Mapping[str, str]:
    def shorter(option: str) -> dict[str, str]:
        return {
            name: spelled(base, {key: value for key, value in options.items() if key != option})
            for name, options in tasks.items()
        }

    with suppress(UserError):
        if is_own("task", base):
            return shorter(load_class(describe("task", base).target).varied.get(axis, ""))
    each = [shorter(option) for option in dict.fromkeys(option for options in tasks.values() for option in options)]
    most = max(each, key=lambda names: max(Counter(names.values()).values()), default={})
    merged = Counter(most.values())
    return {name: most[name] if merged[most.get(name, "")] >= MIN_POINTS else name for name in tasks}


Line = tuple[Hashable, ...]
"""Task with its model, backend and solver, and all else that the records of a line have in common."""


def _lines(records: Sequence[Record], axis: Axis) -> dict[Line, list[Record]]:
    """Records by what they have in common but for their place on an axis; of an axis of tasks in its order.

    What has no place on an axis of tasks, since it failed before that was known, is in no line.
    """
    names = without_varied((record.task for record in records), axis) if axis in OF_TASK else {}
    found: dict[Line, list[Record]] = {}
    for record in records:
        if axis in OF_TASK and place_on(axis, record) is None:
            continue
        name = f"{names.get(record.task, record.task)}/{record.model}"
        tolerances = None if axis == "tolerance" else (record.rtol, record.atol)
        batch = None if axis == "batch" else record.batch_size
        settings = (record.dtype, record.device, record.threads, record.seed, record.preset)
        line = (name, str(record.backend), str(record.solver), tolerances, batch, *settings)
        found.setdefault(line, []).append(record)
    for members in found.values() if axis in OF_TASK else ():
        members.sort(key=lambda record: place_on(axis, record) or 0.0)
    return found


def right_records(records: Sequence[Record], axis: Axis) -> list[Record]:
    """The records of each line along an axis of tasks up to where its gradient ceases to be right, line by line."""
    return [record for line in _lines(records, axis).values() for record in _right_part(line)]


def _right_part(line: Sequence[Record]) -> list[Record]:
    """The beginning of a line, up to where its gradient goes wrong, or nobody knows it any more."""
    return list(takewhile(lambda record: record.status not in WENT_WRONG and not _unknown(record), line))


def _own_error(record: Record) -> float | None:
    return record.reference_error_params if record.n_params else record.reference_error_y0


def _judged(record: Record) -> bool:
    """Whether it was asked whether its gradient is right: where evaluations alone are counted, it is not."""
    return record.status != "ok" or record.grad_norm_y0 is not None or _own_error(record) is not None


def _unknown(record: Record) -> bool:
    """Whether a gradient was computed that no reference judges."""
    own = _own_error(record)
    return record.status == "ok" and _judged(record) and (own is None or not own <= KNOWN)


def _end(limit: Limit, axis: Axis, record: Record) -> Limit:
    """A limit with where and how its line ends."""
    if not _unknown(record):
        return replace(limit, wrong=place_on(axis, record), status=record.status, reason=record.reason or "")
    own, grown = _own_error(record), record.sensitivity_largest
    why = "There is no reference to judge it by." if own is None else (
        f"The reference's own error is {own:.2g}: two solves of it in float64 differ, so that no gradient means "
        f"anything there{'' if grown is None else f', where dy/dy0 has the singular value {grown:.2g}'}."
    )  # fmt: skip
    return replace(limit, wrong=place_on(axis, record), status=UNKNOWN, reason=why)


def limits(records: Sequence[Record], axis: Axis) -> list[Limit]:
    """How far along an axis of tasks each line is right; nothing of a line of fewer than three places.

    Args:
        records: As for `scalings`, with those that did not end well.
        axis: One of `OF_TASK`.
    """
    found = []
    judged = [record for record in records if _judged(record) and record.status != "unsupported"]
    for (task, backend, solver, *_), line in _lines(judged, axis).items():
        if len({place_on(axis, record) for record in line}) < MIN_POINTS:
            continue
        right = _right_part(line)
        limit = Limit(str(task), str(backend), str(solver), axis, place_on(axis, right[-1]) if right else None)
        found.append(limit if len(right) == len(line) else _end(limit, axis, line[len(right)]))
    return found


def scalings(records: Sequence[Record], axis: Axis) -> list[Scaling]:
    """Fit what was measured along an axis, one power law per task, backend, solver and quantity.

    Args:
        records: Records, of which those make a line that differ in nothing but their place; those that did not end
            well, or were not asked this, are left out. Evaluations and bytes may come from several machines, times
            must be of one.
        axis: The axis.
    """
    return [
        _scaling((str(task), str(backend), str(solver)), axis, quantity, line)
        for (task, backend, solver, *_), line in _lines(records, axis).items()
        for quantity in get_args(ScaledQuantity)
        # Over the tolerance charts have the error, and no law of it holds over the batch.
        if quantity != "error" or axis not in ("tolerance", "batch")
    ]


def _scaling(name: tuple[str, str, str], axis: Axis, quantity: ScaledQuantity, line: Sequence[Record]) -> Scaling:
    points = [
        (place, value)
        for record in (_right_part(line) if axis in OF_TASK else line)
        if record.status == "ok"
        and (place := place_on(axis, record) or 0.0) > 0
        and (value := _value(quantity, record)) is not None
    ]
    law = fit_power_law(*zip(*points, strict=True)) if points else None
    reason = f"{len(points)} of {len(line)} points have this figure, fewer than {MIN_POINTS} differ"
    measured = next((record for record in line if record.status == "ok"), line[0])
    stated = theory(axis, quantity, measured)
    return Scaling(*name, axis, quantity, law, stated, None if law else reason)


def place_on(axis: Axis, record: Record) -> float | None:
    """Where a record lies on an axis; None where that is not known."""
    # A solver that lands on many output times takes more steps than it was told.
    places = {
        "steps": record.n_accepted,
        "tolerance": record.rtol,
        "batch": record.batch_size,
        "horizon": record.time_span,
        "stiffness": None if record.stiffness is None else abs(record.stiffness),
        "parameters": record.n_params,
    }
    return places[axis]


def _value(quantity: ScaledQuantity, record: Record) -> float | None:
    if quantity == "nfe":
        return None if record.nfe_forward is None else record.nfe_forward + (record.nfe_backward or 0)
    return {
        "memory": record.peak_memory_bytes,
        "saved": record.saved_bytes,
        "time": record.step_s,
        "error": record.grad_error_params,
    }[quantity]


def theory(axis: Axis, quantity: ScaledQuantity, record: Record) -> float | None:
    """The exponent that theory states, or None where it states none.

    Memory goes with n^p in the number n of steps, p being the record's `memory_exponent`; evaluations and time go with
    n, and the error of a method of order q and fixed steps with n^-q. An adaptive solver of order q controls an error
    of h^q per step, h being the step, so that n goes with tolerance^(-1/q); one that changes its order has no q. Over
    the batch memory and time go with its size, once arithmetic outweighs what each call costs; over the horizon n goes
    with the time span, as long as the dynamics does not change its pace. Over the stiffness an explicit solver is held
    to steps of about 3 / |λ|, so that n goes with |λT|, where it chooses them; one that is stable whatever the step
    takes as many as before. The number of parameters changes no evaluation.
    """
    if axis == "batch":
        return {"nfe": 0.0, "error": None}.get(quantity, 1.0)
    if axis == "parameters":
        return 0.0 if quantity == "nfe" else None
    if record.solver is None:
        return None
    solver = method(record.solver)
    if quantity == "error":
        return -float(solver.order) if axis == "steps" and solver.order is not None else None
    in_steps = record.memory_exponent if quantity in ("memory", "saved") else 1.0
    steps = _exponent_of_steps(axis, solver)
    return 0.0 if in_steps == 0 else None if in_steps is None or steps is None else in_steps * steps


def _exponent_of_steps(axis: Axis, solver: Tableau | Multistep | LibraryMethod) -> float | None:
    """The exponent of the number of steps."""
    if axis == "tolerance":
        return None if solver.order is None else -1 / solver.order
    if axis != "stiffness":
        return 1.0
    if isinstance(solver, Multistep):  # which may turn to other formulas
        return None
    return 1.0 if isinstance(solver, Tableau) and solver.adaptive and not solver.implicit else 0.0
