"""The table from which the aims of nodebench's own solver are read: each of our methods beside its rival.

`python benchmarks/ratios.py [TASK ...]` measures the gradient step of our backends and of their rivals as `nodebench
run` does, by the same runner: paired, in turns, over several starts of fresh workers. Records are kept in
`.nodebench/bench.db`, and reference gradients beside them, of which that of `mnist` takes some minutes, once.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nodebench.bench.matrix import Request, plan
from nodebench.bench.request import Settings
from nodebench.bench.runner import Runner
from nodebench.progress import display
from nodebench.reports.document import ABSENT, interval, mebibytes, milliseconds, number
from nodebench.results.machine import fingerprint, idle_cores
from nodebench.results.record import Record
from nodebench.results.store import Store

TASKS = ("benchmarks/mlp_task.py:Mlp", "cnf", "mnist", "spiral")
STORE = Path(".nodebench/bench.db")

BUDGET_S = 2.0
"""Timing budget of a cell, in seconds."""

COMPARISONS: Mapping[str, tuple[str, ...]] = {
    "torchdiffeq": ("direct", "direct[compile=true]"),
    "torchdiffeq-adjoint": ("adjoint", "adjoint[compile=true]"),
    # Eager torch is no match for a program that XLA compiled: like is set against like.
    "diffrax": ("direct[compile=true]",),
}
"""Each rival, the control of its comparison, with the backends of ours that are set against it."""

UNCOMPILED = ("mnist",)
"""Tasks whose time goes into convolutions: compiling them takes minutes and gains nothing."""

COLUMNS = ("problem", "backend", "NFE f+b", "peak\nMiB", "step\nms", "compile\ns", "x\nfloor", "err dp", "err dy0")
RATIOS = ("peak\nratio", "time\nratio", "\n95 %", "\nverdict")


def measure(control: str, others: Sequence[str], tasks: Sequence[str], console: Console) -> list[Record]:
    """Run one comparison on every task, each task a group of its own."""
    planned = plan(Request(backends=(control, *others), tasks=tuple(tasks), measure="gradient"))
    settings = Settings(budget_s=BUDGET_S, cores=tuple(idle_cores(1)), control=control)
    store = Store(STORE)
    with display(console, len(planned.cells)) as notify:
        run_id = Runner(store, settings, notify).run(planned, "make bench", fingerprint())
    return store.records([run_id])


def pairs(records: Sequence[Record], control: str) -> Iterator[tuple[Record, Record]]:
    """Each record of ours with its rival's on the same task."""
    rivals = {record.task: record for record in records if record.backend == control}
    yield from ((record, rivals[record.task]) for record in records if record.backend != control)


def figures(record: Record) -> list[str]:
    """The cells that a record has by itself, in the order of `COLUMNS`."""
    if record.nfe_forward is None:
        return [record.task, f"{record.backend}: {record.status}", *[ABSENT] * (len(COLUMNS) - 2)]
    return [
        record.task.rpartition("/")[2],
        record.backend or ABSENT,
        f"{record.nfe_forward}+{record.nfe_backward}",
        mebibytes(record.peak_memory_bytes),
        milliseconds(record.step_s),
        number(record.compile_s),
        number(record.floor_ratio),
        number(record.grad_error_params, 2),
        number(record.grad_error_y0, 2),
    ]


def peak_ratio(ours: Record, rival: Record) -> str:
    """Peak memory relative to the rival's."""
    if ours.peak_memory_bytes is None or rival.peak_memory_bytes is None:
        return ABSENT
    return number(ours.peak_memory_bytes / rival.peak_memory_bytes)


def table(compared: Sequence[tuple[Record, Record]]) -> Table:
    """Two lines for each pair: ours with the ratios, and the rival."""
    shown = Table(
        title="one gradient step, ours beside its rival; torch and JAX on one thread, float32",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for name in (*COLUMNS, *RATIOS):
        shown.add_column(name, overflow="fold", no_wrap=name not in COLUMNS[:2])
    for ours, rival in compared:
        verdict = ours.verdict or (ABSENT if ours.status == "ok" else ours.status)
        ratios = [peak_ratio(ours, rival), number(ours.ratio), interval(ours.ratio_low, ours.ratio_high), verdict]
        shown.add_row(*map(escape, [*figures(ours), *ratios]))
        shown.add_row("", *map(escape, figures(rival)[1:]), end_section=True)
    return shown


def main(tasks: Sequence[str]) -> None:
    """Measure, and print the table."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    compared: list[tuple[Record, Record]] = []
    for task, (control, others) in product(tasks or TASKS, COMPARISONS.items()):
        wanted = [other for other in others if task not in UNCOMPILED or "compile" not in other]
        if wanted:
            compared += pairs(measure(control, wanted, [task], console), control)
    console.print(table(compared))
    notes = dict.fromkeys(f"{record.task}: {note}" for pair in compared for record in pair for note in record.notes)
    for note in notes:
        console.print(f"note, {escape(note)}", soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
