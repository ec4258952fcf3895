"""Target densities, base and window of the two-dimensional flows, written once for every array namespace.

A function that takes `xp` works on the arrays of that namespace: `numpy`, `torch` or `jax.numpy`. Points have shape
`(..., 2)` and values shape `(...)`; energies and log-densities are in nats.
"""

from collections.abc import Callable, Mapping
from functools import cache
from math import log, pi
from typing import Any

import numpy as np

from nodebench.errors import UnknownNameError
from nodebench.problem import Array

WINDOW = 4.0
"""Targets live on the square [-WINDOW, WINDOW]^2. `u2` to `u4` go on along z1 without end, and so have no finite mass
on the whole plane."""

WALL_WIDTH = 0.05
"""Standard deviation of the skirt that `wall` gives a target outside the window, in units of length."""

IMPROPER = ("u2", "u3", "u4")
"""Targets without a finite mass on the whole plane."""

LOG_TWO_PI = log(2 * pi)


def log_base(z: Array) -> Array:
    """Log-density of the base distribution, the standard normal in two dimensions."""
    return -0.5 * (z * z).sum(-1) - LOG_TWO_PI


def potential(name: str, z: Array, xp: Any) -> Array:
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


def wall(z: Array, xp: Any) -> Array:
    """Energy added outside the window: half the square of the distance to it in units of `WALL_WIDTH`; zero inside.

    A target that ended at the window would be infinitely far from every flow, since a flow has mass everywhere, and one
    that went on would reward a flow for spreading along z1 without end. With the wall the target has a steep skirt and
    a finite mass: 1 to 2 % more than the window holds for `u2` to `u4`, none for `u1`.
    """
    beyond = xp.clip(xp.abs(z) - WINDOW, 0, None) / WALL_WIDTH
    return 0.5 * (beyond * beyond).sum(-1)


def outside(z: Array, xp: Any) -> Array:
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


def _ring(z: Array, xp: Any) -> Array:
    x, y = z[..., 0], z[..., 1]
    # The tiny term keeps the derivative of the square root finite at the origin.
    radius = xp.sqrt(x * x + y * y + 1e-30)
    lobes = xp.logaddexp(-0.5 * ((x - 2) / 0.6) ** 2, -0.5 * ((x + 2) / 0.6) ** 2)
    return 0.5 * ((radius - 2) / 0.4) ** 2 - lobes


def _wave(z: Array, xp: Any) -> Array:
    return 0.5 * (_off_wave(z, xp) / 0.4) ** 2


def _forked_wave(z: Array, xp: Any) -> Array:
    offset = _off_wave(z, xp)
    gap = 3 * xp.exp(-0.5 * ((z[..., 0] - 1) / 0.6) ** 2)
    return -xp.logaddexp(-0.5 * (offset / 0.35) ** 2, -0.5 * ((offset + gap) / 0.35) ** 2)


def _split_wave(z: Array, xp: Any) -> Array:
    offset = _off_wave(z, xp)
    # 3 sigmoid((z1 - 1) / 0.3), by the hyperbolic tangent that every namespace has.
    gap = 1.5 * (1 + xp.tanh((z[..., 0] - 1) / 0.6))
    return -xp.logaddexp(-0.5 * (offset / 0.4) ** 2, -0.5 * ((offset + gap) / 0.35) ** 2)


def _off_wave(z: Array, xp: Any) -> Array:
    return z[..., 1] - xp.sin(0.5 * pi * z[..., 0])


POTENTIALS: Mapping[str, Callable[[Array, Any], Array]] = {
    "u1": _ring,
    "u2": _wave,
    "u3": _forked_wave,
    "u4": _split_wave,
}
"""The targets of density matching."""
