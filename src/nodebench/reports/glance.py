"""The picture of a comparison: time against memory, a named mark for each method, its error by colour, the front drawn.

It is drawn without a script and for one width, so that a page shows it at once; where names stand is worked out here,
since no two may lie over each other and Vega-Lite places none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import cos, floor, log, log10, pi, sin
from typing import Any

import altair as alt

from nodebench.reports.answers import Answer
from nodebench.reports.comparison import base_task, label
from nodebench.reports.document import Picture, key, mebibytes, milliseconds, number
from nodebench.reports.names import ShortNames
from nodebench.reports.series import BLUE, TICK
from nodebench.results.record import Record

INK = "#012345"
"""Stands for the colour of the text around the picture, which a writer puts in its place."""

WIDE, NARROW = (600, 235), (285, 250)
"""Width and height within the axes, in pixels: on a screen, and on a telephone."""

FONT, LETTER, LINE = 12, 7.4, 15
"""Size of names, and what a letter and a line take at the most, in pixels."""

MARK = 7
"""Half the size of a mark, in pixels."""

LONGEST = 24
"""Letters of a name; of a longer one the middle is left out."""

FEWEST_TICKS = 3
"""Ticks of an axis from which they are enough."""

MARGIN = 0.08
"""Part of an axis that is left free at each end."""

TITLE = "Time against memory"


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture, in pixels from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: "Box") -> float:
        """The area that both have in common."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis of a picture.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        length: Its pixels.
    """

    low: float
    high: float
    length: int

    @classmethod
    def of(cls, values: Sequence[float], length: int) -> "Scale":
        """One that spans some values, with room at both ends."""
        low, high = min(values), max(values)
        margin = max((high / low) ** MARGIN, 1.15)
        return cls(low / margin, high * margin, length)

    def pixel(self, value: float) -> float:
        """Where a value is, from the lower end."""
        return self.length * log(value / self.low) / log(self.high / self.low)

    @property
    def ticks(self) -> list[float]:
        """Round numbers on it: of each power of ten 1, 2 and 5, or more of them where these are few."""
        powers = range(floor(log10(self.low)), floor(log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), tuple(n / 10 for n in range(10, 100))):
            found = [n * 10.0**power for power in powers for n in digits]
            shown = [tick for tick in found if self.low <= tick <= self.high]
            if len(shown) >= FEWEST_TICKS:
                break
        return shown

    def value(self, pixel: float) -> float:
        """What is at a pixel."""
        found: float = self.low * (self.high / self.low) ** (pixel / self.length)
        return found


def picture(answer: Answer) -> Picture | None:
    """Time against memory of the cells of a comparison that were timed together; None where that would say nothing.

    It says nothing of fewer than two cells, nor where all have the same place.
    """
    shown = [r for r in answer.comparison.timed if r.peak_memory_bytes and r.step_s]
    places = {(mebibytes(record.peak_memory_bytes), milliseconds(record.step_s)) for record in shown}
    if len(shown) < 2 or len(places) < 2:
        return None
    line = _line([record for record in answer.front if any(record is each for each in shown)])
    bold = "In bold: the Pareto front of error, memory and time" if answer.front else ""
    dashed = "dashed: that of memory and time alone" if len(line) > 1 else ""
    hollow = "hollow: its error is not stated" if any(record.grad_error_params is None for record in shown) else ""
    told = "; ".join(filter(None, (bold, dashed, "bars: 95 % intervals", hollow)))
    caption = f"{TITLE}: lower and further left is better. {told[0].upper()}{told[1:]}."
    wide, narrow = (_chart(shown, answer.front, line, size) for size in (WIDE, NARROW))
    return Picture(f"{key(base_task(shown[0]))}-time-against-memory", caption, wide, narrow)


def _line(front: Sequence[Record]) -> list[Record]:
    """Those of the front that none of it beats in memory and time, by memory."""
    found: list[Record] = []
    for record in sorted(front, key=lambda r: (r.peak_memory_bytes or 0, r.step_s or 0.0)):
        if not found or (record.step_s or 0.0) < (found[-1].step_s or 0.0):
            found.append(record)
    return found


def _chart(shown: Sequence[Record], front: Sequence[Record], line: Sequence[Record], size: tuple[int, int]) -> Any:
    memories = [_memory(record) for record in shown]
    ends = [end for record in shown for end in _time(record)]
    across, up = Scale.of(memories, size[0]), Scale.of(ends, size[1])
    rows = _rows(shown, front, _stairs(line, across, up), across, up)
    x, y = _axis("x", across), _axis("y", up)
    base = alt.Chart().encode(x=x, y=y)
    layers = [
        base.mark_rule(strokeWidth=1.4, color=INK).encode(y=_axis("low", up), y2="high:Q"),
        base.transform_filter("datum.far").mark_rule(strokeWidth=0.8, opacity=0.5, color=INK).encode(
            x2="near_x:Q", y2="near_y:Q"
        ),
        *_marks(base, rows),
    ]  # fmt: skip
    for weight in ("bold", "normal"):
        names = alt.Chart().transform_filter(f"datum.weight === '{weight}'")
        written = names.mark_text(align="left", baseline="middle", fontSize=FONT, fontWeight=weight, color=INK)
        layers.append(written.encode(x=_axis("text_x", across), y=_axis("text_y", up), text="name:N"))
    if len(line) > 1:
        steps = [{"x": _memory(record), "y": _time(record)[0]} for record in line]
        joined = alt.Chart(alt.InlineData(values=steps)).mark_line(
            interpolate="step-after", strokeDash=[4, 3], strokeWidth=1.3, opacity=0.8, color=INK
        )
        layers.insert(0, joined.encode(x=x, y=y, order="x:Q"))
    return alt.layer(*layers, data=alt.InlineData(values=rows)).properties(width=size[0], height=size[1])


def _axis(field: str, scale: Scale) -> Any:
    """The channel of a field of the rows: across where its name ends in x, else up."""
    channel, title = (alt.X, "peak memory, MiB") if field.endswith("x") else (alt.Y, "time of a gradient step, ms")
    axis = alt.Axis(title=title, labelExpr=TICK, values=scale.ticks, labelOverlap="greedy")
    return channel(f"{field}:Q", scale=alt.Scale(type="log", nice=False, domain=[scale.low, scale.high]), axis=axis)


def _marks(base: alt.Chart, rows: Sequence[dict[str, Any]]) -> list[alt.Chart]:
    """The marks: coloured by the error where it is stated and not the same of all, and hollow where it is not."""
    errors = [row["error"] for row in rows if row["error"]]
    bold = alt.condition("datum.weight === 'bold'", alt.value(2.4), alt.value(1.0))
    hollow, filled = (
        base.transform_filter(f"{known}isValid(datum.error)").mark_point(size=120, opacity=1, fillOpacity=1, stroke=INK)
        for known in ("!", "")
    )
    fill: Any = alt.value(BLUE)
    if len({number(error, 2) for error in errors}) > 1:
        scale = alt.Scale(type="log", scheme="viridis", domain=[min(errors), max(errors)])
        legend = alt.Legend(
            title="error of d/dparams",
            orient="top",
            direction="horizontal",
            gradientLength=180,
            gradientThickness=9,
            values=[min(errors), (min(errors) * max(errors)) ** 0.5, max(errors)],
            labelExpr="format(datum.value, datum.value < 1e-3 ? '.1~e' : '.2~r')",
            offset=4,
        )
        fill = alt.Fill("error:Q", scale=scale, legend=legend)
    drawn = [filled.encode(fill=fill, strokeWidth=bold)] if errors else []
    missing = [hollow.encode(fill=alt.value("transparent"), strokeWidth=bold)] if len(errors) < len(rows) else []
    return [*drawn, *missing]


def _stairs(line: Sequence[Record], across: Scale, up: Scale) -> list[Box]:
    """Where the line of the front runs, a box for each of its pieces."""
    corners = [(across.pixel(_memory(record)), up.length - up.pixel(_time(record)[0])) for record in line]
    pieces = []
    for (x, y), (next_x, next_y) in pairwise(corners):
        pieces += [Box(x, y - 1, next_x, y + 1), Box(next_x - 1, y, next_x + 1, next_y)]
    return pieces


def _rows(
    shown: Sequence[Record], front: Sequence[Record], stairs: Sequence[Box], across: Scale, up: Scale
) -> list[dict[str, Any]]:
    """What is drawn of each record, and where its name stands."""
    names = short_labels([label(record) for record in shown])
    places = [(across.pixel(_memory(record)), up.length - up.pixel(_time(record)[0])) for record in shown]
    bars = [
        Box(x - 3, up.length - up.pixel(_time(record)[2]), x + 3, up.length - up.pixel(_time(record)[1]))
        for (x, _), record in zip(places, shown, strict=True)
    ]
    rows = []
    for record, name, place, box in zip(
        shown, names, places, placed(names, places, [*bars, *stairs], (across.length, up.length)), strict=True
    ):
        middle = (box.top + box.bottom) / 2
        near = min(max(place[0], box.left), box.right)
        far = abs(near - place[0]) + abs(middle - place[1]) > 2.2 * LINE
        value = {
            "name": name, "x": _memory(record), "y": _time(record)[0], "low": _time(record)[1],
            "high": _time(record)[2], "error": record.grad_error_params or None, "far": far,
            "weight": "bold" if any(record is each for each in front) else "normal",
            "text_x": across.value(box.left), "text_y": up.value(up.length - middle),
            "near_x": across.value(near), "near_y": up.value(up.length - middle),
        }  # fmt: skip
        rows.append({name: float(f"{v:.5g}") if isinstance(v, float) else v for name, v in value.items()})
    return rows


def placed(
    names: Sequence[str], places: Sequence[tuple[float, float]], bars: Sequence[Box], size: tuple[int, int]
) -> list[Box]:
    """Where each name stands: beside its mark, over no other name and, as far as that goes, over no mark and no bar.

    Args:
        names: The names.
        places: Where their marks are, in pixels from the upper left corner.
        bars: The bars of the intervals, and the pieces of the line.
        size: Width and height of the picture.
    """
    marks = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in places]
    found: dict[int, Box] = {}
    # Those with most around them first.
    crowd = [sum(abs(x - a) + 2 * abs(y - b) < 120 for a, b in places) for x, y in places]
    for at in sorted(range(len(names)), key=lambda at: -crowd[at]):
        width = LETTER * len(names[at])
        taken = list(found.values())
        found[at] = min(
            _candidates(places[at], width, size),
            key=lambda box: (
                1000 * sum(box.shared(other) > 0 for other in taken)
                + 30 * sum(box.shared(other) > 0 for other in marks)
                + 6 * sum(box.shared(other) > 0 for other in bars)
                + 0.15 * _distance(box, places[at])
            ),
        )
    return [found[at] for at in range(len(names))]


def _candidates(place: tuple[float, float], width: float, size: tuple[int, int]) -> list[Box]:
    """Boxes for a name around its mark, ever further away, within the picture."""
    found = []
    for distance, turn in product((MARK + 4, 16, 24, 34, 46, 60, 76, 94, 115, 140), range(16)):
        x, y = place[0] + distance * cos(turn * pi / 8), place[1] - distance * sin(turn * pi / 8)
        # Left of the mark it ends at that point, right of it it begins there, above and below it lies across.
        left = x - width * (1 - cos(turn * pi / 8)) / 2
        left = min(max(left, 2), max(size[0] - width - 2, 2))
        top = min(max(y - LINE / 2, 0), size[1] - LINE)
        found.append(Box(left, top, left + width, top + LINE))
    return found


def _distance(box: Box, place: tuple[float, float]) -> float:
    across = max(box.left - place[0], place[0] - box.right, 0)
    return across + abs((box.top + box.bottom) / 2 - place[1])


def short_labels(names: Sequence[str]) -> list[str]:
    """Names as a picture has room for them: files without their folders where that tells them apart, none too long."""
    told = map(ShortNames.of(names), names)
    return [text if len(text) <= LONGEST else f"{text[: LONGEST - 9]}…{text[-8:]}" for text in told]


def _memory(record: Record) -> float:
    return (record.peak_memory_bytes or 0) / 2**20


def _time(record: Record) -> tuple[float, float, float]:
    """Time of a gradient step in ms with its interval, which is no wider than itself where there is none."""
    step = record.step_s or 0.0
    return 1e3 * step, 1e3 * (record.step_s_low or step), 1e3 * (record.step_s_high or step)
