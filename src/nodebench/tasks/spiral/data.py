"""Two families of plane spirals, observed at irregular times with white noise, and their continuation without it.

The experiment is that of section 5.1 of "Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and
Duvenaud, 2018, https://arxiv.org/abs/1806.07366, which does not say what its curves are. These are the two of the
example published with torchdiffeq, at the thousand points that it intends for a curve: at time s in [0, 6 pi],
counter-clockwise the radius 0.3 s about (5, 0) at the angle s; clockwise the radius 15 / (6 pi + 1 - s) about (-5, 0)
at the angle 6 pi + 1 - s. Both grow. A trajectory is a piece of one of them, 200 points long, with its time counted
from its own start.
"""

import numpy as np

from nodebench.frameworks.base import Batch

N_POINTS = 100
"""Equally spaced times of the observed span; the observations are drawn from them."""

N_FURTHER = 100
"""Times beyond the observed span, at the same spacing."""

STOP = 6.0 * np.pi
"""Where the curves end."""

SPACING = STOP / 999
"""Time between two points."""

STARTS = (100 * SPACING, 700 * SPACING)
"""Range of the starts: all radii lie between 0.5 and 5.1."""

LATENT = 4
"""Dimensions of the latent state, hence of the noise drawn for each trajectory."""


def span_times() -> np.ndarray:
    """Times of the observed span, from 0 at a trajectory's start, float64 of shape `(100,)`."""
    return SPACING * np.arange(N_POINTS)


def further_times() -> np.ndarray:
    """Times beyond the observed span, float64 of shape `(100,)`."""
    return SPACING * np.arange(N_POINTS, N_POINTS + N_FURTHER)


def curve(times: np.ndarray, clockwise: np.ndarray) -> np.ndarray:
    """Points of the two curves.

    Args:
        times: Times in [0, 6 pi], any shape.
        clockwise: Which curve, booleans that broadcast against `times`.

    Returns:
        Points, shape `(*times.shape, 2)`.
    """
    left = STOP + 1.0 - times
    angle = np.where(clockwise, left, times)
    radius = np.where(clockwise, 15.0 / left, 0.3 * times)
    centre = np.where(clockwise, -5.0, 5.0)
    return np.stack([radius * np.cos(angle) + centre, radius * np.sin(angle)], axis=-1)


def draw(n: int, observations: int, noise: float, rng: np.random.Generator) -> Batch:
    """Draw trajectories, half of them clockwise, each from a start of its own.

    Args:
        n: How many.
        observations: How many of the 100 points of the span are observed, drawn without replacement per trajectory.
        noise: Standard deviation of the white noise on each coordinate of an observation.
        rng: Generator of all draws.

    Returns:
        `times` `(n, observations)`, increasing; `observations` `(n, observations, 2)`, noisy; `inside` `(n, 100, 2)`
        and `beyond` `(n, 100, 2)`, the trajectory without noise within the span and after it; `noise` `(n, 4)`,
        standard normal, for the draw of the latent state.
    """
    starts = rng.uniform(*STARTS, size=n)
    clockwise = rng.permutation(np.arange(n) % 2 == 1)
    grid = np.concatenate([span_times(), further_times()])
    clean = curve(starts[:, None] + grid, clockwise[:, None])
    points = np.tile(np.arange(N_POINTS), (n, 1))
    kept = np.sort(rng.permuted(points, axis=1)[:, :observations], axis=1)
    seen = np.take_along_axis(clean, kept[:, :, None], axis=1)
    return {
        "times": grid[kept],
        "observations": seen + noise * rng.standard_normal(seen.shape),
        "inside": clean[:, :N_POINTS],
        "beyond": clean[:, N_POINTS:],
        "noise": rng.standard_normal((n, LATENT)),
    }


def redraw_noise(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch with fresh noise for the draw of the latent state, so that no two steps share any."""
    return {**batch, "noise": rng.standard_normal(batch["noise"].shape)}
