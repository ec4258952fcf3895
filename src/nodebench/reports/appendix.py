"""What a report rests on: failures, machines, how figures are taken, settings, notes."""

from collections.abc import Iterator, Sequence
from typing import Any

from nodebench.reports.comparison import newest, unlike_machines
from nodebench.reports.document import Block, Bullets, Column, Details, Entry, Missing, Paragraph, Section, Table
from nodebench.reports.figures import FAILED, SETTINGS, records_table, settings_table
from nodebench.reports.formatting import ABSENT, number
from nodebench.reports.methods import FIGURES
from nodebench.results.record import Record
from nodebench.results.store import Run

MAX_OUTPUTS = 20
"""Failures whose last output is shown."""

MAX_LINES = 12
"""Lines of it."""

MAX_NOTES = 12
"""Notes that stand open."""


def appendix(records: Sequence[Record], runs: Sequence[Run]) -> tuple[Section, ...]:
    """The sections after those of the tasks."""
    last = newest(records)
    failed = [record for record in last if record.status != "ok"]
    sections = [Section("Machines and runs", tuple(_machines(runs)))] if runs else []
    if failed:
        sections.insert(0, Section("Not ok", tuple(_failures(failed))))
    sections.append(Section("How each figure is taken", (_methods(),)))
    if records:
        sections.append(Section("Settings", tuple(_settings(last))))
        sections.append(Section("Notes", tuple(_notes(last))))
    return tuple(sections)


def machine(run: Run) -> str:
    """Processor, memory and GPU of a run, in words."""
    environment = run.environment
    memory = environment.get("memory_bytes")
    size = "" if memory is None else f", {number(memory / 2**30)} GiB"
    gpu = f", {environment['gpu']}" if environment.get("gpu") else ""
    return f"{environment.get('cpu', 'unknown')}, {environment.get('cores', ABSENT)} cores{size}{gpu}"


def _failures(failed: Sequence[Record]) -> Iterator[Block]:
    yield records_table("not-ok", "Cells that did not end well.", FAILED, failed)
    told = [record for record in failed if record.stderr]
    for record in told[:MAX_OUTPUTS]:
        lines = record.traceback.splitlines()[-MAX_LINES:]
        yield Details(f"Last output of {record.backend or record.model} on {record.task}", (Bullets(tuple(lines)),))
    if len(told) > MAX_OUTPUTS:
        what = f"last output of {len(told) - MAX_OUTPUTS} more cells"
        yield Missing(what, "`nodebench logs CELL` prints it, `nodebench show RUN --json` has it too.")


def _machines(runs: Sequence[Run]) -> Iterator[Block]:
    columns = tuple(
        Column(title, numeric=title == "cells") for title in ("run", "began", "ended", "cells", *ENVIRONMENT)
    )
    rows = tuple(tuple(_run(run)) for run in runs)
    yield Table(
        "runs", "Runs, and the machine and software of each.", (*columns, Column("command", numeric=False)), rows
    )
    if len(runs) > 1:
        alike = "All machines and libraries are alike; git commits are not compared."
        yield Bullets(tuple(unlike_machines(runs)) or (alike,))


ENVIRONMENT = ("cpu", "cores", "gpu", "system", "python", "libraries", "commit")


def _run(run: Run) -> Iterator[Entry]:
    found = run.environment
    git = found.get("git") or {}
    libraries = ", ".join(f"{name} {version}" for name, version in found.get("libraries", {}).items() if version)
    texts = {
        "cpu": found.get("cpu"),
        "cores": found.get("cores"),
        "gpu": found.get("gpu") or "none",
        "system": found.get("system"),
        "python": found.get("python"),
        "libraries": libraries,
        "commit": f"{git['commit'][:12]}{', changed' if git.get('dirty') else ''}" if git.get("commit") else None,
    }
    yield from (_text(value) for value in (run.run_id, run.created_at, run.finished_at))
    yield Entry(f"{run.n_records} of {run.n_cells}", run.n_records)
    yield from (_text(texts[name]) for name in ENVIRONMENT)
    yield Entry(f"`{run.command}`", run.command)


def _methods() -> Table:
    columns = (Column("figure", numeric=False), Column("how it is taken", numeric=False))
    return Table("methods", "How each figure is taken.", columns, tuple(tuple(map(_text, row)) for row in FIGURES))


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
