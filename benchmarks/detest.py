"""The forward solve of `nodebench.odeint` beside torchdiffeq's, on the 25 nonstiff problems of DETEST.

    python benchmarks/detest.py [TOLERANCE ...]

Both solve with dopri5 in float64 from t = 0 to 20, at the same tolerance, from first steps of their own choice. They
take turns in one process, so that what slows the machine for a while slows both: a ratio is the median over the pairs,
with the quartiles. Beside it are the evaluations of each, counted in a solve of its own, and the ratio at equal work,
that of the times of one evaluation with all that goes with it. Errors are the largest of the states at 20 times,
relative to the tolerance atol + rtol |y|, against SciPy's DOP853 at 1e-12.

The problems are those of "Comparing Numerical Methods for Ordinary Differential Equations", Hull, Enright, Fellen and
Sedgwick, 1972, https://doi.org/10.1137/0709052: A single equations, B small systems, C moderate systems, D orbits by
their eccentricity, E equations of higher order. A field is written as a user writes one: a function of tensors.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

import torch
import torchdiffeq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.integrate import solve_ivp
from torch import Tensor

import nodebench

END = 20.0
TOLERANCES = (1e-3, 1e-6)
BUDGET_S = 0.3
"""Seconds of pairs for each problem and tolerance."""

LEAST_PAIRS = 5

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DetestProblem:
    """One problem: its field and the state at t = 0."""

    field: Field
    y0: tuple[float, ...]


def chain(n: int) -> Tensor:
    """Second differences of n values between two zeros."""
    beside = torch.ones(n - 1)
    return torch.diag(torch.full((n,), -2.0)) + torch.diag(beside, 1) + torch.diag(beside, -1)


def linear(matrix: Tensor) -> Field:
    """The field A y."""
    matrix = matrix.double()
    return lambda t, y: matrix @ y


def decay_chain(rates: Sequence[float]) -> Tensor:
    """Substances of which each decays into the next, the last one not."""
    n = len(rates) + 1
    matrix = torch.zeros(n, n)
    for i, rate in enumerate(rates):
        matrix[i, i] -= rate
        matrix[i + 1, i] += rate
    return matrix


# Masses and the constant of gravitation of the five outer planets, in the units of the paper.
GRAVITY, SUN = 2.95912208286, 1.00000597682
MASSES = (0.954786104043e-3, 0.285583733151e-3, 0.437273164546e-4, 0.517759138449e-4, 0.277777777778e-5)
PLACES = (
    (3.42947415189, 3.35386959711, 1.35494901715),
    (6.64145542550, 5.97156957878, 2.18231499728),
    (11.2630437207, 14.6952576794, 6.27960525067),
    (-30.1552268759, 1.65699966404, 1.43785752721),
    (-21.1238353380, 28.4465098142, 15.3882659679),
)
SPEEDS = (
    (-0.557160570446, 0.505696783289, 0.230578543901),
    (-0.415570776342, 0.365682722812, 0.169143213293),
    (-0.325325669158, 0.189706021964, 0.0877265322780),
    (-0.0240476254170, -0.287659532608, -0.117219543175),
    (-0.176860753121, -0.216393453025, -0.0148647893090),
)


def planets(t: Tensor, y: Tensor) -> Tensor:
    """C5: five bodies around the sun, which moves with them."""
    del t
    masses, (places, speeds) = y.new_tensor(MASSES), y.view(2, 5, 3)
    cubes = places.norm(dim=1) ** 3
    apart = places[None] - places[:, None]  # from the row's body to the column's
    distances = (apart.pow(2).sum(-1) + torch.eye(5).to(y)) ** 1.5
    pull = (apart / distances[..., None] - (places / cubes[:, None])[None]) * masses[None, :, None]
    others = pull * (1 - torch.eye(5).to(y))[..., None]
    own = -(SUN + masses)[:, None] * places / cubes[:, None]
    return torch.cat([speeds.reshape(-1), (GRAVITY * (own + others.sum(1))).reshape(-1)])


def orbit(t: Tensor, y: Tensor) -> Tensor:
    """D1 to D5: one body around another."""
    del t
    place, speed = y[:2], y[2:]
    return torch.cat([speed, -place / place.norm() ** 3])


def at_perihelion(eccentricity: float) -> tuple[float, ...]:
    """Where an orbit begins."""
    return 1 - eccentricity, 0.0, 0.0, math.sqrt((1 + eccentricity) / (1 - eccentricity))


def torus(t: Tensor, y: Tensor) -> Tensor:
    """B4: the integral surface of a torus."""
    del t
    r = torch.sqrt(y[0] ** 2 + y[1] ** 2)
    return torch.stack([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


def growth(t: Tensor, y: Tensor) -> Tensor:
    """B1: two populations in conflict."""
    del t
    return torch.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])])


def reaction(t: Tensor, y: Tensor) -> Tensor:
    """B3: a chemical reaction that is not linear."""
    del t
    return torch.stack([-y[0], y[0] - y[1] ** 2, y[1] ** 2])


def rigid_body(t: Tensor, y: Tensor) -> Tensor:
    """B5: Euler's equations of a rigid body without forces."""
    del t
    return torch.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


def second_order(acceleration: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Field:
    """The field of y'' = g(t, y, y')."""
    return lambda t, y: torch.stack([y[1], acceleration(t, y[0], y[1])])


PROBLEMS: Mapping[str, DetestProblem] = {
    "A1": DetestProblem(lambda t, y: -y, (1.0,)),
    "A2": DetestProblem(lambda t, y: -(y**3) / 2, (1.0,)),
    "A3": DetestProblem(lambda t, y: y * torch.cos(t), (1.0,)),
    "A4": DetestProblem(lambda t, y: y / 4 * (1 - y / 20), (1.0,)),
    "A5": DetestProblem(lambda t, y: (y - t) / (y + t), (4.0,)),
    "B1": DetestProblem(growth, (1.0, 3.0)),
    "B2": DetestProblem(linear(torch.tensor([[-1.0, 1, 0], [1, -2, 1], [0, 1, -1]])), (2.0, 0.0, 1.0)),
    "B3": DetestProblem(reaction, (1.0, 0.0, 0.0)),
    "B4": DetestProblem(torus, (3.0, 0.0, 0.0)),
    "B5": DetestProblem(rigid_body, (0.0, 1.0, 1.0)),
    "C1": DetestProblem(linear(decay_chain([1.0] * 9)), (1.0, *[0.0] * 9)),
    "C2": DetestProblem(linear(decay_chain([float(i) for i in range(1, 10)])), (1.0, *[0.0] * 9)),
    "C3": DetestProblem(linear(chain(10)), (1.0, *[0.0] * 9)),
    "C4": DetestProblem(linear(chain(51)), (1.0, *[0.0] * 50)),
    "C5": DetestProblem(planets, tuple(x for rows in (PLACES, SPEEDS) for row in rows for x in row)),
    **{f"D{i}": DetestProblem(orbit, at_perihelion(0.2 * i - 0.1)) for i in range(1, 6)},
    # Bessel's function of order 1/2, from t = 0 as t + 1.
    "E1": DetestProblem(
        second_order(lambda t, y, v: -(v / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y)),
        (0.6713967071418030, 0.09540051444747446),
    ),
    "E2": DetestProblem(second_order(lambda t, y, v: (1 - y**2) * v - y), (2.0, 0.0)),
    "E3": DetestProblem(second_order(lambda t, y, v: y**3 / 6 - y + 2 * torch.sin(2.78535 * t)), (0.0, 0.0)),
    "E4": DetestProblem(second_order(lambda t, y, v: 0.032 - 0.4 * v**2), (30.0, 0.0)),
    "E5": DetestProblem(second_order(lambda t, y, v: torch.sqrt(1 + v**2) / (25 - t)), (0.0, 0.0)),
}
"""The problems by their names, each from t = 0 to 20."""

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
    y0 = torch.tensor(problem.y0, dtype=torch.float64)
    settings = {"method": "dopri5", "rtol": tolerance, "atol": tolerance}
    counts, errors = [], []
    for solve in SOLVERS.values():
        calls = 0

        def counting(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return problem.field(t, y)

        found = solve(counting, y0, t, **settings)
        errors.append(((found - exact).abs() / (tolerance + tolerance * exact.abs())).max().item())
        counts.append(calls)
    ours, theirs = (partial(solve, problem.field, y0, t, **settings) for solve in SOLVERS.values())
    ratios: list[float] = []
    until = time.perf_counter() + BUDGET_S
    while len(ratios) < LEAST_PAIRS or time.perf_counter() < until:
        # The order alternates, so that who is first has no advantage.
        pair = {solve: seconds(solve) for solve in ((ours, theirs) if len(ratios) % 2 else (theirs, ours))}
        ratios.append(pair[ours] / pair[theirs])
    return Comparison((counts[0], counts[1]), (errors[0], errors[1]), ratios)


def reference(problem: DetestProblem, t: Tensor) -> Tensor:
    """The states at `t` by SciPy's DOP853, of order eight."""

    def field(t: float, y: object) -> object:
        return problem.field(torch.tensor(t, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)).numpy()

    solved = solve_ivp(field, (0, END), problem.y0, method="DOP853", t_eval=t.numpy(), rtol=1e-12, atol=1e-12)
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


def mean(values: Sequence[float]) -> float:
    """The geometric mean, which treats a ratio and its inverse alike."""
    return math.exp(sum(map(math.log, values)) / len(values))


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
