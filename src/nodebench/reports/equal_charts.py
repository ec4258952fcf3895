"""What a page says of costs at equal error and at equal memory: sentences, charts and tables."""

from collections.abc import Iterator, Sequence

from nodebench.reports.charts import MAX_CHARTS, MEMORY, TIME
from nodebench.reports.comparison import base_task, line_setting, setting
from nodebench.reports.document import Block, Bullets, Chart, Details, Paragraph, key, number
from nodebench.reports.equal_cost import (
    BETWEEN,
    ERROR_NAMES,
    FIGURES,
    SIGNS,
    EqualErrors,
    cost_table,
    equal_errors,
    sentences,
    timed_costs,
)
from nodebench.reports.equal_memory import equal_memories, gradient_error, memory_sentences, memory_table
from nodebench.reports.series import Axis, Row, lines, split_series
from nodebench.results.equal_cost import CostAtError
from nodebench.results.equal_memory import families
from nodebench.results.record import Record


def at_equal_error(records: Sequence[Record]) -> Iterator[Block]:
    """What a page says: of the problem with most records sentences, a chart and tables, of others a sentence.

    Args:
        records: Records of one task, with times of one machine.
    """
    found = sorted(equal_errors(records), key=lambda each: -len(each.records))
    if not found:
        return
    main, *others = found
    stem = f"{key(base_task(main.records[0]))}-equal-error"
    if told := sentences(main):
        yield Bullets(told)
    yield from _error_chart(main, f"{key(base_task(main.records[0]))}-time-at-equal-error")
    yield Paragraph(f"{BETWEEN} {SIGNS}")
    time, *tables = (cost_table(main, figure, f"{stem}-{figure.key}") for figure in FIGURES)
    yield time
    yield Details(f"Ratios, evaluations and memory at equal error: {main.setting}", tuple(tables))
    if more := tuple(f"{each.setting}: {text}" for each in others for text in sentences(each)[:1]):
        yield Details("At equal error in further settings", (Bullets(more),))


def _error_chart(found: EqualErrors, name: str) -> Iterator[Chart]:
    """A line for each method over the errors; none where no method reaches two of them."""
    rows = [_error_row(found, cost) for cost in timed_costs(found.costs.costs)]
    if len({row["series"] for row in rows}) == len(rows):
        return
    title = "Time at equal error"
    x = Axis(f"relative error of {ERROR_NAMES[found.costs.error]}", log=True)
    for at, part in enumerate(split_series(rows), start=1):
        chart = lines(part, x, TIME.axis, title, {"series": "method"})
        caption = f"{title}: {found.setting}. Bars are 95 % intervals."
        yield Chart(name if at == 1 else f"{name}-{at}", caption, chart)


def _error_row(found: EqualErrors, cost: CostAtError) -> Row:
    time = cost.time
    ends = {} if time.low is None or time.high is None else {"y_low": 1e3 * time.low, "y_high": 1e3 * time.high}
    return {
        "series": found.label((cost.backend, cost.solver)),
        "x": cost.target,
        "y": 1e3 * (time.value or 0.0),
        "order": found.costs.targets.index(cost.target),
        **ends,
    }


def at_equal_memory(records: Sequence[Record]) -> Iterator[Block]:
    """What a page says: of the problem with most records sentences, charts and a table, of others the sentences.

    Args:
        records: Records of one task, with times of one machine.
    """
    found = sorted(equal_memories(records), key=lambda groups: -sum(len(costs) for _, costs in groups))
    if not found:
        return
    main, *others = found
    first = main[0][0][0]
    stem = f"{key(base_task(first))}-equal-memory"
    # What is said is of the tightest tolerance, at which most steps are taken.
    yield Bullets(tuple(memory_sentences(main[-1][1])))
    for at, (members, _) in enumerate(main[-MAX_CHARTS:], start=1):
        yield from _memory_chart(members, f"{stem}-time{'' if at == 1 else f'-at-{at}'}")
    yield memory_table(main, stem, f"At the memory of methods without a knob for it: {line_setting(first)}.")
    if more := tuple(
        f"{line_setting(groups[0][0][0])}: {text}" for groups in others for text in memory_sentences(groups[-1][1])
    ):
        yield Details("At equal memory in further settings", (Bullets(more),))


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
    error = number(gradient_error(record), 2)
    return {
        "series": series,
        "x": memory,
        "y": time,
        "order": memory,
        "backend": record.backend,
        "error": error,
        **ends,
    }
