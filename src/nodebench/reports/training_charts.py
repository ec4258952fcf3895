"""Charts of trainings, epoch by epoch. Where the records do not suffice for one, it says why."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from nodebench.reports.charts import MAX_CHARTS, hidden, named
from nodebench.reports.comparison import base_task, fixed_step, grouped, label
from nodebench.reports.document import Chart, Missing
from nodebench.reports.formatting import number
from nodebench.reports.series import Axis, Row, lines, split_series
from nodebench.results.record import Record

Epoch = Mapping[str, float | None]

TOOLTIP = {"series": "model", "epoch": "epoch"}


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
            f"nfe-{way}", f"Evaluations of the {what} by epoch", EPOCH, _of("epoch"), _named("evaluations of a step"),
            _of(f"nfe_{way}"), UNCOUNTED,
        )
        for way, what in (("forward", "forward solve"), ("backward", "backward pass"))
    ]  # fmt: skip
    by_time = [
        Course(key, f"{what} against training time", TRAINING_TIME, _of("train_s"), axis, _of(figure), UNTRAINED)
        for key, what, axis, figure in (
            ("validation-against-time", "Validation", _metric, "validation"),
            ("loss-against-time", "Training loss", _named("mean training loss of an epoch"), "train_loss"),
        )
    ]
    return [
        *(chart for course in (*by_epoch, *by_time) for chart in _charts(_groups(trained), course)),
    ]


def _named(title: str) -> Callable[[Record], Axis]:
    return lambda _: Axis(title)


def _metric(record: Record) -> Axis:
    unit = "" if record.metric_unit in (None, "", "1") else f", {record.metric_unit}"
    return Axis(f"{record.metric_name or 'metric'} on validation data{unit}")


def _of(figure: str) -> Callable[[Epoch], float | None]:
    return lambda epoch: epoch.get(figure)


def _charts(trained: Sequence[Sequence[Record]], course: Course) -> list[Chart | Missing]:
    groups = [(group, rows) for group in trained if (rows := _rows(group, course))]
    if not groups:
        return [Missing(course.title, course.missing)]
    stem = f"{base_task(trained[0][0])}-{course.name}"
    drawn = [(group, part) for group, rows in groups[:MAX_CHARTS] for part in split_series(rows)]
    charts: list[Chart | Missing] = [
        Chart(
            name,
            f"{course.title}: {_setting(group)}.{hidden(part)}",
            lines(part, course.x, course.y(group[0]), course.title, TOOLTIP),
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


def _rows(group: Sequence[Record], course: Course) -> list[Row]:
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
