"""Statistics of paired, interleaved timing: medians, ratios within a round, and their bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from nodebench.bench.messages import Turn

MIN_ROUNDS = 5
"""Fewer rounds give no interval worth the name."""

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval relative to the median."""
        return (self.high - self.low) / (2 * self.median)


def median_interval(samples: Sequence[float]) -> Interval | None:
    """Median and percentile-bootstrap interval; None below `MIN_ROUNDS` samples."""
    if len(samples) < MIN_ROUNDS:
        return None
    values = np.asarray(samples, dtype=float)
    median = float(np.median(values))
    if np.ptp(values) == 0:
        return Interval(median, median, median)
    found = bootstrap(
        (values,),
        np.median,
        n_resamples=N_RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(median, float(found.low), float(found.high))


def paired_ratio(samples: Sequence[float], control: Sequence[float]) -> Interval | None:
    """Ratio to the control: median of the paired log ratios of the rounds, with its interval.

    Pairs within a round: drift and a competitor on the machine hit both members of a pair alike.
    """
    log_ratios = np.log(np.asarray(samples, dtype=float)) - np.log(np.asarray(control, dtype=float))
    found = median_interval(list(log_ratios))
    return found and Interval(*(float(np.exp(x)) for x in (found.median, found.low, found.high)))


def narrow_enough(turns: Sequence[Sequence[Turn]], precision: float) -> bool:
    """Whether every ratio to the first cell (or the lone cell's own time) is known within `precision`."""
    control = [turn.step_s for turn in turns[0]]
    if len(turns) == 1:
        intervals = [median_interval(control)]
    else:
        intervals = [paired_ratio([turn.step_s for turn in cell], control) for cell in turns[1:]]
    return all(interval is not None and interval.half_width <= precision for interval in intervals)
