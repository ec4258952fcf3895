"""The reference gradients of cells that are compared, made as accurate as the cells turn out to need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nodebench.bench.events import Event
from nodebench.bench.machine import available_cores
from nodebench.bench.measured import Measured
from nodebench.bench.messages import ReferenceFile
from nodebench.bench.plan import Cell
from nodebench.bench.process import WorkerError
from nodebench.bench.settings import Settings


def preparer(cell: Cell, settings: Settings) -> Measured:
    """What prepares for the cells that are compared with this one: on all cores, since nothing is timed.

    It has no backend: one that is broken must not take the others down.
    """
    return Measured(replace(cell, backend=None, threads=len(available_cores())), replace(settings, cores=None))


@dataclass
class References:
    """The reference gradients of one problem.

    Attributes:
        cell: A cell that is compared.
        settings: How cells are measured.
        first_step: First step of every solve that does not choose its own.
        folder: Where references are kept.
        notify: Told what happens.
        file: The most accurate reference so far, or why there is none.
        measured_s: Time spent on them, in seconds.
    """

    cell: Cell
    settings: Settings
    first_step: float
    folder: Path
    notify: Callable[[Event], None]
    file: ReferenceFile = field(default=ReferenceFile(None), init=False)
    measured_s: float = field(default=0.0, init=False)

    def begin(self, worker: Measured) -> None:
        """Have a worker of the cell find a first reference, however inaccurate."""
        self.file = self._ask(worker, {})

    def refine(self, wanted: Mapping[str, float]) -> bool:
        """Find a more accurate reference, if there is one; returns whether there was.

        Args:
            wanted: Own errors that it must not exceed, by their names in a record.
        """
        if self.file.finest:
            return False
        worker = preparer(self.cell, self.settings)
        worker.open()
        try:
            found = self._ask(worker, wanted)
        finally:
            worker.dismiss()
        refined = found.path not in (None, self.file.path)
        # Where the attempt failed, what there is remains, and is the best there will be.
        self.file = found if refined else replace(self.file, reason=found.reason, finest=True)
        return refined

    def _ask(self, worker: Measured, wanted: Mapping[str, float]) -> ReferenceFile:
        self.notify(Event("cell", "reference gradient", worker.cell))
        arguments = {"first_step": self.first_step, "folder": self.folder, "wanted": wanted}
        before = worker.measured_s
        try:
            found: ReferenceFile = worker.ask("reference", arguments)
        except WorkerError as error:
            return ReferenceFile(None, error.failure.reason)
        finally:
            self.measured_s += worker.measured_s - before
        return found
