"""The answers in words, made from the facts of `summary`: short, with figures and units."""

from collections import Counter
from collections.abc import Iterable, Sequence

from nodebench.reports.columns import reason
from nodebench.reports.comparison import Comparison, grouped, has_gradient, label
from nodebench.reports.formatting import interval, mebibytes, milliseconds, number
from nodebench.reports.summary import Answer, Fastest, Least, Trained, Training, lacking, relative_time
from nodebench.results.record import Record

MEMORY, ERROR = "peak memory", "error of d/dparams"

FIELDS = {MEMORY: "peak_memory_bytes", ERROR: "grad_error_params"}
"""Where a record has what the sentences compare."""


def why_no_least(ranked: Sequence[Record], figure: str) -> str:
    """Why it is not known who has the least of a figure."""
    without = lacking(ranked, FIELDS[figure])
    if len(ranked) - len(without) < 2:
        return f"the {figure} of fewer than two cells is known."
    return f"the {figure} of {names(without)} is not stated."


def why_no_front(timed: Sequence[Record]) -> str:
    """Why no Pareto front is known."""
    without = lacking(timed, *FIELDS.values())
    if len(timed) - len(without) < 2 or not without:
        return "fewer than two cells timed together have error, memory, and time with its interval."
    return f"error or memory of {names(without)} is not stated."


def answer_sentences(answer: Answer) -> tuple[str, ...]:
    """What a comparison says, a sentence or two for each question."""
    comparison = answer.comparison
    not_ranked = tuple(
        f"Not ranked: {_name(record)}, `{record.status}`: {reason(record)}" for record in answer.not_ranked
    )
    if len(comparison.records) == 1:
        return (_single(answer), *not_ranked)
    return (
        fastest_sentence(answer.fastest, comparison.timed),
        *_elsewhere(comparison),
        _least_sentence("Leanest", answer.leanest, why_no_least(comparison.ranked, MEMORY), MEMORY, "MiB"),
        _least_sentence("Most exact", answer.most_exact, why_no_least(comparison.ranked, ERROR), ERROR, ""),
        _front_sentence(answer),
        *_undecided(answer.undecided),
        *not_ranked,
    )


def absence_sentences(answer: Answer) -> tuple[str, ...]:
    """Which cells of a comparison have no figures, and why, and which of them failed when they were tried again."""
    comparison = answer.comparison
    since = {record.cell_id: record for record in comparison.failed_since}
    return (
        *(
            f"{'Not ranked' if has_gradient(record) else 'No figures'}: {_name(record)}, `{record.status}`: "
            f"{reason(record)}"
            for record in answer.failed
        ),
        *(since_sentence(r, since[r.cell_id]) for r in comparison.records if r.cell_id in since),
    )


def since_sentence(record: Record, failure: Record) -> str:
    """That a cell whose figures are shown failed later on."""
    seed = f", seed {record.seed}" if record.seed else ""
    return (
        f"The figures of {_name(record)}{seed} are of run `{record.run_id}`; a later attempt, in run "
        f"`{failure.run_id}`, ended `{failure.status}`: {reason(failure)}"
    )


def fastest_sentence(fastest: Fastest | None, timed: Sequence[Record]) -> str:
    """Who was fastest, and who cannot be told from it."""
    if fastest is None:
        few = "fewer than two cells were timed together" if len(timed) < 2 else "no ratio of times has an interval"
        return f"Fastest: not known, because {few}."
    best = fastest.record
    time = f"{milliseconds(best.step_s)} ms a step{_between(best.step_s_low, best.step_s_high, 1000)}"
    relation = relative_time(best)
    if best.control is not None and relation is not None:
        time += f", {number(relation[0])} of the time of `{best.control}`{_between(relation[1], relation[2])}"
    if not fastest.undistinguished:
        return f"Fastest: {_name(best)}, {time}."
    others = names(fastest.undistinguished)
    return (
        f"Fastest: not decided. The lowest time has {_name(best)}, {time}; the intervals do not tell it from {others}."
    )


def training_sentence(training: Training) -> str:
    """Which model reached the best metric, on how many seeds, and which comes next."""
    if not training.trained:
        record = training.unranked[0]
        return f"`{record.task}`: no trained model may be ranked; {_statuses(training.unranked)}."
    best, *others = training.trained
    first = best.records[0]
    where = f"`{first.task}` ({first.dataset}, preset {first.preset})"
    if not others:
        return f"{where}: {best.label} reaches {first.metric_name} {_metric(best)}; nothing else was trained there."
    tied = [other for other in others if _value(other.mean) == _value(best.mean)]
    if tied:
        alike = ", ".join(each.label for each in [best, *tied])
        return f"{where}: the best {first.metric_name} is {_metric(best)}, of {alike}."
    follows = f"next is {others[0].label} with {_metric(others[0])}"
    doubt = "" if _apart(best, others[0]) else _doubt(best, others[0])
    return f"{where}: best {first.metric_name} {_metric(best)} by {best.label}; {follows}.{doubt}"


def failure_sentences(records: Iterable[Record]) -> tuple[str, ...]:
    """How many cells did not end well, by status, with the first reason of each."""
    by_status: dict[str, list[Record]] = {}
    for record in records:
        if record.status != "ok":
            by_status.setdefault(record.status, []).append(record)
    return tuple(
        f"`{status}`: {_of(len(found), 'cell', 'cells')}, {'such as ' if len(found) > 1 else ''}"
        f"{_name(found[0])} on `{found[0].task}`: {reason(found[0])}"
        for status, found in by_status.items()
    )


def names(records: Iterable[Record]) -> str:
    """Names of backends or models with commas between."""
    return ", ".join(_name(record) for record in records)


def unit(record: Record) -> str:
    """Unit of a record's metric; empty where it is a plain number."""
    return "" if record.metric_unit in (None, "1") else str(record.metric_unit)


def _single(answer: Answer) -> str:
    (record,) = answer.comparison.records
    if answer.failed:
        return f"Only {_name(record)} was tried in this setting, and ended `{record.status}`: nothing was compared."
    figures = [
        (record.step_s, f"{milliseconds(record.step_s)} ms a step"),
        (record.peak_memory_bytes, f"peak memory {mebibytes(record.peak_memory_bytes)} MiB"),
        (record.grad_error_params, f"error of d/dparams {number(record.grad_error_params, 2)}"),
    ]
    known = ", ".join(text for value, text in figures if value is not None)
    return f"Only {_name(record)} was measured in this setting, so nothing was compared" + (
        f": {known}." if known else "."
    )


def _elsewhere(comparison: Comparison) -> list[str]:
    if not comparison.timed:
        return []
    return [
        f"{names(alike)} {'was' if len(alike) == 1 else 'were'} timed {comparison.where_else(alike[0])}: shown, not "
        "ranked by time."
        for alike in grouped(comparison.timed_elsewhere, comparison.where_else)
    ]


def _least_sentence(title: str, least: Least | None, why: str, figure: str, measure: str) -> str:
    if least is None:
        return f"{title}: not known, because {why}"
    value = f"{least.text} {measure}".strip()
    if len(least.records) == least.n_compared:
        return f"{title}: all alike, {figure} {value}."
    most = least.most
    highest = mebibytes(most.peak_memory_bytes) if measure else number(most.grad_error_params, 2)
    return (
        f"{title}: {names(least.records)}, {figure} {value}; the highest has {_name(most)}, {highest} {measure}".strip()
        + "."
    )


def _front_sentence(answer: Answer) -> str:
    front = answer.front
    if not front:
        return f"Pareto front: not known, because {why_no_front(answer.comparison.timed)}"
    these = "it" if len(front) == 1 else "these"
    return (
        f"Pareto front of error, memory and time: {names(front)}; none was shown to be at least as good as {these} in "
        "all three and better in one."
    )


def _undecided(undecided: Sequence[Record]) -> list[str]:
    if not undecided:
        return []
    against = undecided[0].control
    ratios = ", ".join(f"{_name(r)} {number(r.ratio)}{_between(r.ratio_low, r.ratio_high)}" for r in undecided)
    ended = {record.stopped_by for record in undecided} == {"budget"}
    more = " The timing ended by its budget; a larger `--budget-s` would narrow it." if ended else ""
    return [f"Undecided against `{against}`, the interval of the ratio being on both sides of 1: {ratios}.{more}"]


def _name(record: Record) -> str:
    return f"`{label(record)}`"


def _between(low: float | None, high: float | None, scale: float = 1.0) -> str:
    return "" if low is None or high is None else f" ({interval(low, high, scale)})"


def _of(n: int, one: str, several: str) -> str:
    return f"{n or 'no'} {one if n < 2 else several}"


def _statuses(records: Iterable[Record]) -> str:
    counted = Counter(record.status for record in records)
    return ", ".join(f"{n} `{status}`" for status, n in counted.items())


def _value(value: float) -> str:
    return number(value, 4)


def _metric(trained: Trained) -> str:
    value = f"{_value(trained.mean)} {unit(trained.records[0])}".strip()
    n = len(trained.records)
    if n == 1:
        return f"{value} (a single seed)"
    return f"{value} (mean of {n} seeds, {_value(trained.low)} to {_value(trained.high)})"


def _apart(one: Trained, other: Trained) -> bool:
    """Whether the values of several seeds each have no common range."""
    several = min(len(one.records), len(other.records)) > 1
    return several and (one.high < other.low or other.high < one.low)


def _doubt(one: Trained, other: Trained) -> str:
    if min(len(one.records), len(other.records)) == 1:
        return " How much of that is the seed is not known."
    return " Their seeds overlap."
