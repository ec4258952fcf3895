"""The gate's verdict on time, which only a ratio of two sides that took turns can give."""

from nodebench.results.baseline import BaselineCell
from nodebench.results.finding import NO_FIGURE, Finding, Verdict, change
from nodebench.results.slowdown import Slowdown, SlowdownVerdict, slowdown
from nodebench.results.thresholds import TIME

VERDICTS: dict[SlowdownVerdict, Verdict] = {
    "slower": "regression",
    "faster": "improvement",
    "alike": "same",
    "undecided": "undecided",
}


def time_finding(old: BaselineCell, new: BaselineCell, limit: float) -> Finding | None:
    """What is to be said of the time of a cell; None where there is nothing.

    Args:
        old: The baseline's figures.
        new: The candidate's.
        limit: Slowdown that is a regression; 0.1 is a tenth.
    """
    if not new.ok or not old.ok:
        return None  # it is not ranked, and its status says why
    if not new.paired:
        refused = _no_common_control(old, new)
        if refused is not None:
            return refused
    if new.ratio is None:
        return _unpaired(old, new)
    found = slowdown(old, new)
    if found is None:
        return _finding(old, new, "undecided", "a ratio of a single start has no interval; measure with more rounds.")
    said = found.verdict(limit)
    return _finding(old, new, VERDICTS[said], _explain(found, said, limit, new), found)


def _finding(
    old: BaselineCell, new: BaselineCell, verdict: Verdict, reason: str, found: Slowdown | None = None
) -> Finding:
    return Finding(
        cell=new,
        metric=TIME,
        verdict=verdict,
        reason=reason,
        old=1.0 if new.paired else old.ratio,
        new=new.ratio,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        unit="ratio",
    )


def _explain(found: Slowdown, said: SlowdownVerdict, limit: float, new: BaselineCell) -> str:
    if said == "alike":
        return ""
    text = f"{found.ratio:.3g} times what it was, {found.low:.3g} to {found.high:.3g}"
    if said == "undecided":
        return f"{text}; the limit is {1 + limit:.4g}. {_advice(found, limit)}"
    other = "faster" if said == "slower" else "slower"
    return f"{text}." if new.paired else f"{text}; or its control, {new.control}, has become {other}."


def _advice(found: Slowdown, limit: float) -> str:
    more = found.starts_needed(limit)
    if more is not None:
        return f"About {more} more starts would decide (--budget-s, --precision)."
    if found.old_error:
        return "No number of starts would decide: the baseline's own interval is too wide, or it is at the limit."
    return "No reasonable number of starts would decide: it is at the limit."


def _no_common_control(old: BaselineCell, new: BaselineCell) -> Finding | None:
    """Why two ratios cannot be compared; None where they can, or there are none."""
    if old.step_s is None:
        return None if new.ratio is None else _finding(old, new, "new", NO_FIGURE)
    if new.step_s is None:
        return _finding(old, new, "missing", "it was not timed.")
    if old.control == new.control:
        return None
    told = [f"to {cell.control}" if cell.control else "to none" for cell in (old, new)]
    reason = (
        f"the ratio of times is {told[0]} in the baseline and {told[1]} in the candidate; measure with the same "
        "--control, or both versions in turns with --against-ref."
    )
    return _finding(old, new, "incomparable", reason)


def _unpaired(old: BaselineCell, new: BaselineCell) -> Finding | None:
    """Of a cell with times but no ratio: what they are, and that they say nothing."""
    if old.step_s is None or new.step_s is None:
        return None
    reason = (
        f"{change(old.step_s, new.step_s)} s, not gated: it has no ratio to a control, and the two were not timed in "
        "turns; --against-ref times both versions in turns."
    )
    return Finding(
        cell=new, metric="step_s", verdict="undecided", reason=reason, old=old.step_s, new=new.step_s, unit="s"
    )
