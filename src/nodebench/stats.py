"""Statistics that several parts need: Student's intervals, Welch's comparison of two estimates, and laws of growth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, hypot, log
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
"""How often an interval holds the true value."""

RatioVerdict = Literal["faster", "slower", "undecided"]

MIN_POINTS = 3
"""Two points make a slope, but no interval."""


@cache
def quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's distribution with so many degrees of freedom."""
    # `scipy.stats` takes a second to import, and this a tenth, which no command but those that need it should wait for.
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(degrees, probability))


def student(degrees: float) -> float:
    """How many standard errors Student's interval reaches to either side of the estimate."""
    return quantile((1 + CONFIDENCE) / 2, degrees)


def ratio_verdict(low: float | None, high: float | None) -> RatioVerdict:
    """Of a ratio of times: which of the two is faster, or that its interval, holding 1 or missing, does not tell."""
    if low is None or high is None or low <= 1 <= high:
        return "undecided"
    return "faster" if high < 1 else "slower"


def from_logs(centre: float, half: float) -> tuple[float, float, float]:
    """Estimate, lower and upper end of an interval that reaches `half` to either side on the scale of logarithms."""
    return exp(centre), exp(centre - half), exp(centre + half)


def log_error(low: float, high: float, degrees: float) -> float:
    """Standard error of the logarithm of what has this interval."""
    return log(high / low) / 2 / student(degrees)


def welch(*estimates: tuple[float, float]) -> tuple[float, float]:
    """Standard error of the sum or difference of independent estimates, and its degrees of freedom.

    "An approximate distribution of estimates of variance components", Satterthwaite, 1946,
    https://doi.org/10.2307/3002019.

    Args:
        estimates: Standard error and degrees of freedom of each, at least one.
    """
    both = hypot(*(error for error, _ in estimates))
    spread = sum(error**4 / degrees for error, degrees in estimates)
    return both, both**4 / spread if spread else float(estimates[0][1])


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient x^exponent, with the 95 % interval of the exponent; the coefficient is y at x = 1."""

    exponent: float
    low: float
    high: float
    n_points: int
    coefficient: float


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw | None:
    """Least squares of log y on log x, with Student's interval of the slope.

    The slope is b = sum (u - mean u)(v - mean v) / sum (u - mean u)^2 with u = log x and v = log y; its standard error
    s / sqrt(sum (u - mean u)^2), with s^2 the squared residuals over n - 2.

    Args:
        x: Places along the axis, positive.
        y: What was measured there.

    Returns:
        None with fewer than three different places, or a `y` that is not positive.
    """
    if len(set(x)) < MIN_POINTS or min(y) <= 0:
        return None
    u, v = np.log(x), np.log(y)
    slope, intercept = np.polyfit(u, v, 1)
    variance = float(np.sum((v - intercept - slope * u) ** 2)) / (len(x) - 2)
    half = student(len(x) - 2) * float(np.sqrt(variance / np.sum((u - u.mean()) ** 2)))
    # Further decimals are rounding, by which machines differ where nothing grows.
    exponent, low, high = (round(float(value), 12) + 0.0 for value in (slope, slope - half, slope + half))
    return PowerLaw(exponent, low, high, len(x), float(np.exp(intercept)))
