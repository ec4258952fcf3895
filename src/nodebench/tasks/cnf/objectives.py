"""What a flow is trained for and judged by, the same for every flow and every array namespace.

A flow carries points together with a log-density: along a map z -> f(z) the log-density changes by -log|det df/dz|,
along an ODE at the rate -tr(df/dz). An objective says where both start and what is read off where they end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nodebench.problem import Array
from nodebench.tasks.cnf.densities import MASS_OUTSIDE, POTENTIALS, log_base, log_normaliser, outside, potential, wall


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

    def loss(self, z: Array, change: Array) -> Array:
        """Mean negative log-likelihood in nats."""
        return self.metric(z, change).mean()

    def diagnostics(self, z: Array) -> dict[str, Array]:
        """None."""
        del z
        return {}


@dataclass(frozen=True)
class DensityMatching:
    """Kullback-Leibler divergence KL(q || p) from the flow's density q to a target p, by samples of the base.

    With p = exp(-U) / Z and Z the integral over the window. Samples outside the window count with the same formula, so
    that nothing is dropped. Since `u2` to `u4` go on there without end, the figure is the divergence to p only as far
    as q stays inside, which is why the mass outside is always reported beside it.

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
        return log_q + potential(self.target, z, self.xp) + log_normaliser(self.target)

    def loss(self, z: Array, log_q: Array) -> Array:
        """Mean of the metric plus the wall around the window, in nats."""
        return (self.metric(z, log_q) + wall(z, self.xp)).mean()

    def diagnostics(self, z: Array) -> dict[str, Array]:
        """Mass outside the window in percent: 100 for each sample there, 0 for the others, shape `(n,)`."""
        return {MASS_OUTSIDE: self.xp.where(outside(z, self.xp), 100.0, 0.0)}


Objective = MaximumLikelihood | DensityMatching


def objective(dataset: str, xp: Any) -> Objective:
    """The objective of a data set: density matching for a target, maximum likelihood for all others."""
    return DensityMatching(xp, dataset) if dataset in POTENTIALS else MaximumLikelihood(xp)
