"""Pictures drawn by matplotlib: small multiples for a file, or one part alone."""

from dataclasses import dataclass
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from nodebench.pictures import Clouds, Curves, Heatmaps, Images, Panel, Picture, Plot, Window
from nodebench.reports.theme import OKABE_ITO, PALETTES

MOMENTS = 5
"""Moments of a moving picture that stand side by side."""

ABREAST = 5
"""Parts of a picture in one row at most."""

PART_INCHES = 2.2
"""Width of one part of several."""

WHOLE_INCHES = 3.8
"""Width of the only part of a picture."""

LETTERS_PER_INCH = 14
"""Letters of a title, or of the name of an axis, in one line."""

DOTS = 2000.0
"""Area of all dots of a cloud together, in square points; a single dot stays within `DOT`."""

DOT = (1.2, 12.0)
"""Smallest and largest area of a dot, in square points."""

RESOLUTION = 200
"""Dots per inch of what is no line."""


@dataclass(frozen=True)
class Style:
    """How a role looks.

    Attributes:
        colour: Its colour.
        dash: Dashes of its line, as matplotlib names them.
        width: Width of its line, in points.
    """

    colour: str
    dash: str = "-"
    width: float = 1.4


STYLES = {
    "true": Style("#9aa1a8", width=3.2),
    "truth": Style("#9aa1a8", width=3.2),
    "observed": Style("#D55E00"),
    "reconstructed": Style("#0072B2"),
    "extrapolated": Style("#0072B2", "--"),
}
"""Roles that every picture may have; others take the colours that are left, as they come."""

SPARE = tuple(colour for colour in OKABE_ITO if colour not in {style.colour for style in STYLES.values()})


def styles(picture: Curves) -> dict[str, Style]:
    """How each role of a picture looks, in the order in which they come."""
    roles = dict.fromkeys(series.role for plot in picture.plots for series in plot.series)
    others = [role for role in roles if role not in STYLES]
    spare = {role: Style(SPARE[at % len(SPARE)]) for at, role in enumerate(others)}
    return {role: STYLES.get(role) or spare[role] for role in roles}


def density_colours() -> Colormap:
    """Colours of a heat map: perceptually uniform, and told apart by colour-blind readers."""
    return mpl.colormaps["viridis"]


def cloud_colours() -> Colormap:
    """Colours of points, without the ends that a white or a black page swallows."""
    return ListedColormap(mpl.colormaps["plasma"](np.linspace(0.25, 0.78, 256)))


def spread(count: int, most: int) -> list[int]:
    """At most so many of so many, evenly, the first and the last among them."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most))}) if count else []


def extent(values: np.ndarray) -> str:
    """From where to where the finite values of a heat map reach."""
    finite = values[np.isfinite(values)].astype(float)
    return f"{finite.min():.3g} to {finite.max():.3g}" if finite.size else "no finite value"


def figure(picture: Picture, ink: str = PALETTES["light"].ink) -> Figure:
    """A whole picture: its parts as small multiples, each with its title."""
    titles = parts(picture)
    rows = max(1, ceil(len(titles) / ABREAST))
    columns = max(1, ceil(len(titles) / rows))
    legend = 0.4 if isinstance(picture, Curves) else 0.0
    width = part_inches(picture)
    letters = round(LETTERS_PER_INCH * width)
    height = rows * (width * _tallness(picture) + 0.5) + legend
    drawn = Figure(figsize=(columns * width, height), layout="constrained")
    grid = drawn.subplots(rows, columns, squeeze=False).flatten()
    for at, axes in enumerate(grid):
        if at < len(titles):
            draw(axes, picture, at, ink)
            axes.set_title(fill(titles[at], letters), fontsize=9, color=ink)
            if isinstance(picture, Curves) and picture.axes:
                across, up = (fill(name, letters) for name in picture.axes)
                axes.set_xlabel(across, fontsize=8, color=ink)
                axes.set_ylabel(up, fontsize=8, color=ink)
        else:
            axes.set_axis_off()
    if isinstance(picture, Curves):
        handles = {line.get_label(): line for axes in grid for line in axes.lines}
        drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return drawn


def part(picture: Picture, at: int, ink: str) -> Figure:
    """One part of a picture without its title and the names of its axes, on a transparent ground."""
    width = part_inches(picture)
    drawn = Figure(figsize=(width, width * _tallness(picture)), layout="constrained")
    drawn.patch.set_alpha(0)
    draw(drawn.subplots(), picture, at, ink)
    return drawn


def part_inches(picture: Picture) -> float:
    """Width of a part."""
    return WHOLE_INCHES if len(parts(picture)) == 1 else PART_INCHES


def parts(picture: Picture) -> tuple[str, ...]:
    """The titles of what stands side by side."""
    match picture:
        case Heatmaps():
            return tuple(panel.title for panel in picture.panels)
        case Clouds():
            return tuple(picture.labels[at] for at in spread(len(picture.labels), MOMENTS))
        case Curves():
            return tuple(plot.title for plot in picture.plots)
        case Images():
            return picture.captions


def draw(axes: Axes, picture: Picture, at: int, ink: str) -> None:
    """Draw one part of a picture."""
    axes.patch.set_alpha(0)
    match picture:
        case Heatmaps():
            _draw_panel(axes, picture.panels[at], picture.window, ink)
        case Clouds():
            moment = spread(len(picture.labels), MOMENTS)[at]
            draw_moment(axes, picture, moment)
        case Curves():
            _draw_plot(axes, picture, picture.plots[at], ink)
        case Images():
            axes.imshow(picture.images[at], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            _without_ticks(axes)


def draw_moment(axes: Axes, picture: Clouds, moment: int) -> None:
    """Draw the points of one moment."""
    points = picture.points[moment].astype(float)
    seen = np.isfinite(points).all(-1)
    left, right, bottom, top = picture.window
    size = np.clip(DOTS / max(len(points), 1), *DOT)
    look: dict[str, Any] = {"color": OKABE_ITO[0]}
    if picture.values is not None:
        finite = picture.values[np.isfinite(picture.values)].astype(float)
        low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
        seen &= np.isfinite(picture.values[moment])
        look = {"c": picture.values[moment, seen].astype(float), "cmap": cloud_colours(), "vmin": low, "vmax": high}
    axes.scatter(points[seen, 0], points[seen, 1], s=size, linewidths=0, alpha=0.8, rasterized=True, **look)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    _without_ticks(axes)


def _draw_panel(axes: Axes, panel: Panel, window: Window, ink: str) -> None:
    values = np.ma.masked_invalid(panel.values.astype(float))
    axes.imshow(values, cmap=density_colours(), origin="lower", extent=window, aspect="equal")
    axes.set_xlabel(extent(panel.values), fontsize=8, color=ink)
    _without_ticks(axes)


def _draw_plot(axes: Axes, picture: Curves, plot: Plot, ink: str) -> None:
    looks = styles(picture)
    for series in plot.series:
        points = np.where(np.isfinite(series.points), series.points, np.nan).astype(float).reshape(-1, 2)
        look = looks[series.role]
        marks: dict[str, Any] = {"linestyle": look.dash, "linewidth": look.width}
        if series.mark == "points":
            marks = {"linestyle": "", "marker": "o", "markersize": 3.6, "markeredgewidth": 0}
        axes.plot(points[:, 0], points[:, 1], color=look.colour, label=series.role, **marks)
    axes.set(**_limits(plot), aspect="equal")
    axes.tick_params(labelsize=8, colors=ink, width=0.6, length=2.5)
    axes.locator_params(nbins=4)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=ink, linewidth=0.6)


def _limits(plot: Plot) -> dict[str, tuple[float, float]]:
    """Limits of both axes that span as many units, a little beyond the points; none where no point is finite.

    Set beforehand: limits that matplotlib widens for equal units have other numbers than room was made for.
    """
    points = np.concatenate([series.points.reshape(-1, 2) for series in plot.series]).astype(float)
    finite = points[np.isfinite(points).all(-1)]
    if not len(finite):
        return {}
    low, high = finite.min(0), finite.max(0)
    half = 0.53 * float((high - low).max()) or 0.5
    (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
    return {"xlim": (float(left), float(right)), "ylim": (float(bottom), float(top))}


def _without_ticks(axes: Axes) -> None:
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)


def _tallness(picture: Picture) -> float:
    """Height of a part over its width."""
    if isinstance(picture, Heatmaps | Clouds):
        left, right, bottom, top = picture.window
        return (top - bottom) / (right - left)
    return 1.0
