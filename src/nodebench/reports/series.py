"""Altair layers in which the same backend always looks the same, legible on a telephone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from nodebench.reports.colours import Style, style

MAX_SERIES = 14
"""Series beyond which a chart is split: more cannot be told apart."""

HEIGHT = 320
LONG_LABEL = 18
"""Characters beyond which a legend has a single column: two of them fit 390 pixels no more."""

Row = Mapping[str, Any]
"""A point: `series`, `x`, `y`, and whatever else is shown of it."""


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        title: What it is, with its unit.
        log: Whether it is logarithmic.
        format: How its ticks are printed, as d3 calls it.
    """

    title: str
    log: bool = False
    format: str = "~g"

    def encoding(self, channel: type[Any], field: str) -> Any:
        """The channel of a field on this axis."""
        scale = alt.Scale(type="log", nice=False, padding=16) if self.log else alt.Scale(zero=False, padding=12)
        axis = alt.Axis(format=self.format, labelOverlap="greedy", tickCount=5)
        return channel(field, type="quantitative", title=self.title, scale=scale, axis=axis)


def lines(rows: Sequence[Row], x: Axis, y: Axis, title: str, tooltip: Mapping[str, str]) -> Any:
    """Lines with points along `order`, and with intervals where rows have `low` and `high` along x.

    Args:
        rows: The points; `order` says in which order those of a series are joined.
        x: The horizontal axis.
        y: The vertical axis.
        title: Title of the chart.
        tooltip: What is shown of a point: fields with their titles.
    """
    base = _base(rows, x, y)
    joined = base.mark_line(strokeWidth=1.8).encode(
        strokeDash=_scaled(alt.StrokeDash, rows), order=alt.Order("order:Q")
    )
    layers = [joined, _points(base, rows, tooltip)]
    for channel, low, high in ((alt.X, "x_low", "x_high"), (alt.Y, "y_low", "y_high")):
        if any(row.get(low) is not None for row in rows):
            layers.insert(0, _intervals(base, channel, low, high, x if channel is alt.X else y))
    return _framed(layers, title)


def points(
    rows: Sequence[Row], x: Axis, y: Axis, title: str, tooltip: Mapping[str, str], guides: Sequence[Any] = ()
) -> Any:
    """Points above guide lines."""
    return _framed([*guides, _points(_base(rows, x, y), rows, tooltip)], title)


def guide(x: Axis, y: Axis, ends: Sequence[tuple[float, float]], text: str) -> Any:
    """A grey line through points, with its name at the end."""
    values = [{"x": at, "y": value, "text": text} for at, value in ends]
    encodings = {"x": x.encoding(alt.X, "x"), "y": y.encoding(alt.Y, "y")}
    line = alt.Chart(alt.InlineData(values=values)).mark_line(strokeWidth=1, color="#888888").encode(**encodings)
    name = alt.Chart(alt.InlineData(values=values[-1:])).mark_text(align="right", dx=-6, dy=-6, color="#888888")
    return line + name.encode(**encodings, text="text:N")


def split_series(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in parts of at most `MAX_SERIES` series each."""
    labels = _labels(rows)
    parts = [set(labels[at : at + MAX_SERIES]) for at in range(0, len(labels), MAX_SERIES)]
    return [[row for row in rows if row["series"] in part] for part in parts]


def _base(rows: Sequence[Row], x: Axis, y: Axis) -> Any:
    return alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        x=x.encoding(alt.X, "x"), y=y.encoding(alt.Y, "y"), color=_scaled(alt.Color, rows)
    )


def _points(base: Any, rows: Sequence[Row], tooltip: Mapping[str, str]) -> Any:
    return base.mark_point(size=70, strokeWidth=1.8, opacity=1).encode(
        shape=_scaled(alt.Shape, rows),
        fill=_scaled(alt.Fill, rows),
        tooltip=[alt.Tooltip(field, title=name) for field, name in tooltip.items()],
    )


def _intervals(base: Any, channel: type[Any], low: str, high: str, axis: Axis) -> Any:
    name = channel.__name__.lower()
    ends = {name: axis.encoding(channel, low), f"{name}2": alt.X2(high) if name == "x" else alt.Y2(high)}
    return base.mark_rule(strokeWidth=1.4).encode(**ends)


def _scaled(channel: type[Any], rows: Sequence[Row]) -> Any:
    labels = _labels(rows)
    styles = [style(label) for label in labels]
    values = [_value(channel, each) for each in styles]
    columns = 1 if any(len(label) > LONG_LABEL for label in labels) else 2
    legend = alt.Legend(title=None, orient="bottom", columns=columns, labelLimit=320)
    return channel("series", type="nominal", scale=alt.Scale(domain=labels, range=values), legend=legend)


def _value(channel: type[Any], each: Style) -> Any:
    if channel is alt.Shape:
        return each.shape
    if channel is alt.StrokeDash:
        return list(each.dash) or [1, 0]
    return "transparent" if channel is alt.Fill and not each.filled else each.colour


def _labels(rows: Sequence[Row]) -> list[str]:
    return sorted({row["series"] for row in rows})


def _framed(layers: Sequence[Any], title: str) -> Any:
    return alt.layer(*layers).properties(
        width="container",
        height=HEIGHT,
        title=title,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
