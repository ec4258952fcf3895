"""The command that measures what the paper did, and sets ours beside its figures."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from nodebench.cli.options import DEFAULT_STORE, Many, StoreOption, number, open_store, split
from nodebench.cli.printing import escape_markup, new_console
from nodebench.errors import UserError


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="table1, table2, table3, figure3, figure4, figure5 or figure8; or `all`."
        ),
    ],
    preset: Annotated[str, typer.Option(help="Budget: smoke, quick, standard or paper.")] = "quick",
    seed: Annotated[
        Many, typer.Option(help="Seeds of the training; several give mean and spread (default: 0).")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of a worker.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Measure nothing: take what the store holds, of whatever machine.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be measured and what is in the store, and stop.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Measure what the paper did. What is in the store is not measured again; an interruption goes on from there."""
    from nodebench.bench.reproduction import Conditions, named  # noqa: PLC0415
    from nodebench.tasks.base import Preset  # noqa: PLC0415

    if no_run and dry_run:
        raise UserError("`--dry-run` shows what would be measured, and with `--no-run` nothing is; leave one out.")
    seeds = tuple(dict.fromkeys(int(number("--seed", text, whole=True)) for text in split(seed))) or (0,)
    conditions = Conditions(
        preset=cast(Preset, preset),  # checked by each plan, which knows the near names
        seeds=seeds,
        threads=threads,
        device=device,
    )
    chosen = named(names)
    plans = {part.plan(conditions).plan_id: part.plan(conditions) for found in chosen for part in found.parts}
    if dry_run:
        _print_plans(list(plans.values()), store)
        return
    if no_run:
        open_store(store)
    else:
        for planned in plans.values():
            _measure(planned, conditions, store)
    raise typer.Exit(_exit_code(list(plans.values()), store, no_run=no_run))


def _measure(planned: Any, conditions: Any, path: Path) -> None:
    """Measure what the store does not hold of a plan."""
    from nodebench.bench.machine import fingerprint, idle_cores  # noqa: PLC0415
    from nodebench.bench.reproduction import answers, continuation, known, measured_alike  # noqa: PLC0415
    from nodebench.bench.runner import Runner  # noqa: PLC0415
    from nodebench.bench.settings import Settings  # noqa: PLC0415
    from nodebench.progress import display  # noqa: PLC0415
    from nodebench.results.store import Store  # noqa: PLC0415

    store, environment = Store(path), fingerprint()
    found = known(answers(store, planned, measured_alike(store.runs(), environment)), planned.measure)
    how = continuation(store, planned, environment)
    if len(found) == len(planned.cells) and how == "new":
        return
    settings = Settings(cores=tuple(idle_cores(conditions.threads)))
    command = shlex.join(["nodebench", *sys.argv[1:]])
    with display(new_console(), len(planned.cells)) as notify:
        try:
            Runner(store, settings, notify).run(planned, command, environment, how, found)
        except KeyboardInterrupt:
            notify.interrupted("the same command")
            raise typer.Exit(130) from None


def _exit_code(plans: list[Any], path: Path, *, no_run: bool) -> int:
    """1 where a cell has failed; what nobody has measured is no failure."""
    return 1 if any(record.status != "ok" for p in plans for record in _found(p, path, here=not no_run).values()) else 0


def _found(planned: Any, path: Path, *, here: bool) -> dict[str, Any]:
    """What the store holds of a plan: of runs on this machine as it is now, or of all."""
    from nodebench.bench.machine import fingerprint  # noqa: PLC0415
    from nodebench.bench.reproduction import answers, measured_alike  # noqa: PLC0415
    from nodebench.results.store import Store  # noqa: PLC0415

    if not path.is_file():
        return {}
    opened = Store(path)
    runs = opened.runs()
    return answers(opened, planned, measured_alike(runs, fingerprint()) if here else runs)


def _print_plans(plans: list[Any], path: Path) -> None:
    from nodebench.bench.reproduction import settles  # noqa: PLC0415

    for planned in plans:
        found = _found(planned, path, here=True)
        settled = {cell_id: record for cell_id, record in found.items() if settles(record, planned.measure)}
        n_missing = len(planned.cells) - len(settled)
        table = Table(title=f"{planned.measure}: {n_missing} of {len(planned.cells)} cells to be measured")
        for name in ("cell", "task", "model", "backend", "solver", "rtol", "seed", "state"):
            table.add_column(name, overflow="fold")
        for cell in planned.cells:
            names = (cell.task, cell.model, cell.backend or "-", cell.spec.solver)
            known = cell.cell_id in settled
            state = f"in run {settled[cell.cell_id].run_id}" if known else "to be measured"
            numbers = (f"{cell.spec.rtol:g}", str(cell.seed))
            table.add_row(cell.cell_id, *map(escape_markup, names), *numbers, state)
        new_console().print(table)
