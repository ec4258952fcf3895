"""Backpropagation through diffrax's loop as JAX differentiates it."""

from dataclasses import dataclass
from typing import ClassVar

import diffrax

from nodebench.backends.base import AbstractBackend
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers import diffrax_solve


@dataclass(frozen=True)
class DiffraxDirect(AbstractBackend):
    """diffrax's `DirectAdjoint`: exact for the steps taken, through a loop bounded by the step limit.

    Its memory follows from the step limit, not from the steps taken, and is the largest of all methods here: diffrax
    itself recommends it only where forward-mode derivatives are wanted too. A failed solve gives states and gradients
    of NaN; `grid` says why.
    """

    framework: ClassVar[str] = "jax"

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """See the base class."""
        del problem
        return diffrax_solve.unsupported(spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """See the base class; a failure gives NaN, since compiled code cannot raise."""
        return diffrax_solve.solve(field, y0, times, spec, diffrax.DirectAdjoint())

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Compilation, interpolation, and what the step limit costs."""
        return (
            *diffrax_solve.differences(spec),
            f"its memory and backward pass are those of max_steps = {spec.max_steps} steps, however few are taken.",
        )

    def memory_exponent(self) -> float:
        """O(n), n the step limit."""
        return 1.0

    def exact_counterpart(self) -> str | None:
        """`diffrax`, which takes the same steps."""
        return "diffrax"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid:
        """See the base class."""
        return diffrax_solve.grid(field, y0, times, spec)
