"""What a report rests on: failures, machines, how figures are taken, settings, notes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nodebench.reports.comparison import newest
from nodebench.reports.document import Block, Bullets, Column, Details, Entry, Missing, Paragraph, Section, Table
from nodebench.reports.formatting import ABSENT
from nodebench.reports.machines import Machine, Machines, several_nodes
from nodebench.reports.tables import SETTINGS, failed_table, settings_table
from nodebench.results.quantities import how_taken
from nodebench.results.record import Record
from nodebench.results.store import Run

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


def appendix(records: Sequence[Record], runs: Sequence[Run], machines: Machines) -> tuple[Section, ...]:
    """The sections after those of the tasks."""
    last = newest(records)
    failed = [record for record in last if record.status != "ok"]
    sections = [Section("Machines and runs", tuple(_machines(records, runs, machines)))] if runs else []
    if failed:
        sections.insert(0, Section("Not ok", tuple(_failures(failed))))
    sections.append(Section("How each figure is taken", (_methods(), *_start_methods(last))))
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


ENVIRONMENT = ("cpu", "cores", "gpu", "system", "python", "libraries", "commit")


def _runs_table(runs: Sequence[Run]) -> Table:
    # Only a run that was handed to others has an executor.
    own = ["executor"] if any(run.environment.get("executor") for run in runs) else []
    titles = ("run", "began", "ended", "cells", *ENVIRONMENT, *own, "command")
    columns = tuple(Column(title, numeric=title == "cells") for title in titles)
    rows = tuple((*_run(run), *(_text(run.environment.get(name)) for name in own), _command(run)) for run in runs)
    return Table("runs", "Runs, and the machine and software of each.", columns, rows)


def _run(run: Run) -> Iterator[Entry]:
    yield from (_text(value) for value in (run.run_id, run.created_at, run.finished_at))
    yield Entry(f"{run.n_records} of {run.n_cells}", run.n_records)
    yield from _environment(run.environment, [_commit(run.environment)])


def _command(run: Run) -> Entry:
    return Entry(f"`{run.command}`", run.command)


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
        _text(", ".join(machine.nodes) or None),
        *_environment(machine.environments[0], map(_commit, machine.environments)),
        Entry(str(n_cells), n_cells),
    )


def _environment(found: Mapping[str, Any], commits: Iterable[str | None]) -> Iterator[Entry]:
    """What there is of a fingerprint: that of a run whose cells were measured elsewhere is of its software alone."""
    texts = {
        "gpu": (found["gpu"] or "none") if "gpu" in found else None,
        "libraries": ", ".join(f"{name} {version}" for name, version in found.get("libraries", {}).items() if version),
        "commit": ", ".join(dict.fromkeys(filter(None, commits))) or None,
    }
    yield from (_text(texts.get(name, found.get(name))) for name in ENVIRONMENT)


def _commit(environment: Mapping[str, Any]) -> str | None:
    git = environment.get("git") or {}
    return f"{git['commit'][:12]}{', changed' if git.get('dirty') else ''}" if git.get("commit") else None


def _methods() -> Table:
    columns = tuple(Column(title, numeric=False) for title in ("figure", "in a record", "how it is taken"))
    return Table("methods", "How each figure is taken.", columns, tuple(tuple(map(_text, row)) for row in how_taken()))


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
        yield Paragraph("By the nature of its library or method:")
        yield Bullets(tuple(nature))
    if not notes and not nature:
        yield Paragraph("No cell left a note.")


def _text(value: Any) -> Entry:
    return Entry(ABSENT if value is None else str(value), value)
