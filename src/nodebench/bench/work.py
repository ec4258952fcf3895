"""The parts of a plan that are carried out whole, each on one machine: they return values and touch no store."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from typing_extensions import override

from nodebench.bench.cell_run import CellRun, probe_run
from nodebench.bench.checkpoints import ENDING
from nodebench.bench.client import WorkerError
from nodebench.bench.group import GradientGroup, summarise
from nodebench.bench.jobs import WorkClock
from nodebench.bench.judge import References
from nodebench.bench.messages import Beginning, Event, Failure, Questions, TrainingProgress
from nodebench.bench.plan import Cell, group
from nodebench.bench.processes import Launchers
from nodebench.bench.request import Settings
from nodebench.bench.timing import Interleaving, step_time
from nodebench.bench.tracking import tracked_errors
from nodebench.plots import RenderedPlot
from nodebench.results.machine import Files, Fingerprint, available_memory
from nodebench.results.record import Measurement

Measure = Literal["gradient", "untimed", "counts", "training", "training-step", "both"]


@dataclass(frozen=True)
class MachineContext:
    """A machine, and what it gives to the work that is done on it.

    Attributes:
        node: Name of the machine.
        environment: Its fingerprint.
        settings: How cells are measured on it.
        references: Folder of reference gradients.
        checkpoints: Folder of training checkpoints, a path or URL as fsspec knows it, of machines like this one.
        notify: Told what happens.
        measure_group: How the gradients of cells that are compared with each other are measured.
    """

    node: str
    environment: Fingerprint
    settings: Settings
    references: Path
    checkpoints: str
    notify: Callable[[Event], None]
    measure_group: Callable[[GradientGroup], None] = field(default=GradientGroup.measure)


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    Attributes:
        cell: The cell.
        found: What was measured, and how it ended.
        plots: Plots of its trained model.
        files: Digests of the files of code that it depends on and that belong to no installed package.
    """

    cell: Cell
    found: Measurement = field(default_factory=Measurement)
    plots: tuple[RenderedPlot, ...] = ()
    files: Files = field(default_factory=dict)

    def failed(self, failure: Failure) -> "CellResult":
        """The result of a cell that has failed."""
        return replace(self, found=failure.of(self.found))

    def noted(self, note: str) -> "CellResult":
        """The result with what a reader must know of its figures, told once."""
        return replace(self, found=self.found.noted(note))


@dataclass(frozen=True)
class WorkResult:
    """Work that has been done.

    Attributes:
        work: The work.
        outcomes: What became of its cells.
        node: Name of the machine.
        environment: Fingerprint of the machine.
    """

    work: "AbstractWork"
    outcomes: tuple[CellResult, ...]
    node: str
    environment: Fingerprint


class AbstractWork(ABC):
    """What is done whole, on one machine."""

    @property
    @abstractmethod
    def outcomes(self) -> tuple[CellResult, ...]:
        """Its cells, with what is known of them before it is done."""

    @abstractmethod
    def measured(self, machine: MachineContext) -> tuple[CellResult, ...]:
        """Measure the cells on a machine."""

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
        measure: `gradient`, `untimed`, `counts`, or `training`, which needs of all this the first step alone.
    """

    group: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    measure: Measure

    @property
    def outcomes(self) -> tuple[CellResult, ...]:
        """The missing cells, of which nothing is known yet."""
        return tuple(map(CellResult, self.missing))

    @property
    def timed(self) -> bool:
        """Whether times are taken, which nothing else may disturb."""
        return self.measure in ("gradient", "both")

    @override
    def measured(self, machine: MachineContext) -> tuple[CellResult, ...]:
        """Choose the first step and measure what gradients are to be measured."""
        began, clock = time.monotonic(), WorkClock()
        cells = [CellRun(cell, machine.settings, clock=clock) for cell in self.missing]
        fresh = [] if self.measure == "training" else [*self._control(cells, machine), *cells]
        with TemporaryDirectory() as folder:
            inputs = Path(folder) / "inputs.npz"
            with _reference_worker(cells, machine, inputs) as (worker, beginning):
                if worker is not None and beginning is not None:
                    references = self._references(worker, beginning.first_step, machine) if fresh else None
            if beginning is not None:
                for measured in fresh or cells:
                    measured.inputs = inputs
                    measured.enter(beginning.found)
                    measured.files.update(beginning.files)
                if references is not None:
                    room, step = available_memory(), beginning.first_step
                    group = GradientGroup(
                        fresh, step, references, machine.references, room, machine.settings, machine.notify
                    )
                    passes = {"counts": GradientGroup.count, "untimed": GradientGroup.examine}
                    passes.get(self.measure, machine.measure_group)(group)
                    for measured in fresh:
                        overhead_s = time.monotonic() - began - clock.busy_s
                        measured.enter(Measurement(overhead_s=overhead_s / len(fresh)))
        return tuple(CellResult(measured.cell, measured.found, files=measured.files) for measured in cells)

    def _control(self, cells: Sequence[CellRun], machine: MachineContext) -> list[CellRun]:
        """The group's control, where it is not to be measured but what is to be measured is compared with it."""
        wanted = machine.settings.control
        control = next((cell for cell in self.group if cell.backend == wanted), self.group[0])
        if self.measure in ("counts", "untimed") or any(measured.cell == control for measured in cells):
            return []
        return [CellRun(control, machine.settings, clock=cells[0].clock)]

    def _references(self, worker: CellRun, first_step: float, machine: MachineContext) -> References:
        assert worker.inputs is not None, "the worker has just written them"
        settings, inputs = machine.settings, worker.inputs
        found = References(worker.cell, settings, first_step, inputs, machine.references, machine.notify, worker.clock)
        if self.measure != "counts":
            found.advance(worker)
        return found


@dataclass(frozen=True)
class TimingWork(AbstractWork):
    """The times of cells of one problem, in turns, whose other figures are known; they may differ in their tolerance.

    Attributes:
        before: What is known of the cells, each of which is `ok`; the first is the control.
    """

    before: tuple[CellResult, ...]

    @property
    def outcomes(self) -> tuple[CellResult, ...]:
        """The cells as they were before."""
        return self.before

    @override
    def measured(self, machine: MachineContext) -> tuple[CellResult, ...]:
        """Let fresh workers take turns over several starts."""
        cells = [CellRun(each.cell, machine.settings, found=each.found, files=dict(each.files)) for each in self.before]
        with TemporaryDirectory() as folder:
            inputs = Path(folder) / "inputs.npz"
            with _reference_worker(cells, machine, inputs) as (_, beginning):
                pass
            if beginning is not None:
                for measured in cells:
                    measured.inputs = inputs
                room, programs = available_memory(), Path(folder) / "programs"
                timing = Interleaving(cells, machine.settings, machine.notify, programs, room)
                timing.measure()
                summarise(timing, None)
        return tuple(CellResult(measured.cell, measured.found, files=measured.files) for measured in cells)


@dataclass(frozen=True)
class TrainingStepWork(AbstractWork):
    """Memory and time of a training step of networks that are trained alike, in turns on one machine.

    Attributes:
        missing: The cells.
    """

    missing: tuple[Cell, ...]

    @property
    def outcomes(self) -> tuple[CellResult, ...]:
        """The cells, of which nothing is known yet."""
        return tuple(map(CellResult, self.missing))

    @override
    def measured(self, machine: MachineContext) -> tuple[CellResult, ...]:
        """Choose first steps, trace a step of each network, and let all take turns over several starts."""
        began, clock = time.monotonic(), WorkClock()
        cells = {cell: CellRun(cell, machine.settings, clock=clock, trains=True) for cell in self.missing}
        with TemporaryDirectory() as folder:
            for members in group(cell for cell in self.missing if cell.backend is not None):
                solved = [cells[cell] for cell in members]
                with _reference_worker(solved, machine, Path(folder) / "inputs.npz") as (_, beginning):
                    pass
                if beginning is not None:
                    for measured in solved:
                        measured.enter(beginning.found)
                        measured.files.update(beginning.files)
            room, programs = available_memory(), Path(folder) / "programs"
            for measured in (one for one in cells.values() if not one.failed):
                machine.notify(Event("cell", "memory of a training step", measured.cell))
                measured.attempt(partial(_trace_training_step, measured))
            timed = [measured for measured in cells.values() if measured.ok]
            if timed:
                timing = Interleaving(timed, machine.settings, machine.notify, programs, room)
                timing.measure()
            for measured in (one for one in timed if one.starts and one.ok):
                step = step_time(measured)
                measured.enter(
                    Measurement(train_step_s=step.estimate, train_step_s_low=step.low, train_step_s_high=step.high)
                )
        overhead_s = (time.monotonic() - began - clock.busy_s) / len(cells)
        for measured in cells.values():
            measured.enter(Measurement(overhead_s=overhead_s))
        return tuple(CellResult(cell, measured.found, files=measured.files) for cell, measured in cells.items())


def _trace_training_step(measured: CellRun, launchers: Launchers | None) -> None:
    measured.open(launchers)
    measured.ask_aside(Questions.pin)
    measured.enter(measured.ask(Questions.prepare_training_step, measured.found.first_step))
    sizes = measured.ask(Questions.training_memory)
    measured.resident_bytes = sizes.resident_bytes or 0
    measured.enter(sizes.found)


@dataclass(frozen=True)
class TrainingWork(AbstractWork):
    """The training of one cell, after its gradient was measured.

    Attributes:
        before: What became of the cell so far.
    """

    before: CellResult

    @property
    def outcomes(self) -> tuple[CellResult, ...]:
        """The cell as it was before."""
        return (self.before,)

    @override
    def measured(self, machine: MachineContext) -> tuple[CellResult, ...]:
        """Train, from the last checkpoint where there is one, and look back at the moments that were kept of it."""
        cell, before = self.before.cell, self.before.found
        measured = CellRun(cell, machine.settings, found=before)
        began = time.monotonic()
        machine.notify(Event("training", "training", cell, 0, 1))
        plots: tuple[RenderedPlot, ...] = ()
        with TemporaryDirectory() as folder:

            def train(launchers: Launchers | None) -> None:
                nonlocal plots
                plots = self._train(measured, machine, launchers, Path(folder))

            measured.attempt(train)
            measured.enter(Measurement(tracked_errors=tracked_errors(measured, Path(folder), machine.notify)))
        if measured.found.status == "unsupported" and before.nfe_forward is not None:
            # What cannot be trained has a gradient all the same.
            measured.note(f"no training: {measured.found.reason}")
            measured.found = replace(measured.found, status=before.status, reason=before.reason)
        overhead_s = time.monotonic() - began - measured.clock.busy_s + (before.overhead_s or 0.0)
        measured.enter(Measurement(overhead_s=overhead_s))
        return (CellResult(cell, measured.found, plots, measured.files),)

    def _train(
        self, measured: CellRun, machine: MachineContext, launchers: Launchers | None, kept: Path
    ) -> tuple[RenderedPlot, ...]:
        def show(progress: TrainingProgress) -> None:
            text = f"training, loss {progress.loss:.4g}"
            machine.notify(Event("training", text, measured.cell, progress.done, progress.total))

        measured.open(launchers)
        measured.ask_aside(Questions.pin)
        with measured.clock.running():
            where = checkpoint(machine.checkpoints, measured.cell)
            n_moments = 0 if measured.cell.backend is None else machine.settings.track_error
            measured.send(Questions.train, measured.found.first_step, where, n_moments, kept)
            trained = measured.receive(Questions.train, show)
        measured.files |= trained.files
        measured.enter(trained.found)
        return trained.plots


def results_of(work: AbstractWork, machine: MachineContext) -> tuple[CellResult, ...]:
    """Do work on a machine. Whatever happens becomes of its cells: the rest of the run goes on."""
    try:
        return work.measured(machine)
    except Exception as error:  # noqa: BLE001  it ends in the records of these cells, with its traceback
        failure = Failure.of_error(error)
        return tuple(outcome.failed(failure) for outcome in work.outcomes)


def checkpoint(folder: str, cell: Cell) -> str:
    """Where the training of a cell keeps its checkpoint, whichever run it belongs to, in a folder of checkpoints."""
    return f"{folder}/{cell.cell_id}{ENDING}"


@contextmanager
def _reference_worker(
    cells: list[CellRun], machine: MachineContext, inputs: Path
) -> Iterator[tuple[CellRun | None, Beginning | None]]:
    """A worker in a framework in which the field can be measured, and what it began; the group fails where none is."""
    failure = None
    for measured in _one_per_framework(cells):
        machine.notify(Event("cell", "check-up of the field and first step", measured.cell))
        worker = probe_run(measured.cell, machine.settings, measured.clock)
        try:
            try:
                beginning = begin(worker, inputs)
            except WorkerError as error:
                failure = failure or error.failure
                continue
            yield worker, beginning
        finally:
            worker.dismiss()
        return
    assert failure is not None, "a group has at least one cell"
    for measured in cells:
        measured.fail(failure)
    yield None, None


def begin(worker: CellRun, inputs: Path) -> Beginning:
    """Have a preparing worker look at the field, choose the first step, and write what all cells are handed.

    Raises:
        WorkerError: If the field, or anything before it, does not permit of being measured.
    """
    worker.inputs = inputs
    return worker.anew(lambda: worker.ask_aside(Questions.begin, inputs))


def _one_per_framework(cells: Sequence[CellRun]) -> list[CellRun]:
    # torch first: on a CPU its reference is the faster one.
    chosen: dict[str, CellRun] = {}
    for measured in cells:
        chosen.setdefault(measured.cell.framework, measured)
    return sorted(chosen.values(), key=lambda measured: measured.cell.framework != "torch")
