"""What a gradient of given error costs: time, evaluations and memory, read off each method's work-precision curve.

Methods at one tolerance differ in their errors, so that their times at that tolerance say little. Here each method is
asked what it costs to reach an error. Its curve consists of what it did at several tolerances, or with several fixed
steps. Between neighbouring points the logarithm of a cost is linear in that of the error, and beyond the points nothing
is said. Errors are exact figures; the intervals are of the times.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Literal, Protocol

from nodebench.backends.solvers import method
from nodebench.results.record import Measurement, Record
from nodebench.stats import RatioVerdict, from_logs, log_error, ratio_verdict, student, welch

TARGETS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Relative errors of the gradient at which costs are compared."""

ErrorName = Literal["grad_error_params", "grad_error_y0"]


class Placed(Protocol):
    """What has a place on a work-precision curve: a record, or what a baseline keeps of it."""

    @property
    def solver(self) -> str | None:
        """Name of the solver."""

    @property
    def rtol(self) -> float | None:
        """Relative tolerance."""

    @property
    def atol(self) -> float | None:
        """Absolute tolerance."""

    @property
    def first_step(self) -> float | None:
        """Length of the first step, or of every fixed one."""


Outcome = Literal["reached", "more exact", "not reached"]
"""`more exact`: smaller than asked at the loosest tolerance already, so that what that costs is an upper bound."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, or why there is none.

    Attributes:
        value: The figure; None where it is missing.
        low: Lower end of its interval; None where it has none, and of a figure that is exact.
        high: Upper end.
        reason: Why the figure is missing, in a sentence; None where it is there.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def verdict(self) -> RatioVerdict | None:
        """Of a ratio of times: which of the two is faster; None where it is missing."""
        return None if self.value is None else ratio_verdict(self.low, self.high)


@dataclass(frozen=True)
class Crossing:
    """Where a curve comes down to an error.

    Attributes:
        outcome: Whether it does.
        weights: What the logarithm of a cost is there: the index of a point with its weight, one or two of them that
            add up to 1. Of `more exact` the loosest point; none of `not reached`.
    """

    outcome: Outcome
    weights: tuple[tuple[int, float], ...] = ()


def crossing(errors: Sequence[float], target: float) -> Crossing:
    """Where a work-precision curve comes down to an error for good.

    A curve need not be monotone. What counts is the loosest point from which on the error stays at or below the target:
    a point that is exact by chance, with a worse one at a tighter tolerance, does not count.

    Args:
        errors: Errors of the points, from the loosest tolerance to the tightest.
        target: The error, positive.
    """
    first = len(errors)
    while first and errors[first - 1] <= target:
        first -= 1
    if first == len(errors):
        return Crossing("not reached")
    if not first and errors[0] < target:
        return Crossing("more exact", ((0, 1.0),))
    if errors[first] in (0.0, target):  # an error of zero has no logarithm: it is reached at that point itself
        return Crossing("reached", ((first, 1.0),))
    above, below = log(errors[first - 1] / target), log(target / errors[first])
    share = above / (above + below)
    return Crossing("reached", ((first - 1, 1.0 - share), (first, share)))


@dataclass(frozen=True)
class CostAtError:
    """What it costs a method to reach an error.

    Attributes:
        backend: The gradient method.
        solver: Its solver.
        target: The error, relative.
        outcome: Whether it reaches it. Costs of `more exact` are upper bounds, those of `not reached` are missing.
        error: The error itself where it is reached; the loosest point's of `more exact`; the smallest of all points of
            `not reached`, None where no point has one.
        points: What the costs are interpolated between, one or two records.
        time: Time of a gradient step, in seconds.
        evaluations: Evaluations of the field, forward and backward.
        memory: Peak memory, in bytes.
        ratio: The time relative to the control's at the same error.
    """

    backend: str
    solver: str
    target: float
    outcome: Outcome
    error: float | None
    points: tuple[Record, ...]
    time: Estimate
    evaluations: Estimate
    memory: Estimate
    ratio: Estimate

    @property
    def verdict(self) -> RatioVerdict | None:
        """Against the control: `undecided` where the interval holds 1; None without a ratio."""
        found = self.ratio.verdict
        # The ratio of an upper bound tells what is faster, and nothing else.
        return "undecided" if self.outcome == "more exact" and found == "slower" else found


@dataclass(frozen=True)
class EqualCosts:
    """Costs of several methods at several errors.

    Attributes:
        error: Which error: of d/dparams, or of d/dy0 where the field has no parameters.
        control: Backend and solver that ratios refer to; None where nothing was timed with a control.
        methods: Backend and solver of each method, in the order of the records.
        costs: The costs, by target and then by method.
    """

    error: ErrorName
    control: tuple[str, str] | None
    methods: tuple[tuple[str, str], ...]
    costs: tuple[CostAtError, ...]

    def at(self, target: float) -> list[CostAtError]:
        """The costs of all methods at one error."""
        return [cost for cost in self.costs if cost.target == target]

    @property
    def targets(self) -> list[float]:
        """The errors that at least one method reaches."""
        return list(dict.fromkeys(cost.target for cost in self.costs if cost.outcome == "reached"))


def equal_costs(records: Sequence[Record], targets: Sequence[float] = TARGETS) -> EqualCosts | None:
    """What each method costs at given errors of the gradient.

    The ratio to the control is that of the times at the same error. With weights w of the method's points and v of the
    control's its logarithm is the sum over the tolerances of w log(ratio) + (w - v) log(time of the control), so that
    the machine's drift from one tolerance to the next cancels wherever both need the same. Each such term comes from
    starts of its own; their variances add.

    Args:
        records: Records that differ in nothing but backend, solver and tolerance or step, one of each cell. Those that
            may not be ranked are left out. Times must be of one run on one machine; what is of others has none.
        targets: Errors, positive.

    Returns:
        None where no record has an error of its gradient.
    """
    solved = [record for record in records if record.backend is not None and record.solver is not None]
    error = error_of(record.n_params for record in solved)
    methods = tuple(dict.fromkeys((str(record.backend), str(record.solver)) for record in solved))
    curves = {name: _Curve.of([r for r in solved if (r.backend, r.solver) == name], error) for name in methods}
    if not any(curve.points for curve in curves.values()):
        return None
    control = _control(solved)
    costs = [
        _cost(name, curve, target, None if control is None else (control, curves[control]))
        for target in targets
        for name, curve in curves.items()
    ]
    return EqualCosts(error, control, methods, tuple(costs))


def error_of(n_params: Iterable[int | None]) -> ErrorName:
    """Which error methods are compared at, by the numbers of parameters of their fields."""
    known = {n for n in n_params if n is not None}
    return "grad_error_y0" if known == {0} else "grad_error_params"


def power(error: float) -> str:
    """An error as a person writes it: 1e-4."""
    mantissa, exponent = f"{error:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _control(records: Sequence[Record]) -> tuple[str, str] | None:
    """The control of the first group that has one."""
    timed = [record for record in records if record.step_s is not None]
    named = {record.control for record in timed}
    found = next((record for record in timed if record.control is None and record.backend in named), None)
    return None if found is None else (str(found.backend), str(found.solver))


@dataclass(frozen=True)
class _Curve:
    """The points of a method from the loosest to the tightest, and after the last those without a figure of error."""

    points: tuple[Record, ...]
    errors: tuple[float, ...]
    unstated: tuple[Record, ...]

    @classmethod
    def of(cls, records: Iterable[Record], error: ErrorName) -> "_Curve":
        ordered = sorted((record for record in records if record.ok), key=looseness, reverse=True)
        points = [record for record in ordered if getattr(record, error) is not None]
        last = ordered.index(points[-1]) if points else -1
        errors = tuple(getattr(record, error) for record in points)
        return cls(tuple(points), errors, tuple(ordered[last + 1 :]))


def looseness(measured: Placed) -> tuple[float, float, float]:
    """What the points of a curve are sorted by: the tolerances, then the step, of which all fixed ones are."""
    return (measured.rtol or 0.0, measured.atol or 0.0, measured.first_step or 0.0)


def _cost(
    name: tuple[str, str], curve: _Curve, target: float, control: tuple[tuple[str, str], _Curve] | None
) -> CostAtError:
    found = crossing(curve.errors, target)
    points = tuple(curve.points[index] for index, _ in found.weights)
    error: float | None = target
    if found.outcome == "not reached":
        missing = Estimate(None, reason=_why_not(curve, target))
        error = min(curve.errors, default=None)
        return CostAtError(*name, target, found.outcome, error, points, *[missing] * 4)
    if found.outcome == "more exact":
        error = curve.errors[0]
    weighted = [(curve.points[index], weight) for index, weight in found.weights]
    return CostAtError(
        *name,
        target,
        found.outcome,
        error,
        points,
        _time(weighted),
        _exact(weighted, evaluations, "evaluations"),
        _exact(weighted, lambda record: record.peak_memory_bytes, "peak memory"),
        _ratio(name, weighted, target, control),
    )


def evaluations(measured: Measurement) -> int | None:
    """Evaluations of the field, forward and backward; None where either was not counted."""
    if measured.nfe_forward is None or measured.nfe_backward is None:
        return None
    return measured.nfe_forward + measured.nfe_backward


def place(record: Placed) -> str:
    """Where on its curve a record stands, in words."""
    if record.solver is not None and not method(record.solver).adaptive:
        return f"step {record.first_step:.3g}" if record.first_step else "an unknown step"
    return f"rtol {record.rtol:g}" if record.rtol else "an unknown tolerance"


def _why_not(curve: _Curve, target: float) -> str:
    if not curve.points:
        return "not reached: no error of its gradient is stated."
    smallest = min(curve.errors)
    at = curve.points[curve.errors.index(smallest)]
    if smallest <= target:
        last = max(index for index, error in enumerate(curve.errors) if error > target)
        return (
            f"not kept: the error is {smallest:.2g} at {place(at)}, and {curve.errors[last]:.2g} at "
            f"{place(curve.points[last])}."
        )
    more = f"; none is stated at {place(curve.unstated[-1])}" if curve.unstated else ""
    return f"not reached: the smallest error is {smallest:.2g}, at {place(at)}{more}."


def _exact(weighted: Sequence[tuple[Record, float]], value: Callable[[Record], float | None], figure: str) -> Estimate:
    """A figure that has no interval, interpolated."""
    known = [(value(record), weight) for record, weight in weighted]
    logs = 0.0
    for (record, _), (found, weight) in zip(weighted, known, strict=True):
        if not found:  # zero has no logarithm
            return Estimate(None, reason=f"no {figure} at {place(record)}.")
        logs += weight * log(found)
    return Estimate(exp(logs) if len(known) > 1 else known[0][0])


@dataclass(frozen=True)
class Term:
    """A part of the logarithm of a time or a ratio, which is independent of the other parts.

    Attributes:
        centre: The estimate.
        error: Its standard error; None where it has none, being of a single start.
        degrees: Degrees of freedom of the error.
    """

    centre: float
    error: float | None
    degrees: int


def summed(terms: Sequence[Term]) -> Estimate:
    """What independent terms of a logarithm come to, with Student's interval where each has an error."""
    centre = sum(term.centre for term in terms)
    known = [(term.error, term.degrees) for term in terms if term.error is not None]
    if not known or len(known) < len(terms):
        return Estimate(exp(centre))
    error, degrees = welch(*known)
    return Estimate(*from_logs(centre, student(degrees) * error))


def time_term(measured: Measurement, weight: float) -> Term | None:
    """`weight` times the logarithm of the time of a step; None where there is no time."""
    if measured.step_s is None:
        return None
    degrees, error = _degrees(measured), _time_error(measured)
    return Term(weight * log(measured.step_s), None if error is None else abs(weight) * error, degrees)


def ratio_term(measured: Measurement, weight: float) -> Term | None:
    """`weight` times the logarithm of the ratio to the control; None where there is no ratio."""
    if measured.ratio is None:
        return None
    error = _ratio_error(measured)
    return Term(weight * log(measured.ratio), None if error is None else abs(weight) * error, _degrees(measured))


def time_ratio(one: Record, other: Record) -> Estimate:
    """Time of one cell relative to that of another, of two that were timed in turns with one control.

    Args:
        one: The cell; it or the other may be the control.
        other: The other cell.
    """
    terms = []
    for record, weight in ((one, 1.0), (other, -1.0)):
        if record.control is not None:
            term = ratio_term(record, weight)
            if term is None:
                return Estimate(None, reason=f"`{record.backend}` has no ratio to the control.")
            terms.append(term)
    return summed(terms)


def paired_term(measured: Measurement, control: Measurement, on_ratio: float, on_control: float) -> Term | None:
    """`on_ratio` times the logarithm of a ratio, and `on_control` times that of the time of its control.

    Ratio and time of the control come from the same starts and depend on each other. What is known of the time of the
    cell itself, which is their product, tells how: Var(log t) = Var(log r) + Var(log c) + 2 Cov(log r, log c).

    Args:
        measured: The cell, with the ratio to its control.
        control: The control of its group.
        on_ratio: Weight of the ratio.
        on_control: Weight of the control's time; where it is 0 the time need not be known.

    Returns:
        None where a ratio or time that has a weight is missing.
    """
    of_ratio = ratio_term(measured, 1.0)
    if of_ratio is None or not on_control:
        return ratio_term(measured, on_ratio)
    of_control, of_own = time_term(control, 1.0), time_term(measured, 1.0)
    if of_control is None or of_own is None:
        return None
    centre = on_ratio * of_ratio.centre + on_control * of_control.centre
    if of_ratio.error is None or of_control.error is None or of_own.error is None:
        return Term(centre, None, of_ratio.degrees)
    most = of_ratio.error * of_control.error
    covariance = min(max((of_own.error**2 - of_ratio.error**2 - of_control.error**2) / 2, -most), most)
    variance = (
        (on_ratio * of_ratio.error) ** 2 + (on_control * of_control.error) ** 2 + 2 * on_ratio * on_control * covariance
    )
    return Term(centre, sqrt(max(variance, 0.0)), of_ratio.degrees)


def _degrees(measured: Measurement) -> int:
    return (measured.n_starts or 0) - 1


def _time_error(measured: Measurement) -> float | None:
    return _log_error(measured.step_s_low, measured.step_s_high, _degrees(measured))


def _ratio_error(measured: Measurement) -> float | None:
    return _log_error(measured.ratio_low, measured.ratio_high, _degrees(measured))


def _log_error(low: float | None, high: float | None, degrees: int) -> float | None:
    return None if low is None or high is None or degrees < 1 else log_error(low, high, degrees)


def _time(weighted: Sequence[tuple[Record, float]]) -> Estimate:
    terms = []
    for record, weight in weighted:
        term = time_term(record, weight)
        if term is None:
            return Estimate(None, reason=_no_time(record))
        terms.append(term)
    return summed(terms)


def _no_time(record: Record) -> str:
    return f"no time at {place(record)} of the run and machine whose times are compared."


def _ratio(
    name: tuple[str, str],
    weighted: Sequence[tuple[Record, float]],
    target: float,
    control: tuple[tuple[str, str], _Curve] | None,
) -> Estimate:
    """The time relative to the control's at the same error."""
    if control is None:
        return Estimate(None, reason="nothing was timed with a control.")
    its_name, its_curve = control
    if its_name == name:
        return Estimate(None, reason="the control.")
    found = crossing(its_curve.errors, target)
    if found.outcome != "reached":
        why = {"not reached": "does not reach this error", "more exact": "is more exact already at its loosest point"}
        return Estimate(None, reason=f"the control, `{its_name[0]}`, {why[found.outcome]}.")
    others = {_group(its_curve.points[index]): (its_curve.points[index], weight) for index, weight in found.weights}
    return _related(weighted, others, its_name[0])


def _related(
    weighted: Sequence[tuple[Record, float]], others: Mapping[Hashable, tuple[Record, float]], control: str
) -> Estimate:
    terms = []
    left = dict(others)
    for record, weight in weighted:
        pair = left.pop(_group(record), None) if record.control == control and record.ratio is not None else None
        # What was timed with the very point of the control that is needed is related to it in pairs.
        term = time_term(record, weight) if pair is None else paired_term(record, pair[0], weight, weight - pair[1])
        if term is None:
            return Estimate(None, reason=_no_time(record))
        terms.append(term)
    for record, weight in left.values():
        term = time_term(record, -weight)
        if term is None:
            return Estimate(None, reason=f"`{control}` has {_no_time(record)}")
        terms.append(term)
    return summed(terms)


def _group(record: Record) -> Hashable:
    """By what records are known to have been timed in turns with each other, and against one control."""
    return (
        record.run_id, record.node, record.environment, record.solver, record.rtol, record.atol, record.first_step,
    )  # fmt: skip
