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
class AbstractAugmentable(AbstractFieldTask):
    """A map that no flow in its own dimension can be, since trajectories would have to cross; with one more, one can.

    Attributes:
        augmented: Whether there is a dimension more, in which trajectories go around each other, from zero to zero.

    References:
        Augmented neural ODEs (Dupont, Doucet, Teh, 2019), https://arxiv.org/abs/1904.01681
    """

    augmented: bool = False

    augmented_fields: ClassVar[Mapping[str, str]]
    """Like `fields`, with the dimension more."""

    @property
    @override
    def _fields(self) -> Mapping[str, str]:
        return self.augmented_fields if self.augmented else self.fields

    def _embedded(self, x: np.ndarray) -> np.ndarray:
        """States `(n, d)`, or `(n, d + 1)` with the dimension more."""
        return np.pad(x, ((0, 0), (0, int(self.augmented))))


@dataclass(frozen=True)
class MinusX(AbstractAugmentable):
    """g(x) = -x, which no flow on the line can be: trajectories would have to cross; evaluations grow in training."""

    fields: ClassVar = {"torch": f"{_TORCH}:Line", "jax": f"{_JAX}:Line"}
    augmented_fields: ClassVar = {"torch": f"{_TORCH}:Plane", "jax": f"{_JAX}:Plane"}

    @override
    def initial_states(self, n: int, rng: np.random.Generator) -> States:
        return self._embedded(rng.uniform(-1.0, 1.0, (n, 1)))

    @override
    def targets(self, y0: States) -> States:
        return self._embedded(-np.asarray(y0)[:, :1])


@dataclass(frozen=True)
class Annuli(AbstractAugmentable):
    """A disc that is to leave the ring around it, which no flow in the plane can do: evaluations grow in training.

    The points with |x| < 0.5 are to end at (-1, 0), those with 1 < |x| < 1.5 at (1, 0): two classes that the first
    coordinate then tells apart. The paper has the same disc and ring and a third of its points in the disc, with a
    linear layer behind the flow that is learnt; here the flow alone does all.
    """

    fields: ClassVar = {"torch": f"{_TORCH}:Plane", "jax": f"{_JAX}:Plane"}
    augmented_fields: ClassVar = {"torch": f"{_TORCH}:Space", "jax": f"{_JAX}:Space"}

    @override
    def initial_states(self, n: int, rng: np.random.Generator) -> States:
        """Points uniform over the disc, with probability 1/3, and over the ring."""
        in_disc, angle = rng.random(n) < 1 / 3, rng.uniform(0.0, 2 * np.pi, n)
        radius = np.sqrt(np.where(in_disc, rng.uniform(0.0, 0.25, n), rng.uniform(1.0, 2.25, n)))
        return self._embedded(radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))

    @override
    def targets(self, y0: States) -> States:
        start = np.asarray(y0)
        ends = np.zeros_like(start)
        ends[:, 0] = np.where(np.linalg.norm(start, axis=1) < 0.75, -1.0, 1.0)
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
