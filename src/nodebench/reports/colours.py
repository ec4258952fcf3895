"""How a backend looks: the same colour, shape and dash in every chart of every report.

Few colours stay apart for colour-blind readers, and fewer that are seen on white and on black alike. So colour never
stands alone: two backends of like colours have other shapes, and lines of like colours other dashes.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal
from zlib import crc32

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
    "one-block": Style(BLUE, "triangle-right", DASHED),
    "no-block": Style(VERMILION, "triangle-right", DASHED),
    "resnet-small": Style(OCHRE, "triangle-left", DASHED),
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
