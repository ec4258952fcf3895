"""The command that measures what the paper did, and sets ours beside its figures."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from nodebench.cli.options import (
    DEFAULT_STORE,
    DeviceOption,
    Many,
    PresetOption,
    StoreOption,
    ThreadsOption,
    command_line,
    open_store,
    seeds,
)
from nodebench.cli.printing import escape_markup, new_console, print_broken, print_table
from nodebench.cli.reporting import PAGES, check_outputs, write_pages
from nodebench.errors import UserError


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="table1, table2, table3, figure3, figure4, figure5 or figure8; or `all`."
        ),
    ],
    preset: PresetOption = "quick",
    seed: Annotated[
        Many, typer.Option(help="Seeds of the training; several give mean and spread (default: 0).")
    ] = None,
    threads: ThreadsOption = 1,
    device: DeviceOption = "cpu",
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="Page to write: .html, .md or .tex; repeat for more. Of several reproductions, each has its name "
            r"added, as in page-table1.html. \[default: reproduction-NAME.html]",
            show_default=False,
        ),
    ] = None,
    charts: Annotated[
        str | None,
        typer.Option(help="Also write each chart and plot to an svg, pdf or png file, which .md and .tex include."),
    ] = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Measure nothing; use what the store has, from any machine.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be measured and what is in the store, and stop.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Measure what the paper did, and set ours beside its figures.

    What is in the store is not measured again, but for what failed, which every call tries anew; after an interruption
    the same command goes on, so that it must not be given again while it still runs. Times of unlike machines, which
    `--no-run` may find, are left out with that reason.
    """
    from nodebench.bench.machine import fingerprint  # noqa: PLC0415
    from nodebench.bench.reproduction import Conditions, named  # noqa: PLC0415
    from nodebench.reports.writers import terminal  # noqa: PLC0415
    from nodebench.tasks.base import Preset  # noqa: PLC0415

    if no_run and dry_run:
        raise UserError("`--dry-run` shows what would be measured, and with `--no-run` nothing is; leave one out.")
    conditions = Conditions(
        preset=cast(Preset, preset),  # checked by each plan, which knows the near names
        seeds=seeds(seed),
        threads=threads,
        device=device,
    )
    chosen = named(names)
    outputs = _outputs([found.name for found in chosen], output)
    paths = [path for found in outputs.values() for path in found]
    check_outputs(paths, charts, PAGES)
    _check_folders({path.parent for path in paths})
    plans = {found.name: {part.name: part.plan(conditions) for part in found.parts} for found in chosen}
    # Once: whoever changes the software during a long run must not lose what it has measured by then.
    pages = _Pages(store, conditions, None if no_run else fingerprint())
    broken = {name: reason for planned in _once(plans) for name, reason in planned.broken.items()}
    print_broken(broken)
    if dry_run:
        _print_plans(plans, pages)
        raise typer.Exit(1 if broken else 0)
    if no_run:
        open_store(store)
    else:
        for planned in _once(plans):
            _measure(planned, pages)
    for name, parts in plans.items():
        page = pages.page(name, parts)
        terminal.print_page(page)
        write_pages(page, outputs[name], cast(Any, charts))  # checked above
    print_broken(broken)
    whole = no_run or all(pages.measured(planned) for planned in _once(plans))
    raise typer.Exit(0 if whole and not broken else 1)


def _outputs(names: Sequence[str], output: Sequence[Path] | None) -> dict[str, list[Path]]:
    """The files of each reproduction."""
    if not output:
        return {name: [Path(f"reproduction-{name}.html")] for name in names}
    return {
        name: [path.with_stem(path.stem + (f"-{name}" if len(names) > 1 else "")) for path in output] for name in names
    }


def _check_folders(folders: Iterable[Path]) -> None:
    """See that files can be written before hours are spent on what is to stand in them.

    Raises:
        UserError: If not.
    """
    for folder in folders:
        try:
            # Permissions do not tell: a file system may be read-only.
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"nothing can be written in the folder `{folder}`: {error.strerror or error}.") from error


def _once(plans: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """The plans of all parts, each once."""
    return list({planned.plan_id: planned for parts in plans.values() for planned in parts.values()}.values())


@dataclass(frozen=True)
class _Pages:
    """Pages of what a store holds.

    Attributes:
        path: The store.
        conditions: Under which conditions it was measured.
        environment: Fingerprint of the machine to whose figures the pages keep; None for any.
    """

    path: Path
    conditions: Any
    environment: Any

    def answers(self, planned: Any) -> dict[str, Any]:
        """What is known of the cells of a plan, by id."""
        from nodebench.bench.reproduction import answers  # noqa: PLC0415
        from nodebench.results.store import Store  # noqa: PLC0415

        if not self.path.is_file():
            return {}
        return answers(Store(self.path, read_only=True), planned, self.environment)

    def measured(self, planned: Any) -> bool:
        """Whether all cells of a plan ended well."""
        found = self.answers(planned)
        return all(cell.cell_id in found and found[cell.cell_id].status == "ok" for cell in planned.cells)

    def page(self, name: str, parts: Mapping[str, Any]) -> Any:
        """The page of a reproduction."""
        from nodebench.reports.paper.pages import page_of  # noqa: PLC0415
        from nodebench.reports.paper.source import Place, Source  # noqa: PLC0415
        from nodebench.results.store import Store, now  # noqa: PLC0415

        store = Store(self.path, read_only=True)
        places: dict[str, list[Place]] = {}
        for part, planned in parts.items():
            found = self.answers(planned)
            places[part] = [
                Place(
                    task=cell.task,
                    model=cell.model,
                    backend=cell.backend,
                    solver=cell.spec.solver,
                    rtol=cell.spec.rtol,
                    seed=cell.seed,
                    record=found.get(cell.cell_id),
                )
                for cell in planned.cells
            ]
        source = Source(
            name=name,
            places=places,
            environments=store.environments(),
            plots=lambda record: store.plots(record.run_id, record.cell_id),
            preset=self.conditions.preset,
            seeds=self.conditions.seeds,
            measuring=self._command(name),
            command=command_line(),
            created_at=now(),
        )
        return page_of(source)

    def _command(self, name: str) -> str:
        """The command that measures what is missing; options left at their defaults are left out."""
        from nodebench.bench.reproduction import Conditions  # noqa: PLC0415

        usual, chosen = Conditions(), self.conditions
        options = {
            "--preset": (chosen.preset, usual.preset),
            "--seed": (",".join(map(str, chosen.seeds)), ",".join(map(str, usual.seeds))),
            "--threads": (str(chosen.threads), str(usual.threads)),
            "--device": (chosen.device, usual.device),
            "--store": (str(self.path), str(DEFAULT_STORE)),
        }
        given = [word for option, (value, default) in options.items() if value != default for word in (option, value)]
        return shlex.join(["nodebench", "reproduce", name, *given])


def _measure(planned: Any, pages: _Pages) -> None:
    """Measure what the store does not hold of a plan."""
    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.reproduction import continuation, known  # noqa: PLC0415
    from nodebench.bench.runner import Runner  # noqa: PLC0415
    from nodebench.bench.settings import Settings  # noqa: PLC0415
    from nodebench.progress import display  # noqa: PLC0415
    from nodebench.results.store import Store  # noqa: PLC0415

    store, environment = Store(pages.path), pages.environment
    found = known(pages.answers(planned), planned.measure)
    how = continuation(store, planned, environment)
    if len(found) == len(planned.cells) and how == "new":
        return
    settings = Settings(cores=tuple(idle_cores(pages.conditions.threads)))
    console = new_console()
    try:
        with display(console, len(planned.cells)) as notify:
            Runner(store, settings, notify).run(planned, command_line(), environment, how, found)
    except KeyboardInterrupt:
        console.print("interrupted; continue with the same command")
        raise typer.Exit(130) from None


def _print_plans(plans: Mapping[str, Mapping[str, Any]], pages: _Pages) -> None:
    from nodebench.bench.reproduction import settles  # noqa: PLC0415

    for planned in _once(plans):
        found = pages.answers(planned)
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
        print_table(table)
