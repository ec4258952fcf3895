"""What all systems of equations have in common: trajectories to be fitted, models, recipes.

A system is one description, in `small`, `stiff` or `chaotic`: where it starts, its parameters, when it is observed and
its `rates`, written once for NumPy, torch and JAX.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import scipy  # whose submodules load on first use: `nodebench list` imports this module
from typing_extensions import override

from nodebench.errors import PluginError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.problem import Array, SolverSpec
from nodebench.tasks.base import (
    AbstractTask,
    Dynamics,
    GradientInputs,
    Metric,
    ModelEntry,
    Preset,
    Recipe,
    Splits,
    layer_weights,
)
from nodebench.tasks.systems.dynamics import dynamics

EXAMPLES: Mapping[Preset, int] = {"smoke": 8, "quick": 16, "standard": 32, "paper": 32}
"""Trajectories in all: half of them to train on, a quarter to validate and a quarter to test."""

EPOCHS: Mapping[Preset, int] = {"smoke": 2, "quick": 30, "standard": 300, "paper": 300}

MISSED = 0.1
"""Standard deviation by which the parameters miss the truth before the training, relative to it."""

EXACT = {"rtol": 1e-10, "atol": 1e-14}
"""Tolerances of the trajectories that are observed; those of a chaotic system are as good as its horizon permits."""


@dataclass(frozen=True)
class AbstractSystem(AbstractTask):
    """A system of ordinary differential equations as a task.

    Its parametric model, `system`, is fitted to trajectories of the true parameters from near the usual start, the loss
    being the mean square of the misfit at the output times, relative to the largest value of each component. Its neural
    model, `neural`, has a small network in the place of the equations.

    A final subclass is a frozen dataclass whose fields are its options.
    """

    positive: ClassVar[bool] = False
    """Whether parameters are positive and are held as logarithms, which makes rates of unlike sizes comparable."""

    hidden: ClassVar[tuple[int, ...]] = (32,)
    """Widths of the neural model's layers, with tanh between them; empty where a network makes no sense."""

    spread: ClassVar[float] = 0.05
    """Standard deviation of the starts, relative to the usual one; that itself is the first of them."""

    batch: ClassVar[int] = 1
    """Examples in a step."""

    metric: ClassVar[Metric] = Metric("relative RMSE", "1", "lower", "root-mean-square")
    default_model: ClassVar[str] = "system"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-6, atol=1e-8, max_steps=4096, dtype="float64")

    @override
    def __init_subclass__(cls) -> None:
        written = {name: f"nodebench.tasks.systems.{name}:SystemODE" for name in ("torch", "jax")}
        cls.models = {"system": ModelEntry(written, summary="The equations, with parameters to be fitted.")}
        if cls.hidden:
            cls.models |= {"neural": ModelEntry(written, summary="A small network in their place.")}
        super().__init_subclass__()

    @property
    @abstractmethod
    def start(self) -> np.ndarray:
        """The usual initial state, shape `(d,)`."""

    @property
    @abstractmethod
    def truth(self) -> np.ndarray:
        """The true parameters, shape `(p,)`."""

    @property
    @abstractmethod
    def times(self) -> tuple[float, ...]:
        """When the system is observed, the first time being that of the start."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the neural model's layers, from the state and back to it."""
        return (len(self.start), *self.hidden, len(self.start))

    @abstractmethod
    def rates(self, xp: Any, t: Array, y: Sequence[Array], p: Array) -> Sequence[Array]:
        """The derivative of each component.

        Args:
            xp: `numpy`, `torch` or `jax.numpy`.
            t: The time.
            y: The components of the state, arrays of one shape.
            p: The parameters, shape `(p,)`.
        """

    def derivative(self, xp: Any, t: Array, y: Array, p: Array) -> Array:
        """The derivative of states `(..., d)`."""
        return xp.stack(self.rates(xp, t, [y[..., i] for i in range(y.shape[-1])], p), -1)

    @override
    def data_source(self) -> str:
        return "computed from the seed"

    @override
    def data(self, preset: Preset, seed: int) -> Splits:
        """Trajectories of the true parameters, from starts drawn about the usual one."""
        y0, observed = trajectories(self, EXAMPLES[preset], seed)
        n = len(y0)
        parts = np.split(np.arange(n), [n // 2, 3 * n // 4])
        arrays = {"y0": y0, "observed": observed, "scale": self._scale(observed)}
        train, validation, test = ({name: array[part] for name, array in arrays.items()} for part in parts)
        return Splits("trajectories", train, validation, test)

    @override
    def recipe(self, model: str, preset: Preset) -> Recipe:
        self._check_model(model)
        rate = 1e-2 if model == "system" else 3e-3
        return Recipe(Optimizer("adam", rate, schedule="cosine"), batch_size=self.batch, epochs=EPOCHS[preset])

    @override
    def model_options(self, model: str) -> Mapping[str, object]:
        self._check_model(model)
        return {"system": self, "neural": model == "neural"}

    @override
    def weights(self, model: str, seed: int) -> Weights:
        """Parameters that miss the truth, or a network's weights with the distributions of `torch.nn`."""
        self._check_model(model)
        rng = np.random.default_rng((seed, 0))
        if model == "system":
            miss = MISSED * rng.standard_normal(len(self.truth))
            return {"field.theta": np.log(self.truth) + miss if self.positive else self.truth * (1 + miss)}
        found: dict[str, np.ndarray] = {}
        for i, (n, m) in enumerate(pairwise(self.sizes)):
            found |= layer_weights(f"field.layers.{i}", (m, n), rng)
        return found

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights drawn from the seed and the first trajectories, the usual start first."""
        y0, observed = trajectories(self, max(batch_size, 1), seed)
        batch: Batch = {"y0": y0, "observed": observed, "scale": self._scale(observed)}
        return GradientInputs(self.weights(model, seed), batch, dataset="trajectories")

    @override
    def dynamics(self, model: str, inputs: GradientInputs, times: Sequence[float]) -> Dynamics:
        """Of the first example, from the usual start, by the parameters of the measurement."""
        if model != "system":
            return Dynamics()
        theta = inputs.weights["field.theta"]
        p = np.exp(theta) if self.positive else theta
        return dynamics(lambda t, y: self.derivative(np, t, y, p), inputs.batch["y0"][0], times)

    @override
    def gradient_examples(self, seed: int) -> int | None:
        del seed
        return None

    def _scale(self, observed: np.ndarray) -> np.ndarray:
        """What misfits are relative to, as much of it as there is of `observed`; 1 where that is always zero."""
        largest = np.abs(observed).max(axis=(0, 1), keepdims=True)
        return np.broadcast_to(np.where(largest > 0, largest, 1.0), observed.shape)


@lru_cache(maxsize=4)
def trajectories(system: AbstractSystem, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts `(n, d)` and the states at the output times `(n, n_times, d)`, in float64, by SciPy's LSODA.

    Raises:
        PluginError: If a trajectory cannot be solved to its end.
    """
    rng = np.random.default_rng((seed, 1))
    draw = rng.standard_normal((n, len(system.start)))
    draw[0] = 0.0
    y0 = system.start * (1 + system.spread * draw)
    solved = [
        scipy.integrate.solve_ivp(
            lambda t, y: system.derivative(np, t, y, system.truth),
            (system.times[0], system.times[-1]),
            start,
            method="LSODA",
            t_eval=system.times,
            **EXACT,
        )
        for start in y0
    ]
    failed = next((each.message for each in solved if not each.success), None)
    if failed is not None:
        raise PluginError(f"a trajectory of {type(system).__name__} cannot be solved: {failed}")
    return y0, np.stack([each.y.T for each in solved])
