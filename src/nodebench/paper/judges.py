"""How claims are judged: from the cells of a claim its figure and its verdict, by a rule that stands beside both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from nodebench.backends.solvers import tableau
from nodebench.paper.pages import Place
from nodebench.paper.verdicts import ABOUT_HALF, NEAR, exponent, exponent_text
from nodebench.reports.document import ABSENT, interval, number
from nodebench.results.equal_memory import ALIKE, equal_memory
from nodebench.results.record import Record
from nodebench.results.scaling import limits
from nodebench.stats import PowerLaw, fit_power_law

Verdict = Literal["reproduced", "not reproduced", "undecided", "not testable here"]


@dataclass(frozen=True)
class Outcome:
    """What came of a claim.

    Attributes:
        ours: Our figure, with its interval where it has one.
        verdict: The verdict by the claim's rule.
    """

    ours: str
    verdict: Verdict


NOTHING = Outcome(ABSENT, "undecided")
"""What comes of a claim whose cells are not measured; the page says why."""


VERDICTS: Mapping[bool | None, Verdict] = {True: "reproduced", False: "not reproduced", None: "undecided"}
"""The verdict by whether a claim holds."""


def _records(places: Sequence[Place], backend: str | None = None) -> list[Record]:
    """What was measured, wrong gradients among it: that a gradient is wrong is an answer here."""
    found = [place.record for place in places if place.record is not None]
    return [record for record in found if backend in (None, record.backend)]


def _law(
    records: Sequence[Record], x: Callable[[Record], float | None], y: Callable[[Record], float | None]
) -> PowerLaw | None:
    points = [(at, value) for record in records if (at := x(record)) and (value := y(record)) is not None]
    return fit_power_law(*zip(*points, strict=True)) if points else None


def grows(
    places: Sequence[Place],
    *,
    backend: str,
    stated: float,
    y: Callable[[Record], float | None],
    x: Callable[[Record], float | None] = lambda record: record.n_accepted,
    solver: str | None = None,
) -> Outcome:
    """An exponent, and whether it is the stated one."""
    law = _law([r for r in _records(places, backend) if solver in (None, r.solver)], x, y)
    return NOTHING if law is None else Outcome(exponent_text(law), VERDICTS[exponent(law, stated).holds])


GROWS = (
    f"Reproduced where the 95 % interval of the exponent lies within {NEAR} of the stated one, not where it is apart."
)


def evaluations(places: Sequence[Place], *, backend: str, stated: float) -> Outcome:
    """Evaluations and VJPs for each step and stage."""
    stages = tableau("rk4").n_stages
    costs = [
        (record.nfe_forward + (record.nfe_backward or 0) + record.n_vjps) / (stages * record.n_accepted)
        for record in _records(places, backend)
        if record.nfe_forward and record.n_vjps is not None and record.n_accepted
    ]
    if not costs:
        return NOTHING
    told = number(costs[-1]) if len(set(costs)) == 1 else f"{min(costs):.4g} to {max(costs):.4g}"
    return Outcome(f"{told} N s", VERDICTS[all(abs(cost / stated - 1) <= COUNTED for cost in costs)])


COUNTED = 0.02

EVALUATIONS = (
    f"Reproduced where it is within {100 * COUNTED:.0f} % at every number of steps: N steps of rk4 with s = 4 stages, "
    "a VJP counted as one evaluation."
)


def _pairs(places: Sequence[Place]) -> list[tuple[Record, Record]]:
    by_setting: dict[tuple[str, float | None], dict[str, Record]] = {}
    for record in _records(places):
        if record.nfe_backward is not None:
            by_setting.setdefault((record.task, record.rtol), {})[str(record.backend)] = record
    return [(of["adjoint"], of["adjoint[norm=seminorm]"]) for of in by_setting.values() if len(of) > 1]


LEAST_SAVED = 0.30


def saved_by_seminorm(places: Sequence[Place]) -> Outcome:
    """Evaluations of the backward solve that the seminorm saves."""
    saved = [1 - (semi.nfe_backward or 0) / full.nfe_backward for full, semi in _pairs(places) if full.nfe_backward]
    if not saved:
        return NOTHING
    told = f"median {100 * median(saved):.0f} %, {100 * min(saved):.0f} to {100 * max(saved):.0f} % of {len(saved)}"
    return Outcome(told, VERDICTS[median(saved) >= LEAST_SAVED])


def backward_share(places: Sequence[Place]) -> Outcome:
    """Evaluations of the backward solve relative to the forward one."""
    counted = [record for record in _records(places, "adjoint") if record.nfe_forward]
    shares = [record.nfe_backward / (record.nfe_forward or 1) for record in counted if record.nfe_backward is not None]
    if not shares:
        return NOTHING
    told = f"median {median(shares):.2f}, {min(shares):.2f} to {max(shares):.2f} of {len(shares)}"
    return Outcome(told, VERDICTS[median(shares) < ABOUT_HALF])


WRONG = ("wrong_gradient", "diverged")
"""How a cell ends whose gradient is wrong, or comes to no end; that something else went wrong says nothing."""


def _right(record: Record) -> bool:
    return record.ok and (record.grad_error_params is not None or record.reference_error_params is not None)


def _ends(record: Record) -> str:
    error = record.grad_error_params
    return record.status if record.status != "ok" else f"error {error:.1e}" if error is not None else "ok"


def fails(places: Sequence[Place], *, continuous: str, exact: str) -> Outcome:
    """Whether the continuous adjoint is wrong wherever an exact method is right."""
    by_task: dict[str, dict[str, Record]] = {}
    for record in _records(places):
        by_task.setdefault(record.task, {})[str(record.backend)] = record
    both = {task: (of[exact], of[continuous]) for task, of in by_task.items() if {exact, continuous} <= of.keys()}
    if not both:
        return NOTHING
    told = "; ".join(
        f"{task}: {exact} {_ends(one)}, {continuous} {_ends(other)}" for task, (one, other) in both.items()
    )
    wrong = {other.status in WRONG for one, other in both.values() if _right(one)}
    return Outcome(told, VERDICTS[wrong.pop() if len(wrong) == 1 else None])


def dated(places: Sequence[Place]) -> Outcome:
    """From which stiffness on each method is wrong."""
    found = {each.backend: each for each in limits(_records(places), "stiffness")}
    solved = [found[name] for name in ("adjoint", "torchdiffeq-adjoint") if name in found]
    exact = [found[name] for name in ("direct", "checkpoint") if name in found]
    if len(solved) + len(exact) < 4:
        return NOTHING
    told = "; ".join(
        f"{each.backend} " + ("right throughout" if each.wrong is None else f"wrong from λT = -{each.wrong:.0f} on")
        for each in found.values()
    )
    ended = {each.status for each in (*solved, *exact) if each.wrong is not None}
    breaks = all(each.wrong is not None for each in solved) and all(each.wrong is None for each in exact)
    return Outcome(told, VERDICTS[breaks if ended <= {*WRONG} else None])


def least_memory(places: Sequence[Place]) -> Outcome:
    """Peak memory of diffrax's adjoints, and whether it has the stated order."""
    peaks = {str(r.backend): r.peak_memory_bytes for r in _records(places) if r.ok and r.peak_memory_bytes}
    if len(peaks) < 3:
        return NOTHING
    told = "; ".join(f"{name} {peak / 2**20:.3g} MiB" for name, peak in sorted(peaks.items(), key=lambda each: each[1]))
    least, middle, most = (peaks[name] for name in ("diffrax-backsolve", "diffrax", "diffrax-direct"))
    in_order = least * ALIKE < middle and middle * ALIKE < most
    against = least > middle * ALIKE or middle > most * ALIKE
    return Outcome(told, VERDICTS[True if in_order else False if against else None])


AIM = 1e-2


def cheapest_order(places: Sequence[Place]) -> Outcome:
    """Evaluations of each solver to come to a gradient error of `AIM`."""
    fewest: dict[str, int] = {}
    for record in _records(places):
        n = (record.nfe_forward or 0) + (record.n_vjps or 0)
        if record.ok and record.grad_error_params is not None and record.grad_error_params <= AIM:
            fewest[str(record.solver)] = min(n, fewest.get(str(record.solver), n))
    if not _records(places):
        return NOTHING
    if not fewest:
        return Outcome(f"no solver comes to a gradient error of {AIM:g}", "undecided")
    told = "; ".join(f"{solver} {n}" for solver, n in sorted(fewest.items(), key=lambda each: each[1]))
    return Outcome(f"evaluations and VJPs: {told}", VERDICTS[min(fewest, key=lambda each: fewest[each]) == "heun"])


def at_equal_memory(places: Sequence[Place]) -> Outcome:
    """The fastest checkpointing in the memory of the reversible solver, relative to its time."""
    found = [cost for cost in equal_memory(_records(places)) if cost.fixed.backend == "reversible"]
    cost = next((each for each in found if each.family.backend == "checkpoint"), None)
    if cost is None:
        return NOTHING
    if cost.member is None or cost.ratio.value is None:
        return Outcome(cost.ratio.reason or ABSENT, "undecided")
    ratio = cost.ratio
    told = f"`{cost.member.backend}` takes {number(ratio.value)} times as long ({interval(ratio.low, ratio.high)})"
    return Outcome(told, VERDICTS[{"slower": True, "faster": False}.get(ratio.verdict or "")])


LEAST_LESS = 0.39


def less_time(places: Sequence[Place]) -> Outcome:
    """How much less time a gradient step of `direct` takes than one of `adjoint`, which is the control."""
    less = {
        record.task: (1 - record.ratio, 1 - record.ratio_high, 1 - record.ratio_low)
        for record in _records(places, "direct")
        if record.ratio is not None and record.ratio_low is not None and record.ratio_high is not None
    }
    if not less:
        return NOTHING
    told = "; ".join(
        f"{task} {100 * found:.0f} % ({100 * low:.0f}..{100 * high:.0f})" for task, (found, low, high) in less.items()
    )
    n_sure = sum(low >= LEAST_LESS for _, low, _ in less.values())
    n_never = sum(high < LEAST_LESS for _, _, high in less.values())
    half = len(_records(places, "direct")) / 2
    return Outcome(told, VERDICTS[True if n_sure > half else False if n_never >= half else None])
