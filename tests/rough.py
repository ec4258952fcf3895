"""Fakes that err: growth solved by the midpoint rule, and a task that keeps its closed form to itself.

A cell of n steps errs in proportion to 1 / n^2. The references have 32, 64, 128 and 256 steps, and can state the errors
of n = 1, 2, 4 and 8 in turn.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from nodebench.errors import DivergedError
from nodebench.problem import SolverSpec
from nodebench.tasks.base import ModelEntry
from nodebench.testing import FakeBackend, FakeFramework, FakeTask

MODEL = "nodebench.testing:FakeModel"


@dataclass(frozen=True)
class Midpoint(FakeBackend):
    """Growth by the midpoint rule.

    Attributes:
        steps: Steps over the whole time span; 0 for as many as the first step says.
        slow_from: So many steps take for ever.
        longer: Whether there are twice as many states as there should be.
        limit: Rate of growth from which on it diverges.
    """

    framework: ClassVar[str] = "rough:Rough"
    exact_counterpart = None  # there is nothing to be learnt from it here
    compiled: bool = True  # which spares it the pass for the floor
    steps: int = 0
    slow_from: int = 100_000
    longer: bool = False
    limit: float = math.inf

    def solve(self, field, y0, times, spec):
        """The states at both times, one after the other."""
        if field.rate > self.limit:
            raise DivergedError(f"no step is short enough for a rate of {field.rate:.2f}.")
        n = self.steps or round(float(times[-1] - times[0]) / spec.first_step)
        if n >= self.slow_from:
            time.sleep(3600)
        step = field.rate * (times[-1] - times[0]) / n
        growth = (1 + step + step**2 / 2) ** n
        states = (1 + (growth - 1) * (times - times[0]) / (times[-1] - times[0]))[:, None] * y0
        return states.repeat(2, axis=0) if self.longer else states


class Rough(FakeFramework):
    """The fake framework, whose reference method errs."""

    name = "rough"
    reference_backend = "rough:Midpoint"


class Stuck(Rough):
    """The same, where the second refinement takes for ever."""

    reference_backend = "rough:Midpoint[slow_from=128]"


@dataclass(frozen=True)
class StuckMidpoint(Midpoint):
    """The same method in it."""

    framework: ClassVar[str] = "rough:Stuck"
    steps: int = 0


@dataclass(frozen=True)
class Opaque(FakeTask):
    """The fake task without its closed form."""

    models: ClassVar[Mapping[str, ModelEntry]] = {"growth": ModelEntry({"rough:Rough": MODEL, "rough:Stuck": MODEL})}
    reference: ClassVar[SolverSpec] = SolverSpec(
        solver="midpoint", first_step=1 / 256, max_steps=10_000, dtype="float64"
    )

    def problem(self, model, seed, batch_size):
        """Its inputs alone."""
        return replace(super().problem(model, seed, batch_size), closed_form=None)


@dataclass(frozen=True)
class Clear(Opaque):
    """The same with its closed form, and a model that solves no ODE."""

    models: ClassVar[Mapping[str, ModelEntry]] = {
        **Opaque.models,
        "constant": ModelEntry({"rough:Rough": MODEL}, uses_backend=False),
    }

    def problem(self, model, seed, batch_size):
        """As the fake task has it."""
        return FakeTask.problem(self, model, seed, batch_size)
