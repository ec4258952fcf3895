"""Pages and records as files, each in the format that its name says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from nodebench.errors import UnknownNameError, UserError, user_error
from nodebench.importing import require
from nodebench.results.record import Record

if TYPE_CHECKING:
    from nodebench.reports.document import Document

PAGES = (".html", ".md", ".tex")
DATA = (".csv", ".json", ".parquet")
CHARTS = ("svg", "pdf", "png")


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
    """Write records as a file for other programs.

    Raises:
        UserError: If it cannot be written.
    """
    from nodebench.reports import data

    with user_error(f"`{path}` cannot be written"):
        data.write(records, path)
    return Written(path, path.stat().st_size)


def write_page(page: "Document", paths: Sequence[Path], charts: str | None) -> list[Written]:
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
        with user_error(f"`{path}` cannot be written"):
            folder = path.parent / f"{path.stem}-charts"
            if charts is not None and folder not in folders:
                folders[folder] = _write_charts(page, folder, charts)
                size = sum(file.stat().st_size for file in folders[folder].values())
                written.append(Written(folder, size, len(folders[folder])))
            files = {name: file.relative_to(path.parent).as_posix() for name, file in folders.get(folder, {}).items()}
            path.write_text(_text(page, path.suffix, files), encoding="utf-8")
        written.append(Written(path, path.stat().st_size))
    return written


def _write_charts(page: "Document", folder: Path, kind: str) -> dict[str, Path]:
    from nodebench.reports import static

    return static.write(page, folder, cast(Literal["svg", "pdf", "png"], kind))  # checked by `check_outputs`


def _text(page: "Document", suffix: str, files: Mapping[str, str]) -> str:
    if suffix == ".html":
        from nodebench.reports import html

        return html.page(page)
    from nodebench.reports import latex, markdown

    writer = latex.text if suffix == ".tex" else markdown.text
    return writer(page, files)
