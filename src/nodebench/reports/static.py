"""Charts and drawings as files: SVG, PDF or PNG of what the interactive page has."""

from pathlib import Path
from typing import Literal

import vl_convert

from nodebench.reports.document import Chart, Document, Drawing, key
from nodebench.reports.notation import contents
from nodebench.reports.theme import STATIC_SANS, chart_config

LEGEND_COLUMNS = 4
"""Entries of a legend in a row."""

Kind = Literal["svg", "pdf", "png"]

GROUND = "white"
"""Files are shown on pages of any colour."""

PNG_SCALE = 2.0
"""Pixels of a PNG for one of its chart's."""


def write(document: Document, folder: Path, kind: Kind) -> dict[str, Path]:
    """Write every chart and drawing of a page as a file of its name; the folder is made where it is missing.

    Args:
        document: The page.
        folder: Where the files go.
        kind: Their format.

    Returns:
        The file of each chart and drawing by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for block in contents(document):
        if isinstance(block, Chart | Drawing):
            path = folder / f"{key(block.name)}.{kind}"
            path.write_bytes(_chart(block, kind) if isinstance(block, Chart) else _drawing(block, kind))
            files[block.name] = path
    return files


def _chart(chart: Chart, kind: Kind) -> bytes:
    definition = chart.definition.to_dict()
    config = chart_config("light", STATIC_SANS) | {"background": GROUND}
    config["legend"]["columns"] = LEGEND_COLUMNS
    match kind:
        case "svg":
            return vl_convert.vegalite_to_svg(definition, config=config).encode()
        case "pdf":
            return vl_convert.vegalite_to_pdf(definition, config=config)
        case "png":
            return vl_convert.vegalite_to_png(definition, config=config, scale=PNG_SCALE)


def _drawing(drawing: Drawing, kind: Kind) -> bytes:
    svg = drawing.plot.svg
    match kind:
        case "svg":
            return svg
        case "pdf":
            return vl_convert.svg_to_pdf(svg.decode())
        case "png":
            return vl_convert.svg_to_png(svg.decode(), scale=PNG_SCALE)
