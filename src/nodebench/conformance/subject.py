"""A task under check, and its models as they are built in the frameworks that are installed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from typing_extensions import override

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.conformance.check import CheckFailedError, NotApplicableError
from nodebench.errors import NotInstalledError
from nodebench.frameworks.base import AbstractFramework, AbstractTrainer, Batch, Weights, load_framework, solve_checked
from nodebench.problem import Problem, SolverSpec
from nodebench.tasks.base import AbstractTask, Preset, Splits

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
        """A few equal steps over the time span of its gradient problem."""
        times = [float(t) for t in self.problem().times]
        step = abs(times[-1] - times[0]) / N_STEPS
        return SolverSpec(solver="midpoint", first_step=step, max_steps=4096, dtype="float64")

    def trainer(self) -> AbstractTrainer:
        """A trainer of it, at its initial weights."""
        weights = self.subject.task.weights(self.model, 0)
        model = self.make(weights, self.spec() if self.uses_backend else None)
        return self.framework.trainer(model, self.subject.task.recipe(self.model, "smoke").optimizer, 2)


def _unsolved(*arguments: object) -> Any:
    del arguments
    raise CheckFailedError("a model must not solve when it is made, nor when it is asked for its gradient problem.")


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether two batches or weights are equal, name by name and number by number."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
