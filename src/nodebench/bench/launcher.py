"""The launcher: a process that has imported a framework and nothing else, and forks workers that need not import it.

It is started as `python -m nodebench.bench.launcher FD FRAMEWORK`. Each message on the socket FD hands it a worker's
connection, the file of its output, and a socket on which it answers: the worker's process id, or why it does not fork;
then, when the worker has ended, its exit code. Unasked it says on FD, once, that it has imported all, or tried to. It
ends with its runner, and its workers end with it.

Forking is safe as long as the process has one thread, and has used neither the framework nor a device. Both are looked
at before every fork: what an import has left running is not known beforehand.
"""

import gc
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodebench import registry
from nodebench.bench.messages import sentence_of
from nodebench.bench.worker import main as worker
from nodebench.errors import NotInstalledError
from nodebench.frameworks.base import FRAMEWORKS, load_framework

HANDED = ("connection", "output", "status")
"""What each message hands over, in this order."""

DEVICES = "/dev/nvidia"
"""How the paths of devices begin that a process has open once it has a CUDA context."""


def n_threads() -> int:
    """Threads of this process, Python's and others'."""
    return len(list(Path("/proc/self/task").iterdir()))


def hindrance() -> str:
    """Why a fork of this process, as it is now, is not safe; empty where it is."""
    running = n_threads()
    if running > 1:
        return f"{running} threads run in a process that has imported the framework"
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of this very listing
            if str(descriptor.readlink()).startswith(DEVICES):
                return "a process that has imported the framework has opened a CUDA device"
    return ""


@dataclass(frozen=True)
class _Child:
    """A worker that has been forked.

    Attributes:
        pid: Its process id, which is kept from being used again until the runner lets go of it.
        ended: A descriptor that can be read from when it has ended.
        status: Where the runner is told.
    """

    pid: int
    ended: int
    status: socket.socket


class _Launcher:
    """Serves one runner.

    Args:
        control: Where it is told to fork.
        failure: Why nothing can be forked; empty where all was imported.
    """

    def __init__(self, control: socket.socket, failure: str) -> None:
        self._control, self._failure = control, failure
        self._connection: int | None = None
        """Of a worker that has been forked."""
        self._runner = os.pidfd_open(os.getppid())
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(self._runner, selectors.EVENT_READ)

    def serve(self) -> int | None:
        """Fork when told to, until the runner has ended or let go.

        Returns:
            In a worker that has been forked, at once, its connection; None in the launcher.
        """
        while True:
            for key, _ in self._selector.select():
                child: _Child | None = key.data
                if self._selector.get_map().get(key.fileobj) is not key:
                    continue  # of a worker that has been let go of a moment ago; its descriptor may be another's by now
                if child is not None:
                    self._ended(child) if key.fileobj == child.ended else self._let_go(child)
                elif key.fileobj is self._runner or not self._told():
                    return None
                elif self._connection is not None:
                    return self._connection

    def _told(self) -> bool:
        """Do as the next message says; False where there is none to come."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, len(HANDED))
        if not message:
            return False
        connection, output, status_descriptor = descriptors
        status = socket.socket(fileno=status_descriptor)
        refusal = self._failure or hindrance()
        if refusal:
            _say(status, "refused", refusal)
            status.close()
        else:
            self._fork(connection, output, status)
        if self._connection is None:
            os.close(connection)
            os.close(output)
        return True

    def _fork(self, connection: int, output: int, status: socket.socket) -> None:
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._connection = connection
            self._become_worker(output, status, launcher)
            return
        child = _Child(pid, os.pidfd_open(pid), status)
        _say(status, "forked", pid)
        self._selector.register(child.ended, selectors.EVENT_READ, child)
        self._selector.register(status, selectors.EVENT_READ, child)

    def _become_worker(self, output: int, status: socket.socket, launcher: int) -> None:
        """Let go of what is the launcher's."""
        os.setsid()  # so that it and all it starts can be killed together
        worker.die_with_parent()
        if os.getppid() != launcher:
            sys.exit("the launcher is gone")
        for held in [key.fd for key in self._selector.get_map().values()]:
            os.close(held)
        self._selector.close()
        os.close(status.detach())
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        np.random.seed()  # noqa: NPY002  as in an interpreter of its own: what nobody has seeded is not the same
        gc.enable()

    def _ended(self, child: _Child) -> None:
        """Tell the runner how a worker ended. It is not reaped: the runner may be about to kill its group by its id."""
        self._selector.unregister(child.ended)
        os.close(child.ended)
        found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert found is not None, "it has ended"
        _say(child.status, "ended", found.si_status if found.si_code == os.CLD_EXITED else -found.si_status)

    def _let_go(self, child: _Child) -> None:
        """The runner wants no more of a worker."""
        os.kill(child.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # it has just been forked, and leads no group yet
            os.killpg(child.pid, signal.SIGKILL)
        self._selector.unregister(child.status)
        child.status.close()
        os.waitpid(child.pid, 0)
        if child.ended in self._selector.get_map():
            self._selector.unregister(child.ended)
            os.close(child.ended)


def _say(status: socket.socket, kind: str, content: object) -> None:
    with suppress(OSError):  # a runner that has let go in the meantime needs no answer
        status.send(pickle.dumps((kind, content)))


def _import_ahead(framework: str) -> str:
    """Import what a worker of a framework needs of it and of this package; why that failed, or nothing.

    That is the same whatever the worker is for: by what a process has loaded a result is known. Plugins of others are
    imported by the workers that need them: what they do then concerns no other cell.
    """
    try:
        if framework in FRAMEWORKS:
            load_framework(framework)
        for name in registry.names("backend"):
            if registry.is_own("backend", name) and registry.describe("backend", name).framework == framework:
                with suppress(NotInstalledError):  # its worker says so
                    registry.load_class(registry.describe("backend", name).target)
        registry.names("task")  # what is installed is looked up once
    except Exception as error:  # noqa: BLE001  the worker meets it again, and says so in the record
        return f"the framework cannot be imported: {sentence_of(error)}"
    gc.collect()
    gc.freeze()  # a collection in a worker need not go through all that was imported
    gc.disable()
    return ""


def main(control: int, framework: str) -> None:
    """Serve the runner that holds the other end of a socket; in each worker that is forked, serve its cell."""
    runner = socket.socket(fileno=control)
    failure = _import_ahead(framework)
    _say(runner, "imported", failure)
    code = 1
    try:
        connection = _Launcher(runner, failure).serve()
        if connection is not None:
            worker.serve(connection)
        code = 0
    except BaseException:  # noqa: BLE001  the process ends here, whatever it was; its output keeps the reason
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what the launcher would do at its own end is not a worker's to do


if __name__ == "__main__":
    name = sys.argv.pop()
    main(int(sys.argv.pop()), name)  # what is imported later reads no arguments of ours
