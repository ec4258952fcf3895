"""Costs at equal memory as sentences and a table; what would say nothing is left out."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from nodebench.reports.columns import code
from nodebench.reports.comparison import comparisons, line_key, line_setting
from nodebench.reports.document import (
    ABSENT,
    Block,
    Column,
    Entry,
    Table,
    Tone,
    interval,
    mebibytes,
    number,
)
from nodebench.results.equal_cost import error_of, looseness, place
from nodebench.results.equal_memory import CostAtMemory, equal_memory
from nodebench.results.record import Record

Group = tuple[Sequence[Record], Sequence[CostAtMemory]]
"""Records that were timed in turns, and what they say at equal memory."""


def at_equal_memory_briefly(records: Sequence[Record]) -> Iterator[Block]:
    """The same for a terminal of 80 columns: the table of the tightest tolerance, at which most steps are taken."""
    for groups in equal_memories(records):
        members, costs = groups[-1]
        where = f"{line_setting(members[0])}, {place(members[0])}".replace("`", "")
        table = memory_table([(members, costs)], "equal-memory", f"{where}: at equal memory")
        at = [n for n, column in enumerate(COLUMNS) if column.title not in ("at", "verdict")]
        columns = tuple(replace(table.columns[n], meaning="") for n in at)
        rows = tuple(tuple(_brief(row[n], cost) for n in at) for row, cost in zip(table.rows, costs, strict=True))
        yield replace(table, columns=columns, rows=rows)


def _brief(entry: Entry, cost: CostAtMemory) -> Entry:
    """An entry of a table without verdicts: what is undecided has the colour of that."""
    tone: Tone = "doubtful" if cost.verdict == "undecided" else ""
    return replace(entry, tone=tone)


def equal_memories(records: Sequence[Record]) -> list[list[Group]]:
    """The comparisons that have a family and a method without a knob, those of one problem and solver together."""
    timed = [comparison.timed for comparison in comparisons(records) if comparison.timed]
    of_problem: dict[Hashable, list[Group]] = {}
    for members in timed:
        if costs := equal_memory(members):
            of_problem.setdefault(line_key(members[0]), []).append((members, costs))
    tightest_last = (
        sorted(groups, key=lambda group: looseness(group[0][0]), reverse=True) for groups in of_problem.values()
    )
    return list(tightest_last)


def memory_sentences(costs: Sequence[CostAtMemory]) -> Iterator[str]:
    """For each family the method with least memory within which it fits, and those within which it does not."""
    by_family: dict[str, list[CostAtMemory]] = {}
    for cost in costs:
        by_family.setdefault(cost.family.name, []).append(cost)
    for name, each in by_family.items():
        fitting = next((cost for cost in each if cost.member is not None), None)
        if fitting is not None and fitting.member is not None:
            takes = f": {_of_its_time(fitting)}" if fitting.ratio.value is not None else ""
            yield (
                f"Within the memory of {_code(fitting.fixed)}, {_size(fitting.fixed)}, at {place(fitting.fixed)}, the "
                f"fastest of `{name}` is {_code(fitting.member)}{takes}."
            )
        if smaller := [cost.fixed for cost in each if cost.member is None]:
            takes = "takes" if len(smaller) == 1 else "take"
            yield (
                f"{', '.join(f'{_code(record)} ({_size(record)})' for record in smaller)} {takes} less than any of "
                f"`{name}`, which needs at least {_size(each[0].family.members[0])}."
            )


def _of_its_time(cost: CostAtMemory) -> str:
    ends = interval(cost.ratio.low, cost.ratio.high)
    undecided = ", undecided" if cost.verdict == "undecided" else ""
    return f"{number(cost.ratio.value)}{f' ({ends})' if ends else ''} of its time{undecided}"


def _code(record: Record) -> str:
    return code(record.backend)


def _size(record: Record) -> str:
    return f"{mebibytes(record.peak_memory_bytes)} MiB"


COLUMNS = (
    Column("at", "Tolerance, or fixed step.", numeric=False),
    Column("method", "A method without a knob for its memory.", numeric=False, wraps=True),
    Column("MiB", "Its peak memory."),
    Column(
        "fastest within it",
        "The fastest of the backends that differ in one number alone and take no more memory, or as much within 1 %.",
        numeric=False,
        wraps=True,
    ),
    Column("MiB of it", "The peak memory of that one."),
    Column("ratio", "Its time relative to that of the method."),
    Column("95 %", "95 % interval of the ratio; `undecided` where it holds 1."),
    Column("verdict", "Of the fastest within it, against the method.", numeric=False),
    Column("err", "Gradient error of the method: of d/dparams, or of d/dy0 where the field has no parameters."),
    Column("err of it", "Gradient error of the fastest within it."),
)


def memory_table(groups: Sequence[Group], name: str, caption: str) -> Table:
    """A row for each method without a knob and each family, with what the fastest that fits takes."""
    return Table(name, caption, COLUMNS, tuple(_row(cost) for _, costs in groups for cost in costs))


def gradient_error(record: Record) -> float | None:
    """The error that methods are compared by."""
    return record.grad_error_y0 if error_of([record.n_params]) == "grad_error_y0" else record.grad_error_params


def _row(cost: CostAtMemory) -> tuple[Entry, ...]:
    fixed, member, ratio = cost.fixed, cost.member, cost.ratio
    name = code(cost.family.name) if member is None else _code(member)
    error = None if member is None else gradient_error(member)
    memory = None if member is None else member.peak_memory_bytes
    return (
        Entry(place(fixed), fixed.rtol),
        Entry(_code(fixed), fixed.backend),
        Entry(mebibytes(fixed.peak_memory_bytes), fixed.peak_memory_bytes),
        Entry(f"none of {name}" if member is None else name, name),
        Entry(mebibytes(memory), memory),
        Entry(number(ratio.value), ratio.value, ratio.reason),
        Entry(interval(ratio.low, ratio.high), ratio.low),
        Entry(cost.verdict or ABSENT, cost.verdict, tone="doubtful" if cost.verdict == "undecided" else ""),
        Entry(number(gradient_error(fixed), 2), gradient_error(fixed)),
        Entry(number(error, 2), error),
    )
