"""The continuous adjoint method, its parameter gradient a quadrature apart from the state."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from nodebench.backends.runge_kutta.adjoint_equation import AdjointEquation, AdjointSetup, AdjointSweep
from nodebench.backends.runge_kutta.compiled import field as compiled_field
from nodebench.backends.runge_kutta.compiled.adjoint import CompiledAdjointEquation
from nodebench.backends.runge_kutta.compiled.direct import solve_compiled, solve_through_compiled
from nodebench.backends.runge_kutta.dense_output import DenseOutput, interpolant
from nodebench.backends.runge_kutta.solve import (
    AbstractRungeKutta,
    PlainSolve,
    Step,
    reason_unsupported,
    solve_plain,
    solve_through,
)
from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch.field import layout, output_times
from nodebench.problem import Array, Field, Problem, SolverSpec, State


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
    memory_exponent = 0.0
    norm: Literal["full", "seminorm"] = "full"
    land: bool = False
    compile: bool = False

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        reason = reason_unsupported(spec)
        if reason is None and self.compile:
            return compiled_field.reason_unsupported(problem)
        return reason

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        through = solve_through_compiled if self.compile else solve_through
        return through(_AdjointSolve, self.setup(field, y0, spec), y0, times)

    @property
    @override
    def compiles(self) -> bool:
        return self.compile

    @override
    def setup(self, field: Field, y0: State, spec: SolverSpec) -> AdjointSetup:
        return AdjointSetup(
            field=field,
            layout=layout(y0),
            spec=spec,
            land=self.land,
            full=self.norm == "full",
            compile=self.compile,
        )


class _AdjointSolve(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, setup: AdjointSetup, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        if setup.compile:
            ys = solve_compiled(setup, y0.detach(), times)
        else:
            ys = setup.layout.flatten_outputs(solve_plain(setup, setup.layout.state(y0), times))
        ctx.setup = setup
        ctx.save_for_backward(ys, times, *params)
        return ys

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        ys, times, *params = ctx.saved_tensors
        sweep = AdjointSweep(ctx.setup, ys, grad_ys)
        make = CompiledAdjointEquation if ctx.setup.compile else AdjointEquation
        equation = make(ctx.setup, sweep.start, params)
        by_y0, by_times = sweep.run(equation, output_times(times), timed=ctx.needs_input_grad[2])
        return None, by_y0, None if by_times is None else by_times.to(times), *equation.gradients()


@dataclass(frozen=True)
class Interpolated(AbstractRungeKutta):
    """The continuous adjoint with the state interpolated from the forward solve: nothing is reconstructed backwards.

    The forward solve keeps the polynomial of each step; the backward solve has the adjoint alone as its state, and the
    parameters' gradient as a quadrature. What `adjoint` loses where the dynamics contracts, since the state then runs
    away backwards, is not lost here.

    Memory is that of the polynomials, d + 1 states of each step with degree d: 5 n |y| for `dopri5`. A step backwards
    costs as many evaluations and VJPs as one of `adjoint`. The gradient is only as exact as the dense output, of order
    four for `dopri5` and `tsit5`, of the method's own for `bosh3` and `heun`. Do not use it where memory must not grow
    with the steps, nor where an exact gradient is wanted: `checkpoint` keeps a fifth of it and is exact.

    Attributes:
        norm: As in `adjoint`.
        land: Step onto every output time; see `direct`.

    References:
        Interpolation technique to speed up gradients propagation in neural ODEs (Daulbaev et al., 2020),
        https://arxiv.org/abs/2003.05271
    """

    framework: ClassVar[str] = "torch"
    memory_exponent = 1.0  # a polynomial for each step
    norm: Literal["full", "seminorm"] = "full"
    land: bool = False

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        del problem
        reason = reason_unsupported(spec)
        if reason is None and interpolant(spec.solver) is None:
            return _no_dense_output(spec.solver)
        return reason

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        return solve_through(_InterpolatedSolve, self.setup(field, y0, spec), y0, times)

    @override
    def setup(self, field: Field, y0: State, spec: SolverSpec) -> AdjointSetup:
        return AdjointSetup(field=field, layout=layout(y0), spec=spec, land=self.land, full=self.norm == "full")


def _no_dense_output(solver: str) -> str:
    return f"`{solver}` has no dense output; use one of bosh3, dopri5, heun and tsit5, or `checkpoint`."


class _InterpolatedSolve(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, setup: AdjointSetup, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        marks = output_times(times)
        solve = PlainSolve(setup, y0.detach(), marks)
        continuous = interpolant(setup.spec.solver)
        if continuous is None:
            raise UnsupportedError(_no_dense_output(setup.spec.solver))
        ctx.dense = DenseOutput(continuous, y0)
        steps: list[Step] = []
        kept: list[Tensor] = []
        for step, y in solve.steps():
            steps.append(step)
            kept += [y, ctx.dense.polynomial(solve.scheme.rows)]
        ctx.setup, ctx.steps, ctx.n_params = setup, steps, len(params)
        ctx.save_for_backward(solve.ys, times, *params, *kept)
        return solve.ys

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        ys, times, *saved = ctx.saved_tensors
        params, kept = saved[: ctx.n_params], saved[ctx.n_params :]
        path = _StepPolynomials(ctx.dense, ctx.steps, kept[::2], kept[1::2])
        sweep = AdjointSweep(ctx.setup, ys, grad_ys, along=True)
        equation = AdjointEquation(ctx.setup, sweep.start, params, path)
        by_y0, by_times = sweep.run(equation, output_times(times), timed=ctx.needs_input_grad[2])
        return None, by_y0, None if by_times is None else by_times.to(times), *equation.gradients()


class _StepPolynomials:
    """The state as a polynomial in each step.

    Args:
        dense: How polynomials are evaluated.
        steps: The steps.
        starts: The state at the beginning of each step.
        polynomials: The polynomial of each step.
    """

    def __init__(
        self, dense: DenseOutput, steps: Sequence[Step], starts: Sequence[Tensor], polynomials: Sequence[Tensor]
    ) -> None:
        self._dense, self._steps, self._starts, self._polynomials = dense, steps, starts, polynomials
        self._direction = 1.0 if steps[0].h > 0 else -1.0
        self._begins = [self._direction * step.span[0] for step in steps]

    def __call__(self, t: float) -> Tensor:
        """The flat state at `t`."""
        i = max(0, bisect_right(self._begins, self._direction * t) - 1)
        step = self._steps[i]
        powers = self._dense.powers([(t - step.span[0]) / step.h])[0]
        return torch.addmv(self._starts[i], self._polynomials[i].t(), powers, alpha=step.h)
