"""How a worker's process is started: forked by a launcher that has imported its framework, or as a new interpreter.

An import of a framework takes longer than most of what is measured, and each cell needs a fresh process for each start.
A launcher imports once and forks; what has been forked from one launcher has its address layout in common, so each of
several starts has fresh launchers. Where forking is not safe, and where there is no `/proc` to find that out, a worker
is a new interpreter.
"""

import atexit
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal
from weakref import finalize

from nodebench.bench.request import Interpreter
from nodebench.frameworks.base import FRAMEWORKS
from nodebench.importing import UTF_8

StartMethod = Literal["fork", "spawn"]

CAN_FORK = sys.platform == "linux" and hasattr(os, "pidfd_open")
"""Whether this system tells what a safe fork depends on. On macOS a forked process must not use system libraries."""

THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables by which libraries are told how many threads they may have."""

PASSING = ("PYTEST_CURRENT_TEST",)
"""Variables that say what a process does at the moment: no reason for another launcher."""

MAX_KEPT = 4
"""Launchers that one process keeps: of two frameworks, in two environments."""


class LauncherError(Exception):
    """A launcher does not fork, for the reason given."""


class AbstractProcess(ABC):
    """A process that has been started.

    Attributes:
        pid: Its id, which is that of its process group too.
    """

    pid: int

    @abstractmethod
    def wait(self, timeout_s: float) -> int:
        """Its exit code, or the negative number of the signal that ended it.

        Raises:
            TimeoutError: If it does not end in time.
            LauncherError: If its launcher has ended, and it with it.
        """

    @abstractmethod
    def release(self) -> None:
        """Let go of it once it has been killed; its id may be used again."""

    def kill(self) -> None:
        """Kill it and all that it started."""
        with suppress(ProcessLookupError):  # it has ended, which is what was wanted
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Spawned(AbstractProcess):
    """A new interpreter, which dies with the thread that made this.

    Args:
        connection: The worker's end of its connection.
        output: Where its output goes.
        interpreter: How it is started.
        environment: Its environment.
    """

    def __init__(
        self, connection: socket.socket, output: IO[bytes], interpreter: Interpreter, environment: Mapping[str, str]
    ) -> None:
        self._process = _program("worker.main", connection, output, interpreter, environment)
        self.pid = self._process.pid

    def wait(self, timeout_s: float) -> int:
        """See `AbstractProcess.wait`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error

    def release(self) -> None:
        """See `AbstractProcess.release`."""
        self._process.wait()


class Forked(AbstractProcess):
    """What a launcher was asked to fork, which may take until it has imported its framework.

    Args:
        launcher: The launcher.
        connection: The worker's end of its connection.
        output: Where its output goes.

    Raises:
        LauncherError: If the launcher has ended.
    """

    def __init__(self, launcher: "Launcher", connection: socket.socket, output: IO[bytes]) -> None:
        self.pid, self.launcher = 0, launcher
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                launcher.fork(connection.fileno(), output.fileno(), theirs.fileno())
            except LauncherError:
                self._status.close()
                raise
        launcher.workers.add(self)

    def settle(self, timeout_s: float | None) -> None:
        """Wait until it has been forked.

        Raises:
            LauncherError: If the launcher does not fork, or has ended.
            TimeoutError: If it does not answer in time.
        """
        kind, content = self._told(timeout_s)
        if kind == "refused":
            raise LauncherError(content)
        self.pid, self.launcher.has_forked = content, True

    def wait(self, timeout_s: float) -> int:
        """See `AbstractProcess.wait`."""
        return int(self._told(timeout_s)[1])

    def kill(self) -> None:
        """See `AbstractProcess.kill`; what has not been forked yet finds its connection closed."""
        if self.pid:
            super().kill()

    def release(self) -> None:
        """See `AbstractProcess.release`; the launcher kills what is left of it."""
        self._status.close()
        self.launcher.workers.discard(self)

    def _told(self, timeout_s: float | None) -> tuple[str, Any]:
        if not select.select([self._status], [], [], timeout_s)[0]:
            raise TimeoutError
        message = self._status.recv(2**16)
        if not message:
            raise LauncherError(self.launcher.last_words())
        kind, content = pickle.loads(message)
        return kind, content


class Launcher:
    """A launcher process, which ends with this one.

    Args:
        interpreter: How it is started.
        framework: What it imports; empty for none.
        environment: Its environment, and its workers'.

    Attributes:
        workers: Workers of it that have not been let go of.
        has_forked: Whether it has forked any.
    """

    def __init__(self, interpreter: Interpreter, framework: str, environment: Mapping[str, str]) -> None:
        self.workers: set[Forked] = set()
        self.has_forked = False
        self._imported = False
        self._output = TemporaryFile()  # noqa: SIM115  lives as long as the launcher
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for held in (self._output, self._control):
            finalize(self, held.close)  # not before: a worker of it may want to know how it ended
        with theirs:
            self._process = _program("launcher", theirs, self._output, interpreter, environment, framework)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def settle(self, timeout_s: float | None) -> None:
        """Wait until it no longer imports: it has imported all, or has ended, which it does if that takes too long."""
        if not self._imported and not select.select([self._control], [], [], timeout_s)[0]:
            self.kill()
        self._imported = True

    def fork(self, *handed: int) -> None:
        """Ask it for a worker, by the descriptors that are named in `nodebench.bench.launcher.HANDED`.

        Raises:
            LauncherError: If it has ended.
        """
        try:
            socket.send_fds(self._control, [b"f"], list(handed))
        except OSError as error:
            raise LauncherError(self.last_words()) from error

    def last_words(self) -> str:
        """How it ended."""
        lines = printed(self._output).strip().splitlines()
        last = f"; last output: {lines[-1]}" if lines else ""
        return f"the process that imports the framework {ending(self._process.wait())}{last}"

    def kill(self) -> None:
        """End it, and its workers with it."""
        self._process.kill()
        self._process.wait()


class Launchers:
    """Launchers by what their workers have in common; made when they are first needed, and closed together.

    Several threads may ask.
    """

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._known: dict[object, Launcher] = {}

    def __enter__(self) -> "Launchers":
        """The launchers, to be closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all."""
        self.close()

    def launcher(self, interpreter: Interpreter, framework: str, environment: Mapping[str, str]) -> Launcher:
        """The launcher of these. One that has been killed gives way to another, but not one that cannot even start."""
        name = framework if framework in FRAMEWORKS else ""
        key = (interpreter, name, frozenset(environment.items()), _inherited())
        with self._lock:
            found = self._known.pop(key, None)
            if found is None or (found.ended and found.has_forked):
                found = Launcher(interpreter, name, environment)
            idle = [old for old, launcher in self._known.items() if not launcher.workers]
            for old in idle[: max(0, len(self._known) + 1 - MAX_KEPT)]:
                self._known.pop(old).kill()
            self._known[key] = found
        return found

    def settle(self, timeout_s: float | None) -> None:
        """Wait until none of them imports any more: what is timed must not be beside that."""
        for launcher in list(self._known.values()):
            launcher.settle(timeout_s)

    def close(self) -> None:
        """End all launchers and their workers; a fork of this process leaves them alone."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            for launcher in self._known.values():
                launcher.kill()
            self._known.clear()


def kept_launchers() -> Launchers:
    """Launchers that last as long as this process, for whatever is not timed: another run need not import again."""
    return _launchers_of(os.getpid())  # what a fork of this process finds is not its own


@cache
def _launchers_of(pid: int) -> Launchers:
    del pid
    launchers = Launchers()
    atexit.register(launchers.close)
    return launchers


def environment(interpreter: Interpreter, *, spin: bool) -> dict[str, str]:
    """Environment of a worker and of its launcher: what must be set before a framework is imported.

    Args:
        interpreter: How it is started.
        spin: Whether threads that wait may keep their cores busy.
    """
    # One thread until the worker says how many: a pool that an import makes would stand in the way of a fork.
    own = dict.fromkeys(THREAD_COUNTS, "1")
    if not spin:
        own["OMP_WAIT_POLICY"] = "passive"
    own["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    own["PYTHONUNBUFFERED"] = "1"  # what a process prints must be there when it dies
    own["PYTHONSAFEPATH"] = "1"  # as `-P`, for the processes that compilers start
    own["EQX_ON_ERROR"] = "off"  # diffrax's checks would call back to the host from the timed program
    inherited = {name: value for name, value in os.environ.items() if name not in PASSING}
    return {**inherited, **own, **UTF_8, "PYTHONPATH": interpreter.search_path}


def _inherited() -> object:
    """What a process has from the one that started it, beside its environment."""
    return Path.cwd(), tuple(sorted(os.sched_getaffinity(0))), os.getpriority(os.PRIO_PROCESS, 0)


def _program(
    module: str,
    handed: socket.socket,
    output: IO[bytes],
    interpreter: Interpreter,
    environment: Mapping[str, str],
    *arguments: str,
) -> "subprocess.Popen[bytes]":
    """A new interpreter that runs a module of the harness, in a session of its own, with a socket that it is handed."""
    return subprocess.Popen(
        [*interpreter.command, "-m", f"nodebench.bench.{module}", str(handed.fileno()), *arguments],
        pass_fds=[handed.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        cwd=interpreter.folder,
        env=environment,
    )


def printed(output: IO[bytes]) -> str:
    """All that a process has printed into a file so far."""
    # Not by reading on: a live process writes where this file's position is, which the two share.
    file = output.fileno()
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
