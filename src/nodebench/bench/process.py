"""The runner's end of a worker: start it, ask it, and know how it died."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from nodebench.bench.interpreter import Interpreter
from nodebench.bench.messages import OUT_OF_MEMORY, Assignment, Failure
from nodebench.importing import UTF_8
from nodebench.results.record import PRINTED

DEATH_S = 10.0
"""How long a worker that has closed its connection may take to end."""

OUTPUT_LINES = 200
"""How much is kept of what a worker printed before it failed."""


class WorkerError(Exception):
    """A worker's command failed, or the worker died or was killed for taking too long.

    Args:
        failure: The status and reason for the record.
    """

    def __init__(self, failure: Failure) -> None:
        Exception.__init__(self, failure.reason)
        self.failure = failure


class WorkerProcess:
    """A live worker. It runs in a session of its own, so that it and all it started can be killed together.

    On Linux it dies with the thread that made this, which must be one that lives as long as the worker is needed.

    Args:
        assignment: The cell it measures.
        interpreter: How it is started.
    """

    def __init__(self, assignment: Assignment, interpreter: Interpreter) -> None:
        ours, theirs = socket.socketpair()
        self._output = TemporaryFile()  # noqa: SIM115  lives as long as the worker
        self._oom_kills = _oom_kills()
        self._process = subprocess.Popen(
            [*interpreter.command, "-m", "nodebench.bench.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            cwd=interpreter.folder,
            env={**_environment(assignment), "PYTHONPATH": interpreter.search_path},
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._connection.send(assignment)
        self._ready = False

    def ready(self, timeout_s: float | None = None) -> None:
        """Wait until it has imported all that its cell needs, which it does unasked.

        Raises:
            WorkerError: If something cannot be imported, the worker dies, or the time is over.
        """
        if not self._ready:
            self._ready = True
            self.receive("importing", timeout_s=timeout_s)

    def ask(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[Any], None] | None = None,
    ) -> Any:
        """Send a command and wait for its answer.

        Args:
            command: Name of a method in `Worker.commands`.
            arguments: Its keyword arguments.
            timeout_s: Seconds after which the worker is killed; None to wait for ever.
            on_progress: Called with what the worker reports on the way.

        Raises:
            WorkerError: If the command fails, the worker dies, or the time is over.
        """
        self.ready(timeout_s)
        self.send(command, arguments)
        return self.receive(command, timeout_s=timeout_s, on_progress=on_progress)

    def send(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """Send a command, to be carried out after those sent before; for each, `receive` waits for the answer.

        Raises:
            WorkerError: If the worker has died.
        """
        try:
            self._connection.send((command, arguments or {}))
        except (EOFError, ConnectionError) as error:
            raise WorkerError(self._death(command)) from error

    def receive(
        self, command: str, *, timeout_s: float | None = None, on_progress: Callable[[Any], None] | None = None
    ) -> Any:
        """Wait for the answer to the earliest command that has not been answered; otherwise as `ask`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while True:
                remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._connection.poll(remaining):
                    self.kill()
                    reason = f"{command} took longer than {timeout_s:g} s; raise --timeout-s to let it."
                    raise WorkerError(Failure("timeout", reason, self._last_output()))
                kind, content = self._connection.recv()
                if kind == "answer":
                    return content
                if kind == "failure":
                    raise WorkerError(self._with_output(content))
                if on_progress is not None:
                    on_progress(content)
        except (EOFError, ConnectionError) as error:
            raise WorkerError(self._death(command)) from error

    def stop(self) -> None:
        """End the worker and everything it started, at once: it holds nothing that is worth waiting for."""
        self.kill()
        self._connection.close()
        self._output.close()

    def kill(self) -> None:
        """Kill the worker and everything it started; its last output can still be read."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has already ended, which is what was wanted
        self._process.wait()

    def _death(self, command: str) -> Failure:
        try:
            code = self._process.wait(DEATH_S)
        except subprocess.TimeoutExpired:  # it has closed its socket and hangs on its way out
            self.kill()
            code = self._process.returncode
        output = self._last_output()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills:
            return Failure("oom", f"the worker {how} during {command}: the machine ran out of memory.", output)
        if OUT_OF_MEMORY.search(output):
            return Failure("oom", f"the worker {how} during {command}: {_matching_line(output)}", output)
        last = output.strip().splitlines()[-1:] or ["it printed nothing"]
        return Failure("failed", f"the worker {how} during {command}; last output: {last[0]}", output)

    def _with_output(self, failure: Failure) -> Failure:
        output = self._last_output()
        if not output:
            return failure
        return replace(failure, traceback=f"{failure.traceback.rstrip()}\n\n{PRINTED}\n{output}")

    def _last_output(self) -> str:
        # Not by reading on: a live worker writes where this file's position is, which the two share.
        file = self._output.fileno()
        text = os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
        return "\n".join(text.splitlines()[-OUTPUT_LINES:])


def _environment(assignment: Assignment) -> dict[str, str]:
    """Thread counts and allocators must be set before a framework is imported."""
    threads = str(assignment.cell.threads)
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        environment[name] = threads
    if assignment.cores is None:  # whoever has them beside it must not wait for threads that spin while they wait
        environment["OMP_WAIT_POLICY"] = "passive"
    flags = f"--xla_cpu_multi_thread_eigen={str(assignment.cell.threads > 1).lower()}"
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}".strip()
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if assignment.programs is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(assignment.programs / "jax")
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(assignment.programs / "inductor")
        environment["TORCHINDUCTOR_FX_GRAPH_CACHE"] = "1"
        environment["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "1"
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    environment["PYTHONUNBUFFERED"] = "1"  # what a process prints must be there when it dies
    environment["PYTHONSAFEPATH"] = "1"  # as `-P`, for the processes that compilers start
    environment |= UTF_8
    environment["EQX_ON_ERROR"] = "off"  # diffrax's checks would call back to the host from the timed program
    return environment


def _oom_kills() -> int:
    counters = Path("/proc/vmstat")
    if not counters.exists():
        return 0
    return sum(int(line.split()[1]) for line in counters.read_text().splitlines() if line.startswith("oom_kill "))


def _matching_line(output: str) -> str:
    return next(line.strip() for line in reversed(output.splitlines()) if OUT_OF_MEMORY.search(line))
