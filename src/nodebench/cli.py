"""The command line: parse, call, print. This module prints, and it alone catches `NodebenchError`."""

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from nodebench import __version__, registry
from nodebench.errors import NodebenchError, UnknownNameError, UserError

app = typer.Typer(
    help="Which gradient method for a neural ODE, and what it costs in error, memory, function evaluations and time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEFAULT_STORE = Path(".nodebench/results.db")

Many = list[str] | None
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="NODEBENCH_STORE", help="Results store, an SQLite file.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Records as one JSON array on stdout, all else on stderr.")]


def main() -> None:
    """Entry point: 0 all cells ok, 1 a cell failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except NodebenchError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/red] {_escape(str(error))}")
        sys.exit(2)


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


@app.command()
def run(
    backend: Annotated[
        Many, typer.Option("--backend", "-b", help=r"Gradient method, name\[option=value]; or `all`.")
    ] = None,
    task: Annotated[Many, typer.Option("--task", "-t", help=r"Task, name\[option=value]; or `all`.")] = None,
    model: Annotated[Many, typer.Option("--model", help="Model of the task; or `all`.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set of the task.")] = None,
    measure: Annotated[str, typer.Option(help="gradient, training or both.")] = "both",
    preset: Annotated[str, typer.Option(help="Budget: smoke, quick, standard or paper.")] = "quick",
    solver: Annotated[Many, typer.Option(help="Solver; see `nodebench list solvers`.")] = None,
    controller: Annotated[str, typer.Option(help="How steps are chosen: integral or pi.")] = "integral",
    rtol: Annotated[Many, typer.Option(help="Relative tolerance.")] = None,
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance; equal to --rtol where only that is given.")
    ] = None,
    first_step: Annotated[
        float | None, typer.Option(help="First step; every step of a fixed-step solver (default: 20 in all).")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Step limit of one solve.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch_size: Annotated[int | None, typer.Option(help="Examples in a step; the recipe's by default.")] = None,
    seed: Annotated[Many, typer.Option(help="Seed of weights, data order and noise (default: 0).")] = None,
    threads: Annotated[int, typer.Option(help="Threads of a worker.")] = 1,
    rounds: Annotated[
        int | None, typer.Option(help="Timing rounds; by default until --precision or --budget-s.")
    ] = None,
    budget_s: Annotated[float | None, typer.Option(help="Timing budget of a cell, in seconds.")] = None,
    precision: Annotated[
        float, typer.Option(help="Relative half width of a ratio's interval at which timing ends.")
    ] = 0.05,
    timeout_s: Annotated[float | None, typer.Option(help="Longest pass of a cell, in seconds.")] = None,
    memory_limit_gib: Annotated[
        float | None, typer.Option(help="What a worker may allocate beyond its idle size, in GiB.")
    ] = None,
    max_grad_error: Annotated[
        float, typer.Option(help="Relative gradient error above which a cell is `wrong_gradient`.")
    ] = 1.0,
    control: Annotated[
        str | None, typer.Option(help="Backend to whose time the others are related; each group's first by default.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the newest interrupted run of the same plan.")] = False,
    rerun_failed: Annotated[
        bool, typer.Option("--rerun-failed", help="Measure again what did not end well in the newest run of this plan.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be measured and stop.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Measure backends on tasks: the gradient step, the training, or both."""
    # Imported here: `--help` and `list` must answer at once.
    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.matrix import Request, plan  # noqa: PLC0415
    from nodebench.bench.settings import Settings  # noqa: PLC0415
    from nodebench.tasks.base import Preset  # noqa: PLC0415

    request = Request(
        backends=_split(backend),
        tasks=_split(task),
        models=_split(model),
        solvers=_split(solver),
        controller=controller,
        rtols=tuple(_number("--rtol", text) for text in _split(rtol)),
        atol=atol,
        first_step=first_step,
        max_steps=max_steps,
        dtype=dtype,
        device=device,
        seeds=tuple(int(_number("--seed", text, whole=True)) for text in _split(seed)) or (0,),
        threads=threads,
        preset=cast(Preset, preset),  # checked by `plan`, which knows the near names
        batch_size=batch_size,
        dataset=dataset,
        measure=measure,
    )
    settings = Settings(
        rounds=rounds,
        budget_s=budget_s,
        timeout_s=timeout_s,
        precision=precision,
        max_grad_error=max_grad_error,
        memory_limit_gib=memory_limit_gib,
        cores=tuple(idle_cores(threads)),
        control=None if control is None else registry.canonical(control),
    )
    if resume and rerun_failed:
        raise UserError("`--rerun-failed` goes on with an interrupted run too; leave `--resume` out.")
    planned = plan(request)
    planned.check_control(settings.control)
    if dry_run:
        _print_plan(planned, as_json=as_json)
        return
    continuation = "rerun-failed" if rerun_failed else "resume" if resume else "new"
    began = time.monotonic()
    records = _measure(planned, settings, store, continuation=continuation, as_json=as_json)
    _print_records(records, as_json=as_json)
    if continuation == "new" and not as_json:
        _print_cost(records, time.monotonic() - began)
    raise typer.Exit(_exit_code(records))


@app.command()
def scale(
    backend: Annotated[
        Many, typer.Option("--backend", "-b", help=r"Gradient method, name\[option=value]; or `all`.")
    ] = None,
    task: Annotated[Many, typer.Option("--task", "-t", help=r"Task, name\[option=value]; or `all`.")] = None,
    over: Annotated[str, typer.Option(help="What is varied: steps, tolerance, batch or horizon.")] = "steps",
    values: Annotated[Many, typer.Option(help="Places along it, at least three, with commas between.")] = None,
    model: Annotated[Many, typer.Option(help="Model of the task.")] = None,
    preset: Annotated[str, typer.Option(help="Budget of the timing: smoke, quick, standard or paper.")] = "smoke",
    solver: Annotated[
        Many, typer.Option(help="Runge-Kutta method; over steps one without step control (default: rk4).")
    ] = None,
    controller: Annotated[str, typer.Option(help="How steps are chosen: integral or pi.")] = "integral",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[Many, typer.Option(help="Seed of weights, data order and noise (default: 0).")] = None,
    threads: Annotated[int, typer.Option(help="Threads of a worker.")] = 1,
    rounds: Annotated[
        int | None, typer.Option(help="Timing rounds; by default until --precision or --budget-s.")
    ] = None,
    budget_s: Annotated[float | None, typer.Option(help="Timing budget of a cell, in seconds.")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Longest pass of a cell, in seconds.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the newest interrupted run of the same plan.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Measure how memory, evaluations and time grow, and print the exponents beside those of theory."""
    from dataclasses import asdict  # noqa: PLC0415

    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.matrix import Request  # noqa: PLC0415
    from nodebench.bench.scaling import scaling_plan  # noqa: PLC0415
    from nodebench.bench.settings import Settings  # noqa: PLC0415
    from nodebench.reports.tables import scaling_table  # noqa: PLC0415
    from nodebench.results.scaling import Axis, scalings  # noqa: PLC0415
    from nodebench.tasks.base import Preset  # noqa: PLC0415

    request = Request(
        backends=_split(backend),
        tasks=_split(task),
        models=_split(model),
        solvers=_split(solver),
        controller=controller,
        dtype=dtype,
        device=device,
        seeds=tuple(int(_number("--seed", text, whole=True)) for text in _split(seed)) or (0,),
        threads=threads,
        preset=cast(Preset, preset),  # checked by `plan`, which knows the near names
    )
    planned = scaling_plan(request, over, [_number("--values", text) for text in _split(values)])
    settings = Settings(rounds=rounds, budget_s=budget_s, timeout_s=timeout_s, cores=tuple(idle_cores(threads)))
    continuation = "resume" if resume else "new"
    records = _measure(planned, settings, store, continuation=continuation, as_json=as_json)
    laws = scalings(records, cast(Axis, over))  # checked by `scaling_plan`
    if as_json:
        print(json.dumps([asdict(law) for law in laws], indent=2, allow_nan=False))
    else:
        _print_records(records, as_json=False)
        _console().print(scaling_table(laws))
    raise typer.Exit(_exit_code(records))


@app.command("list")
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
        _console().print(_listing(name, rows[name]))


@app.command()
def show(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs by id, the beginning of it, or `latest`.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show the records of runs and the machines they were taken on; of several, also their ratios side by side."""
    opened = _open(store)
    found = [opened.run(run_id) for run_id in run_ids or ["latest"]]
    records = [opened.records([run.run_id]) for run in found]
    if as_json:
        _print_records([record for each in records for record in each], as_json=True)
        return
    for run, each in zip(found, records, strict=True):
        state = run.finished_at or "not finished: go on with --resume"
        _console().print(f"run {run.run_id}: {_escape(run.command)}\nbegan {run.created_at}, ended {state}")
        _print_environment(run.environment)
        _print_records(each, as_json=False)
    if len(found) > 1:
        _print_repetition(found, records)


@app.command()
def doctor(
    *,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Measure the harness: false alarms, planted faults, smallest effect.")
    ] = False,
    comparisons: Annotated[
        int | None, typer.Option(help="Comparisons of a cell with itself in the selftest (default: 40).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show versions, devices and where the data would come from, and how to mend what is missing."""
    if comparisons is not None and not selftest:
        raise UserError("`--comparisons` belongs to `--selftest`.")
    from nodebench import catalogue  # noqa: PLC0415
    from nodebench.bench.machine import fingerprint, frameworks  # noqa: PLC0415

    environment = fingerprint()
    found = frameworks()
    sources = {row["name"]: row["data"] for row in catalogue.tasks() if "data" in row}
    if as_json:
        tested = _selftest(comparisons, as_json=True) if selftest else None
        report = {"environment": environment, "frameworks": found, "data": sources}
        print(json.dumps(report | ({"selftest": tested.to_dict()} if tested else {}), indent=2))
        raise typer.Exit(1 if tested and tested.problems else 0)
    _print_environment(environment)
    for name, state in found.items():
        _console().print(f"{name}: {_escape(state)}")
    for name, source in sources.items():
        _console().print(f"data of {name}: {_escape(source)}")
    if selftest:
        tested = _selftest(comparisons, as_json=False)
        _print_selftest(tested)
        raise typer.Exit(1 if tested.problems else 0)


def _selftest(comparisons: int | None, *, as_json: bool) -> Any:
    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.selftest import expected_s, run_selftest, workload  # noqa: PLC0415
    from nodebench.progress import display  # noqa: PLC0415

    n = 40 if comparisons is None else comparisons
    chosen = workload()
    console = _console(err=as_json)
    console.print(f"selftest: {n} comparisons of a cell with itself; about {expected_s(chosen, n) / 60:.0f} min")
    with display(console, 0) as notify:
        return run_selftest(chosen, n, notify, tuple(idle_cores(1)))


def _print_selftest(tested: Any) -> None:
    from nodebench.reports.tables import mebibytes  # noqa: PLC0415

    table = Table(title=f"selftest with {_escape(tested.workload)}", title_justify="left", show_header=False)
    rate = f"{tested.alarm_rate:.0%}, {tested.alarm_low:.1%} to {tested.alarm_high:.0%}; nominal 5 %"
    table.add_row("false alarms, A against A", f"{tested.n_alarms} of {tested.n_comparisons} ({rate})")
    for planted in tested.slowdowns:
        caught = f"caught {planted.n_caught} of {planted.n_comparisons}, ratio {planted.estimate:.3f}"
        table.add_row(f"slowdown of {planted.slowdown:.0%}", caught)
    leak = f"{mebibytes(tested.leak_bytes)} MiB a step, {mebibytes(tested.clean_bytes)} without"
    table.add_row("leak of 1 MiB a step", leak)
    table.add_row("gradient of the wrong sign", f"called {tested.wrong_gradient}")
    table.add_row("smallest visible slowdown", f"{tested.smallest_effect:.1%}")
    _console().print(table)
    for problem in tested.problems:
        _console().print(f"[red]not sound:[/red] {_escape(problem)}")


def _split(values: Many) -> tuple[str, ...]:
    return tuple(item for value in values or [] for item in registry.split_list(value))


def _number(option: str, text: str, *, whole: bool = False) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise UserError(f"`{option}` must be a {'whole ' if whole else ''}number; got {text!r}.") from None


def _measure(planned: Any, settings: Any, path: Path, *, continuation: Any, as_json: bool) -> list[Any]:
    from nodebench.bench.machine import fingerprint  # noqa: PLC0415
    from nodebench.bench.runner import Runner  # noqa: PLC0415
    from nodebench.progress import display  # noqa: PLC0415
    from nodebench.results.store import Store  # noqa: PLC0415

    opened = Store(path)
    command = shlex.join(["nodebench", *sys.argv[1:]])
    with display(_console(err=as_json), len(planned.cells)) as notify:
        try:
            run_id = Runner(opened, settings, notify).run(planned, command, fingerprint(), continuation)
        except KeyboardInterrupt:
            notify.interrupted()
            raise typer.Exit(130) from None
    return opened.records([run_id])


def _exit_code(records: list[Any]) -> int:
    """0 where something was measured and nothing failed: with `all`, what a backend does not support is no failure."""
    statuses = {record.status for record in records}
    return 0 if "ok" in statuses <= {"ok", "unsupported"} else 1


def _print_cost(records: list[Any], elapsed_s: float) -> None:
    overhead_s = sum(record.overhead_s or 0.0 for record in records)
    share = overhead_s / elapsed_s
    _console().print(f"{elapsed_s:.0f} s, of which {overhead_s:.0f} s ({share:.0%}) were not spent in measured work")


def _open(path: Path) -> Any:
    from nodebench.results.store import Store  # noqa: PLC0415

    if not path.is_file():
        raise UserError(f"there is no store at `{path}`; `nodebench run` makes one, or name another with --store.")
    return Store(path)


def _console(*, err: bool = False) -> Console:
    # A pipe has no width; a table must not be folded to 80 columns for want of one.
    console = Console(stderr=err, highlight=False)
    return console if console.is_terminal else Console(stderr=err, highlight=False, width=200)


def _escape(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415

    return escape(text)


def _print_plan(planned: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"cell_id": cell.cell_id, **_plain(cell)} for cell in planned.cells], indent=2))
        return
    table = Table(
        title=f"{len(planned.cells)} cells, {len(planned.groups)} groups timed in turns; measure: {planned.measure}"
    )
    for name in ("cell", "task", "model", "backend", "solver", "rtol", "batch", "seed", "preset"):
        table.add_column(name)
    for cell in planned.cells:
        numbers = (f"{cell.spec.rtol:g}", str(cell.batch_size), str(cell.seed))
        names = (cell.task, cell.model, cell.backend or "-", cell.spec.solver)
        table.add_row(cell.cell_id, *map(_escape, names), *numbers, cell.preset)
    _console().print(table)


def _plain(cell: Any) -> dict[str, Any]:
    from dataclasses import asdict  # noqa: PLC0415

    return asdict(cell)


def _print_records(records: list[Any], *, as_json: bool) -> None:
    from nodebench.reports.tables import failure_table, gradient_tables, sweep_table, training_tables  # noqa: PLC0415

    if as_json:
        print(json.dumps([record.to_dict() for record in records], indent=2, allow_nan=False))
        return
    console = _console()
    measured = [*gradient_tables(records), *training_tables(records)]
    for table in [*measured, sweep_table(records), failure_table(records)]:
        if table is not None:
            console.print(table)
    for note in sorted({note for record in records for note in record.notes}):
        console.print(f"note: {_escape(note)}")
    for backend, differences in {record.backend: record.differences for record in records}.items():
        for difference in differences:
            console.print(f"by nature, {_escape(str(backend))}: {_escape(difference)}")


def _print_repetition(runs: list[Any], records: list[list[Any]]) -> None:
    from nodebench.reports.tables import repetition_table  # noqa: PLC0415
    from nodebench.results.environment import differences  # noqa: PLC0415

    for run in runs[1:]:
        for difference in differences(runs[0].environment, run.environment):
            _console().print(f"[red]not alike:[/red] {runs[0].run_id} and {run.run_id}: {_escape(difference)}")
    table = repetition_table(records)
    _console().print("no cell has a ratio in all of these runs" if table is None else table)


def _print_environment(environment: Any) -> None:
    console = _console()
    memory = environment["memory_bytes"]
    size = "" if memory is None else f", {memory / 2**30:.3g} GiB"
    console.print(f"{environment['cpu']}, {environment['cores']} cores{size}; GPU: {environment['gpu'] or 'none'}")
    console.print(f"{environment['system']}, Python {environment['python']}")
    console.print(
        ", ".join(f"{name} {version or 'not installed'}" for name, version in environment["libraries"].items())
    )


def _listing(title: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, no_wrap=name == "name", overflow="fold")
    for row in rows:
        table.add_row(*(_escape(row.get(name, "")) for name in names))
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
        for found in _open(store).runs()
    ]


if __name__ == "__main__":
    main()
