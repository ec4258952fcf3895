"""The forward solve of `nodebench.odeint` beside torchdiffeq's, on the 25 nonstiff problems of DETEST.

    python benchmarks/detest.py [TOLERANCE ...]

Both solve with dopri5 in float64 from t = 0 to 20, at the same tolerance, from first steps of their own choice. They
take turns in one process, so that what slows the machine for a while slows both: a ratio is the median over the pairs,
with the quartiles. Beside it are the evaluations of each, counted in a solve of its own, and the ratio at equal work,
that of the times of one evaluation with all that goes with it. Errors are the largest of the states at 20 times,
relative to the tolerance atol + rtol |y|, against SciPy's DOP853 at 1e-12.

The problems are described in `nodebench.conformance.detest`; `tests/test_detest.py` holds all our solvers to them.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import geometric_mean as mean  # treats a ratio and its inverse alike
from statistics import median, quantiles

import numpy as np
import torch
import torchdiffeq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.integrate import solve_ivp
from torch import Tensor

import nodebench
from nodebench.conformance.detest import END, PROBLEMS, DetestProblem

TOLERANCES = (1e-3, 1e-6)
BUDGET_S = 0.3
"""Seconds of pairs for each problem and tolerance."""

LEAST_PAIRS = 5

SOLVERS: Mapping[str, Callable[..., Tensor]] = {"ours": nodebench.odeint, "theirs": torchdiffeq.odeint}


@dataclass(frozen=True)
class Comparison:
    """Both solves of one problem at one tolerance.

    Attributes:
        evaluations: Those of the field, of ours and of torchdiffeq's.
        errors: Largest error relative to the tolerance, likewise.
        ratios: Our time divided by torchdiffeq's, of each pair.
    """

    evaluations: tuple[int, int]
    errors: tuple[float, float]
    ratios: list[float]

    @property
    def per_evaluation(self) -> float:
        """Time of an evaluation of ours with all that goes with it, relative to theirs."""
        ours, theirs = self.evaluations
        return median(self.ratios) * theirs / ours


def compare(problem: DetestProblem, tolerance: float, t: Tensor, exact: Tensor) -> Comparison:
    """Count, check and time."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return problem.rates(torch, t, y)

    y0 = torch.tensor(problem.y0, dtype=torch.float64)
    settings = {"method": "dopri5", "rtol": tolerance, "atol": tolerance}
    counts, errors = [], []
    for solve in SOLVERS.values():
        calls = 0

        def counting(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return field(t, y)

        found = solve(counting, y0, t, **settings)
        errors.append(((found - exact).abs() / (tolerance + tolerance * exact.abs())).max().item())
        counts.append(calls)
    ours, theirs = (partial(solve, field, y0, t, **settings) for solve in SOLVERS.values())
    ratios: list[float] = []
    until = time.perf_counter() + BUDGET_S
    while len(ratios) < LEAST_PAIRS or time.perf_counter() < until:
        # The order alternates, so that who is first has no advantage.
        pair = {solve: seconds(solve) for solve in ((ours, theirs) if len(ratios) % 2 else (theirs, ours))}
        ratios.append(pair[ours] / pair[theirs])
    return Comparison((counts[0], counts[1]), (errors[0], errors[1]), ratios)


def reference(problem: DetestProblem, t: Tensor) -> Tensor:
    """The states at `t` by SciPy's DOP853, of order eight."""
    solved = solve_ivp(
        lambda t, y: problem.rates(np, t, y), (0, END), problem.y0, "DOP853", t_eval=t.numpy(), rtol=1e-12, atol=1e-12
    )
    return torch.from_numpy(solved.y.T)


def seconds(solve: Callable[[], Tensor]) -> float:
    """Time of one solve."""
    begin = time.perf_counter()
    solve()
    return time.perf_counter() - begin


def table(found: Mapping[tuple[str, float], Comparison]) -> Table:
    """A line for each problem and tolerance, and the geometric mean of each tolerance."""
    shown = Table(
        title="DETEST, forward, dopri5, float64, one thread: ours / torchdiffeq's", box=SIMPLE_HEAD, padding=0
    )
    for name in ("problem", "tol", "NFE\nours", "NFE\ntheirs", "error\nours", "error\ntheirs", "time\nratio"):
        shown.add_column(name, justify="right")
    for name in ("quartiles", "pairs", "per\nNFE"):
        shown.add_column(name, justify="right")
    for tolerance in dict.fromkeys(at for _, at in found):
        rows = {name: each for (name, at), each in found.items() if at == tolerance}
        for name, each in rows.items():
            low, _, high = quantiles(each.ratios, n=4)
            shown.add_row(
                name, f"{tolerance:g}", *map(str, each.evaluations), *(f"{error:.2g}" for error in each.errors),
                f"{median(each.ratios):.2f}", f"{low:.2f} to {high:.2f}", str(len(each.ratios)),
                f"{each.per_evaluation:.2f}",
            )  # fmt: skip
        shown.add_row(
            "mean", f"{tolerance:g}", *(f"{mean([each.evaluations[i] for each in rows.values()]):.0f}" for i in (0, 1)),
            *(f"{mean([each.errors[i] for each in rows.values()]):.2g}" for i in (0, 1)),
            f"{mean([median(each.ratios) for each in rows.values()]):.2f}", "", "",
            f"{mean([each.per_evaluation for each in rows.values()]):.2f}", end_section=True,
        )  # fmt: skip
    return shown


def main(tolerances: Sequence[float]) -> None:
    """Compare on all problems, and print the table."""
    torch.set_num_threads(1)
    found, t = {}, torch.linspace(0, END, 21, dtype=torch.float64)
    with torch.no_grad():
        for name, problem in PROBLEMS.items():
            exact = reference(problem, t)
            found |= {(name, tolerance): compare(problem, tolerance, t, exact) for tolerance in tolerances}
    Console(width=None if sys.stdout.isatty() else 110, highlight=False).print(table(found))


if __name__ == "__main__":
    main([float(tolerance) for tolerance in sys.argv[1:]] or TOLERANCES)
