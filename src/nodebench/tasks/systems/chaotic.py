"""Chaotic systems, in which gradients grow with the time span until they mean nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.problem import Array, SolverSpec
from nodebench.tasks.systems.task import AbstractSystem


@dataclass(frozen=True)
class AbstractChaotic(AbstractSystem):
    """A chaotic system, observed at five times until its horizon.

    Attributes:
        horizon: Last time, at most 100: beyond, float64 has lost every digit of the start.

    Raises:
        UserError: If it is not above 0, or above 100.
    """

    horizon: float = 1.0

    varied: ClassVar[Mapping[str, str]] = {"horizon": "horizon"}
    positive: ClassVar[bool] = True
    batch: ClassVar[int] = 4
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-8, atol=1e-8, max_steps=20_000, dtype="float64")

    def __post_init__(self) -> None:
        if not 0 < self.horizon <= 100:
            raise UserError(f"`horizon` must be above 0 and at most 100; got {self.horizon:g}.")

    @property
    @override
    def times(self) -> tuple[float, ...]:
        return tuple(np.linspace(0.0, self.horizon, 5).tolist())


@dataclass(frozen=True)
class Lorenz(AbstractChaotic):
    """Lorenz's three equations of 1963, whose disturbances grow about like exp(0.9 t)."""

    start: ClassVar[np.ndarray] = np.array([-8.0, 7.0, 27.0])
    truth: ClassVar[np.ndarray] = np.array([10.0, 28.0, 8 / 3])

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        a, b, c = y
        return p[0] * (b - a), a * (p[1] - c) - b, a * b - p[2] * c


@dataclass(frozen=True)
class DoublePendulum(AbstractChaotic):
    """Two rods with masses at their ends, one hanging from the other: two angles and their velocities.

    Parameters are the second mass and rod relative to the first, and gravity over the length of the first rod.
    """

    horizon: float = 2.0

    start: ClassVar[np.ndarray] = np.array([2.0, 2.5, 0.1, -0.1])
    truth: ClassVar[np.ndarray] = np.array([1.0, 1.0, 9.81])

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del t
        first, second, v, w = y
        mass, length, gravity = p[0], p[1], p[2]  # of the second relative to the first
        sine, cosine = xp.sin(first - second), xp.cos(first - second)
        total = 1 + mass * sine**2
        dv = (
            -sine * mass * (v**2 * cosine + length * w**2) - gravity * ((1 + mass) * xp.sin(first)
            - mass * xp.sin(second) * cosine)
        ) / total  # fmt: skip
        dw = (
            sine * ((1 + mass) * v**2 + mass * length * w**2 * cosine)
            + gravity * (1 + mass) * (xp.sin(first) * cosine - xp.sin(second))
        ) / (length * total)
        return v, w, dv, dw
