"""Stiff systems, as test sets of stiff solvers have them.

"Test Set for Initial Value Problem Solvers", Mazzia and Magherini, 2008, https://archimede.uniba.it/~testset; "Solving
Ordinary Differential Equations II", Hairer and Wanner, 1996, section IV.10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.problem import Array, SolverSpec
from nodebench.tasks.systems.task import AbstractSystem


@dataclass(frozen=True)
class AbstractStiff(AbstractSystem):
    """A stiff system: positive rates, solved by an implicit method in float64, and no network in its place."""

    positive: ClassVar[bool] = True
    hidden: ClassVar[tuple[int, ...]] = ()
    spec: ClassVar[SolverSpec] = SolverSpec(solver="kvaerno5", rtol=1e-5, atol=1e-10, max_steps=2000, dtype="float64")
    reference: ClassVar[SolverSpec] = SolverSpec(
        solver="kvaerno5", rtol=1e-10, atol=1e-15, max_steps=100_000, dtype="float64"
    )


@dataclass(frozen=True)
class VanDerPol(AbstractStiff):
    """Van der Pol's oscillator in the time of its slow phase: y'' = mu^2 ((1 - y^2) y' - y).

    Attributes:
        mu: How stiff it is, from 1 to 1e5; 1000 is the problem of the test set, with eps = 1e-6.
        end: Last time.

    Raises:
        UserError: If `mu` is not in that range, or `end` not positive and finite.
    """

    mu: float = 1000.0
    end: float = 2.0

    varied: ClassVar[Mapping[str, str]] = {"stiffness": "mu", "horizon": "end"}
    start: ClassVar[np.ndarray] = np.array([2.0, 0.0])

    def __post_init__(self) -> None:
        if not (1 <= self.mu <= 1e5 and 0 < self.end < inf):
            raise UserError(
                f"`mu` must be from 1 to 1e5 and `end` positive and finite; got {self.mu:g} and {self.end:g}."
            )

    @property
    @override
    def truth(self) -> np.ndarray:
        return np.array([self.mu**2])

    @property
    @override
    def times(self) -> tuple[float, ...]:
        return tuple(np.linspace(0.0, self.end, 5).tolist())

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        return y[1], p[0] * ((1 - y[0] ** 2) * y[1] - y[0])


@dataclass(frozen=True)
class Robertson(AbstractStiff):
    """Robertson's three reactions, whose rates span nine orders of magnitude.

    Attributes:
        end: Last time; the test set goes to 1e11.

    Raises:
        UserError: If it is not positive and finite.
    """

    end: float = 1e4

    varied: ClassVar[Mapping[str, str]] = {"horizon": "end"}
    start: ClassVar[np.ndarray] = np.array([1.0, 0.0, 0.0])
    truth: ClassVar[np.ndarray] = np.array([0.04, 3e7, 1e4])

    def __post_init__(self) -> None:
        if not 0 < self.end < inf:
            raise UserError(f"`end` must be positive and finite; got {self.end:g}.")

    @property
    @override
    def times(self) -> tuple[float, ...]:
        return (0.0, *np.geomspace(self.end * 1e-4, self.end, 5).tolist())

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        a, b, c = y
        first, second, third = p[0] * a, p[1] * b * b, p[2] * b * c
        return -first + third, first - third - second, second


@dataclass(frozen=True)
class Hires(AbstractStiff):
    """High irradiance responses of photomorphogenesis: eight species, twelve rates (Schäfer, 1975)."""

    start: ClassVar[np.ndarray] = np.array([1.0, 0, 0, 0, 0, 0, 0, 0.0057])
    truth: ClassVar[np.ndarray] = np.array(
        [1.71, 0.43, 8.32, 0.0007, 8.75, 10.03, 0.035, 1.12, 1.745, 280.0, 0.69, 1.81]
    )
    times: ClassVar[tuple[float, ...]] = (0.0, 1.0, 10.0, 100.0, 321.8122)

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        a, b, c, d, e, f, g, h = y
        pair = p[9] * f * h
        return (
            -p[0] * a + p[1] * b + p[2] * c + p[3],
            p[0] * a - p[4] * b,
            -p[5] * c + p[1] * d + p[6] * e,
            p[2] * b + p[0] * c - p[7] * d,
            -p[8] * e + p[1] * f + p[1] * g,
            -pair + p[10] * d + p[0] * e - p[1] * f + p[10] * g,
            pair - p[11] * g,
            -pair + p[11] * g,
        )


@dataclass(frozen=True)
class Pollu(AbstractStiff):
    """The chemical part of an air pollution model: 20 species, 25 reactions of rates 1e-3 to 4e11 (Verwer, 1994)."""

    start: ClassVar[np.ndarray] = np.array(
        [0, 0.2, 0, 0.04, 0, 0, 0.1, 0.3, 0.01, 0, 0, 0, 0, 0, 0, 0, 0.007, 0, 0, 0]
    )  # fmt: skip
    truth: ClassVar[np.ndarray] = np.array([
            0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88, 1.63e4, 4.8e6,
            3.5e-4, 0.0175, 1e8, 4.44e11, 1.24e3, 2.1, 5.78, 0.0474, 1.78e3, 3.12,
        ])  # fmt: skip

    times: ClassVar[tuple[float, ...]] = (0.0, 1.0, 10.0, 60.0)

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        (no2, no, o3p, o3, ho2, oh, hcho, _, ald, meo2, c2o3, _, pan, ch3o, _, o1d, so2, _, no3, n2o5) = y
        r = [
            p[0] * no2, p[1] * no * o3, p[2] * ho2 * no, p[3] * hcho, p[4] * hcho, p[5] * hcho * oh, p[6] * ald,
            p[7] * ald * oh, p[8] * c2o3 * no, p[9] * c2o3 * no2, p[10] * pan, p[11] * meo2 * no, p[12] * ch3o,
            p[13] * no2 * oh, p[14] * o3p, p[15] * o3, p[16] * o3, p[17] * o1d, p[18] * o1d, p[19] * so2 * oh,
            p[20] * no3, p[21] * no3, p[22] * no2 * o3, p[23] * no3 * no2, p[24] * n2o5,
        ]  # fmt: skip
        return (
            -r[0] - r[9] - r[13] - r[22] - r[23] + r[1] + r[2] + r[8] + r[10] + r[11] + r[21] + r[24],
            -r[1] - r[2] - r[8] - r[11] + r[0] + r[20],
            -r[14] + r[0] + r[16] + r[18] + r[21],
            -r[1] - r[15] - r[16] - r[22] + r[14],
            -r[2] + 2 * r[3] + r[5] + r[6] + r[12] + r[19],
            -r[5] - r[7] - r[13] - r[19] + r[2] + 2 * r[17],
            -r[3] - r[4] - r[5] + r[12],
            r[3] + r[4] + r[5] + r[6],
            -r[6] - r[7],
            -r[11] + r[6] + r[8],
            -r[8] - r[9] + r[7] + r[10],
            r[8],
            -r[10] + r[9],
            -r[12] + r[11],
            r[13],
            -r[17] - r[18] + r[15],
            -r[19],
            r[19],
            -r[20] - r[21] - r[23] + r[22] + r[24],
            -r[24] + r[23],
        )


@dataclass(frozen=True)
class Brusselator(AbstractStiff):
    """The Brusselator with diffusion on a periodic grid of the unit square: 2 n^2 states, 4 n^2 parameters.

    u' = B + u^2 v - (A + 1) u + alpha Δu, v' = A u - u^2 v + alpha Δv; A, B and alpha, the last by species, are
    parameters at every point. It ends before the time from which the original is disturbed.

    Attributes:
        n: Points along a side, from 2 to 32.

    Raises:
        UserError: If it is not in that range.

    References:
        "A comparison of automatic differentiation and continuous sensitivity analysis for derivatives of differential
        equation solutions", Ma, Dixit, Innes, Guo, Rackauckas, 2021, https://arxiv.org/abs/1812.01892
    """

    n: int = 4

    varied: ClassVar[Mapping[str, str]] = {"parameters": "n"}

    def __post_init__(self) -> None:
        if not 2 <= self.n <= 32:
            raise UserError(f"`n` must be from 2 to 32; got {self.n}.")

    @property
    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        side = np.arange(self.n) / self.n
        x, y = np.meshgrid(side, side, indexing="ij")
        return x, y

    @property
    @override
    def start(self) -> np.ndarray:
        x, y = self._grid
        return np.concatenate([(22 * (y * (1 - y)) ** 1.5).ravel(), (27 * (x * (1 - x)) ** 1.5).ravel()])

    @property
    @override
    def truth(self) -> np.ndarray:
        return np.repeat([3.4, 1.0, 10.0, 10.0], self.n**2)

    times: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.0)

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        raise NotImplementedError("it is written for whole grids, as `derivative`")

    @override
    def derivative(self, xp: Any, t: Array, y: Array, p: Array) -> Array:
        n = self.n
        u, v = (part.reshape(*y.shape[:-1], n, n) for part in (y[..., : n * n], y[..., n * n :]))
        a, b, of_u, of_v = (p[i * n * n : (i + 1) * n * n].reshape(n, n) for i in range(4))
        square = u * u * v
        du = b + square - (a + 1) * u + of_u * _laplacian(xp, u, n)
        dv = a * u - square + of_v * _laplacian(xp, v, n)
        return xp.concatenate([du.reshape(*y.shape[:-1], n * n), dv.reshape(*y.shape[:-1], n * n)], -1)


def _laplacian(xp: Any, u: Array, n: int) -> Array:
    around = xp.roll(u, 1, -1) + xp.roll(u, -1, -1) + xp.roll(u, 1, -2) + xp.roll(u, -1, -2)
    return (around - 4 * u) * (n - 1) ** 2
