"""The runner's end of a worker: start it, ask it, and know how it died."""

import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryFile
from typing import Concatenate, ParamSpec, TypeVar

from nodebench.bench.messages import LIMITED, OUT_OF_MEMORY, Assignment, Failure, Questions, TrainingProgress
from nodebench.bench.processes import (
    CAN_FORK,
    AbstractProcess,
    Forked,
    Launcher,
    LauncherError,
    Launchers,
    Spawned,
    StartMethod,
    ending,
    environment,
    kept_launchers,
    printed,
)
from nodebench.bench.request import Interpreter
from nodebench.results.record import PRINTED

P = ParamSpec("P")
T = TypeVar("T")

DEATH_S = 10.0
"""How long a worker that has closed its connection may take to end."""

OUTPUT_LINES = 200
"""How much is kept of what a worker printed before it failed."""


class WorkerError(Exception):
    """A worker could not answer a question, or the worker died or was killed for taking too long.

    Args:
        failure: The status and reason for the record.
    """

    def __init__(self, failure: Failure) -> None:
        Exception.__init__(self, failure.reason)
        self.failure = failure


class LostError(WorkerError):
    """A worker ended because its launcher did, for which it is not to blame: it can be started again without one."""


class WorkerProcess:
    """A live worker. It runs in a session of its own, so that it and all it started can be killed together.

    It dies with this process. Where it is a new interpreter, it does so on Linux alone, and with the thread that made
    this, which must be one that lives as long as the worker is needed.

    Args:
        assignment: The cell it measures.
        interpreter: How it is started.
        launchers: Where it is forked if that is safe; None for a new interpreter.

    Attributes:
        start_method: How it was started, once it is ready.
        unforked: Why it was not forked, where it was to be.
    """

    def __init__(self, assignment: Assignment, interpreter: Interpreter, launchers: Launchers | None) -> None:
        self._assignment, self._interpreter = assignment, interpreter
        self._environment = _environment(assignment, interpreter)
        self._output = TemporaryFile()  # noqa: SIM115  lives as long as the worker
        self._oom_kills = _oom_kills()
        self._unheard: list[object] = []
        """What it has been sent before it was known to be there."""
        self._ready = False
        self.start_method: StartMethod = "spawn"
        self.unforked = ""
        launcher = launch(assignment, interpreter, launchers)
        if launcher is None:
            self._spawn()
            return
        try:
            self._process: AbstractProcess = Forked(launcher, self._connect(), self._output)
        except LauncherError as error:
            self._spawn(str(error))

    def _disconnect(self) -> None:
        self._connection.close()
        self._theirs.close()

    def _connect(self) -> socket.socket:
        """A new connection, over which it has been told what it is for; the worker's end of it."""
        ours, self._theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        for message in (self._assignment, *self._unheard):
            self._connection.send(message)
        return self._theirs

    def _spawn(self, unforked: str = "") -> None:
        if unforked:
            self.unforked = unforked
            self._disconnect()
        with self._connect() as theirs:
            self._process = Spawned(theirs, self._output, self._interpreter, self._environment)

    def ready(self, timeout_s: float | None = None) -> None:
        """Wait until it has imported all that its cell needs, which it does unasked.

        Raises:
            WorkerError: If something cannot be imported, the worker dies, or the time is over.
        """
        if self._ready:
            return
        self._ready = True
        began = time.monotonic()
        if isinstance(self._process, Forked):
            self._settle(self._process, timeout_s)
        self.receive(Questions.importing, timeout_s=timeout_s, began=began)

    def _settle(self, process: Forked, timeout_s: float | None) -> None:
        """Wait for the launcher; where it does not fork, start a new interpreter, which is told all again."""
        try:
            process.settle(timeout_s)
        except LauncherError as error:
            process.release()
            self._spawn(str(error))
        except TimeoutError:
            process.launcher.kill()
            raise WorkerError(self._too_long("importing", timeout_s)) from None
        else:
            self._theirs.close()
            self.start_method = "fork"

    def send(self, question: Callable[Concatenate[Questions, P], T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Send a question, to be answered after those sent before; for each, `receive` waits for the answer.

        Args:
            question: A method of `Questions`.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            WorkerError: If the worker has died.
        """
        message = (question.__name__, args, kwargs)
        if not self._ready:
            self._unheard.append(message)
        try:
            self._connection.send(message)
        except (EOFError, ConnectionError) as error:
            if self._ready:  # else that is told where it is waited for
                raise self._death(question.__name__) from error

    def receive(
        self,
        question: Callable[Concatenate[Questions, ...], T],
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[TrainingProgress], None] | None = None,
        began: float | None = None,
    ) -> T:
        """Wait for the answer to the earliest question that has not been answered, which is this one.

        Args:
            question: The question.
            timeout_s: Seconds after which the worker is killed; None to wait for ever.
            on_progress: Called with what the worker reports on the way.
            began: Since when these seconds count, on the clock of `time.monotonic`; None for now.

        Raises:
            WorkerError: If the worker fails, dies, or the time is over.
        """
        if question is not Questions.importing:
            self.ready(timeout_s)
        deadline = None if timeout_s is None else (time.monotonic() if began is None else began) + timeout_s
        try:
            while True:
                remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._connection.poll(remaining):
                    self.kill()
                    raise WorkerError(self._too_long(question.__name__, timeout_s))
                kind, content = self._connection.recv()
                if kind == "answer":
                    answer: T = content
                    return answer
                if kind == "failure":
                    raise WorkerError(self._limited(self._with_output(content)))
                if on_progress is not None:
                    on_progress(content)
        except (EOFError, ConnectionError) as error:
            raise self._death(question.__name__) from error

    def stop(self) -> None:
        """End the worker and everything it started, at once: it holds nothing that is worth waiting for."""
        self.kill()
        self._disconnect()
        self._process.release()
        self._output.close()

    def kill(self) -> None:
        """Kill the worker and everything it started; its last output can still be read."""
        self._process.kill()

    def _too_long(self, question: str, timeout_s: float | None) -> Failure:
        reason = f"{question} took longer than {timeout_s:g} s; raise --timeout-s to let it."
        return Failure("timeout", reason, self._last_output())

    def _death(self, question: str) -> WorkerError:
        try:
            return WorkerError(self._limited(self._ended(question, self._code())))
        except LauncherError as error:
            reason = f"the worker ended during {question}: {error}."
            return LostError(Failure("failed", reason, self._last_output()))

    def _code(self) -> int:
        try:
            return self._process.wait(DEATH_S)
        except TimeoutError:  # it has closed its socket and hangs on its way out
            self.kill()
            return self._process.wait(DEATH_S)

    def _ended(self, question: str, code: int) -> Failure:
        output = self._last_output()
        how = ending(code)
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills:
            return Failure("oom", f"the worker {how} during {question}: the machine ran out of memory.", output)
        if OUT_OF_MEMORY.search(output):
            return Failure("oom", f"the worker {how} during {question}: {_matching_line(output)}", output)
        last = output.strip().splitlines()[-1:] or ["it printed nothing"]
        return Failure("failed", f"the worker {how} during {question}; last output: {last[0]}", output)

    def _with_output(self, failure: Failure) -> Failure:
        output = self._last_output()
        if not output:
            return failure
        return replace(failure, traceback=f"{failure.traceback.rstrip()}\n\n{PRINTED}\n{output}")

    def _limited(self, failure: Failure) -> Failure:
        """A failure for want of memory with the limit that there is, if any, which need not be what it comes of."""
        limit = self._assignment.memory_limit_bytes
        text = f"{failure.reason}\n{failure.traceback}"
        if limit is None or not (failure.status == "oom" or LIMITED.search(text)):
            return failure
        reason = f"{failure.reason.rstrip(' :')}; `--memory-limit-gib {limit / 2**30:.3g}` is in force."
        return replace(failure, status="oom", reason=reason)

    def printed(self) -> str:
        """All that it has printed so far, on either stream."""
        return printed(self._output)

    def _last_output(self) -> str:
        return "\n".join(self.printed().splitlines()[-OUTPUT_LINES:])


def launch(assignment: Assignment, interpreter: Interpreter, launchers: Launchers | None) -> Launcher | None:
    """The launcher of a worker, which has begun to import at the latest when this returns; None where none is to be."""
    if launchers is None or not CAN_FORK:
        return None
    return launchers.launcher(interpreter, assignment.framework, _environment(assignment, interpreter))


def _environment(assignment: Assignment, interpreter: Interpreter) -> dict[str, str]:
    return environment(interpreter, spin=assignment.cores is not None and assignment.threads > 1)


def with_launchers(work: Callable[[Launchers | None], T], lost: Callable[[LostError], None] = lambda _: None) -> T:
    """Do work that opens workers with the launchers it is handed; where one has ended, again with new interpreters.

    Args:
        work: The work.
        lost: Called before it is done again.
    """
    try:
        return work(kept_launchers())
    except LostError as error:
        lost(error)
        return work(None)


def _oom_kills() -> int:
    counters = Path("/proc/vmstat")
    if not counters.exists():
        return 0
    return sum(int(line.split()[1]) for line in counters.read_text().splitlines() if line.startswith("oom_kill "))


def _matching_line(output: str) -> str:
    return next(line.strip() for line in reversed(output.splitlines()) if OUT_OF_MEMORY.search(line))
