"""Commands that show what there is and what has been measured."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from nodebench.cli.options import DEFAULT_STORE, JsonOption, StoreOption, open_store
from nodebench.cli.printing import (
    escape_markup,
    hardware,
    new_console,
    print_environment,
    print_records,
    print_table,
)
from nodebench.errors import UnknownNameError


def list_(
    what: Annotated[
        str | None, typer.Argument(help="backends, tasks, models, solvers or runs; all but runs by default.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show what there is to choose from, and the runs in the store."""
    from nodebench import catalogue  # noqa: PLC0415

    listings: dict[str, Callable[[], list[dict[str, str]]]] = {
        "backends": catalogue.backends,
        "tasks": catalogue.tasks,
        "models": catalogue.models,
        "solvers": catalogue.solvers,
        "runs": lambda: _runs(store),
    }
    if what is not None and what not in listings:
        raise UnknownNameError("list", what, listings)
    chosen = [what] if what else [name for name in listings if name != "runs"]
    rows = {name: listings[name]() for name in chosen}
    if as_json:
        print(json.dumps(rows[what] if what else rows, indent=2))
        return
    for name in chosen:
        print_table(_listing(name, rows[name]))


def show(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs: an id, the beginning of one, or `latest`.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show the records of runs and the machines they were taken on; of several, also their ratios side by side."""
    opened = open_store(store)
    found = [opened.run(run_id) for run_id in run_ids or ["latest"]]
    records = [opened.records([run.run_id]) for run in found]
    if as_json:
        print_records([record for each in records for record in each], as_json=True)
        return
    for run, each in zip(found, records, strict=True):
        state = run.finished_at or "not finished: continue with --resume"
        new_console().print(f"run {run.run_id}: {escape_markup(run.command)}\nbegan {run.created_at}, ended {state}")
        print_environment(run.environment)
        _print_nodes(run, each, opened.environments())
        print_records(each, as_json=False)
    if len(found) > 1:
        _print_repetition(found, records, opened.environments())


def _print_nodes(run: Any, records: list[Any], environments: Mapping[str, Any]) -> None:
    """Say what each node is that the cells of a run were measured on, unless it is the one that began the run."""
    from nodebench.reports.machines import parts  # noqa: PLC0415
    from nodebench.results.environment import environment_of  # noqa: PLC0415

    nodes: dict[Any, list[Any]] = {}
    for record in parts(records):
        nodes.setdefault((record.node, record.environment), []).append(record)
    if len(nodes) < 2 and "cpu" in run.environment:
        return
    if nodes:
        apart = "s, whose times are not compared with each other" if len(nodes) > 1 else ""
        new_console().print(f"measured on {len(nodes)} node{apart}:")
    for (node, _), measured in nodes.items():
        cells = f"{len(measured)} cell{'s' if len(measured) > 1 else ''}"
        text = f"{node}, {cells}: {hardware(environment_of(measured[0], environments))}"
        new_console().print(f"- {escape_markup(text)}")


def logs(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="Id of a cell, or the beginning of one.")],
    run: Annotated[
        str | None,
        typer.Option(help="Run: an id, the beginning of one, or `latest` (default: the newest with the cell)."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show why a cell failed: where, and what its process had printed."""
    records = open_store(store).cell_records(cell, run)
    if as_json:
        print_records(records, as_json=True)
        return
    for record in records:
        _print_log(record)


def _print_log(record: Any) -> None:
    from nodebench.results.baseline import CellFigures  # noqa: PLC0415

    print(f"{CellFigures.from_record(record).label}\ncell {record.cell_id}, run {record.run_id}", end="")
    where = f" on {record.node}" if record.node else ""
    print(f", attempt {record.attempt}, {record.created_at}{where}: {record.status}")
    if record.reason is not None:
        print(record.reason)
    ended = "it ended well, and " if record.status == "ok" else ""
    print(f"\n{record.stderr}" if record.stderr else f"{ended}nothing was kept of what it printed")


def _print_repetition(runs: list[Any], records: list[list[Any]], environments: Mapping[str, Any]) -> None:
    from nodebench.reports.tables import repetition_table  # noqa: PLC0415
    from nodebench.results.environment import differences, environment_of  # noqa: PLC0415

    first = {record.cell_id: environment_of(record, environments) for record in records[0]}
    for run, each in zip(runs[1:], records[1:], strict=True):
        shared = (record for record in each if record.cell_id in first)
        pairs = ((first[record.cell_id], environment_of(record, environments)) for record in shared)
        for difference in dict.fromkeys(line for one, other in pairs for line in differences(one, other)):
            new_console().print(f"[red]not alike:[/red] {runs[0].run_id} and {run.run_id}: {escape_markup(difference)}")
    table = repetition_table(records)
    if table is None:
        new_console().print("no cell has a ratio in all of these runs")
    else:
        print_table(table)


def _listing(title: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, no_wrap=name == "name", overflow="fold")
    for row in rows:
        table.add_row(*(escape_markup(row.get(name, "")) for name in names))
    return table


def _runs(store: Path) -> list[dict[str, str]]:
    return [
        {
            "name": found.run_id,
            "began": found.created_at,
            "state": "finished" if found.finished_at else "interrupted or running",
            "records": f"{found.n_records} of {found.n_cells}",
            "command": found.command,
        }
        for found in open_store(store).runs()
    ]
