"""What a flow is trained for and judged by, the same for every flow and every array namespace.

A flow carries points together with a log-density: along a map z -> f(z) the log-density changes by -log|det df/dz|,
along an ODE at the rate -tr(df/dz). An objective says where both start and what is read off where they end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nodebench.problem import Array
from nodebench.tasks.base import Metric
from nodebench.tasks.cnf.densities import POTENTIALS, log_base, log_normaliser, log_window, outside, potential, wall

NLL = Metric("NLL", "nats", "lower")
KL = Metric("KL", "nats", "lower")
MASS_OUTSIDE = Metric("mass outside", "%", "lower")
KL_WITHOUT_WALL = Metric("KL without wall", "nats", "lower")


@dataclass(frozen=True)
class MaximumLikelihood:
    """Negative log-likelihood of data, which the flow carries to the base.

    Attributes:
        xp: Array namespace of the framework.
    """

    xp: Any
    from_base: ClassVar[bool] = False
    """Whether the flow runs from the base to the data or the other way."""

    def start(self, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """Data points, shape `(n, 2)`, and zeros, shape `(n,)`, which end as the change of the log-density."""
        data = batch["data"]
        return data, self.xp.zeros_like(data[:, 0])

    def metric(self, z: Array, change: Array) -> Array:
        """Negative log-likelihood of each data point in nats, shape `(n,)`."""
        return change - log_base(z)

    def diagnostics(self, z: Array, change: Array) -> dict[str, Array]:
        """None."""
        del z, change
        return {}


@dataclass(frozen=True)
class DensityMatching:
    """Kullback-Leibler divergence KL(q || p) from the flow's density q to a target p, by samples of the base.

    p = exp(-U - wall) / Z is the target on its window with a steep skirt outside, so that the divergence is a true one,
    finite and never negative, whatever of q leaves the window. Every sample counts. Beside it stand the mass of q
    outside the window and the figure of the literature, log q + U + log Z with Z over the window and no wall: that one
    falls below zero where a flow spreads beyond the window, and means little unless the mass outside is small.

    Attributes:
        xp: Array namespace of the framework.
        target: `"u1"` to `"u4"`.
    """

    xp: Any
    target: str
    from_base: ClassVar[bool] = True

    def start(self, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """Base samples, shape `(n, 2)`, and their log-density, shape `(n,)`."""
        base = batch["base"]
        return base, log_base(base)

    def metric(self, z: Array, log_q: Array) -> Array:
        """Difference log q - log p at each sample in nats, shape `(n,)`; its mean is the divergence."""
        return log_q + potential(self.target, z, self.xp) + wall(z, self.xp) + log_normaliser(self.target)

    def diagnostics(self, z: Array, log_q: Array) -> dict[str, Array]:
        """Mass outside the window (100 or 0 at each sample) and the divergence without wall, each of shape `(n,)`."""
        return {
            MASS_OUTSIDE.name: self.xp.where(outside(z, self.xp), 100.0, 0.0),
            KL_WITHOUT_WALL.name: log_q + potential(self.target, z, self.xp) + log_window(self.target),
        }


Objective = MaximumLikelihood | DensityMatching


def objective(dataset: str, xp: Any) -> Objective:
    """The objective of a data set: density matching for a target, maximum likelihood for all others."""
    return DensityMatching(xp, dataset) if dataset in POTENTIALS else MaximumLikelihood(xp)
