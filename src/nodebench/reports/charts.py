"""Charts of gradients, and of trainings epoch by epoch. Where the records do not suffice for one, it says why."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal, TypeVar

from nodebench.reports.answers import unit
from nodebench.reports.comparison import base_task, fixed_step, grouped, label, line_key, line_setting
from nodebench.reports.document import Chart, Missing, interval, number
from nodebench.reports.series import Axis, Row, coincident, guide, lines, points, split_series
from nodebench.results.record import Record
from nodebench.stats import MIN_POINTS, fit_power_law

T = TypeVar("T")
Bounds = tuple[float | None, float | None]

MAX_CHARTS = 3
"""Charts of one kind on one task; those of the settings with most points."""

MIN_PLACES = 2
"""Places of points below which a chart would say no more than a table."""

TOOLTIP = {"series": "backend", "setting": "setting"}
EPOCH_TOOLTIP = {"series": "model", "epoch": "epoch"}


@dataclass(frozen=True)
class Figure:
    """A figure of a record, as a chart shows it.

    Attributes:
        name: What it is called in titles.
        axis: Its axis.
        value: Its value in the unit of the axis, or None.
        bounds: Its 95 % interval in that unit, or None.
    """

    name: str
    axis: Axis
    value: Callable[[Record], float | None]
    bounds: Callable[[Record], Bounds] = lambda _: (None, None)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


ERROR = Figure("gradient error", Axis("relative error of d/dparams", log=True), lambda r: r.grad_error_params)
TIME = Figure(
    "time",
    Axis("time of a gradient step, ms", log=True),
    lambda r: _scaled(r.step_s, 1e3),
    lambda r: (_scaled(r.step_s_low, 1e3), _scaled(r.step_s_high, 1e3)),
)
MEMORY = Figure("memory", Axis("peak memory, MiB", log=True), lambda r: _scaled(r.peak_memory_bytes, 2**-20))
NFE = Figure(
    "NFE",
    Axis("evaluations, forward and backward", log=True),
    lambda r: None if r.nfe_forward is None else r.nfe_forward + (r.nfe_backward or 0),
)
STEPS = Figure("steps", Axis("accepted steps", log=True), lambda r: r.n_accepted)


def work_precision(records: Sequence[Record]) -> list[Chart | Missing]:
    """Gradient error against time, evaluations and memory, a line per backend over the tolerances that were run.

    Args:
        records: Records of one task, one per cell, with times of one machine.
    """
    reason = (
        "it needs at least two tolerances of one backend on one machine; "
        "run with `--rtol 1e-3,1e-5,1e-7`, or a fixed-step solver with other `--first-step`"
    )
    return [
        chart
        for cost in (TIME, NFE, MEMORY)
        for chart in against(records, cost, ERROR, f"work-precision diagram, error against {cost.name}: {reason}.")
    ]


def growth(records: Sequence[Record]) -> list[Chart | Missing]:
    """Memory and time against accepted steps, with the fitted exponents in the caption.

    Args:
        records: Records of one task, one per cell, with times of one machine.
    """
    reason = "it needs two different numbers of steps of one backend; run `nodebench scale --over steps`"
    return [
        chart
        for cost in (MEMORY, TIME)
        for chart in against(records, STEPS, cost, f"{cost.name} against steps: {reason}.", fitted=True)
    ]


def backward_evaluations(records: Sequence[Record], name_of: Callable[[Record], str] = label) -> list[Chart | Missing]:
    """Evaluations of the backward pass against those of the forward solve, all solvers, beside lines of 1:1 and 1:2.

    Args:
        records: Records of one task, one per cell.
        name_of: What the points of a record are called.
    """
    counted = [record for record in _ok(records) if record.nfe_forward and record.nfe_backward is not None]
    evaluated = [record for record in counted if record.nfe_backward]
    rows: list[Row] = [{**_row(r, r.nfe_forward, r.nfe_backward), "series": name_of(r)} for r in evaluated]
    without = sorted({name_of(record) for record in counted if not record.nfe_backward})
    note = (
        f" Without evaluations in the backward pass: {', '.join(f'`{name}`' for name in without)}." if without else ""
    )
    if not rows:
        return [
            Missing("evaluations backward against forward", f"no cell evaluates the field in its backward pass.{note}")
        ]
    if len({row["x"] for row in rows}) < MIN_PLACES:
        reason = f"all forward solves that it belongs to take the same number, and the table has the others.{note}"
        return [Missing("evaluations backward against forward", reason)]
    x, y = (Axis(f"evaluations of the {which}", log=True) for which in ("forward solve", "backward pass"))
    ends = (min(row["x"] for row in rows), max(row["x"] for row in rows) * 1.001)
    x = x.spanning(ends)
    y = y.spanning([*(row["y"] for row in rows), *ends, 0.5 * ends[0]])
    guides = [guide(x, y, [(at, at * slope) for at in ends], text) for slope, text in ((1.0, "1:1"), (0.5, "1:2"))]
    caption = (
        f"Evaluations of the field in the backward pass against those of the forward solve, "
        f"`{base_task(counted[0])}`, all solvers and tolerances; the grey lines are as many, and half as many.{note}"
    )
    return [
        Chart(name, caption, points(part, x, y, "Evaluations backward against forward", TOOLTIP, guides))
        for name, part in _named(f"{base_task(counted[0])}-backward-evaluations", split_series(rows))
    ]


def against(
    records: Sequence[Record],
    x: Figure,
    y: Figure,
    missing: str,
    *,
    fitted: bool = False,
    key: Callable[[Record], Hashable] = line_key,
) -> list[Chart | Missing]:
    """Charts of one figure against another, a line per backend, one for each setting.

    Args:
        records: Records of one task.
        x: The figure of the horizontal axis.
        y: That of the vertical one.
        missing: What is missing where there is nothing to draw, and why, with a colon between; empty for no word of it.
        fitted: Whether laws are fitted along x, and told in the caption.
        key: What the points of one chart have in common.
    """
    complete = [r for r in _ok(records) if (x.value(r) or 0) > 0 and (y.value(r) or 0) > 0]
    title = f"{y.name[0].upper()}{y.name[1:]} against {x.name}"
    place: Callable[[Record], object] = x.value if fitted else lambda record: record.cell_id
    groups = [
        group
        for group in grouped(complete, key)
        if any(len({place(record) for record in members}) > 1 for members in grouped(group, label))
        and len({(x.value(record), y.value(record)) for record in group}) >= MIN_PLACES
    ]
    if not groups and not missing:
        return []
    if not groups:
        what, _, reason = missing.partition(": ")
        return [Missing(what, reason)]
    drawn: list[tuple[Sequence[Record], list[Row]]] = [
        (group, part)
        for group in sorted(groups, key=len, reverse=True)[:MAX_CHARTS]
        for part in split_series([_row(r, x.value(r), y.value(r), x=x.bounds(r), y=y.bounds(r)) for r in group])
    ]
    stem = f"{base_task(complete[0])}-{y.name}-against-{x.name}".replace(" ", "-")
    bars = " Bars are 95 % intervals." if TIME in (x, y) else ""
    charts: list[Chart | Missing] = []
    for name, (group, part) in _named(stem, drawn):
        laws = _exponents(group, x, y) if fitted else ""
        caption = f"{title}: {line_setting(group[0])}.{laws}{bars}{_hidden(part)}"
        charts.append(Chart(name, caption, lines(part, x.axis, y.axis, title, TOOLTIP)))
    if len(groups) > MAX_CHARTS:
        n = len(groups) - MAX_CHARTS
        what = f"{title} of {n} further setting{'s' if n > 1 else ''}"
        reason = f"only the {MAX_CHARTS} with most points are drawn; a report of single runs shows the others."
        charts.append(Missing(what, reason))
    return charts


def _exponents(group: Sequence[Record], x: Figure, y: Figure) -> str:
    texts = []
    for members in grouped(group, label):
        law = fit_power_law([x.value(r) or 0 for r in members], [y.value(r) or 0 for r in members])
        few = f"fewer than {MIN_POINTS} points"
        exponent = few if law is None else f"{number(law.exponent)} ({interval(law.low, law.high)})"
        texts.append(f"`{label(members[0])}` {exponent}")
    return f" Exponents with 95 % intervals: {', '.join(texts)}."


def _hidden(rows: Sequence[Row]) -> str:
    """Which lines lie on each other, as the end of a caption."""
    text = "; ".join(", ".join(f"`{label}`" for label in labels) for labels in coincident(rows))
    return f" On each other lie {text}." if text else ""


def _row(record: Record, at: float | None, value: float | None, **bounds: Bounds) -> Row:
    # Those of an adaptive solver follow the tolerance, those of another its steps.
    order = record.n_accepted or record.nfe_forward or -(record.rtol or 0)
    setting = f"{record.solver}, rtol {number(record.rtol)}, first step {number(record.first_step)}"
    row = {"series": label(record), "x": at, "y": value, "order": order, "setting": setting}
    for axis, (low, high) in bounds.items():
        row |= {name: end for name, end in ((f"{axis}_low", low), (f"{axis}_high", high)) if end is not None}
    return row


def _ok(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.status == "ok" and record.backend is not None]


def _named(stem: str, parts: Sequence[T]) -> list[tuple[str, T]]:
    """Parts with a name each: the stem, and from the second on its number."""
    return [(stem if at == 1 else f"{stem}-{at}", part) for at, part in enumerate(parts, start=1)]


@dataclass(frozen=True)
class Course:
    """A figure over the course of a training.

    Attributes:
        name: Part of the chart's name.
        title: Title of the chart.
        x: Field of an epoch: `epoch`, or `train_s` for the training time.
        y: Field of an epoch.
        axis: Title of the vertical axis; empty for that of the record's metric.
        missing: What there must be for such a chart.
        of: What a record has an entry of for each epoch.
        log: Whether the vertical axis is logarithmic, and so has no place for what is not positive.
    """

    name: str
    title: str
    x: Literal["epoch", "train_s"]
    y: str
    axis: str
    missing: str
    of: Literal["history", "tracked_errors"] = "history"
    log: bool = False


X_AXES = {"epoch": Axis("epoch", whole=True), "train_s": Axis("training time, s")}
DATA = attrgetter("task", "dataset", "preset", "batch_size", "device", "threads", "metric_name", "metric_unit")
SOLVED = attrgetter("model", "solver", "controller", "rtol", "atol", "max_steps", "dtype", "horizon")
"""What the trainings of one chart have in common, and beside the step those that solve an ODE."""

STEP, LOSS = "evaluations of a step", "mean training loss of an epoch"
TRAIN = "run with `--measure training` or `both`"
ODE_MODEL, MODEL = (f"it needs two epochs of a trained {which}; {TRAIN}" for which in ("ODE model", "model"))

COURSES = (
    Course("nfe-forward", "Evaluations of the forward solve by epoch", "epoch", "nfe_forward", STEP, ODE_MODEL),
    Course("nfe-backward", "Evaluations of the backward pass by epoch", "epoch", "nfe_backward", STEP, ODE_MODEL),
    Course("validation-against-time", "Validation against training time", "train_s", "validation", "", MODEL),
    Course("loss-against-time", "Training loss against training time", "train_s", "train_loss", LOSS, MODEL),
)

TRACKED = Course(
    "gradient-error-by-epoch",
    "Gradient error along the training",
    "epoch",
    "grad_error_params",
    ERROR.axis.title,
    "it needs two moments of a training at which the error is stated; the table says why it is not",
    of="tracked_errors",
    log=True,
)


def courses(records: Sequence[Record]) -> list[Chart | Missing]:
    """Evaluations by epoch, and what was reached against training time.

    Args:
        records: Records of one task, one per cell, with times of one machine.
    """
    groups = _trained_groups([record for record in records if record.status == "ok" and record.history])
    return [chart for course in COURSES for chart in _course_charts(groups, course)]


def tracked(records: Sequence[Record]) -> list[Chart | Missing]:
    """The gradient's error at moments of trainings, also of those that failed; nothing where none was tracked.

    Args:
        records: Records of one task, one per cell.
    """
    found = [record for record in records if record.tracked_errors]
    # A training that failed knows neither its metric nor its data set, and belongs to the others all the same.
    data = {record.dataset for record in found if record.dataset is not None}
    known = data.pop() if len(data) == 1 else None
    alike = [replace(r, dataset=r.dataset or known, metric_name=None, metric_unit=None) for r in found]
    return _course_charts(_trained_groups(alike), TRACKED) if found else []


def _course_charts(trained: Sequence[Sequence[Record]], course: Course) -> list[Chart | Missing]:
    known = [(group, _epochs(group, course)) for group in trained]
    groups = [(group, rows) for group, rows in known if len({(row["x"], row["y"]) for row in rows}) >= MIN_PLACES]
    if not groups:
        return [Missing(course.title, f"{course.missing}.")]
    drawn = [(group, part) for group, rows in groups[:MAX_CHARTS] for part in split_series(rows)]
    charts: list[Chart | Missing] = []
    for name, (group, part) in _named(f"{base_task(trained[0][0])}-{course.name}", drawn):
        first = group[0]
        solver = "" if first.backend is None else f", {first.model} by {first.solver} at rtol {number(first.rtol)}"
        data = "" if first.dataset is None else f" on {first.dataset}"
        setting = f"`{first.task}`{data}{solver}, preset {first.preset}, seed {first.seed}"
        metric = f"{first.metric_name or 'metric'} on validation data"
        y = Axis(course.axis or ", ".join(filter(None, (metric, unit(first)))), log=course.log)
        chart = lines(part, X_AXES[course.x], y, course.title, EPOCH_TOOLTIP)
        charts.append(Chart(name, f"{course.title}: {setting}.{_hidden(part)}", chart))
    if len(groups) > MAX_CHARTS:
        reason = f"only {MAX_CHARTS} are drawn; a report of single runs shows the others."
        charts.append(Missing(f"{course.title} of {len(groups) - MAX_CHARTS} more", reason))
    return charts


def _trained_groups(trained: Sequence[Record]) -> list[list[Record]]:
    """Trainings that one chart may show: the lowest seed, and one ODE model and solver, beside the other models."""
    groups = []
    for same in grouped(trained, DATA):
        seed = min(record.seed for record in same)
        plain = [record for record in same if record.seed == seed and record.backend is None]
        solved = [record for record in same if record.seed == seed and record.backend is not None]
        by_solver = grouped(solved, lambda record: (*SOLVED(record), fixed_step(record)))
        groups.extend([[*part, *plain] for part in by_solver] or [plain])
    return groups


def _epochs(group: Sequence[Record], course: Course) -> list[Row]:
    return [
        {"series": label(record), "x": at, "y": value, "order": at, "epoch": epoch["epoch"]}
        for record in group
        for epoch in getattr(record, course.of)
        if (at := epoch.get(course.x)) is not None and (value := epoch.get(course.y)) is not None
        if value > 0 or not course.log
    ]
