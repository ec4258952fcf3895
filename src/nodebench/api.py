"""What the command line, pytest's plugin, notebooks and scripts call: run, scale, report, gate and check.

Parameters are the fields of `nodebench.options`, with the names that the command line has, in the plural where several
may be given. Nothing here prints or ends the process: what is wrong is a `UserError`, what a `Watcher` wants to know it
is told, and Ctrl-C is a `KeyboardInterrupt` after which `resume=True` goes on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nodebench import registry
from nodebench.errors import UserError
from nodebench.measuring import Watcher, measure, planned
from nodebench.options import GateOptions, RunOptions, ScaleOptions, default_store, taking
from nodebench.reports.comparison import Machines
from nodebench.reports.writers.files import DATA, PAGES, Written, check_outputs, write_data, write_page
from nodebench.results.record import Record
from nodebench.results.scaling import Scaling, scalings
from nodebench.results.store import existing, now

if TYPE_CHECKING:
    from nodebench.conformance.check import CheckOutcome
    from nodebench.gating.compare import GateResult


@taking(RunOptions)
def run(options: RunOptions) -> list[Record]:
    """Measure backends on tasks: the gradient step, the training, or both.

    As `nodebench run` does it: in processes of its own, a record in the store the moment its cell ends. A cell that
    fails is a record with its status and reason.

    Returns:
        A record for each cell, in the order in which they were asked for.

    Raises:
        UserError: If a name, an option or a number is wrong, or a plugin is broken; nothing has been measured then.
    """
    return _measured(options)


@taking(ScaleOptions)
def scale(options: ScaleOptions) -> tuple[list[Record], list[Scaling]]:
    """Measure how memory, evaluations and time grow along an axis, and fit their exponents.

    Returns:
        A record for each cell, and a power law for each task, backend and quantity beside that of theory.

    Raises:
        UserError: As `run`.
    """
    records = _measured(options)
    return records, exponents(records, options)


@taking(GateOptions)
def gate(options: GateOptions) -> "GateResult":
    """Say what has become worse, of what has been measured or of another version, which then takes turns with this one.

    Returns:
        A verdict for each figure of each cell; `exit_code` is 0 where nothing has become worse.

    Raises:
        UserError: If there are no such figures, or the other version cannot be built or does not speak with this one.
    """
    from nodebench.gating.gate import compared

    return compared(options)


def report(
    what: str | Sequence[str] | Sequence[Record] | None,
    path: str | Path | Sequence[str | Path],
    *,
    store: str | Path | None = None,
    charts: str | None = None,
    machine: str | None = None,
    command: str | None = None,
) -> list[Written]:
    """Write a report of what has been measured: the answer first, then every figure it rests on.

    Args:
        what: Records of the store, or runs by id, the beginning of it or `latest`; None for all that the store holds.
        path: File to write: .html, .md, .tex, .csv, .json or .parquet; or several.
        store: Results store; by default that of `run`.
        charts: Also write each chart and plot to an svg, pdf or png file, which .md and .tex include.
        machine: Whose times are shown: a node's name, or the key of a fingerprint; by default that with most times.
        command: The command line that makes this page, for the page; that of this process by default.

    Returns:
        The files that were written.

    Raises:
        UserError: If a file cannot be written, or there is no such run or store.
    """
    paths = list(dict.fromkeys(map(Path, [path] if isinstance(path, str | Path) else path)))
    check_outputs(paths, charts)
    opened = existing(store or default_store())
    names, records = _named(what)
    runs = opened.runs() if names is None else list({run.run_id: run for run in map(opened.run, names)}.values())
    records = opened.records([run.run_id for run in runs]) if records is None else records
    written = [write_data(records, path) for path in paths if path.suffix in DATA]
    pages = [path for path in paths if path.suffix in PAGES]
    if pages:
        from nodebench.reports.report import report as page_of

        machines = Machines.of(records, opened.environments(), machine)
        plots = lambda record: opened.plots(record.run_id, record.cell_id)  # noqa: E731
        page = page_of(records, runs, machines, plots, command or Watcher().command, now())
        written += write_page(page, pages, charts)
    return written


def check(kind: str, name: str, told: "Callable[[CheckOutcome], None] | None" = None) -> "list[CheckOutcome]":
    """Check that a backend or task does what it must.

    Args:
        kind: `backend` or `task`.
        name: Its name with options, `module:Class` or `file.py:Class`.
        told: Told of each outcome the moment it is there.

    Returns:
        What came of each check, with a sentence on what does not hold.

    Raises:
        UserError: If there is no such plugin.
    """
    from nodebench.conformance import backend_checks, task_checks
    from nodebench.conformance.check import outcomes

    known = registry.kind_of(kind)
    registry.describe(known, name)
    found = []
    for outcome in outcomes(backend_checks(name) if known == "backend" else task_checks(name)):
        found.append(outcome)
        if told is not None:
            told(outcome)
    return found


def exponents(records: list[Record], options: ScaleOptions) -> list[Scaling]:
    """The power laws of what was measured for a scaling; times are those of one machine, that with most of them."""
    environments = existing(options.store).environments() if records else {}
    return scalings(Machines.of(records, environments).with_times_of_one(records), options.over)


def _measured(options: RunOptions) -> list[Record]:
    plan = planned(options)
    if plan.broken:
        Watcher().broken(plan.broken)
    return measure(plan, options)


def _named(what: str | Sequence[str] | Sequence[Record] | None) -> tuple[list[str] | None, list[Record] | None]:
    """Names of the runs that are meant, and their records where they are at hand; None for all."""
    if what is None or isinstance(what, str):
        return (None if what is None else [what]), None
    if not isinstance(what, Sequence) or not all(isinstance(each, str | Record) for each in what):
        raise UserError(f"`what` must be records, or runs by their ids; got {what!r}.")
    records = [each for each in what if isinstance(each, Record)]
    if records:
        return list(dict.fromkeys(record.run_id for record in records)), records
    return [each for each in what if isinstance(each, str)], None
