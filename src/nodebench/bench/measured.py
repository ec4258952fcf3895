"""A cell while it is being measured: its worker, and what is known of it so far."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodebench.bench.accuracy import Reference
from nodebench.bench.jobs import Cores, WorkClock
from nodebench.bench.messages import Failure, Turn, sentence_of
from nodebench.bench.plan import Cell
from nodebench.bench.process import LostError, WorkerError, WorkerProcess, launch, with_launchers
from nodebench.bench.settings import Settings
from nodebench.bench.starting import Launchers
from nodebench.plots import RenderedPlot

Figures = dict[str, Any]
"""Fields of a record by name."""


def repeated(lost: LostError) -> str:
    """The note on what was lost with its launcher and has been done again."""
    return f"measured again in a new interpreter: {lost.failure.reason}"


def no_figures() -> Figures:
    """What is known of a cell before it is measured."""
    return {"status": "ok", "notes": []}


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
class Measured:
    """What is known of a cell so far.

    Attributes:
        cell: The cell.
        settings: How it is measured.
        figures: Fields of its record.
        inputs: The state of its model and its batch, as all cells that are compared have them; None before they are
            there.
        files: Digests of the files of code that its workers have loaded and that belong to no installed package.
        conditions: What must be equal for all that are compared with it, as its worker found it.
        compiles: Whether its first gradient step compiled.
        resident_bytes: Highest resident set of its worker, which the timing needs room for.
        gradients: Its gradients and states, until it is judged; None where it did not get so far.
        starts: The series of its timing.
        plots: Plots of its trained model.
        clock: Measures the time of measured work, together with that of other cells that have the same clock.
        companion: Whether it is measured for others to be compared with, and leaves no record.
        failed: Whether its worker has failed; a cell that is judged wrong has not.
    """

    cell: Cell
    settings: Settings
    figures: Figures = field(default_factory=no_figures)
    inputs: Path | None = None
    files: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    compiles: bool = False
    resident_bytes: int = 0
    starts: list[Start] = field(default_factory=list)
    gradients: Reference | None = None
    plots: tuple[RenderedPlot, ...] = ()
    clock: WorkClock = field(default_factory=WorkClock)
    companion: bool = False
    failed: bool = False
    _worker: WorkerProcess | None = field(default=None, init=False)

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong with it."""
        return bool(self.figures["status"] == "ok")

    @property
    def alive(self) -> bool:
        """Whether it has a worker."""
        return self._worker is not None

    def note(self, text: str) -> None:
        """Add to what a reader must know of the figures, once."""
        if text not in self.figures["notes"]:
            self.figures["notes"].append(text)

    def launch(self, launchers: Launchers) -> None:
        """Have launchers begin to import what a worker of it needs."""
        launch(self.settings.assignment(self.cell), self.settings.interpreter, launchers)

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
        assignment = self.settings.assignment(self.cell, own, cores)
        self._worker = WorkerProcess(assignment, interpreter, launchers)

    def send(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """Send its worker a command whose answer `receive` waits for; raises `WorkerError` if it has died."""
        assert self._worker is not None, "a cell without a worker is sent nothing"
        self._worker.send(command, arguments)

    def receive(self, command: str) -> Any:
        """Wait for the answer to a command that was sent, which is no measured work; raises as `ask`."""
        worker = self._ready()
        return worker.receive(command, timeout_s=self.settings.timeout(self.cell))

    def ask(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        overhead: bool = False,
        on_progress: Callable[[Any], None] | None = None,
    ) -> Any:
        """Send its worker a command and wait for the answer.

        Args:
            command: Name of the command.
            arguments: Its keyword arguments.
            overhead: Whether it serves the harness alone and is no measured work.
            on_progress: Called with what the worker reports on the way.

        Raises:
            WorkerError: If the command fails, the worker dies, or the time is over.
        """
        worker = self._ready()
        with nullcontext() if overhead else self.clock.running():
            timeout_s = self.settings.timeout(self.cell)
            return worker.ask(command, arguments, timeout_s=timeout_s, on_progress=on_progress)

    def ask_fresh(self, command: str, arguments: dict[str, Any], *, overhead: bool = False) -> Any:
        """Start a fresh worker and ask it; where its launcher ends meanwhile, a new interpreter. Otherwise as `ask`."""

        def ask(launchers: Launchers | None) -> Any:
            self.dismiss()
            self.open(launchers)
            return self.ask(command, arguments, overhead=overhead)

        return with_launchers(ask)

    def _ready(self) -> WorkerProcess:
        """Its worker, once it has imported what it needs."""
        assert self._worker is not None, "a cell without a worker is asked nothing"
        worker = self._worker
        worker.ready(self.settings.timeout(self.cell))
        forked = worker.start_method == "fork" and self.figures.get("start_method", "fork") == "fork"
        self.figures["start_method"] = "fork" if forked else "spawn"
        if worker.unforked:
            self.note(f"started as a new interpreter: {worker.unforked}")
        return worker

    def attempt(self, work: Callable[[Launchers | None], None]) -> None:
        """Do work on a worker that it opens with the launchers it is handed; whatever it fails with is the result.

        Where a launcher has ended, it is done again with a new interpreter, as if nothing had been.
        """
        before = self.figures

        def again(lost: LostError) -> None:
            self.forget(before)
            self.note(repeated(lost))

        self.forget(before)
        with self.failures():
            with_launchers(work, again)
        self.dismiss()

    def forget(self, figures: Figures) -> None:
        """Go back to what was known before: whatever has been done since is done again."""
        self.dismiss()
        self.failed = False
        self.figures = {**figures, "notes": list(figures["notes"])}

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
            self.fail(Failure("failed", sentence_of(error), "".join(traceback.format_exception(error))))

    def fail(self, failure: Failure) -> None:
        """Enter how it failed, and let its worker go."""
        self.failed = True
        self.figures |= failure.figures
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
