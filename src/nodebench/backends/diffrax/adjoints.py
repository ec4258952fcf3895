"""diffrax's adjoints: backends that differ in how one solve is differentiated."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import diffrax
import equinox as eqx
from typing_extensions import override

from nodebench.backends.base import AbstractBackend
from nodebench.backends.diffrax.solve import (
    FIXED,
    Loop,
    Scan,
    common_differences,
    controller,
    default_checkpoints,
    poisoned,
    reason_unsupported,
    solve,
    step_grid,
)
from nodebench.errors import UserError
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid


class AbstractDiffrax(AbstractBackend):
    """A backend that differs from its siblings in diffrax's `adjoint` alone."""

    framework: ClassVar[str] = "jax"

    @abstractmethod
    def _adjoint(self, spec: SolverSpec) -> diffrax.AbstractAdjoint:
        """How diffrax differentiates the solve."""

    def _loop(self) -> Loop:
        return Loop()

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        del problem
        return reason_unsupported(spec)

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """A failure gives NaN, since compiled code cannot raise."""
        return solve(field, y0, times, spec, self._adjoint(spec), self._loop())

    @override
    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid:
        return step_grid(field, y0, times, spec, self._loop())


@dataclass(frozen=True)
class Diffrax(AbstractDiffrax):
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
    scan: Scan = "default"
    max_step: float | None = None

    def __post_init__(self) -> None:
        if self.checkpoints is not None and self.checkpoints < 1:
            raise UserError(f"`checkpoints` must be positive; got {self.checkpoints}.")
        self._loop()

    @override
    def _adjoint(self, spec: SolverSpec) -> diffrax.AbstractAdjoint:
        del spec
        return diffrax.RecursiveCheckpointAdjoint(self.checkpoints)

    @override
    def _loop(self) -> Loop:
        return Loop(self.scan, self.max_step)

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        kept = self.checkpoints or default_checkpoints(spec.max_steps)
        why = "as told" if self.checkpoints else "which follows from max_steps"
        return (
            *common_differences(spec),
            f"it keeps {kept} checkpoints of the steps, {why}.",
            *(() if self.max_step is None else (f"no step of it is longer than {self.max_step:g}.",)),
        )

    @property
    @override
    def memory_exponent(self) -> float:
        """O(sqrt n), n the step limit; O(1) with a fixed number of checkpoints."""
        return 0.5 if self.checkpoints is None else 0.0

    @property
    @override
    def exact_counterpart(self) -> str:
        """The default with these steps, whatever is kept and recomputed here."""
        return "diffrax" if self.max_step is None else f"diffrax[max_step={self.max_step!r}]"


@dataclass(frozen=True)
class DiffraxDirect(AbstractDiffrax):
    """diffrax's `DirectAdjoint`: exact for the steps taken, through a loop bounded by the step limit.

    Its memory follows from the step limit, not from the steps taken, and is the largest of all methods here: diffrax
    itself recommends it only where forward-mode derivatives are wanted too. A failed solve gives states and gradients
    of NaN; `grid` says why.
    """

    framework: ClassVar[str] = "jax"
    exact_counterpart = "diffrax"
    memory_exponent = 1.0  # in the step limit

    @override
    def _adjoint(self, spec: SolverSpec) -> diffrax.AbstractAdjoint:
        del spec
        return diffrax.DirectAdjoint()

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        return (
            *common_differences(spec),
            f"its memory and backward pass are those of max_steps = {spec.max_steps} steps, however few are taken.",
        )


class _CheckedSolve(diffrax.AbstractAdjoint):
    """The plain loop for the backward solve, whose result becomes NaN where it fails.

    Diffrax looks at the result of its backward solve only where it may raise: one that ran into its limit would else
    give a gradient of the part of the interval that it came through.
    """

    @override
    def loop(self, **kwargs: Any) -> tuple[Any, Any]:
        state, statistics = diffrax.ForwardMode().loop(**kwargs)
        ys = poisoned(state.save_state.ys, state.result)
        return eqx.tree_at(lambda at: at.save_state.ys, state, ys), statistics


@dataclass(frozen=True)
class DiffraxBacksolve(AbstractDiffrax):
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
    exact_counterpart = "diffrax"
    memory_exponent = 0.0
    norm: Literal["full", "seminorm"] = "full"

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        if problem.differentiate_times:
            return "diffrax's `BacksolveAdjoint` has no gradient with respect to times."
        return super().unsupported(problem, spec)

    @override
    def _adjoint(self, spec: SolverSpec) -> diffrax.AbstractAdjoint:
        chosen: dict[str, Any] = {"adjoint": _CheckedSolve()}
        if spec.solver not in FIXED:  # the steps of the forward solve need no control
            norm = diffrax.adjoint_rms_seminorm if self.norm == "seminorm" else None
            chosen["stepsize_controller"] = controller(spec, norm)
        return diffrax.BacksolveAdjoint(**chosen)

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        covered = "the parameters' gradient too" if self.norm == "full" else "all but the parameters' gradient"
        return (
            *common_differences(spec),
            f"the root-mean-square norm of its backward solve covers {covered}, all entries as one vector.",
        )
