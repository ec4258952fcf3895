"""What the flows are fitted to and judged by: data sets, target densities and objectives, for every array namespace.

Data sets are drawn afresh in any number. Shapes and scales follow the toy data of "FFJORD: Free-form Continuous
Dynamics for Scalable Reversible Generative Models", Grathwohl et al., 2019, https://arxiv.org/abs/1810.01367. The
negative log-likelihood depends on them, so each function states its own. Points are independent: parameters along a
curve are drawn, never spaced evenly.

Beside them are mixtures of normals in the dimensions of FFJORD's tabular data, which are not those data.

A function that takes `xp` works on the arrays of that namespace: `numpy`, `torch` or `jax.numpy`. Points have shape
`(..., 2)`, or `(..., dim)` for a mixture, and values shape `(...)`; energies and log-densities are in nats.

A flow carries points together with a log-density: along a map z -> f(z) the log-density changes by -log|det df/dz|,
along an ODE at the rate -tr(df/dz). An objective says where both start and what is read off where they end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import log, pi
from types import ModuleType
from typing import ClassVar

import numpy as np

from nodebench.errors import UnknownNameError
from nodebench.problem import Array
from nodebench.tasks.base import Metric

WINDOW = 4.0
"""Targets live on the square [-WINDOW, WINDOW]^2. `u2` to `u4` go on along z1 without end, and so have no finite mass
on the whole plane."""

WALL_WIDTH = 0.05
"""Standard deviation of the skirt that `wall` gives a target outside the window, in units of length."""

IMPROPER = ("u2", "u3", "u4")
"""Targets without a finite mass on the whole plane."""

LOG_TWO_PI = log(2 * pi)

NLL = Metric("NLL", "nats", "lower")
KL = Metric("KL", "nats", "lower")
MASS_OUTSIDE = Metric("mass outside", "%", "lower")
KL_WITHOUT_WALL = Metric("KL without wall", "nats", "lower")


def moons(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two interleaved half circles of radius 2 with normal noise of standard deviation 0.2, shape `(n, 2)`."""
    angle = rng.uniform(0, np.pi, n)
    lower = rng.integers(0, 2, n) == 1
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle))
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle))
    unit = np.stack([x, y], axis=1) + rng.normal(0, 0.1, (n, 2))
    points: np.ndarray = 2 * unit + np.array([-1.0, -0.2])
    return points


def circles(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two concentric circles of radii 3 and 1.5 with normal noise of standard deviation 0.24, shape `(n, 2)`."""
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = np.where(rng.integers(0, 2, n) == 1, 0.5, 1.0)
    circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points: np.ndarray = 3 * (circle + rng.normal(0, 0.08, (n, 2)))
    return points


def pinwheel(n: int, rng: np.random.Generator) -> np.ndarray:
    """Five arms at radius 2, normal with 0.6 along and 0.2 across, twisted by exp(r / 2) / 4 radians, shape `(n, 2)`.

    The radius r in the twist is that along the arm, 2 at its middle.
    """
    along = 1 + rng.normal(0, 0.3, n)
    across = rng.normal(0, 0.1, n)
    angle = 2 * np.pi / 5 * rng.integers(0, 5, n) + 0.25 * np.exp(along)
    cos, sin = np.cos(angle), np.sin(angle)
    return 2 * np.stack([along * cos + across * sin, across * cos - along * sin], axis=1)


def checkerboard(n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform on the eight squares of one colour of a 4 by 4 board on [-4, 4]^2, shape `(n, 2)`."""
    column = rng.integers(0, 4, n)
    row = 2 * rng.integers(0, 2, n) + column % 2
    corner = np.stack([column, row], axis=1)
    return 2 * (corner + rng.uniform(0, 1, (n, 2))) - 4


def eight_gaussians(n: int, rng: np.random.Generator) -> np.ndarray:
    """Eight normals of standard deviation 0.5 / sqrt(2), evenly on a circle of radius 4 / sqrt(2), shape `(n, 2)`."""
    angle = np.pi / 4 * rng.integers(0, 8, n)
    centre = 4 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points: np.ndarray = (centre + rng.normal(0, 0.5, (n, 2))) / np.sqrt(2)
    return points


SAMPLERS: Mapping[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "moons": moons,
    "circles": circles,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
    "8gaussians": eight_gaussians,
}
"""`sampler(n, rng)` of each data set."""

MIXTURE = "gaussian-mixture"
"""Name of what `mixture` draws."""

COMPONENTS = 5


def mixture(n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Correlated normals in equal parts, shape `(n, dim)`; each coordinate has mean 0 and variance 1.

    In every dimension there is one mixture: the generator draws its points alone. Centres are standard normal, and each
    component is a standard normal times a matrix of normal numbers of variance 1 / dim.
    """
    fixed = np.random.default_rng(dim)
    centres = fixed.standard_normal((COMPONENTS, dim))
    factors = fixed.standard_normal((COMPONENTS, dim, dim)) / np.sqrt(dim)
    variance = centres.var(axis=0) + (factors**2).sum(axis=2).mean(axis=0)
    component = rng.integers(0, COMPONENTS, n)
    points = centres[component] + np.einsum("nij,nj->ni", factors[component], rng.standard_normal((n, dim)))
    scaled: np.ndarray = (points - centres.mean(axis=0)) / np.sqrt(variance)
    return scaled


def log_base(z: Array) -> Array:
    """Log-density of the base distribution, the standard normal in as many dimensions as the points have."""
    return -0.5 * (z * z).sum(-1) - 0.5 * z.shape[-1] * LOG_TWO_PI


def potential(name: str, z: Array, xp: ModuleType) -> Array:
    """Energy U of a target p proportional to exp(-U).

    The four potentials of table 1 in "Variational Inference with Normalizing Flows", Rezende and Mohamed, 2015,
    https://arxiv.org/abs/1505.05770.

    Args:
        name: `"u1"` to `"u4"`.
        z: Points, shape `(..., 2)`.
        xp: Array namespace of `z`.

    Returns:
        Energies in nats, shape `(...)`.

    Raises:
        UnknownNameError: If there is no such target.
    """
    if name not in POTENTIALS:
        raise UnknownNameError("target density", name, POTENTIALS)
    return POTENTIALS[name](z, xp)


def wall(z: Array, xp: ModuleType) -> Array:
    """Energy added outside the window: half the square of the distance to it in units of `WALL_WIDTH`; zero inside.

    A target that ended at the window would be infinitely far from every flow, since a flow has mass everywhere, and one
    that went on would reward a flow for spreading along z1 without end. With the wall the target has a steep skirt and
    a finite mass: 1 to 2 % more than the window holds for `u2` to `u4`, none for `u1`.
    """
    beyond = xp.clip(xp.abs(z) - WINDOW, 0, None) / WALL_WIDTH
    return 0.5 * (beyond * beyond).sum(-1)


def outside(z: Array, xp: ModuleType) -> Array:
    """Whether each point lies outside the window."""
    return (xp.abs(z) > WINDOW).any(-1)


@cache
def log_window(name: str) -> float:
    """Log of the integral of exp(-U) over the window, in nats, the normaliser that the literature compares with."""
    return _log_integral(name, [(-WINDOW, WINDOW)])


@cache
def log_normaliser(name: str) -> float:
    """Log of the integral of exp(-U - wall) over the plane, in nats."""
    reach = WINDOW + 12 * WALL_WIDTH
    return _log_integral(name, [(-reach, -WINDOW), (-WINDOW, WINDOW), (WINDOW, reach)])


def _log_integral(name: str, panels: list[tuple[float, float]]) -> float:
    """Gauss-Legendre quadrature of exp(-U - wall) over the square of the panels, with 200 nodes in each.

    The integrand is smooth within a panel but for the kink of `u1` at the origin, where it is below e^-17; 800 nodes
    change no result by more than 1e-12.
    """
    nodes, node_weights = np.polynomial.legendre.leggauss(200)
    axis = np.concatenate([(low + high) / 2 + (high - low) / 2 * nodes for low, high in panels])
    axis_weights = np.concatenate([(high - low) / 2 * node_weights for low, high in panels])
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    return log(axis_weights @ np.exp(-potential(name, z, np) - wall(z, np)) @ axis_weights)


def _ring(z: Array, xp: ModuleType) -> Array:
    x, y = z[..., 0], z[..., 1]
    # The tiny term keeps the derivative of the square root finite at the origin.
    radius = xp.sqrt(x * x + y * y + 1e-30)
    lobes = xp.logaddexp(-0.5 * ((x - 2) / 0.6) ** 2, -0.5 * ((x + 2) / 0.6) ** 2)
    return 0.5 * ((radius - 2) / 0.4) ** 2 - lobes


def _wave(z: Array, xp: ModuleType) -> Array:
    return 0.5 * (_off_wave(z, xp) / 0.4) ** 2


def _forked_wave(z: Array, xp: ModuleType) -> Array:
    offset = _off_wave(z, xp)
    gap = 3 * xp.exp(-0.5 * ((z[..., 0] - 1) / 0.6) ** 2)
    return -xp.logaddexp(-0.5 * (offset / 0.35) ** 2, -0.5 * ((offset + gap) / 0.35) ** 2)


def _split_wave(z: Array, xp: ModuleType) -> Array:
    offset = _off_wave(z, xp)
    # 3 sigmoid((z1 - 1) / 0.3), by the hyperbolic tangent that every namespace has.
    gap = 1.5 * (1 + xp.tanh((z[..., 0] - 1) / 0.6))
    return -xp.logaddexp(-0.5 * (offset / 0.4) ** 2, -0.5 * ((offset + gap) / 0.35) ** 2)


def _off_wave(z: Array, xp: ModuleType) -> Array:
    return z[..., 1] - xp.sin(0.5 * pi * z[..., 0])


POTENTIALS: Mapping[str, Callable[[Array, ModuleType], Array]] = {
    "u1": _ring,
    "u2": _wave,
    "u3": _forked_wave,
    "u4": _split_wave,
}
"""The targets of density matching."""


@dataclass(frozen=True)
class MaximumLikelihood:
    """Negative log-likelihood of data, which the flow carries to the base.

    Attributes:
        xp: Array namespace of the framework.
    """

    xp: ModuleType
    from_base: ClassVar[bool] = False
    """Whether the flow runs from the base to the data or the other way."""

    def start(self, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """Data points, shape `(n, dim)`, and zeros, shape `(n,)`, which end as the change of the log-density."""
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

    xp: ModuleType
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


def objective(dataset: str, xp: ModuleType) -> Objective:
    """The objective of a data set: density matching for a target, maximum likelihood for all others."""
    return DensityMatching(xp, dataset) if dataset in POTENTIALS else MaximumLikelihood(xp)
