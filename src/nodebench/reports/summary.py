"""The answers to a comparison, as facts drawn from its figures; `sentences` puts them into words."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from nodebench.reports.comparison import NOT_COMPARED, Comparison, fixed_step, grouped, label, newest
from nodebench.reports.formatting import mebibytes, number
from nodebench.results.record import Record


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
    """

    records: tuple[Record, ...]
    text: str
    n_compared: int
    most: Record


@dataclass(frozen=True)
class Answer:
    """What a comparison says.

    Attributes:
        comparison: The comparison.
        fastest: Who was fastest; None where fewer than two cells were timed together.
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
class Trained:
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
class Training:
    """Models trained on the same data with the same budget.

    Attributes:
        trained: The models, the best first.
        unranked: Records with a metric that must not be ranked.
    """

    trained: tuple[Trained, ...]
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
    _, most = max(found, key=lambda pair: pair[0])
    return Least(tuple(r for value, r in found if text(value) == text(best)), text(best), len(found), most)


def front(timed: Sequence[Record]) -> tuple[Record, ...]:
    """Cells that none on the front dominates in error, memory and time; empty where it cannot be told.

    It cannot where fewer than two have all three figures, or where one lacks error or memory and may be the best.

    Errors and bytes that print alike are equal, and so are times that cannot be told apart. To be told apart is not
    transitive: a cell that is not on the front keeps no other from it.
    """
    places = [(place, record) for record in timed if (place := _place(record)) is not None]
    if len(places) < 2 or lacking(timed, "grad_error_params", "peak_memory_bytes"):
        return ()
    found: list[Record] = []
    # In this order each comes after all that may dominate it.
    for _, record in sorted(places, key=lambda pair: pair[0]):
        if not any(_dominates(other, record) for other in found):
            found.append(record)
    return tuple(record for _, record in places if any(record is each for each in found))


def lacking(records: Iterable[Record], *fields: str) -> tuple[Record, ...]:
    """Those of the records that lack any of some fields."""
    return tuple(record for record in records if any(getattr(record, name) is None for name in fields))


def fastest(timed: Sequence[Record]) -> Fastest | None:
    """Who took the least time of cells that were timed together; None where fewer than two were."""
    found = [(time[0], record) for record in timed if (time := relative_time(record)) is not None]
    if len(timed) < 2 or not found:
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
    if first is None or second is None or "undecided" in _verdict_between(one, other):
        return False
    return first[2] < second[1]


def trainings(records: Iterable[Record]) -> list[Training]:
    """What was trained on the same data with the same budget, in the order of its first record."""
    trained = newest(record for record in records if record.metric_value is not None)
    groups = grouped(trained, lambda r: (r.task, r.dataset, r.preset, r.metric_name, r.device))
    return [_training(group) for group in groups]


def _training(records: Sequence[Record]) -> Training:
    ranked = (record for record in records if record.status == "ok")
    models = [
        _one_of_each_seed(same) for same in grouped(ranked, lambda r: (_name(r), *_training_settings(r).values()))
    ]
    sign = -1 if records[0].metric_direction == "higher" else 1
    labels = _labels([same[0] for same in models])
    trained = sorted(map(_trained, labels, models), key=lambda each: sign * each.mean)
    return Training(tuple(trained), tuple(record for record in records if record.status != "ok"))


def _one_of_each_seed(records: Sequence[Record]) -> list[Record]:
    """The newest of each seed: the gradient's time span, say, makes another cell and the same training."""
    seeds: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: r.created_at):
        seeds[record.seed] = record
    return list(seeds.values())


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


def _name(record: Record) -> str:
    return f"{record.model} with `{record.backend}`" if record.backend else record.model


def _labels(firsts: Sequence[Record]) -> list[str]:
    """A label for each of several trainings: its name, and where others have that name too, what sets it apart."""
    labels = []
    for record in firsts:
        own = _training_settings(record)
        others = [_training_settings(other) for other in firsts if _name(other) == _name(record)]
        unlike = [f"{key} {_text(value)}".strip() for key, value in own.items() if {o[key] for o in others} != {value}]
        labels.append(_name(record) + (f" ({', '.join(unlike)})" if unlike else ""))
    return labels


def _text(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)


def _trained(label: str, records: Sequence[Record]) -> Trained:
    values = [record.metric_value for record in records if record.metric_value is not None]
    return Trained(label, tuple(records), fsum(values) / len(values), min(values), max(values))


def _verdict_between(one: Record, other: Record) -> tuple[str | None, ...]:
    """What the record says of two cells of which one is the control of the other."""
    pairs = ((one, other), (other, one))
    return tuple(first.verdict for first, second in pairs if first.control == label(second) and second.control is None)


def _place(record: Record) -> tuple[float, float, float] | None:
    """Error and bytes as they print, and time relative to the control's; None where one is missing."""
    error, memory, time = record.grad_error_params, record.peak_memory_bytes, relative_time(record)
    if error is None or memory is None or time is None:
        return None
    return (float(number(error, 2)), float(mebibytes(memory)), time[0])


def _dominates(one: Record, other: Record) -> bool:
    first, second = _place(one), _place(other)
    if first is None or second is None or surely_faster(other, one):
        return False
    as_good = first[0] <= second[0] and first[1] <= second[1]
    return as_good and (first[:2] != second[:2] or surely_faster(one, other))
