"""The worker: the process in which one cell is measured, and the only place that imports its framework.

It is started as `python -m nodebench.bench.worker FD`, receives an `Assignment` over the socket FD and then answers
commands, one at a time, until the socket closes. Its standard output and error are the runner's to keep.
"""

import gc
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench import accuracy, memory
from nodebench.bench.machine import available_cores
from nodebench.bench.messages import OUT_OF_MEMORY, Assignment, Counts, Failure, Preparation, ReferenceFile, Turn
from nodebench.bench.training import Training, steps_per_epoch
from nodebench.errors import CellError, DivergedError, PluginError, UnsupportedError, UserError
from nodebench.frameworks.base import AbstractFramework, AbstractGradientStep, load_framework
from nodebench.problem import Evaluations, Gradients, Problem, SolverSpec
from nodebench.solvers.first_step import StepScale, first_step
from nodebench.solvers.tableau import tableau
from nodebench.tasks.base import AbstractTask, GradientInputs

FIXED_STEPS = 20
"""Steps that a fixed-step method takes over the whole time span where no step is asked for."""

TURN_S = 0.05
"""Shortest turn: a faster step is repeated within it, so that the clock's and the messages' cost vanish."""

MAX_STEPS_PER_TURN = 200


class Worker:
    """One cell in its process.

    Args:
        assignment: The cell and its limits.
        connection: Where progress is sent while a command is being carried out.
    """

    def __init__(self, assignment: Assignment, connection: Connection) -> None:
        cell = assignment.cell
        self.cell = cell
        self.connection = connection
        self.task: AbstractTask = registry.load("task", cell.task, AbstractTask)
        self.entry = self.task.models[cell.model]
        self.framework: AbstractFramework | None = None
        self.memory_limit_bytes = assignment.memory_limit_bytes
        self.gradient_step: AbstractGradientStep | None = None
        self.steps_per_turn = 1

    def commands(self) -> Mapping[str, Callable[..., Any]]:
        """What the runner may ask for."""
        return {
            "reference": self.reference,
            "prepare": self.prepare,
            "count": self.count,
            "accuracy": self.accuracy,
            "memory": self.memory,
            "turn": self.turn,
            "train": self.train,
        }

    # The first step and the reference, once for a group of cells.

    def reference(self, folder: Path, version: str) -> ReferenceFile:
        """Choose the first step and compute, or find in `folder`, the reference gradients; both in float64."""
        framework = self._configure("float64")
        inputs = accuracy.rounded(self._inputs(), self.cell.spec.dtype)
        model = self._build(framework, inputs)
        problem = framework.problem(model, inputs.batch)
        chosen = _choose_first_step(framework, problem, self.cell.spec)
        spec = self.task.reference
        spec = replace(spec, first_step=spec.first_step or chosen)
        path = folder / accuracy.cache_name(inputs, spec, self._target(), version)
        if not path.exists():
            try:
                found = accuracy.compute_reference(framework, inputs, problem, spec)
            except CellError as error:
                return ReferenceFile(chosen, None, str(error))
            found.save(path)
        return ReferenceFile(chosen, path)

    # The gradient measurement, a pass at a time.

    def prepare(self, first_step: float) -> Preparation:
        """Build everything and make the first gradient step."""
        framework = self._configure(self.cell.spec.dtype)
        self.spec = replace(self.cell.spec, first_step=first_step)
        self.backend = self._backend()
        inputs = self._inputs()
        model = self._build(framework, inputs, self.spec)
        self.problem = framework.problem(model, inputs.batch)
        reason = self.backend.unsupported(self.problem, self.spec)
        if reason is not None:
            raise UnsupportedError(reason)
        self._limit_memory()
        start = time.perf_counter()
        self.gradient_step = self.backend.gradient_step(self.problem, self.spec, framework)
        gradients = self.gradient_step.step()
        first_step_s = time.perf_counter() - start
        loss = self._check_finite(gradients)
        notes = [inputs.note] if inputs.note else []
        return Preparation(first_step_s, framework.n_params(model), loss, inputs.dataset, notes)

    def count(self) -> Counts:
        """Count evaluations and steps, in instrumented runs of their own."""
        evaluations = self._step().evaluations()
        grid = self.backend.grid(self.problem.field, self.problem.y0, self.problem.times, self.spec)
        return Counts(evaluations, grid.n_accepted if grid else None, grid.n_rejected if grid else None)

    def accuracy(self, path: Path) -> dict[str, Any]:
        """Relative errors against the reference in `path`."""
        framework = self._configured()
        reference = accuracy.Reference.load(path)
        gradients = self._step().step()
        found = framework.to_numpy(gradients)
        return {
            "grad_error_params": accuracy.relative_error(found.params, reference.params),
            "grad_error_y0": accuracy.relative_error(framework.flat_state(gradients.y0), reference.y0),
            "reference": reference.description,
        }

    def memory(self) -> dict[str, Any]:
        """Peak memory of one warmed gradient step and its exact companion."""
        step = self._step()
        step.step()
        on_device = self._configured().peak_device_bytes(step.step)
        peak = memory.peak_bytes(step.step) if on_device is None else on_device
        return {"peak_memory_bytes": peak, "saved_bytes": step.saved_bytes()}

    def turn(self, *, warm_up: bool = False) -> Turn:
        """One turn of the timing; a warm-up turn also decides how many steps a turn has."""
        step = self._step()
        gc.collect()
        gc.disable()
        try:
            if warm_up:
                step.step()
                once = _timed(step.step, 1)[0]
                self.steps_per_turn = min(MAX_STEPS_PER_TURN, max(1, math.ceil(TURN_S / once)))
            wall, cpu = _timed(step.step, self.steps_per_turn)
            forward, backward = _split(step)
        finally:
            gc.enable()
        return Turn(wall, cpu, forward, backward)

    # Training.

    def train(self, first_step: float | None, folder: Path) -> dict[str, Any]:
        """Train by the preset's recipe, from the last checkpoint in `folder`, and evaluate on the held-out data."""
        framework = self._configure(self.cell.spec.dtype)
        spec = replace(self.cell.spec, first_step=first_step)
        splits = self.task.data(self.cell.preset, self.cell.seed)
        recipe = replace(
            self.task.recipe(self.cell.model, self.cell.preset),
            batch_size=self.cell.batch_size,
        )
        _check_batch(recipe.batch_size, splits.train)
        weights = self.task.weights(self.cell.model, self.cell.seed)
        solve = None
        if self.entry.uses_backend:
            solve = partial(self._backend().solve, spec=spec)
        model = framework.build(self._target(), self.task.model_options(self.cell.model), weights, solve)
        self._limit_memory()
        total = recipe.epochs * steps_per_epoch(recipe, splits.train)
        trainer = framework.trainer(model, recipe.optimizer, total)
        fixed = {name: array[: recipe.batch_size] for name, array in splits.train.items()}

        def count() -> Evaluations:
            return self._backend().gradient_step(trainer.problem(fixed), spec, framework).evaluations()

        training = Training(
            trainer=trainer,
            recipe=recipe,
            splits=splits,
            metric=self.task.metric,
            seed=self.cell.seed,
            folder=folder,
            count=count if self.entry.uses_backend else None,
            report=lambda done, of, loss: self.connection.send(("progress", (done, of, loss))),
        )
        progress = training.run()
        return {
            "dataset": splits.name,
            "notes": [splits.note] if splits.note else [],
            "n_params": framework.n_params(model),
            "metric_value": _finite(training.evaluate(splits.test), self.task.metric.name),
            "diagnostics": training.diagnose(splits.test, self.task.diagnostics),
            "train_s": progress.train_s,
            "train_steps": total,
            "train_peak_bytes": memory.peak_resident_bytes(),
            "epochs": progress.epoch,
            "history": progress.history,
        }

    def _configure(self, dtype: str) -> AbstractFramework:
        cls = load_framework(self.cell.framework)
        if self.cell.framework not in self.entry.targets:
            raise UnsupportedError(
                f"model {self.cell.model} of task {self.cell.task} is written for {', '.join(self.entry.targets)}, "
                f"not for {self.cell.framework}."
            )
        self.framework = cls(self.cell.device, dtype, self.cell.threads)
        return self.framework

    def _configured(self) -> AbstractFramework:
        assert self.framework is not None, "prepare comes first"
        return self.framework

    def _step(self) -> AbstractGradientStep:
        assert self.gradient_step is not None, "prepare comes first"
        return self.gradient_step

    def _backend(self) -> AbstractBackend:
        assert self.cell.backend is not None, "only a model with an ODE has a gradient to measure"
        backend: AbstractBackend = registry.load("backend", self.cell.backend, AbstractBackend)
        return backend

    def _inputs(self) -> GradientInputs:
        return self.task.problem(self.cell.model, self.cell.seed, self.cell.batch_size)

    def _target(self) -> str:
        targets: Mapping[str, str] = self.entry.targets
        return targets[self.cell.framework]

    def _build(self, framework: AbstractFramework, inputs: GradientInputs, spec: SolverSpec | None = None) -> Any:
        solve = partial(self._backend().solve, spec=spec or self.cell.spec)
        return framework.build(self._target(), self.task.model_options(self.cell.model), inputs.weights, solve)

    def _limit_memory(self) -> None:
        # Only now: a limit set before a framework is imported aborts it instead of raising an error.
        if self.memory_limit_bytes is None:
            return
        limit = (memory.data_bytes() or 0) + self.memory_limit_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def _check_finite(self, gradients: Gradients) -> float:
        framework = self._configured()
        found = framework.to_numpy(gradients)
        total = sum(float(abs(value).sum()) for value in found.params.values())
        total += float(abs(framework.flat_state(gradients.y0)).sum())
        loss = float(found.loss)
        if not math.isfinite(total + loss):
            self._explain_failed_solve()
            raise DivergedError(f"the loss is {loss} and its gradient is not finite.")
        return loss

    def _explain_failed_solve(self) -> None:
        # A library that reports a failed solve as NaN tells its steps on demand; that call raises the precise error.
        self.backend.grid(self.problem.field, self.problem.y0, self.problem.times, self.spec)


def main(fd: int) -> None:
    """Serve one assignment until the connection closes."""
    connection = Connection(fd)
    try:
        assignment: Assignment = connection.recv()
        _pin(assignment.cell.threads)
        worker = _attempt(lambda: Worker(assignment, connection))
        while True:
            command, arguments = connection.recv()
            if isinstance(worker, Failure):
                connection.send(("failure", worker))
                continue
            call = partial(worker.commands()[command], **arguments)
            answer = _attempt(call)
            connection.send(("failure" if isinstance(answer, Failure) else "answer", answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the runner is gone or done


def _pin(threads: int) -> None:
    # Thread counts are hints that frameworks read differently; a core that is not there cannot be used by any.
    if sys.platform == "linux":
        os.sched_setaffinity(0, available_cores()[:threads])


def _attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # noqa: BLE001  whatever a cell raises is its result; the runner records it
        return _failure(error)


def _failure(error: Exception) -> Failure:
    text = f"{error}" if isinstance(error, CellError | UserError) else f"{type(error).__name__}: {error}"
    reason = " ".join(text.split())
    status: str | None = "failed"
    if isinstance(error, CellError):
        status = error.status
    elif isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        status = "oom"
    elif isinstance(error, ModuleNotFoundError):
        status, reason = "not_installed", f"{reason}; mend it with: pip install {error.name}"
    elif isinstance(error, UserError) and not isinstance(error, PluginError):
        status = None
    return Failure(status, reason, "".join(traceback.format_exception(error)))


def _choose_first_step(framework: AbstractFramework, problem: Problem, spec: SolverSpec) -> float:
    times = [float(t) for t in problem.times]
    span = abs(times[-1] - times[0])
    if spec.first_step is not None:
        return min(spec.first_step, span)
    method = tableau(spec.solver)
    if not method.adaptive:
        return span / FIXED_STEPS
    scale = StepScale(method.order, spec.rtol, spec.atol, rms=lambda y: float(np.sqrt(np.mean(y**2))))
    step = first_step(framework.evaluate(problem), framework.flat_state(problem.y0), (times[0], times[-1]), scale)
    # Three digits: the number must not depend on the rounding errors of the machine that chose it.
    return min(float(f"{step:.3g}"), span)


def _timed(call: Callable[[], object], repetitions: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repetitions):
        call()
    return (time.perf_counter() - wall) / repetitions, (time.process_time() - cpu) / repetitions


def _split(step: AbstractGradientStep) -> tuple[float, float]:
    start = time.perf_counter()
    state = step.forward()
    middle = time.perf_counter()
    step.backward(state)
    return middle - start, time.perf_counter() - middle


def _check_batch(size: int, train: Mapping[str, Any]) -> None:
    examples = len(next(iter(train.values())))
    if size > examples:
        raise UserError(f"`--batch-size` {size} is larger than the training data, {examples} examples.")


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise DivergedError(f"the {name} of the trained model is {value}.")
    return value


if __name__ == "__main__":
    main(int(sys.argv[1]))
