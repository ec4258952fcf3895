"""The sections of a report: one for each task, then failures, machines, methods, settings and notes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from nodebench.errors import StoreError
from nodebench.plots import RenderedPlot
from nodebench.reports.answers import Answer, absence_sentences, answer, answer_sentences, since_sentence
from nodebench.reports.axes import along_axes
from nodebench.reports.charts import backward_evaluations, courses, growth, tracked, work_precision
from nodebench.reports.comparison import Machine, Machines, base_task, comparisons, grouped, newest, several_nodes
from nodebench.reports.document import (
    Block,
    Bullets,
    Column,
    Details,
    Drawing,
    Entry,
    Missing,
    Paragraph,
    Section,
    Table,
    key,
)
from nodebench.reports.equal_charts import at_equal_error, at_equal_memory
from nodebench.reports.glance import picture
from nodebench.reports.tables import (
    SETTINGS,
    comparison_table,
    exponents,
    failed_table,
    plain_entry,
    settings_table,
    steps_table,
    sweep_table,
    tracked_table,
    trained_table,
)
from nodebench.results.machine import Fingerprint
from nodebench.results.quantities import HOW_TAKEN
from nodebench.results.record import Record
from nodebench.results.store import Run

MAX_SETTINGS = 20
"""Settings of a task that have a table."""

MAX_HOLES = 2
"""Holes that stand open; more are folded away."""

MAX_PLOTTED = 6
"""Models of a task whose plots are shown."""

ENVIRONMENT = ("cpu", "cores", "gpu", "system", "python", "libraries", "commit")

STARTED = {
    "fork": "were forked by one that had imported the framework, a fresh one in each of several starts",
    "spawn": "were, some or all of them, new interpreters",
}
"""How the processes of a cell were started, in words."""

MAX_OUTPUTS = 20
"""Failures whose last output is shown."""

MAX_LINES = 12
"""Lines of it."""

MAX_NOTES = 12
"""Notes that stand open."""


@dataclass(frozen=True)
class TaskContents:
    """What there is to say of a task.

    Attributes:
        records: Its records, one of each cell.
        answers: What its comparisons say, that of most backends first.
    """

    records: tuple[Record, ...]
    answers: tuple[Answer, ...]

    @property
    def main(self) -> Answer:
        """What the comparison of most backends says; there must be one."""
        return self.answers[0]

    @property
    def name(self) -> str:
        """The task without its options."""
        return base_task(self.records[0])

    @property
    def measured(self) -> list[Record]:
        """The records that its comparisons show: those with gradients."""
        return [record for each in self.answers for record in each.comparison.records]

    @property
    def trained(self) -> list[Record]:
        """The newest record of each trained cell, as one of the machine that it was trained on."""
        return [r.as_trained for r in newest(record for record in self.records if record.metric_value is not None)]

    @property
    def failed_since(self) -> list[tuple[Record, Record]]:
        """Trained cells of which the newest attempt failed before it reached anything, each with that attempt."""
        last = {record.cell_id: record for record in newest(self.records)}
        pairs = ((record, last[record.cell_id]) for record in self.trained)
        return [(record, newer) for record, newer in pairs if newer.status != "ok" and newer.metric_value is None]


def contents(records: Sequence[Record]) -> TaskContents:
    """What there is to say of the records of one task."""
    answers = sorted(map(answer, comparisons(records)), key=lambda each: -len(each.comparison.ranked))
    return TaskContents(tuple(records), tuple(answers))


def task_section(
    task: TaskContents, plots: Callable[[Record], tuple[RenderedPlot, ...]], *, opens: bool = False
) -> Section:
    """Charts, tables and plots of a task: what is of several settings comes before what is of one.

    Args:
        task: What there is to say of the task.
        plots: The plots of the model that left a record.
        opens: Whether the page opens with the first of its comparisons.
    """
    blocks: tuple[Block, ...] = (
        *work_precision(task.measured),
        *at_equal_error(task.records),
        *at_equal_memory(task.records),
        *_comparisons(task, opens=opens),
        *growth(task.measured),
        *along_axes(task.measured),
        *exponents(key(task.name), task.measured),
        *backward_evaluations(task.measured),
        *_trained(task),
        *courses(task.trained),
        *_tracked(task),
        *_drawings(task, plots),
    )
    return Section(f"Task {task.name}", _holes_last(blocks))


def _holes_last(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """What there is first, then what there is not: a task that was only trained has many holes, told in one place."""
    holes = [block for block in blocks if isinstance(block, Missing)]
    there = [block for block in blocks if not isinstance(block, Missing)]
    if len(holes) <= MAX_HOLES:
        return (*there, *holes)
    return (*there, Details(f"What is not shown, and why ({len(holes)})", tuple(holes)))


def comparison_name(task: TaskContents, number: int) -> str:
    """The name of the table of a comparison of a task."""
    return f"{key(task.name)}-comparison-{number}"


def _comparisons(task: TaskContents, *, opens: bool) -> Iterator[Block]:
    if not task.answers:
        yield Missing("comparison of gradient methods", "no gradient was measured; run with `--measure gradient`.")
    parts: list[tuple[Block, ...]] = []
    for at, each in enumerate(task.answers[:MAX_SETTINGS], start=1):
        table = comparison_table(comparison_name(task, at), each.comparison)
        said = (*answer_sentences(each), *absence_sentences(each))
        parts.append((table, *([Bullets(said)] if said else [])))
    if parts and opens:
        yield Paragraph("The page opens with the comparison of most backends.")
    elif parts:
        shown = picture(task.main)
        yield from (*([] if shown is None else [shown]), *parts[0])
    if folded := [block for part in parts[1:] for block in part]:
        n = len(parts) - 1
        yield Details(f"Tables of {n} {'more' if n > 1 else 'other'} setting{'' if n == 1 else 's'}", tuple(folded))
    if len(task.answers) > MAX_SETTINGS:
        reason = "the table of answers has them; a report of single runs, or `-o report.csv`, has their figures."
        yield Missing(f"tables of {len(task.answers) - MAX_SETTINGS} further settings", reason)


def _trained(task: TaskContents) -> Iterator[Block]:
    if (steps := steps_table(f"{key(task.name)}-training-steps", newest(task.records))) is not None:
        yield steps
    if not task.trained:
        yield Missing("table of trained models", "nothing was trained; run with `--measure training` or `both`.")
        return
    yield trained_table(f"{key(task.name)}-trained", task.trained)
    if task.failed_since:
        yield Bullets(tuple(since_sentence(record, failure) for record, failure in task.failed_since))
    swept = [record for record in task.trained if record.tolerance_sweep]
    if swept:
        yield sweep_table(f"{key(task.name)}-sweep", swept)
    else:
        yield Missing("tolerance sweep of trained networks", "it needs a trained ODE model with an adaptive solver.")


def _tracked(task: TaskContents) -> Iterator[Block]:
    """The gradient along trainings: also of one that failed, which may be why."""
    found = [record.as_trained for record in newest(r for r in task.records if r.tracked_errors)]
    yield from tracked(found)
    if found:
        yield tracked_table(f"{key(task.name)}-tracked", found)


def _drawings(task: TaskContents, plots: Callable[[Record], tuple[RenderedPlot, ...]]) -> Iterator[Block]:
    # Of the newest run of each model, whatever its tolerance or budget, the first seed, which alone leaves plots.
    models = grouped(task.trained, lambda r: (r.task, r.model, r.backend))
    runs = [max(same, key=lambda r: r.created_at).run_id for same in models]
    shown = [next(r for r in same if r.run_id == run) for same, run in zip(models, runs, strict=True)]
    drawn = 0
    for record in shown:
        try:
            found = plots(record)
        except StoreError as error:
            yield Missing(f"plots of {_model(record)}", str(error))
            continue
        drawn += bool(found)
        if found and drawn > MAX_PLOTTED:
            reason = f"those of {MAX_PLOTTED} models are shown; a report of its run `{record.run_id}` shows them."
            yield Missing(f"plots of {_model(record)}", reason)
        elif found:
            caption = f"{_model(record)}, preset {record.preset}, seed {record.seed}."
            stem = f"{record.task}-{record.model}-{record.backend or ''}"
            yield from (Drawing(key(f"{stem}-{plot.name}"), caption, plot) for plot in found)
    if not drawn:
        reason = "no trained model of this task left any." if shown else "they need a trained model."
        yield Missing("plots of trained models", reason)


def _model(record: Record) -> str:
    return f"{record.model} on `{record.task}`" + (f" with `{record.backend}`" if record.backend else "")


def appendix(records: Sequence[Record], runs: Sequence[Run], machines: Machines) -> tuple[Section, ...]:
    """The sections after those of the tasks."""
    last = newest(records)
    failed = [record for record in last if record.status != "ok"]
    sections = [Section("Machines and runs", tuple(_machines(records, runs, machines)))] if runs else []
    if failed:
        sections.insert(0, Section("Not ok", tuple(_failures(failed))))
    columns = (Column("figure", numeric=False), Column("how it is taken", numeric=False))
    rows = tuple(tuple(map(plain_entry, row)) for row in HOW_TAKEN.items())
    methods = Table("methods", "How each figure is taken.", columns, rows)
    sections.append(Section("How each figure is taken", (methods, *_start_methods(last))))
    if records:
        sections.append(Section("Settings", tuple(_settings(last))))
        sections.append(Section("Notes", tuple(_notes(last))))
    return tuple(sections)


def _failures(failed: Sequence[Record]) -> Iterator[Block]:
    yield failed_table("not-ok", failed)
    told = [record for record in failed if record.stderr]
    for record in told[:MAX_OUTPUTS]:
        lines = record.traceback.splitlines()[-MAX_LINES:]
        yield Details(f"Last output of {record.backend or record.model} on {record.task}", (Bullets(tuple(lines)),))
    if len(told) > MAX_OUTPUTS:
        what = f"last output of {len(told) - MAX_OUTPUTS} more cells"
        yield Missing(what, "`nodebench logs CELL` prints it, `nodebench show RUN --json` has it too.")


def _machines(records: Sequence[Record], runs: Sequence[Run], machines: Machines) -> Iterator[Block]:
    yield _runs_table(runs)
    several = len(machines.all) > 1 or several_nodes(records)
    if several:
        yield _machines_table(machines)
    if several or len(runs) > 1:
        alike = "All machines and libraries are alike; git commits are not compared."
        yield Bullets(tuple(machines.unlike()) or (alike,))


def _runs_table(runs: Sequence[Run]) -> Table:
    # Only a run that was handed to others has an executor.
    own = ["executor"] if any(run.environment.get("executor") for run in runs) else []
    titles = ("run", "began", "ended", "cells", *ENVIRONMENT, *own, "command")
    columns = tuple(Column(title, numeric=title == "cells") for title in titles)
    rows = tuple(
        (
            *(plain_entry(value) for value in (run.run_id, run.created_at, run.finished_at)),
            Entry(f"{run.n_records} of {run.n_cells}", run.n_records),
            *_environment(run.environment, [_commit(run.environment)]),
            *(plain_entry(run.environment.get(name)) for name in own),
            Entry(f"`{run.command}`", run.command),
        )
        for run in runs
    )
    return Table("runs", "Runs, and the machine and software of each.", columns, rows)


def _machines_table(machines: Machines) -> Table:
    columns = (
        Column("machine"),
        Column("nodes", "Names of the machines; those that are alike share a row.", numeric=False),
        *(Column(title, numeric=False) for title in ENVIRONMENT),
        Column("cells", "How many cells were measured there."),
    )
    return Table("machines", "Machines that cells were measured on.", columns, tuple(map(_machine, machines.all)))


def _machine(machine: Machine) -> tuple[Entry, ...]:
    n_cells = len({record.cell_id for record in machine.records})
    return (
        Entry(str(machine.place), machine.place),
        plain_entry(", ".join(machine.nodes) or None),
        *_environment(machine.environments[0], map(_commit, machine.environments)),
        Entry(str(n_cells), n_cells),
    )


def _environment(found: Fingerprint, commits: Iterable[str | None]) -> Iterator[Entry]:
    """What there is of a fingerprint: that of a run whose cells were measured elsewhere is of its software alone."""
    texts = {
        "gpu": (found["gpu"] or "none") if "gpu" in found else None,
        "libraries": ", ".join(f"{name} {version}" for name, version in found.get("libraries", {}).items() if version),
        "commit": ", ".join(dict.fromkeys(filter(None, commits))) or None,
    }
    yield from (plain_entry(texts.get(name, found.get(name))) for name in ENVIRONMENT)


def _commit(environment: Fingerprint) -> str | None:
    git = environment.get("git")
    return f"{git['commit'][:12]}{', changed' if git.get('dirty') else ''}" if git and git.get("commit") else None


def _start_methods(records: Sequence[Record]) -> Iterator[Block]:
    """How the processes of the records were started, where that was recorded."""
    found = Counter(STARTED[record.start_method] for record in records if record.start_method)
    if found:
        told = (f"those of {n} cells {how}" for how, n in found.most_common())
        yield Paragraph(f"Processes: {'; '.join(told)}.")


def _settings(records: Sequence[Record]) -> Iterator[Block]:
    values = {field: {getattr(record, field) for record in records} for field in SETTINGS}
    common = [field for field, found in values.items() if len(found) == 1]
    if common:
        texts = (f"{field} {getattr(records[0], field)}" for field in common if getattr(records[0], field) is not None)
        yield Paragraph(f"The same in all cells: {', '.join(texts)}.")
    table = settings_table("settings", records, [field for field in SETTINGS if field not in common])
    if table.columns:
        yield Details("Settings of every cell", (table,))


def _notes(records: Sequence[Record]) -> Iterator[Block]:
    notes = sorted({note for record in records for note in record.notes})
    nature: dict[str, None] = {}
    for record in records:
        nature |= {f"`{record.backend}`: {difference}": None for difference in record.differences}
    if notes:
        yield Bullets(tuple(notes[:MAX_NOTES]))
    if notes[MAX_NOTES:]:
        yield Details(f"{len(notes) - MAX_NOTES} more notes", (Bullets(tuple(notes[MAX_NOTES:])),))
    if nature:
        yield Paragraph("What differs because of a library or method:")
        yield Bullets(tuple(nature))
    if not notes and not nature:
        yield Paragraph("No cell left a note.")
