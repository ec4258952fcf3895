"""Altair layers in which the same backend always looks the same, legible on a telephone.

Few colours stay apart for colour-blind readers, and fewer that are seen on white and on black alike. So colour never
stands alone: two backends of like colours have other shapes, and lines of like colours other dashes.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypeVar
from zlib import crc32

import altair as alt

Dash = tuple[int, ...]
Shape = Literal[
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"
]

COLOURS = BLUE, VERMILION, GREEN, PURPLE, OCHRE, VIOLET = (
    "#0072B2", "#D55E00", "#009E73", "#C4679B", "#A87900", "#7A5FD0",
)  # fmt: skip
"""After Okabe and Ito (2008), the light ones darkened: each has a contrast of 3 to white and to near-black."""

SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES: tuple[Dash, ...] = ((), (8, 3), (2, 2))
SOLID, DASHED, DOTTED = DASHES
VARIANTS = tuple((stroke, gap, *rest) for stroke, gap, rest in product((1, 5, 14), (2, 4), ((), (1, 2), (4, 4))))
"""Dashes of backends with options."""

MAX_SERIES = 14
"""Series beyond which a chart is split: more cannot be told apart."""

HEIGHT = 320
LONG_LABEL = 18
"""Characters beyond which a legend has a single column: two of them fit 390 pixels no more."""

TICK = (
    "datum.value && (abs(datum.value) < 1e-3 || abs(datum.value) >= 1e5) "
    "? format(datum.value, '~e') : format(datum.value, '.4~r')"
)
"""A tick as a person writes it: 0.01 and 150, but 1e-5 and 2e+6. An expression of Vega."""

Layered = alt.LayerChart | alt.FacetChart
Position = TypeVar("Position", alt.X, alt.Y)
Channel = TypeVar("Channel", alt.Color, alt.Fill, alt.Shape, alt.StrokeDash)

Row = Mapping[str, Any]
"""A point: `series`, `x`, `y`, and whatever else is shown of it."""


@dataclass(frozen=True)
class Style:
    """How a line and its points are drawn.

    Attributes:
        colour: Of both, `#rrggbb`.
        shape: Of the points, as Vega-Lite calls it.
        dash: Lengths of strokes and gaps; empty for an unbroken line.
        filled: Whether the points are.
    """

    colour: str
    shape: Shape
    dash: Dash = SOLID
    filled: bool = True


BACKENDS: Mapping[str, Style] = {
    "direct": Style(BLUE, "circle"),
    "adjoint": Style(VERMILION, "square"),
    "torchdiffeq": Style(GREEN, "triangle-up"),
    "torchdiffeq-adjoint": Style(PURPLE, "diamond"),
    "checkpoint": Style(VIOLET, "cross"),
    "diffrax": Style(OCHRE, "triangle-down"),
    "interpolated": Style(VERMILION, "circle", DASHED),
    "symplectic": Style(BLUE, "diamond", DASHED),
    "reversible": Style(GREEN, "square", DASHED),
    "diffrax-direct": Style(OCHRE, "cross", DASHED),
    "diffrax-backsolve": Style(VIOLET, "triangle-up", DASHED),
    "jax-odeint": Style(PURPLE, "triangle-down", DASHED),
    "scipy": Style(BLUE, "square", DOTTED),
}
"""The built-in gradient methods; the first six, which are compared most, have a colour each."""

MODELS: Mapping[str, Style] = {
    "resnet": Style("#7A7A7A", "triangle-right"),
    "resnet-1": Style(BLUE, "triangle-right", DASHED),
    "resnet-0": Style(VERMILION, "triangle-right", DASHED),
    "resnet-2": Style(OCHRE, "triangle-left", DASHED),
    "mlp": Style(VIOLET, "triangle-left", DASHED),
    "planar": Style(PURPLE, "triangle-left", DASHED),
    "rnn": Style(GREEN, "triangle-left", DASHED),
}
"""The models that solve no ODE and so have no backend; their points look to the side."""

SOLVERS = dict(zip(("dopri5", "bosh3", "dopri8", "tsit5", "vode-adams", "lsoda"), SHAPES, strict=True))
"""Shapes of points in charts of several solvers, where colour alone is the backend's."""


def style(label: str) -> Style:
    """The style of a backend, options included, or of a model without one; `backend solver` has the solver's shape.

    It follows from the label alone, that of an unknown name by a hash. Options keep colour and shape; their line is
    dashed differently, and their points are hollow.
    """
    backend, _, solver = label.partition(" ")
    if solver in SOLVERS:
        return replace(style(backend), shape=SOLVERS[solver])
    base, _, options = label.partition("[")
    # `hash` differs from process to process.
    rest, at = divmod(crc32(base.encode()), len(COLOURS))
    by_name = Style(COLOURS[at], SHAPES[rest % len(SHAPES)], DASHES[rest // len(SHAPES) % len(DASHES)])
    own = BACKENDS.get(base) or MODELS.get(base) or by_name
    return replace(own, dash=VARIANTS[crc32(options.encode()) % len(VARIANTS)], filled=False) if options else own


def line_styles(labels: Iterable[str]) -> dict[str, Style]:
    """The styles of lines in one chart: of those that options alone set apart no two have one dash."""
    return _distinct(
        labels,
        lambda own: [own, *(replace(own, dash=dash) for dash in VARIANTS if not own.filled)],
        lambda label, look: (label.partition("[")[0], look.dash),
    )


def point_styles(labels: Iterable[str]) -> dict[str, Style]:
    """The styles of points in one chart: no two have colour, shape and filling alike."""
    return _distinct(
        labels,
        lambda own: [
            replace(own, colour=colour, shape=shape)
            for colour, shape in product((own.colour, *COLOURS), (own.shape, *SHAPES))
        ],
        lambda _, look: (look.colour, look.shape, look.filled),
    )


def _distinct(
    labels: Iterable[str], looks: Callable[[Style], list[Style]], key: Callable[[str, Style], Hashable]
) -> dict[str, Style]:
    """Styles whose keys differ: whoever comes later takes the first of its looks that is left, built-in names first."""
    found: dict[str, Style] = {}
    taken: set[Hashable] = set()
    for label in sorted(labels, key=lambda name: (name not in BACKENDS and name not in MODELS, name)):
        choices = looks(style(label))
        found[label] = next((look for look in choices if key(label, look) not in taken), choices[0])
        taken.add(key(label, found[label]))
    return found


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        title: What it is, with its unit.
        log: Whether it is logarithmic.
        whole: Whether ticks stand at whole numbers only.
        domain: Its ends; those of the data where it is None.
    """

    title: str
    log: bool = False
    whole: bool = False
    domain: tuple[float, float] | None = None

    def spanning(self, values: Iterable[float | None]) -> "Axis":
        """This axis with ends a little beyond the values, so that no point lies on its edge."""
        known = [value for value in values if value is not None]
        low, high = min(known), max(known)
        if self.log:
            margin = max((high / low) ** 0.06, 1.1)
            return replace(self, domain=(low / margin, high * margin))
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return replace(self, domain=(low - margin, high + margin))

    def encoding(self, channel: type[Position], field: str) -> Position:
        """The channel of a field on this axis."""
        domain = alt.Undefined if self.domain is None else list(self.domain)
        kind = {"type": "log"} if self.log else {"type": "linear", "zero": False}
        scale = alt.Scale(**kind, nice=False, domain=domain)
        step = 1 if self.whole else alt.Undefined
        axis = alt.Axis(labelExpr=TICK, labelOverlap="greedy", tickCount=5, tickMinStep=step)
        return channel(f"{field}:Q", title=self.title, scale=scale, axis=axis)


def lines(rows: Sequence[Row], x: Axis, y: Axis, title: str, tooltip: Mapping[str, str]) -> Layered:
    """Lines with points along `order`, and with intervals where rows have `low` and `high` along x.

    Args:
        rows: The points; `order` says in which order those of a series are joined.
        x: The horizontal axis.
        y: The vertical axis.
        title: Title of the chart.
        tooltip: What is shown of a point beside its place: fields with their titles.
    """
    x = x.spanning(row.get(field) for row in rows for field in ("x", "x_low", "x_high"))
    y = y.spanning(row.get(field) for row in rows for field in ("y", "y_low", "y_high"))
    looks = line_styles(_labels(rows))
    base = _base(looks, x, y)
    shown = _tooltip(x, y, tooltip)
    joined = base.mark_line(strokeWidth=1.8).encode(
        strokeDash=_scaled(alt.StrokeDash, looks), order=alt.Order("order:Q")
    )
    intervals = [*_intervals(rows, base, alt.Y, y), *_intervals(rows, base, alt.X, x)]
    return _framed([*intervals, joined, _points(base, looks, shown)], rows, title)


def points(
    rows: Sequence[Row], x: Axis, y: Axis, title: str, tooltip: Mapping[str, str], guides: Sequence[alt.LayerChart] = ()
) -> Layered:
    """Points above guide lines."""
    looks = point_styles(_labels(rows))
    return _framed([*guides, _points(_base(looks, x, y), looks, _tooltip(x, y, tooltip))], rows, title)


def guide(x: Axis, y: Axis, ends: Sequence[tuple[float, float]], text: str) -> alt.LayerChart:
    """A grey line through points, with its name at the end."""
    values = [{"x": at, "y": value, "text": text} for at, value in ends]
    encodings = {"x": x.encoding(alt.X, "x"), "y": y.encoding(alt.Y, "y")}
    line = alt.Chart(alt.InlineData(values=values)).mark_line(strokeWidth=1, color="#888888").encode(**encodings)
    name = alt.Chart(alt.InlineData(values=values[-1:])).mark_text(align="right", dx=-6, dy=-6)
    found: alt.LayerChart = line + name.encode(**encodings, text="text:N")
    return found


def coincident(rows: Sequence[Row]) -> list[list[str]]:
    """Series whose points are all the same, so that the last hides the others."""
    by_points: dict[Hashable, list[str]] = {}
    for label in _labels(rows):
        points_of = tuple((row["x"], row["y"]) for row in rows if row["series"] == label)
        by_points.setdefault(points_of, []).append(label)
    return [labels for labels in by_points.values() if len(labels) > 1]


def split_series(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in parts of at most `MAX_SERIES` series each."""
    labels = _labels(rows)
    parts = [set(labels[at : at + MAX_SERIES]) for at in range(0, len(labels), MAX_SERIES)]
    return [[row for row in rows if row["series"] in part] for part in parts]


def _base(looks: Mapping[str, Style], x: Axis, y: Axis) -> alt.Chart:
    return alt.Chart().encode(x=x.encoding(alt.X, "x"), y=y.encoding(alt.Y, "y"), color=_scaled(alt.Color, looks))


def _short(row: Row) -> dict[str, Any]:
    """A row with no more digits than can be seen."""
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in row.items()}


def _tooltip(x: Axis, y: Axis, more: Mapping[str, str]) -> list[alt.Tooltip]:
    axes = [alt.Tooltip(f"{field}:Q", title=axis.title, format=".4~g") for field, axis in (("x", x), ("y", y))]
    return [*(alt.Tooltip(f"{field}:N", title=name) for field, name in more.items()), *axes]


def _points(base: alt.Chart, looks: Mapping[str, Style], tooltip: Sequence[alt.Tooltip]) -> alt.Chart:
    drawn: alt.Chart = base.mark_point(size=70, strokeWidth=1.8, opacity=1).encode(
        shape=_scaled(alt.Shape, looks),
        fill=_scaled(alt.Fill, looks),
        tooltip=tooltip,
    )
    return drawn


def _intervals(rows: Sequence[Row], base: alt.Chart, channel: type[Position], axis: Axis) -> list[alt.Chart]:
    """A layer of intervals along an axis, where rows have any."""
    name = channel.__name__.lower()
    low, high = f"{name}_low", f"{name}_high"
    if all(row.get(low) is None for row in rows):
        return []
    ends = {name: axis.encoding(channel, low), f"{name}2": alt.X2(high) if name == "x" else alt.Y2(high)}
    return [base.mark_rule(strokeWidth=1.4).encode(**ends)]


def _scaled(channel: type[Channel], looks: Mapping[str, Style]) -> Channel:
    labels = sorted(looks)
    values = [_value(channel, looks[label]) for label in labels]
    columns = 1 if any(len(label) > LONG_LABEL for label in labels) else 2
    legend = alt.Legend(title=None, orient="bottom", columns=columns, labelLimit=320)
    return channel("series:N", scale=alt.Scale(domain=labels, range=values), legend=legend)


def _value(channel: type[Any], each: Style) -> str | list[int]:
    if channel is alt.Shape:
        return each.shape
    if channel is alt.StrokeDash:
        return list(each.dash) or [1, 0]
    return "transparent" if channel is alt.Fill and not each.filled else each.colour


def _labels(rows: Sequence[Row]) -> list[str]:
    return sorted({row["series"] for row in rows})


def _framed(layers: Sequence[alt.Chart | alt.LayerChart], rows: Sequence[Row], title: str) -> Layered:
    # Data at the top stand in the page once, not once for each layer.
    return alt.layer(*layers, data=alt.InlineData(values=[_short(row) for row in rows])).properties(
        width="container",
        height=HEIGHT,
        title=title,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
