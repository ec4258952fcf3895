"""The exact discrete gradient from checkpoints: each step redone with a graph, then differentiated."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from nodebench.backends.runge_kutta import AbstractRungeKutta
from nodebench.errors import UserError
from nodebench.problem import Array, Field, SolverSpec, State
from nodebench.solvers.discrete_adjoint import DiscreteAdjointSolve, DiscreteJob
from nodebench.solvers.forward import solve_through
from nodebench.solvers.layout import layout


@dataclass(frozen=True)
class Checkpoint(AbstractRungeKutta):
    """The gradient of `direct`, its graphs rebuilt one step at a time from kept states: exact, memory of one step.

    The forward solve keeps its steps and states and no graph. The backward pass redoes each step with a graph and
    differentiates it, so that the field is evaluated once more. Lengths of steps count as constants, as in `direct`.

    With n steps of s stages, memory is n states and s graphs, the cost n s evaluations and n s VJPs beside the forward
    solve; with C checkpoints C states instead of n, and some steps redone several times. Do not use it where all graphs
    fit, which `direct` is faster with, nor where those of one step do not (`symplectic`).

    Attributes:
        checkpoints: `all` keeps the state before each step. A number keeps only as many, the initial one included, and
            recomputes the others along the binomial schedule.
        land: Step onto every output time; see `direct`.
        max_step: Longest step; None for no limit. Other steps than those of `direct`, and the exact gradient of them.

    Raises:
        UserError: If `checkpoints` or `max_step` is not positive.

    References:
        Adaptive checkpoint adjoint method for gradient estimation in neural ODE (Zhuang et al., 2020),
        https://arxiv.org/abs/2006.02493
        Algorithm 799: revolve (Griewank, Walther, 2000), https://doi.org/10.1145/347837.347846
    """

    framework: ClassVar[str] = "torch"
    checkpoints: Literal["all"] | int = "all"
    land: bool = False
    max_step: float | None = None

    def __post_init__(self) -> None:
        if self.checkpoints != "all" and self.checkpoints < 1:
            raise UserError(f"`checkpoints` must be 'all' or at least 1; got {self.checkpoints}.")
        if self.max_step is not None and not self.max_step > 0:
            raise UserError(f"`max_step` must be positive; got {self.max_step}.")

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solve_through(DiscreteAdjointSolve, self.job(field, y0, spec), y0, times)

    def memory_exponent(self) -> float:
        """O(n), a state for each step; O(1) with a fixed number of checkpoints."""
        return 1.0 if self.checkpoints == "all" else 0.0

    def exact_counterpart(self) -> str | None:
        """`direct`, which takes the same steps; itself where the longest step is limited."""
        if self.max_step is None:
            return super().exact_counterpart()
        return f"checkpoint[max_step={self.max_step!r},land={str(self.land).lower()}]"

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Interpolation to output times, and the longest step."""
        longest = () if self.max_step is None else (f"no step of it is longer than {self.max_step:g}.",)
        return (*super().differences(spec), *longest)

    def job(self, field: Field, y0: State, spec: SolverSpec) -> DiscreteJob:
        """See the base class."""
        n_kept = None if self.checkpoints == "all" else self.checkpoints
        return DiscreteJob(
            field=field, layout=layout(y0), spec=spec, land=self.land, max_step=self.max_step, n_kept=n_kept
        )
