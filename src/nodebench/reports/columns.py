"""Columns of tables of records: those of the catalogue's quantities, and those of settings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from nodebench.reports.comparison import OTHER_MACHINE
from nodebench.reports.document import ABSENT, Column, Entry, count, interval, mebibytes, milliseconds, number
from nodebench.results.quantities import CATALOGUE, Format, Quantity, TableName, in_table
from nodebench.results.record import Measurement, Record

FORMATS: Mapping[Format, Callable[[Any], str]] = {
    "text": lambda value: str(value) or ABSENT,
    "count": count,
    "number": number,
    "error": lambda value: number(value, 2),
    "metric": lambda value: number(value, 4),
    "MiB": mebibytes,
    "ms": milliseconds,
    "figures": lambda value: ", ".join(f"{name} {number(each, 4)}" for name, each in value.items()) or ABSENT,
}
"""How a value is printed."""

ELSEWHERE = "another machine than that whose times are shown."


@dataclass(frozen=True)
class RecordColumn:
    """A column of a table of records.

    Attributes:
        column: The column.
        value: What it is sorted by; an interval by its lower end.
        text: How the value of a record is printed.
        best: Whether the lowest or the highest among cells that ended well is marked; `timed` marks the fastest of
            those that were timed together and all that are not distinguishable from it.
        hole: Why it is missing, of a cell that ended well.
        only_if_any: Whether the column is left out where no cell has it.
    """

    column: Column
    value: Callable[[Record], float | str | None]
    text: Callable[[Record], str]
    best: Literal["", "lower", "higher", "timed"] = ""
    hole: Callable[[Record], str | None] = lambda _: None
    only_if_any: bool = False

    def entry(self, record: Record) -> Entry:
        """What stands in the row of a record."""
        value = self.value(record)
        if value is not None:
            return Entry(self.text(record), value)
        ended_well = record.status == "ok"
        return Entry(ABSENT, reason=self.hole(record) if ended_well else f"`{record.status}`: {reason(record)}")


def plain(
    title: str,
    value: Callable[[Record], float | str | None],
    meaning: str = "",
    text: Callable[[Any], str] = str,
    hole: Callable[[Record], str | None] = lambda _: None,
    *,
    wraps: bool = False,
) -> RecordColumn:
    """A column of what is no quantity: of numbers where `text` is another than that of words."""
    column = Column(title, meaning, numeric=text not in (str, code), wraps=wraps)
    return RecordColumn(column, value, lambda record: text(value(record)), hole=hole)


def of_table(table: TableName, **instead: RecordColumn) -> list[RecordColumn]:
    """The columns of all quantities that have one in a table, in the catalogue's order.

    Args:
        table: The table.
        instead: Columns in the place of some quantities', by the name of the quantity.
    """
    names = in_table(table)
    return [each for name in names for each in ([instead[name]] if name in instead else of_quantity(name, table))]


def of_quantity(name: str, table: TableName) -> list[RecordColumn]:
    """The column of a quantity in a table, and that of its interval where it has one."""
    said = CATALOGUE[name]
    title, shape = said.tables[table], FORMATS[said.format]
    best: Literal["", "lower", "higher", "timed"] = said.better if said.ranked else ""
    column = RecordColumn(
        Column(title, said.meaning, numeric=said.format not in ("text", "figures"), wraps=said.format == "figures"),
        lambda record: _sortable(getattr(record, name), shape),
        lambda record: shape(getattr(record, name)) + printed_beside(said, record),
        "timed" if best and said.ends else best,
        _hole(name, said),
        said.only_if_any or table == "summary",
    )
    return [column] if said.ends is None else [column, _of_interval(said, said.ends, table)]


def shown(columns: Sequence[RecordColumn], records: Sequence[Record]) -> list[RecordColumn]:
    """Columns without those that are to be left out."""
    return [
        each for each in columns if not each.only_if_any or any(each.value(record) is not None for record in records)
    ]


def marked(column: RecordColumn, records: Sequence[Record], ranked: Collection[str]) -> list[Entry]:
    """Entries of a column with the best marked: of at least two, all that print like it.

    None is where one that is ranked has no value, which might be the best.
    """
    entries = [column.entry(record) for record in records]
    pairs = list(zip(records, entries, strict=True))
    if column.best == "timed":
        return [replace(entry, best=record.cell_id in ranked) for record, entry in pairs]
    known = [(e.value, e.text) for r, e in pairs if r.cell_id in ranked and isinstance(e.value, int | float)]
    if not column.best or len(known) < max(2, sum(record.cell_id in ranked for record in records)):
        return entries
    _, best = (max if column.best == "higher" else min)(known, key=lambda pair: pair[0])
    return [replace(e, best=record.cell_id in ranked and e.text == best) for record, e in pairs]


def code(name: object) -> str:
    """A name as code."""
    return f"`{name}`"


def reason(record: Record) -> str:
    """Why a cell is not ok, as a sentence."""
    text = record.reason or "no reason was recorded"
    return text if text.endswith(".") else f"{text}."


def _sortable(value: Any, shape: Callable[[Any], str]) -> float | str | None:
    if isinstance(value, dict):
        return shape(value) if value else None
    found: float | str | None = value
    return found


def printed_beside(said: Quantity, measured: Measurement) -> str:
    """What is printed after a quantity in the same column; nothing where it is unknown."""
    if not said.beside:
        return ""
    name = said.beside[said.beside.index("{") + 1 : said.beside.index("}")]
    value = getattr(measured, name)
    return said.beside.format(**{name: value}) if value or (value == 0 and said.beside_zero) else ""


def _of_interval(said: Quantity, ends: tuple[str, str], table: TableName) -> RecordColumn:
    scale = 1000 if said.format == "ms" else 1
    title = "95 %" if table in ("summary", "cost") else f"95 % {'ms' if said.format == 'ms' else said.unit}"
    low, high = ends
    return RecordColumn(
        Column(title, "95 % interval of the column before."),
        lambda record: None if getattr(record, high) is None else getattr(record, low),
        lambda record: interval(getattr(record, low), getattr(record, high), scale),
        only_if_any=table == "summary",
    )


def _hole(name: str, said: Quantity) -> Callable[[Record], str | None]:
    """Why a quantity of a cell that ended well may be missing."""
    if said.own_error:
        return lambda record: _not_stated(getattr(record, said.own_error))
    holes = {
        "step_s": _untimed,
        "ratio": _no_ratio,
        "train_s": lambda _: f"trained on {ELSEWHERE}",
    }
    return holes.get(name, lambda _: None)


def _not_stated(own: float | None) -> str:
    if own is None:
        return "no reference was solved."
    return f"not stated: the error is not a hundred times that of the reference, which is known to {own:.1e}."


def _untimed(record: Record) -> str | None:
    if record.verdict == OTHER_MACHINE:
        return f"timed on {ELSEWHERE}"
    return "measured without timing." if record.first_step_s is not None else "only trained, not timed."


def _no_ratio(record: Record) -> str | None:
    if record.verdict == OTHER_MACHINE or record.step_s is None:
        return _untimed(record)
    return "the control, or timed alone." if record.control is None else "too few starts for an interval."
