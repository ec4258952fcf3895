"""Backpropagation through diffrax's steps, recomputed from checkpoints."""

from dataclasses import dataclass
from typing import ClassVar

import diffrax

from nodebench.backends.base import AbstractBackend
from nodebench.errors import UserError
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers import diffrax_solve


@dataclass(frozen=True)
class Diffrax(AbstractBackend):
    """diffrax's `RecursiveCheckpointAdjoint`, its default: exact for the steps taken, recomputed from checkpoints.

    A failed solve gives states and gradients of NaN; `grid` says why. The number of checkpoints follows from the step
    limit where none is given, about its square root times 1.4, so that `max_steps` changes memory and speed.

    "On Neural Differential Equations", Kidger, 2021, https://arxiv.org/abs/2202.02435; checkpoints as in "New
    Algorithms for Optimal Online Checkpointing", Stumm and Walther, 2010.

    Attributes:
        checkpoints: Number of states kept. With at least as many as steps are taken, each step is recomputed once.
        scan: `"bounded"` keeps the stages of a step while it is differentiated; `"default"` recomputes each of them.
        max_step: Longest step; None for no limit.

    Raises:
        UserError: If `checkpoints` or `max_step` is not positive.
    """

    framework: ClassVar[str] = "jax"
    checkpoints: int | None = None
    scan: diffrax_solve.Scan = "default"
    max_step: float | None = None

    def __post_init__(self) -> None:
        if self.checkpoints is not None and self.checkpoints < 1:
            raise UserError(f"`checkpoints` must be positive; got {self.checkpoints}.")
        self._loop()

    def _loop(self) -> diffrax_solve.Loop:
        return diffrax_solve.Loop(self.scan, self.max_step)

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """See the base class."""
        del problem
        return diffrax_solve.unsupported(spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """See the base class; a failure gives NaN, since compiled code cannot raise."""
        adjoint = diffrax.RecursiveCheckpointAdjoint(self.checkpoints)
        return diffrax_solve.solve(field, y0, times, spec, adjoint, self._loop())

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Compilation, interpolation, and the checkpoints that the step limit sets."""
        kept = self.checkpoints or diffrax_solve.default_checkpoints(spec.max_steps)
        why = "as told" if self.checkpoints else "which follows from max_steps"
        return (
            *diffrax_solve.differences(spec),
            f"it keeps {kept} checkpoints of the steps, {why}.",
            *(() if self.max_step is None else (f"no step of it is longer than {self.max_step:g}.",)),
        )

    def memory_exponent(self) -> float:
        """O(sqrt n), n the step limit; O(1) with a fixed number of checkpoints."""
        return 0.5 if self.checkpoints is None else 0.0

    def exact_counterpart(self) -> str | None:
        """The default with these steps, whatever is kept and recomputed here."""
        return "diffrax" if self.max_step is None else f"diffrax[max_step={self.max_step!r}]"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid:
        """See the base class."""
        return diffrax_solve.grid(field, y0, times, spec, self._loop())
