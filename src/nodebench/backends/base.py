"""The interface of a backend: one way to get the gradient through an ODE solve."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

from nodebench.frameworks.base import AbstractFramework, GradientStep
from nodebench.problem import Array, Field, Gradients, Problem, SolverSpec, State, StepGrid


class AbstractBackend(ABC):
    """One way to get the gradient through an ODE solve.

    A final subclass is a frozen dataclass whose fields are its options. It holds no state: the same call gives the same
    answer. Because `solve` is differentiable in its framework, a model uses it as a layer and trains with any
    optimiser.

    What is a property here is a class attribute where it is the same under every option: `memory_exponent = 1.0`.
    """

    framework: ClassVar[str]
    """`"torch"`, `"jax"`, or `module:Class` of a framework of its own."""

    @abstractmethod
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """One sentence why this cannot be solved or differentiated here, or None. Decided before anything is timed."""

    @abstractmethod
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve dy/dt = field(t, y) from `y0` at `times[0]`.

        Args:
            field: The vector field, a module of the framework.
            y0: Initial state, an array or a tuple of arrays.
            times: Output times, shape `(n,)`, strictly increasing or strictly decreasing.
            spec: Solver, tolerances, first step and limits.

        Returns:
            The states at each of `times`, shape `(n, *y0.shape)`, or a tuple of such arrays. Differentiable with
            respect to `y0`, the field's parameters and, where supported, `times`; the derivative is the method under
            test.

        Raises:
            StepLimitError: If `spec.max_steps` do not suffice.
            DivergedError: If the state leaves the finite numbers.
        """

    @abstractmethod
    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps that the forward solve takes, from a solve of its own; None where the library does not tell."""

    @property
    @abstractmethod
    def exact_counterpart(self) -> str | None:
        """The backend that takes the very same forward steps and gives the exact gradient of that discretisation.

        It may be this one, with its options: what it gives in float64 is then what rounding is judged by. None where
        there is no such backend.
        """

    @property
    def memory_exponent(self) -> float | None:
        """The p of memory ~ n^p in the number n of steps, as the method's theory has it; None where it is mute."""
        return None

    @property
    def compiles(self) -> bool:
        """Whether, with these options, its first gradient step compiles, even where its framework does not."""
        return False

    @property
    def on_tape(self) -> bool:
        """Whether torch's own tape has all of a solve, none of it differentiated by hand; False in other frameworks.

        The gradient then reaches every tensor that the field uses, not its parameters alone, and can be differentiated
        again. `nodebench.odeint` refuses a field that uses other trainable tensors where this is False.
        """
        return False

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """What remains different from others of a comparison by the nature of library or method, a sentence each."""
        del spec
        return ()

    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> GradientStep:
        """Prepare the gradient step that is measured, the same way for every backend of a framework.

        Where the backend compiles what its framework does not, the step has no floor: evaluations that a compiler has
        fused may cost less than calls of the field.
        """
        step = framework.gradient_step(self.solve, problem, spec)
        return replace(step, field_calls=lambda: None) if self.compiles else step

    def grad(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> Gradients:
        """Loss, d/dy0, d/dparams, and d/dtimes where `problem` asks for it."""
        return self.gradient_step(problem, spec, framework).step()
