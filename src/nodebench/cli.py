"""The command line: parse, call, print. It alone catches `NodebenchError`, and ends the process.

Options of commands that measure are the fields of `nodebench.options`, with their docstrings as help. What a command
needs is imported when it is called, so that `--help` and `list` answer at once.
"""

import inspect
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, asdict, fields
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args

import typer
from rich.console import Console
from rich.markup import escape

from nodebench.bench.request import ExecutorOptions, Request, Settings
from nodebench.errors import NodebenchError, NotInstalledError, UnknownNameError, UserError
from nodebench.importing import require_system
from nodebench.options import (
    DEFAULT_STORE,
    STORE_VARIABLE,
    GateOptions,
    RecommendOptions,
    ReproduceOptions,
    RunOptions,
    ScaleOptions,
    meanings,
)
from nodebench.registry import kind_of, split_list

if TYPE_CHECKING:
    from nodebench.measuring import Watcher

OptionsClass = TypeVar("OptionsClass")
Own = ParamSpec("Own")

NAMES = {
    "backends": ("--backend", "-b"),
    "tasks": ("--task", "-t"),
    "models": ("--model",),
    "solvers": ("--solver",),
    "rtols": ("--rtol",),
    "seeds": ("--seed",),
    "rerun_failed": ("--rerun-failed",),
    "allow_mixed": ("--allow-mixed",),
    "init_args": ("--init-args",),
}
"""What fields are called on the command line whose names do not say it."""

ARGUMENTS = {"old": "baseline", "new": "candidate", "run": "run"}
"""Fields that are given by their place."""

CONTINUE = "interrupted; continue with the same command and --resume"

NOT_OPTIONS = ("cores", "interpreter", "objects", "store")
"""Fields that are chosen for the user, and the one that all commands have."""

StoreOption = Annotated[
    Path, typer.Option("--store", envvar=STORE_VARIABLE, help="Results store, an SQLite file.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print records as one JSON array; all else goes to stderr.")]
MachineOption = Annotated[
    str | None,
    typer.Option(
        "--machine", help="Whose times are shown: a node's name, or the key of a fingerprint (default: most times)."
    ),
]
WideOption = Annotated[bool, typer.Option("--wide", help="Show all figures, in several tables.")]
ChartsOption = Annotated[
    str | None,
    typer.Option(help="Also write each chart and plot to an svg, pdf or png file, which .md and .tex include."),
]
ConfigOption = Annotated[Path | None, typer.Option(help=meanings(GateOptions)["config"])]
SlowdownOption = Annotated[str | None, typer.Option(help=meanings(GateOptions)["max_slowdown"])]
BaselineOption = Annotated[Path, typer.Option("--output", "-o", help="The baseline file.")]
KindArgument = Annotated[str, typer.Argument(metavar="KIND", help="backend or task.")]

app = typer.Typer(
    help="Which gradient method for a neural ODE, and what it costs in error, memory, function evaluations and time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
baseline_app = typer.Typer(
    help="Keep figures in a small file to commit: the baseline of `nodebench compare`.", no_args_is_help=True
)


def main() -> None:
    """Entry point: 0 all cells ok, 1 a cell failed or a part is missing or broken, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what users' code says may have characters that the terminal lacks
    try:
        require_system()
        _check_arguments()
        app()
    except NodebenchError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        console.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(1 if isinstance(error, NotInstalledError) else 2)


def _check_arguments() -> None:
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"an argument has characters that cannot be read in {sys.getfilesystemencoding()}, the encoding of this "
            "terminal; set LC_ALL=C.UTF-8."
        ) from error


def names_of(cls: type) -> list[str]:
    """The fields of a class of options that are options of a command."""
    return [f.name for f in fields(cls) if f.name not in NOT_OPTIONS]


def options(
    cls: type[OptionsClass], *order: str
) -> Callable[[Callable[Concatenate[OptionsClass, Own], None]], Callable[..., None]]:
    """Give a command fields of a class as options, and the values of these as its first argument.

    Args:
        cls: The class, a dataclass.
        *order: The fields, in the order in which `--help` has them; parameters of the command itself are named among
            them, or come after them.
    """
    known, told = {f.name: f for f in fields(cls)}, meanings(cls)  # type: ignore[arg-type]  # a dataclass

    def decorate(command: Callable[Concatenate[OptionsClass, Own], None]) -> Callable[..., None]:
        _, *others = inspect.signature(command).parameters.values()
        own = {parameter.name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in others}
        last = [name for name in ("store", "as_json") if name in (known | own)]
        names = [*dict.fromkeys(name for name in (*order, *own) if name not in last), *last]
        parameters = [own[name] if name in own else _parameter(known[name], told[name]) for name in names]

        @wraps(command)
        def call(**given: Any) -> None:
            found = {name: _value(known[name], given[name]) for name in names if name not in own}
            wanted = {name: value for name, value in found.items() if value is not None}
            command(cls(**wanted), **{name: given[name] for name in own})  # type: ignore[call-arg]  # named by typer

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # which typer reads
        return call

    return decorate


def _parameter(option: Field[Any], meaning: str) -> inspect.Parameter:
    """A field as typer knows parameters."""
    if option.name == "store":
        return _keyword("store", StoreOption, DEFAULT_STORE)
    text = escape(meaning.partition(". ")[0].rstrip(".") + ".")
    kind, default = _kind(option), None if isinstance(option.default, tuple) else option.default
    info: Any = typer.Option(*NAMES.get(option.name, ()), help=text)
    if option.name in ARGUMENTS:
        info = typer.Argument(metavar=ARGUMENTS[option.name], help=text)
    annotation = Annotated[kind if default is not None else kind | None, info]  # type: ignore[valid-type]  # a value
    return _keyword(option.name, annotation, default)


def _keyword(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(option: Field[Any]) -> Any:
    """The type of an option: what lies in a list is text until its commas are read."""
    if isinstance(option.default, tuple):
        return list[str]
    if option.default is not None:
        return type(option.default)
    kinds = [kind for kind in get_args(option.type) if kind is not NoneType]
    return Path if Path in kinds else kinds[0] if kinds else str


def _value(option: Field[Any], given: Any) -> Any:
    """What a field is given: lists are taken apart at their commas, and have numbers where the field has."""
    if not isinstance(option.default, tuple) or given is None:
        return given
    (kind,) = get_args(option.type)
    texts = [text for value in given for text in split_list(value)]
    return texts if kind is str else [_number(NAMES.get(option.name, (f"--{option.name}",))[0], t, kind) for t in texts]


def _number(option: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"`{option}` must be a {'whole ' * (kind is int)}number; got {text!r}.") from None


def command_line() -> str:
    """The command as it was given."""
    return shlex.join(["nodebench", *sys.argv[1:]])


@contextmanager
def _interrupted(shown: "Watcher", words: str = "") -> Iterator[None]:
    """At Ctrl-C say how to go on, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        if words:
            shown.tell(words)
        raise typer.Exit(130) from None


def _version(*, wanted: bool) -> None:
    if wanted:
        from nodebench import __version__

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
@options(
    RunOptions,
    *names_of(Request),
    *names_of(Settings),
    "resume",
    "rerun_failed",
    "shard",
    *names_of(ExecutorOptions),
    "dry_run",
)
def run(
    options: RunOptions,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be measured and stop.")] = False,
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure backends on tasks: the gradient step, the training, or both."""
    from nodebench import measuring, printing, progress
    from nodebench.results.store import Store

    planned = measuring.planned(options)
    printing.print_broken(planned.broken)
    if not planned.cells:
        printing.print_nothing_to_measure(planned, as_json=as_json)
        raise typer.Exit(1 if planned.broken else 0)
    if dry_run:
        printing.print_plan(planned, as_json=as_json)
        raise typer.Exit(1 if planned.broken else 0)
    began = time.monotonic()
    watcher = progress.Shown(command_line(), printing.short_names(planned.cells), err=as_json)
    with _interrupted(watcher, CONTINUE):
        records = measuring.measure(planned, options, watcher)
    if not (options.resume or options.rerun_failed or as_json) and options.executor == "local":
        printing.print_cost(records, time.monotonic() - began)
    store = Store(Path(options.store), read_only=True)
    shown = records if as_json else printing.of_one_machine(records, store)
    name, in_order = store.called(records[0].run_id), "all" not in options.backends
    view = printing.View(name, store.path, wide=wide, in_order=in_order)
    printing.print_records(shown, view, as_json=as_json)
    printing.print_broken(planned.broken)
    raise typer.Exit(0 if measuring.ended_well(records) and not planned.broken else 1)


@app.command()
@options(
    ScaleOptions,
    *("backends", "tasks", "over", "values", "models", "measure", "preset", "solvers", "controller", "rtols", "atol"),
    *("first_step", "max_steps", "dtype", "device", "batch_size", "seeds", "threads"),
    *("jobs", "rounds", "budget_s", "timeout_s", "resume"),
    *(name for name in names_of(ExecutorOptions) if name != "checkpoint_dir"),
)
def scale(options: ScaleOptions, *, as_json: JsonOption = False) -> None:
    """Measure how memory, evaluations and time grow, and print the exponents beside those of theory."""
    from nodebench import api, measuring, printing, progress
    from nodebench.results.store import Store

    planned = measuring.planned(options)
    printing.print_broken(planned.broken)
    watcher = progress.Shown(command_line(), printing.short_names(planned.cells), err=as_json)
    with _interrupted(watcher, CONTINUE):
        records = measuring.measure(planned, options, watcher)
    laws = api.exponents(records, options)
    if as_json:
        printing.print_json([asdict(law) for law in laws])
    else:
        shown = printing.of_one_machine(records, Store(Path(options.store), read_only=True))
        name, in_order = records[0].run_id if records else "", "all" not in options.backends
        printing.print_records(shown, printing.View(name, Path(options.store), in_order=in_order), laws)
    printing.print_broken(planned.broken)
    raise typer.Exit(0 if measuring.ended_well(records) and not planned.broken else 1)


@app.command()
@options(
    RecommendOptions,
    *("run", "error", "memory", "time", "tasks", "field", "y0", "times", "weights", "init_args", "backends"),
    *("models", "dataset", "solvers", "rtols", "controller", "max_steps", "dtype", "device", "batch_size", "threads"),
    *("budget_s", "rounds", "precision", "jobs", "timeout_s", "memory_limit_gib"),
)
def recommend(options: RecommendOptions, *, as_json: JsonOption = False) -> None:
    """Say which gradient method to use for a wish, what it costs, and why the others lost."""
    from nodebench import printing, progress, recommending

    watcher = progress.Shown(command_line(), err=as_json)
    with _interrupted(watcher):
        found = recommending.recommended(options, watcher)
    printing.print_recommendation(found, as_json=as_json)
    raise typer.Exit(0 if found.choices and not watcher.plugins else 1)


@app.command()
@options(
    ReproduceOptions,
    *("preset", "seeds", "threads", "device", "jobs", "timeout_s"),
    *(name for name in names_of(ExecutorOptions) if name != "allow_mixed"),
)
def reproduce(
    options: ReproduceOptions,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="table1, table2, table3, figure3, figure4, figure5, figure8 or claims; or `all`."
        ),
    ],
    *,
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
    charts: ChartsOption = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Measure nothing; use what the store has, from any machine.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be measured and what is in the store, and stop.")
    ] = False,
) -> None:
    """Measure what the paper did, or what others claim, and set ours beside their figures.

    What is in the store is not measured again, but for what failed, which every call tries anew; after an interruption
    the same command goes on, so that it must not be given again while it still runs. Times of unlike machines, which
    `--no-run` and a cluster may give, are left out with that reason.
    """
    from nodebench import printing, progress
    from nodebench.paper.reproductions import Reproductions, pages_of
    from nodebench.reports.writers.files import write_page
    from nodebench.reports.writers.terminal import print_page
    from nodebench.results.store import existing

    if no_run and options.executor != "local":
        raise UserError("`--no-run` measures nothing, and `--executor` says where to measure; leave one out.")
    if no_run and dry_run:
        raise UserError("`--dry-run` shows what would be measured, and with `--no-run` nothing is; leave one out.")
    pages = pages_of(names, output or (), charts)
    found = Reproductions.of(names, options, any_machine=no_run)
    printing.print_broken(found.broken)
    if dry_run:
        printing.print_reproductions(found)
        raise typer.Exit(1 if found.broken else 0)
    if no_run:
        existing(options.store)
    shown = progress.Shown(command_line())
    for planned in () if no_run else found.each:
        with _interrupted(shown, "interrupted; continue with the same command"):
            found.measure(planned, shown)
    for name, paths in pages.items():
        page = found.page(name, command_line())
        print_page(page)
        printing.print_written(write_page(page, paths, charts))
    printing.print_broken(found.broken)
    raise typer.Exit(0 if (no_run or found.whole) and not found.broken else 1)


@app.command("list")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="backends, tasks, models, solvers or runs; all but runs by default.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show what there is to choose from, and the runs in the store."""
    from nodebench import installed, printing

    listings: dict[str, Callable[[], list[dict[str, str]]]] = {
        "backends": installed.backends,
        "tasks": installed.tasks,
        "models": installed.models,
        "solvers": installed.solvers,
        "runs": lambda: installed.runs(store),
    }
    if what is not None and what not in listings:
        raise UnknownNameError("list", what, listings)
    chosen = [what] if what else [name for name in listings if name != "runs"]
    rows = {name: listings[name]() for name in chosen}
    if as_json:
        printing.print_json(rows[what] if what else rows)
        return
    for name in chosen:
        printing.print_listing(name, rows[name])


@app.command()
def show(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs: an id, the beginning of one, or `latest`.")
    ] = None,
    machine: MachineOption = None,
    wide: WideOption = False,
    notes: Annotated[
        bool, typer.Option("--notes", help="Show what a reader must know of the figures, and nothing else.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show the records of runs and the machines they were taken on; of several, also their ratios side by side."""
    from nodebench import printing
    from nodebench.results.store import existing

    opened = existing(store)
    found = [opened.run(run_id) for run_id in run_ids or ["latest"]]
    records = [opened.records([run.run_id]) for run in found]
    if as_json:
        printing.print_records([record for each in records for record in each], as_json=True)
        return
    if notes:
        printing.print_notes([record for each in records for record in each])
        return
    for name, run, each in zip(run_ids or ["latest"], found, records, strict=True):
        in_order = printing.named_one_by_one(run.command)
        printing.print_run(run, each, opened, printing.View(name, store, wide=wide, in_order=in_order), machine)
    if len(found) > 1:
        printing.print_repetition(found, records, opened.environments())


@app.command()
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
    from nodebench import printing
    from nodebench.results.store import existing

    records = existing(store).cell_records(cell, run)
    if as_json:
        printing.print_records(records, as_json=True)
        return
    for record in records:
        printing.print_log(record)


@app.command()
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
    charts: ChartsOption = None,
    machine: MachineOption = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a report of what has been measured: the answer first, then every figure it rests on."""
    from nodebench import api, printing
    from nodebench.reports.writers.files import open_page

    outputs = output or [Path("report.html")]
    page = next((path for path in outputs if path.suffix == ".html"), None)
    if open_ and page is None:
        raise UserError("`--open` opens a page in the browser; name one that ends in .html with `--output`.")
    written = api.report(run_ids or None, outputs, store=store, charts=charts, machine=machine, command=command_line())
    printing.print_written(written)
    if open_ and page is not None and not open_page(page):
        printing.print_not_opened(page)


@app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Results stores to join.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Store that takes their runs; it may be one of them, or not exist.")
    ],
) -> None:
    """Join the results stores of several machines or shards into one: equal rows once, conflicting ones refused."""
    from nodebench import printing
    from nodebench.results.merging import merge as merged

    printing.print_merged(output, merged(stores, output))


@app.command()
@options(
    GateOptions,
    *("old", "new", "max_slowdown", "config", "output", "against_ref", "against_wheel", "against_python"),
    *("backends", "tasks", "models", "preset", "solvers", "rtols", "dtype", "device", "seeds", "threads", "jobs"),
    *("rounds", "budget_s", "precision", "timeout_s"),
)
def compare(
    options: GateOptions,
    *,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help="Also write .md (pull request), .xml (JUnit) or .json (customSmallerIsBetter)."
        ),
    ] = None,
) -> None:
    """Report what has become worse. Exit codes: 0 nothing, 1 a regression, 2 not comparable, with the reason.

    Either BASELINE with a CANDIDATE that has been measured already, or one of the --against options with -b and -t,
    which measures both versions in turns.
    """
    from nodebench import printing, progress
    from nodebench.gating.gate import compared
    from nodebench.gating.outputs import check_output, write_gate

    for path in output or []:
        check_output(path, options.old, options.new)
    shown = progress.Shown(command_line(), err=True)
    with _interrupted(shown):
        gate = compared(options, shown)
    printing.print_gate(gate)
    printing.print_broken(shown.plugins)
    for path in output or []:
        write_gate(gate, path)
    raise typer.Exit(gate.exit_code or (1 if shown.plugins else 0))


app.add_typer(baseline_app, name="baseline")


@baseline_app.command()
def save(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs; a cell in several is taken from the last.")
    ] = None,
    output: BaselineOption = Path("baseline.json"),
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write the figures of runs into a baseline file."""
    from nodebench import printing
    from nodebench.gating.baseline import save_baseline

    names = run_ids or ["latest"]
    printing.print_saved(str(output), names, save_baseline(names, output, store))


@baseline_app.command("show")
def show_baseline(output: BaselineOption = Path("baseline.json")) -> None:
    """Show a baseline file as a table, and the machines it was measured on."""
    from nodebench import printing
    from nodebench.gating.baseline import read_baseline

    printing.print_baseline(read_baseline(output))


@baseline_app.command("update")
def update_baseline(
    candidate: Annotated[str, typer.Argument(metavar="[RUN]", help="A run, or a file.")] = "latest",
    output: BaselineOption = Path("baseline.json"),
    accept_regressions: Annotated[
        bool, typer.Option("--accept-regressions", help="Also take over figures that have become worse.")
    ] = False,
    max_slowdown: SlowdownOption = None,
    config: ConfigOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Update a baseline file with what has become better and what is new, and list both."""
    from nodebench import printing
    from nodebench.gating import gate

    found = gate.update_baseline(
        output,
        candidate,
        accept_regressions=accept_regressions,
        max_slowdown=max_slowdown,
        config=config,
        store=store,
    )
    printing.print_update(str(output), found)


@app.command()
@options(ExecutorOptions, "selftest", "comparisons", "executor", "ray_address")
def doctor(
    options: ExecutorOptions,
    *,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Measure the harness: false alarms, planted faults, smallest effect.")
    ] = False,
    comparisons: Annotated[
        int | None, typer.Option(help="Comparisons of a cell with itself in the selftest (default: 40).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show versions, devices and where the data would come from, and how to install what is missing.

    With `--executor ray`: those of each node of the cluster, and in what they differ.
    """
    from nodebench import installed, measuring, printing, progress
    from nodebench.results import machine

    if options.executor == "ray":
        if selftest:
            raise UserError("`--selftest` is of this machine; leave `--executor ray` out.")
        cluster = measuring.inspect_cluster(options.ray_address, progress.Shown(command_line(), err=True).tell)
        printing.print_cluster(cluster, as_json=as_json)
        raise typer.Exit(1 if cluster.differences else 0)
    if comparisons is not None and not selftest:
        raise UserError("`--comparisons` belongs to `--selftest`.")
    environment, frameworks, data = machine.fingerprint(), machine.frameworks(), installed.data_sources()
    if not as_json:
        printing.print_machine(environment, frameworks, data)
    tested = (
        measuring.selftest(40 if comparisons is None else comparisons, progress.Shown(command_line(), err=as_json))
        if selftest
        else None
    )
    if as_json:
        found = {"environment": environment, "frameworks": frameworks, "data": data}
        printing.print_json(found | ({"selftest": tested.to_dict()} if tested else {}))
    elif tested:
        printing.print_selftest(tested)
    raise typer.Exit(1 if tested and tested.problems else 0)


@app.command()
def check(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="Its name with options, module:Class or file.py:Class.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print outcomes as one JSON array on stdout.")] = False,
) -> None:
    """Check that a backend or task does what it must, and say in a sentence what does not hold.

    Exits with 0 where nothing failed and something was checked, else with 1.
    """
    from nodebench import api, printing
    from nodebench.reports.writers.terminal import new_console

    # It is gone when the outcomes are printed, which begin with what is wrong.
    with new_console(err=True).status("checking") as shown:
        found = api.check(kind, name, lambda outcome: shown.update(escape(f"{outcome.check}: {outcome.state}")))
    if as_json:
        printing.print_json([asdict(outcome) for outcome in found])
    else:
        printing.print_checks(f"{kind} {name}", found)
    states = {outcome.state for outcome in found}
    raise typer.Exit(0 if "ok" in states and "failed" not in states else 1)


@app.command()
def new(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="Its name, a Python identifier such as my_method.")],
    framework: Annotated[str, typer.Option(help="torch or jax.")] = "torch",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path(),
) -> None:
    """Write a working backend or task, with a test, as a starting point for your own."""
    from nodebench.reports.writers.terminal import new_console
    from nodebench.templates.new import class_name, write

    files = write(kind_of(kind), name, framework, output)
    console = new_console()
    for path in files:
        console.print(f"wrote {escape(str(path))}")
    plugin = f"./{files[0]}" if not files[0].is_absolute() else str(files[0])
    target = escape(f"{plugin}:{class_name(name)}")
    others = f"-b {target} -t linear" if kind == "backend" else f"-b all -t {target}"
    console.print(f"next: nodebench check {kind} {target}")
    console.print(f"      nodebench run {others} --measure gradient --preset smoke")


if __name__ == "__main__":
    main()
