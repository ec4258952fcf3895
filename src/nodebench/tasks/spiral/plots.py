"""Plots of a model of the spirals: its reconstructions, and the latent trajectories behind them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nodebench.frameworks.base import Batch
from nodebench.plots import Plot, View
from nodebench.tasks.plotting import small_multiples, wrapped
from nodebench.tasks.spiral.task import N_POINTS

N_PLOTS = 3
"""Trajectories of each direction whose reconstruction is shown."""

N_LATENT = 20
"""Trajectories of each direction whose latent trajectory is shown."""

STRIDE = 4
"""Every so many points of a latent trajectory are kept: 50 make a smooth line."""

LATENT_INCHES = 3.8

LINES: Mapping[str, Mapping[str, Any]] = {
    "true": {"color": "#9aa1a8", "linewidth": 3.2},
    "observed": {"color": "#D55E00", "linestyle": "", "marker": "o", "markersize": 3.6, "markeredgewidth": 0},
    "reconstructed": {"color": "#0072B2", "linewidth": 1.4},
    "extrapolated": {"color": "#0072B2", "linewidth": 1.4, "linestyle": "--"},
    "clockwise": {"color": "#E69F00", "linewidth": 1.4},
    "counter-clockwise": {"color": "#009E73", "linewidth": 1.4},
}
"""How each line looks, by what it is."""

Lines = Sequence[tuple[str, np.ndarray]]
"""Lines of one part of a figure: what each is, as in `LINES`, and its points, shape `(n, 2)`."""


def plots(test: Batch, view: View) -> tuple[Plot, ...]:
    """Reconstructions of test trajectories of both directions and, where the model has any, their latent trajectories.

    Args:
        test: Test trajectories.
        view: Calls a method of the trained model on a batch.
    """
    clockwise = turns_clockwise(test)
    groups = [np.flatnonzero(clockwise == way)[:N_LATENT] for way in (True, False)]
    chosen = np.concatenate(groups)
    batch = {name: values[chosen] for name, values in test.items()}
    found = view("predictions", batch)
    shown = np.concatenate([np.arange(N_PLOTS), len(groups[0]) + np.arange(N_PLOTS)])
    figure = curves(
        [_direction(clockwise[chosen[index]]) for index in shown],
        [_lines(batch, found["inside"], found["beyond"], index) for index in shown],
    )
    reconstructions = Plot("reconstructions", "Test spirals, observed, reconstructed and extrapolated", figure)
    if "latent" not in found:
        return (reconstructions,)
    return reconstructions, _latent_space(found["latent"], clockwise[chosen])


def turns_clockwise(batch: Batch) -> np.ndarray:
    """Whether each trajectory turns clockwise, by the sign of the turns between its steps, shape `(n,)`."""
    steps = np.diff(np.concatenate([batch["inside"], batch["beyond"]], axis=1), axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    turns = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    clockwise: np.ndarray = turns.sum(1) < 0
    return clockwise


def curves(titles: Sequence[str], parts: Sequence[Lines], axes_names: Sequence[str] = ("", ""), **size: Any) -> Figure:
    """Lines and points in the plane, with equal units on both axes and one legend for all parts.

    Args:
        titles: The title of each part.
        parts: The lines of each part, later ones above earlier ones.
        axes_names: What the two axes are.
        size: As `small_multiples` takes it.
    """
    figure, shown = small_multiples(titles, below=0.4, **size)
    for axes, lines in zip(shown, parts, strict=True):
        for what, points in lines:
            axes.plot(points[:, 0], points[:, 1], label=what, **LINES[what])
        _set_limits(axes, np.concatenate([points for _, points in lines]))
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1], aspect="equal")
        axes.tick_params(labelsize=8, width=0.6, length=2.5)
        axes.locator_params(nbins=4)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {str(line.get_label()): line for axes in shown for line in axes.lines}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def _set_limits(axes: Axes, points: np.ndarray) -> None:
    """Let both axes span as many units, a little beyond the points that are finite.

    Set beforehand: limits that matplotlib widens for equal units have other numbers than room was made for.
    """
    finite = points[np.isfinite(points).all(-1)]
    if len(finite):
        low, high = finite.min(0), finite.max(0)
        half = 0.53 * float((high - low).max()) or 0.5
        (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
        axes.set(xlim=(left, right), ylim=(bottom, top))


def _lines(batch: Batch, inside: np.ndarray, beyond: np.ndarray, index: int) -> Lines:
    return (
        ("true", np.concatenate([batch["inside"][index], batch["beyond"][index]])),
        ("observed", batch["observations"][index]),
        ("reconstructed", inside[index]),
        ("extrapolated", beyond[index]),
    )


def _latent_space(latent: np.ndarray, clockwise: np.ndarray) -> Plot:
    """Latent trajectories, shape `(n, times, 4)`, on the two principal components of all their states."""
    kept = latent[:, ::STRIDE].astype(np.float64)
    centred = kept - kept.mean((0, 1))
    _, spread, components = np.linalg.svd(centred.reshape(-1, centred.shape[-1]), full_matrices=False)
    # A component's sign is arbitrary: its largest entry is made positive, so that equal models look equal.
    largest = np.abs(components).argmax(1)
    components *= np.sign(components[np.arange(len(components)), largest])[:, None]
    shares = 100 * spread[:2] ** 2 / (spread**2).sum()
    names = [
        f"{rank} principal component ({share:.0f} % of variance)"
        for rank, share in zip(("first", "second"), shares, strict=True)
    ]
    lines = [(_direction(way), path) for way, path in zip(clockwise, centred @ components[:2].T, strict=True)]
    span = f"over {2 * N_POINTS} times, the observed span and beyond"
    axes_names = [wrapped(name, LATENT_INCHES) for name in names]
    figure = curves([""], [lines], axes_names, inches=LATENT_INCHES)
    return Plot("latent-space", f"Latent trajectories of {len(latent)} test spirals {span}", figure)


def _direction(clockwise: np.bool_) -> str:
    return "clockwise" if clockwise else "counter-clockwise"
