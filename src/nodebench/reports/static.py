"""Charts and drawings as files: SVG, PDF or PNG from the definitions that the interactive page has."""

from pathlib import Path
from typing import Any, Literal

import vl_convert

from nodebench.reports import drawings
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
            if isinstance(block, Chart):
                path.write_bytes(_converted(block.definition.to_dict(), kind))
            else:
                _draw(block, path, kind)
            files[block.name] = path
    return files


def _converted(definition: dict[str, Any], kind: Kind) -> bytes:
    config = chart_config("light", STATIC_SANS) | {"background": GROUND}
    config["legend"]["columns"] = LEGEND_COLUMNS
    match kind:
        case "svg":
            return vl_convert.vegalite_to_svg(definition, config=config).encode()
        case "pdf":
            return vl_convert.vegalite_to_pdf(definition, config=config)
        case "png":
            return vl_convert.vegalite_to_png(definition, config=config, scale=PNG_SCALE)


def _draw(drawing: Drawing, path: Path, kind: Kind) -> None:
    figure = drawings.figure(drawing.picture)
    # Without a date the same page gives the same file.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}[kind]
    figure.savefig(path, format=kind, dpi=drawings.RESOLUTION, facecolor=GROUND, metadata=metadata)
