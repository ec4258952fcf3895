"""The statistics of the timing, on samples whose truth is known."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from nodebench.bench.timing import MIN_STARTS, Interval, over_starts, paired_ratio, reason_to_stop

MAX_STARTS = 10
"""Starts after which a simulated budget is spent."""

N_SEEDS = 3000


def test_a_single_start_has_no_interval_and_decides_nothing():
    """However many rounds it had, and however far from 1 its ratio is."""
    ratio = paired_ratio([[2.0] * 50], [[1.0] * 50])
    assert (ratio.estimate, ratio.low, ratio.high) == (2.0, None, None)
    assert ratio.verdict == "undecided"
    assert ratio.half_width == float("inf")


def test_equal_starts_have_a_point_interval():
    """No spread, no width."""
    found = over_starts([[2.0, 2.0]] * 4)
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.8, 0.9, "faster"), (1.1, 1.2, "slower"), (0.9, 1.1, "undecided"), (1.0, 1.2, "undecided")],
)
def test_an_interval_that_holds_1_decides_nothing(low, high, verdict):
    """Only one that lies wholly on one side does."""
    assert Interval((low + high) / 2, low, high).verdict == verdict


def test_pairing_cancels_drift():
    """Where drift doubles the time of both in the course of the rounds, their ratio is still exact."""
    control = [list(np.linspace(1.0 + start, 2.0 + start, 20)) for start in range(4)]
    ratio = paired_ratio([[1.5 * t for t in start] for start in control], control)
    assert (ratio.low, ratio.estimate, ratio.high) == pytest.approx((1.5, 1.5, 1.5), rel=1e-12)


def test_starts_go_on_until_every_ratio_is_known():
    """One wide interval keeps the group going, until its budget is spent; too few starts are never enough."""
    narrow, wide = Interval(1.0, 0.99, 1.01), Interval(1.0, 0.8, 1.2)
    assert reason_to_stop([narrow], MIN_STARTS - 1, 0.05, spent=True) == ""
    assert reason_to_stop([narrow, narrow], MIN_STARTS, 0.05, spent=False) == "precision"
    assert reason_to_stop([narrow, wide], MIN_STARTS, 0.05, spent=False) == ""
    assert reason_to_stop([narrow, wide], MIN_STARTS, 0.05, spent=True) == "budget"


def quiet(rng, shape):
    """Rounds that differ by 3 %."""
    return 0.03 * rng.standard_normal(shape)


def heavy_tails(rng, shape):
    """Student's noise with two degrees of freedom, whose variance is infinite."""
    return 0.03 * rng.standard_t(2, shape)


def bursts(rng, shape):
    """One turn in seven meets a competitor and takes half as long again, or more."""
    return quiet(rng, shape) + np.where(rng.random(shape) < 1 / 7, rng.exponential(0.5, shape), 0)


def bursts_of_rounds(rng, shape):
    """A competitor stays for a whole round, and slows both by about as much."""
    common = np.where(rng.random(shape[1:]) < 0.2, rng.exponential(0.5, shape[1:]), 0)
    return quiet(rng, shape) + common


def drift(rng, shape):
    """The machine slows down by a fifth within a start, for both alike; each turn feels a little more of it."""
    return quiet(rng, shape) + np.linspace(0, 0.2, shape[1])


def wandering(rng, shape):
    """The clock wanders from round to round."""
    return quiet(rng, shape) + np.cumsum(0.05 * rng.standard_normal(shape[1:]))


def simulated(rng, noise, spread, rounds, truth):
    """A comparison of two cells, one `truth` times as slow, whose starts differ by `spread`, until it stops."""
    samples, control = [], []
    while True:
        times = np.exp(spread * rng.standard_normal((2, 1)) + noise(rng, (2, rounds)))
        samples.append(list(truth * times[0]))
        control.append(list(times[1]))
        if len(samples) >= MIN_STARTS:
            ratio = paired_ratio(samples, control)
            if reason_to_stop([ratio], len(samples), 0.05, spent=len(samples) >= MAX_STARTS):
                return ratio


@pytest.mark.parametrize("spread", [0.005, 0.02])
@pytest.mark.parametrize("noise", [quiet, heavy_tails, bursts, bursts_of_rounds, drift, wandering])
def test_the_interval_covers_the_truth_as_often_as_it_says(noise, spread):
    """Over 3000 seeds in 92 to 98 % of them, the rule by which the starts stop included."""
    rng = np.random.default_rng(0)
    found = [simulated(rng, noise, spread, 5, 1.1) for _ in range(N_SEEDS)]
    assert 0.92 <= np.mean([ratio.low <= 1.1 <= ratio.high for ratio in found]) <= 0.98


def test_a_bootstrap_of_so_few_starts_would_cover_too_little():
    """Why the interval is Student's: a percentile bootstrap of five starts misses the truth three times as often."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        starts = 0.02 * rng.standard_normal(5)
        interval = bootstrap((starts,), np.mean, method="percentile", n_resamples=500, rng=rng).confidence_interval
        hits.append(interval.low <= 0 <= interval.high)
    assert np.mean(hits) == pytest.approx(0.83, abs=0.04)
