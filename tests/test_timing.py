"""The statistics of the timing, on samples whose truth is known."""

import numpy as np
import pytest

from nodebench.bench.messages import Turn
from nodebench.bench.timing import MIN_ROUNDS, median_interval, narrow_enough, paired_ratio


def turns(steps):
    return [Turn(step, step, step / 2, step / 2) for step in steps]


def test_too_few_rounds_give_no_interval():
    """Below the least number of rounds there is no interval, rather than a wrong one."""
    assert median_interval([1.0] * (MIN_ROUNDS - 1)) is None


def test_constant_samples_have_a_point_interval():
    """No spread, no width."""
    interval = median_interval([2.0] * MIN_ROUNDS)
    assert (interval.median, interval.low, interval.high) == (2.0, 2.0, 2.0)


def test_pairing_cancels_drift():
    """Where drift doubles the time of both in the course of the rounds, their ratio is still exact."""
    control = np.linspace(1.0, 2.0, 20)
    ratio = paired_ratio(1.5 * control, control)
    assert ratio.median == pytest.approx(1.5, rel=1e-12)
    assert ratio.low == pytest.approx(ratio.high, rel=1e-12)


def test_interval_covers_the_truth_as_often_as_it_says():
    """Over 300 seeds of heavy-tailed noise the 95 % interval holds the true ratio in 92 to 98 % of them."""
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        control = np.exp(0.05 * rng.standard_t(3, 30))
        found = paired_ratio(1.2 * np.exp(0.05 * rng.standard_t(3, 30)), control)
        hits += found.low <= 1.2 <= found.high
    assert 0.92 <= hits / 300 <= 0.98


def test_rounds_end_when_every_ratio_is_known():
    """One noisy cell keeps the group going."""
    steady, noisy = turns([1.0] * 10), turns([1.0, 3.0] * 5)
    assert narrow_enough([steady, steady], 0.05)
    assert not narrow_enough([steady, steady, noisy], 0.05)
