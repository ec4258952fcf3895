"""Tables of a page: the figures of records with their units, their intervals and the reasons for holes."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nodebench.reports.comparison import Comparison
from nodebench.reports.document import Column, Entry, Table
from nodebench.reports.formatting import ABSENT, count, interval, mebibytes, milliseconds, number
from nodebench.reports.machines import OTHER_MACHINE, several_nodes
from nodebench.reports.sentences import reason, unit
from nodebench.reports.summary import fastest
from nodebench.results.record import Record


@dataclass(frozen=True)
class Figure:
    """A column of a table of records.

    Attributes:
        column: The column.
        value: What it is sorted by; an interval by its lower end.
        text: How a value is printed.
        ranked: What is marked as the best: `all` for the lowest among cells that ended well, `timed` for the fastest of
            those that were timed together and all that are not told from it.
        hole: Why it is missing, of a cell that ended well.
        optional: Whether the column is left out where no cell has it.
    """

    column: Column
    value: Callable[[Record], float | str | tuple[float, float] | None]
    text: Callable[[Any], str] = str
    ranked: str = ""
    hole: Callable[[Record], str | None] = lambda _: None
    optional: bool = False

    def entry(self, record: Record) -> Entry:
        """What stands in the row of a record."""
        value = self.value(record)
        if isinstance(value, tuple):
            return Entry(interval(*value), value[0])
        if value is not None:
            return Entry(self.text(value), value)
        ended_well = record.status == "ok"
        return Entry(ABSENT, reason=self.hole(record) if ended_well else f"`{record.status}`: {reason(record)}")


def comparison_table(name: str, comparison: Comparison) -> Table:
    """All figures of a comparison, a row for each backend; the best among the ranked cells are marked."""
    together = {record.cell_id for record in comparison.timed}
    elsewhere = {record.cell_id for record in comparison.timed_elsewhere}
    first = fastest(comparison.timed)
    ranked = {
        "all": {record.cell_id for record in comparison.ranked},
        "timed": {record.cell_id for record in (first.record, *first.undistinguished)} if first else set(),
        "": set(),
    }
    several = len({record.run_id for record in comparison.records}) > 1
    shown = _shown(with_node([*COMPARED, RUN] if several else COMPARED, comparison.records), comparison.records)
    columns = [_marked(each, comparison.records, ranked[each.ranked]) for each in shown]
    at = shown.index(VERDICT)
    if len(together) > 1:
        columns[at] = [
            _text(f"timed {comparison.where_else(record)}") if record.cell_id in elsewhere else entry
            for record, entry in zip(comparison.records, columns[at], strict=True)
        ]
    rows = tuple(zip(*columns, strict=True))
    return Table(name, f"One gradient step: {comparison.setting}.", tuple(each.column for each in shown), rows)


def with_node(figures: Sequence[Figure], records: Sequence[Record]) -> list[Figure]:
    """Columns of a table of records, and that of the node where the records come from more than one."""
    return [*figures, NODE] if several_nodes(records) else list(figures)


def records_table(name: str, caption: str, figures: Sequence[Figure], records: Sequence[Record]) -> Table:
    """A table with a row for each record."""
    shown = _shown(figures, records)
    rows = tuple(tuple(each.entry(record) for each in shown) for record in records)
    return Table(name, caption, tuple(each.column for each in shown), rows)


def sweep_table(name: str, records: Sequence[Record]) -> Table:
    """The trained networks at other tolerances: a row for each network and tolerance."""
    columns = (
        Column("network", numeric=False),
        Column("rtol", "Relative and absolute tolerance alike."),
        Column("NFE forward", "Evaluations of one forward solve."),
        Column("solution error", "Relative distance of the states from those at a far smaller tolerance."),
        Column("solve ms", "Median time of a forward solve without gradients."),
    )
    where = with_node([], records)
    rows = tuple(
        (*_sweep_row(record, entry), *(each.entry(record) for each in where))
        for record in records
        for entry in record.tolerance_sweep
    )
    shown = (*columns, *(each.column for each in where))
    return Table(name, "Trained networks, solved at other tolerances.", shown, rows)


def settings_table(name: str, records: Iterable[Record], fields: Sequence[str]) -> Table:
    """Settings of every cell, out of `SETTINGS`."""
    records = list(records)
    texts = {field for field in fields if any(isinstance(getattr(record, field), str) for record in records)}
    columns = tuple(Column(field, numeric=field not in texts) for field in fields)
    rows = tuple(tuple(_text(getattr(record, field)) for field in fields) for record in records)
    return Table(name, "Settings of every cell.", columns, rows)


SETTINGS = (
    "cell_id", "run_id", "created_at", "task", "model", "dataset", "backend", "framework", "solver", "controller",
    "rtol", "atol", "first_step", "max_steps", "dtype", "device", "threads", "batch_size", "seed", "preset", "horizon",
    "attempt", "node", "nodebench_version",
)  # fmt: skip
"""Fields of a record that say what was measured, and where it is found."""


def _shown(figures: Sequence[Figure], records: Sequence[Record]) -> list[Figure]:
    return [each for each in figures if not each.optional or any(each.value(record) is not None for record in records)]


def _marked(figure: Figure, records: Sequence[Record], ranked: Collection[str]) -> list[Entry]:
    """Entries of a column with the best marked: of the lowest of at least two, all that print alike.

    None is where one that is ranked has no figure, which might be the lowest.
    """
    entries = [figure.entry(record) for record in records]
    pairs = list(zip(records, entries, strict=True))
    if figure.ranked == "timed":
        return [replace(entry, best=record.cell_id in ranked) for record, entry in pairs]
    values = [e.value for record, e in pairs if record.cell_id in ranked and isinstance(e.value, int | float)]
    if len(values) < max(2, sum(record.cell_id in ranked for record in records)):
        return entries
    best = figure.text(min(values))
    return [replace(e, best=record.cell_id in ranked and e.text == best) for record, e in pairs]


def _sweep_row(record: Record, entry: dict[str, Any]) -> tuple[Entry, ...]:
    why = None if entry["reason"] is None else str(entry["reason"])
    name = f"`{record.task}` {record.model}, `{record.backend}`, {record.solver}, seed {record.seed}"
    return (
        Entry(name, name),
        Entry(number(entry["rtol"]), entry["rtol"]),
        Entry(count(entry["nfe_forward"]), entry["nfe_forward"], why),
        Entry(number(entry["solution_error"], 2), entry["solution_error"], why),
        Entry(milliseconds(entry["forward_s"]), entry["forward_s"], why),
    )


def _text(value: Any) -> Entry:
    return Entry(ABSENT if value is None else str(value), value)


def _no_error(own: float | None) -> str:
    known = "" if own is None else f", which is known to {own:.1e}"
    return f"not stated: the error is not a hundred times that of the reference{known}."


def _untimed(record: Record) -> str | None:
    if record.verdict == OTHER_MACHINE:
        return "timed on another machine than that whose times are shown."
    return "measured without timing." if record.first_step_s is not None else "only trained, not timed."


def _no_ratio(record: Record) -> str | None:
    if record.verdict == OTHER_MACHINE:
        return _untimed(record)
    return "the control, or timed alone." if record.control is None else "too few starts for an interval."


def _untrained(_: Record) -> str | None:
    return "trained on another machine than that whose times are shown."


def _verdict(record: Record) -> str | None:
    control = "control" if record.control is None and record.step_s is not None else None
    return record.verdict or control


def _code(name: Any) -> str:
    return f"`{name}`"


def _ends(low: float | None, high: float | None, scale: float = 1.0) -> tuple[float, float] | None:
    return None if low is None or high is None else (scale * low, scale * high)


BACKEND = Figure(Column("backend", numeric=False), lambda r: r.backend, _code)
STATUS = Figure(Column("status", "How the cell ended.", numeric=False), lambda r: r.status)
RUN = Figure(Column("run", numeric=False), lambda r: r.run_id)
NODE = Figure(Column("node", "Machine that the cell was measured on.", numeric=False), lambda r: r.node)
VERDICT = Figure(
    Column("verdict", "Against the control: `undecided` where the interval of the ratio holds 1.", numeric=False),
    _verdict,
)
MODEL = Figure(Column("model", numeric=False), lambda r: r.model)
PARAMETERS = Figure(Column("parameters", "Trainable parameters of the model."), lambda r: r.n_params)

COMPARED = (
    BACKEND,
    STATUS,
    VERDICT,
    Figure(
        Column("error d/dparams", "Relative L2 distance from the reference gradient of the parameters."),
        lambda r: r.grad_error_params,
        lambda value: number(value, 2),
        "all",
        lambda r: _no_error(r.reference_error_params),
    ),
    Figure(
        Column("error d/dy0", "The same of the gradient with respect to the initial state."),
        lambda r: r.grad_error_y0,
        lambda value: number(value, 2),
        "all",
        lambda r: _no_error(r.reference_error_y0),
    ),
    Figure(Column("NFE forward", "Evaluations of the field in the forward solve."), lambda r: r.nfe_forward),
    Figure(Column("NFE backward", "Evaluations of the field in the backward pass."), lambda r: r.nfe_backward),
    Figure(Column("VJPs", "Vector-Jacobian products of the field."), lambda r: r.n_vjps),
    Figure(
        Column("peak MiB", "Peak memory of one gradient step above the idle process."),
        lambda r: r.peak_memory_bytes,
        mebibytes,
        "all",
    ),
    Figure(
        Column("step ms", "Time of a gradient step; marked are the fastest and those that are not told from it."),
        lambda r: r.step_s,
        milliseconds,
        "timed",
        _untimed,
    ),
    Figure(Column("95 % ms", "Interval of the time."), lambda r: _ends(r.step_s_low, r.step_s_high, 1000)),
    Figure(Column("ratio", "Time relative to that of the control."), lambda r: r.ratio, number, hole=_no_ratio),
    Figure(Column("95 % ratio", "Interval of the ratio."), lambda r: _ends(r.ratio_low, r.ratio_high)),
    Figure(
        Column("first step s", "The first gradient step, compilation and warm-up included."),
        lambda r: r.first_step_s,
        number,
    ),
    Figure(Column("compile s", "What compilation costs."), lambda r: r.compile_s, number, optional=True),
    PARAMETERS,
    Figure(
        Column("metric", "What the trained model reached on held-out data."),
        lambda r: r.metric_value,
        lambda value: number(value, 4),
        optional=True,
    ),
)
"""Columns of a comparison."""

TRAINED = (
    MODEL,
    Figure(Column("backend", numeric=False), lambda r: r.backend, _code, hole=lambda _: "it solves no ODE."),
    STATUS,
    Figure(Column("task", numeric=False), lambda r: r.task, _code),
    Figure(Column("data", numeric=False), lambda r: r.dataset),
    Figure(Column("preset", numeric=False), lambda r: r.preset),
    Figure(Column("seed"), lambda r: r.seed),
    Figure(Column("solver", numeric=False), lambda r: r.solver, hole=lambda _: "it solves no ODE."),
    Figure(Column("rtol"), lambda r: r.rtol, number, hole=lambda _: "it solves no ODE."),
    Figure(Column("metric", "On held-out data."), lambda r: r.metric_value, lambda value: number(value, 4)),
    Figure(
        Column("which", "Name and unit of the metric, and which direction is better.", numeric=False),
        lambda r: ", ".join(filter(None, (r.metric_name, unit(r), f"{r.metric_direction} is better"))),
    ),
    PARAMETERS,
    Figure(Column("steps", "Steps of the optimiser."), lambda r: r.train_steps),
    Figure(Column("epochs"), lambda r: r.epochs),
    Figure(Column("train s", "Time of all training steps."), lambda r: r.train_s, number, hole=_untrained),
    Figure(
        Column("step MiB", "Peak of one training step of the whole model above the idle process."),
        lambda r: r.train_memory_bytes,
        mebibytes,
        optional=True,
    ),
    Figure(
        Column("resident MiB", "Highest resident set of the training process."), lambda r: r.train_peak_bytes, mebibytes
    ),
    Figure(
        Column("also", "Further figures of the trained model.", numeric=False),
        lambda r: ", ".join(f"{name} {number(value, 4)}" for name, value in r.diagnostics.items()) or None,
        optional=True,
    ),
)
"""Columns of trained models."""

FAILED = (
    Figure(Column("cell", numeric=False), lambda r: f"{r.backend or r.model} on {r.task}/{r.model}", _code),
    STATUS,
    Figure(Column("reason", numeric=False), reason),
    Figure(Column("solver", numeric=False), lambda r: r.solver),
    Figure(Column("rtol"), lambda r: r.rtol, number),
    Figure(
        Column("refused MiB", "Size of the allocation that was refused."),
        lambda r: r.requested_bytes,
        mebibytes,
        optional=True,
    ),
    Figure(Column("attempts"), lambda r: r.attempt),
    RUN,
)
"""Columns of what did not end well."""
