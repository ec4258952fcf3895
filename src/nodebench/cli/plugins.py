"""The commands of those who write a backend or a task."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from nodebench import registry
from nodebench.cli.printing import escape_markup, new_console, print_table
from nodebench.errors import UnknownNameError

KINDS = ("backend", "task")

KindArgument = Annotated[str, typer.Argument(metavar="KIND", help="backend or task.")]


def check(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="Its name with options, module:Class or file.py:Class.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print outcomes as one JSON array on stdout.")] = False,
) -> None:
    """Check that a backend or task does what it must, and say in a sentence what does not hold.

    Exits with 0 where nothing failed and something was checked, else with 1.
    """
    from nodebench.conformance.process import outcomes  # noqa: PLC0415

    registry.describe(_kind(kind), name)
    found = []
    for outcome in outcomes(_kind(kind), name):
        found.append(outcome)
        new_console(err=True).print(f"{outcome.check}: {outcome.state}")
    if as_json:
        print(json.dumps([asdict(outcome) for outcome in found], indent=2))
    else:
        print_table(_table(f"{kind} {name}", found))
    states = {outcome.state for outcome in found}
    raise typer.Exit(0 if "ok" in states and "failed" not in states else 1)


def new(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="Its name, a Python identifier such as my_method.")],
    framework: Annotated[str, typer.Option(help="torch or jax.")] = "torch",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path(),
) -> None:
    """Write a working backend or task, with a test, as a starting point for your own."""
    from nodebench.starting.point import class_name, write  # noqa: PLC0415

    files = write(_kind(kind), name, framework, output)
    console = new_console()
    for path in files:
        console.print(f"wrote {escape_markup(str(path))}")
    plugin = f"./{files[0]}" if not files[0].is_absolute() else str(files[0])
    target = escape_markup(f"{plugin}:{class_name(name)}")
    others = f"-b {target} -t linear" if kind == "backend" else f"-b all -t {target}"
    console.print(f"next: nodebench check {kind} {target}")
    console.print(f"      nodebench run {others} --measure gradient --preset smoke")


def _kind(text: str) -> registry.Kind:
    if text not in KINDS:
        raise UnknownNameError("kind of plugin", text, KINDS)
    return cast(registry.Kind, text)


def _table(title: str, outcomes: list[Any]) -> Table:
    table = Table(title=escape_markup(title), title_justify="left")
    for name in ("check", "state", "what must hold, and what does not"):
        table.add_column(name, overflow="fold")
    colours = {"ok": "green", "failed": "red", "skipped": "yellow"}
    for outcome in outcomes:
        colour = colours[outcome.state]
        text = outcome.meaning if outcome.state == "ok" else f"{outcome.meaning} [bold]But:[/bold] "
        if outcome.state == "skipped":
            text = f"{outcome.meaning} Not checked: "
        table.add_row(outcome.check, f"[{colour}]{outcome.state}[/{colour}]", text + escape_markup(outcome.reason))
    return table
