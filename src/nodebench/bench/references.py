"""The reference gradients of cells that are compared, made as accurate as the cells turn out to need."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nodebench.bench.accuracy import UNREADABLE, Reference
from nodebench.bench.cell_run import CellRun
from nodebench.bench.client import LostError, WorkerError
from nodebench.bench.jobs import WorkClock
from nodebench.bench.machine import usable_cores
from nodebench.bench.messages import Event, Questions, ReferenceFile
from nodebench.bench.plan import Cell
from nodebench.bench.processes import kept_launchers
from nodebench.bench.request import Settings


def preparer(cell: Cell, settings: Settings, clock: WorkClock) -> CellRun:
    """What prepares for the cells that are compared with this one: on all cores, since nothing is timed.

    It has no backend: one that is broken must not take the others down.
    """
    alone = replace(cell, backend=None, threads=usable_cores())
    return CellRun(alone, replace(settings, cores=None), clock=clock)


@dataclass
class References:
    """The reference gradients of one problem.

    Attributes:
        cell: A cell that is compared.
        settings: How cells are measured.
        first_step: First step of every solve that does not choose its own.
        inputs: The state of the model and the batch.
        folder: Where references are kept.
        notify: Told what happens.
        clock: Measures the time spent on them.
        found: The most accurate reference so far, or None.
        level: Its level; 0 where there is none.
        finest: Whether there is no more accurate one to be had.
        reason: Why there is none, or no more accurate one, where an attempt at it failed.
        contradicted: Whether the gradient that solvers compute is not that of the loss, for that reason.
        notes: What a reader must know of how it was come by.
    """

    cell: Cell
    settings: Settings
    first_step: float
    inputs: Path
    folder: Path
    notify: Callable[[Event], None]
    clock: WorkClock
    found: Reference | None = field(default=None, init=False)
    level: int = field(default=0, init=False)
    finest: bool = field(default=False, init=False)
    reason: str | None = field(default=None, init=False)
    contradicted: bool = field(default=False, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def begin(self, worker: CellRun) -> None:
        """Have a worker of the cell find the first reference, however inaccurate."""
        self._next(worker)

    def refine(self, suffices: Callable[[Reference], bool]) -> None:
        """Go on from level to level until a reference suffices, or there is none that is more accurate.

        What is kept from earlier is gone through like the rest: it saves time, and must not change what is found.
        """
        if self._done(suffices):
            return
        worker = preparer(self.cell, self.settings, self.clock)
        worker.open(kept_launchers())
        try:
            while not self._done(suffices):
                self._next(worker)
        finally:
            worker.dismiss()

    def _done(self, suffices: Callable[[Reference], bool]) -> bool:
        return self.finest or (self.found is not None and suffices(self.found))

    def _next(self, worker: CellRun) -> None:
        """One level, with a time limit of its own; where it fails, what there is remains, and is the best there is."""
        text = f"reference gradient, refinement {self.level}" if self.level else "reference gradient"
        self.notify(Event("cell", text, worker.cell))
        arguments = (self.first_step, self.inputs, self.folder, self.level + 1)
        answer: ReferenceFile
        try:
            try:
                answer = worker.ask(Questions.reference, *arguments)
            except LostError:
                answer = worker.anew(lambda: worker.ask(Questions.reference, *arguments))
            found = None if answer.path is None else Reference.load(answer.path)
        except WorkerError as error:
            answer, found = ReferenceFile(None, error.failure.reason), None
        except UNREADABLE as error:
            answer, found = ReferenceFile(None, f"`{answer.path}` cannot be read: {error}."), None
        self.finest, self.reason, self.contradicted = answer.finest, answer.reason, answer.contradicted
        self.notes += answer.notes
        if found is not None:
            self.found, self.level = found, self.level + 1
