"""What the backends around our own Runge-Kutta solver have in common."""

from abc import abstractmethod

from nodebench.backends.base import AbstractBackend
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers import passage
from nodebench.solvers.forward import Job, reason_unsupported, step_grid


class AbstractRungeKutta(AbstractBackend):
    """A gradient method of our own solver in torch, which takes the forward steps of `direct`.

    Attributes:
        land: Whether every output time is stepped onto; an option of each final subclass.
    """

    land: bool

    @abstractmethod
    def job(self, field: Field, y0: State, spec: SolverSpec) -> Job:
        """What is solved, with this backend's options."""

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """None for every field; see `reason_unsupported`."""
        del problem
        return reason_unsupported(spec)

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Interpolation to output times."""
        return passage.differences(spec, land=self.land)

    def exact_counterpart(self) -> str | None:
        """`direct`, which takes the same steps."""
        return "direct[land=true]" if self.land else "direct"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of the forward solve."""
        return step_grid(self.job(field, y0, spec), y0, times)
