"""What commands share in printing."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Table

from nodebench.cli.options import open_store

NARROWEST = 8
"""Characters in a line of a column that folds, at the least."""

UNBOUNDED = 10_000
"""A width that no table has."""


def new_console(*, err: bool = False) -> Console:
    """A console on stdout, or on stderr, that does not fold what is piped."""
    # A pipe has no width; a table must not be folded to 80 columns for want of one.
    console = Console(stderr=err, highlight=False, emoji=False)
    return console if console.is_terminal else Console(stderr=err, highlight=False, emoji=False, width=200)


def escape_markup(text: str) -> str:
    """Text with its brackets as text."""
    from rich.markup import escape  # noqa: PLC0415

    return escape(text)


def print_table(table: Table) -> None:
    """Print a table on stdout; where a terminal is too narrow for it, a line for each of its entries."""
    console = new_console()
    for column in table.columns:
        column.overflow = "fold"  # what is too long goes on in the next line
    width = _least_width(console, table)
    if not console.is_terminal:
        console.print(table, width=max(width, console.width), crop=False)
    elif width <= console.width:
        console.print(table)
    else:
        _print_rows(console, table)


def _least_width(console: Console, table: Table) -> int:
    """The width below which columns lose what they must not fold, or fold into a few characters each."""
    options = console.options.update(max_width=UNBOUNDED)
    width = 0
    for column in table.columns:
        size = measure_renderables(console, options, [column.header, *column.cells])
        width += size.maximum if column.no_wrap else min(size.minimum, NARROWEST)
    gaps = sum(table.padding[index] for index in (1, 3)) + (1 if table.show_edge else 0)
    return width + gaps * len(table.columns)


def _print_rows(console: Console, table: Table) -> None:
    if table.title:
        console.print(table.title, style="italic")
    names = [" ".join(str(column.header).split()) for column in table.columns]
    cells = [list(column.cells) for column in table.columns]
    for index, row in enumerate(table.rows):
        for name, entries in zip(names, cells, strict=True):
            if entries[index]:
                console.print(f"{name}: {entries[index]}" if name else entries[index], style=row.style)
        console.print()


def print_records(records: list[Any], *, as_json: bool) -> None:
    """Print records as tables, or as one JSON array."""
    from nodebench.reports.tables import for_terminal  # noqa: PLC0415
    from nodebench.reports.writers import terminal  # noqa: PLC0415

    if as_json:
        print(json.dumps([record.to_dict() for record in records], indent=2, allow_nan=False))
        return
    console = new_console()
    for table in for_terminal(records):
        terminal.print_table(table)
    if any(record.status != "ok" for record in records):
        console.print("why a cell failed: nodebench logs CELL")
    for note in sorted({note for record in records for note in record.notes}):
        console.print(f"note: {escape_markup(note)}")
    for backend, differences in {record.backend: record.differences for record in records}.items():
        for difference in differences:
            console.print(f"note ({escape_markup(str(backend))}): {escape_markup(difference)}")


def of_one_machine(records: list[Any], store: Path, name: str | None = None) -> list[Any]:
    """The records of a run with the times of one machine; what shows those of the others is printed.

    Args:
        records: The records.
        store: Where they are from.
        name: The machine; None for that with most times.

    Raises:
        UserError: If there is no such machine.
    """
    from nodebench.reports.machines import Machines  # noqa: PLC0415

    machines = Machines.of(records, open_store(store).environments(), name)
    shown = machines.chosen.name if machines.chosen else ""
    for by, other in machines.others.items():
        again = shlex.join(["nodebench", "show", records[0].run_id, "--store", str(store), "--machine", by])
        text = f"times are those of {shown}; those of {other.name}: {again}"
        new_console().print(escape_markup(text.replace("`", "")), soft_wrap=True)
    return machines.with_times_of_one(records)


def print_broken(broken: Mapping[str, str]) -> None:
    """Print on stderr which plugins are broken, and why: once before what is measured without them, and once after."""
    for name, reason in broken.items():
        new_console(err=True).print(f"[red]broken:[/red] {escape_markup(f'{name}: {reason}')}", soft_wrap=True)


def print_environment(environment: Mapping[str, Any]) -> None:
    """Print the fingerprint of a machine, or what there is of it: a run on many machines has that of software alone."""
    versions = {name: version or "not installed" for name, version in environment["libraries"].items()}
    lines = (
        hardware(environment) if "cpu" in environment else "",
        ", ".join(filter(None, (environment.get("system"), f"Python {environment['python']}"))),
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    )
    for line in filter(None, lines):
        new_console().print(escape_markup(line))


def hardware(environment: Mapping[str, Any]) -> str:
    """Processor, cores, memory and GPU of a machine, in words."""
    if "cpu" not in environment:
        return "lost before it could be looked at"
    memory = environment["memory_bytes"]
    size = "" if memory is None else f", {memory / 2**30:.3g} GiB"
    return f"{environment['cpu']}, {environment['cores']} cores{size}; GPU: {environment['gpu'] or 'none'}"
