"""How memory, evaluations and time were seen to grow, as tables of exponents beside those of theory."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

from nodebench.backends.solvers import method
from nodebench.reports.charts import line_key, line_setting
from nodebench.reports.comparison import fixed_step, grouped
from nodebench.reports.document import Block, Column, Entry, Missing, Table
from nodebench.reports.formatting import ABSENT, number
from nodebench.results.record import Record
from nodebench.results.scaling import Axis, Scaling, scalings


def exponents(name: str, measured: Sequence[Record]) -> Iterator[Block]:
    """A table for each axis along which at least three places of one backend were measured, or why there is none.

    Args:
        name: What the names of the tables begin with.
        measured: Records of one task that show a gradient, one per cell, with times of one machine.
    """
    shown = [record for record in measured if record.status == "ok" and record.solver is not None]
    n_tables = 0
    for axis in get_args(Axis):
        found: list[tuple[str, Scaling]] = []
        for line in _lines(shown, axis):
            laws = [scaling for scaling in scalings(line, axis) if scaling.law is not None]
            found += [(line_setting(line[0], axis), scaling) for scaling in laws]
        if found:
            n_tables += 1
            yield exponents_table(f"{name}-exponents-{axis}", axis, found)
    if not n_tables:
        reason = (
            "they need three numbers of steps, tolerances, batches or time spans of one backend; run `nodebench scale`."
        )
        yield Missing("exponents of memory, evaluations and time", reason)


def exponents_table(name: str, axis: str, laws: Sequence[tuple[str, Scaling]]) -> Table:
    """Measured exponents beside those of theory.

    Args:
        name: Name of the table.
        axis: What was varied, in words.
        laws: Exponents, each with its setting in words.
    """
    columns = (
        Column("backend", numeric=False),
        Column("quantity", numeric=False),
        Column("exponent", f"p of the law quantity ~ ({axis})^p, fitted by least squares of the logarithms."),
        Column("95 %", "Interval of the exponent."),
        Column("theory", "The exponent that theory states for the method."),
        Column("points"),
        Column("setting", numeric=False),
    )
    rows = tuple(_law_row(setting, scaling) for setting, scaling in laws)
    return Table(name, f"Exponents over {axis}: measured, and theory's.", columns, rows)


def _lines(records: Sequence[Record], axis: Axis) -> list[list[Record]]:
    """Records that differ in the backend and in their place on an axis alone."""
    return grouped((record for record in records if _varies(record, axis)), lambda record: _in_common(record, axis))


def _varies(record: Record, axis: Axis) -> bool:
    """Whether a record may be a place on an axis: a solver is told its steps or a tolerance, never both."""
    adaptive = method(str(record.solver)).adaptive
    return {"steps": not adaptive, "tolerance": adaptive}.get(axis, True)


def _in_common(record: Record, axis: Axis) -> Hashable:
    if axis in ("steps", "tolerance"):
        return line_key(record)
    without = replace(record, batch_size=None) if axis == "batch" else replace(record, horizon=1.0)
    return (*line_key(without), record.rtol, record.atol, fixed_step(record))


def _law_row(setting: str, scaling: Scaling) -> tuple[Entry, ...]:
    law = scaling.law
    return (
        Entry(f"`{scaling.backend}`", scaling.backend),
        Entry(scaling.quantity, scaling.quantity),
        Entry(ABSENT, reason=scaling.reason) if law is None else Entry(f"{law.exponent:.3f}", law.exponent),
        Entry(ABSENT) if law is None else Entry(f"{law.low:.3f}..{law.high:.3f}", law.low),
        Entry(number(scaling.theory), scaling.theory),
        Entry(ABSENT) if law is None else Entry(str(law.n_points), law.n_points),
        Entry(setting, setting),
    )
