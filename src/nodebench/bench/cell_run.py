"""A cell while it is being measured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from nodebench.bench.client import LostError, WorkerError, WorkerProcess, launch, with_launchers
from nodebench.bench.jobs import WorkClock
from nodebench.bench.messages import Assignment, Failure, Questions, TrainingProgress, Turn
from nodebench.bench.plan import Cell
from nodebench.bench.processes import Launchers
from nodebench.bench.request import Settings
from nodebench.bench.saved import Reference
from nodebench.errors import Status
from nodebench.results.machine import Cores, usable_cores
from nodebench.results.record import Measurement

P = ParamSpec("P")
T = TypeVar("T")


def repeated(lost: LostError) -> str:
    """The note on what was lost with its launcher and has been done again."""
    return f"measured again in a new interpreter: {lost.failure.reason}"


@dataclass(frozen=True)
class Start:
    """What one fresh worker measured in its turns.

    Attributes:
        turns: Its turns, in the order of the rounds.
        control: The control's turns in the very same rounds.
    """

    turns: list[Turn]
    control: list[Turn]


@dataclass
class CellRun:
    """A cell while it is being measured: its worker, and what is known of it so far.

    Attributes:
        cell: The cell.
        settings: How it is measured.
        found: What was measured so far.
        inputs: The state of its model and its batch, as all cells that are compared have them; None before they are
            there.
        files: Digests of the files of code that its workers have loaded and that belong to no installed package.
        conditions: What must be equal for all that are compared with it, as its worker found it.
        compiles: Whether its first gradient step compiled.
        resident_bytes: Highest resident set of its worker, which the timing needs room for.
        gradients: Its gradients and states, until it is judged; None where it did not get so far.
        starts: The series of its timing.
        clock: Measures the time of measured work, together with that of other cells that have the same clock.
        trains: Whether the step that is measured is one of its training, rather than a gradient step.
        failed: Whether its worker has failed; a cell that is judged wrong has not.
    """

    cell: Cell
    settings: Settings
    found: Measurement = field(default_factory=Measurement)
    inputs: Path | None = None
    files: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    compiles: bool = False
    resident_bytes: int = 0
    starts: list[Start] = field(default_factory=list)
    gradients: Reference | None = None
    clock: WorkClock = field(default_factory=WorkClock)
    trains: bool = False
    failed: bool = False
    _worker: WorkerProcess | None = field(default=None, init=False)

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong with it."""
        return self.found.ok

    @property
    def first_step(self) -> float:
        """First step of every solve of it, which has been chosen."""
        assert self.found.first_step is not None, "what prepares for it has chosen one"
        return self.found.first_step

    @property
    def alive(self) -> bool:
        """Whether it has a worker."""
        return self._worker is not None

    def note(self, text: str) -> None:
        """Add to what a reader must know of the figures, once."""
        self.found = self.found.noted(text)

    def enter(self, *found: Measurement) -> None:
        """Add what was found to what is known."""
        for each in found:
            self.found = self.found.joined(each)

    def condemn(self, status: Status, reason: str | None) -> None:
        """Judge it, where there is a reason and nothing else has gone wrong with it."""
        if reason and self.ok:
            self.found = replace(self.found, status=status, reason=reason)

    def launch(self, launchers: Launchers) -> None:
        """Have launchers begin to import what a worker of it needs."""
        launch(Assignment.of(self.cell, self.settings), self.settings.interpreter, launchers)

    def open(self, launchers: Launchers | None, programs: Path | None = None, cores: Cores = None) -> None:
        """Start a fresh worker, which begins to import what it needs.

        Args:
            launchers: Where it is forked if that is safe; None for a new interpreter.
            programs: Folder in which workers of the same cell keep compiled programs for each other, or None.
            cores: The cores that it may be kept to; None for those of the settings.
        """
        # A folder for each cell of each version: what one had compiled would make another's first step cheaper.
        interpreter = self.settings.interpreter
        own = None if programs is None else programs / (interpreter.name and "other") / self.cell.cell_id
        assignment = Assignment.of(self.cell, self.settings, own, cores)
        self._worker = WorkerProcess(assignment, interpreter, launchers)

    def send(self, question: Callable[Concatenate[Questions, P], T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Send its worker a question whose answer `receive` waits for; raises `WorkerError` if it has died."""
        assert self._worker is not None, "a cell without a worker is sent nothing"
        self._worker.send(question, *args, **kwargs)

    def receive(
        self,
        question: Callable[Concatenate[Questions, ...], T],
        on_progress: Callable[[TrainingProgress], None] | None = None,
    ) -> T:
        """Wait for the answer to a question that was sent, which is no measured work; raises as `ask`."""
        return self._ready().receive(question, timeout_s=self.settings.timeout(self.cell), on_progress=on_progress)

    def ask(self, question: Callable[Concatenate[Questions, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask its worker a question whose answer is measured work, and wait for the answer.

        Args:
            question: A method of `Questions`.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            WorkerError: If the worker fails, dies, or the time is over.
        """
        worker = self._ready()
        with self.clock.running():
            worker.send(question, *args, **kwargs)
            return worker.receive(question, timeout_s=self.settings.timeout(self.cell))

    def ask_aside(self, question: Callable[Concatenate[Questions, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask a question that serves the harness alone and is no measured work; otherwise as `ask`."""
        self._ready()
        self.send(question, *args, **kwargs)
        return self.receive(question)

    def anew(self, ask: Callable[[], T]) -> T:
        """Start a fresh worker and ask it something; where its launcher ends meanwhile, a new interpreter."""

        def attempt(launchers: Launchers | None) -> T:
            self.dismiss()
            self.open(launchers)
            return ask()

        return with_launchers(attempt)

    def _ready(self) -> WorkerProcess:
        """Its worker, once it has imported what it needs."""
        assert self._worker is not None, "a cell without a worker is asked nothing"
        worker = self._worker
        worker.ready(self.settings.timeout(self.cell))
        forked = worker.start_method == "fork" and self.found.start_method in (None, "fork")
        self.found = replace(self.found, start_method="fork" if forked else "spawn")
        if worker.unforked:
            self.note(f"started as a new interpreter: {worker.unforked}")
        return worker

    def attempt(self, work: Callable[[Launchers | None], None]) -> None:
        """Do work on a worker that it opens with the launchers it is handed; whatever it fails with is the result.

        Where a launcher has ended, it is done again with a new interpreter, as if nothing had been.
        """
        before = self.found

        def again(lost: LostError) -> None:
            self.forget(before)
            self.note(repeated(lost))

        self.forget(before)
        with self.failures():
            with_launchers(work, again)
        self.dismiss()

    def forget(self, before: Measurement) -> None:
        """Go back to what was known before: whatever has been done since is done again."""
        self.dismiss()
        self.failed = False
        self.found = before

    def begin_step(self) -> None:
        """Send an open worker what builds all that a step needs and makes the first; `first_step_made` waits for it."""
        if self.trains:
            self.send(Questions.prepare_training_step, self.found.first_step)
        else:
            assert self.inputs is not None, "the preparing worker has written them"
            self.send(Questions.prepare, self.first_step, self.inputs)

    def first_step_made(self) -> None:
        """Wait for what `begin_step` began."""
        self.receive(Questions.prepare_training_step if self.trains else Questions.prepare)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Whatever its worker, or what it left, fails with becomes its result, but for the end of its launcher.

        Raises:
            LostError: If its launcher has ended.
        """
        try:
            yield
        except LostError:
            raise
        except WorkerError as error:
            self.fail(error.failure)
        except Exception as error:  # noqa: BLE001  a file of its that cannot be read, say; the record has the traceback
            self.fail(Failure.of_error(error))

    def fail(self, failure: Failure) -> None:
        """Enter how it failed, and let its worker go."""
        self.failed = True
        self.found = failure.of(self.found)
        self.dismiss()

    def kill(self) -> None:
        """End its worker, for whoever waits for an answer of it to find that out."""
        if self._worker is not None:
            self._worker.kill()

    def dismiss(self) -> None:
        """End its worker."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


def probe_run(cell: Cell, settings: Settings, clock: WorkClock) -> CellRun:
    """What prepares for the cells that are compared with this one: on all cores, since nothing is timed.

    It has no backend: one that is broken must not take the others down.
    """
    alone = replace(cell, backend=None, threads=usable_cores())
    return CellRun(alone, replace(settings, cores=None), clock=clock)
