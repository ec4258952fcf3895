"""Plots of a flow: its density beside the true one, and how it comes about (figures 4 and 5).

The density at a point is exact wherever the flow can carry the point back to the base: log q(z) is the log-density of
the base there, less the change on the way.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from nodebench.frameworks.base import Batch
from nodebench.plots import Plot, View
from nodebench.tasks.cnf.data import POTENTIALS, SAMPLERS, WINDOW, log_base, log_window, potential
from nodebench.tasks.plotting import small_multiples, view_in_batches, without_ticks

CELLS = 96
"""Rows and columns of the grid of a density."""

CELLS_IN_TIME = 64
"""The same for each of the densities at several times."""

FRACTIONS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Parts of the way from base to data at which figure 5 of the paper shows a flow."""

N_MOMENTS = 5
"""Moments at which the points of a flow are shown."""

N_POINTS = 500
"""Points of a cloud."""

DOT = 4.0
"""Area of a point, in square points."""

N_TRUE, N_SAMPLES = 200_000, 50_000
"""Samples in the histograms of a data set and of a flow without an inverse."""

BATCH = 2_048

Window = tuple[float, float, float, float]
"""Left, right, bottom and top of a square of the plane."""

Panel = tuple[str, np.ndarray]
"""A title, and values on an even grid over the window, the first row at the bottom."""


def continuous(dataset: str, view: View) -> tuple[Plot, ...]:
    """Plots of a continuous flow, which runs from the base at time 0 to the data at time 1.

    Args:
        dataset: What is fitted.
        view: Calls a method of the trained model on a batch.
    """
    times = np.linspace(0.0, 1.0, N_MOMENTS)
    points, change = _path(view, _base(N_POINTS), times)
    window = _window_around(points, dataset)
    learned = ("learned density", _density(view, _back_from(1.0), _window(dataset), CELLS))
    in_time = [(_moment(t), _density(view, _back_from(t), window, CELLS_IN_TIME)) for t in FRACTIONS]
    return (
        _densities(dataset, learned),
        Plot("density-in-time", "Learned density on the way from base to data", heat_maps(in_time, window)),
        _flow("from base to data", window, [_moment(t) for t in times], points, log_base(points[:, :1]) + change),
    )


def planar(dataset: str, layers: int, view: View) -> tuple[Plot, ...]:
    """Plots of a planar flow, whose layers map the base to a target, or a data set to the base.

    Args:
        dataset: What is fitted.
        layers: Number of layers.
        view: Calls a method of the trained model on a batch.
    """
    if dataset in POTENTIALS:
        return _planar_to_target(dataset, layers, view)
    ends = [layers - max(1, round(fraction * layers)) for fraction in FRACTIONS]
    points, change = _carry(view, _true_samples(dataset, N_POINTS), _layers(0, layers))
    log_q = log_base(points[:, -1:]) - change[:, -1:] + change
    window = _window_around(points, dataset)
    learned = ("learned density", _density(view, _layers(0, layers), _window(dataset), CELLS))
    in_time = [
        (f"{layers - first} of {layers} layers", _density(view, _layers(first, layers), window, CELLS_IN_TIME))
        for first in ends
    ]
    caption = "Density of the base behind the inverses of the last layers"
    return (
        _densities(dataset, learned),
        Plot("density-in-time", caption, heat_maps(in_time, window)),
        _planar_flow("from data to noise", window, points, log_q),
    )


def heat_maps(panels: Sequence[Panel], window: Window) -> Figure:
    """Functions over a window, each to a scale of its own that is named below it; what is not finite is left out."""
    figure, parts = small_multiples([title for title, _ in panels])
    for axes, (_, values) in zip(parts, panels, strict=True):
        finite = values[np.isfinite(values)]
        shown = np.ma.masked_invalid(values)
        axes.imshow(shown, cmap="viridis", origin="lower", extent=window, interpolation="none")
        axes.set_xlabel(f"{finite.min():.3g} to {finite.max():.3g}" if finite.size else "no finite value", fontsize=8)
        without_ticks(axes)
    return figure


def clouds(labels: Sequence[str], points: np.ndarray, log_density: np.ndarray, window: Window) -> Figure:
    """Points at several moments, coloured by their log-density on one scale.

    Args:
        labels: What each moment is called.
        points: Shape `(moments, points, 2)`.
        log_density: Shape `(moments, points)`.
        window: What is seen of the plane.
    """
    figure, parts = small_multiples(labels)
    left, right, bottom, top = window
    finite = log_density[np.isfinite(log_density)]
    low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
    # Without the ends, which are hard to see on white.
    colours = ListedColormap(mpl.colormaps["plasma"](np.linspace(0.0, 0.8, 256)))
    for axes, (x, y), values in zip(parts, points.swapaxes(1, 2), log_density, strict=True):
        seen = np.isfinite(x) & np.isfinite(y) & np.isfinite(values)
        scale: dict[str, Any] = {"cmap": colours, "vmin": low, "vmax": high}
        axes.scatter(x[seen], y[seen], DOT, values[seen], linewidths=0, alpha=0.8, rasterized=True, **scale)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        without_ticks(axes)
    return figure


def _planar_to_target(dataset: str, layers: int, view: View) -> tuple[Plot, ...]:
    samples, _ = _carry(view, _base(N_SAMPLES), _layers(0, layers))
    points, change = _carry(view, _base(N_POINTS), _layers(0, layers))
    histogram = _histogram(samples[:, -1], _window(dataset))
    learned = (f"learned density (smoothed histogram of {N_SAMPLES:,} samples)", histogram)
    log_q = log_base(points[:, :1]) + change
    return (
        _densities(dataset, learned),
        _planar_flow("from base to target", _window_around(points, dataset), points, log_q),
    )


def _densities(dataset: str, learned: Panel) -> Plot:
    window = _window(dataset)
    if dataset in POTENTIALS:
        grid = _grid(window, CELLS)
        values = np.exp(-potential(dataset, grid, np) - log_window(dataset)).reshape(CELLS, CELLS)
        true = ("target density", values)
    else:
        histogram = _histogram(_true_samples(dataset, N_TRUE), window)
        true = (f"true density (smoothed histogram of {N_TRUE:,} samples)", histogram)
    return Plot("densities", f"Density of {dataset} and of the flow", heat_maps((true, learned), window))


def _planar_flow(way: str, window: Window, points: np.ndarray, log_q: np.ndarray) -> Plot:
    """The points at the ends and between, behind at most as many layers as a continuous flow is shown at moments."""
    last = points.shape[1] - 1
    shown = np.unique(np.linspace(0, last, N_MOMENTS).round().astype(int))
    return _flow(f"{way}, layer by layer", window, [f"layer {k}" for k in shown], points[:, shown], log_q[:, shown])


def _flow(way: str, window: Window, labels: Sequence[str], points: np.ndarray, log_q: np.ndarray) -> Plot:
    caption = f"{len(points)} points {way}, coloured by log-density"
    return Plot("flow", caption, clouds(labels, points.swapaxes(0, 1), log_q.T, window))


def _density(view: View, back: Batch, window: Window, cells: int) -> np.ndarray:
    """Density on the grid of the window, by carrying its points to the base."""
    points, change = _carry(view, _grid(window, cells), back)
    log_q = log_base(points[:, -1]) - change[:, -1]
    with np.errstate(over="ignore"):
        density: np.ndarray = np.exp(log_q).reshape(cells, cells)
    return density


def _carry(view: View, points: np.ndarray, way: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Where a flow carries points, shape `(n, moments, 2)`, and the change of their log-density, `(n, moments)`."""
    found = view_in_batches(view, "carry", {"points": points}, BATCH, way)
    return found["points"].astype(np.float64), found["change"].astype(np.float64)


def _path(view: View, points: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Like `_carry`, at many times and from each to the next, for which no other shapes need be compiled."""
    path, changes = [points], [np.zeros(len(points))]
    for span in pairwise(times):
        ends, change = _carry(view, path[-1], {"times": np.array(span)})
        path.append(ends[:, -1])
        changes.append(changes[-1] + change[:, -1])
    return np.stack(path, axis=1), np.stack(changes, axis=1)


def _back_from(t: float) -> Batch:
    return {"times": np.array([t, 0.0])}


def _layers(first: int, last: int) -> Batch:
    return {"layers": np.array([first, last])}


def _histogram(points: np.ndarray, window: Window) -> np.ndarray:
    """Density by a histogram over the grid, smoothed by a normal as wide as a cell."""
    left, right, bottom, top = window
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], CELLS, ((bottom, top), (left, right)))
    cell = (right - left) * (top - bottom) / CELLS**2
    smooth: np.ndarray = gaussian_filter(counts / (len(points) * cell), 1.0, mode="constant")
    return smooth


def _grid(window: Window, cells: int) -> np.ndarray:
    """Centres of the cells of the window, row by row from the bottom, shape `(cells^2, 2)`."""
    left, right, bottom, top = window
    middle = (np.arange(cells) + 0.5) / cells
    x, y = np.meshgrid(left + (right - left) * middle, bottom + (top - bottom) * middle)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _window(dataset: str) -> Window:
    # The checkerboard fills [-4, 4]^2; a margin shows what a flow leaves outside of it.
    reach = WINDOW if dataset in POTENTIALS else WINDOW + 0.5
    return (-reach, reach, -reach, reach)


def _window_around(points: np.ndarray, dataset: str) -> Window:
    """The window of the data set, widened to a square that holds nearly all finite points at every moment.

    Between its ends a planar flow may go far: what one layer shifts another shifts back.
    """
    left, right, bottom, top = _window(dataset)
    low, high = np.array((left, bottom)), np.array((right, top))
    for moment in points.swapaxes(0, 1):
        finite = moment[np.isfinite(moment).all(-1)]
        if len(finite):
            near, far = np.quantile(finite, [0.005, 0.995], axis=0)
            low, high = np.minimum(low, near), np.maximum(high, far)
    reach = (high - low).max() / 2
    x, y = (low + high) / 2
    return (float(x - reach), float(x + reach), float(y - reach), float(y + reach))


def _base(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 2))


def _true_samples(dataset: str, n: int) -> np.ndarray:
    return SAMPLERS[dataset](n, np.random.default_rng(0))


def _moment(t: float) -> str:
    return f"t = {t:.2f}"
