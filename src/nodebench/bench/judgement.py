"""What makes a measured cell one that must not be ranked, and a figure one that must not be kept."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from nodebench.results.quantities import GradientPart

MARGIN = 100
"""How many times more accurate than what it judges a reference must be."""

KNOWN = 0.05
"""Relative error of its own beyond which a reference knows nothing of a gradient, and so judges none."""

TOLERANCES_PER_STEP = 10
"""Error of a solution, in tolerances for each step, beyond which it is not one of this problem. A step may err by one;
later steps may amplify that, and an interpolant between them errs by a few more."""

OPTIONAL = ("constant ", "step grid")
"""Conditions that a cell may be without: what a framework does not hold, or a library does not tell."""

FIELD_MARGIN = 1e-3
"""Relative difference of the figures of two fields that are the same: float32, and sums in another order."""

STATE_MARGIN = 10
"""How many times more accurate than that the states of the reference must be."""


def wrong_gradient(errors: Mapping[str, float], limit: float, unstated: Collection[str] = ()) -> str | None:
    """Why gradients with these relative errors are wrong, or None; an error that is not a number is.

    Args:
        errors: Relative errors by name.
        limit: The largest that is not wrong.
        unstated: Names of those that the reference is not accurate enough to state.
    """
    wrong = {name: error for name, error in errors.items() if not error <= limit}
    if not wrong:
        return None
    name, error = max(wrong.items(), key=lambda item: item[1])
    found = "" if name in unstated else f" {error:.2g},"
    return f"{name} is{found} above the limit of {limit:g} (--max-grad-error)."


def sought(error: float) -> float:
    """Largest own error of a reference that can state this one; no limit for one that is no number."""
    return math.inf if math.isnan(error) else error / MARGIN


def ignorance(own: float, largest: float, beside: float, dtype: str) -> str | None:
    """Why a reference knows nothing of a gradient, so that it states no error of it and condemns none; or None.

    Args:
        own: Its own relative error.
        largest: The largest entry of the gradient, as it has it.
        beside: The largest entry of all gradients of the problem.
        dtype: The cell's dtype.
    """
    numbers = np.finfo(dtype)
    if largest < numbers.tiny:
        return f"its largest entry is {largest:.2g}, below what {dtype} can say ({numbers.tiny:.2g})"
    if own <= KNOWN:
        return None
    told = f"the reference's own relative error of it is {own:.2g}, so that it judges nothing"
    if largest < numbers.eps * beside:
        return f"it is {largest:.2g} at most, below what {dtype} can say beside {beside:.2g}, and {told}"
    return told


def refusal(error: float, own: float) -> str | None:
    """Why a reference of the relative error `own` is not good enough to state an error, or None."""
    if own <= error / MARGIN:
        return None
    return f"{error:.2g} was found, but the reference is known to {own:.1e} only, not {MARGIN} times better"


def unlike(conditions: Mapping[str, str], group: Sequence[Mapping[str, str]]) -> str | None:
    """The first condition in which a cell differs from most of its group, itself included, or None.

    Where no value is more common than another, that of the first cell of the group counts. Of what is no parameter,
    only what both have is compared: one framework holds an array, another writes it into the code.

    Args:
        conditions: What the cell was measured under, by name.
        group: The same of all cells of the group.
    """
    for name in dict.fromkeys(name for each in (*group, conditions) for name in each):
        values = [other.get(name) for other in group]
        own, (common, _) = conditions.get(name), Counter(values).most_common(1)[0]
        optional = name.startswith(OPTIONAL) and None in (own, common)
        if own != common and not optional:
            told = [("missing" if value is None else value) for value in (own, common)]
            return f"its {name} is {told[0]}, that of the others {told[1]}: not the same comparison."
    return None


def unlike_fields(found: GradientPart, group: Sequence[GradientPart]) -> str | None:
    """Why a cell's field is another than that of most of its group, itself included, or None.

    Args:
        found: What is known of the cell: `field_value` and `field_derivative`, where it has any.
        group: The same of all cells of the group.
    """
    for name, what in (("field_value", "values"), ("field_derivative", "derivatives")):
        known = [value for each in group if (value := getattr(each, name)) is not None]
        own = getattr(found, name)
        if own is None or not known:
            continue
        common = max(known, key=lambda value: sum(_near(value, other) for other in known))
        if not _near(own, common):
            return f"its field has other {what} ({own:.6g} at fixed points, the others {common:.6g}): another problem."
    return None


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=FIELD_MARGIN, abs_tol=1e-30)


def state_refusal(own: float | None, n_accepted: int | None) -> str | None:
    """Why the states of a reference are not good enough to judge a solution by, or None.

    Args:
        own: Their own error in tolerances, where there are any.
        n_accepted: Steps of the solve that is judged; as one where the library does not tell.
    """
    limit = TOLERANCES_PER_STEP * (n_accepted or 1)
    if own is None or own <= limit / STATE_MARGIN:
        return None
    return (
        f"the reference's own solution is known to {own:.2g} tolerances only, not {STATE_MARGIN} times better than "
        f"the {limit} that {n_accepted or 1} steps allow"
    )


def disagreement(forward_error: float | None, n_accepted: int | None) -> str | None:
    """Why a solution is not one of the problem to the tolerance asked for, or None.

    Args:
        forward_error: Distance of its output from the reference's in tolerances, where there is one.
        n_accepted: Steps of the solve; as one where the library does not tell.
    """
    steps = n_accepted or 1
    limit = TOLERANCES_PER_STEP * steps
    if forward_error is None or forward_error <= limit:
        return None
    return (
        f"its solution is {forward_error:.3g} tolerances away from the reference's, above the {limit} that its "
        f"{steps} steps allow: it does not solve the same problem, or not to this tolerance."
    )
