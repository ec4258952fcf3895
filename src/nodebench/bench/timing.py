"""Statistics of paired, interleaved timing: medians within a start, Student's interval over the starts.

Two processes of one and the same cell differ by one to three per cent from one start to the next, whatever is done
inside them (memory layout), and no number of rounds within a start averages that out. So the start is the sample: what
is estimated is the mean over the starts, on the scale of logarithms, of each start's median, and its interval is
Student's with as many degrees of freedom as there are starts but one. A percentile bootstrap of so few samples is too
narrow: over five of them it covers 83 % instead of 95 % (`tests/test_timing.py`).

"Rigorous benchmarking in reasonable time", Kalibera, Jones, 2013, https://doi.org/10.1145/2491894.2464160: repetition
belongs on the highest level that varies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import mean, median, stdev
from typing import Literal

from nodebench.stats import from_logs, student

MIN_STARTS = 4
"""Starts before which the width of an interval ends nothing: rules that may stop earlier cover too little."""

RatioVerdict = Literal["faster", "slower", "undecided"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; without one, where a single start gives none."""

    estimate: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float:
        """Half of the interval relative to the estimate; infinite where there is no interval."""
        if self.low is None or self.high is None:
            return float("inf")
        return (self.high - self.low) / (2 * self.estimate)

    @property
    def verdict(self) -> RatioVerdict:
        """Of a ratio of times: which of the two is faster, or that the interval, holding 1, does not tell."""
        if self.low is None or self.high is None or self.low <= 1 <= self.high:
            return "undecided"
        return "faster" if self.high < 1 else "slower"


def over_starts(samples: Sequence[Sequence[float]]) -> Interval:
    """Geometric mean over the starts of each start's median.

    Args:
        samples: Positive times or ratios, one sequence per start, none of them empty.
    """
    logs = [median([log(sample) for sample in start]) for start in samples]
    centre = mean(logs)
    if len(logs) == 1:
        return Interval(exp(centre))
    half = student(len(logs) - 1) * stdev(logs) / sqrt(len(logs))
    return Interval(*from_logs(centre, half))


def reason_to_stop(intervals: Sequence[Interval], n_starts: int, precision: float, *, spent: bool) -> str:
    """What ends the starts, `precision` or `budget`; nothing where they go on.

    Args:
        intervals: Every ratio to the control.
        n_starts: Starts so far; fewer than `MIN_STARTS` are never enough.
        precision: Half width of an interval, relative to its estimate, that is narrow enough.
        spent: Whether the budget is spent.
    """
    if n_starts < MIN_STARTS:
        return ""
    if all(interval.half_width <= precision for interval in intervals):
        return "precision"
    return "budget" if spent else ""


def paired_ratio(samples: Sequence[Sequence[float]], control: Sequence[Sequence[float]]) -> Interval:
    """Ratio to the control, paired within the round: drift and a competitor hit both members of a pair alike.

    Args:
        samples: Times of a cell, one sequence per start, in the order of the rounds.
        control: Times of the control in the very same rounds.
    """
    return over_starts([[a / b for a, b in zip(s, c, strict=True)] for s, c in zip(samples, control, strict=True)])
