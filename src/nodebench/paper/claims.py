"""What papers and libraries claim of gradients, each put to a test: the claim, what was run, our figure, the verdict.

Claims are data: `CLAIMS`. A verdict follows from a rule that stands on the page beside it.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Literal, get_args

from nodebench.bench.request import Request
from nodebench.paper.pages import Place, Source, facts
from nodebench.paper.parts import Part, settles
from nodebench.paper.verdicts import ABOUT_HALF, BACKWARD_SHARE, NEAR, exponent, exponent_text
from nodebench.reports.document import (
    ABSENT,
    Block,
    Bullets,
    Column,
    Document,
    Entry,
    Missing,
    Paragraph,
    Section,
    Table,
    interval,
    number,
)
from nodebench.results.equal_memory import ALIKE, equal_memory
from nodebench.results.record import Record
from nodebench.results.scaling import limits
from nodebench.stats import PowerLaw, fit_power_law

Verdict = Literal["reproduced", "not reproduced", "undecided", "not testable here"]

FIELD = "minus-x[augmented=true]"
"""A small network that is not stiff, in float64 where rounding must not decide."""

STEPS = Part(
    "steps",
    (
        Request(
            tasks=(FIELD,),
            backends=("direct", "checkpoint", "symplectic", "reversible", "adjoint"),
            solvers=("rk4",),
            dtype="float64",
            measure="untimed",
        ),
    ),
    over=("steps", (10, 20, 40, 80)),
)

RECONSTRUCTION = Part(
    "reconstruction",
    (
        Request(
            tasks=(FIELD,), backends=("adjoint",), solvers=("euler", "midpoint"), dtype="float64", measure="untimed"
        ),
    ),
    over=("steps", (20, 40, 80, 160)),
)

NORMS = Part(
    "norms",
    (
        Request(
            tasks=("cnf", "spiral", "linear", FIELD, "small-mlp", "ode-demo", "lotka-volterra"),
            backends=("adjoint", "adjoint[norm=seminorm]"),
            solvers=("dopri5",),
            rtols=(1e-3, 1e-5, 1e-7),
            dtype="float64",
            measure="counts",
        ),
    ),
)

VANISHING = Part(
    "vanishing gradients",
    (
        Request(
            tasks=("contracting[n_times=1]",),
            backends=("direct",),
            solvers=("implicit-euler",),
            rtols=(1e-3,),  # of Newton's iteration, whose Jacobian is that of the start
            first_step=1.0,
            measure="untimed",
        ),
    ),
    over=("stiffness", (10, 100, 1000, 10_000)),
)

STIFFNESS = Part(
    "stiffness",
    (
        Request(
            tasks=("contracting",),
            backends=("direct", "checkpoint", "adjoint", "interpolated", "torchdiffeq", "torchdiffeq-adjoint"),
            measure="untimed",
        ),
    ),
    over=("stiffness", (1, 3, 10, 30, 100, 300)),
)

STIFF = Part(
    "stiff systems",
    (
        Request(tasks=("robertson", "pollu"), backends=("direct", "adjoint"), measure="untimed"),
        Request(tasks=("robertson",), backends=("diffrax", "diffrax-backsolve"), measure="untimed"),
    ),
)

ADJOINTS = Part(
    "adjoints of diffrax",
    (Request(tasks=("small-mlp",), backends=("diffrax", "diffrax-direct", "diffrax-backsolve"), measure="untimed"),),
)

ORDERS = Part(
    "orders",
    (
        Request(
            tasks=("cnf",),
            backends=("direct",),
            solvers=("heun", "bosh3", "dopri5", "dopri8"),
            rtols=(1e-1, 1e-2, 1e-3, 1e-4),
            measure="untimed",
        ),
    ),
)

AT_MEMORY = Part(
    "equal memory",
    (
        Request(
            tasks=("linear[dimension=16]",),
            backends=("reversible", "direct", *(f"checkpoint[checkpoints={n}]" for n in (4, 8, 16, 64))),
            batch_size=512,
            solvers=("midpoint",),
            first_step=0.005,
            rtols=(1e-3,),
            max_steps=400,
            dtype="float64",
            measure="gradient",
        ),
    ),
)

STEP_TIMES = Part(
    "times",
    (
        Request(
            tasks=("cnf", "spiral", FIELD, "ode-demo", "lotka-volterra"),
            backends=("adjoint", "direct"),
            measure="gradient",
        ),
    ),
)


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


@dataclass(frozen=True)
class Claim:
    """A claim of a paper or library.

    Attributes:
        statement: What is claimed.
        source: Who claims it, and where.
        theirs: Their figure.
        part: What is measured for it; None where it cannot be tested here.
        judge: Finds our figure and the verdict.
        rule: When the verdict is which, or why there is none, in a sentence.
    """

    statement: str
    source: str
    theirs: str
    part: Part | None = None
    judge: Callable[[Sequence[Place]], Outcome] | None = None
    rule: str = ""


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


def _grows(
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

RK4_STAGES = 4


def _evaluations(places: Sequence[Place], *, backend: str, stated: float) -> Outcome:
    """Evaluations and VJPs for each step and stage."""
    costs = [
        (record.nfe_forward + (record.nfe_backward or 0) + record.n_vjps) / (RK4_STAGES * record.n_accepted)
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


def _saved_by_seminorm(places: Sequence[Place]) -> Outcome:
    saved = [1 - (semi.nfe_backward or 0) / full.nfe_backward for full, semi in _pairs(places) if full.nfe_backward]
    if not saved:
        return NOTHING
    told = f"median {100 * median(saved):.0f} %, {100 * min(saved):.0f} to {100 * max(saved):.0f} % of {len(saved)}"
    return Outcome(told, VERDICTS[median(saved) >= LEAST_SAVED])


def _backward_share(places: Sequence[Place]) -> Outcome:
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


def _fails(places: Sequence[Place], *, continuous: str, exact: str) -> Outcome:
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


def _dated(places: Sequence[Place]) -> Outcome:
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


def _least_memory(places: Sequence[Place]) -> Outcome:
    peaks = {str(r.backend): r.peak_memory_bytes for r in _records(places) if r.ok and r.peak_memory_bytes}
    if len(peaks) < 3:
        return NOTHING
    told = "; ".join(f"{name} {peak / 2**20:.3g} MiB" for name, peak in sorted(peaks.items(), key=lambda each: each[1]))
    least, middle, most = (peaks[name] for name in ("diffrax-backsolve", "diffrax", "diffrax-direct"))
    in_order = least * ALIKE < middle and middle * ALIKE < most
    against = least > middle * ALIKE or middle > most * ALIKE
    return Outcome(told, VERDICTS[True if in_order else False if against else None])


AIM = 1e-2


def _cheapest_order(places: Sequence[Place]) -> Outcome:
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


def _at_equal_memory(places: Sequence[Place]) -> Outcome:
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


def _less_time(places: Sequence[Place]) -> Outcome:
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


SYMPLECTIC = "Matsubara, Miyatake, Yaguchi 2021, README of symplectic-adjoint-method"
DIFFRAX = "diffrax's documentation, How to choose a solver, Adjoints"

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"{what} costs {stated} N s evaluations",
            SYMPLECTIC,
            f"{stated} N s",
            STEPS,
            partial(_evaluations, backend=backend, stated=stated),
            EVALUATIONS + more,
        )
        for what, backend, stated, more in (
            ("Backpropagation through the solver", "direct", 2, ""),
            ("Backpropagation with a checkpoint at every step", "checkpoint", 3, ""),
            (
                "The symplectic adjoint",
                "symplectic",
                4,
                " Ours counts 2 s - 1 evaluations and s VJPs a step backwards.",
            ),
            ("The continuous adjoint, with as many steps backwards,", "adjoint", 3, ""),
        )
    ),
    *(
        Claim(
            f"{what} keeps memory ~ steps^{stated:g}",
            SYMPLECTIC,
            f"exponent {stated:g}",
            STEPS,
            partial(_grows, backend=backend, stated=stated, y=lambda record: record.saved_bytes),
            f"{GROWS} Bytes kept for the backward pass.",
        )
        for what, backend, stated in (
            ("Backpropagation through the solver", "direct", 1.0),
            ("Checkpointing at every step", "checkpoint", 1.0),
            ("The symplectic adjoint", "symplectic", 1.0),
            ("The continuous adjoint", "adjoint", 0.0),
        )
    ),
    Claim(
        "A seminorm in the backward solve's step control saves evaluations",
        "Kidger, Chen, Lyons 2021, arXiv 2009.09457",
        "median 40 %, up to 62 %",
        NORMS,
        _saved_by_seminorm,
        f"Reproduced where the median over tasks and tolerances is at least {100 * LEAST_SAVED:.0f} %; dopri5, at "
        "initial weights.",
    ),
    Claim(
        "The adjoint's backward solve takes about half the evaluations of the forward solve",
        "Chen et al. 2018, arXiv 1806.07366, figure 3c",
        f"{BACKWARD_SHARE}",
        NORMS,
        _backward_share,
        f"Reproduced where the median is below {ABOUT_HALF}; dopri5, at initial weights.",
    ),
    *(
        Claim(
            f"Reconstruction backwards in time errs by O(1/N^{-stated:g}) with a method of order {-stated:g}",
            "Sander, Ablin, Peyré 2022, of Euler and Heun",
            f"exponent {stated:g}",
            RECONSTRUCTION,
            partial(
                _grows, backend="adjoint", stated=stated, y=lambda record: record.method_error_params, solver=solver
            ),
            f"{GROWS} Method error of `adjoint` with {solver}{'' if solver == 'euler' else ', which stands for Heun'}.",
        )
        for solver, stated in (("euler", -1.0), ("midpoint", -2.0))
    ),
    Claim(
        "The exact gradient of an algebraically reversible solver needs memory ~ steps^0",
        "McCallum, Foster 2024, arXiv 2410.11648",
        "exponent 0",
        STEPS,
        partial(_grows, backend="reversible", stated=0.0, y=lambda record: record.saved_bytes),
        f"{GROWS} Bytes kept for the backward pass. That the gradient is exact is held by a test, against automatic "
        "differentiation through the same steps: here it has no other method to stand beside.",
    ),
    Claim(
        "Gradients of a stiff mode vanish, at best like 1/|z|, under a solver that is stable at any step",
        "Vanishing gradient problem for stiff neural differential equations, arXiv 2508.01519",
        "exponent -1",
        VANISHING,
        partial(
            _grows,
            backend="direct",
            stated=-1.0,
            x=lambda record: abs(record.stiffness or 0.0),
            y=lambda record: record.grad_norm_y0,
        ),
        f"{GROWS} The norm of d/dy0 over |z| = |λT|, one step of implicit Euler; that gradient is exact, and far from "
        "the continuous problem's.",
    ),
    Claim(
        "Solving the state backwards in time fails on stiff problems",
        "Kim et al. 2021, Stiff neural ordinary differential equations, of Robertson and POLLU",
        "wrong gradient",
        STIFF,
        partial(_fails, continuous="adjoint", exact="direct"),
        "Reproduced where the continuous adjoint is wrong on every problem on which `direct` is right, by kvaerno5.",
    ),
    Claim(
        "The same of diffrax's BacksolveAdjoint",
        DIFFRAX,
        "unstable where stiff",
        STIFF,
        partial(_fails, continuous="diffrax-backsolve", exact="diffrax"),
        "Reproduced where it is wrong on Robertson and RecursiveCheckpointAdjoint is right, by kvaerno5.",
    ),
    Claim(
        "Where a state contracts by exp(λT), its reconstruction explodes; exact methods stay right",
        "Gholami et al. 2019, arXiv 1902.10298, and most that followed",
        "wrong from some λT on",
        STIFFNESS,
        _dated,
        "Reproduced where both continuous adjoints are wrong from some stiffness on, and `direct` and `checkpoint` are "
        "right throughout; dopri5.",
    ),
    Claim(
        "BacksolveAdjoint takes least memory, then RecursiveCheckpointAdjoint, then DirectAdjoint",
        DIFFRAX,
        "in this order",
        ADJOINTS,
        _least_memory,
        "Reproduced where peak memory of a gradient step has this order.",
    ),
    Claim(
        "Low-order solvers (Heun) are the most efficient for discretise-then-optimise",
        DIFFRAX,
        "Heun first",
        ORDERS,
        _cheapest_order,
        f"Reproduced where Heun takes the fewest evaluations and VJPs to a gradient error of {AIM:g} on `cnf`, of four "
        "tolerances each.",
    ),
    Claim(
        "A reversible solver is faster than the best recursive checkpointing",
        "McCallum, Foster 2024, raw timing files",
        "2.2 to 3.6 times",
        AT_MEMORY,
        _at_equal_memory,
        "At equal memory: reproduced where the 95 % interval of the time of the fastest `checkpoint` that needs no "
        "more, relative to `reversible`, is above 1; not where it is below.",
    ),
    Claim(
        "Discretise-then-optimise trains in less time than optimise-then-discretise",
        "Onken, Ruthotto 2020, arXiv 2005.13420",
        "39 to 97 % less in 6 of 7 problems",
        STEP_TIMES,
        _less_time,
        f"Of a gradient step at equal tolerance: reproduced where `direct` takes surely {100 * LEAST_LESS:.0f} % less "
        "than `adjoint` on more than half of the problems, not where it surely does not on half of them.",
    ),
    *(
        Claim(statement, source, theirs, rule=why)
        for statement, source, theirs, why in (
            (
                "MALI: constant memory with an accurate reverse trajectory",
                "Zhuang et al. 2021",
                "method error at rounding",
                "There is no backend `mali`.",
            ),
            (
                "zuko's adaptive checkpoint adjoint is exact",
                "zuko 1.6.0, documentation of `odeint`",
                "method error at rounding",
                "There is no backend for zuko.",
            ),
            (
                "Mixed checkpoint schedules recompute less than binomial ones",
                "spyro pull request 390, package checkpoint-schedules",
                "10 slots of 1000 steps: 3.92 against 4.62",
                "There is no backend with mixed schedules.",
            ),
            (
                "Forward mode is the cheapest below about 100 parameters",
                "Ma et al. 2021, arXiv 1812.01892",
                "crossover near 100",
                "There is no backend for forward mode.",
            ),
            (
                "PNODE is faster than other reverse-accurate methods",
                "Zhang, Zhao 2022, arXiv 2206.01298",
                "up to 2.3 times",
                "It needs PETSc.",
            ),
            (
                "torchode takes less time a step than others",
                "Lienen, Günnemann 2022",
                "up to 4.3 times",
                "There is no backend for torchode.",
            ),
            (
                "gradsolve's record and replay is faster than diffrax's RecursiveCheckpointAdjoint",
                "its README, arXiv 2609.02876",
                "5.6 to 14.1 times",
                "It is claimed of a GPU, and there is no backend for gradsolve.",
            ),
            (
                "SciMLSensitivity is faster than torchdiffeq on a cubic spiral",
                "its documentation, page Benchmark",
                "over 30 and 100 times",
                "It is written in Julia.",
            ),
            (
                "ACA halves the error rate in half the training time",
                "Zhuang et al. 2020",
                "half; half",
                "It needs trainings of days on a GPU.",
            ),
            (
                "Mixed precision with scaled adjoints halves memory",
                "arXiv 2510.23498",
                "half the memory, up to twice as fast",
                "It is claimed of a GPU, and there is no backend for it.",
            ),
        )
    ),
)

PARTS: tuple[Part, ...] = tuple({claim.part.name: claim.part for claim in CLAIMS if claim.part is not None}.values())


def page(source: Source) -> Document:
    """The page of `claims`."""
    found = [(claim, outcome(claim, source.places[claim.part.name] if claim.part else ())) for claim in CLAIMS]
    decided = {
        verdict: [claim.statement for claim, each in found if each.verdict == verdict and each != NOTHING]
        for verdict in get_args(Verdict)
    }
    lead: list[Block] = [
        Paragraph(
            "What papers and libraries claim about gradients of neural ODEs, each beside what is measured here. A "
            "verdict follows from the rule beside it, as soon as all cells that it rests on have an answer; the "
            "command shows them."
        ),
        *(
            Bullets((f"{len(names)} {verdict}: {'; '.join(names)}.",))
            for verdict, names in decided.items()
            if names and verdict != "not testable here"
        ),
        *(Bullets((sentence,)) for sentence in source.machines.unlike()),
    ]
    columns = (
        Column("claim", numeric=False),
        Column("theirs", numeric=False),
        Column("ours", "With its 95 % interval, where it has one.", numeric=False),
        Column("verdict", numeric=False),
        Column("source", numeric=False),
    )
    tested = [(claim, each) for claim, each in found if claim.part is not None]
    rows = tuple(
        tuple(map(_text, (claim.statement, claim.theirs, each.ours, each.verdict, claim.source)))
        for claim, each in tested
    )
    rules = tuple((_text(claim.statement), _text(claim.rule), _text(_command(claim, source))) for claim, _ in tested)
    how = (Column("claim", numeric=False), Column("rule", numeric=False), Column("command", numeric=False))
    untested = tuple(
        tuple(map(_text, (claim.statement, claim.theirs, claim.rule, claim.source)))
        for claim, _ in found
        if claim.part is None
    )
    why = (*columns[:2], Column("why it is not tested", numeric=False), columns[-1])
    sections = [
        Section("Claims that were tested", (Table("claims", "Claims, and what is seen of them.", columns, rows),)),
        Section("How", (Table("rules", "The rule of each verdict, and what was run.", how, rules),)),
        Section("Not testable here", (Table("untested", "Claims that are not tested.", why, untested),)),
    ]
    missing = _missing(source)
    if missing:
        sections.append(Section("What is missing", tuple(missing)))
    return Document("Claims put to the test", facts(source, of_paper=False), tuple(lead), tuple(sections))


def outcome(claim: Claim, places: Sequence[Place]) -> Outcome:
    """What comes of a claim; undecided as long as a cell that it rests on has no answer.

    Args:
        claim: The claim.
        places: The cells of its part.
    """
    if claim.part is None or claim.judge is None:
        return Outcome(ABSENT, "not testable here")
    found = claim.judge(places)
    return replace(found, verdict="undecided") if _unanswered(claim.part, places) else found


def _unanswered(part: Part, places: Sequence[Place]) -> list[Place]:
    return [place for place in places if place.record is None or not settles(place.record, part.measure)]


def _missing(source: Source) -> list[Missing]:
    return [
        Missing(f"{part.name}: {place.label}", source.why([place]))
        for part in PARTS
        for place in _unanswered(part, source.places[part.name])
    ]


def _text(text: str) -> Entry:
    return Entry(text, text)


def _command(claim: Claim, source: Source) -> str:
    """What measures a claim by itself."""
    assert claim.part is not None, "what is not tested has no command"
    return "; ".join(f"`{_spelled(request, claim.part, source)}`" for request in claim.part.requests)


def _spelled(request: Request, part: Part, source: Source) -> str:
    usual = Request()
    words = [
        "nodebench",
        "scale" if part.over else "run",
        "-b",
        ",".join(request.backends),
        "-t",
        ",".join(request.tasks),
    ]
    if part.over:
        axis, values = part.over
        words += ["--over", axis, "--values", ",".join(f"{value:g}" for value in values)]
    words += ["--measure", request.measure]
    for option, value, default in (
        ("--solver", ",".join(request.solvers), ""),
        ("--rtol", ",".join(f"{rtol:g}" for rtol in request.rtols), ""),
        ("--first-step", request.first_step, usual.first_step),
        ("--max-steps", request.max_steps, usual.max_steps),
        ("--batch-size", request.batch_size, usual.batch_size),
        ("--dtype", request.dtype, usual.dtype),
        ("--preset", source.preset, "smoke" if part.over else usual.preset),
    ):
        if value != default:
            words += [option, str(value)]
    return shlex.join(words)
