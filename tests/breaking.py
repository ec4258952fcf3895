"""Fakes that break one command of their worker, what it leaves to be read, or what has started it."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nodebench.bench.worker.main import Worker
from nodebench.errors import UserError
from nodebench.testing import FakeBackend, FakeTask

WORKERS = ("nodebench.bench.launcher", "nodebench.bench.worker.main")
"""What a worker's process was started as."""

ERRORS = {
    "UserError": UserError("no such thing"),
    "SystemExit": SystemExit("no such thing"),
    "EOFError": EOFError("no such thing"),
    "KeyError": KeyError("no such thing"),
    "AttributeError": AttributeError("no such thing"),
    "MemoryError": MemoryError("no such thing"),
    "BrokenPipeError": BrokenPipeError("no such thing"),
}


def broken(command, error):
    """Have a command of this process, if it is a worker, raise, or leave what nobody can read."""
    program = sys.modules["__main__"]
    started = getattr(program.__spec__, "name", "")
    if not command or started not in WORKERS or (error == "launcher" and started != WORKERS[0]):
        return

    def instead(self, *args, **kwargs):
        del self, kwargs
        if error == "launcher":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        if error == "unreadable":
            Path(args[0]).write_bytes(b"nothing that could be read")
            return
        raise ERRORS[error]

    worker = getattr(program, "Worker", Worker)
    setattr(worker, command, instead)


@dataclass(frozen=True)
class Breaking(FakeBackend):
    """A backend that behaves, in a worker that does not.

    Attributes:
        command: The command that fails.
        error: What it raises; `launcher` ends the process that it was forked from.
    """

    framework: ClassVar[str] = "nodebench.testing:FakeFramework"
    command: str = ""
    error: str = "UserError"

    def __post_init__(self):
        broken(self.command, self.error)


@dataclass(frozen=True)
class BreakingTask(FakeTask):
    """The same of a task, which the process that prepares for all cells loads as well."""

    command: str = ""
    error: str = "UserError"

    def __post_init__(self):
        broken(self.command, self.error)
