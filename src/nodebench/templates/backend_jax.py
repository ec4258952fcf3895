"""A gradient method in JAX: `nodebench run -b ./mine.py:Mine -t linear --measure gradient`.

As it stands it works: diffrax's solve with an adjoint of diffrax's. Put your own method in its place and keep
`nodebench check backend ./mine.py:Mine` content.
"""

from dataclasses import dataclass
from typing import ClassVar

import diffrax

from nodebench import (
    AbstractBackend,
    Array,
    Field,
    Problem,
    SolverSpec,
    State,
    StepGrid,
    diffrax_grid,
    diffrax_solve,
    diffrax_unsupported,
)


@dataclass(frozen=True)
class Mine(AbstractBackend):
    """diffrax with checkpoints: the exact gradient of its steps.

    The first line is what `nodebench list` shows, and must be a sentence. Say here what it costs in memory and
    evaluations, when not to use it, and where it comes from.

    Attributes:
        checkpoints: Each field of the class is an option, `./mine.py:Mine[checkpoints=8]`. This one is the number of
            states that are kept.
    """

    # A plain string, which planning reads without importing this file.
    framework: ClassVar[str] = "jax"
    # The backend that gives the exact gradient of these very steps; None where there is none of that name.
    exact_counterpart = "diffrax"
    checkpoints: int | None = None

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """What it cannot do, in a sentence that the record will carry, before anything is timed; None where it can."""
        del problem
        return diffrax_unsupported(spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """States at `times`, differentiable: the derivative is the method that is measured.

        It is compiled by the harness and cannot raise: a solve that fails gives states of NaN, here by
        `diffrax_solve`. A method with a backward pass of its own is a `jax.custom_vjp` of the field's arrays,
        `equinox.partition(field, equinox.is_inexact_array)`.
        """
        adjoint = diffrax.RecursiveCheckpointAdjoint(self.checkpoints)
        return diffrax_solve(field, y0, times, spec, adjoint)

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps that `solve` takes, or the error that it could not raise; None would say that nobody can tell."""
        return diffrax_grid(field, y0, times, spec)

    @property
    def memory_exponent(self) -> float | None:
        """The p of memory ~ n^p in the number n of steps, by theory; a plain value where no option changes it."""
        return 0.5 if self.checkpoints is None else 0.0
