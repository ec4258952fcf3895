"""Costs at equal error are those of known laws, never beyond what was measured, with intervals that cover."""

from math import exp, log

import numpy as np
import pytest
from synthetic import N_STARTS, RTOLS, curve, interval, record, timed

from nodebench.results.equal_cost import TARGETS, crossing, equal_costs, paired_term, ratio_term, summed, time_term
from nodebench.stats import student


def at(records, backend, target):
    """What a method costs at an error."""
    found = equal_costs(records)
    return next(cost for cost in found.at(target) if cost.backend == backend)


def test_a_power_law_is_interpolated_exactly():
    """Time, evaluations and memory of cost ~ error^-p at every error between the loosest and the tightest point."""
    records = curve("direct", 1.0)
    for target in (1e-3, 3e-4, 1e-4, 1e-5, 2e-6, 1e-7):
        (cost,) = equal_costs(records, [target]).costs
        expected = target**-0.2
        assert cost.outcome == "reached"
        assert cost.time.value == pytest.approx(0.001 * expected)
        assert cost.evaluations.value == pytest.approx(1e6 * expected, rel=1e-5)
        assert cost.memory.value == pytest.approx(2**20 * expected, rel=1e-5)
        assert cost.error == target


def test_methods_are_compared_at_equal_error_and_not_at_equal_tolerance():
    """Twice as slow at each tolerance and a hundred times as exact: at equal error it is the faster one."""
    records = [*curve("direct", 1.0), *curve("adjoint", 0.01, ratio=0.8)]
    assert all(each.ratio > 1.5 for each in records[3:])
    cost = at(records, "adjoint", 1e-6)
    assert cost.ratio.value == pytest.approx(0.8)
    assert cost.verdict == "faster"
    assert [point.rtol for point in cost.points] == [1e-3, 1e-5]


def test_nothing_is_extrapolated():
    """Beyond the tightest point an error is not reached, and before the loosest the cost is an upper bound."""
    records = [*curve("direct", 1.0), *curve("adjoint", 10.0, ratio=1.0)]
    tight, loose = at(records, "adjoint", 1e-7), at(records, "direct", 1e-2)
    assert (tight.outcome, tight.time.value, tight.evaluations.value, tight.memory.value) == (
        "not reached",
        *[None] * 3,
    )
    assert tight.error == pytest.approx(1e-6)
    assert tight.time.reason == tight.ratio.reason == "not reached: the smallest error is 1e-06, at rtol 1e-07."
    assert (loose.outcome, loose.error, loose.time.value) == ("more exact", 1e-3, pytest.approx(records[0].step_s))
    assert equal_costs(records).targets == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
    assert "adjoint" not in {cost.backend for cost in equal_costs(records).at(1e-8) if cost.outcome != "not reached"}


@pytest.mark.parametrize(
    ("errors", "target", "outcome", "between"),
    [
        ((1e-2, 1e-4, 1e-3, 1e-5), 1e-4, "reached", (2, 3)),  # reached by chance, lost, and reached for good
        ((1e-2, 1e-3, 1e-5, 1e-4), 1e-4, "reached", (1, 2)),  # what lies at or below it later stays reached
        ((1e-2, 1e-5, 1e-4), 1e-5, "not reached", ()),  # the tightest is worse
        ((1e-2, 1e-5, 1e-4), 1e-3, "reached", (0, 1)),
        ((1e-4, 1e-2, 1e-5), 1e-3, "reached", (1, 2)),  # exact by chance at the loosest
        ((1e-4, 1e-5), 1e-3, "more exact", (0,)),
        ((1e-2, 1e-4), 1e-4, "reached", (1,)),
        ((1e-2, 0.0), 1e-4, "reached", (1,)),  # no logarithm
        ((0.0, 0.0), 1e-4, "more exact", (0,)),
        ((1e-3,), 1e-3, "reached", (0,)),
        ((), 1e-3, "not reached", ()),
    ],
)
def test_a_curve_need_not_be_monotone(errors, target, outcome, between):
    """What counts is the loosest point from which on the error stays at or below the target."""
    found = crossing(errors, target)
    assert (found.outcome, tuple(index for index, _ in found.weights)) == (outcome, between)
    assert sum(weight for _, weight in found.weights) == pytest.approx(1 if between else 0)


def test_an_error_that_was_not_kept_says_so():
    """The smallest error alone would look as if it had been reached."""
    records = curve("direct", 1.0)
    records[2] = timed("direct", rtol=1e-7, grad_error_params=1e-4)
    (cost,) = equal_costs(records, [1e-5]).costs
    assert cost.time.reason == "not kept: the error is 1e-05 at rtol 1e-05, and 0.0001 at rtol 1e-07."


def test_what_may_not_be_ranked_and_what_has_no_error_are_left_out():
    """A wrong gradient is no point; an error that its reference cannot state is told where it might have decided."""
    records = curve("direct", 1.0)
    wrong = timed("direct", rtol=1e-9, grad_error_params=1e-9, status="wrong_gradient", reason="it differs.")
    unstated = timed("direct", rtol=1e-9, grad_error_params=None)
    (cost,) = equal_costs([*records, wrong], [1e-8]).costs
    assert cost.time.reason == "not reached: the smallest error is 1e-07, at rtol 1e-07."
    (cost,) = equal_costs([*records, unstated], [1e-8]).costs
    assert cost.time.reason.endswith("at rtol 1e-07; none is stated at rtol 1e-09.")
    assert equal_costs([unstated]) is None


def test_the_error_is_that_of_y0_where_the_field_has_no_parameters():
    """There is no other gradient."""
    records = [
        timed("direct", rtol=rtol, grad_error_params=None, grad_error_y0=10 * rtol, n_params=0) for rtol in RTOLS
    ]
    found = equal_costs([*records, timed("adjoint", rtol=1e-3, status="failed", reason="it failed.", n_params=None)])
    assert (found.error, found.targets) == ("grad_error_y0", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])


def test_missing_figures_have_a_reason():
    """Per figure: what has a time may lack memory, and the other way round."""
    records = curve("direct", 1.0, peak_memory_bytes=None)
    records[1] = timed("direct", rtol=1e-5, grad_error_params=1e-5, step_s=None, nfe_backward=None)
    (cost,) = equal_costs(records, [1e-4]).costs
    assert cost.memory.reason == "no peak memory at rtol 0.001."
    assert cost.time.reason.startswith("no time at rtol 1e-05")
    assert cost.evaluations.reason == "no evaluations at rtol 1e-05."
    assert cost.ratio.reason == "nothing was timed with a control."


def test_a_ratio_needs_a_control_that_reaches_the_error():
    """Else it is missing with its reason; the control has none to itself."""
    records = [*curve("direct", 1.0), *curve("adjoint", 0.01, ratio=1.0), *curve("scipy", 100.0, ratio=1.0)]
    assert at(records, "adjoint", 1e-8).ratio.reason == "the control, `direct`, does not reach this error."
    assert (
        at(records, "scipy", 1e-2).ratio.reason == "the control, `direct`, is more exact already at its loosest point."
    )
    assert at(records, "direct", 1e-4).ratio.reason == "the control."


def test_the_ratio_of_an_upper_bound_tells_what_is_faster_and_nothing_else():
    """Cheaper than the control though more exact than asked is faster; dearer says nothing."""
    fast, slow = curve("adjoint", 0.01, ratio=0.1), curve("scipy", 0.01, ratio=5.0)
    records = [*curve("direct", 1.0), *fast, *slow]
    assert [at(records, name, 1e-4).outcome for name in ("adjoint", "scipy")] == ["more exact"] * 2
    assert [at(records, name, 1e-4).verdict for name in ("adjoint", "scipy")] == ["faster", "undecided"]


def test_an_interval_that_holds_1_is_undecided():
    """And so is a ratio without one, of a single start."""
    close = [*curve("direct", 1.0), *curve("adjoint", 1.0, ratio=1.01)]
    assert at(close, "adjoint", 1e-4).verdict == "undecided"
    single = [*curve("direct", 1.0, n_starts=1), *curve("adjoint", 1.0, ratio=2.0, n_starts=1)]
    cost = at(single, "adjoint", 1e-4)
    assert cost.ratio.value == pytest.approx(2.0)
    assert (cost.ratio.low, cost.time.low, cost.verdict) == (None, None, "undecided")


def test_drift_between_tolerances_cancels_where_both_need_the_same():
    """A machine that slows down threefold in the middle changes neither the ratio nor its interval."""
    calm, rough = (
        at([*curve("direct", 1.0, drift=drift), *curve("adjoint", 1.0, ratio=1.5, drift=drift)], "adjoint", 1e-4).ratio
        for drift in ((1.0, 1.0, 1.0), (1.0, 3.0, 1.0))
    )
    assert rough.value == pytest.approx(calm.value)
    assert (rough.low, rough.high) == (pytest.approx(calm.low), pytest.approx(calm.high))


def test_the_ratio_is_that_of_the_times_where_the_two_need_other_tolerances():
    """As the times say, and wider than where pairs decide alone."""
    records = [*curve("direct", 1.0), *curve("adjoint", 1e-3, ratio=2.0, error=0.02)]
    cost, control = at(records, "adjoint", 1e-6), at(records, "direct", 1e-6)
    assert cost.ratio.value == pytest.approx(cost.time.value / control.time.value)
    paired = at([*curve("direct", 1.0), *curve("adjoint", 1.0, ratio=2.0, error=0.02)], "adjoint", 1e-6).ratio
    assert cost.ratio.high / cost.ratio.low > paired.high / paired.low


def test_solvers_are_methods_of_their_own():
    """Their ratio is to the control on the first solver; what was timed in another group is not paired with it."""
    records = [*curve("direct", 1.0), *curve("direct", 0.1, solver="tsit5"), *curve("adjoint", 1.0, ratio=2.0)]
    found = equal_costs(records)
    assert found.control == ("direct", "dopri5")
    assert found.methods == (("direct", "dopri5"), ("direct", "tsit5"), ("adjoint", "dopri5"))
    other = next(cost for cost in found.at(1e-6) if cost.solver == "tsit5")
    assert other.ratio.value == pytest.approx(1.0)
    assert other.ratio.high / other.ratio.low > exp(2 * student(2 * (N_STARTS - 1)) * 0.01)


def test_fixed_steps_are_points_too():
    """The curve is over the first step, which is every step."""
    fixed = {"solver": "rk4", "rtol": 1e-5, "nfe_backward": 0}
    records = [
        timed("direct", first_step=step, grad_error_params=step**4, nfe_forward=round(4 / step), **fixed)
        for step in (0.25, 0.05, 0.01)
    ]
    found = equal_costs(list(reversed(records)), [1e-4, 1e-9])
    reached, missed = found.costs
    assert reached.evaluations.value == pytest.approx(4 / 0.1)
    assert missed.time.reason == "not reached: the smallest error is 1e-08, at step 0.01."


def paired_starts(rng, n_starts, drift=0.3, own=0.05, other=0.03):
    """Logarithms of the times of a method and its control in starts that drift together, about zero."""
    common = drift * rng.standard_normal(n_starts)
    return common + own * rng.standard_normal(n_starts), common + other * rng.standard_normal(n_starts)


def estimate(name, logs):
    """Mean of logarithms with its interval, as the timing makes it."""
    return interval(name, exp(np.mean(logs)), np.std(logs, ddof=1) / np.sqrt(len(logs)), len(logs))


def sampled(rng, weights, n_starts):
    """Terms of a ratio at equal error, one for each tolerance: weights of the method and of the control."""
    terms = []
    for own, other in weights:
        mine, its = paired_starts(rng, n_starts)
        method = estimate("step_s", mine) | estimate("ratio", mine - its) | {"n_starts": n_starts}
        control = estimate("step_s", its) | {"n_starts": n_starts}
        terms.append(paired_term(record("a", **method), record("b", **control), own, own - other))
    return terms


@pytest.mark.parametrize("weights", [[(0.3, 0.3), (0.7, 0.7)], [(0.3, 0.9), (0.7, 0.1)], [(1.0, 0.0), (0.0, 1.0)]])
def test_the_interval_covers_the_truth_as_often_as_it_says(weights):
    """Whatever tolerances the two need; ratio and control's time of one tolerance depend on each other."""
    rng = np.random.default_rng(0)
    found = [summed(sampled(rng, weights, 6)) for _ in range(1000)]
    assert 0.93 <= np.mean([each.low <= 1 <= each.high for each in found]) <= 0.98


def test_pairs_narrow_the_interval():
    """Drift of a third, which both share, hardly widens it where both need the same tolerances."""
    rng = np.random.default_rng(0)
    same, other = (
        np.median([log(each.high / each.low) for each in (summed(sampled(rng, weights, 6)) for _ in range(100))])
        for weights in ([(0.5, 0.5), (0.5, 0.5)], [(1.0, 0.0), (0.0, 1.0)])
    )
    assert same < other / 4


def test_a_term_without_an_interval_leaves_the_sum_without_one():
    """And one without a figure is missing."""
    single = record("a", step_s=2.0, ratio=4.0, n_starts=1)
    found = summed([time_term(single, 1.0), ratio_term(single, 0.5)])
    assert (found.value, found.low, found.high) == (pytest.approx(4.0), None, None)
    assert time_term(record("a"), 1.0) is ratio_term(record("a"), 1.0) is None
    assert paired_term(single, record("b"), 1.0, 0.5) is None
    assert paired_term(single, record("b"), 1.0, 0.0).centre == pytest.approx(log(4.0))


def test_the_targets_are_powers_of_ten():
    """From 1e-2 to 1e-8."""
    assert tuple(float(f"1e-{n}") for n in range(2, 9)) == TARGETS
