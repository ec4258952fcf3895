"""What there is to see of a flow: its density beside the true one, and how it comes about (figures 4 and 5).

The density at a point is exact wherever the flow can carry the point back to the base: log q(z) is the log-density of
the base there, less the change on the way.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from nodebench.frameworks.base import Batch
from nodebench.pictures import Clouds, Heatmaps, Panel, Picture, View, Window
from nodebench.tasks.cnf.datasets import SAMPLERS
from nodebench.tasks.cnf.densities import POTENTIALS, WINDOW, log_base, log_window, potential
from nodebench.tasks.viewing import view_in_batches

CELLS = 96
"""Rows and columns of the grid of a density."""

CELLS_IN_TIME = 64
"""The same for each of the densities at several times."""

FRACTIONS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Parts of the way from base to data at which figure 5 of the paper shows a flow."""

N_MOMENTS = 21

N_POINTS = 500
"""Points of a cloud."""

N_TRUE, N_SAMPLES = 200_000, 50_000
"""Samples in the histograms of a data set and of a flow without an inverse."""

BATCH = 2_048

FLOAT16_MAX = float(np.finfo(np.float16).max)


def continuous(dataset: str, view: View) -> tuple[Picture, ...]:
    """Pictures of a continuous flow, which runs from the base at time 0 to the data at time 1.

    Args:
        dataset: What is fitted.
        view: Calls a method of the trained model on a batch.
    """
    times = np.linspace(0.0, 1.0, N_MOMENTS)
    points, change = _path(view, _base(N_POINTS), times)
    window = _window_around(points, dataset)
    learned = Panel("learned density", _density(view, _back_from(1.0), _window(dataset), CELLS))
    return (
        _densities(dataset, learned),
        Heatmaps(
            "density-in-time",
            "Learned density on the way from base to data",
            window,
            tuple(Panel(_moment(t), _density(view, _back_from(t), window, CELLS_IN_TIME)) for t in FRACTIONS),
        ),
        _cloud("from base to data", window, [_moment(t) for t in times], points, log_base(points[:, :1]) + change),
    )


def planar(dataset: str, layers: int, view: View) -> tuple[Picture, ...]:
    """Pictures of a planar flow, whose layers map the base to a target, or a data set to the base.

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
    learned = Panel("learned density", _density(view, _layers(0, layers), _window(dataset), CELLS))
    return (
        _densities(dataset, learned),
        Heatmaps(
            "density-in-time",
            "Density of the base behind the inverses of the last layers",
            window,
            tuple(
                Panel(
                    f"{layers - first} of {layers} layers",
                    _density(view, _layers(first, layers), window, CELLS_IN_TIME),
                )
                for first in ends
            ),
        ),
        _planar_cloud("from data to noise", window, points, log_q),
    )


def _planar_to_target(dataset: str, layers: int, view: View) -> tuple[Picture, ...]:
    samples, _ = _carry(view, _base(N_SAMPLES), _layers(0, layers))
    points, change = _carry(view, _base(N_POINTS), _layers(0, layers))
    learned = Panel(
        f"learned density (smoothed histogram of {N_SAMPLES:,} samples)", _histogram(samples[:, -1], _window(dataset))
    )
    return (
        _densities(dataset, learned),
        _planar_cloud("from base to target", _window_around(points, dataset), points, log_base(points[:, :1]) + change),
    )


def _densities(dataset: str, learned: Panel) -> Heatmaps:
    window = _window(dataset)
    if dataset in POTENTIALS:
        grid = _grid(window, CELLS)
        values = np.exp(-potential(dataset, grid, np) - log_window(dataset)).reshape(CELLS, CELLS)
        true = Panel("target density", _float16(values))
    else:
        histogram = _histogram(_true_samples(dataset, N_TRUE), window)
        true = Panel(f"true density (smoothed histogram of {N_TRUE:,} samples)", histogram)
    return Heatmaps("densities", f"Density of {dataset} and of the flow", window, (true, learned))


def _planar_cloud(way: str, window: Window, points: np.ndarray, log_q: np.ndarray) -> Clouds:
    """A cloud at the ends and between, behind at most as many layers as a continuous flow is shown at moments."""
    last = points.shape[1] - 1
    shown = np.unique(np.linspace(0, last, N_MOMENTS).round().astype(int))
    return _cloud(f"{way}, layer by layer", window, [f"layer {k}" for k in shown], points[:, shown], log_q[:, shown])


def _cloud(way: str, window: Window, labels: Sequence[str], points: np.ndarray, log_q: np.ndarray) -> Clouds:
    return Clouds(
        "flow",
        f"{len(points)} points {way}, coloured by log-density",
        window,
        tuple(labels),
        _float16(points.swapaxes(0, 1)),
        _float16(log_q.T),
    )


def _density(view: View, back: Batch, window: Window, cells: int) -> np.ndarray:
    """Density on the grid of the window, by carrying its points to the base."""
    points, change = _carry(view, _grid(window, cells), back)
    log_q = log_base(points[:, -1]) - change[:, -1]
    return _float16(np.exp(np.minimum(log_q, np.log(FLOAT16_MAX)))).reshape(cells, cells)


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
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415  slow to import, and `nodebench list` imports this

    left, right, bottom, top = window
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], CELLS, ((bottom, top), (left, right)))
    cell = (right - left) * (top - bottom) / CELLS**2
    return _float16(gaussian_filter(counts / (len(points) * cell), 1.0, mode="constant"))


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


def _float16(values: np.ndarray) -> np.ndarray:
    small: np.ndarray = np.clip(values, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)
    return small
