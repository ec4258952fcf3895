"""Colours and type of pages, charts and drawings, by day and by night."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["light", "dark"]

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
"""Colours that colour-blind readers tell apart (Okabe and Ito, 2008), without black, which no dark page shows."""

SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'

STATIC_SANS = "Liberation Sans, Arial, Helvetica, sans-serif"
"""What a static chart is set in: the converter wants fonts by name."""


@dataclass(frozen=True)
class Palette:
    """Colours of a page.

    Attributes:
        page: The page itself.
        surface: What stands out from it a little.
        ink: Text.
        muted: Text of less weight.
        line: Rules and grids.
        accent: Links and controls.
    """

    page: str
    surface: str
    ink: str
    muted: str
    line: str
    accent: str


PALETTES: Mapping[Mode, Palette] = {
    "light": Palette("#fdfdfb", "#f4f4f0", "#1d2126", "#5a626b", "#dcdfe2", "#0b5f99"),
    "dark": Palette("#14171a", "#1d2125", "#e3e6e8", "#a2a9b0", "#343a40", "#86bfea"),
}


def static_config(ink: str) -> dict[str, Any]:
    """How Vega-Lite draws a chart that takes its colour from the text around it.

    Args:
        ink: The colour that a writer replaces by that of the text.
    """
    words = {
        "labelColor": ink,
        "titleColor": ink,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    lines = {"gridColor": ink, "gridOpacity": 0.12, "domainColor": ink, "tickColor": ink, "domainOpacity": 0.5}
    return {
        "background": "transparent",
        "aria": False,  # the image as a whole has a text
        "font": SANS.replace('"', "'"),
        "view": {"stroke": ink, "strokeOpacity": 0.25},
        "axis": words | lines | {"titlePadding": 6, "labelSeparation": 4, "tickOpacity": 0.5},
        "legend": words,
    }


def chart_config(mode: Mode, font: str = SANS) -> dict[str, Any]:
    """How Vega-Lite draws a chart that does not say otherwise."""
    colours = PALETTES[mode]
    labels = {
        "labelColor": colours.muted,
        "labelFontSize": 12,
        "titleColor": colours.ink,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    lines = {"gridColor": colours.line, "gridOpacity": 0.6, "domainColor": colours.muted, "tickColor": colours.muted}
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": colours.line},
        "mark": {"color": OKABE_ITO[0]},
        "point": {"opacity": 1},
        "axis": labels | lines | {"titlePadding": 8, "labelSeparation": 4},
        "header": labels | {"titleFontSize": 12, "labelColor": colours.ink},
        "legend": labels | {"orient": "bottom", "labelLimit": 260, "symbolStrokeWidth": 2, "offset": 12},
        "title": {
            "color": colours.ink,
            "subtitleColor": colours.muted,
            "fontSize": 13,
            "fontWeight": 600,
            "anchor": "start",
        },
        "text": {"color": colours.ink},
        "rule": {"color": colours.muted},
        "range": {"category": list(OKABE_ITO)},
    }
