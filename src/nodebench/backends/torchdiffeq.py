"""torchdiffeq with its solver on the tape."""

from dataclasses import dataclass
from typing import ClassVar

import torchdiffeq

from nodebench.backends.base import AbstractBackend
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers import torchdiffeq_solve


@dataclass(frozen=True)
class Torchdiffeq(AbstractBackend):
    """torchdiffeq's `odeint`: backpropagation through everything its solver does.

    It reaches an output time by interpolating inside a step. Its step limit counts anew from each output time.

    Attributes:
        land: Step onto every output time instead, through its options `step_t` and `grid_constructor`.

    References:
        torchdiffeq (Chen, 2018), https://github.com/rtqichen/torchdiffeq
    """

    framework: ClassVar[str] = "torch"
    land: bool = False

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """None where torchdiffeq has the solver."""
        del problem
        return torchdiffeq_solve.unsupported(spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        options = torchdiffeq_solve.options(y0, times, spec, land=self.land)
        with torchdiffeq_solve.named_errors():
            ys: State = torchdiffeq.odeint(
                field,
                y0,
                times,
                rtol=spec.rtol,
                atol=spec.atol,
                method=torchdiffeq_solve.METHODS[spec.solver],
                options=options,
            )
        return ys

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Interpolation, and the limit's meaning."""
        return torchdiffeq_solve.differences(spec, land=self.land)

    def memory_exponent(self) -> float:
        """O(n): the tape of all steps, rejected ones included."""
        return 1.0

    def exact_counterpart(self) -> str | None:
        """Itself."""
        return f"torchdiffeq[land={str(self.land).lower()}]"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of the forward solve, as its callbacks report them."""
        return torchdiffeq_solve.grid(field, y0, times, spec, land=self.land)
