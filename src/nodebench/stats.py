"""Statistics that several parts need."""

from functools import cache


@cache
def quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's distribution with so many degrees of freedom."""
    # `scipy.stats` takes a second to import, and this a tenth, which no command but those that need it should wait for.
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(degrees, probability))
