"""Tables of records for a terminal."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from nodebench.reports.comparison import alike, grouped
from nodebench.reports.formatting import ABSENT, count, interval, mebibytes, milliseconds, number
from nodebench.reports.machines import several_nodes
from nodebench.results.record import Record
from nodebench.results.scaling import Scaling

WRAPPED = ("backend", "node", "reason", "also", "metric", "NFE f+b by epoch")
"""Columns whose text may need more than a line."""

LAST_EPOCHS = 6
"""Epochs whose evaluations are shown; `--json` has them all."""

Column = tuple[str, Callable[[Record], str]]


def gradient_tables(records: Iterable[Record]) -> list[Table]:
    """Two tables for each group of records whose gradients were compared: how exact they are, and what they cost.

    Two, so that each fits a terminal of ordinary width.
    """
    asked = [record for record in records if record.backend is not None and _has_gradient(record)]
    groups = [group for of_run in grouped(asked, lambda record: record.run_id) for group in alike(of_run)]
    tables = []
    for group in groups:
        measured = next((record for record in group if record.first_step is not None), group[0])
        tables.append(_table(_gradient_title(measured), EXACTNESS_COLUMNS, group, gap=0))
        started = [record for record in group if record.first_step_s is not None]
        tables.append(_table("", _cost_columns(started), started, gap=0))
    return [table for table in tables if table.row_count]


def _cost_columns(group: Sequence[Record]) -> Sequence[Column]:
    compiled = any(record.compile_s is not None for record in group)
    columns = [*COST_COLUMNS[:2], COMPILE_COLUMN, *COST_COLUMNS[2:]] if compiled else COST_COLUMNS
    return _with_node(columns, group, name="\nnode")


def _with_node(columns: Sequence[Column], records: Iterable[Record], name: str = "node") -> Sequence[Column]:
    """Columns, and one of the node where records come from more than one: their times are not to be compared."""
    return [*columns, (name, _node)] if several_nodes(records) else columns


def training_tables(records: Iterable[Record]) -> list[Table]:
    """Two tables of all trained models, what they reached and what it took; none where none was trained."""
    trained = [record.as_trained for record in records if record.metric_value is not None]
    if not trained:
        return []
    return [
        _table("training", TRAINING_COLUMNS, trained),
        _table("", _with_node(TRAINING_COST_COLUMNS, trained), trained),
    ]


def sweep_table(records: Iterable[Record]) -> Table | None:
    """One table of the trained networks at other tolerances, or None where there is none."""
    swept = [record.as_trained for record in records if record.tolerance_sweep]
    if not swept:
        return None
    table = Table(
        title="trained networks at other tolerances: NFE, error, ms",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    where = _with_node([], swept)
    table.add_column("cell", no_wrap=True)
    for entry in swept[0].tolerance_sweep:
        table.add_column(f"rtol {entry['rtol']:g}")
    for name, _ in where:
        table.add_column(name, overflow="fold")
    for record in swept:
        cell = "/".join([record.task, record.model, record.backend or ABSENT])
        texts = (escape(text(record)) for _, text in where)
        table.add_row(escape(cell), *(_sweep_text(entry) for entry in record.tolerance_sweep), *texts)
    return table


def repetition_table(runs: Sequence[Sequence[Record]]) -> Table | None:
    """The ratios of the cells that several runs have in common, side by side, or None where there are none.

    The last column says whether the intervals of all runs have a point in common.
    """
    by_cell = [{record.cell_id: record for record in records if record.ratio is not None} for records in runs]
    common = [cell_id for cell_id in by_cell[0] if all(cell_id in records for records in by_cell[1:])]
    if not common:
        return None
    table = Table(title="ratio of time to the control", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", *(records[0].run_id for records in runs), "intervals"):
        table.add_column(name, no_wrap=True)
    for cell_id in common:
        same = [records[cell_id] for records in by_cell]
        name = "/".join([same[0].task, same[0].model, same[0].backend or ABSENT])
        table.add_row(escape(name), *(_ratio_with_interval(record) for record in same), _overlap(same))
    return table


def _ratio_with_interval(record: Record) -> str:
    return f"{number(record.ratio)}  {interval(record.ratio_low, record.ratio_high)}  {record.verdict}"


def _overlap(records: Sequence[Record]) -> str:
    if len({record.control for record in records}) > 1:
        return "other controls"
    lows = [record.ratio_low for record in records if record.ratio_low is not None]
    highs = [record.ratio_high for record in records if record.ratio_high is not None]
    if len(lows) < len(records) or len(highs) < len(records):
        return ABSENT
    return "overlap" if max(lows) <= min(highs) else "apart"


def scaling_table(laws: Sequence[Scaling]) -> Table:
    """One table of measured exponents, each beside what theory says."""
    axis = laws[0].axis
    table = Table(
        title=f"exponents over {axis}: measured, 95 %, and theory's",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("task", "backend", "quantity", "exponent", "95 %", "theory", "points"):
        table.add_column(name, no_wrap=name == "backend")
    for scaling in laws:
        law, stated = scaling.law, ABSENT if scaling.theory is None else f"{scaling.theory:.2f}"
        names = (escape(scaling.task), escape(scaling.backend), scaling.quantity)
        if law is None:
            table.add_row(*names, escape(scaling.reason or ABSENT), "", stated, "")
        else:
            bounds = f"{law.low:.3f}..{law.high:.3f}"
            table.add_row(*names, f"{law.exponent:.3f}", bounds, stated, str(law.n_points))
    return table


def _sweep_text(entry: dict[str, Any]) -> str:
    if entry["nfe_forward"] is None:
        return escape(str(entry["reason"]))
    return f"{entry['nfe_forward']}, {number(entry['solution_error'], 2)}, {milliseconds(entry['forward_s'])}"


def failure_table(records: Iterable[Record]) -> Table | None:
    """One table of all cells that did not end well, with ids and reasons, or None where there is none."""
    failed = [record for record in records if record.status != "ok"]
    return _table("not ok", _with_node(FAILURE_COLUMNS, failed), failed) if failed else None


def _node(record: Record) -> str:
    return record.node or ABSENT


def _steps(record: Record) -> str:
    if record.n_accepted is None:
        return ABSENT
    return f"{record.n_accepted}+{record.n_rejected}r" if record.n_rejected else str(record.n_accepted)


def _verdict(record: Record) -> str:
    if record.status != "ok" or record.verdict is not None:
        return record.verdict or record.status
    return "control" if record.control is None and record.step_s is not None else ""


def _nfe_history(record: Record) -> str:
    if not record.history or record.history[0]["nfe_forward"] is None:
        return ABSENT
    return " ".join(f"{entry['nfe_forward']}+{entry['nfe_backward']}" for entry in record.history[-LAST_EPOCHS:])


EXACTNESS_COLUMNS: Sequence[Column] = (
    ("backend", lambda r: r.backend or ABSENT),
    ("status", lambda r: r.status),
    ("err dp", lambda r: number(r.grad_error_params, 2)),
    ("err dy0", lambda r: number(r.grad_error_y0, 2)),
    ("method err", lambda r: number(r.method_error_params, 2)),
    ("NFE f+b", lambda r: ABSENT if r.nfe_forward is None else f"{r.nfe_forward}+{r.nfe_backward}"),
    ("VJPs", lambda r: count(r.n_vjps)),
    ("steps", _steps),
)
"""Errors of d/dparams and d/dy0 against the continuous problem, of d/dparams against the exact gradient of the same
discretisation; evaluations forward and backward; accepted steps and, with an r, rejected ones."""

COST_COLUMNS: Sequence[Column] = (
    ("\nbackend", lambda r: r.backend or ABSENT),
    ("peak\nMiB", lambda r: mebibytes(r.peak_memory_bytes)),
    ("step\nms", lambda r: milliseconds(r.step_s)),
    ("\n95 %", lambda r: interval(r.step_s_low, r.step_s_high, 1000)),
    ("x\nfloor", lambda r: number(r.floor_ratio)),
    ("\nratio", lambda r: number(r.ratio)),
    ("\n95 %", lambda r: interval(r.ratio_low, r.ratio_high)),
    ("\nverdict", _verdict),
)
"""Peak memory, the time of a step, how many times its own evaluations and VJPs that is, its ratio to the control's, and
what that says: faster, slower, or undecided where the interval holds 1."""

COMPILE_COLUMN: Column = ("compile\ns", lambda r: number(r.compile_s))
"""What compilation costs, shown where a cell compiled."""

TRAINING_COLUMNS: Sequence[Column] = (
    ("task", lambda r: r.task),
    ("model", lambda r: r.model),
    ("backend", lambda r: r.backend or ABSENT),
    ("seed", lambda r: str(r.seed)),
    ("data", lambda r: r.dataset or ABSENT),
    ("metric", lambda r: f"{r.metric_name} {number(r.metric_value, 4)} {r.metric_unit}".strip()),
    ("also", lambda r: ", ".join(f"{name} {number(value, 4)}" for name, value in r.diagnostics.items()) or ABSENT),
)

TRAINING_COST_COLUMNS: Sequence[Column] = (
    ("model", lambda r: r.model),
    ("backend", lambda r: r.backend or ABSENT),
    ("seed", lambda r: str(r.seed)),
    ("params", lambda r: count(r.n_params)),
    ("steps", lambda r: count(r.train_steps)),
    ("train s", lambda r: number(r.train_s)),
    ("RSS MiB", lambda r: mebibytes(r.train_peak_bytes)),
    ("NFE f+b by epoch", _nfe_history),
)

FAILURE_COLUMNS: Sequence[Column] = (
    ("cell", lambda r: r.cell_id),
    ("task", lambda r: r.task),
    ("model", lambda r: r.model),
    ("backend", lambda r: r.backend or ABSENT),
    ("status", lambda r: r.status),
    ("reason", lambda r: r.reason or ABSENT),
)


def _table(title: str, columns: Sequence[Column], records: Sequence[Record], gap: int = 1) -> Table:
    """A table with `gap` spaces between columns beside the one that is always there."""
    table = Table(
        title=escape(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, gap),
        pad_edge=False,
        collapse_padding=True,
    )
    for name, _ in columns:
        # A long name folds rather than losing its end.
        table.add_column(name, overflow="fold", no_wrap=name.strip() not in WRAPPED)
    for record in records:
        table.add_row(*(escape(text(record)) for _, text in columns), style=None if record.status == "ok" else "red")
    return table


def _has_gradient(record: Record) -> bool:
    return record.first_step_s is not None or record.status != "ok"


def _gradient_title(record: Record) -> str:
    return (
        f"{record.task} {record.model}: one gradient step; batch {record.batch_size}, {record.solver}, "
        f"{'' if record.controller in (None, 'integral') else f'{record.controller} controller, '}"
        f"rtol {number(record.rtol)}, atol {number(record.atol)}, first step {number(record.first_step)}, "
        f"{record.dtype}, {record.device}, "
        f"{record.threads} threads, seed {record.seed}"
        + ("" if record.horizon == 1 else f", time span times {number(record.horizon)}")
    )
