"""Checks in a process of their own, so that what hangs or crashes in one is told and does not end the others."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from nodebench.conformance.backend import backend_checks
from nodebench.conformance.check import Check, CheckOutcome
from nodebench.conformance.task import task_checks
from nodebench.registry import Kind

LIMIT_S = 300.0
"""Longest check: compiling on a slow machine is no failure, not to end is one."""


def checks(kind: Kind, text: str) -> list[Check]:
    """The checks of a backend or a task."""
    return backend_checks(text) if kind == "backend" else task_checks(text)


def outcomes(kind: Kind, text: str, limit_s: float = LIMIT_S) -> Iterator[CheckOutcome]:
    """Make the checks of a plugin, one after the other, in another process.

    Args:
        kind: `"backend"` or `"task"`.
        text: Its name with options, `module:Class` or `path.py:Class`.
        limit_s: Seconds that one check may take.

    Yields:
        What came of each, in order; of a plugin that cannot be loaded, of that alone.
    """
    wanted, begun = checks(kind, text), 0
    while begun < len(wanted):
        for outcome in _from(wanted, kind, text, begun, limit_s):
            begun += 1
            yield outcome
            if begun == 1 and outcome.state != "ok":
                return


def _from(wanted: list[Check], kind: Kind, text: str, begun: int, limit_s: float) -> Iterator[CheckOutcome]:
    """Outcomes in a new process, up to the first check that it does not survive."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, kind, text, begun), daemon=True)
    with _no_folder_first():
        process.start()
    theirs.close()
    try:
        for check in wanted[begun:]:
            if not ours.poll(limit_s):
                yield CheckOutcome(check.name, check.meaning, "failed", f"it does not end within {limit_s:g} s.")
                return
            try:
                yield ours.recv()
            except EOFError:
                process.join()
                reason = f"it ends the process, with exit code {process.exitcode}."
                yield CheckOutcome(check.name, check.meaning, "failed", reason)
                return
    finally:
        process.kill()
        process.join()


@contextmanager
def _no_folder_first() -> Iterator[None]:
    """Start Python without the working directory before its own modules, as a worker is."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _serve(connection: Connection, kind: Kind, text: str, begun: int) -> None:
    os.dup2(2, 1)  # what a plugin prints is not the answer of the command
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # nobody has put another in its place yet
    del sys.argv[1:]  # a plugin has no arguments
    os.environ.setdefault("EQX_ON_ERROR", "off")  # as in a worker: diffrax's programs compile twice as fast
    for check in checks(kind, text)[begun:]:
        connection.send(check.outcome())
