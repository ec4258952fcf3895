"""Backends with faults planted into them, which the harness and its gate must find."""

import time
from dataclasses import dataclass, replace
from typing import ClassVar

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.frameworks.base import AbstractFramework, GradientStep
from nodebench.problem import Array, Field, Gradients, Problem, SolverSpec, State, StepGrid
from nodebench.testing import FakeBackend


def planted(inner: GradientStep, slowdown: float, leak_bytes: int, *, wrong: bool) -> GradientStep:
    """A gradient step with a fault planted into it.

    Args:
        inner: The step as it is.
        slowdown: How much longer it takes: 0.1 is a tenth. It is spent at work, not asleep.
        leak_bytes: What each step keeps alive for ever.
        wrong: Whether its gradients have the wrong sign.
    """
    leaked: list[bytearray] = []

    def step() -> Gradients:
        began = time.perf_counter()
        gradients = inner.step()
        until = began + (1 + slowdown) * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        if leak_bytes:
            leaked.append(bytearray(leak_bytes))
        return turned(gradients)

    def turned(gradients: Gradients) -> Gradients:
        if not wrong:
            return gradients
        y0 = tuple(-part for part in gradients.y0) if isinstance(gradients.y0, tuple) else -gradients.y0
        return replace(gradients, y0=y0, params={name: -value for name, value in gradients.params.items()})

    return replace(inner, step=step, backward=lambda state: turned(inner.backward(state)))


@dataclass(frozen=True)
class Planted(FakeBackend):
    """A `FakeBackend` with a fault that a benchmark must find.

    Attributes:
        slowdown: How much longer a step takes: 0.1 is a tenth.
        leak_mib: What each step keeps alive, in MiB.
        wrong: Whether its gradients have the wrong sign.
    """

    framework: ClassVar[str] = "nodebench.testing:FakeFramework"
    work: int = 200
    slowdown: float = 0.0
    leak_mib: int = 0
    wrong: bool = False

    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> GradientStep:
        """The step with its fault."""
        inner = super().gradient_step(problem, spec, framework)
        return planted(inner, self.slowdown, self.leak_mib * 2**20, wrong=self.wrong)


@dataclass(frozen=True)
class PlantedTorch(AbstractBackend):
    """`direct` with a fault that a benchmark must find; options as those of `Planted`."""

    framework: ClassVar[str] = "torch"
    exact_counterpart = "direct"
    slowdown: float = 0.0
    leak_mib: int = 0
    wrong: bool = False

    @property
    def _direct(self) -> AbstractBackend:
        direct: AbstractBackend = registry.load("backend", "direct", AbstractBackend)
        return direct

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """What `direct` says."""
        return self._direct.unsupported(problem, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """The solution by `direct`."""
        return self._direct.solve(field, y0, times, spec)

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of `direct`."""
        return self._direct.grid(field, y0, times, spec)

    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> GradientStep:
        """The step of `direct` with its fault."""
        inner = self._direct.gradient_step(problem, spec, framework)
        return planted(inner, self.slowdown, self.leak_mib * 2**20, wrong=self.wrong)
