"""Small systems that libraries of the field are tried on."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.frameworks.base import Weights
from nodebench.problem import Array, Gradients, SolverSpec
from nodebench.tasks.base import GradientInputs
from nodebench.tasks.systems.task import AbstractSystem


@dataclass(frozen=True)
class OdeDemo(AbstractSystem):
    """The cubic spiral y' = y^3 A of torchdiffeq's `ode_demo.py`, observed at 26 times of [0, 25]."""

    hidden: ClassVar[tuple[int, ...]] = (50,)
    batch: ClassVar[int] = 4
    start: ClassVar[np.ndarray] = np.array([2.0, 0.0])
    truth: ClassVar[np.ndarray] = np.array([-0.1, 2.0, -2.0, -0.1])
    times: ClassVar[tuple[float, ...]] = tuple(np.linspace(0.0, 25.0, 26).tolist())

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        a, b = y[0] ** 3, y[1] ** 3
        return a * p[0] + b * p[2], a * p[1] + b * p[3]


@dataclass(frozen=True)
class LotkaVolterra(AbstractSystem):
    """Prey and predators, four rates, two states: the example of SciML's pages on derivatives of solutions."""

    positive: ClassVar[bool] = True
    batch: ClassVar[int] = 4
    start: ClassVar[np.ndarray] = np.array([1.0, 1.0])
    truth: ClassVar[np.ndarray] = np.array([1.5, 1.0, 3.0, 1.0])
    times: ClassVar[tuple[float, ...]] = tuple(np.linspace(0.0, 10.0, 11).tolist())

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        prey, predators = y
        return p[0] * prey - p[1] * prey * predators, p[3] * prey * predators - p[2] * predators


@dataclass(frozen=True)
class Contracting(AbstractSystem):
    """y' = -rate y, known in closed form: a backward solve of the state grows like exp(rate t).

    Attributes:
        rate: How fast it contracts, from 0.01 to 1e6.
        end: Last time.

    Raises:
        UserError: If `rate` is not in that range, or `end` not positive and finite.
    """

    rate: float = 2.0
    end: float = 1.0

    positive: ClassVar[bool] = True
    decays: ClassVar[bool] = True
    batch: ClassVar[int] = 4
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-6, atol=1e-9, max_steps=20_000, dtype="float64")
    start: ClassVar[np.ndarray] = np.array([1.0, -0.5])

    def __post_init__(self) -> None:
        if not (0.01 <= self.rate <= 1e6 and 0 < self.end < inf):
            raise UserError(
                f"`rate` must be from 0.01 to 1e6 and `end` positive and finite; got {self.rate:g} and {self.end:g}."
            )

    @property
    @override
    def truth(self) -> np.ndarray:
        return np.array([self.rate])

    @property
    @override
    def times(self) -> tuple[float, ...]:
        return (0.0, self.end)

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        return -p[0] * y[0], -p[0] * y[1]

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        found = super().problem(model, seed, batch_size)
        if model != "system":
            return found
        return GradientInputs(
            found.weights, found.batch, lambda: self._gradients(found.weights, found.batch), dataset=found.dataset
        )

    def _gradients(self, weights: Weights, batch: Any) -> Gradients:
        """Of the loss of the last state: d y(T) / d log(rate) is -rate T y(T)."""
        rate = float(np.exp(weights["field.theta"][0]))
        y0, observed, scale = batch["y0"], batch["observed"], batch["scale"]
        decay = np.exp(-rate * self.end)
        misfit = (np.stack([y0, y0 * decay], 1) - observed) / scale
        by_first, by_last = np.moveaxis(2 * misfit / scale / misfit.size, 1, 0)
        by_rate = np.sum(by_last * -rate * self.end * y0 * decay)
        by_times = np.array([1.0, -1.0]) * rate * np.sum(by_last * y0 * decay)
        return Gradients(np.array(np.mean(misfit**2)), by_last * decay + by_first, {"theta": by_rate[None]}, by_times)
