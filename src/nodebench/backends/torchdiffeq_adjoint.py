"""torchdiffeq's continuous adjoint."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torchdiffeq

from nodebench.backends.base import AbstractBackend
from nodebench.frameworks.base import IN_BACKWARD_SOLVE, AbstractFramework, AbstractGradientStep, AbstractWrappedStep
from nodebench.frameworks.torch_field import parameters
from nodebench.problem import Array, Evaluations, Field, Gradients, Problem, SolverSpec, State, StepGrid
from nodebench.solvers import torchdiffeq_solve


@dataclass(frozen=True)
class TorchdiffeqAdjoint(AbstractBackend):
    """torchdiffeq's `odeint_adjoint`: the continuous adjoint, started anew at every output time.

    The backward solve has the tolerances, the first step and the step limit of the forward solve.

    Attributes:
        norm: Error norm of the backward solve: `full` or torchdiffeq's `seminorm`.
        land: Step onto every output time instead of interpolating to it, forward and backward.

    References:
        Neural ordinary differential equations (Chen, Rubanova, Bettencourt, Duvenaud, 2018),
        https://arxiv.org/abs/1806.07366
    """

    framework: ClassVar[str] = "torch"
    norm: Literal["full", "seminorm"] = "full"
    land: bool = False

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """None where torchdiffeq has the solver."""
        del problem
        return torchdiffeq_solve.unsupported(spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        options = torchdiffeq_solve.options(y0, times, spec, land=self.land)
        adjoint_options = {name: value for name, value in options.items() if name != "norm"}
        # Methods of fixed steps have no error norm.
        if self.norm == "seminorm" and spec.solver not in torchdiffeq_solve.FIXED:
            adjoint_options["norm"] = "seminorm"
        with torchdiffeq_solve.named_errors():
            ys: State = torchdiffeq.odeint_adjoint(
                field,
                y0,
                times,
                rtol=spec.rtol,
                atol=spec.atol,
                method=torchdiffeq_solve.METHODS[spec.solver],
                options=options,
                adjoint_options=adjoint_options,
                adjoint_params=tuple(parameters(field)),
            )
        return ys

    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        """Interpolation, the limit's meaning, and what the backward state holds."""
        return (
            *torchdiffeq_solve.differences(spec, land=self.land),
            "its backward solve carries the gradient of every parameter as part of the state, in every stage.",
        )

    def memory_exponent(self) -> float:
        """O(1): nothing of the forward solve is kept but its output states."""
        return 0.0

    def exact_counterpart(self) -> str | None:
        """`torchdiffeq`, which takes the same forward steps."""
        return f"torchdiffeq[land={str(self.land).lower()}]"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of the forward solve, as its callbacks report them."""
        return torchdiffeq_solve.grid(field, y0, times, spec, land=self.land)

    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> AbstractGradientStep:
        """The common gradient step, its backward errors named: the backward pass solves outside of `solve`."""
        return _NamedErrors(framework.gradient_step(self.solve, problem, spec))


class _NamedErrors(AbstractWrappedStep):
    """Names the assertions of the backward solve; those of the forward solve have their names from `solve`."""

    def step(self) -> Gradients:
        with torchdiffeq_solve.named_errors(IN_BACKWARD_SOLVE):
            return self.inner.step()

    def backward(self, state: Any) -> Gradients:
        with torchdiffeq_solve.named_errors(IN_BACKWARD_SOLVE):
            return self.inner.backward(state)

    def evaluations(self) -> Evaluations:
        with torchdiffeq_solve.named_errors(IN_BACKWARD_SOLVE):
            return self.inner.evaluations()
