"""Commands that write what has been measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from nodebench.cli.options import DEFAULT_STORE, StoreOption, check_store, command_line, open_store
from nodebench.cli.printing import escape_markup, new_console
from nodebench.errors import UnknownNameError, UserError
from nodebench.importing import require

PAGES = (".html", ".md", ".tex")
DATA = (".csv", ".json", ".parquet")
CHARTS = ("svg", "pdf", "png")

Kind = Literal["svg", "pdf", "png"]


def report(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs: an id, the beginning of one, or `latest` (default: all)."),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help="File to write: .html, .md, .tex, .csv, .json or .parquet; repeat for more."
        ),
    ] = None,
    charts: Annotated[
        str | None,
        typer.Option(help="Also write each chart and picture to an svg, pdf or png file, which .md and .tex include."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a report of what has been measured: the answer first, then every figure it rests on."""
    outputs = list(dict.fromkeys(output or [Path("report.html")]))
    check_outputs(outputs, charts)
    opened = open_store(store)
    runs = list({run.run_id: run for run in map(opened.run, run_ids)}.values()) if run_ids else opened.runs()
    records = opened.records([run.run_id for run in runs])
    data = [path for path in outputs if path.suffix in DATA]
    for path in data:
        _write_data(records, path)
    pages = [path for path in outputs if path.suffix in PAGES]
    if pages:
        from nodebench.reports.report import report as page_of  # noqa: PLC0415
        from nodebench.results.store import now  # noqa: PLC0415

        machines, pictures = opened.environments(), lambda r: opened.pictures(r.run_id, r.cell_id)
        page = page_of(records, runs, machines, pictures, command_line(), now())
        write_pages(page, pages, cast(Kind | None, charts))  # checked above


def merge(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Results stores to join.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Store that takes their runs; it may be one of them, or not exist.")
    ],
) -> None:
    """Join the results stores of several machines or shards into one: equal rows once, conflicting ones refused."""
    from nodebench.results import merging  # noqa: PLC0415

    for store in stores:
        check_store(store)
    merged = merging.merge(stores, output)
    counted = f"runs: {merged.n_runs}, records: {merged.n_records}, added: {merged.n_added}"
    new_console().print(f"wrote {escape_markup(str(output))}; {counted}", soft_wrap=True)


def write_pages(page: Any, paths: Sequence[Path], charts: Kind | None) -> None:
    """Write a page in the format of each file's name, and say so.

    Args:
        page: The page, a `nodebench.reports.document.Document`.
        paths: The files.
        charts: Format of charts beside each file, in a folder named after it; None for none.

    Raises:
        UserError: If a file cannot be written.
    """
    folders: dict[Path, dict[str, Path]] = {}
    for path in paths:
        try:
            folder = path.parent / f"{path.stem}-charts"
            if charts is not None and folder not in folders:
                folders[folder] = _write_charts(page, folder, charts)
            files = {name: file.relative_to(path.parent).as_posix() for name, file in folders.get(folder, {}).items()}
            path.write_text(_text(page, path.suffix, files), encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from error
        _say(path)


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


def _write_data(records: Sequence[Any], path: Path) -> None:
    from nodebench.reports import data  # noqa: PLC0415

    try:
        data.write(records, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    _say(path)


def _write_charts(page: Any, folder: Path, kind: Kind) -> dict[str, Path]:
    from nodebench.reports import static  # noqa: PLC0415

    files = static.write(page, folder, kind)
    size = sum(file.stat().st_size for file in files.values())
    new_console().print(f"wrote {escape_markup(str(folder))}, {len(files)} files, {_size(size)}")
    return files


def _text(page: Any, suffix: str, files: Mapping[str, str]) -> str:
    if suffix == ".html":
        from nodebench.reports import html  # noqa: PLC0415

        text: str = html.page(page)
        return text
    from nodebench.reports import latex, markdown  # noqa: PLC0415

    writer = latex.text if suffix == ".tex" else markdown.text
    return writer(page, files)


def _say(path: Path) -> None:
    new_console().print(f"wrote {escape_markup(str(path))}, {_size(path.stat().st_size)}")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.2g} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.3g} kB"


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"`{path}` cannot be written: {error.strerror or error}.")
