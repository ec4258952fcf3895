"""What papers and libraries claim of gradients, each put to a test: the claim, what was run, our figure, the verdict.

Claims are data: `CLAIMS`. A verdict follows from a rule that stands on the page beside it, by `judges`.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from nodebench.bench.request import Request
from nodebench.paper import judges
from nodebench.paper.judges import AIM, EVALUATIONS, GROWS, LEAST_LESS, LEAST_SAVED, NOTHING, Outcome, Verdict
from nodebench.paper.pages import Place, Source, facts
from nodebench.paper.parts import Part, settles
from nodebench.paper.verdicts import ABOUT_HALF, BACKWARD_SHARE
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
)

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


SYMPLECTIC = "Matsubara, Miyatake, Yaguchi 2021, README of symplectic-adjoint-method"
DIFFRAX = "diffrax's documentation, How to choose a solver, Adjoints"

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"{what} costs {stated} N s evaluations",
            SYMPLECTIC,
            f"{stated} N s",
            STEPS,
            partial(judges.evaluations, backend=backend, stated=stated),
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
            partial(judges.grows, backend=backend, stated=stated, y=lambda record: record.saved_bytes),
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
        judges.saved_by_seminorm,
        f"Reproduced where the median over tasks and tolerances is at least {100 * LEAST_SAVED:.0f} %; dopri5, at "
        "initial weights.",
    ),
    Claim(
        "The adjoint's backward solve takes about half the evaluations of the forward solve",
        "Chen et al. 2018, arXiv 1806.07366, figure 3c",
        f"{BACKWARD_SHARE}",
        NORMS,
        judges.backward_share,
        f"Reproduced where the median is below {ABOUT_HALF}; dopri5, at initial weights.",
    ),
    *(
        Claim(
            f"Reconstruction backwards in time errs by O(1/N^{-stated:g}) with a method of order {-stated:g}",
            "Sander, Ablin, Peyré 2022, of Euler and Heun",
            f"exponent {stated:g}",
            RECONSTRUCTION,
            partial(
                judges.grows,
                backend="adjoint",
                stated=stated,
                y=lambda record: record.method_error_params,
                solver=solver,
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
        partial(judges.grows, backend="reversible", stated=0.0, y=lambda record: record.saved_bytes),
        f"{GROWS} Bytes kept for the backward pass. That the gradient is exact is held by a test, against automatic "
        "differentiation through the same steps: here it has no other method to stand beside.",
    ),
    Claim(
        "Gradients of a stiff mode vanish, at best like 1/|z|, under a solver that is stable at any step",
        "Vanishing gradient problem for stiff neural differential equations, arXiv 2508.01519",
        "exponent -1",
        VANISHING,
        partial(
            judges.grows,
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
        partial(judges.fails, continuous="adjoint", exact="direct"),
        "Reproduced where the continuous adjoint is wrong on every problem on which `direct` is right, by kvaerno5.",
    ),
    Claim(
        "The same of diffrax's BacksolveAdjoint",
        DIFFRAX,
        "unstable where stiff",
        STIFF,
        partial(judges.fails, continuous="diffrax-backsolve", exact="diffrax"),
        "Reproduced where it is wrong on Robertson and RecursiveCheckpointAdjoint is right, by kvaerno5.",
    ),
    Claim(
        "Where a state contracts by exp(λT), its reconstruction explodes; exact methods stay right",
        "Gholami et al. 2019, arXiv 1902.10298, and most that followed",
        "wrong from some λT on",
        STIFFNESS,
        judges.dated,
        "Reproduced where both continuous adjoints are wrong from some stiffness on, and `direct` and `checkpoint` are "
        "right throughout; dopri5.",
    ),
    Claim(
        "BacksolveAdjoint takes least memory, then RecursiveCheckpointAdjoint, then DirectAdjoint",
        DIFFRAX,
        "in this order",
        ADJOINTS,
        judges.least_memory,
        "Reproduced where peak memory of a gradient step has this order.",
    ),
    Claim(
        "Low-order solvers (Heun) are the most efficient for discretise-then-optimise",
        DIFFRAX,
        "Heun first",
        ORDERS,
        judges.cheapest_order,
        f"Reproduced where Heun takes the fewest evaluations and VJPs to a gradient error of {AIM:g} on `cnf`, of four "
        "tolerances each.",
    ),
    Claim(
        "A reversible solver is faster than the best recursive checkpointing",
        "McCallum, Foster 2024, raw timing files",
        "2.2 to 3.6 times",
        AT_MEMORY,
        judges.at_equal_memory,
        "At equal memory: reproduced where the 95 % interval of the time of the fastest `checkpoint` that needs no "
        "more, relative to `reversible`, is above 1; not where it is below.",
    ),
    Claim(
        "Discretise-then-optimise trains in less time than optimise-then-discretise",
        "Onken, Ruthotto 2020, arXiv 2005.13420",
        "39 to 97 % less in 6 of 7 problems",
        STEP_TIMES,
        judges.less_time,
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
