"""diffrax's continuous adjoint: the state is solved again, backwards, together with its adjoint."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import diffrax
import equinox as eqx

from nodebench.backends.base import AbstractBackend
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers import diffrax_solve


class _CheckedSolve(diffrax.AbstractAdjoint):
    """The plain loop for the backward solve, whose result becomes NaN where it fails.

    Diffrax looks at the result of its backward solve only where it may raise: one that ran into its limit would else
    give a gradient of the part of the interval that it came through.
    """

    def loop(self, **kwargs: Any) -> tuple[Any, Any]:
        state, statistics = diffrax.ForwardMode().loop(**kwargs)
        ys = diffrax_solve.poisoned(state.save_state.ys, state.result)
        return eqx.tree_at(lambda at: at.save_state.ys, state, ys), statistics


@dataclass(frozen=True)
class DiffraxBacksolve(AbstractBackend):
    """diffrax's `BacksolveAdjoint`: the continuous adjoint, in constant memory, exact only as tolerances go to zero.

    State, adjoint and parameter gradient are solved backwards as one ODE with the forward solve's solver, tolerances,
    first step and limit, starting with the first step again at every output time. Diffrax advises against it: where
    the forward ODE contracts, its state is solved backwards along an unstable direction. A failed solve, forward or
    backward, gives gradients of NaN.

    "Neural Ordinary Differential Equations", Chen et al., 2018, https://arxiv.org/abs/1806.07366; the seminorm: "'Hey,
    that's not an ODE': Faster ODE Adjoints via Seminorms", Kidger, Chen and Lyons, 2021, https://arxiv.org/abs/2009.09457

    Attributes:
        norm: What the backward solve's error norm covers: `"full"`, all of it, or `"seminorm"`, all but the parameter
            gradient, which is a mere integral.
    """

    framework: ClassVar[str] = "jax"
    norm: Literal["full", "seminorm"] = "full"

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """See the base class."""
        if problem.differentiate_times:
            return "diffrax's `BacksolveAdjoint` has no gradient with respect to times."
        return diffrax_solve.unsupported(spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """See the base class; a failure gives NaN, since compiled code cannot raise."""
        chosen: dict[str, Any] = {"adjoint": _CheckedSolve()}
        if spec.solver not in diffrax_solve.FIXED:  # the steps of the forward solve need no control
            norm = diffrax.adjoint_rms_seminorm if self.norm == "seminorm" else None
            chosen["stepsize_controller"] = diffrax_solve.controller(spec, norm)
        adjoint = diffrax.BacksolveAdjoint(**chosen)
        return diffrax_solve.solve(field, y0, times, spec, adjoint)

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Compilation, interpolation, and the backward solve's error norm."""
        covered = "the parameters' gradient too" if self.norm == "full" else "all but the parameters' gradient"
        return (
            *diffrax_solve.differences(spec),
            f"the root-mean-square norm of its backward solve covers {covered}, all entries as one vector.",
        )

    def memory_exponent(self) -> float:
        """O(1): nothing of the forward solve is kept but its output states."""
        return 0.0

    def exact_counterpart(self) -> str | None:
        """`diffrax`, which takes the same forward steps."""
        return "diffrax"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid:
        """See the base class."""
        return diffrax_solve.grid(field, y0, times, spec)
