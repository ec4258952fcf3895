"""The subject of a measurement: a cell's task, model and backend, made in the worker's process."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.plan import Cell, unwritten
from nodebench.errors import PluginError, UnsupportedError, UserError
from nodebench.frameworks.base import AbstractFramework, Weights, load_framework, solve_checked
from nodebench.problem import Array, Field, Problem, SolverSpec, State
from nodebench.results.machine import code_identity
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
        """All that makes a gradient by `backend` what it is, beside state, batch and solver: problem and code.

        The code is that which the process has loaded by now.
        """
        options = sorted(self.task.model_options(self.cell.model).items())
        problem = f"{self.cell.task} {self.cell.model} {self.target} {options} horizon {self.cell.horizon}"
        return f"{problem} by {backend!r} code {code_identity()}"

    def inputs(self) -> GradientInputs:
        """State and batch of the gradient measurement, as the task draws them.

        Raises:
            PluginError: If the batch has not as many examples as the cell says.
        """
        inputs = self.task.problem(self.cell.model, self.cell.seed, self.cell.batch_size)
        # A single number has no axis of examples, and is one.
        sizes = {name: np.shape(array)[:1] or (1,) for name, array in inputs.batch.items()}
        if (self.cell.batch_size,) not in sizes.values():
            raise PluginError(
                f"the gradient problem of task `{self.cell.task}` has a batch of {sizes} examples; it was asked for "
                f"{self.cell.batch_size}."
            )
        # A closed form is that of the task's own time span.
        return inputs if self.cell.horizon == 1 else replace(inputs, closed_form=None)

    def model(self, weights: Weights, constants: Weights | None = None) -> Any:
        """The model with these weights and constants, its solves bound to the backend and the spec.

        This is the one place where a model that is measured is made. All random numbers that are global are seeded
        before, so that what it draws of its state beside the weights is the same in every process.
        """
        self.framework.seed(self.cell.seed)
        solve: Callable[..., State] | None = None
        if self.backend is not None:
            solve = partial(solve_checked, self.backend.solve, spec=self.spec)
        elif self.task.models[self.cell.model].uses_backend:
            solve = _no_solve
        model = self.framework.build(self.target, self.task.model_options(self.cell.model), weights, solve)
        return self.framework.with_constants(model, constants or {})

    def state(self, weights: Weights) -> Weights:
        """The whole state of the model as it is made with these weights."""
        return self.framework.state(self.model(weights))

    def gradient_backend(self) -> AbstractBackend:
        """The backend of a cell that has one."""
        assert self.backend is not None, "only a model with an ODE has a gradient to measure"
        return self.backend


def _no_solve(field: Field, y0: State, times: Array) -> State:
    """Stands where a model is built for its field alone."""
    del field, y0, times
    raise AssertionError("a model built for its field alone solves nothing")


def import_all(cell: Cell) -> type[AbstractFramework]:
    """Import the modules of a cell's task, framework and backend, and return the class of the framework.

    Raises:
        NotInstalledError: If a framework or library is missing.
        PluginError: If one of them cannot be imported.
    """
    registry.load("task", cell.task, AbstractTask)
    framework = load_framework(cell.framework)
    if cell.backend is not None:
        registry.load("backend", cell.backend, AbstractBackend)
    return framework


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
    reason = unwritten(task, cell)
    if reason:
        raise UnsupportedError(reason)
    backend = None if cell.backend is None else registry.load("backend", cell.backend, AbstractBackend)
    spec = replace(cell.spec, dtype=dtype, first_step=first_step or cell.spec.first_step)
    return Subject(cell, task, backend, framework_class(cell.device, dtype, cell.threads), spec)


TOLD_APART = 16
"""Roundings between two output times, in the dtype of the state, without which no solver can take a step there."""


def check_times(times: Sequence[float], dtype: str) -> None:
    """Refuse output times that no solver can go through in one direction; libraries differ in what they make of them.

    Args:
        times: The output times.
        dtype: Floating-point type of the state, in which a field is handed its time.

    Raises:
        UserError: If there are fewer than two, they neither strictly increase nor strictly decrease, or they are too
            near to each other for the dtype.
    """
    steps = [after - before for before, after in pairwise(times)]
    if not steps or not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        raise UserError(f"`times` must be at least two, strictly increasing or strictly decreasing; got {list(times)}.")
    for before, after in pairwise(times):
        rounding = float(np.spacing(np.asarray(max(abs(before), abs(after)), dtype)))
        if abs(after - before) < TOLD_APART * rounding:
            wider = "use `--dtype float64` or shift them" if dtype == "float32" else "shift them"
            raise UserError(
                f"the output times {before!r} and {after!r} cannot be told apart in {dtype}, which has numbers "
                f"{rounding:.2g} apart there; {wider} to begin near 0."
            )


def at_state(inputs: GradientInputs, state: Weights) -> GradientInputs:
    """The same problem where the model has this state: the parameters that it names, and what there is beside them."""
    weights = {name: state[name] for name in inputs.weights}
    return replace(inputs, weights=weights, constants={name: state[name] for name in state.keys() - weights.keys()})


def save_inputs(path: Path, inputs: GradientInputs) -> None:
    """Write the state and the batch of a gradient measurement, for all processes that measure it."""
    groups = {"weights": inputs.weights, "constants": inputs.constants, "batch": inputs.batch}
    arrays = {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}
    told = json.dumps({"dataset": inputs.dataset, "note": inputs.note})
    np.savez(path, told=np.array(told), **arrays)  # type: ignore[arg-type]  # numpy takes any names


def load_inputs(path: Path) -> GradientInputs:
    """Read what `save_inputs` wrote, without a closed form, which is code."""
    with np.load(path) as file:
        groups: dict[str, dict[str, np.ndarray]] = {"weights": {}, "constants": {}, "batch": {}, "told": {}}
        for name in file.files:
            group, _, key = name.partition("/")
            groups[group][key] = file[name]
    told = json.loads(str(groups["told"][""]))
    return GradientInputs(groups["weights"], groups["batch"], constants=groups["constants"], **told)


@dataclass(frozen=True)
class BuiltProblem:
    """A subject with its gradient problem.

    Attributes:
        subject: The subject.
        inputs: Weights and batch in NumPy.
        model: The model.
        problem: Its gradient problem.
        untimed: Why d/dtimes is left out of it, which the model asks for; empty where it is not.
    """

    subject: Subject
    inputs: GradientInputs
    model: Any
    problem: Problem
    untimed: str = ""


def build_problem(subject: Subject, inputs: GradientInputs) -> BuiltProblem:
    """Build the model and its gradient problem.

    Raises:
        UserError: If its output times are not strictly monotone.
        UnsupportedError: If the backend cannot solve or differentiate it, for the reason that it gives.
    """
    model = subject.model(inputs.weights, inputs.constants)
    problem = _stretched(subject.framework.problem(model, inputs.batch), subject.cell.horizon)
    # In the dtype of the cell, also where a reference is made in float64: what cannot be trained is refused before it.
    check_times([float(t) for t in problem.times], subject.cell.spec.dtype)
    reason = None if subject.backend is None else subject.backend.unsupported(problem, subject.spec)
    if reason is None:
        return BuiltProblem(subject, inputs, model, problem)
    # What has no d/dtimes is measured without it.
    rest = replace(problem, differentiate_times=False)
    if subject.backend is None or subject.backend.unsupported(rest, subject.spec) is not None:
        raise UnsupportedError(reason)
    return BuiltProblem(subject, inputs, model, rest, untimed=reason)


def _stretched(problem: Problem, horizon: float) -> Problem:
    if horizon == 1:
        return problem
    start = problem.times[0]
    return replace(problem, times=start + horizon * (problem.times - start))
