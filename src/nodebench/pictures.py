"""What a task shows of a trained model: plain values, which are kept beside a record and drawn by the reports.

A picture must be drawable without the framework, the task or the weights, and years later: it holds its arrays and
nothing else. A task chooses small types, such as float16 for points and uint8 for images. What could not be drawn is
refused when it is made; single values that are not finite may stand in an array, and are left out of the drawing.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from nodebench.errors import PluginError

Window = tuple[float, float, float, float]
"""Left, right, bottom and top of a part of the plane."""


@dataclass(frozen=True)
class Panel:
    """One of the heat maps of a picture.

    Attributes:
        title: What it shows.
        values: Values on an even grid over the window, the first row at the bottom, shape `(rows, columns)`.
    """

    title: str
    values: np.ndarray

    def __post_init__(self) -> None:
        _check_shape(f"panel {self.title}", "values", self.values, (None, None))
        _check(self.values.size > 0, f"panel {self.title}", "its values are empty")


@dataclass(frozen=True)
class Heatmaps:
    """Functions over the same window of the plane, such as densities.

    Attributes:
        name: Key among the pictures of a model, for example `densities`.
        title: What they are of.
        window: The window.
        panels: The functions, each drawn to a scale of its own.
    """

    name: str
    title: str
    window: Window
    panels: tuple[Panel, ...]

    def __post_init__(self) -> None:
        _check_window(self.name, self.window)


@dataclass(frozen=True)
class Clouds:
    """The same points at several moments, as small multiples and as an animation.

    Attributes:
        name: Key among the pictures of a model.
        title: What moves.
        window: What is seen of the plane.
        labels: What each moment is called, for example `t = 0.25`.
        points: Shape `(moments, points, 2)`.
        values: What colours each point at each moment, such as a log-density, shape `(moments, points)`; or None.
    """

    name: str
    title: str
    window: Window
    labels: tuple[str, ...]
    points: np.ndarray
    values: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_window(self.name, self.window)
        _check_shape(self.name, "points", self.points, (len(self.labels), None, 2))
        if self.values is not None:
            _check_shape(self.name, "values", self.values, self.points.shape[:2])


@dataclass(frozen=True)
class Series:
    """A line, or points, of a plot.

    Attributes:
        role: What it is, for example `observed`; equal roles look alike in all plots.
        points: Shape `(n, 2)`.
        mark: Whether they are joined.
    """

    role: str
    points: np.ndarray
    mark: Literal["line", "points"] = "line"

    def __post_init__(self) -> None:
        _check_shape(f"series {self.role}", "points", self.points, (None, 2))


@dataclass(frozen=True)
class Plot:
    """One of the plots of a picture.

    Attributes:
        title: What it shows; may be empty.
        series: What is drawn, later ones above earlier ones.
    """

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Curves:
    """Plots of lines and points in the plane, such as trajectories.

    Attributes:
        name: Key among the pictures of a model.
        title: What they are of.
        axes: What the two axes are; empty where they need no name.
        plots: The plots, all drawn with equal units on both axes.
    """

    name: str
    title: str
    axes: tuple[str, ...]
    plots: tuple[Plot, ...]

    def __post_init__(self) -> None:
        _check(len(self.axes) in (0, 2), self.name, f"it names {len(self.axes)} axes, not none or 2")


@dataclass(frozen=True)
class Images:
    """Grey images with a caption each.

    Attributes:
        name: Key among the pictures of a model.
        title: What they are.
        images: 0 black to 255 white, uint8, shape `(n, rows, columns)`.
        captions: One for each.
    """

    name: str
    title: str
    images: np.ndarray
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_shape(self.name, "images", self.images, (len(self.captions), None, None))
        _check(self.images.dtype == np.uint8, self.name, f"its images are {self.images.dtype}, not uint8")
        _check(0 not in self.images.shape[1:], self.name, "its images are empty")


Picture = Heatmaps | Clouds | Curves | Images

MOST_OBLONG = 20
"""How many times one side of a window may be as long as the other."""

View = Callable[[str, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""`view(method, batch)`: what a method of the trained model returns for a batch, without gradients, as NumPy arrays."""


def pack(pictures: Sequence[Picture]) -> bytes:
    """Pictures as one compressed NumPy archive."""
    arrays: dict[str, np.ndarray] = {}
    outline = json.dumps([_outline(picture, arrays) for picture in pictures])
    buffer = io.BytesIO()
    named: dict[str, Any] = {"outline": np.frombuffer(outline.encode(), np.uint8), **arrays}
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def unpack(packed: bytes) -> tuple[Picture, ...]:
    """The inverse of `pack`.

    Raises:
        PluginError: If a picture cannot be drawn.
    """
    with np.load(io.BytesIO(packed)) as archive:
        outline = json.loads(archive["outline"].tobytes())
        return tuple(_restored(entry, archive) for entry in outline)


def _check(holds: bool, name: str, otherwise: str) -> None:  # noqa: FBT001  an assertion reads so
    if not holds:
        raise PluginError(f"picture `{name}` cannot be drawn: {otherwise}.")


def _check_window(name: str, window: Window) -> None:
    left, right, bottom, top = window
    width, height = right - left, top - bottom
    drawable = isfinite(width) and isfinite(height) and width > 0 and height > 0
    _check(drawable, name, f"its window is {window}, not left, right, bottom and top of a part of the plane")
    oblong = max(width / height, height / width)
    _check(oblong <= MOST_OBLONG, name, f"one side of its window is {oblong:.3g} times the other, over {MOST_OBLONG}")


def _check_shape(name: str, what: str, array: np.ndarray, shape: Sequence[int | None]) -> None:
    """Raise where an array has another shape; None stands for any number."""
    agrees = len(array.shape) == len(shape) and all(n in (None, its) for n, its in zip(shape, array.shape, strict=True))
    wanted = f"({', '.join('any' if n is None else str(n) for n in shape)})"
    _check(agrees, name, f"its {what} have shape {array.shape}, not {wanted}")


def _outline(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, tuple):
        return [_outline(item, arrays) for item in value]
    if is_dataclass(value):
        inner = {field.name: _outline(getattr(value, field.name), arrays) for field in fields(value)}
        return {"kind": type(value).__name__, **inner}
    return value


def _restored(entry: Any, archive: Mapping[str, np.ndarray]) -> Any:
    if isinstance(entry, list):
        return tuple(_restored(item, archive) for item in entry)
    if not isinstance(entry, dict):
        return entry
    if "array" in entry:
        return archive[entry["array"]]
    cls = _KINDS[entry["kind"]]
    return cls(**{name: _restored(value, archive) for name, value in entry.items() if name != "kind"})


_KINDS: Mapping[str, type[Any]] = {cls.__name__: cls for cls in (Heatmaps, Panel, Clouds, Curves, Plot, Series, Images)}
