"""torchode with the continuous adjoint."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torchode

from nodebench import AbstractBackend, Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench_torchode import solving


@dataclass(frozen=True)
class TorchodeBacksolve(AbstractBackend):
    """torchode's backsolve adjoint: state, adjoint and parameters' gradient are solved backwards as one ODE.

    Constant memory; an approximation of the gradient, wrong where the forward ODE contracts strongly. It is
    `JointBacksolveAdjoint`, which for the one instance that there is here is `BacksolveAdjoint`, without the `vmap` of
    the field that the latter needs for several.

    References:
        torchode: A Parallel ODE Solver for PyTorch (Lienen, Günnemann, 2022), https://openreview.net/forum?id=uiKVKTiUYB0
    """

    framework: ClassVar[str] = "torch"
    exact_counterpart = "torchode"  # which takes the same forward steps, on the tape
    memory_exponent = 0.0  # nothing of the forward solve is kept but its output states

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """See `solving`."""
        return solving.unsupported(problem, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""

        def make(term: Any) -> Any:
            plain = solving.loop(term, spec, through_control=False)
            adjoint = torchode.JointBacksolveAdjoint(term, plain.step_method, plain.step_size_controller)
            # It makes loops of its own, without a limit of steps, and looks at the status of neither.
            adjoint.forward_loop = adjoint.backward_loop = plain
            return adjoint

        return solving.solve(make, field, y0, times, spec)

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """None: torchode counts its steps and does not tell where they are."""
        del field, y0, times, spec
        return None

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Interpolation, and where the backward solve begins anew."""
        del spec
        return (
            "it reaches output times by interpolating inside a step.",
            "its backward solve starts anew at every output time.",
        )
