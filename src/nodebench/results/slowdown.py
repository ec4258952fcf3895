"""How much slower a cell has become, with its interval, and what would decide where it does not tell.

Ratios are handled on the scale of logarithms, where `nodebench.bench.timing` made their intervals: symmetric ones, of
Student's quantile and as many degrees of freedom as there are starts but one.
"""

from dataclasses import dataclass
from math import ceil, exp, hypot, log
from typing import Literal

from nodebench.results.baseline import BaselineCell
from nodebench.stats import quantile

CONFIDENCE = 0.95

MANY_STARTS = 1000
"""More than this is no advice."""

SlowdownVerdict = Literal["slower", "faster", "alike", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """Logarithm of a ratio of times, as one run found it.

    Attributes:
        centre: The estimate.
        error: Its standard error.
        n_starts: Starts it was made of, at least two.
    """

    centre: float
    error: float
    n_starts: int

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the error."""
        return self.n_starts - 1


@dataclass(frozen=True)
class Slowdown:
    """Time of a step relative to what it was.

    Attributes:
        ratio: The estimate; 1.1 is a tenth slower.
        low: Lower end of its 95 % interval.
        high: Upper end.
        new: What the candidate's run contributes.
        old_error: Standard error that the baseline contributes; 0 where both took turns in one run.
    """

    ratio: float
    low: float
    high: float
    new: Estimate
    old_error: float = 0.0

    def verdict(self, limit: float) -> SlowdownVerdict:
        """Whether it lies wholly beyond a slowdown or the speed-up of the same factor, wholly below, or on it.

        Args:
            limit: Slowdown that matters; 0.1 is a tenth.
        """
        if self.low > 1 + limit:
            return "slower"
        if self.high < 1 / (1 + limit):
            return "faster"
        return "alike" if self.high <= 1 + limit else "undecided"

    def starts_needed(self, limit: float) -> int | None:
        """About how many more starts of the candidate would decide, if the estimate were to stay; None if none would.

        The interval must become narrower than the estimate's distance from the limit, and its width falls with the
        square root of the starts; what the baseline contributes stays.
        """
        distance = abs(log(self.ratio) - log(1 + limit))
        allowed = (distance / _quantile(self.new.degrees)) ** 2 - self.old_error**2
        if allowed <= 0:
            return None
        needed = ceil(self.new.error**2 * self.new.n_starts / allowed)
        return max(1, needed - self.new.n_starts) if needed <= MANY_STARTS else None


def slowdown(old: BaselineCell, new: BaselineCell) -> Slowdown | None:
    """What the ratios of a cell say; None where one of them has no interval.

    Two runs are compared through the ratio to the control in each, whose errors are independent of each other (Welch's
    test); `new.paired` is the ratio itself.
    """
    estimate = _estimate(new)
    if estimate is None:
        return None
    if new.paired:
        return _between(estimate.centre, estimate.error, float(estimate.degrees), estimate)
    before = _estimate(old)
    if before is None:
        return None
    error = hypot(estimate.error, before.error)
    spread = estimate.error**4 / estimate.degrees + before.error**4 / before.degrees
    degrees = error**4 / spread if spread else float(estimate.degrees)
    return _between(estimate.centre - before.centre, error, degrees, estimate, before.error)


def _between(centre: float, error: float, degrees: float, new: Estimate, old_error: float = 0.0) -> Slowdown:
    half = _quantile(degrees) * error
    return Slowdown(exp(centre), exp(centre - half), exp(centre + half), new, old_error)


def _estimate(cell: BaselineCell) -> Estimate | None:
    if cell.ratio is None or cell.ratio_low is None or cell.ratio_high is None or (cell.n_starts or 0) < 2:
        return None
    n_starts = int(cell.n_starts or 0)
    half = log(cell.ratio_high / cell.ratio_low) / 2
    return Estimate(log(cell.ratio), half / _quantile(n_starts - 1), n_starts)


def _quantile(degrees: float) -> float:
    return quantile((1 + CONFIDENCE) / 2, degrees)
