"""What a comparison says: its answers as facts drawn from the figures, and in words, with figures and units."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from nodebench.reports.columns import reason
from nodebench.reports.comparison import (
    NOT_COMPARED,
    NOT_RUN,
    Comparison,
    fixed_step,
    grouped,
    has_gradient,
    label,
    newest,
)
from nodebench.reports.document import interval, mebibytes, milliseconds, number
from nodebench.results.record import Record

MEMORY, ERROR = "peak memory", "error of d/dparams"

FIELDS = {MEMORY: "peak_memory_bytes", ERROR: "grad_error_params"}
"""Where a record has what the sentences compare."""


FEW = 3
"""Names that a short answer lists; of more it says how many there are."""


@dataclass(frozen=True)
class Fastest:
    """Who took the least time of a step.

    Attributes:
        record: The cell with the lowest ratio to the control.
        undistinguished: Cells of which the figures do not say that they are slower.
    """

    record: Record
    undistinguished: tuple[Record, ...]


@dataclass(frozen=True)
class Least:
    """Who has the least of a figure.

    Attributes:
        records: The best; several where they print alike.
        text: The figure as it is printed, without its unit.
        n_compared: How many cells have the figure.
        most: The cell with the most of it.
        most_text: How much that is, as it is printed.
    """

    records: tuple[Record, ...]
    text: str
    n_compared: int
    most: Record
    most_text: str


@dataclass(frozen=True)
class Answer:
    """What a comparison says.

    Attributes:
        comparison: The comparison.
        fastest: Who was fastest; None where fewer than two cells were timed together and have an interval.
        leanest: Who had the lowest peak of memory; None where fewer than two cells have the figure, or one lacks it.
        most_exact: Who had the smallest error of d/dparams; None likewise. An error that is too small for its reference
            is not stated: whoever lacks it may be the best.
        front: Cells than which no other was shown to be at least as good in error, memory and time and better in one of
            them; empty where fewer than two cells have all three figures, or one lacks error or memory.
        undecided: Cells of which it could not be said whether they are faster or slower than the control.
        not_ranked: Cells that were measured and whose figures must not be ranked.
        failed: Cells that ended otherwise than with figures.
    """

    comparison: Comparison
    fastest: Fastest | None
    leanest: Least | None
    most_exact: Least | None
    front: tuple[Record, ...]
    undecided: tuple[Record, ...]
    not_ranked: tuple[Record, ...]
    failed: tuple[Record, ...]


@dataclass(frozen=True)
class TrainedModel:
    """What trainings of one model reached that differ in the seed alone.

    Attributes:
        label: The model, with its backend where it has one, and with what sets it apart from others of that name.
        records: One for each seed.
        mean: Mean of the metric over the seeds.
        low: The smallest value.
        high: The largest value.
    """

    label: str
    records: tuple[Record, ...]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ComparedTrainings:
    """Models trained on the same data with the same budget.

    Attributes:
        trained: The models, the best first.
        unranked: Records with a metric that must not be ranked.
    """

    trained: tuple[TrainedModel, ...]
    unranked: tuple[Record, ...]


def answer(comparison: Comparison) -> Answer:
    """What a comparison says."""
    records = comparison.records
    return Answer(
        comparison,
        fastest(comparison.timed),
        least(comparison.ranked, lambda record: record.peak_memory_bytes, mebibytes),
        least(comparison.ranked, lambda record: record.grad_error_params, lambda value: number(value, 2)),
        front(comparison.timed),
        tuple(record for record in comparison.timed if record.verdict == "undecided"),
        tuple(record for record in records if record.status in NOT_COMPARED),
        tuple(record for record in records if record.status not in ("ok", *NOT_COMPARED)),
    )


def least(
    records: Iterable[Record], figure: Callable[[Record], float | None], text: Callable[[Any], str]
) -> Least | None:
    """Who has the least of a figure, or None where fewer than two have it or one lacks it.

    Args:
        records: Records that may be ranked.
        figure: The figure of a record.
        text: The figure as it is printed: those that print alike are equal.
    """
    asked = list(records)
    found = [(value, record) for record in asked if (value := figure(record)) is not None]
    if len(found) < max(2, len(asked)):
        return None
    best, _ = min(found, key=lambda pair: pair[0])
    highest, most = max(found, key=lambda pair: pair[0])
    alike = tuple(record for value, record in found if text(value) == text(best))
    return Least(alike, text(best), len(found), most, text(highest))


def front(timed: Sequence[Record]) -> tuple[Record, ...]:
    """Cells that none on the front dominates in error, memory and time; empty where it cannot be told.

    It cannot where fewer than two have all three figures, or where one lacks error or memory and may be the best.

    Errors and bytes that print alike are equal, and so are times that cannot be told apart. To be told apart is not
    transitive: a cell that is not on the front keeps no other from it.
    """
    places = [(place, record) for record in timed if (place := _place(record)) is not None]
    if len(places) < 2 or lacking(timed, "grad_error_params", "peak_memory_bytes"):
        return ()
    found: list[tuple[tuple[float, float, float], Record]] = []
    # In this order each comes after all that may dominate it.
    for (error, memory, time), record in sorted(places, key=lambda pair: pair[0]):
        dominated = any(
            its_error <= error
            and its_memory <= memory
            and not surely_faster(record, other)
            and ((its_error, its_memory) != (error, memory) or surely_faster(other, record))
            for (its_error, its_memory, _), other in found
        )
        if not dominated:
            found.append(((error, memory, time), record))
    return tuple(record for _, record in places if any(record is each for _, each in found))


def lacking(records: Iterable[Record], *fields: str) -> tuple[Record, ...]:
    """Those of the records that lack any of some fields."""
    return tuple(record for record in records if any(getattr(record, name) is None for name in fields))


def fastest(timed: Sequence[Record]) -> Fastest | None:
    """Who took the least time of cells that were timed together; None where fewer than two have an interval of it."""
    found = [(time[0], record) for record in timed if (time := relative_time(record)) is not None]
    if len(found) < 2:
        return None
    _, best = min(found, key=lambda pair: pair[0])
    others = (record for record in timed if record is not best)
    return Fastest(best, tuple(record for record in others if not surely_faster(best, record)))


def relative_time(record: Record) -> tuple[float, float, float] | None:
    """Time relative to the control's with its interval; 1 for the control, None where there is no interval."""
    if record.control is None:
        return (1.0, 1.0, 1.0)
    if record.ratio is None or record.ratio_low is None or record.ratio_high is None:
        return None
    return (record.ratio, record.ratio_low, record.ratio_high)


def surely_faster(one: Record, other: Record) -> bool:
    """Whether one cell was faster than another it was timed with: their intervals of the ratio have no common point."""
    first, second = relative_time(one), relative_time(other)
    if first is None or second is None:
        return False
    # Of two of which one is the other's control the record itself may say that they are undecided.
    pairs = ((one, other), (other, one))
    undecided = any(
        measured.verdict == "undecided" and measured.control == label(control) and control.control is None
        for measured, control in pairs
    )
    return not undecided and first[2] < second[1]


def trainings(records: Iterable[Record]) -> list[ComparedTrainings]:
    """What was trained on the same data with the same budget, in the order of its first record."""
    trained = newest(record for record in records if record.metric_value is not None)
    groups = grouped(trained, lambda r: (r.task, r.dataset, r.preset, r.metric_name, r.device))
    return [_training(group) for group in groups]


def _training(records: Sequence[Record]) -> ComparedTrainings:
    ranked = [record for record in records if record.status == "ok"]
    models: list[list[Record]] = []
    for same in grouped(ranked, lambda r: (_model_name(r), *_training_settings(r).values())):
        # The newest of each seed: the gradient's time span, say, makes another cell and the same training.
        seeds = {record.seed: record for record in sorted(same, key=lambda r: r.created_at)}
        models.append(list(seeds.values()))
    trained = []
    for same in models:
        name, own = _model_name(same[0]), _training_settings(same[0])
        others = [_training_settings(other[0]) for other in models if _model_name(other[0]) == name]
        # Where others have that name too, what sets it apart.
        unlike = [
            f"{key} {number(value) if value is None or isinstance(value, float) else value}".strip()
            for key, value in own.items()
            if {other[key] for other in others} != {value}
        ]
        values = [record.metric_value for record in same if record.metric_value is not None]
        label = name + (f" ({', '.join(unlike)})" if unlike else "")
        trained.append(TrainedModel(label, tuple(same), fsum(values) / len(values), min(values), max(values)))
    sign = -1 if records[0].metric_direction == "higher" else 1
    trained.sort(key=lambda each: sign * each.mean)
    return ComparedTrainings(tuple(trained), tuple(record for record in records if record.status != "ok"))


def _training_settings(record: Record) -> dict[str, Any]:
    """What trainings of one model may differ in, by what it is called in a label."""
    return {
        "": record.solver,
        "rtol": record.rtol,
        "atol": record.atol,
        "step": fixed_step(record),
        "batch": record.batch_size,
        "dtype": record.dtype,
        "controller": record.controller,
        "max steps": record.max_steps,
        "threads": record.threads,
        "framework": record.framework,
    }


def _model_name(record: Record) -> str:
    return f"{record.model} with `{record.backend}`" if record.backend else record.model


def _place(record: Record) -> tuple[float, float, float] | None:
    """Error and bytes as they print, and time relative to the control's; None where one is missing."""
    error, memory, time = record.grad_error_params, record.peak_memory_bytes, relative_time(record)
    if error is None or memory is None or time is None:
        return None
    return (float(number(error, 2)), float(mebibytes(memory)), time[0])


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
        return (_single(comparison.records[0]), *not_ranked)
    return (
        fastest_sentence(answer.fastest, comparison.timed),
        *_elsewhere(comparison),
        _least_sentence("Leanest", answer.leanest, why_no_least(comparison.ranked, MEMORY), MEMORY, "MiB"),
        _least_sentence("Most exact", answer.most_exact, why_no_least(comparison.ranked, ERROR), ERROR, ""),
        _front_sentence(answer),
        *_undecided(answer.undecided),
        *not_ranked,
    )


def short_answer(answer: Answer) -> tuple[str, ...]:
    """What a comparison says in three lines: the fastest; the leanest and the most exact; what to choose, and why."""
    comparison = answer.comparison
    tried = [record for record in comparison.records if record.status not in NOT_RUN]
    if not tried:
        return ("Nothing was measured in this setting.",)
    if len(tried) == 1:
        return (_single(tried[0]),)
    if not any(record.step_s is not None or record.peak_memory_bytes is not None for record in tried):
        return _fewest(comparison)
    return (
        _short_fastest(answer.fastest, comparison.timed),
        f"{_short_least('Leanest', answer.leanest, why_no_least(comparison.ranked, MEMORY), 'MiB')} "
        f"{_short_least('Most exact', answer.most_exact, why_no_least(comparison.ranked, ERROR), '')}",
        choice_sentence(answer),
    )


def choice_sentence(answer: Answer) -> str:
    """What to choose, and why: the only one of the Pareto front, or who of it is best in time, memory and error."""
    front = answer.front
    if not front:
        return f"Choose: not known, because {why_no_front(answer.comparison.timed)}"
    weighed = [record for record in answer.comparison.ranked if _place(record) is not None]
    others = [record for record in answer.comparison.ranked if not any(record is each for each in weighed)]
    unknown = f" Not weighed, without an interval of time: {few(others)}." if others else ""
    if len(front) == 1:
        return f"Choose {names(front)}: no other was shown to be better in error, memory or time.{unknown}"
    places = {id(record): place for record in front if (place := _place(record)) is not None}
    best = [min(front, key=lambda record: places[id(record)][at]) for at in range(3)]
    for at in range(2):  # of equally exact or lean ones the fastest
        equal = [record for record in front if places[id(record)][at] == places[id(best[at])][at]]
        best[at] = min(equal, key=lambda record: places[id(record)][2])
    exact, lean, fast = best
    purposes: dict[str, list[str]] = {}
    for record, purpose in ((fast, "time"), (lean, "memory"), (exact, "exactness")):
        purposes.setdefault(_name(record), []).append(purpose)
    chosen = ", ".join(f"{name} for {_and(found)}" for name, found in purposes.items())
    as_fast = [record for record in front if record is not fast and not surely_faster(fast, record)]
    doubt = f" ({few(as_fast)} may be as fast)" if as_fast else ""
    rest = [record for record in front if not any(record is each for each in (*best, *as_fast))]
    between = f" In between, and beaten by none: {few(rest)}." if rest else ""
    them = "it" if len(purposes) == 1 else "these"
    return f"Choose {chosen}{doubt}; no other was shown to beat {them}.{between}{unknown}"


def common_answer(answers: Sequence[Answer]) -> tuple[str, ...]:
    """What several comparisons say together, in three lines: who is best in how many of them."""
    n = len(answers)
    fast = [(each.fastest.record,) for each in answers if each.fastest and not each.fastest.undistinguished]
    lean, exact = ([each.records for each in found if each] for found in (
        [answer.leanest for answer in answers], [answer.most_exact for answer in answers]))  # fmt: skip
    fronts = [answer.front for answer in answers if answer.front]
    front = f"on the Pareto front of error, memory and time {_most_often(fronts, n, '')}"
    return (
        f"Fastest: {_most_often(fast, n, 'decided in none')}.",
        f"Leanest: {_most_often(lean, n, 'known in none')}. Most exact: {_most_often(exact, n, 'known in none')}.",
        f"Choose: {front if fronts else f'not known in any of {n} settings'}.",
    )


def _most_often(found: Sequence[Sequence[Record]], n: int, none: str) -> str:
    """Who is among the records of most of so many settings, and of how many."""
    counted = Counter(name for records in found for name in dict.fromkeys(map(_name, records)))
    if not counted:
        return f"{none} of {n} settings"
    by_count: dict[int, list[str]] = {}
    for name, count in counted.most_common():
        by_count.setdefault(count, []).append(name)
    told = [f"{_listed(named)} in {'all' if count == n else f'{count} of'} {n}" for count, named in by_count.items()]
    return ", ".join(told[:2])


def _listed(named: Sequence[str]) -> str:
    more = len(named) - FEW  # another name is as short as saying that there is one more
    return ", ".join(named) if more <= 1 else f"{', '.join(named[:FEW])} and {more} more"


def best_first(comparison: Comparison) -> tuple[Record, ...]:
    """The cells of a comparison from the fastest that may be ranked to those that did not end well."""
    together = {id(record) for record in comparison.timed}
    control = comparison.control

    def place(record: Record) -> tuple[int, float]:
        if id(record) in together:
            time = relative_time(record)
            own = record.step_s or 0.0
            return 0, time[0] if time else own / (control.step_s or 1.0 if control else 1.0)
        return (1 if record.status == "ok" else 2 if record.status in NOT_COMPARED else 3), 0.0

    return tuple(sorted(comparison.records, key=place))


def absences(records: Iterable[Record]) -> tuple[str, ...]:
    """Which backends were not run and why, those with one reason together; nothing where all were."""
    by_reason: dict[str, list[Record]] = {}
    for record in records:
        if record.status in NOT_RUN:
            by_reason.setdefault(reason(record).rstrip("."), []).append(record)
    return tuple(f"{', '.join(dict.fromkeys(map(_name, found)))}: {why}" for why, found in by_reason.items())


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


def training_sentence(training: ComparedTrainings) -> str:
    """Which model reached the best metric, on how many seeds, and which comes next."""
    if not training.trained:
        record = training.unranked[0]
        counted = Counter(each.status for each in training.unranked)
        statuses = ", ".join(f"{n} `{status}`" for status, n in counted.items())
        return f"`{record.task}`: no trained model may be ranked; {statuses}."
    best, *others = training.trained
    first = best.records[0]
    where = f"`{first.task}` ({first.dataset}, preset {first.preset})"
    if not others:
        return f"{where}: {best.label} reaches {first.metric_name} {_metric(best)}; nothing else was trained there."
    tied = [other for other in others if _value(other.mean) == _value(best.mean)]
    if tied:
        alike = ", ".join(each.label for each in [best, *tied])
        return f"{where}: the best {first.metric_name} is {_metric(best)}, of {alike}."
    second = others[0]
    if min(len(best.records), len(second.records)) == 1:
        doubt = " How much of that is the seed is not known."
    else:
        doubt = "" if best.high < second.low or second.high < best.low else " Their seeds overlap."
    follows = f"next is {second.label} with {_metric(second)}"
    return f"{where}: best {first.metric_name} {_metric(best)} by {best.label}; {follows}.{doubt}"


def failure_sentences(records: Iterable[Record]) -> tuple[str, ...]:
    """How many cells did not end well, by status, with the first reason of each."""
    by_status: dict[str, list[Record]] = {}
    for record in records:
        if record.status != "ok":
            by_status.setdefault(record.status, []).append(record)
    return tuple(
        f"`{status}`: {len(found)} {'cells, such as' if len(found) > 1 else 'cell,'} "
        f"{_name(found[0])} on `{found[0].task}`: {reason(found[0])}"
        for status, found in by_status.items()
    )


def few(records: Sequence[Record]) -> str:
    """Names of the first of some records, and how many more there are."""
    return _listed([_name(record) for record in records])


def names(records: Iterable[Record]) -> str:
    """Names of backends or models with commas between."""
    return ", ".join(_name(record) for record in records)


def unit(record: Record) -> str:
    """Unit of a record's metric; empty where it is a plain number."""
    return "" if record.metric_unit in (None, "1") else str(record.metric_unit)


def _short_fastest(fastest: Fastest | None, timed: Sequence[Record]) -> str:
    if fastest is None:
        return fastest_sentence(fastest, timed)
    best, relation = fastest.record, relative_time(fastest.record)
    time = f"{milliseconds(best.step_s)} ms"
    if best.control is not None and relation is not None:
        time += f", {number(relation[0])} of `{best.control}`{_between(relation[1], relation[2])}"
    if not fastest.undistinguished:
        return f"Fastest: {_name(best)}, {time}."
    return f"Fastest: not decided between {_name(best)}, {time}, and {few(fastest.undistinguished)}."


def _short_least(title: str, least: Least | None, why: str, measure: str) -> str:
    if least is None:
        return f"{title}: not known, because {why}"
    value = f"{least.text} {measure}".strip()
    return f"{title}: {'all alike' if len(least.records) == least.n_compared else few(least.records)}, {value}."


def _fewest(comparison: Comparison) -> tuple[str, ...]:
    """Who needs the fewest evaluations, where nothing else was measured."""
    found = least(
        comparison.ranked,
        lambda record: None if record.nfe_forward is None else record.nfe_forward + (record.nfe_backward or 0),
        str,
    )
    why = "those of fewer than two cells are known."
    return (
        _short_least("Fewest evaluations, forward and backward", found, why, ""),
        "Neither error nor memory nor time was measured; `--measure gradient` measures them.",
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _single(record: Record) -> str:
    if record.status not in ("ok", *NOT_COMPARED):
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
    highest = f"{least.most_text} {measure}".strip()
    return f"{title}: {names(least.records)}, {figure} {value}; the highest has {_name(least.most)}, {highest}."


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
    ends = interval(low, high, scale)
    return f" ({ends})" if ends else ""


def _value(value: float) -> str:
    return number(value, 4)


def _metric(trained: TrainedModel) -> str:
    value = f"{_value(trained.mean)} {unit(trained.records[0])}".strip()
    n = len(trained.records)
    if n == 1:
        return f"{value} (a single seed)"
    return f"{value} (mean of {n} seeds, {_value(trained.low)} to {_value(trained.high)})"
