"""The worker: the process in which one cell is measured, and the only place that imports its framework.

It is forked by a launcher or, where that is not safe, started as `python -m nodebench.bench.worker.main FD`. It
receives an `Assignment` over the socket FD and then answers questions, one at a time, until the socket closes. Its
standard output and error are the runner's to keep.
"""

import ctypes
import gc
import math
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from typing_extensions import override

from nodebench.backends.step_size import chosen_first_step
from nodebench.bench.checkpoints import Progress, TrainingCheckpoint
from nodebench.bench.matrix import task_cells
from nodebench.bench.messages import (
    OUT_OF_MEMORY,
    Assignment,
    Beginning,
    Checked,
    DiscreteReference,
    Failure,
    Planned,
    Preparation,
    Questions,
    ReferenceFile,
    Sizes,
    Trained,
    sentence_of,
)
from nodebench.bench.plan import Cell
from nodebench.bench.processes import THREAD_COUNTS
from nodebench.bench.reference import rounded, solve_discrete, solve_reference
from nodebench.bench.request import Request
from nodebench.bench.saved import digest
from nodebench.bench.tracking import Moments, moments
from nodebench.bench.worker.check_up import check_up, field_figures
from nodebench.bench.worker.passes import GradientPasses, data_bytes, peak_resident_bytes, traced_bytes
from nodebench.bench.worker.subject import (
    Subject,
    at_state,
    build_problem,
    import_all,
    load_inputs,
    make_subject,
    save_inputs,
)
from nodebench.bench.worker.training import Training, steps_per_epoch, tolerance_sweep
from nodebench.errors import (
    CellError,
    DivergedError,
    NodebenchError,
    NotInstalledError,
    PluginError,
    Status,
    UnsupportedError,
    UserError,
)
from nodebench.frameworks.base import AbstractFramework, Batch
from nodebench.importing import missing_module
from nodebench.plots import RenderedPlot, render
from nodebench.problem import Evaluations, Problem
from nodebench.results.machine import loaded_files
from nodebench.results.quantities import SweepEntry
from nodebench.results.record import Measurement
from nodebench.tasks.base import GradientInputs, Recipe, Splits
from nodebench.tasks.field.objects import receive

T = TypeVar("T")

PR_SET_PDEATHSIG = 1
"""The number of the wish to Linux, in `linux/prctl.h`: a signal when the thread that started this process ends."""


@dataclass
class Worker(GradientPasses, Questions):
    """One cell in its process.

    Attributes:
        assignment: The cell and its limits.
        connection: Where progress is sent while a question is being answered.
        framework: That of the training step that is measured.
    """

    assignment: Assignment
    connection: Connection
    framework: AbstractFramework = field(init=False)
    _is_limited: bool = field(default=False, init=False)

    @override
    def importing(self) -> None:
        os.environ |= thread_variables(self.assignment.threads)
        receive(self.assignment.objects)
        if self.assignment.cell is None:
            return
        framework = import_all(self.assignment.cell)
        if self.assignment.programs is not None:
            framework.keep_programs(self.assignment.programs)
        gc.collect()
        gc.freeze()  # what has been imported stays; a collection between two turns need not go through it

    @property
    def cell(self) -> Cell:
        """The cell that it measures."""
        assert self.assignment.cell is not None, "what is measured is a cell"
        return self.assignment.cell

    @override
    def plan(
        self, task: str, request: Request, backends: Sequence[tuple[str, str]], along: tuple[str, float] | None
    ) -> Planned:
        try:
            return task_cells(task, request, backends, along)
        except NodebenchError as error:
            return Planned((), {}, str(error), is_plugins=isinstance(error, PluginError | NotInstalledError))

    @override
    def pin(self) -> None:
        # Thread counts are hints that frameworks read differently; a core that is not there cannot be used by any.
        if self.assignment.cores is not None and sys.platform == "linux":
            for thread in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):  # a thread may end between the two
                    os.sched_setaffinity(int(thread.name), self.assignment.cores)

    @override
    def begin(self, inputs: Path) -> Beginning:
        cell = self.cell
        subject = make_subject(cell, "float64")
        drawn = subject.inputs()
        self._limit_memory()
        framework, state = subject.framework, subject.state(drawn.weights)
        given = replace(at_state(drawn, state), weights=drawn.weights)  # which are more precise
        save_inputs(inputs, given)
        seen = rounded(given, cell.spec.dtype)

        def problem() -> Problem:
            return build_problem(subject, seen).problem

        notes = check_up(framework, problem, exact=True)
        built = build_problem(subject, seen)
        chosen = built.problem
        times = [float(t) for t in chosen.times]
        first_step = chosen_first_step(
            cell.spec,
            times,
            framework.evaluate(chosen),
            framework.flat_state(chosen.y0),
            rms=lambda y: float(np.sqrt(np.mean(y**2))),
        )
        again = subject.state(subject.task.weights(cell.model, cell.seed))
        odd = [f"`{name}`" for name in state if not np.array_equal(state[name], again[name], equal_nan=True)]
        if odd:
            notes.append(f"{', '.join(odd)} of the model are other numbers each time it is made: not reproducible.")
        known = subject.task.dynamics(cell.model, seen, times)
        found = Measurement(
            first_step=first_step,
            time_span=abs(times[-1] - times[0]),
            n_params=framework.n_params(built.model),
            stiffness=known.stiffness,
            sensitivity_largest=known.largest,
            sensitivity_smallest=known.smallest,
            notes=[*notes, *([known.note] if known.note else [])],
        )
        return Beginning(found, loaded_files())

    @override
    def reference(self, first_step: float, inputs: Path, folder: Path, level: int) -> ReferenceFile:
        return solve_reference(self.cell, first_step, inputs, folder, level)

    @override
    def discrete(self, first_step: float, inputs: Path, folder: Path) -> DiscreteReference:
        return solve_discrete(self.cell, first_step, inputs, folder)

    @override
    def check(self, first_step: float, inputs: Path) -> Checked:
        subject = make_subject(self.cell, self.cell.spec.dtype, first_step)
        given = load_inputs(inputs)
        self._limit_memory()
        notes = check_up(subject.framework, lambda: build_problem(subject, given).problem, exact=False)
        figures = field_figures(subject.framework, build_problem(subject, given).problem)
        found = Measurement(notes=notes, field_value=figures.value, field_derivative=figures.derivative)
        return Checked(found, loaded_files())

    @override
    def prepare(self, first_step: float, inputs: Path) -> Preparation:
        subject = make_subject(self.cell, self.cell.spec.dtype, first_step)
        built = build_problem(subject, load_inputs(inputs))
        self._limit_memory()
        return self.first_step(built)

    @override
    def prepare_training_step(self, first_step: float | None) -> Measurement:
        subject = make_subject(self.cell, self.cell.spec.dtype, first_step)
        splits = subject.task.data(self.cell.preset, self.cell.seed)
        recipe = _recipe(subject, splits)
        self.framework = subject.framework
        step, n_params = self._training_step(subject, recipe, _fixed_batch(recipe, splits))
        self.timed_step, loss = step, step()
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of the first training step is {loss}.")
        notes = [splits.note] if splits.note else []
        return Measurement(dataset=splits.name, n_params=n_params, notes=notes)

    @override
    def training_memory(self) -> Sizes:
        peak = _peak_bytes(self.framework, self.timed_step)
        return Sizes(Measurement(train_memory_bytes=peak), peak_resident_bytes())

    @override
    def train(self, first_step: float | None, checkpoint: str, n_moments: int, kept: Path) -> Trained:
        cell = self.cell
        subject = make_subject(cell, cell.spec.dtype, first_step)
        training = self._training(subject, checkpoint, n_moments, kept)
        task, splits = subject.task, training.splits
        progress = training.run()
        value = training.evaluate(splits.test)
        if not math.isfinite(value):
            raise DivergedError(f"the {task.metric.name} of the trained model is {value}.")
        found = Measurement(
            dataset=splits.name,
            n_params=training.n_params,
            metric_value=value,
            metric_name=task.metric.name,
            metric_unit=task.metric.unit,
            metric_direction=task.metric.direction,
            diagnostics=training.diagnose(splits.test, task.diagnostics),
            train_s=progress.train_s,
            train_steps=training.total_steps,
            train_peak_bytes=peak_resident_bytes(),
            epochs=progress.epoch,
            history=progress.history,
            notes=[*filter(None, [splits.note, _told_parts(progress, training.total_steps)])],
        )
        looked, plots = self._looked_at(subject, training)
        return Trained(found.joined(looked), plots, loaded_files())

    def _looked_at(self, subject: Subject, training: Training) -> tuple[Measurement, tuple[RenderedPlot, ...]]:
        """What is found by looking at the trained model; what was trained must not be lost to any of it."""
        splits = training.splits
        fixed = _fixed_batch(training.recipe, splits)
        notes: list[str] = []

        def attempt(what: str, call: Callable[[], T], otherwise: T) -> T:
            try:
                return call()
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a model raises is told in a note
                notes.append(f"no {what}: {_failure(error).reason}")
                return otherwise

        entries: list[SweepEntry] = []
        if subject.backend is not None:
            problem = replace(training.trainer.problem(fixed), differentiate_times=False)
            entries = attempt("tolerance sweep", lambda: tolerance_sweep(subject, problem), [])
        none: tuple[RenderedPlot, ...] = ()
        task, model = subject.task, subject.cell.model
        plots = attempt("plots", lambda: render(lambda: task.plots(model, splits, training.trainer.view)), none)
        peak = attempt("memory of a training step", lambda: self._step_bytes(subject, training.recipe, fixed), None)
        return Measurement(tolerance_sweep=entries, train_memory_bytes=peak, notes=notes), plots

    def _training(self, subject: Subject, url: str, n_moments: int, kept: Path) -> Training:
        cell, task, framework = subject.cell, subject.task, subject.framework
        splits = task.data(cell.preset, cell.seed)
        recipe = _recipe(subject, splits)
        # Before the model: what a task draws must not be missing from the random numbers of the training.
        drawn = subject.inputs() if n_moments else None
        model, n_params = self._model(subject)
        said = f"{cell} {subject.spec} {subject.identity(subject.backend)}"
        key = digest(said, task.weights(cell.model, cell.seed), splits.train, splits.validation, splits.test)
        trainer = framework.trainer(model, recipe.optimizer, recipe.epochs * steps_per_epoch(recipe, splits.train))
        fixed = _fixed_batch(recipe, splits)

        def count() -> Evaluations:
            # A training differentiates its weights alone.
            problem = replace(trainer.problem(fixed), differentiate_times=False)
            step = subject.gradient_backend().gradient_step(problem, subject.spec, framework)
            return step.evaluations()

        def inputs() -> GradientInputs:
            assert drawn is not None, "it is asked for at moments alone"
            return at_state(drawn, framework.state(trainer.model))

        return Training(
            trainer=trainer,
            recipe=recipe,
            splits=splits,
            metric=task.metric,
            seed=cell.seed,
            checkpoint=TrainingCheckpoint(url, key, kept),
            n_params=n_params,
            count=None if subject.backend is None else count,
            moments=Moments(moments(recipe.epochs, n_moments), kept, inputs),
            report=lambda progress: self.connection.send(("progress", progress)),
        )

    def _model(self, subject: Subject) -> tuple[Any, int]:
        """The model at its initial weights, and how many parameters it trains."""
        cell = subject.cell
        model = subject.model(subject.task.weights(cell.model, cell.seed))
        self._limit_memory()
        n_params = subject.framework.n_params(model)
        if not n_params:
            raise UnsupportedError(f"there is nothing to train: the model {cell.model} has no trainable parameters.")
        return model, n_params

    def _training_step(self, subject: Subject, recipe: Recipe, batch: Batch) -> tuple[Callable[[], float], int]:
        """A training step of a model of its own, and how many parameters that has.

        At a learning rate of zero an optimiser does all that it does, and the weights stay the initial ones.
        """
        model, n_params = self._model(subject)
        still = replace(recipe.optimizer, learning_rate=0.0, schedule="constant")
        return partial(subject.framework.trainer(model, still, 1).step, batch), n_params

    def _step_bytes(self, subject: Subject, recipe: Recipe, batch: Batch) -> int | None:
        step, _ = self._training_step(subject, recipe, batch)
        step()
        return _peak_bytes(subject.framework, step)

    def _limit_memory(self) -> None:
        # Only now: a limit set before a framework is imported aborts it instead of raising an error.
        allowed = self.assignment.memory_limit_bytes
        if allowed is not None and not self._is_limited:
            self._is_limited = True
            limit = (data_bytes() or 0) + allowed
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def serve(fd: int) -> None:
    """Serve one assignment until the connection closes."""
    _check_runner(fd)
    connection, own = Connection(fd), os.getpid()
    try:
        assignment: Assignment = connection.recv()
        worker = Worker(assignment, connection)
        call: Callable[[], object] = worker.importing
        while True:
            try:
                answer = ("answer", call())
            except BaseException as error:  # noqa: BLE001  whatever a cell raises, an exit too, is recorded as its result
                answer = ("failure", _failure(error))
            if os.getpid() != own:  # a fork that a plugin has made and not ended: the runner speaks with one of us
                os._exit(0)
            connection.send(answer)
            question, args, kwargs = connection.recv()
            call = partial(getattr(worker, question), *args, **kwargs)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the runner is gone or done


def die_with_parent() -> None:
    """Be killed when the parent ends, even in the midst of a question; where the system knows no such wish, go on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def _check_runner(fd: int) -> None:
    """End where the runner has ended before the wish to die with it was heard: its end of the connection is closed."""
    end = select.poll()
    end.register(fd, 0)  # a hang-up is told unasked
    if end.poll(0):
        sys.exit("the runner is gone")


def thread_variables(threads: int) -> dict[str, str]:
    """What a worker's environment says of its threads: frameworks read it when they are first used."""
    counts = dict.fromkeys((*THREAD_COUNTS, "NPROC"), str(threads))
    flags = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    return {**counts, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}


def _failure(error: BaseException) -> Failure:
    reason = sentence_of(error)
    status: Status = "failed"
    if isinstance(error, CellError):
        status = error.status
    elif isinstance(error, MemoryError) or OUT_OF_MEMORY.search(reason):
        status = "oom"
    elif isinstance(error, ModuleNotFoundError):
        told = missing_module(error, Path.cwd())
        told.__cause__ = error
        return _failure(told)
    return Failure(status, reason, "".join(traceback.format_exception(error)))


def _peak_bytes(framework: AbstractFramework, step: Callable[[], object]) -> int | None:
    on_device = framework.peak_device_bytes(step)
    return traced_bytes(step)[0] if on_device is None else on_device


def _recipe(subject: Subject, splits: Splits) -> Recipe:
    recipe = subject.task.recipe(subject.cell.model, subject.cell.preset)
    _check_batch(subject.cell.batch_size, splits.train)
    return replace(recipe, batch_size=subject.cell.batch_size)


def _told_parts(progress: Progress, total: int) -> str:
    """That a training went on from its checkpoint, and where; empty where it was done in one go."""
    if not progress.parts:
        return ""
    at = " and ".join(map(str, progress.parts))
    told = f"the training went on from its checkpoint after step {at} of {total}"
    return f"{told}; its time is that of all its parts"


def _fixed_batch(recipe: Recipe, splits: Splits) -> Batch:
    return {name: array[: recipe.batch_size] for name, array in splits.train.items()}


def _check_batch(size: int, train: Mapping[str, Any]) -> None:
    examples = len(next(iter(train.values())))
    if size > examples:
        raise UserError(f"`--batch-size` {size} is larger than the training data, {examples} examples.")


if __name__ == "__main__":
    die_with_parent()
    serve(int(sys.argv.pop()))  # what is imported later reads no arguments of ours
