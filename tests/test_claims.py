"""A claim's verdict follows from its figures by its rule: planted ones bear it out, deny it, or leave it open."""

import pytest

from nodebench.options import ReproduceOptions
from nodebench.paper.claims import CLAIMS, NOTHING, outcome
from nodebench.paper.pages import Place
from nodebench.registry import parse
from nodebench.results.record import Record

MEASURED = {"status": "ok", "nfe_forward": 1, "step_s": 1.0, "grad_norm_y0": 1.0, "reference_error_params": 0.0}
"""What every record of a claim has, whatever is measured for it."""

BY_STATEMENT = {claim.statement: claim for claim in CLAIMS}
TESTED = [claim for claim in CLAIMS if claim.part is not None]


def record(cell, **figures):
    """A record of a cell, ok unless the figures say otherwise."""
    common = {"run_id": "r", "created_at": "now", "nodebench_version": "0", "cell_id": cell.cell_id}
    settings = {"task": cell.task, "model": cell.model, "backend": cell.backend, "batch_size": cell.batch_size}
    return Record(**common, **settings, solver=cell.spec.solver, rtol=cell.spec.rtol, **{**MEASURED, **figures})


def found(beginning, figures):
    """What comes of the claim whose statement begins so, of figures by cell."""
    (claim,) = (each for each in TESTED if each.statement.startswith(beginning))
    cells = claim.part.plan(ReproduceOptions()).cells
    return outcome(claim, [Place(cell, record(cell, **figures(cell))) for cell in cells])


def steps(backward, vjps, saved=lambda _: 1000):
    """Figures of rk4, whose costs are given for each step and stage."""

    def figures(cell):
        n = cell.spec.n_steps
        counts = {"nfe_forward": 4 * n, "nfe_backward": round(4 * n * backward), "n_vjps": round(4 * n * vjps)}
        return {**counts, "n_accepted": n, "saved_bytes": saved(n), "method_error_params": 1e-16}

    return figures


def stiff(wrong, limit=50):
    """The stiffness of a task, and from a limit on wrong gradients of backends of whom `wrong` is true."""

    def figures(cell):
        rate = float(parse(cell.task)[1].get("rate", 2))
        gone = wrong(cell.backend) and rate > limit
        return {"stiffness": -rate, "n_params": 2, **({"status": "wrong_gradient"} if gone else {})}

    return figures


def counted(share):
    """Evaluations of the backward solve relative to the forward one, by backend."""
    return lambda cell: {"nfe_forward": 100, "nfe_backward": round(100 * share[cell.backend])}


FULL, SEMI = "adjoint", "adjoint[norm=seminorm]"


@pytest.mark.parametrize(
    ("claim", "figures", "verdict"),
    [
        ("Backpropagation through the solver costs", steps(0, 1), "reproduced"),
        ("Backpropagation through the solver costs", steps(1, 1), "not reproduced"),
        ("The symplectic adjoint costs", steps(1.75, 1), "not reproduced"),
        ("Backpropagation through the solver keeps", steps(0, 1, lambda n: 70 * n), "reproduced"),
        ("Backpropagation through the solver keeps", steps(0, 1), "not reproduced"),
        ("The continuous adjoint keeps", steps(1, 1), "reproduced"),
        ("The exact gradient of an algebraically reversible", steps(1, 1), "reproduced"),
        ("The exact gradient of an algebraically reversible", steps(1, 1, lambda n: n), "not reproduced"),
        ("A seminorm", counted({FULL: 1.0, SEMI: 0.6}), "reproduced"),
        ("A seminorm", counted({FULL: 1.0, SEMI: 0.9}), "not reproduced"),
        ("The adjoint's backward solve", counted({FULL: 0.6, SEMI: 1.0}), "reproduced"),
        ("The adjoint's backward solve", counted({FULL: 1.2, SEMI: 0.1}), "not reproduced"),
        ("Where a state contracts", stiff(lambda name: name.endswith("adjoint")), "reproduced"),
        ("Where a state contracts", stiff(lambda _: False), "not reproduced"),
        ("Where a state contracts", stiff(lambda _: True), "not reproduced"),
        ("Gradients of a stiff mode", lambda c: stiff(lambda _: False)(c) | {"grad_norm_y0": 1e-6}, "not reproduced"),
        (
            "Gradients of a stiff mode",
            lambda cell: {"grad_norm_y0": 5 / float(parse(cell.task)[1]["rate"]), **stiff(lambda _: False)(cell)},
            "reproduced",
        ),
        (
            "Solving the state backwards",
            lambda cell: {"status": "diverged" if cell.backend == "adjoint" else "ok", "grad_error_params": 1e-4},
            "reproduced",
        ),
        ("Solving the state backwards", lambda _: {"grad_error_params": 1e-4}, "not reproduced"),
        (
            "Solving the state backwards",
            lambda cell: {"status": "diverged" if (cell.backend, cell.task) == ("adjoint", "pollu") else "ok"},
            "undecided",
        ),
        ("The same of diffrax's", lambda _: {"status": "diverged"}, "undecided"),
        (
            "BacksolveAdjoint takes least",
            lambda cell: {"peak_memory_bytes": {"diffrax": 2, "diffrax-direct": 3}.get(cell.backend, 1) * 2**20},
            "reproduced",
        ),
        (
            "Low-order solvers",
            lambda cell: {"nfe_forward": 30 + (cell.spec.solver != "heun"), "n_vjps": 0, "grad_error_params": 1e-3},
            "reproduced",
        ),
        (
            "Low-order solvers",
            lambda cell: {
                "nfe_forward": 30, "n_vjps": 0, "grad_error_params": 1.0 if cell.spec.solver == "heun" else 1e-3
            },
            "not reproduced",
        ),
        (
            "Discretise-then-optimise",
            lambda cell: {"ratio": 0.4, "ratio_low": 0.35, "ratio_high": 0.5} if cell.backend == "direct" else {},
            "reproduced",
        ),
        (
            "Discretise-then-optimise",
            lambda cell: {"ratio": 0.9, "ratio_low": 0.8, "ratio_high": 1.0} if cell.backend == "direct" else {},
            "not reproduced",
        ),
        (
            "Discretise-then-optimise",
            lambda cell: {"ratio": 0.6, "ratio_low": 0.3, "ratio_high": 1.0} if cell.backend == "direct" else {},
            "undecided",
        ),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_figures(claim, figures, verdict):
    """By the rule of the claim."""
    assert found(claim, figures).verdict == verdict


@pytest.mark.parametrize("slower", [True, False, None])
def test_reversible_is_compared_at_its_own_memory(slower):
    """With the fastest checkpointing that needs no more of it, which another that needs more does not decide."""
    time = {True: (2.0, 1.8, 2.2), False: (0.5, 0.4, 0.6), None: (1.0, 0.5, 2.0)}[slower]

    def figures(cell):
        if cell.backend == "reversible":
            return {"peak_memory_bytes": 100, "step_s": 1.0}
        n = int(parse(cell.backend)[1].get("checkpoints", 1000))
        times = dict(zip(("ratio", "ratio_low", "ratio_high"), time if n == 8 else (3.0, 2.9, 3.1), strict=True))
        return {"peak_memory_bytes": 10 * n, "step_s": 1.0, "n_starts": 4, "control": "reversible", **times}

    told = found("A reversible solver is faster", figures)
    assert told.verdict == {True: "reproduced", False: "not reproduced", None: "undecided"}[slower]
    assert "checkpoint[checkpoints=8]" in told.ours


@pytest.mark.parametrize("claim", TESTED, ids=lambda claim: claim.statement)
def test_what_was_not_measured_decides_nothing(claim):
    """Neither without records nor where all of them failed."""
    cells = claim.part.plan(ReproduceOptions()).cells
    assert outcome(claim, [Place(cell) for cell in cells]) == NOTHING
    failed = [Place(cell, record(cell, status="failed", reason="no memory")) for cell in cells]
    assert outcome(claim, failed).verdict == "undecided"


@pytest.mark.parametrize(
    ("claim", "figures", "odd"),
    [
        ("Backpropagation through the solver costs", steps(0, 1), lambda cell: cell.spec.n_steps == 80),
        ("Low-order solvers", lambda _: {"grad_error_params": 1e-3, "n_vjps": 0}, lambda c: c.spec.solver == "heun"),
        ("Where a state contracts", stiff(lambda name: name.endswith("adjoint")), lambda c: c.backend == "checkpoint"),
        ("A seminorm", counted({FULL: 1.0, SEMI: 0.6}), lambda cell: cell.task == "cnf"),
    ],
)
def test_a_part_of_what_a_rule_speaks_of_decides_nothing(claim, figures, odd):
    """A cell that was not measured, timed out or fell over leaves it open."""
    for ending in ("timeout", "failed"):
        told = found(claim, lambda cell: {"status": ending} if odd(cell) else figures(cell))  # noqa: B023
        assert told.verdict == "undecided"


def test_that_something_else_went_wrong_is_no_wrong_gradient():
    """An adjoint that cannot be imported does not fail on stiff problems, nor does an exact one that nobody judges."""
    for figures in (
        lambda cell: {"status": "failed" if cell.backend == "adjoint" else "ok", "grad_error_params": 1e-4},
        lambda _: {"reference_error_params": None},
    ):
        assert found("Solving the state backwards", figures).verdict == "undecided"


def test_what_is_not_tested_says_why():
    """And names neither a measurement nor a verdict."""
    untested = [claim for claim in CLAIMS if claim.part is None]
    assert untested
    assert all(claim.rule and claim.judge is None for claim in untested)
    assert len(BY_STATEMENT) == len(CLAIMS)
