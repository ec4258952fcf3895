"""What makes a measured cell one that must not be ranked, and a figure one that must not be kept."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

MARGIN = 100
"""How many times more accurate than what it judges a reference must be."""

TOLERANCES_PER_STEP = 10
"""Error of a solution, in tolerances for each step, beyond which it is not one of this problem. A step may err by one;
later steps may amplify that, and an interpolant between them errs by a few more."""

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


def refusal(error: float, own: float) -> str | None:
    """Why a reference of the relative error `own` is not good enough to state an error, or None."""
    if own <= error / MARGIN:
        return None
    return f"{error:.2g} was found, but the reference is known to {own:.1e} only, not {MARGIN} times better"


def unlike(conditions: Mapping[str, str], group: Sequence[Mapping[str, str]]) -> str | None:
    """The first condition in which a cell differs from most of its group, itself included, or None.

    Args:
        conditions: What the cell was measured under, by name.
        group: The same of all cells of the group.
    """
    for name, value in conditions.items():
        common, n = Counter(other[name] for other in group).most_common(1)[0]
        if value != common and n > 1:
            return f"its {name} is {value}, that of the others {common}: not the same comparison."
    return None


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
