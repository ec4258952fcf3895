"""Two-dimensional data sets of the maximum-likelihood task, drawn afresh in any number.

Shapes and scales follow the toy data of "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative
Models", Grathwohl et al., 2019, https://arxiv.org/abs/1810.01367. A negative log-likelihood depends on them, so each
function states its own. Points are independent: parameters along a curve are drawn, never spaced evenly.
"""

from collections.abc import Callable, Mapping

import numpy as np


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
