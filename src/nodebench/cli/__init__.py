"""The command line: parse, call, print. This package prints, and it alone catches `NodebenchError`.

`options` has what commands share in parsing, `printing` what they share in printing; each other module has the commands
of one kind.
"""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer
from rich.console import Console

from nodebench import __version__
from nodebench.cli import diagnosis, gating, measuring, plugins, reading, reporting, reproducing
from nodebench.cli.printing import escape_markup
from nodebench.errors import NodebenchError, NotInstalledError, UserError

app = typer.Typer(
    help="Which gradient method for a neural ODE, and what it costs in error, memory, function evaluations and time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(measuring.run)
app.command()(measuring.scale)
app.command()(reproducing.reproduce)
app.command("list")(reading.list_)
app.command()(reading.show)
app.command()(reading.logs)
app.command()(reporting.report)
app.command()(reporting.merge)
app.command()(gating.compare)
app.add_typer(gating.baseline_app, name="baseline")
app.command()(diagnosis.doctor)
app.command()(plugins.check)
app.command()(plugins.new)


def main() -> None:
    """Entry point: 0 all cells ok, 1 a cell failed or a part is missing or broken, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what users' code says may have characters that the terminal lacks
    try:
        _check_platform()
        _check_arguments()
        app()
    except NodebenchError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        console.print(f"[red]error:[/red] {escape_markup(str(error))}")
        sys.exit(1 if isinstance(error, NotInstalledError) else 2)


def _check_platform() -> None:
    if sys.platform not in ("linux", "darwin"):
        raise UserError("nodebench runs on Linux and macOS; on Windows, use it in WSL.")


def _check_arguments() -> None:
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"an argument has characters that cannot be read in {sys.getfilesystemencoding()}, the encoding of this "
            "terminal; set LC_ALL=C.UTF-8."
        ) from error


def _version(*, wanted: bool) -> None:
    if wanted:
        print(f"nodebench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda value: _version(wanted=value), is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    del version
