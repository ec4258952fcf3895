"""How much slower a cell has become, with its interval, and what would decide where it does not tell.

Ratios are handled on the scale of logarithms, as their intervals were made (`nodebench.stats`): symmetric ones, of
Student's quantile and as many degrees of freedom as there are starts but one.
"""

from dataclasses import dataclass
from math import ceil, log
from typing import Literal

from nodebench.gating.baseline import BaselineCell
from nodebench.stats import from_logs, log_error, student, welch

MANY_STARTS = 1000
"""More than this is no advice."""


@dataclass(frozen=True)
class LogRatio:
    """Logarithm of a ratio of times, as one run found it.

    Attributes:
        centre: The estimate.
        error: Its standard error.
        degrees: Degrees of freedom of the error: the starts but one.
    """

    centre: float
    error: float
    degrees: int


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
    new: LogRatio
    old_error: float

    def verdict(self, limit: float) -> Literal["regression", "improvement", "same", "undecided"]:
        """Whether it lies wholly beyond a slowdown or the speed-up of the same factor, wholly below, or on it.

        Args:
            limit: Slowdown that matters; 0.1 is a tenth.
        """
        if self.low > 1 + limit:
            return "regression"
        if self.high < 1 / (1 + limit):
            return "improvement"
        return "same" if self.high <= 1 + limit else "undecided"

    def starts_needed(self, limit: float) -> int | None:
        """About how many more starts of the candidate would decide, if the estimate were to stay; None if none would.

        The interval must become narrower than the estimate's distance from the limit, and its width falls with the
        square root of the starts; what the baseline contributes stays.
        """
        distance, n_starts = abs(log(self.ratio) - log(1 + limit)), self.new.degrees + 1
        allowed = (distance / student(self.new.degrees)) ** 2 - self.old_error**2
        if allowed <= 0:
            return None
        needed = ceil(self.new.error**2 * n_starts / allowed)
        return max(1, needed - n_starts) if needed <= MANY_STARTS else None


def slowdown(old: BaselineCell, new: BaselineCell) -> Slowdown | None:
    """What the ratios of a cell say; None where one of them has no interval.

    Two runs are compared through the ratio to the control in each, whose errors are independent of each other (Welch's
    test); `new.paired` is the ratio itself.
    """
    after, before = _log_ratio(new), None if new.paired else _log_ratio(old)
    if after is None or (before is None and not new.paired):
        return None
    if before is None:
        return Slowdown(*from_logs(after.centre, student(after.degrees) * after.error), after, old_error=0.0)
    error, degrees = welch(after.error, after.degrees, before.error, before.degrees)
    return Slowdown(*from_logs(after.centre - before.centre, student(degrees) * error), after, before.error)


def _log_ratio(cell: BaselineCell) -> LogRatio | None:
    degrees = (cell.n_starts or 0) - 1
    if cell.ratio is None or cell.ratio_low is None or cell.ratio_high is None or degrees < 1:
        return None
    return LogRatio(log(cell.ratio), log_error(cell.ratio_low, cell.ratio_high, degrees), degrees)
