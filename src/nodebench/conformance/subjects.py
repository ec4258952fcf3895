"""What is under check: a backend with problems of known solution, or a task with its models in each framework."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from typing_extensions import override

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.solvers import IMPLICIT, METHODS, method
from nodebench.conformance.check import CheckFailedError, NotApplicableError
from nodebench.errors import NotInstalledError
from nodebench.frameworks.base import AbstractFramework, AbstractTrainer, Batch, Weights, load_framework, solve_checked
from nodebench.problem import Gradients, Problem, SolverSpec, State
from nodebench.tasks.base import AbstractTask, Preset, Splits
from nodebench.tasks.linear.task import gradients

MODELS: Mapping[str, str] = {
    "torch": "nodebench.conformance.torch_models:KnownODE",
    "jax": "nodebench.conformance.jax_models:KnownODE",
}
"""The problems in each framework."""

MATRIX = np.array([[-0.3, 1.2, 0.1], [-1.0, -0.2, 0.4], [0.2, -0.5, 0.1]])
STATES = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.1]])

PREFERRED = ("dopri5", "tsit5", "lsoda", "vode-adams", "bosh3", "heun", "dopri8", "rk4", "rk38", "midpoint", "euler")
"""A backend is checked with the first of these that it supports; those that choose their steps come first."""

TOLERANCES = (1e-4, 1e-6, 1e-8)
BOUNDS = (1e-2, 1e-3, 1e-5)
"""Relative errors of the gradients that the closed-form problems allow at these tolerances."""

STEPS = (0.1, 0.05, 0.025)
STEP_BOUNDS = (1.0, 0.5, 0.3)
"""The same for methods of fixed steps, as Euler's needs them."""

MIDDLE = 1
"""The level of tolerance at which one is enough."""

MAX_STEPS = 512
MAX_MULTISTEPS = 20_000

PATIENCE = 30_000
"""Evaluations of the field in one problem: several times what the strictest check needs."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A problem whose gradients are known in closed form.

    Attributes:
        times: Output times.
        split: Whether the state is a tuple.
        waving: Whether the field depends on time.
        timed: Whether the times are differentiated.
        scale: What the matrix is multiplied by.
    """

    times: tuple[float, ...] = (0.0, 0.7, 2.0)
    split: bool = False
    waving: bool = False
    timed: bool = False
    scale: float = 1.0

    def exact(self) -> Gradients:
        """The exact gradients, the state in one piece."""
        times = np.array(self.times)
        # dy/dt = cos(t) A y is dy/ds = A y in the time s = sin(t).
        found = gradients(self.scale * MATRIX, STATES, np.sin(times) if self.waving else times, "path")
        assert found.times is not None, "the closed form has them always"
        return replace(found, times=found.times * (np.cos(times) if self.waving else 1.0))


@dataclass(frozen=True)
class BackendSubject:
    """A backend under check.

    Attributes:
        text: Its name with options, `module:Class` or `path.py:Class`.
    """

    text: str

    @cached_property
    def backend(self) -> AbstractBackend:
        """The backend.

        Raises:
            NodebenchError: If it cannot be had, for the reason given.
        """
        backend: AbstractBackend = registry.load("backend", self.text, AbstractBackend)
        return backend

    def framework(self, dtype: str = "float64") -> AbstractFramework:
        """Its framework, configured anew: in one process there are checks in both types.

        Raises:
            NotApplicableError: If there are no problems for its framework.
        """
        framework = load_framework(self.backend.framework)
        if framework.name not in MODELS:
            raise NotApplicableError(f"there are no problems of known solution in `{framework.name}`.")
        return framework("cpu", dtype, 1)

    @cached_property
    def solver(self) -> str:
        """The solver that it is checked with.

        Raises:
            NotApplicableError: If it supports none.
        """
        problem = self.problem(Known())
        for name in PREFERRED:
            if self.backend.unsupported(problem, self._spec(name, MIDDLE)) is None:
                return name
        reason = self.backend.unsupported(problem, self._spec(PREFERRED[0], MIDDLE))
        raise NotApplicableError(f"it supports no solver; of {PREFERRED[0]} it says: {reason}")

    @property
    def order(self) -> int | None:
        """Order of a solver of fixed steps; None for one that chooses its steps."""
        return None if method(self.solver).adaptive else method(self.solver).order

    def spec(self, level: int = MIDDLE, dtype: str = "float64") -> SolverSpec:
        """How it solves: the higher the level, the more exactly."""
        return replace(self._spec(self.solver, level), dtype=dtype)

    def bound(self, level: int = MIDDLE) -> float:
        """The relative error that its gradients may have there."""
        return (BOUNDS if self.order is None else STEP_BOUNDS)[level]

    def problem(self, known: Known, dtype: str = "float64") -> Problem:
        """A problem in its framework."""
        framework = self.framework(dtype)
        options = {
            "dimension": len(MATRIX),
            "times": known.times,
            "timed": known.timed,
            "split": known.split,
            "waving": known.waving,
            "patience": PATIENCE,
        }
        weights = {"field.A": known.scale * MATRIX}
        model = framework.build(MODELS[framework.name], options, weights, self.backend.solve)
        return framework.problem(model, {"y0": STATES})

    def grad(self, known: Known, spec: SolverSpec) -> Gradients:
        """Its gradients of a problem, in NumPy, the state in one piece.

        Raises:
            NotApplicableError: If it says beforehand that it does not support this.
        """
        framework, problem = self.framework(spec.dtype), self.problem(known, spec.dtype)
        reason = self.backend.unsupported(problem, spec)
        if reason is not None:
            raise NotApplicableError(f"it says: {reason}")
        found = framework.to_numpy(self.backend.grad(problem, spec, framework))
        whole = np.concatenate(found.y0, axis=1) if isinstance(found.y0, tuple) else found.y0
        return replace(found, y0=whole)

    def _spec(self, solver: str, level: int) -> SolverSpec:
        chosen = METHODS[solver]
        return SolverSpec(
            solver=solver,
            rtol=TOLERANCES[level],
            atol=TOLERANCES[level],
            first_step=STEPS[MIDDLE if chosen.adaptive else level],
            max_steps=MAX_MULTISTEPS if chosen.order is None else MAX_STEPS,
            dtype="float64",
        )


def errors(found: Gradients, exact: Gradients) -> dict[str, float]:
    """Relative L2 errors of gradients by what they are derivatives of; infinite where the shape is another."""
    pairs = {"y0": (found.y0, exact.y0), "the parameters": (found.params.get("A"), exact.params["A"])}
    if found.times is not None:
        pairs["the times"] = (found.times, exact.times)
    return {name: _error(value, right) for name, (value, right) in pairs.items()}


def _error(value: object, right: object) -> float:
    a, b = np.asarray(value), np.asarray(right)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


EXAMPLES = 4
"""Examples in the batches that models are checked on."""

N_STEPS = 4
"""Steps of the midpoint rule in their solves: few, and the same in every framework."""


@dataclass(frozen=True)
class TaskSubject:
    """A task under check.

    Attributes:
        text: Its name with options, `module:Class` or `path.py:Class`.
    """

    text: str

    @cached_property
    def task(self) -> AbstractTask:
        """The task.

        Raises:
            NodebenchError: If it cannot be had, for the reason given.
        """
        task: AbstractTask = registry.load("task", self.text, AbstractTask)
        return task

    @cached_property
    def splits(self) -> Splits:
        """Its data under the smallest preset."""
        return self.data("smoke", 0)

    def data(self, preset: Preset, seed: int) -> Splits:
        """Its data.

        Raises:
            CheckFailedError: If they are no `Splits`.
        """
        found = self.task.data(preset, seed)
        if not isinstance(found, Splits):
            raise CheckFailedError(f"`data` must return `Splits`; it returns {type(found).__name__}.")
        return found

    @property
    def batch(self) -> Batch:
        """The first of its training examples."""
        return {name: array[:EXAMPLES] for name, array in self.splits.train.items()}

    @property
    def with_ode(self) -> list[str]:
        """Its models that solve an ODE."""
        return [name for name, entry in self.task.models.items() if entry.uses_backend]

    def built(self) -> Iterator["Built"]:
        """Each of its models in each of its frameworks that is installed.

        Raises:
            NotApplicableError: If none is.
        """
        missing: Exception = NotApplicableError("it has no models.")
        n_built = 0
        for model, entry in self.task.models.items():
            for name in entry.targets:
                try:
                    framework = load_framework(name)("cpu", "float64", 1)
                except NotInstalledError as error:
                    missing = error
                    continue
                n_built += 1
                yield Built(self, model, framework, entry.targets[name])
        if not n_built:
            raise NotApplicableError(str(missing))


@dataclass(frozen=True)
class Built:
    """A model of a task in a framework, in float64.

    Attributes:
        subject: The task.
        model: The model's name.
        framework: The framework.
        target: Where its class lives.
    """

    subject: TaskSubject
    model: str
    framework: AbstractFramework
    target: str

    @override
    def __str__(self) -> str:
        return f"model `{self.model}` in {self.framework.name}"

    @property
    def uses_backend(self) -> bool:
        """Whether it solves an ODE."""
        return self.subject.task.models[self.model].uses_backend

    @cached_property
    def backend(self) -> AbstractBackend:
        """What its ODE is solved with.

        Raises:
            NotApplicableError: If its framework has nothing of its own to solve with.
        """
        name = self.framework.reference_backend
        if name is None:
            raise NotApplicableError(f"{self.framework.name} names no backend to solve with.")
        backend: AbstractBackend = registry.load("backend", name, AbstractBackend)
        return backend

    def make(self, weights: Weights, spec: SolverSpec | None = None) -> Any:
        """The model with these weights; without a spec it cannot solve."""
        options = self.subject.task.model_options(self.model)
        solve = None
        self.framework.seed(0)
        if self.uses_backend:
            solve = _unsolved if spec is None else partial(solve_checked, self.backend.solve, spec=spec)
        return self.framework.build(self.target, options, weights, solve)

    @cached_property
    def n_params(self) -> int:
        """Trainable parameters."""
        return self.framework.n_params(self.make(self.subject.task.weights(self.model, 0)))

    def problem(self, weights: Weights | None = None, constants: Weights | None = None) -> Problem:
        """Its gradient problem, with the task's weights or others, and with these constants where they are given."""
        inputs = self.subject.task.problem(self.model, 0, EXAMPLES)
        model = self.framework.with_constants(
            self.make(inputs.weights if weights is None else weights), constants or {}
        )
        problem = self.framework.problem(model, inputs.batch)
        if not isinstance(problem, Problem):
            raise CheckFailedError(f"`problem` of {self} must return a `Problem`; got {type(problem).__name__}.")
        return problem

    def spec(self) -> SolverSpec:
        """A few equal steps over the time span of its gradient problem; the task's own where it is a stiff one."""
        times, own = [float(t) for t in self.problem().times], self.subject.task.spec
        step = abs(times[-1] - times[0]) / N_STEPS
        if own.solver in IMPLICIT:
            return replace(own, first_step=1e-6 * step, max_steps=4096, dtype="float64")
        return SolverSpec(solver="midpoint", first_step=step, max_steps=4096, dtype="float64")

    def trainer(self) -> AbstractTrainer:
        """A trainer of it, at its initial weights."""
        weights = self.subject.task.weights(self.model, 0)
        model = self.make(weights, self.spec() if self.uses_backend else None)
        return self.framework.trainer(model, self.subject.task.recipe(self.model, "smoke").optimizer, 2)


def _unsolved(*arguments: object) -> State:
    del arguments
    raise CheckFailedError("a model must not solve when it is made, nor when it is asked for its gradient problem.")


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether two batches or weights are equal, name by name and number by number."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
