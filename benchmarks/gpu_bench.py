"""Gradient methods beside each other on a GPU, in one command of eight minutes at most: `make gpu-bench`.

    python benchmarks/with_wheels.py benchmarks/gpu_bench.py [--device cpu] [--minutes 8] [--store FILE] [TASK ...]

Methods in eager torch, compiled ones and those of JAX take turns on small fields, on larger batches and on images. One
store has all records; of them a page and a table are made, which says what was left out, and why.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from ratios import COMPILED, CONVOLUTIONS, console, figures, notes, table
from rich.markup import escape

import nodebench
from nodebench import NodebenchError
from nodebench.comparing import Interruption
from nodebench.measuring import ended_well, measure, planned
from nodebench.options import RunOptions
from nodebench.printing import hardware
from nodebench.progress import Shown
from nodebench.reports.document import interval, number
from nodebench.results.machine import fingerprint
from nodebench.results.record import Record

CONTROL = "torchdiffeq"
BACKENDS = (CONTROL, "torchdiffeq-adjoint", "direct", "adjoint", "checkpoint", *COMPILED)

PROBLEMS = (
    ("benchmarks/mlp_task.py:Mlp", None),
    ("spiral", None),
    ("cnf", None),
    ("cnf", 4096),
    ("cnf[dim=63]", None),
    ("mnist", 128),
    ("mnist", 1024),
)
"""Tasks, each with a batch size or its own; all methods of one are a group."""

BUDGET_S = 1.0
"""Timing budget of a cell, in seconds."""

LEAST_S, PAGE_S = 20.0, 20.0
"""Seconds with less of which no group is begun, and those that the page needs at the end."""


@dataclass(frozen=True)
class Found:
    """What became of a group.

    Attributes:
        records: Its records; of a group that ran out of time those of what it had found.
        left_out: What was not measured, and why.
    """

    records: Sequence[Record] = ()
    left_out: Sequence[str] = ()


def methods(task: str, device: str) -> tuple[list[str], list[str]]:
    """The backends that are measured on a task, and what is said of the others."""
    if task not in CONVOLUTIONS:
        return list(BACKENDS), []
    # XLA's convolutions are slow within loops on a CPU alone.
    slow = [name for name in COMPILED if "compile" in name or device == "cpu"]
    reason = "compiling convolutions takes minutes and gains nothing"
    return [name for name in BACKENDS if name not in slow], [f"{', '.join(slow)}: {reason}"]


def group(task: str, batch_size: int | None, given: argparse.Namespace, limit_s: float) -> Found:
    """Measure a group for some seconds at most.

    Raises:
        KeyboardInterrupt: If it was interrupted before.
    """
    backends, left_out = methods(task, given.device)
    until, interruption = time.monotonic() + limit_s, Interruption()
    signal.alarm(ceil(limit_s))  # is a Ctrl-C, after which what has been found of a group is kept
    records: list[Record] = []
    try:
        options = RunOptions(
            backends=backends,
            tasks=(task,),
            batch_size=batch_size,
            device=given.device,
            measure="gradient",
            budget_s=BUDGET_S,
            control=CONTROL,
            store=given.store,
        )
        shown = Shown(f"make gpu-bench DEVICE={given.device}")
        records = measure(planned(options), options, shown, measure_group=interruption.measure)
        if interruption.came:
            left_out.append(f"what is missing in the table: {limit_s:.0f} s were over")
    except KeyboardInterrupt:
        interruption.came = True
        left_out = [f"all: no reference was found within {limit_s:.0f} s"]
    except NodebenchError as error:
        left_out = [f"all: {error}"]
    finally:
        signal.alarm(0)
    if interruption.came and time.monotonic() < until:
        raise KeyboardInterrupt
    return Found(records, left_out)


def groups(given: argparse.Namespace) -> Iterator[Found]:
    """Measure one group after the other while there is time; each has at most two shares of what is left."""
    end = time.monotonic() + 60 * given.minutes - PAGE_S
    problems = [problem for problem in PROBLEMS if not given.tasks or problem[0] in given.tasks]
    for at, (task, batch_size) in enumerate(problems):
        limit_s = (end - time.monotonic()) * min(1.0, 2 / (len(problems) - at))
        name = task if batch_size is None else f"{task}, batch {batch_size}"
        if limit_s < LEAST_S:
            yield Found(left_out=[f"{name}: all: the {given.minutes:g} minutes were over"])
            continue
        found = group(task, batch_size, given, limit_s)
        yield Found(found.records, [f"{name}: {text}" for text in found.left_out])


def arguments() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", help="those of which problems are measured (default: all)", metavar="TASK")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--store", type=Path, default=Path(".nodebench/gpu-bench.db"))
    given = parser.parse_args()
    known = list(dict.fromkeys(task for task, _ in PROBLEMS))
    if unknown := [task for task in given.tasks if task not in known]:
        parser.error(f"no problem of {', '.join(unknown)}; there are {', '.join(known)}.")
    return given


def main() -> int:
    """Measure, print the table and write the page; 0 where something was measured and nothing failed."""
    began, given = time.monotonic(), arguments()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    measured = list(groups(given))
    found, printed = [record for each in measured for record in each.records], console()
    title = f"one gradient step on {given.device}, float32; TF32 is off in torch and in JAX"
    shown = table(title, (f"/ {CONTROL}", "95 %"))
    for each in measured:
        for record in each.records:
            ratio = [number(record.ratio), interval(record.ratio_low, record.ratio_high)]
            row = [*figures(record), *(ratio if record.ratio is not None else ["", ""])]
            shown.add_row(*map(escape, row), end_section=record is each.records[-1])
    printed.print(escape(hardware(fingerprint())), soft_wrap=True)
    printed.print(shown)
    for note in dict.fromkeys(notes(found)):
        printed.print(f"note, {escape(note)}", soft_wrap=True)
    for text in (text for each in measured for text in each.left_out):
        printed.print(f"left out, {escape(text)}", soft_wrap=True)
    if found:
        (page,) = nodebench.report(found, given.store.with_suffix(".html"), store=given.store)
        printed.print(f"{time.monotonic() - began:.0f} s; records in {given.store}, page in {page.path}")
    return 0 if ended_well(found) else 1


if __name__ == "__main__":
    sys.exit(main())
