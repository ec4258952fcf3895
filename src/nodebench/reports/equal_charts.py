"""What a page says of costs at equal error and at equal memory: sentences, charts and tables."""

from collections.abc import Iterator, Sequence

from nodebench.reports.charts import MAX_CHARTS, MEMORY, TIME
from nodebench.reports.comparison import base_task, line_setting, setting
from nodebench.reports.document import Block, Bullets, Chart, Details, Paragraph, key, number
from nodebench.reports.equal_cost import (
    BETWEEN,
    BOUND,
    ERROR_NAMES,
    FIGURES,
    EqualErrors,
    cost_table,
    equal_errors,
    sentences,
    timed_costs,
)
from nodebench.reports.equal_memory import equal_memories, memory_sentences, memory_table
from nodebench.reports.series import Axis, Row, lines, split_series
from nodebench.results.equal_cost import CostAtError, place
from nodebench.results.equal_memory import families
from nodebench.results.record import Record


def at_equal_error(records: Sequence[Record]) -> Iterator[Block]:
    """What a page says: sentences, a chart, and a table for each cost.

    Args:
        records: Records of one task, with times of one machine.
    """
    for at, found in enumerate(equal_errors(records), start=1):
        stem = f"{key(base_task(found.records[0]))}-equal-error{'' if at == 1 else f'-{at}'}"
        if told := sentences(found):
            yield Bullets(told)
        if at <= MAX_CHARTS:
            yield from _error_chart(found, f"{stem}-time")
        yield Paragraph(f"{BETWEEN} {BOUND}")
        time, *others = (cost_table(found, figure, f"{stem}-{figure.key}") for figure in FIGURES)
        yield time
        yield Details(f"Ratios, evaluations and memory at equal error: {found.setting}", tuple(others))


def _error_chart(found: EqualErrors, name: str) -> Iterator[Chart]:
    """A line for each method over the errors; none where no method reaches two of them."""
    rows = [_error_row(found, cost) for cost in timed_costs(found.costs.costs)]
    if len({row["series"] for row in rows}) == len(rows):
        return
    title = "Time at equal error"
    x = Axis(f"relative error of {ERROR_NAMES[found.costs.error]}", log=True)
    for at, part in enumerate(split_series(rows), start=1):
        chart = lines(part, x, TIME.axis, title, {"series": "method", "setting": "between"})
        caption = f"{title}: {found.setting}. Bars are 95 % intervals."
        yield Chart(name if at == 1 else f"{name}-{at}", caption, chart)


def _error_row(found: EqualErrors, cost: CostAtError) -> Row:
    time = cost.time
    ends = {} if time.low is None or time.high is None else {"y_low": 1e3 * time.low, "y_high": 1e3 * time.high}
    return {
        "series": found.label((cost.backend, cost.solver)),
        "x": cost.target,
        "y": 1e3 * (time.value or 0.0),
        "order": -cost.target,
        "setting": " and ".join(map(place, cost.points)),
        **ends,
    }


def at_equal_memory(records: Sequence[Record]) -> Iterator[Block]:
    """What a page says: for each problem sentences, charts and a table.

    Args:
        records: Records of one task, with times of one machine.
    """
    for at, groups in enumerate(equal_memories(records), start=1):
        first = groups[0][0][0]
        stem = f"{key(base_task(first))}-equal-memory{'' if at == 1 else f'-{at}'}"
        # What is said is of the tightest tolerance, at which most steps are taken.
        yield Bullets(tuple(memory_sentences(groups[-1][1])))
        for n, (members, _) in enumerate(groups[:MAX_CHARTS], start=1):
            yield from _memory_chart(members, f"{stem}-time{'' if n == 1 else f'-at-{n}'}")
        yield memory_table(groups, stem, f"At the memory of methods without a knob for it: {line_setting(first)}.")


def _memory_chart(members: Sequence[Record], name: str) -> Iterator[Chart]:
    """Time against memory: a line for each family over its option, a mark for each method without one."""
    with_knob = families(members)
    series = {record.cell_id: family.name for family in with_knob for record in family.members}
    rows = [
        _memory_row(record, series.get(record.cell_id, str(record.backend))) for record in members if _complete(record)
    ]
    title = "Time against memory"
    for at, part in enumerate(split_series(rows), start=1):
        chart = lines(part, MEMORY.axis, TIME.axis, title, {"series": "family", "backend": "backend", "error": "error"})
        caption = (
            f"{title}: {setting(members[0])}. A line joins backends that differ in one number alone; the others have a "
            "mark. Bars are 95 % intervals."
        )
        yield Chart(name if at == 1 else f"{name}-{at}", caption, chart)


def _complete(record: Record) -> bool:
    return bool(record.ok and record.step_s and record.peak_memory_bytes)


def _memory_row(record: Record, series: str) -> Row:
    time, (low, high) = TIME.value(record), TIME.bounds(record)
    memory = MEMORY.value(record)
    ends = {} if low is None or high is None else {"y_low": low, "y_high": high}
    error = number(record.grad_error_params, 2)
    return {
        "series": series,
        "x": memory,
        "y": time,
        "order": memory,
        "backend": record.backend,
        "error": error,
        **ends,
    }
