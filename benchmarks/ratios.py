"""The table from which the aims of nodebench's own solver are read: each of our methods beside its rivals.

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

from nodebench.bench.group import GradientGroup
from nodebench.bench.timing import paired_ratio
from nodebench.measuring import measure, planned
from nodebench.options import RunOptions
from nodebench.progress import Shown
from nodebench.reports.document import ABSENT, interval, mebibytes, milliseconds, number
from nodebench.results.record import Record

TASKS = ("benchmarks/mlp_task.py:Mlp", "cnf", "mnist", "spiral")
STORE = Path(".nodebench/bench.db")

BUDGET_S = 2.0
"""Timing budget of a cell, in seconds."""

COMPARISONS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("torchdiffeq", "diffrax"): ("direct", "direct[compile=true]"),
    ("torchdiffeq-adjoint", "diffrax-backsolve"): ("adjoint", "adjoint[compile=true]"),
}
"""The rivals in torch and in JAX, with the backends of ours that take turns with both."""

CONVOLUTIONS = ("mnist",)
"""Tasks whose time goes into convolutions: on a CPU a compiler takes minutes with them and gains nothing."""

COMPILED = ("direct[compile=true]", "adjoint[compile=true]", "diffrax", "diffrax-backsolve")

COLUMNS = (
    "problem", "batch", "backend", "NFE f+b", "peak\nMiB", "step\nms", "compile\ns", "x\nfloor", "err dp", "err dy0",
)  # fmt: skip

Times = Mapping[str | None, Sequence[Sequence[float]]]
"""Seconds of each backend's turns, by start."""


def compare(backends: Sequence[str], task: str) -> tuple[list[Record], Times]:
    """Let backends take turns on a task; their records, the first being the control, and their times."""
    times = {}

    def timed(group: GradientGroup) -> None:
        group.measure()
        for each in group.cells:
            times[each.cell.backend] = [[turn.step_s for turn in start.turns] for start in each.starts]

    options = RunOptions(backends=backends, tasks=(task,), measure="gradient", budget_s=BUDGET_S, store=STORE)
    return measure(planned(options), options, Shown("make bench"), measure_group=timed), times


def figures(record: Record) -> list[str]:
    """The cells that a record has by itself, in the order of `COLUMNS`."""
    named = [record.task.rpartition("/")[2], str(record.batch_size)]
    if record.nfe_forward is None:
        return [*named, f"{record.backend}: {record.status}", *[ABSENT] * (len(COLUMNS) - 3)]
    return [
        *named,
        record.backend or ABSENT,
        f"{record.nfe_forward}+{record.nfe_backward}",
        mebibytes(record.peak_memory_bytes),
        milliseconds(record.step_s),
        number(record.compile_s),
        number(record.floor_ratio),
        number(record.grad_error_params, 2),
        number(record.grad_error_y0, 2),
    ]


def ratios(record: Record, rival: str, times: Times) -> list[str]:
    """Time relative to a rival's of the same rounds, with its interval, where both have any and no wrong gradient."""
    if rival == record.backend or record.status != "ok" or not times.get(rival):
        return ["", ""]
    ratio = paired_ratio(times[record.backend], times[rival])
    return [number(ratio.estimate), interval(ratio.low, ratio.high)]


def table(title: str, columns: Sequence[str]) -> Table:
    """A table of records, whose further columns are named."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for name in (*COLUMNS, *columns):
        shown.add_column(name, overflow="fold", no_wrap=name not in ("problem", "backend"))
    return shown


def notes(records: Sequence[Record]) -> Iterator[str]:
    """What a reader must know of figures, or of their absence, each once."""
    for record in records:
        told = [f"{record.backend}: {record.status}: {record.reason}"] if record.status != "ok" else []
        yield from (f"{record.task}: {note}" for note in [*told, *record.notes])


def console() -> Console:
    """Wide enough for a table, whatever it is printed to."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def main(tasks: Sequence[str]) -> None:
    """Measure, and print the table: our backends with their ratios, and the rivals."""
    shown = table(
        "one gradient step, ours beside its rivals; torch and JAX on one thread, float32",
        ("/ rival\nin torch", "\n95 %", "/ rival\nin JAX", "\n95 %"),
    )
    found: list[Record] = []
    for task, (rivals, ours) in product(tasks or TASKS, COMPARISONS.items()):
        wanted = [name for name in (*rivals, *ours) if task not in CONVOLUTIONS or name not in COMPILED]
        records, times = compare(wanted, task)
        for record in records:
            beside = [text for rival in rivals for text in ratios(record, rival, times)]
            if record.backend in rivals:
                beside = [""] * len(beside)
            shown.add_row(*map(escape, [*figures(record), *beside]), end_section=record is records[-1])
        found += records
    printed = console()
    printed.print(shown)
    for note in dict.fromkeys(notes(found)):
        printed.print(f"note, {escape(note)}", soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
