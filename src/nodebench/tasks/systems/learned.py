"""Small learnt fields that papers and libraries try methods on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy  # whose submodules load on first use: `nodebench list` imports this module
from typing_extensions import override

from nodebench.problem import SolverSpec
from nodebench.tasks.field.task import AbstractFieldTask, States

_TORCH, _JAX = "nodebench.tasks.systems.torch", "nodebench.tasks.systems.jax"


@dataclass(frozen=True)
class SmallMlp(AbstractFieldTask):
    """The small network of diffrax's own benchmark: 4-32-4, to the end time 100 at a tolerance of 1e-6."""

    fields: ClassVar = {"torch": f"{_TORCH}:SmallMlp", "jax": f"{_JAX}:SmallMlp"}
    times: ClassVar[tuple[float, ...]] = (0.0, 100.0)
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-6, atol=1e-6, max_steps=4096)

    @override
    def initial_states(self, n: int, rng: np.random.Generator) -> States:
        return rng.standard_normal((n, 4))


@dataclass(frozen=True)
class MinusX(AbstractFieldTask):
    """g(x) = -x, which no flow on the line can be: trajectories would have to cross, and evaluations grow in training.

    Attributes:
        augmented: Whether there is a dimension more, in which trajectories go around each other.

    References:
        Augmented neural ODEs (Dupont, Doucet, Teh, 2019), https://arxiv.org/abs/1904.01681
    """

    augmented: bool = False

    fields: ClassVar = {"torch": f"{_TORCH}:Line", "jax": f"{_JAX}:Line"}

    @property
    @override
    def _fields(self) -> Mapping[str, str]:
        return {"torch": f"{_TORCH}:Plane", "jax": f"{_JAX}:Plane"} if self.augmented else self.fields

    @override
    def initial_states(self, n: int, rng: np.random.Generator) -> States:
        x = rng.uniform(-1.0, 1.0, (n, 1))
        return np.concatenate([x, np.zeros((n, 1))], axis=1) if self.augmented else x

    @override
    def targets(self, y0: States) -> States:
        ends: np.ndarray = np.asarray(y0) * np.array([-1.0, 1.0][: 1 + self.augmented])
        return ends


@dataclass(frozen=True)
class Hamiltonian(AbstractFieldTask):
    """A pendulum by its energy, which a network learns: the field is a gradient, so that a VJP takes a second one.

    References:
        Hamiltonian neural networks (Greydanus, Dzamba, Yosinski, 2019), https://arxiv.org/abs/1906.01563
    """

    fields: ClassVar = {"torch": f"{_TORCH}:Hamiltonian", "jax": f"{_JAX}:Hamiltonian"}
    times: ClassVar[tuple[float, ...]] = (0.0, 1.0)

    @override
    def initial_states(self, n: int, rng: np.random.Generator) -> States:
        return rng.uniform(-1.5, 1.5, (n, 2))

    @override
    def targets(self, y0: States) -> States:
        """Where the pendulum q' = p, p' = -sin q is after one unit of time."""
        start = np.asarray(y0)

        def rates(_: float, y: np.ndarray) -> np.ndarray:
            q, p = y.reshape(2, -1)
            return np.concatenate([p, -np.sin(q)])

        end = scipy.integrate.solve_ivp(rates, (0.0, 1.0), start.T.ravel(), rtol=1e-9, atol=1e-9).y[:, -1]
        return np.ascontiguousarray(end.reshape(2, -1).T)
