"""The parts of a plan that are carried out whole, each on one machine: they return values and touch no store."""

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from nodebench.bench.events import Event
from nodebench.bench.gradient import Comparison, GradientGroup
from nodebench.bench.jobs import WorkClock
from nodebench.bench.loaded import Files
from nodebench.bench.machine import available_memory
from nodebench.bench.measured import Figures, Measured, no_figures
from nodebench.bench.messages import Beginning, Failure, sentence_of
from nodebench.bench.plan import Cell
from nodebench.bench.process import WorkerError
from nodebench.bench.references import References, preparer
from nodebench.bench.settings import Settings
from nodebench.bench.starting import Launchers
from nodebench.plots import RenderedPlot

Measure = Literal["gradient", "counts", "training", "both"]


@dataclass(frozen=True)
class Site:
    """A machine, and what it gives to the work that is done on it.

    Attributes:
        node: Name of the machine.
        environment: Its fingerprint.
        settings: How cells are measured on it.
        references: Folder of reference gradients.
        checkpoints: Folder of the run's training checkpoints, a path or URL as fsspec knows it.
        notify: Told what happens.
        measure_group: How the gradients of cells that are compared with each other are measured.
    """

    node: str
    environment: Mapping[str, Any]
    settings: Settings
    references: Path
    checkpoints: str
    notify: Callable[[Event], None]
    measure_group: Callable[[GradientGroup], None] = field(default=GradientGroup.measure)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: The cell.
        figures: Fields of its record.
        plots: Plots of its trained model.
        files: Digests of the files of code that it depends on and that belong to no installed package.
        lost: Whether it failed because its machines were lost while they worked at it.
    """

    cell: Cell
    figures: Figures = field(default_factory=no_figures)
    plots: tuple[RenderedPlot, ...] = ()
    files: Files = field(default_factory=dict)
    lost: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong with it."""
        return bool(self.figures["status"] == "ok")

    def failed(self, failure: Failure) -> "Outcome":
        """The outcome of a cell that has failed."""
        return replace(self, figures={**self.figures, **failure.figures})

    def noted(self, note: str) -> "Outcome":
        """The outcome with what a reader must know of its figures, told once."""
        notes = dict.fromkeys([*self.figures["notes"], note])
        return replace(self, figures={**self.figures, "notes": list(notes)})


@dataclass(frozen=True)
class Done:
    """Work that has been done.

    Attributes:
        work: The work.
        outcomes: What became of its cells.
        node: Name of the machine.
        environment: Fingerprint of the machine.
    """

    work: "AbstractWork"
    outcomes: tuple[Outcome, ...]
    node: str
    environment: Mapping[str, Any]


class AbstractWork(ABC):
    """What is done whole, on one machine."""

    @property
    @abstractmethod
    def outcomes(self) -> tuple[Outcome, ...]:
        """Its cells, with what is known of them before it is done."""

    @abstractmethod
    def _measured(self, site: Site) -> tuple[Outcome, ...]:
        """Measure the cells on a machine."""

    def measured(self, site: Site) -> tuple[Outcome, ...]:
        """Measure the cells on a machine. Whatever happens becomes of these cells: the rest of the run goes on."""
        try:
            return self._measured(site)
        except Exception as error:  # noqa: BLE001  it ends in the records of these cells, with its traceback
            failure = Failure("failed", sentence_of(error), "".join(traceback.format_exception(error)))
            return tuple(outcome.failed(failure) for outcome in self.outcomes)

    def perform(self, site: Site) -> Done:
        """Do the work on a machine."""
        return Done(self, self.measured(site), site.node, site.environment)

    @property
    def cell(self) -> Cell:
        """The first of its cells, which says what a machine must have: device, threads."""
        return self.outcomes[0].cell


@dataclass(frozen=True)
class GroupWork(AbstractWork):
    """The gradients of cells that are compared with each other, and so are measured in turns on one machine.

    Attributes:
        group: All cells that are compared.
        missing: Those of them that are to be measured.
        measure: `gradient`, `counts`, or `training`, which needs of all this the first step alone.
    """

    group: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    measure: Measure

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The missing cells, of which nothing is known yet."""
        return tuple(map(Outcome, self.missing))

    @property
    def timed(self) -> bool:
        """Whether times are taken, which nothing else may disturb."""
        return self.measure in ("gradient", "both")

    def _measured(self, site: Site) -> tuple[Outcome, ...]:
        """Choose the first step and measure what gradients are to be measured."""
        clock = WorkClock()
        cells = [Measured(cell, site.settings, clock=clock) for cell in self.missing]
        with TemporaryDirectory() as folder:
            self._solve(cells, site, Path(folder) / "inputs.npz")
        return tuple(Outcome(measured.cell, measured.figures, files=measured.files) for measured in cells)

    def _solve(self, cells: list[Measured], site: Site, inputs: Path) -> None:
        began = time.monotonic()
        fresh = [] if self.measure == "training" else [*self._companion(cells, site), *cells]
        with _reference_worker(cells, site, inputs) as (worker, beginning):
            if worker is None or beginning is None:
                return
            first_step = beginning.first_step
            reference = self._references(worker, first_step, site) if fresh else None
        for measured in fresh or cells:
            measured.figures["first_step"], measured.inputs = first_step, inputs
            measured.figures["notes"] += beginning.notes
            measured.files.update(beginning.files)
        if reference is not None:
            comparison = Comparison(first_step, reference, site.references, available_memory())
            compared = GradientGroup(fresh, comparison, site.settings, site.notify)
            compared.count() if self.measure == "counts" else site.measure_group(compared)
            overhead_s = time.monotonic() - began - cells[0].clock.busy_s
            for measured in fresh:
                measured.figures["overhead_s"] = overhead_s / len(fresh)

    def _companion(self, cells: Sequence[Measured], site: Site) -> list[Measured]:
        """The group's control, where it is not to be measured but what is to be measured is compared with it."""
        wanted = site.settings.control
        control = next((cell for cell in self.group if cell.backend == wanted), self.group[0])
        if self.measure == "counts" or any(measured.cell == control for measured in cells):
            return []
        return [Measured(control, site.settings, clock=cells[0].clock, companion=True)]

    def _references(self, worker: Measured, first_step: float, site: Site) -> References:
        assert worker.inputs is not None, "the worker has just written them"
        settings, inputs = site.settings, worker.inputs
        found = References(worker.cell, settings, first_step, inputs, site.references, site.notify, worker.clock)
        if self.measure != "counts":
            found.begin(worker)
        return found


@dataclass(frozen=True)
class TrainingWork(AbstractWork):
    """The training of one cell, after its gradient was measured.

    Attributes:
        before: What became of the cell so far.
    """

    before: Outcome

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The cell as it was before."""
        return (self.before,)

    def _measured(self, site: Site) -> tuple[Outcome, ...]:
        """Train, from the last checkpoint where there is one."""
        cell, figures = self.before.cell, self.before.figures
        measured = Measured(cell, site.settings, figures={**figures, "notes": list(figures["notes"])})
        began = time.monotonic()
        site.notify(Event("training", "training", cell, 0, 1))
        measured.attempt(lambda launchers: self._train(measured, site, launchers))
        if measured.figures["status"] == "unsupported" and "nfe_forward" in figures:
            # What cannot be trained has a gradient all the same.
            measured.note(f"no training: {measured.figures['reason']}")
            measured.figures |= {"status": figures["status"], "reason": figures.get("reason")}
        overhead_s = time.monotonic() - began - measured.clock.busy_s
        measured.figures["overhead_s"] = measured.figures.get("overhead_s", 0.0) + overhead_s
        return (Outcome(cell, measured.figures, measured.plots, measured.files),)

    def _train(self, measured: Measured, site: Site, launchers: Launchers | None) -> None:
        def progress(content: tuple[int, int, float]) -> None:
            done, total, loss = content
            site.notify(Event("training", f"training, loss {loss:.4g}", measured.cell, done, total))

        arguments = {
            "first_step": measured.figures.get("first_step"),
            "checkpoint": checkpoint(site.checkpoints, measured.cell),
        }
        measured.open(launchers)
        measured.ask("pin", overhead=True)
        trained = measured.ask("train", arguments, on_progress=progress)
        measured.plots = trained.pop("plots")
        measured.files |= trained.pop("files")
        notes = dict.fromkeys(measured.figures["notes"] + trained.pop("notes"))
        measured.figures |= {**trained, "notes": list(notes)}


def checkpoint(folder: str, cell: Cell) -> str:
    """Where the training of a cell keeps its checkpoint, in the folder of its run."""
    return f"{folder}/{cell.cell_id}"


@contextmanager
def _reference_worker(
    cells: list[Measured], site: Site, inputs: Path
) -> Iterator[tuple[Measured | None, Beginning | None]]:
    """A worker in a framework in which the field can be measured, and what it began; the group fails where none is."""
    failure = None
    for measured in _one_per_framework(cells):
        site.notify(Event("cell", "check-up of the field and first step", measured.cell))
        worker = preparer(measured.cell, site.settings, measured.clock)
        try:
            beginning = begin(worker, inputs)
        except WorkerError as error:
            worker.dismiss()
            failure = failure or error.failure
            continue
        try:
            yield worker, beginning
        finally:
            worker.dismiss()
        return
    assert failure is not None, "a group has at least one cell"
    for measured in cells:
        measured.fail(failure)
    yield None, None


def begin(worker: Measured, inputs: Path) -> Beginning:
    """Have a preparing worker look at the field, choose the first step, and write what all cells are handed.

    Raises:
        WorkerError: If the field, or anything before it, does not permit of being measured.
    """
    worker.inputs = inputs
    beginning: Beginning = worker.ask_fresh("begin", {"inputs": inputs}, overhead=True)
    return beginning


def _one_per_framework(cells: Sequence[Measured]) -> list[Measured]:
    # torch first: on a CPU its reference is the faster one.
    chosen: dict[str, Measured] = {}
    for measured in cells:
        chosen.setdefault(measured.cell.framework, measured)
    return sorted(chosen.values(), key=lambda measured: measured.cell.framework != "torch")
