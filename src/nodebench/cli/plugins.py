"""The commands of those who write a backend or a task."""

import json
from dataclasses import asdict
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from nodebench import registry
from nodebench.cli.printing import escape_markup, new_console
from nodebench.errors import UnknownNameError

KINDS = ("backend", "task")

KindArgument = Annotated[str, typer.Argument(metavar="KIND", help="backend or task.")]


def check(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="Its name with options, module:Class or file.py:Class.")],
    as_json: Annotated[bool, typer.Option("--json", help="Outcomes as one JSON array on stdout.")] = False,
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
        new_console().print(_table(f"{kind} {name}", found))
    states = {outcome.state for outcome in found}
    raise typer.Exit(0 if "ok" in states and "failed" not in states else 1)


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
