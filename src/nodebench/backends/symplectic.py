"""The exact discrete gradient with one graph of the field alive: the symplectic adjoint method."""

from dataclasses import dataclass
from typing import ClassVar

from nodebench.backends.base import AbstractBackend
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers import passage
from nodebench.solvers.discrete_adjoint import DiscreteAdjointSolve, DiscreteJob
from nodebench.solvers.forward import reason_unsupported, solve_through, step_grid
from nodebench.solvers.layout import layout


@dataclass(frozen=True)
class Symplectic(AbstractBackend):
    """The gradient of `direct` with the graph of one evaluation at a time: exact, in little more than its states.

    The adjoint is integrated by the Runge-Kutta method that is conjugate to the forward one, which conserves the
    bilinear form of adjoint and variation and therefore gives the exact gradient of the discretisation: it is the
    transposed step, `nodebench.solvers.reverse`, in which a weight b_i of zero needs no case of its own.

    Memory is a state for each step, one for each of the s stages of a step, and one graph: n |y| + s |y| + L. Backwards
    a step costs 2 s - 1 evaluations and s VJPs, nearly twice the evaluations of `checkpoint`, which has the graphs of a
    whole step alive. Prefer `checkpoint` unless these graphs are what does not fit; prefer neither to
    `checkpoint[checkpoints=C]` where the states of all steps do not fit.

    Attributes:
        land: Step onto every output time; see `direct`.

    References:
        Symplectic adjoint method for exact gradient of neural ODE with minimal memory (Matsubara, Miyatake, Yaguchi,
        2021), https://arxiv.org/abs/2102.09750
    """

    framework: ClassVar[str] = "torch"
    land: bool = False

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """None for every field without layers that change from one evaluation to the next."""
        return reason_unsupported(problem.field, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solve_through(DiscreteAdjointSolve, self._job(field, y0, spec), y0, times)

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Interpolation to output times."""
        return passage.differences(spec, land=self.land)

    def memory_exponent(self) -> float:
        """O(n), a state for each step."""
        return 1.0

    def exact_counterpart(self) -> str | None:
        """`direct`, which takes the same steps."""
        return "direct[land=true]" if self.land else "direct"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of the forward solve."""
        return step_grid(self._job(field, y0, spec), y0, times)

    def _job(self, field: Field, y0: State, spec: SolverSpec) -> DiscreteJob:
        return DiscreteJob(field=field, layout=layout(y0), spec=spec, land=self.land, one_graph=True)
