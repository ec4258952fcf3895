"""Charts of gradients, and of trainings epoch by epoch. Where the records do not suffice for one, it says why."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nodebench.reports.comparison import base_task, fixed_step, grouped, label, line_key, line_setting
from nodebench.reports.document import Chart, Missing, interval, number
from nodebench.reports.series import Axis, Row, coincident, guide, lines, points, split_series
from nodebench.results.record import Record
from nodebench.stats import MIN_POINTS, fit_power_law

T = TypeVar("T")

MAX_CHARTS = 3
"""Charts of one kind on one task; those of the settings with most points."""

TOOLTIP = {"series": "backend", "setting": "setting"}


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
    bounds: Callable[[Record], tuple[float | None, float | None]] = lambda _: (None, None)


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
        for chart in _charts(records, cost, ERROR, f"work-precision diagram, error against {cost.name}: {reason}.")
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
        for chart in _charts(records, STEPS, cost, f"{cost.name} against steps: {reason}.", fitted=True)
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
    x, y = (Axis(f"evaluations of the {which}", log=True) for which in ("forward solve", "backward pass"))
    ends = (min(row["x"] for row in rows), max(row["x"] for row in rows) * 1.001)
    x = x.spanning(ends)
    y = y.spanning([*(row["y"] for row in rows), *ends, 0.5 * ends[0]])
    guides = [guide(x, y, [(at, at * slope) for at in ends], text) for slope, text in ((1.0, "1:1"), (0.5, "1:2"))]
    caption = (
        f"Evaluations of the field in the backward pass against those of the forward solve, {_task(counted)}, all "
        f"solvers and tolerances; the grey lines are as many, and half as many.{note}"
    )
    return [
        Chart(name, caption, points(part, x, y, "Evaluations backward against forward", TOOLTIP, guides))
        for name, part in named(f"{base_task(counted[0])}-backward-evaluations", split_series(rows))
    ]


def _charts(
    records: Sequence[Record],
    x: Figure,
    y: Figure,
    missing: str,
    *,
    fitted: bool = False,
) -> list[Chart | Missing]:
    complete = [r for r in _ok(records) if (x.value(r) or 0) > 0 and (y.value(r) or 0) > 0]
    title = f"{y.name[0].upper()}{y.name[1:]} against {x.name}"
    lines_of = grouped(complete, line_key)
    groups = [group for group in lines_of if _has_a_line(group, x.value if fitted else lambda r: r.cell_id)]
    if not groups:
        what, _, reason = missing.partition(": ")
        return [Missing(what, reason)]
    drawn: list[tuple[Sequence[Record], list[Row]]] = [
        (group, part)
        for group in sorted(groups, key=len, reverse=True)[:MAX_CHARTS]
        for part in split_series([_point(record, x, y) for record in group])
    ]
    stem = f"{base_task(complete[0])}-{y.name}-against-{x.name}".replace(" ", "-")
    charts: list[Chart | Missing] = [
        Chart(
            name,
            _caption(group, title, x, y, fitted=fitted) + hidden(part),
            lines(part, x.axis, y.axis, title, TOOLTIP),
        )
        for name, (group, part) in named(stem, drawn)
    ]
    if len(groups) > MAX_CHARTS:
        charts.append(_left_out(title, len(groups) - MAX_CHARTS))
    return charts


def _left_out(title: str, n: int) -> Missing:
    return Missing(
        f"{title} of {n} further setting{'s' if n > 1 else ''}",
        f"only the {MAX_CHARTS} with most points are drawn; a report of single runs shows the others.",
    )


def _caption(group: Sequence[Record], title: str, x: Figure, y: Figure, *, fitted: bool) -> str:
    bars = " Bars are 95 % intervals." if TIME in (x, y) else ""
    laws = _exponents(group, x, y) if fitted else ""
    return f"{title}: {line_setting(group[0])}.{laws}{bars}"


def _exponents(group: Sequence[Record], x: Figure, y: Figure) -> str:
    texts = []
    for members in grouped(group, label):
        law = fit_power_law([x.value(r) or 0 for r in members], [y.value(r) or 0 for r in members])
        texts.append(
            f"`{label(members[0])}` "
            + (
                f"fewer than {MIN_POINTS} points"
                if law is None
                else f"{number(law.exponent)} ({interval(law.low, law.high)})"
            )
        )
    return f" Exponents with 95 % intervals: {', '.join(texts)}."


def hidden(rows: Sequence[Row]) -> str:
    """Which lines lie on each other, as the end of a caption."""
    texts = ["; ".join(", ".join(f"`{label}`" for label in labels) for labels in coincident(rows))]
    return "".join(f" On each other lie {text}." for text in texts if text)


def _point(record: Record, x: Figure, y: Figure) -> Row:
    at, value = x.value(record), y.value(record)
    ends = dict(zip(("x_low", "x_high"), x.bounds(record), strict=True))
    ends |= dict(zip(("y_low", "y_high"), y.bounds(record), strict=True))
    return {**_row(record, at, value), **{name: end for name, end in ends.items() if end is not None}}


def _row(record: Record, x: float | None, y: float | None) -> Row:
    # Those of an adaptive solver follow the tolerance, those of another its steps.
    order = record.n_accepted or record.nfe_forward or -(record.rtol or 0)
    setting = f"{record.solver}, rtol {number(record.rtol)}, first step {number(record.first_step)}"
    return {"series": label(record), "x": x, "y": y, "order": order, "setting": setting}


def _ok(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.status == "ok" and record.backend is not None]


def _has_a_line(group: Sequence[Record], place: Callable[[Record], object]) -> bool:
    return any(len({place(record) for record in members}) > 1 for members in grouped(group, label))


def named(stem: str, parts: Sequence[T]) -> list[tuple[str, T]]:
    """Parts with a name each: the stem, and from the second on its number."""
    return [(stem if at == 1 else f"{stem}-{at}", part) for at, part in enumerate(parts, start=1)]


def _task(records: Sequence[Record]) -> str:
    return f"`{base_task(records[0])}`"


Epoch = Mapping[str, float | None]

EPOCH_TOOLTIP = {"series": "model", "epoch": "epoch"}


@dataclass(frozen=True)
class Course:
    """A figure over the course of a training.

    Attributes:
        name: Part of the chart's name.
        title: Title of the chart.
        x: The horizontal axis.
        x_of: Its value in an epoch.
        y: The vertical axis of a chart, by one of its records.
        y_of: Its value in an epoch.
        missing: Why there is no such chart where no training has the figures.
    """

    name: str
    title: str
    x: Axis
    x_of: Callable[[Epoch], float | None]
    y: Callable[[Record], Axis]
    y_of: Callable[[Epoch], float | None]
    missing: str


EPOCH = Axis("epoch", whole=True)
TRAINING_TIME = Axis("training time, s")
UNTRAINED = "it needs a trained model; run with `--measure training` or `both`."
UNCOUNTED = "it needs a trained ODE model; run with `--measure training` or `both`."


def courses(records: Sequence[Record]) -> list[Chart | Missing]:
    """Evaluations by epoch, and what was reached against training time.

    Args:
        records: Records of one task, one per cell, with times of one machine.
    """
    trained = [record for record in records if record.status == "ok" and record.history]
    by_epoch = [
        Course(
            f"nfe-{way}", f"Evaluations of the {what} by epoch", EPOCH, _of("epoch"), _titled("evaluations of a step"),
            _of(f"nfe_{way}"), UNCOUNTED,
        )
        for way, what in (("forward", "forward solve"), ("backward", "backward pass"))
    ]  # fmt: skip
    by_time = [
        Course(key, f"{what} against training time", TRAINING_TIME, _of("train_s"), axis, _of(figure), UNTRAINED)
        for key, what, axis, figure in (
            ("validation-against-time", "Validation", _metric, "validation"),
            ("loss-against-time", "Training loss", _titled("mean training loss of an epoch"), "train_loss"),
        )
    ]
    return [
        *(chart for course in (*by_epoch, *by_time) for chart in _course_charts(_groups(trained), course)),
    ]


def _titled(title: str) -> Callable[[Record], Axis]:
    return lambda _: Axis(title)


def _metric(record: Record) -> Axis:
    unit = "" if record.metric_unit in (None, "", "1") else f", {record.metric_unit}"
    return Axis(f"{record.metric_name or 'metric'} on validation data{unit}")


def _of(figure: str) -> Callable[[Epoch], float | None]:
    return lambda epoch: epoch.get(figure)


def _course_charts(trained: Sequence[Sequence[Record]], course: Course) -> list[Chart | Missing]:
    groups = [(group, rows) for group in trained if (rows := _epochs(group, course))]
    if not groups:
        return [Missing(course.title, course.missing)]
    stem = f"{base_task(trained[0][0])}-{course.name}"
    drawn = [(group, part) for group, rows in groups[:MAX_CHARTS] for part in split_series(rows)]
    charts: list[Chart | Missing] = [
        Chart(
            name,
            f"{course.title}: {_setting(group)}.{hidden(part)}",
            lines(part, course.x, course.y(group[0]), course.title, EPOCH_TOOLTIP),
        )
        for name, (group, part) in named(stem, drawn)
    ]
    if len(groups) > MAX_CHARTS:
        reason = f"only {MAX_CHARTS} are drawn; a report of single runs shows the others."
        charts.append(Missing(f"{course.title} of {len(groups) - MAX_CHARTS} more", reason))
    return charts


def _groups(trained: Sequence[Record]) -> list[list[Record]]:
    """Trainings that one chart may show: the lowest seed, and one ODE model and solver, beside the other models."""
    groups = []
    for same in grouped(trained, _data_and_metric):
        seed = min(record.seed for record in same)
        plain = [record for record in same if record.seed == seed and record.backend is None]
        solved = [record for record in same if record.seed == seed and record.backend is not None]
        by_solver = grouped(solved, _model_and_solver)
        groups.extend([[*part, *plain] for part in by_solver] or [plain])
    return groups


def _model_and_solver(record: Record) -> Hashable:
    return (
        record.model, record.solver, record.controller, record.rtol, record.atol, fixed_step(record), record.max_steps,
        record.dtype, record.horizon,
    )  # fmt: skip


def _data_and_metric(record: Record) -> Hashable:
    return (
        record.task, record.dataset, record.preset, record.batch_size, record.device, record.threads,
        record.metric_name, record.metric_unit,
    )  # fmt: skip


def _epochs(group: Sequence[Record], course: Course) -> list[Row]:
    rows: list[Row] = []
    for record in group:
        for epoch in record.history:
            at, value = course.x_of(epoch), course.y_of(epoch)
            if at is None or value is None:
                continue
            rows.append({"series": label(record), "x": at, "y": value, "order": at, "epoch": epoch["epoch"]})
    return rows


def _setting(group: Sequence[Record]) -> str:
    first = group[0]
    solver = "" if first.backend is None else f", {first.model} by {first.solver} at rtol {number(first.rtol)}"
    return f"`{first.task}` on {first.dataset}{solver}, preset {first.preset}, seed {first.seed}"
