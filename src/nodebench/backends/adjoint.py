"""The continuous adjoint method, its parameter gradient a quadrature apart from the state."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nodebench.backends.runge_kutta import AbstractRungeKutta
from nodebench.problem import Array, Field, Problem, SolverSpec, State
from nodebench.solvers import compiled_field
from nodebench.solvers.adjoint_equation import AdjointEquation, AdjointJob, AdjointSweep
from nodebench.solvers.compiled_adjoint import CompiledAdjointEquation
from nodebench.solvers.compiled_direct import solve_compiled, solve_through_compiled
from nodebench.solvers.forward import reason_unsupported, solve_plain, solve_through
from nodebench.solvers.layout import layout, output_times


@dataclass(frozen=True)
class Adjoint(AbstractRungeKutta):
    """The continuous adjoint, solved backwards from the output states: memory independent of the steps.

    The gradient is that of the continuous problem, computed with the error of a solve of its own; the state is
    reconstructed backwards, which amplifies errors where the dynamics contracts.

    Memory is one graph, the output states, and s + 6 copies of the parameters' gradient (s + 2 with the seminorm, which
    does not need their error); the cost an evaluation and a VJP for each of the s stages of each backward step, at
    least one step for every output time that the loss looks at.
    Do not use it where an exact gradient is wanted or the dynamics contracts (`checkpoint`, `symplectic`), nor for
    many output times (`checkpoint`, whose cost does not grow with them).

    Attributes:
        norm: Error norm of the backward solve. `full`: the largest root-mean-square of the state, its adjoint and each
            parameter's gradient, as in torchdiffeq. `seminorm`: state and adjoint alone, since the parameters'
            gradients do not feed back.
        land: Step onto every output time in the forward solve, too; see `direct`. The backward solve always stops at
            those that the loss looks at, since the adjoint jumps there, with its step carried across.
        compile: Compile a step forward and a step of the adjoint equation; see `direct`.

    References:
        Neural ordinary differential equations (Chen, Rubanova, Bettencourt, Duvenaud, 2018), equations 10 to 12,
        https://arxiv.org/abs/1806.07366
        "Hey, that's not an ODE": faster ODE adjoints via seminorms (Kidger, Chen, Lyons, 2021),
        https://arxiv.org/abs/2009.09457
    """

    framework: ClassVar[str] = "torch"
    norm: Literal["full", "seminorm"] = "full"
    land: bool = False
    compile: bool = False

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """A sentence for a solver that is not ours, and for what cannot be compiled."""
        reason = reason_unsupported(spec)
        if reason is None and self.compile:
            return compiled_field.reason_unsupported(problem)
        return reason

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        through = solve_through_compiled if self.compile else solve_through
        return through(_AdjointSolve, self.job(field, y0, spec), y0, times)

    def compiles(self) -> bool:
        """As asked for."""
        return self.compile

    def memory_exponent(self) -> float:
        """O(1): nothing of the forward solve is kept but its output states."""
        return 0.0

    def job(self, field: Field, y0: State, spec: SolverSpec) -> "_Job":
        """See the base class."""
        return _Job(
            field=field,
            layout=layout(y0),
            spec=spec,
            land=self.land,
            full=self.norm == "full",
            compile=self.compile,
        )


@dataclass(frozen=True, kw_only=True)
class _Job(AdjointJob):
    compile: bool


class _AdjointSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: _Job, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        if job.compile:
            ys = solve_compiled(job, y0.detach(), times)
        else:
            ys = job.layout.flatten_outputs(solve_plain(job, job.layout.state(y0), times))
        ctx.job = job
        ctx.save_for_backward(ys, times, *params)
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        ys, times, *params = ctx.saved_tensors
        sweep = AdjointSweep(ctx.job, ys, grad_ys)
        make = CompiledAdjointEquation if ctx.job.compile else AdjointEquation
        equation = make(ctx.job, sweep.start, params)
        by_y0, by_times = sweep.run(equation, output_times(times), timed=ctx.needs_input_grad[2])
        return None, by_y0, None if by_times is None else by_times.to(times), *equation.gradients()
