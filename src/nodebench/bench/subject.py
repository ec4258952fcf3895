"""The subject of a measurement: a cell's task, model and backend, made in the worker's process."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from nodebench import backends, registry, solvers
from nodebench.backends.base import AbstractBackend
from nodebench.bench.plan import Cell
from nodebench.errors import UnsupportedError, UserError
from nodebench.frameworks.base import AbstractFramework, load_framework, solve_checked
from nodebench.problem import Array, Field, Problem, SolverSpec, State
from nodebench.registry import load_class
from nodebench.tasks.base import AbstractTask, GradientInputs


@dataclass(frozen=True)
class Subject:
    """What a cell measures.

    Attributes:
        cell: The cell.
        task: Its task.
        backend: Its gradient method; None for a model that solves no ODE.
        framework: Its framework, configured.
        spec: Its solver spec, in the framework's dtype and with the first step where that is known.
    """

    cell: Cell
    task: AbstractTask
    backend: AbstractBackend | None
    framework: AbstractFramework
    spec: SolverSpec

    @property
    def target(self) -> str:
        """Where the model's class lives."""
        return self.task.models[self.cell.model].targets[self.cell.framework]

    def identity(self, backend: AbstractBackend | None) -> str:
        """All that makes a gradient by `backend` what it is, beside weights, batch and solver: problem and code."""
        options = sorted(self.task.model_options(self.cell.model).items())
        code = source_digest(type(self.task), load_class(self.target), type(self.framework), type(backend))
        return f"{self.cell.task} {self.cell.model} {self.target} {options} horizon {self.cell.horizon} code {code}"

    def inputs(self) -> GradientInputs:
        """Weights and batch of the gradient measurement."""
        inputs = self.task.problem(self.cell.model, self.cell.seed, self.cell.batch_size)
        # A closed form is that of the task's own time span.
        return inputs if self.cell.horizon == 1 else replace(inputs, closed_form=None)

    def model(self, weights: Any) -> Any:
        """The model with these weights, its solves bound to the backend and the spec."""
        solve: Callable[..., State] | None = None
        if self.backend is not None:
            solve = partial(solve_checked, self.backend.solve, spec=self.spec)
        elif self.task.models[self.cell.model].uses_backend:
            solve = _no_solve
        return self.framework.build(self.target, self.task.model_options(self.cell.model), weights, solve)

    def gradient_backend(self) -> AbstractBackend:
        """The backend of a cell that has one."""
        assert self.backend is not None, "only a model with an ODE has a gradient to measure"
        return self.backend


def _no_solve(field: Field, y0: State, times: Array) -> State:
    """Stands where a model is built for its field alone."""
    del field, y0, times
    raise AssertionError("a model built for its field alone solves nothing")


def source_digest(*classes: type) -> str:
    """Hash of the code of classes, their bases in it, and our solvers: what they compute changes with it."""
    digest = hashlib.sha256()
    files = {file for cls in classes if cls is not type(None) for base in _own_bases(cls) for file in _sources(base)}
    for file in sorted(files) + sorted(Path(solvers.__path__[0]).glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _own_bases(cls: type) -> list[type]:
    """A class and its bases, without those of libraries."""
    own = ("nodebench", cls.__module__.partition(".")[0])
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] in own]


def _sources(cls: type) -> set[Path]:
    """The files of the package a class lives in, since its module imports from beside itself; or of its module alone.

    Alone where there is no package, and among our backends, which never import each other.
    """
    file = Path(inspect.getfile(cls))
    alone = sys.modules[cls.__module__].__package__ in ("", None, backends.__name__)
    return {file} if alone else set(file.parent.glob("*.py"))


def import_all(cell: Cell) -> None:
    """Import the modules of a cell's task, framework and backend.

    Raises:
        NotInstalledError: If a framework or library is missing.
        PluginError: If one of them cannot be imported.
    """
    registry.load("task", cell.task, AbstractTask)
    load_framework(cell.framework)
    if cell.backend is not None:
        registry.load("backend", cell.backend, AbstractBackend)


def make_subject(cell: Cell, dtype: str, first_step: float | None = None) -> Subject:
    """Import and configure all that a cell needs.

    Args:
        cell: The cell.
        dtype: Floating-point type; float64 for a reference, else the cell's.
        first_step: First step of every solve, where it has been chosen.

    Raises:
        NotInstalledError: If a framework or library is missing.
        UnsupportedError: If the model does not exist in the cell's framework.
    """
    task: AbstractTask = registry.load("task", cell.task, AbstractTask)
    framework_class = load_framework(cell.framework)
    targets = task.models[cell.model].targets
    if cell.framework not in targets:
        raise UnsupportedError(
            f"model {cell.model} of task {cell.task} is written for {', '.join(targets)}, not for {cell.framework}."
        )
    backend = None if cell.backend is None else registry.load("backend", cell.backend, AbstractBackend)
    spec = replace(cell.spec, dtype=dtype, first_step=first_step or cell.spec.first_step)
    return Subject(cell, task, backend, framework_class(cell.device, dtype, cell.threads), spec)


def check_times(times: Sequence[float]) -> None:
    """Refuse output times that no solver can go through in one direction; libraries differ in what they make of them.

    Raises:
        UserError: If there are fewer than two, or they neither strictly increase nor strictly decrease.
    """
    steps = [after - before for before, after in pairwise(times)]
    if not steps or not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        raise UserError(f"`times` must be at least two, strictly increasing or strictly decreasing; got {list(times)}.")


@dataclass(frozen=True)
class Prepared:
    """A subject with its gradient problem.

    Attributes:
        subject: The subject.
        inputs: Weights and batch in NumPy.
        model: The model.
        problem: Its gradient problem.
    """

    subject: Subject
    inputs: GradientInputs
    model: Any
    problem: Problem


def prepare_problem(subject: Subject, inputs: GradientInputs) -> Prepared:
    """Build the model and its gradient problem.

    Raises:
        UserError: If its output times are not strictly monotone.
        UnsupportedError: If the backend cannot solve or differentiate it, for the reason that it gives.
    """
    model = subject.model(inputs.weights)
    problem = _stretched(subject.framework.problem(model, inputs.batch), subject.cell.horizon)
    check_times([float(t) for t in problem.times])
    reason = None if subject.backend is None else subject.backend.unsupported(problem, subject.spec)
    if reason is not None:
        raise UnsupportedError(reason)
    return Prepared(subject, inputs, model, problem)


def _stretched(problem: Problem, horizon: float) -> Problem:
    if horizon == 1:
        return problem
    start = problem.times[0]
    return replace(problem, times=start + horizon * (problem.times - start))
