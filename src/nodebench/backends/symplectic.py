"""The exact discrete gradient with one graph of the field alive: the symplectic adjoint method."""

from dataclasses import dataclass
from typing import ClassVar

from nodebench.backends.runge_kutta import AbstractRungeKutta
from nodebench.problem import Array, Field, SolverSpec, State
from nodebench.solvers.discrete_adjoint import DiscreteAdjointSolve, DiscreteJob
from nodebench.solvers.forward import solve_through
from nodebench.solvers.layout import layout


@dataclass(frozen=True)
class Symplectic(AbstractRungeKutta):
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

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solve_through(DiscreteAdjointSolve, self.job(field, y0, spec), y0, times)

    def memory_exponent(self) -> float:
        """O(n), a state for each step."""
        return 1.0

    def job(self, field: Field, y0: State, spec: SolverSpec) -> DiscreteJob:
        """See the base class."""
        return DiscreteJob(field=field, layout=layout(y0), spec=spec, land=self.land, one_graph=True)
