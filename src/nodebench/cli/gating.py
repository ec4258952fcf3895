"""The command that compares with a baseline or with another version, and those that keep baselines."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from nodebench.cli.options import (
    DEFAULT_STORE,
    BudgetOption,
    DeviceOption,
    DtypeOption,
    JobsOption,
    Many,
    PrecisionOption,
    RoundsOption,
    StoreOption,
    ThreadsOption,
    TimeoutOption,
    TimingPresetOption,
    number,
    open_store,
    seeds,
    split,
)
from nodebench.cli.printing import escape_markup, new_console, print_broken
from nodebench.errors import UserError

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Thresholds (default: nodebench.toml in this folder, if there is one).")
]
SlowdownOption = Annotated[
    str | None, typer.Option(help="Slowdown that is a regression, such as 10% (the default) or 0.1.")
]
FileOption = Annotated[Path, typer.Option("--output", "-o", help="The baseline file.")]


def compare(
    baseline: Annotated[
        str | None, typer.Argument(help="A baseline file, a run, or a JSON file of pytest-benchmark.")
    ] = None,
    candidate: Annotated[str, typer.Argument(help="What to compare with it, named in the same ways.")] = "latest",
    max_slowdown: SlowdownOption = None,
    config: ConfigOption = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help="Also write .md (pull request), .xml (JUnit) or .json (customSmallerIsBetter)."
        ),
    ] = None,
    against_ref: Annotated[
        str | None, typer.Option(help="Measure in turns with the project of this folder at a git revision.")
    ] = None,
    against_wheel: Annotated[Path | None, typer.Option(help="Measure in turns with the version in a wheel.")] = None,
    against_python: Annotated[
        str | None, typer.Option(help="Measure in turns with another environment, named by its interpreter.")
    ] = None,
    backend: Annotated[Many, typer.Option("--backend", "-b", help="What to measure; as for `nodebench run`.")] = None,
    task: Annotated[Many, typer.Option("--task", "-t", help="As for `nodebench run`.")] = None,
    model: Annotated[Many, typer.Option("--model", help="As for `nodebench run`.")] = None,
    preset: TimingPresetOption = "smoke",
    solver: Annotated[Many, typer.Option(help="As for `nodebench run`.")] = None,
    rtol: Annotated[Many, typer.Option(help="As for `nodebench run`.")] = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    seed: Annotated[Many, typer.Option(help="As for `nodebench run` (default: 0).")] = None,
    threads: ThreadsOption = 1,
    jobs: JobsOption = None,
    rounds: RoundsOption = None,
    budget_s: BudgetOption = None,
    precision: PrecisionOption = 0.05,
    timeout_s: TimeoutOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Report what has become worse. Exit codes: 0 nothing, 1 a regression, 2 not comparable, with the reason.

    Either BASELINE with a CANDIDATE that has been measured already, or one of the --against options with -b and -t,
    which measures both versions in turns.
    """
    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.matrix import Request  # noqa: PLC0415
    from nodebench.bench.settings import Settings  # noqa: PLC0415
    from nodebench.reports.gate_files import check_output, write_gate  # noqa: PLC0415
    from nodebench.results.gate import compare as compare_figures  # noqa: PLC0415
    from nodebench.results.sources import find  # noqa: PLC0415
    from nodebench.results.thresholds import read_thresholds  # noqa: PLC0415
    from nodebench.tasks.base import Preset  # noqa: PLC0415

    thresholds = read_thresholds(config, max_slowdown)
    for path in output or []:
        check_output(path)
    _check_sides(baseline, [against_ref, against_wheel, against_python], measured=bool(backend or task))
    broken: Mapping[str, str] = {}
    if baseline is not None:
        old, new = (find(name, lambda: open_store(store)) for name in (baseline, candidate))
        gate = compare_figures(old, new, thresholds)
    else:
        request = Request(
            backends=split(backend),
            tasks=split(task),
            models=split(model),
            solvers=split(solver),
            rtols=tuple(number("--rtol", text) for text in split(rtol)),
            dtype=dtype,
            device=device,
            seeds=seeds(seed),
            threads=threads,
            preset=cast(Preset, preset),  # checked by `plan`, which knows the near names
            measure="gradient",
        )
        settings = Settings(
            rounds=rounds,
            budget_s=budget_s,
            timeout_s=timeout_s,
            precision=precision,
            cores=tuple(idle_cores(threads)),
            jobs=jobs,
        )
        other = _other_version(against_ref, against_wheel, against_python)
        gate, broken = _measure_against(other, request, settings, store, thresholds)
    _print_gate(gate)
    print_broken(broken)
    for path in output or []:
        write_gate(gate, path)
    raise typer.Exit(gate.exit_code or (1 if broken else 0))


baseline_app = typer.Typer(
    help="Keep figures in a small file to commit: the baseline of `nodebench compare`.", no_args_is_help=True
)


@baseline_app.command()
def save(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs; a cell in several is taken from the last."),
    ] = None,
    output: FileOption = Path("baseline.json"),
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write the figures of runs into a baseline file."""
    from nodebench.results.sources import read_run  # noqa: PLC0415

    opened = open_store(store)
    first, *others = [read_run(opened, run_id) for run_id in run_ids or ["latest"]]
    for other in others:
        first = first.joined(other)
    _write(first, output)
    failed = [cell for cell in first.cells.values() if not cell.ok]
    of = ", ".join(run_ids or ["latest"])
    new_console().print(escape_markup(f"{output}: {len(first.cells)} cells of {of}"))
    for cell in failed:
        new_console().print(f"[red]kept as it is:[/red] {escape_markup(cell.label)} is {cell.status}")


@baseline_app.command("show")
def show_baseline(output: FileOption = Path("baseline.json")) -> None:
    """Show a baseline file as a table, and the machines it was measured on."""
    from nodebench.reports.gate import baseline_table  # noqa: PLC0415
    from nodebench.reports.writers import terminal  # noqa: PLC0415

    found = _read(output)
    for environment in found.environments.values():
        new_console().print(escape_markup(f"{environment.get('cpu')}, {environment.get('system')}"))
    terminal.print_table(baseline_table(found))


@baseline_app.command("update")
def update_baseline(
    candidate: Annotated[str, typer.Argument(metavar="[RUN]", help="A run, or a file.")] = "latest",
    output: FileOption = Path("baseline.json"),
    accept_regressions: Annotated[
        bool, typer.Option("--accept-regressions", help="Also take over figures that have become worse.")
    ] = False,
    max_slowdown: SlowdownOption = None,
    config: ConfigOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Update a baseline file with what has become better and what is new, and list both."""
    from nodebench.results.gate import compare as compare_figures  # noqa: PLC0415
    from nodebench.results.ratchet import update  # noqa: PLC0415
    from nodebench.results.sources import find  # noqa: PLC0415
    from nodebench.results.thresholds import read_thresholds  # noqa: PLC0415

    thresholds = read_thresholds(config, max_slowdown)
    old, new = _read(output), find(candidate, lambda: open_store(store))
    found = update(old, new, compare_figures(old, new, thresholds), accept_regressions=accept_regressions)
    if found.taken:
        _write(found.baseline, output)
    console = new_console()
    for finding in found.taken:
        console.print(escape_markup(f"taken over: {_one_line(finding)}"))
    for finding in found.left:
        console.print(f"[red]left as it was:[/red] {escape_markup(_one_line(finding))}")
    console.print(f"{escape_markup(str(output))}: {len(found.taken)} taken over, {len(found.left)} left as they were")


def _check_sides(baseline: str | None, against: list[Any], *, measured: bool) -> None:
    n_against = sum(other is not None for other in against)
    if n_against + (baseline is not None) != 1:
        raise UserError("name a BASELINE, or one of --against-ref, --against-wheel and --against-python.")
    if measured and not n_against:
        raise UserError(
            "-b and -t belong to the --against options, which measure; BASELINE is compared with what has been "
            "measured by `nodebench run`."
        )


def _other_version(ref: str | None, wheel: Path | None, python: str | None) -> Any:
    from nodebench.bench.versions import version_of_python, version_of_ref, version_of_wheel  # noqa: PLC0415

    if ref is not None:
        return version_of_ref(ref)
    return version_of_wheel(wheel) if wheel is not None else version_of_python(str(python))


def _measure_against(
    other: Any, request: Any, settings: Any, path: Path, thresholds: Any
) -> tuple[Any, Mapping[str, str]]:
    """Measure a request in turns with another version, and compare the two; also gives the broken plugins."""
    from nodebench.bench.matrix import plan  # noqa: PLC0415
    from nodebench.bench.turns import THIS_VERSION, TwoVersions, compare_versions, only_there, present  # noqa: PLC0415
    from nodebench.progress import display  # noqa: PLC0415
    from nodebench.results.baseline import Baseline  # noqa: PLC0415
    from nodebench.results.store import Store  # noqa: PLC0415

    known = present(request)
    planned = plan(known) if known == request else None  # so that what is wrong is told before anything is built
    # Absolute: workers of the other version may run in another folder.
    store = Store(path.resolve())
    command = shlex.join(["nodebench", *sys.argv[1:]])
    with other as version:
        removed = only_there(request, version)
        if not known.tasks or not (known.backends or not request.backends):
            return TwoVersions(removed, Baseline(THIS_VERSION, {}, {})).gate(thresholds), {}
        planned = planned or plan(known)
        print_broken(planned.broken)
        with display(new_console(err=True), len(planned.cells)) as notify:
            try:
                found = compare_versions(planned, version, store, settings, notify, command)
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
        return replace(found, old=found.old.joined(removed)).gate(thresholds), planned.broken


def _print_gate(gate: Any) -> None:
    from nodebench.reports.gate import UPDATE, gate_table  # noqa: PLC0415
    from nodebench.reports.writers import terminal  # noqa: PLC0415

    console = new_console()
    for line in gate.unlike:
        console.print(f"[red]not alike:[/red] {escape_markup(line)}")
    table = gate_table(gate)
    if table is not None:
        terminal.print_table(table)
    if gate.of("improvement"):
        console.print(UPDATE)
    console.print(escape_markup(gate.summary))


def _one_line(finding: Any) -> str:
    from nodebench.reports.gate import value  # noqa: PLC0415

    if finding.old is None and finding.new is None:  # of a cell as a whole
        return f"{finding.cell.label}: {finding.reason}"
    return f"{finding.cell.label}: {finding.metric} {value(finding.old)} -> {value(finding.new)} {finding.unit}".strip()


def _read(path: Path) -> Any:
    from nodebench.results.sources import read_baseline_file  # noqa: PLC0415

    if not path.is_file():
        raise UserError(f"there is no baseline `{path}`; `nodebench baseline save -o {path}` writes one.")
    return read_baseline_file(path)


def _write(baseline: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(baseline.dumps(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"`{path}` cannot be written: {error.strerror or error}.") from error
