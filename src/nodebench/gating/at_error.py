"""The comparison at equal error: whether a method costs more than it did to reach an error, or reaches it no more.

At one tolerance a method may become faster by becoming less exact. Read off its curve over several tolerances
(`nodebench.results.equal_cost`) that is no improvement. All of it follows from figures that a baseline keeps anyway.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import exp, log

from nodebench.gating.baseline import Baseline, BaselineCell
from nodebench.gating.finding import Finding, FindingVerdict
from nodebench.gating.thresholds import (
    AT_ERROR,
    BYTES_AT_ERROR,
    FIGURES,
    FOLLOWS,
    NFE_AT_ERROR,
    TIME_AT_ERROR,
    Thresholds,
)
from nodebench.results.equal_cost import (
    TARGETS,
    Crossing,
    ErrorName,
    Estimate,
    Term,
    crossing,
    error_of,
    evaluations,
    looseness,
    paired_term,
    power,
    ratio_term,
    summed,
    time_term,
)
from nodebench.results.quantities import Band
from nodebench.results.record import SettingsPart

SETTINGS = tuple(f.name for f in fields(SettingsPart) if f.name != "cell_id")

VARIED = ("rtol", "atol", "max_steps")
"""Settings in which the points of a curve differ."""

OWN = ("backend", "framework", "max_steps")
"""Settings in which a cell may differ from its control."""

NEGLIGIBLE = 1e-9
"""A weight that rounding has left."""

OF = {**FOLLOWS, NFE_AT_ERROR: "nfe_forward"}
"""Figures of cells that those at an error are worked out from."""

NAMES = {TIME_AT_ERROR: "time", NFE_AT_ERROR: "NFE", BYTES_AT_ERROR: "bytes"}
"""What figures at an error begin with."""


@dataclass(frozen=True)
class _Curve:
    """The points of a method on one side, from the loosest tolerance to the tightest, with their errors."""

    cells: tuple[BaselineCell, ...]
    errors: tuple[float, ...]

    def at(self, target: float) -> "_Place":
        return _Place(self, crossing(self.errors, target))


@dataclass(frozen=True)
class _Place:
    """Where a curve comes down to an error."""

    curve: _Curve
    crossing: Crossing

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the points, by the ids of their cells."""
        return {self.curve.cells[index].cell_id: weight for index, weight in self.crossing.weights}

    @property
    def is_reached(self) -> bool:
        """Whether costs there are known; those of what is more exact at its loosest point are upper bounds."""
        return self.crossing.outcome == "reached"

    def cost(self, value: Callable[[BaselineCell], float | None]) -> float | None:
        """A cost, interpolated; None where a point lacks it."""
        known = [(value(self.curve.cells[index]), weight) for index, weight in self.crossing.weights]
        logs = [weight * log(found) for found, weight in known if found]
        return exp(sum(logs)) if logs and len(logs) == len(known) else None


@dataclass(frozen=True)
class _Places:
    """Where both sides reach an error, and one that is larger by as much as an error may move within its band."""

    old: _Place
    new: _Place
    old_within: _Place
    new_within: _Place


@dataclass(frozen=True)
class _Method:
    """A method on both sides.

    Attributes:
        cell: The candidate's loosest point without its tolerances: what findings name.
        old: The baseline's curve.
        new: The candidate's.
        controls: The candidate's cells, by what a cell has in common with its control.
        before: The baseline's cells by id.
        after: The candidate's cells by id.
    """

    cell: BaselineCell
    old: _Curve
    new: _Curve
    controls: Mapping[Hashable, BaselineCell]
    before: Mapping[str, BaselineCell]
    after: Mapping[str, BaselineCell]


def error_findings(old: Baseline, new: Baseline, cell_ids: Iterable[str], thresholds: Thresholds) -> Iterator[Finding]:
    """What is to be said at errors of 1e-2 to 1e-8 of each method that has several tolerances on both sides.

    Args:
        old: The baseline.
        new: The candidate.
        cell_ids: Cells of both that are of one problem. A tolerance that one side lacks says nothing of the other.
        thresholds: How far a figure may move.
    """
    curves: dict[Hashable, list[str]] = {}
    for cell_id in cell_ids:
        cell = new.cells[cell_id]
        if cell.backend is not None and cell.solver is not None:
            curves.setdefault(_without(cell, VARIED), []).append(cell_id)
    controls = {_with_control(cell, cell.backend): cell for cell in new.cells.values()}
    for own in curves.values():
        pairs = sorted(((old.cells[i], new.cells[i]) for i in own), key=lambda pair: looseness(pair[1]), reverse=True)
        error = error_of(cell.n_params for _, cell in pairs)
        pairs = [pair for pair in pairs if _is_comparable(pair, error)]
        before, after = (_curve((pair[side] for pair in pairs), error) for side in (0, 1))
        if max(len(before.cells), len(after.cells)) > 1 and before.cells:
            cell = replace(pairs[0][1], rtol=None, atol=None)
            yield from _method_findings(_Method(cell, before, after, controls, old.cells, new.cells), error, thresholds)


def in_curves(cells: Iterable[BaselineCell]) -> list[BaselineCell]:
    """Those that are one of several tolerances of a method."""
    methods: dict[Hashable, dict[Hashable, list[BaselineCell]]] = {}
    for cell in cells:
        if cell.ok and cell.backend is not None and cell.solver is not None:
            methods.setdefault(_without(cell, VARIED), {}).setdefault((cell.rtol, cell.atol), []).append(cell)
    return [cell for points in methods.values() if len(points) > 1 for each in points.values() for cell in each]


def _without(cell: BaselineCell, names: Iterable[str]) -> Hashable:
    return tuple(getattr(cell, name) for name in SETTINGS if name not in names)


def _with_control(cell: BaselineCell, backend: str | None) -> Hashable:
    """What a cell and its control have in common, with the backend of one of them."""
    return (_without(cell, OWN), cell.first_step, backend)


def _is_comparable(pair: tuple[BaselineCell, BaselineCell], error: ErrorName) -> bool:
    """Whether a tolerance may stand on both curves: an error that one side cannot state has not become worse."""
    return not all(cell.ok for cell in pair) or None not in (getattr(cell, error) for cell in pair)


def _curve(cells: Iterable[BaselineCell], error: ErrorName) -> _Curve:
    points = tuple(cell for cell in cells if cell.ok and getattr(cell, error) is not None)
    return _Curve(points, tuple(getattr(cell, error) for cell in points))


def _method_findings(method: _Method, error: ErrorName, thresholds: Thresholds) -> Iterator[Finding]:
    names = (method.cell.task, method.cell.backend)
    allowed = thresholds.band(error, *names)
    for target in TARGETS:
        within = target + allowed.allowed(target, method.cell.dtype)
        places = _Places(method.old.at(target), method.new.at(target), method.old.at(within), method.new.at(within))
        outcomes = (places.old.crossing.outcome, places.new.crossing.outcome)
        if outcomes[0] == outcomes[1] != "reached":
            continue  # both cost an unknown amount
        if "not reached" in outcomes:
            yield from _reaching(method, places, target)
            continue
        for metric in AT_ERROR:
            band = thresholds.band(metric, *names)
            if not band.ignored:
                found = _at_error(method, places, metric, band)
                if found is None and thresholds.band(OF[metric], *names).ignored:
                    found = _missing(method, places, metric)  # of which the cells themselves say nothing
                if found is not None:
                    yield replace(found, metric=f"{NAMES[metric]} at error {power(target)}")


def _at_error(method: _Method, places: _Places, metric: str, band: Band) -> Finding | None:
    return _time(method, places, band) if metric == TIME_AT_ERROR else _exact(method, places, metric, band)


def _missing(method: _Method, places: _Places, metric: str) -> Finding | None:
    """That a figure has vanished from the points of a curve; None where it has not."""
    before = [getattr(method.before[cell_id], name) for cell_id in places.old.weights for name in FIGURES[metric]]
    lacking = [
        cell
        for cell_id in places.new.weights
        if None in (getattr(cell := method.after[cell_id], n) for n in FIGURES[metric])
    ]
    if None in before or not lacking:
        return None
    reason = f"the baseline has it, the candidate does not: {lacking[0].label} lacks {' or '.join(FIGURES[metric])}."
    return Finding(cell=method.cell, metric=metric, verdict="missing", reason=reason, derived=True)


def _reaching(method: _Method, places: _Places, target: float) -> Iterator[Finding]:
    """That an error is reached on one side alone; nothing where the band of errors may be all that decides."""
    is_worse = places.new.crossing.outcome == "not reached"
    if (places.new_within if is_worse else places.old_within).crossing.outcome == "not reached":
        curve = method.new if is_worse else method.old
        smallest = f"{min(curve.errors):.2g}" if curve.errors else "not stated"
        reason = f"the smallest error {'is' if is_worse else 'was'} {smallest}."
        old, new = places.old.crossing.outcome, places.new.crossing.outcome
        verdict: FindingVerdict = "regression" if is_worse else "improvement"
        metric = f"reaching error {power(target)}"
        yield Finding(cell=method.cell, metric=metric, verdict=verdict, reason=reason, old=old, new=new, derived=True)


def _exact(method: _Method, places: _Places, metric: str, band: Band) -> Finding | None:
    """What is to be said of evaluations or bytes at an error; None where one side does not know them."""
    value = evaluations if metric == NFE_AT_ERROR else lambda cell: cell.peak_memory_bytes
    old, new = places.old.cost(value), places.new.cost(value)
    old_within, new_within = places.old_within.cost(value), places.new_within.cost(value)
    if old is None or new is None or old_within is None or new_within is None:
        return None
    verdict: FindingVerdict = "same"
    if places.new_within.is_reached and _exceeds(new_within, old, band):
        verdict = "regression"
    elif places.old_within.is_reached and _exceeds(old_within, new, band):
        verdict = "improvement"
    elif not places.new.is_reached and _exceeds(new, old, band):
        verdict = "undecided"
    reason = "" if verdict == "same" else f"{new / old:.3g} times what it was{_bound(places)}."
    unit = AT_ERROR[metric].unit
    return Finding(
        cell=method.cell, metric=metric, verdict=verdict, reason=reason, old=old, new=new, unit=unit, derived=True
    )


def _exceeds(one: float, other: float, band: Band) -> bool:
    return one - other > band.allowed(other, "")


def _bound(places: _Places) -> str:
    """What is to be known of a ratio of which a side is more exact than asked at its loosest tolerance."""
    if not places.new.is_reached:
        return " at most: it is more exact already at its loosest tolerance"
    return "" if places.old.is_reached else " at least: it was more exact already at its loosest tolerance"


def _time(method: _Method, places: _Places, band: Band) -> Finding | None:
    """What is to be said of the time at an error; None where the figures of the cells say what is missing."""
    limit = 1 + band.relative
    found, worst, best = (
        _slowdown(method, old, new)
        for old, new in (
            (places.old, places.new), (places.old, places.new_within), (places.old_within, places.new),
        )
    )  # fmt: skip
    if found is None or worst is None or best is None or found.value is None:
        return None
    verdict: FindingVerdict = "undecided"
    if places.new_within.is_reached and worst.low is not None and worst.low > limit:
        verdict = "regression"
    elif places.old_within.is_reached and best.high is not None and best.high < 1 / limit:
        verdict = "improvement"
    elif found.high is not None and found.high <= limit:
        verdict = "same"
    elif not places.old.is_reached:
        return None  # it may have been anything below that
    reason = "" if verdict == "same" else _explained(found, limit, verdict, _bound(places))
    return Finding(
        cell=method.cell,
        metric=TIME_AT_ERROR,
        verdict=verdict,
        reason=reason,
        old=1.0,
        new=found.value,
        low=found.low,
        high=found.high,
        unit="ratio",
        derived=True,
    )


def _explained(found: Estimate, limit: float, verdict: FindingVerdict, bound: str) -> str:
    if found.low is None or found.high is None:
        return "a ratio of a single start has no interval; measure with more rounds."
    text = f"{found.value:.3g} times what it was, {found.low:.3g} to {found.high:.3g}{bound}"
    more = " More starts (--budget-s, --precision) make the interval narrower." if not bound else ""
    return f"{text}; the limit is {limit:.4g}.{more}" if verdict == "undecided" else f"{text}."


def _slowdown(method: _Method, old: _Place, new: _Place) -> Estimate | None:
    """Time at an error relative to what it was; None where a ratio or the time of a control is not known.

    With weights w of the baseline's points, w' of the candidate's, ratios r and r' to the control and its time c, the
    logarithm is sum w' log r' - sum w log r + sum (w' - w) log c. Where the errors are what they were the control's
    time drops out. Where both versions took turns the other one is the control, and r is 1.
    """
    terms: list[Term | None] = []
    for cell_id in {**old.weights, **new.weights}:
        before, after = old.weights.get(cell_id, 0.0), new.weights.get(cell_id, 0.0)
        shift = after - before if abs(after - before) > NEGLIGIBLE else 0.0
        then, now = method.before[cell_id], method.after[cell_id]
        name = now.control or then.control
        control = then if now.paired else method.controls.get(_with_control(now, name))
        if after:
            terms.append(_related(now, control, after, shift))
        elif shift:
            terms.append(None if control is None else time_term(control, shift))
        if before and not now.paired:
            terms.append(ratio_term(then, -before) if then.control == name else None)
    known = [term for term in terms if term is not None]
    return summed(known) if len(known) == len(terms) else None


def _related(cell: BaselineCell, control: BaselineCell | None, on_ratio: float, on_control: float) -> Term | None:
    if not on_control:
        return ratio_term(cell, on_ratio)
    return None if control is None else paired_term(cell, control, on_ratio, on_control)
