"""torchode with its steps on torch's tape."""

from dataclasses import dataclass
from typing import ClassVar

from nodebench import AbstractBackend, Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench_torchode import solving


@dataclass(frozen=True)
class Torchode(AbstractBackend):
    """torchode's `AutoDiffAdjoint`: backpropagation through everything its solver does.

    Memory grows with the steps. It reaches output times by interpolating.

    Attributes:
        through_control: Whether the choice of step lengths is differentiated too, as torchode does by default.

    References:
        torchode: A Parallel ODE Solver for PyTorch (Lienen, Günnemann, 2022), https://openreview.net/forum?id=uiKVKTiUYB0
    """

    framework: ClassVar[str] = "torch"
    memory_exponent = 1.0  # the tape of all steps
    on_tape = True
    through_control: bool = True

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """See `solving`."""
        return solving.unsupported(problem, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solving.solve(
            lambda term: solving.loop(term, spec, through_control=self.through_control), field, y0, times, spec
        )

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """None: torchode counts its steps and does not tell where they are."""
        del field, y0, times, spec
        return None

    @property
    def exact_counterpart(self) -> str | None:
        """Itself, as it differentiates all that it does; without its control the gradient is that of fixed steps."""
        return "torchode" if self.through_control else None

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Interpolation."""
        del spec
        return ("it reaches output times by interpolating inside a step.",)
