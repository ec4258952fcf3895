"""How a backend looks: the same colour, shape and dash in every chart of every report.

Few colours stay apart for colour-blind readers, and fewer that are seen on white and on black alike. So colour never
stands alone: two backends of like colours have other shapes, and lines of like colours other dashes. Options make more
looks than there are; what is drawn in one chart is told apart there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, TypeVar
from zlib import crc32

T = TypeVar("T")

Dash = tuple[int, ...]
Shape = Literal[
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"
]

BLUE, VERMILION, GREEN, PURPLE, OCHRE, VIOLET, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#C4679B", "#A87900", "#7A5FD0", "#7A7A7A",
)  # fmt: skip
"""After Okabe and Ito (2008), the light ones darkened: each has a contrast of 3 to white and to near-black."""

SOLID: Dash = ()
DASHED: Dash = (8, 3)
DOTTED: Dash = (2, 2)


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
    "resnet": Style(GREY, "triangle-right"),
    "one-block": Style(BLUE, "triangle-right", DASHED),
    "no-block": Style(VERMILION, "triangle-right", DASHED),
    "resnet-small": Style(OCHRE, "triangle-left", DASHED),
    "mlp": Style(VIOLET, "triangle-left", DASHED),
    "planar": Style(PURPLE, "triangle-left", DASHED),
    "rnn": Style(GREEN, "triangle-left", DASHED),
}
"""The models that solve no ODE and so have no backend; their points look to the side."""

SOLVERS: Mapping[str, Shape] = {
    "dopri5": "circle",
    "bosh3": "square",
    "dopri8": "triangle-up",
    "tsit5": "diamond",
    "vode-adams": "cross",
    "lsoda": "triangle-down",
}
"""Shapes of points in charts of several solvers, where colour alone is the backend's."""

VARIANTS: Sequence[Dash] = tuple(
    (stroke, gap, *second) for stroke in (1, 5, 14) for gap in (2, 4) for second in ((), (1, 2), (4, 4))
)
"""Dashes of backends with options."""

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, VIOLET)
SHAPES: Sequence[Shape] = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def style(label: str) -> Style:
    """The style of a backend, options included, or of a model without one; `backend solver` has the solver's shape.

    It depends on the label alone: not on what else is drawn, nor on what is installed. Options keep colour and shape;
    their line is dashed differently, and their points are hollow.
    """
    backend, _, solver = label.partition(" ")
    if solver in SOLVERS:
        return replace(style(backend), shape=SOLVERS[solver])
    base, _, options = label.partition("[")
    known = BACKENDS.get(base) or MODELS.get(base) or _derived(base)
    return replace(known, dash=VARIANTS[crc32(options.encode()) % len(VARIANTS)], filled=False) if options else known


def line_styles(labels: Iterable[str]) -> dict[str, Style]:
    """The styles of lines in one chart: of those that options alone set apart no two have one dash.

    Where two would, the later one in the order of their options takes the next dash that is left.
    """
    found: dict[str, Style] = {}
    taken: set[tuple[str, Dash]] = set()
    for label in sorted(labels):
        own = style(label)
        base, _, options = label.partition("[")
        at = VARIANTS.index(own.dash) if options else 0
        dashes = (*VARIANTS[at:], *VARIANTS[:at]) if options else (own.dash,)
        dash = next((each for each in dashes if (base, each) not in taken), own.dash)
        taken.add((base, dash))
        found[label] = replace(own, dash=dash)
    return found


def point_styles(labels: Iterable[str]) -> dict[str, Style]:
    """The styles of points in one chart: no two have colour, shape and filling alike.

    Built-in methods without options look as they do everywhere. Where two others would look alike, the later one in the
    order of their names takes the next shape that is left, and then the next colour.
    """
    found: dict[str, Style] = {}
    taken: set[tuple[str, Shape, bool]] = set()
    for label in sorted(labels, key=lambda name: (name not in BACKENDS and name not in MODELS, name)):
        own = style(label)
        looks = product(_from(own.colour, COLOURS), _from(own.shape, SHAPES), [own.filled])
        colour, shape, filled = next((look for look in looks if look not in taken), (own.colour, own.shape, own.filled))
        taken.add((colour, shape, filled))
        found[label] = replace(own, colour=colour, shape=shape)
    return found


def _from(own: T, choices: Sequence[T]) -> list[T]:
    """What something has by itself, then the other choices in their order."""
    return [own, *(each for each in choices if each != own)]


def _derived(name: str) -> Style:
    # `hash` differs from process to process.
    rest, colour = divmod(crc32(name.encode()), len(COLOURS))
    rest, shape = divmod(rest, len(SHAPES))
    return Style(COLOURS[colour], SHAPES[shape], (SOLID, DASHED, DOTTED)[rest % 3])
