"""A check: one thing that a plugin must do, with the sentence that says so; made here, or in a process of its own."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal
from unittest import SkipTest

from typing_extensions import override

from nodebench.errors import CellError, NodebenchError, NotInstalledError, raised
from nodebench.importing import place_of

CheckState = Literal["ok", "failed", "skipped"]

PROGRAM = """
import json, sys
descriptor, checks, path = sys.argv[1:]
sys.path[:] = json.loads(path)
from nodebench.conformance.check import serve
serve(int(descriptor), bytes.fromhex(checks))
"""
"""What the other process runs: nothing of what a user's script does, and with its modules at hand."""

LIMIT_S = 300.0
"""Longest check: compiling on a slow machine is no failure, not to end is one."""


NUMBERS = re.compile(r"[-+\d.,()\[\]\s]+")
"""What sentences on one and the same fault may differ in."""


class CheckFailedError(AssertionError):
    """A plugin does not do what it must.

    Args:
        sentence: What it does.
        cause: What other checks share that fail for the same fault; by default the sentence without its numbers.
    """

    def __init__(self, sentence: str, cause: str = "") -> None:
        super().__init__(sentence)
        self.cause = cause or NUMBERS.sub(" ", sentence)


class NotApplicableError(SkipTest):
    """A check does not apply to this plugin, or cannot be made here; test runners take it for a skipped test."""


@dataclass(frozen=True)
class CheckOutcome:
    """What came of a check.

    Attributes:
        check: Its name.
        meaning: What the plugin must do, in a sentence.
        state: `ok`, `failed` or `skipped`.
        reason: Why it failed or was skipped, in a sentence; empty where it is ok.
        cause: Of a failure, what those have in common that are likely to be of one fault.
    """

    check: str
    meaning: str
    state: CheckState
    reason: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Check:
    """One check of one plugin. Calling it raises `CheckFailedError`, or `unittest.SkipTest` where it does not apply.

    Attributes:
        body: What is checked, a function of the subject; its name and the first line of its docstring are the check's.
        subject: What it is given.
    """

    body: Callable[[Any], None]
    subject: Any

    def __call__(self) -> None:
        """Make the check."""
        try:
            self.body(self.subject)
        except NotInstalledError as error:
            raise NotApplicableError(str(error)) from error

    @override
    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """In words."""
        return self.body.__name__.replace("_", " ")

    @property
    def meaning(self) -> str:
        """What the plugin must do, in a sentence."""
        return (self.body.__doc__ or "").partition("\n")[0]

    def outcome(self) -> CheckOutcome:
        """Make the check, and give what came of it as a value."""
        try:
            self()
        except SkipTest as error:
            return CheckOutcome(self.name, self.meaning, "skipped", _sentence(error))
        except Exception as error:  # noqa: BLE001  whatever a plugin raises fails its check
            return CheckOutcome(self.name, self.meaning, "failed", _sentence(error), cause_of(error))
        return CheckOutcome(self.name, self.meaning, "ok")


def require(condition: object, sentence: str, cause: str = "") -> None:
    """Fail the check with a sentence, and what it has in common with others, unless a condition holds.

    Raises:
        CheckFailedError: If it does not.
    """
    if not condition:
        raise CheckFailedError(sentence, cause)


def cause_of(error: BaseException) -> str:
    """What failures have in common that come from one fault: where in a user's file it is raised, or what it says."""
    if isinstance(error, CheckFailedError):
        return error.cause
    place = "" if isinstance(error, NodebenchError) else place_of(error)
    return f"{type(error).__name__}{place}" if place else NUMBERS.sub(" ", raised(error))


def told(error: BaseException) -> str:
    """What was raised, on one line, and where in a user's file."""
    return f"{' '.join(raised(error).split())}{place_of(error)}"


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    is_sentence = isinstance(error, CheckFailedError | NodebenchError | CellError | SkipTest)
    return text if is_sentence else f"it raises {told(error)}."


def outcomes(checks: Sequence[Check], limit_s: float = LIMIT_S) -> Iterator[CheckOutcome]:
    """Make checks one after the other in another process, where what hangs or crashes in one does not end the rest.

    Args:
        checks: The checks of a plugin.
        limit_s: Seconds that one check may take.

    Yields:
        What came of each, in order; of a plugin that cannot be loaded, of that alone.
    """
    begun = 0
    while begun < len(checks):
        for outcome in _from(checks[begun:], limit_s):
            begun += 1
            yield outcome
            if begun == 1 and outcome.state != "ok":
                return


def _from(checks: Sequence[Check], limit_s: float) -> Iterator[CheckOutcome]:
    """Outcomes in a new process, up to the first check that it does not survive."""
    ours, theirs = Pipe(duplex=False)
    told = (str(theirs.fileno()), pickle.dumps(checks).hex(), json.dumps(sys.path))
    # `-P`: no folder before Python's own, as for a worker.
    command = [sys.executable, "-P", "-c", PROGRAM, *told]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        for check in checks:
            if not ours.poll(limit_s):
                reason = f"it does not end within {limit_s:g} s."
                yield CheckOutcome(check.name, check.meaning, "failed", reason, cause=reason)
                return
            try:
                yield ours.recv()
            except EOFError:
                reason = f"it ends the process, with exit code {process.wait()}."
                yield CheckOutcome(check.name, check.meaning, "failed", reason, cause=reason)
                return
    finally:
        process.kill()
        process.wait()


def serve(descriptor: int, checks: bytes) -> None:
    """Make pickled checks, and send what comes of each over a pipe."""
    connection = Connection(descriptor, readable=False)
    os.dup2(2, 1)  # what a plugin prints is not the answer of the command
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # nobody has put another in its place yet
    sys.argv[:] = [""]  # a plugin has no arguments
    os.environ.setdefault("EQX_ON_ERROR", "off")  # as in a worker: diffrax's programs compile twice as fast
    for check in pickle.loads(checks):
        connection.send(check.outcome())
