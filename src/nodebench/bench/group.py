"""The gradient measurement of cells that are compared with each other."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Concatenate, ParamSpec, TypeVar

from nodebench.bench.cell_run import CellRun
from nodebench.bench.client import WorkerError
from nodebench.bench.jobs import Jobs
from nodebench.bench.judge import References, judge_accuracy, judge_fairness, method_errors
from nodebench.bench.messages import Counts, DiscreteReference, Event, Failure, Preparation, Questions
from nodebench.bench.processes import Launchers
from nodebench.bench.request import Settings
from nodebench.bench.saved import UNREADABLE, Reference, norm
from nodebench.bench.timing import MEMORY_SHARE, Interleaving, Interval, cpu_time, step_ratio, step_time
from nodebench.results.machine import Cores
from nodebench.results.record import Measurement

P = ParamSpec("P")
T = TypeVar("T")

FLOOR_S, FLOOR_SHARE = 1.0, 0.05
"""How long a step and the calls of its field take turns, in seconds, and the most of a cell's budget that this takes;
forward and backward pass are timed apart for half of it."""

LEFT_BEHIND = 2**16
"""Bytes of one step that are still there after it beyond which they are no cache of the interpreter's."""

UNKNOWN_BYTES = 2**30
"""What a worker is taken to need until one has been measured."""

BUSY = 1.05
"""Wall time over CPU time of one thread from which something else must have been at work on its core."""


@dataclass
class GradientGroup:
    """The gradient measurement of cells that are compared with each other.

    Attributes:
        cells: The cells; what is found is entered in them.
        first_step: First step of every solve.
        references: Gradients of the continuous problem, as accurate as the cells need.
        folder: Where reference gradients are kept.
        available_bytes: Memory for the workers of the timing, or None where it is not known.
        settings: How they are measured; names the control, which is the first cell unless told otherwise.
        notify: Told what happens.
        jobs: How many cells are at work at once.
        discrete: Exact gradients of the discretisations met so far, by the backend that gave them.
        helpers: What has solved for them.
    """

    cells: list[CellRun]
    first_step: float
    references: References
    folder: Path
    available_bytes: int | None
    settings: Settings
    notify: Callable[[Event], None]
    jobs: Jobs = field(init=False)
    discrete: dict[str, DiscreteReference | Failure] = field(default_factory=dict, init=False)
    helpers: list[CellRun] = field(default_factory=list, init=False)
    _timing: Interleaving | None = field(default=None, init=False)
    _solving: threading.Lock = field(default_factory=threading.Lock, init=False)
    _telling: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.settings.slots(self.cells[0].cell.threads))

    def count(self) -> None:
        """Evaluations and steps of all cells, and nothing else."""
        self._each(lambda measured, _: self._prepared(measured), None)
        judge_fairness(self.cells)

    def examine(self) -> None:
        """Errors, evaluations and memory of all cells: all that is not timed."""
        with TemporaryDirectory() as folder:
            self._each(lambda measured, at: self._untimed(measured, Path(folder) / f"{at}.npz"), None)
            self._judge()

    def compare(self, programs: Path) -> None:
        """Errors and evaluations of all cells alone, with a folder in which compiled programs are kept."""
        with TemporaryDirectory() as folder:
            self._each(lambda measured, at: self._differentiated(measured, Path(folder) / f"{at}.npz"), programs)
            self._judge()

    def measure(self) -> None:
        """All passes of all cells, side by side where nothing is timed, then the timing in turns."""
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            programs = folder / "programs"
            # By place: two versions of one cell have the same id.
            self._each(lambda measured, at: self._passes(measured, folder / f"{at}.npz"), programs)
            self._judge()
            timed = sorted((m for m in self.cells if not m.failed), key=lambda m: (not m.ok, not self._wanted(m)))
            if timed:
                room = self.available_bytes
                self._timing = Interleaving(timed, self.settings, self.notify, programs, room)
                self._timing.measure()
                summarise(self._timing, self.settings.control)

    def conclude(self) -> None:
        """After an interruption of `measure`: judge and summarise what there is; what has no gradients has failed."""
        self._abandon()
        if self._timing is None:
            for measured in self.cells:
                if measured.gradients is None and measured.ok:
                    measured.fail(Failure("failed", "interrupted before it was measured.", ""))
            self.references.finest = True  # a more accurate one would take as long as it takes
            self._judge()
        else:
            self._timing.conclude()
            summarise(self._timing, self.settings.control)

    def _judge(self) -> None:
        judge_accuracy(self.cells, self.references, self.settings.max_grad_error)
        judge_fairness(self.cells)

    def _each(self, passes: Callable[[CellRun, int], object], programs: Path | None) -> None:
        """Passes of all cells, side by side. What ran out of memory beside others is measured again alone."""
        before = [measured.found for measured in self.cells]

        def attempt(at: int, cores: Cores) -> None:
            def work(launchers: Launchers | None) -> None:
                self.cells[at].open(launchers, programs, cores)
                passes(self.cells[at], at)

            self.cells[at].attempt(work)

        self.jobs.each([partial(attempt, at) for at in range(len(self.cells))], self._fits, self._abandon)
        for at, measured in enumerate(self.cells):
            if measured.found.status == "oom" and len(self.jobs.slots) > 1:
                measured.forget(before[at])
                attempt(at, self.settings.cores)

    def _fits(self, n_beside: int) -> bool:
        """Whether memory allows another worker beside so many, as large as the largest that there has been."""
        room = self.available_bytes
        needed = max([UNKNOWN_BYTES, *(measured.resident_bytes for measured in self.cells)])
        return room is None or (n_beside + 1) * needed <= MEMORY_SHARE * room

    def _abandon(self) -> None:
        for measured in [*self.cells, *self.helpers]:
            measured.kill()

    def _wanted(self, measured: CellRun) -> bool:
        """Whether it is the control that was asked for."""
        return measured.cell.backend == self.settings.control

    def _prepared(self, measured: CellRun) -> tuple[Preparation, Counts]:
        """The first gradient step of an open worker, and its evaluations."""
        assert measured.inputs is not None, "the preparing worker has written them"
        first_step, inputs = self.first_step, measured.inputs
        self._ask(measured, Questions.pin)
        checked = self._ask(measured, Questions.check, first_step, inputs)
        prepared = self._time(measured, Questions.prepare, first_step, inputs)
        measured.conditions, measured.compiles = prepared.conditions, prepared.compiles
        measured.files |= checked.files
        measured.enter(prepared.found, checked.found)
        counts = self._ask(measured, Questions.count)
        measured.enter(counts.found)
        if counts.fixed_grid:
            measured.conditions["step grid"] = counts.fixed_grid
        return prepared, counts

    def _differentiated(self, measured: CellRun, gradients: Path) -> None:
        self._prepared(measured)
        self._ask(measured, Questions.gradients, gradients)
        self._accept(measured, gradients, None)

    def _passes(self, measured: CellRun, gradients: Path) -> None:
        counts = self._untimed(measured, gradients)
        seconds = min(FLOOR_S, FLOOR_SHARE * self.settings.budget(measured.cell))
        measured.enter(self._time(measured, Questions.split, seconds / 2))
        measured.enter(self._time(measured, Questions.floor, counts.evaluations, seconds))

    def _untimed(self, measured: CellRun, gradients: Path) -> Counts:
        prepared, counts = self._prepared(measured)
        discrete = self._discrete(measured, prepared.exact_counterpart, counts)
        self._ask(measured, Questions.gradients, gradients)
        self._accept(measured, gradients, discrete)
        sizes = self._ask(measured, Questions.memory)
        measured.resident_bytes = sizes.resident_bytes or 0
        measured.enter(sizes.found)
        left = sizes.found.unreleased_bytes or 0
        if left > LEFT_BEHIND:
            measured.note(f"each gradient step leaves {left / 1000:.0f} kB behind: something keeps what it has seen")
        return counts

    def _accept(self, measured: CellRun, gradients: Path, exact: Reference | None) -> None:
        """Keep the gradients of a cell until those of all are there, once they are seen to be of the right sizes."""
        found = Reference.load(gradients)
        for reference in (self.references.found, exact):
            misfit = None if reference is None else found.misfit(reference)
            if misfit is not None:
                raise WorkerError(Failure("failed", f"compared with its reference, {misfit}.", ""))
        measured.gradients = found
        by_params = norm(found.params) if found.params else None
        measured.enter(Measurement(grad_norm_params=by_params, grad_norm_y0=norm(found.y0)))
        if exact is not None:
            measured.enter(method_errors(found, exact))

    def _discrete(self, measured: CellRun, counterpart: str | None, counts: Counts) -> Reference | None:
        """The exact gradients of the cell's own discretisation, where a backend can tell them on the same steps."""
        if counterpart is None:
            return None
        with self._solving:  # whoever needs the same waits for it
            if counterpart not in self.discrete:
                self.discrete[counterpart] = self._solve_discrete(measured, counterpart)
            found = self.discrete[counterpart]
        if isinstance(found, Failure):
            measured.note(f"no method_error: {counterpart} in float64: {found.reason}")
            return None
        if found.steps != _steps(counts):
            reason = f"it takes {_steps(counts)} steps (accepted, rejected), {counterpart} in float64 {found.steps}"
            measured.note(f"no method_error of {measured.cell.backend}: {reason}")
            return None
        try:
            return Reference.load(found.path)
        except UNREADABLE as error:
            measured.note(f"no method_error of {measured.cell.backend}: `{found.path}` cannot be read: {error}")
            return None

    def _solve_discrete(self, measured: CellRun, counterpart: str) -> DiscreteReference | Failure:
        self._tell(f"exact gradient of its discretisation, by {counterpart}", measured)
        solver = CellRun(replace(measured.cell, backend=counterpart), self.settings, clock=measured.clock)
        self.helpers.append(solver)
        assert measured.inputs is not None, "the cell has read them"
        arguments = (self.first_step, measured.inputs, self.folder)
        try:
            with self.jobs.beside():
                return solver.anew(lambda: solver.ask(Questions.discrete, *arguments))
        except WorkerError as error:
            return error.failure
        finally:
            solver.dismiss()

    def _ask(
        self, measured: CellRun, question: Callable[Concatenate[Questions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What is not timed, side by side with others."""
        self._tell(question.__name__, measured)
        with self.jobs.beside():
            return measured.ask(question, *args, **kwargs)

    def _time(
        self, measured: CellRun, question: Callable[Concatenate[Questions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What is timed, alone."""
        self._tell(question.__name__, measured)
        with self.jobs.alone():
            return measured.ask(question, *args, **kwargs)

    def _tell(self, text: str, measured: CellRun) -> None:
        with self._telling:
            self.notify(Event("cell", text, measured.cell))


def summarise(timing: Interleaving, wanted: str | None) -> None:
    """Enter what a timing has found: times, and ratios to the control.

    Args:
        timing: The timing.
        wanted: The backend that was asked for as the control; None for the first cell.
    """
    control = timing.control
    for measured in (one for one in timing.cells if one.starts and not one.failed):
        step, cpu = step_time(measured), cpu_time(measured)
        measured.enter(
            Measurement(step_s=step.estimate, step_s_low=step.low, step_s_high=step.high, cpu_s=cpu.estimate)
        )
        if measured.compiles and measured.found.first_step_s is not None:
            measured.enter(Measurement(compile_s=measured.found.first_step_s - step.estimate))
        _note_competitor(measured, step, cpu)
        # A wrong gradient is shown with its time, but neither ranked nor a measure for others.
        if control is not None and control.ok and measured.ok and measured is not control:
            measured.enter(_compared(measured, control))
    if control is not None and wanted not in (None, control.cell.backend):
        control.note(f"the control is {control.cell.backend}, since {wanted} cannot be ranked")


def _note_competitor(measured: CellRun, step: Interval, cpu: Interval) -> None:
    cell = measured.cell
    if cell.threads == 1 and cell.device == "cpu" and step.estimate > BUSY * cpu.estimate:
        excess = 100 * (step.estimate / cpu.estimate - 1)
        measured.note(f"{cell.backend}: wall time exceeds CPU time by {excess:.0f} %: it waited, or something else ran")


def _compared(measured: CellRun, control: CellRun) -> Measurement:
    ratio = step_ratio(measured)
    return Measurement(
        control=control.cell.backend,
        ratio=ratio.estimate,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        verdict=ratio.verdict,
    )


def _steps(counts: Counts) -> tuple[int, int] | None:
    accepted, rejected = counts.found.n_accepted, counts.found.n_rejected
    return None if accepted is None or rejected is None else (accepted, rejected)
