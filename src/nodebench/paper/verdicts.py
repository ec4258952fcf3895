"""How a claim of the paper is told of: seen here, not seen, or undecided, each by a rule that the page states."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from nodebench.paper.pages import DIGITS, Sample, Source
from nodebench.reports.document import number
from nodebench.stats import PowerLaw, student, welch

NEAR = 0.25
"""How close a measured exponent must be to the stated one."""

CLEAR = 0.02
"""What a single seed must show to decide: a relative difference, or one in nats, that is larger than this."""


BACKWARD_SHARE = 0.5
"""Figure 3 c (section 3): evaluations of the backward pass, relative to those of the forward pass, "roughly half"."""

ABOUT_HALF = 0.75
"""Ratio below which the backward pass counts as taking about half the evaluations."""


@dataclass(frozen=True)
class ClaimVerdict:
    """How a claim is told of.

    Attributes:
        holds: Whether it is seen here; None where that is undecided.
        text: The same in words, as they follow "this".
    """

    holds: bool | None
    text: str


def seen(*, holds: bool) -> ClaimVerdict:
    """The verdict on what was counted or is beyond chance."""
    return ClaimVerdict(holds, "is seen" if holds else "is not seen")


def below(source: Source, one: Sample, other: Sample, *, in_nats: bool = False) -> ClaimVerdict:
    """Whether one figure of trained models is below another.

    Several seeds decide it where Welch's 95 % interval of the difference of the means excludes 0; a single one where
    the difference is larger than `CLEAR`. Figures that print alike decide nothing.

    Args:
        source: What the page is made of.
        one: The figure that the paper has as the lower one.
        other: The figure that it is compared with.
        in_nats: Whether the figures are logarithms of probabilities, whose difference needs no scale.
    """
    if source.preset == "smoke":
        return ClaimVerdict(None, "cannot be told from so short a training")
    if one.mean is None or other.mean is None:
        return ClaimVerdict(None, "cannot be told")
    alike = number(one.mean, DIGITS) == number(other.mean, DIGITS)
    if min(len(one.values), len(other.values)) > 1:
        if alike or not _apart(one.values, other.values):
            return ClaimVerdict(None, "is undecided, within the spread of the seeds,")
        return seen(holds=one.mean < other.mean)
    scale = 1.0 if in_nats else max(abs(one.mean), abs(other.mean))
    if alike or abs(one.mean - other.mean) <= CLEAR * scale:
        return ClaimVerdict(None, "is not decided by one seed")
    found = seen(holds=one.mean < other.mean)
    return ClaimVerdict(found.holds, f"{found.text} with one seed")


def rule(source: Source, *, in_nats: bool = False) -> str:
    """What `below` takes to decide, as a sentence."""
    if len(source.seeds) == 1:
        least = f"{CLEAR:g} nats" if in_nats else f"{100 * CLEAR:g} % of the larger figure"
        return f"With one seed, two trained models are told apart only where they differ by more than {least}."
    return (
        "With several seeds, two trained models are told apart only where Welch's 95 % interval of the difference of "
        "their means excludes 0."
    )


def all_of(verdicts: Sequence[ClaimVerdict]) -> ClaimVerdict:
    """The verdict on a claim that needs several: what denies one denies it, then what leaves one undecided."""
    denied = [each for each in verdicts if each.holds is False]
    undecided = [each for each in verdicts if each.holds is None]
    return [*denied, *undecided, *verdicts[-1:]][0]


def counted(verdicts: Mapping[str, ClaimVerdict], what: str) -> str:
    """How often each verdict was found, and where the claim is not seen.

    Args:
        verdicts: Verdicts by what they are of.
        what: What they are of, in general.
    """
    told = [
        f"it {verdict.text} in {n} of {len(verdicts)} {what}"
        + (f" ({', '.join(name for name, each in verdicts.items() if each == verdict)})" if not verdict.holds else "")
        for verdict, n in Counter(verdicts.values()).items()
    ]
    return "; ".join(told)


def exponent(law: PowerLaw, stated: float) -> ClaimVerdict:
    """Whether a measured exponent is the stated one: its whole interval must lie within `NEAR` of it, or outside."""
    if stated - NEAR <= law.low and law.high <= stated + NEAR:
        return seen(holds=True)
    if law.low > stated + NEAR or law.high < stated - NEAR:
        return seen(holds=False)
    return ClaimVerdict(None, "is undecided, its interval reaching beyond,")


def growth_claim(claim: str, law: PowerLaw, stated: float, note: str = "") -> str:
    """A sentence on a law of growth.

    Args:
        claim: What the paper claims, as a clause that the verdict follows.
        law: What was measured.
        stated: The exponent that the paper states.
        note: What is to be known of the measurement.
    """
    return (
        f"{claim} {exponent(law, stated).text} here: measured exponent {exponent_text(law)} of {law.n_points} points"
        f"{note}, the interval to be within {NEAR} of {stated:g}."
    )


def exponent_text(law: PowerLaw) -> str:
    """An exponent with its interval."""
    # Adding zero takes the sign from what rounds to none.
    middle, low, high = (round(each, 2) + 0.0 for each in (law.exponent, law.low, law.high))
    return f"{middle:.2f} ({low:.2f}..{high:.2f})"


def _apart(one: Sequence[float], other: Sequence[float]) -> bool:
    errors = [(stdev(values) / sqrt(len(values)), len(values) - 1) for values in (one, other)]
    error, degrees = welch(*errors)
    return abs(fmean(one) - fmean(other)) > student(degrees) * error
