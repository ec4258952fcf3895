"""Small systems that libraries of the field are tried on."""

from collections.abc import Mapping, Sequence
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
    """Logistic growth y' = rate y (1 - y / capacity), known in closed form, which contracts to its capacity.

    Near that a disturbance dies out like exp(-rate t), so that a solve of the state backwards in time grows like
    exp(rate t). It is observed from its beginnings on, so that neither the start nor the rate is forgotten by the loss,
    but where it is observed at its end alone.

    Attributes:
        rate: How fast it grows and contracts, from 0.01 to 1e6.
        end: Last time.
        n_times: Output times after the first, each as many times the one before, from 1 / rate on.

    Raises:
        UserError: If `rate` is not in that range, `end` not positive and finite, or `n_times` below 1.
    """

    rate: float = 2.0
    end: float = 1.0
    n_times: int = 4

    varied: ClassVar[Mapping[str, str]] = {"stiffness": "rate", "horizon": "end"}
    positive: ClassVar[bool] = True
    batch: ClassVar[int] = 4
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-6, atol=1e-9, max_steps=20_000, dtype="float64")
    start: ClassVar[np.ndarray] = np.array([0.9, 0.95])

    def __post_init__(self) -> None:
        if not (0.01 <= self.rate <= 1e6 and 0 < self.end < inf and self.n_times >= 1):
            raise UserError(
                "`rate` must be from 0.01 to 1e6, `end` positive and finite and `n_times` at least 1; got "
                f"{self.rate:g}, {self.end:g} and {self.n_times}."
            )

    @property
    @override
    def truth(self) -> np.ndarray:
        return np.array([self.rate, 1.0])

    @property
    @override
    def times(self) -> tuple[float, ...]:
        first = min(1.0 / self.rate, self.end / 2)
        return (0.0, *np.geomspace(self.end, first, self.n_times)[::-1].tolist())

    @override
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        del xp, t
        return p[0] * y[0] * (1 - y[0] / p[1]), p[0] * y[1] * (1 - y[1] / p[1])

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        found = super().problem(model, seed, batch_size)
        if model != "system":
            return found
        return GradientInputs(
            found.weights, found.batch, lambda: self._gradients(found.weights, found.batch), dataset=found.dataset
        )

    def _gradients(self, weights: Weights, batch: Any) -> Gradients:
        """By the chain rule, from y(t) = capacity / (1 + (capacity / y0 - 1) exp(-rate t))."""
        rate, capacity = np.exp(weights["field.theta"])
        y0, observed, scale = batch["y0"][:, None], batch["observed"], batch["scale"]
        t = np.array(self.times)[:, None]
        decay = np.exp(-rate * t)
        below = 1 + (capacity / y0 - 1) * decay
        y = capacity / below
        misfit = (y - observed) / scale
        by_y = 2 * misfit / scale / misfit.size
        by_below = -by_y * y / below
        by_decay = by_below * (capacity / y0 - 1)
        by_rate = np.sum(by_decay * -t * decay)
        by_capacity = np.sum(by_y / below + by_below * decay / y0)
        by_times = np.sum(by_decay * -rate * decay, (0, 2))
        # Of the first time the loss has the start itself, whatever the time is; the solve begins there.
        by_times[0] = -np.sum(by_times[1:])
        by_y0 = np.sum(by_below * -capacity / y0**2 * decay, 1)
        theta = np.array([by_rate * rate, by_capacity * capacity])
        return Gradients(np.array(np.mean(misfit**2)), by_y0, {"theta": theta}, by_times)
