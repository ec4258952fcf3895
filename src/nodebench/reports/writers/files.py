"""Pages, their charts and drawings, and records as files, each in the format that its name says."""

import csv
import json
import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebench.errors import UnknownNameError, UserError
from nodebench.importing import require
from nodebench.reports.document import Chart, Document, Drawing, contents, key
from nodebench.reports.writers.theme import STATIC_SANS, chart_config
from nodebench.results.record import Record, columns

PAGES = (".html", ".md", ".tex")
DATA = (".csv", ".json", ".parquet")
CHARTS = ("svg", "pdf", "png")

LEGEND_COLUMNS = 4
"""Entries of a legend in a row."""

GROUND = "white"
"""Files are shown on pages of any colour."""

PNG_SCALE = 2.0
"""Pixels of a PNG for one of its chart's."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: A file, or a folder of files.
        n_bytes: Size of all of it.
        n_files: How many files a folder has; None for a file.
    """

    path: Path
    n_bytes: int
    n_files: int | None = None


def check_outputs(outputs: Sequence[Path], charts: str | None, formats: Sequence[str] = (*PAGES, *DATA)) -> None:
    """See that each file can be written in the format of its name, and its charts in theirs.

    Raises:
        UserError: If not.
        NotInstalledError: If they need an extra that is not installed.
    """
    for path in outputs:
        if path.suffix not in formats:
            known = ", ".join(formats)
            raise UserError(f"`{path}` has no format that a report is written in; name a file that ends in {known}.")
        if path.is_dir():
            raise UserError(f"`{path}` is a folder; name a file.")
        if not path.parent.is_dir():
            raise UserError(f"`{path}` cannot be written: there is no folder `{path.parent}`.")
    if charts is not None and charts not in CHARTS:
        raise UnknownNameError("format of charts", charts, CHARTS)
    if charts == "svg" and any(path.suffix == ".tex" for path in outputs):
        raise UserError("LaTeX cannot include SVG; use `--charts pdf`.")
    if charts is not None or any(path.suffix in (*PAGES, ".parquet") for path in outputs):
        require("report")


def write_data(records: Sequence[Record], path: Path) -> Written:
    """Write records for other programs, with the field names of the store, in the format that the file's name says.

    In CSV and Parquet lists and mappings are JSON text, as they are in the store. What was not measured is empty in CSV
    and null in the others, as is what is not finite.

    Args:
        records: The records, a row each.
        path: The file: `.csv`, `.json` or `.parquet`.

    Raises:
        UserError: If the name says another format, or none, or the file cannot be written.
    """
    if path.suffix not in DATA:
        raise UserError(f"`{path}`: records are written as {', '.join(DATA)}, not as `{path.suffix or path.name}`.")
    try:
        if path.suffix == ".json":
            path.write_text(json.dumps([record.to_dict() for record in records], indent=1) + "\n", encoding="utf-8")
        else:
            (_write_csv if path.suffix == ".csv" else _write_parquet)([record.to_row() for record in records], path)
    except OSError as error:
        raise _unwritable(path, error) from error
    return Written(path, path.stat().st_size)


def write_page(page: Document, paths: Sequence[Path], charts: str | None) -> list[Written]:
    """Write a page in the format of each file's name.

    Args:
        page: The page.
        paths: The files.
        charts: Format of charts beside each file, in a folder named after it; None for none.

    Returns:
        The files, each after the folder of its charts where that has not been written for another.

    Raises:
        UserError: If a file cannot be written.
    """
    written = []
    folders: dict[Path, dict[str, Path]] = {}
    for path in paths:
        try:
            folder = path.parent / f"{path.stem}-charts"
            if charts is not None and folder not in folders:
                folders[folder] = write_charts(page, folder, charts)
                size = sum(file.stat().st_size for file in folders[folder].values())
                written.append(Written(folder, size, len(folders[folder])))
            files = {name: file.relative_to(path.parent).as_posix() for name, file in folders.get(folder, {}).items()}
            path.write_text(_text(page, path.suffix, files), encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from error
        written.append(Written(path, path.stat().st_size))
    return written


def open_page(page: Path) -> bool:
    """Open a page in the browser.

    Args:
        page: The file.

    Returns:
        Whether a browser took it: there may be none, or no display that it could show it on.
    """
    has_display = sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    return bool(has_display) and webbrowser.open(page.resolve().as_uri())


def write_charts(page: Document, folder: Path, kind: str) -> dict[str, Path]:
    """Write every chart and drawing of a page as a file of its name; the folder is made where it is missing.

    Args:
        page: The page.
        folder: Where the files go.
        kind: Their format, out of `CHARTS`.

    Returns:
        The file of each chart and drawing by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for block in contents(page):
        if isinstance(block, Chart | Drawing):
            path = folder / f"{key(block.name)}.{kind}"
            path.write_bytes(_chart(block, kind) if isinstance(block, Chart) else _drawing(block, kind))
            files[block.name] = path
    return files


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns()))
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types: Mapping[str, Any] = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
    schema = pa.schema([(name, types[sql]) for name, sql in columns().items()])
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def _text(page: Document, suffix: str, files: Mapping[str, str]) -> str:
    if suffix == ".html":
        from nodebench.reports.writers import html

        return html.page(page)
    from nodebench.reports.writers import latex, markdown

    return (latex.text if suffix == ".tex" else markdown.text)(page, files)


def _chart(chart: Chart, kind: str) -> bytes:
    import vl_convert

    definition = chart.definition.to_dict()
    config = chart_config("light", STATIC_SANS) | {"background": GROUND}
    config["legend"]["columns"] = LEGEND_COLUMNS
    if kind == "svg":
        return vl_convert.vegalite_to_svg(definition, config=config).encode()
    if kind == "pdf":
        return vl_convert.vegalite_to_pdf(definition, config=config)
    return vl_convert.vegalite_to_png(definition, config=config, scale=PNG_SCALE)


def _drawing(drawing: Drawing, kind: str) -> bytes:
    import vl_convert

    svg = drawing.plot.svg
    if kind == "svg":
        return svg
    return (
        vl_convert.svg_to_pdf(svg.decode()) if kind == "pdf" else vl_convert.svg_to_png(svg.decode(), scale=PNG_SCALE)
    )


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"`{path}` cannot be written: {error.strerror or error}.")
