"""The continuous adjoint along the forward solve's dense output."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nodebench.backends.runge_kutta import AbstractRungeKutta
from nodebench.errors import UnsupportedError
from nodebench.problem import Array, Field, Problem, SolverSpec, State
from nodebench.solvers.adjoint_equation import AdjointEquation, AdjointJob, AdjointSweep
from nodebench.solvers.forward import PlainSolve, reason_unsupported, solve_through
from nodebench.solvers.interpolant import interpolant
from nodebench.solvers.layout import layout, output_times
from nodebench.solvers.passage import DenseOutput, Leg


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
    norm: Literal["full", "seminorm"] = "full"
    land: bool = False

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """A sentence for a solver that is not ours, or has no dense output."""
        del problem
        reason = reason_unsupported(spec)
        if reason is None and interpolant(spec.solver) is None:
            return _no_dense_output(spec.solver)
        return reason

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solve_through(_InterpolatedSolve, self.job(field, y0, spec), y0, times)

    def memory_exponent(self) -> float:
        """O(n), a polynomial for each step."""
        return 1.0

    def job(self, field: Field, y0: State, spec: SolverSpec) -> AdjointJob:
        """See the base class."""
        return AdjointJob(field=field, layout=layout(y0), spec=spec, land=self.land, full=self.norm == "full")


def _no_dense_output(solver: str) -> str:
    return f"`{solver}` has no dense output; use one of bosh3, dopri5, heun and tsit5, or `checkpoint`."


class _InterpolatedSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: AdjointJob, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        marks = output_times(times)
        solve = PlainSolve(job, y0.detach(), marks)
        continuous = interpolant(job.spec.solver)
        if continuous is None:
            raise UnsupportedError(_no_dense_output(job.spec.solver))
        ctx.dense = DenseOutput(continuous, y0)
        legs: list[Leg] = []
        kept: list[Tensor] = []
        for leg, y in solve.legs():
            legs.append(leg)
            kept += [y, ctx.dense.polynomial(solve.scheme.rows)]
        ctx.job, ctx.legs, ctx.n_params = job, legs, len(params)
        ctx.save_for_backward(solve.ys, times, *params, *kept)
        return solve.ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        ys, times, *saved = ctx.saved_tensors
        params, kept = saved[: ctx.n_params], saved[ctx.n_params :]
        path = _Path(ctx.dense, ctx.legs, kept[::2], kept[1::2])
        sweep = AdjointSweep(ctx.job, ys, grad_ys, along=True)
        equation = AdjointEquation(ctx.job, sweep.start, params, path)
        by_y0, by_times = sweep.run(equation, output_times(times), timed=ctx.needs_input_grad[2])
        return None, by_y0, None if by_times is None else by_times.to(times), *equation.gradients()


class _Path:
    """The state as a polynomial in each step.

    Args:
        dense: How polynomials are evaluated.
        legs: The steps.
        starts: The state at the beginning of each step.
        polynomials: The polynomial of each step.
    """

    def __init__(
        self, dense: DenseOutput, legs: Sequence[Leg], starts: Sequence[Tensor], polynomials: Sequence[Tensor]
    ) -> None:
        self._dense, self._legs, self._starts, self._polynomials = dense, legs, starts, polynomials
        self._direction = 1.0 if legs[0].h > 0 else -1.0
        self._begins = [self._direction * leg.span[0] for leg in legs]

    def __call__(self, t: float) -> Tensor:
        """The flat state at `t`."""
        i = max(0, bisect_right(self._begins, self._direction * t) - 1)
        leg = self._legs[i]
        powers = self._dense.powers([(t - leg.span[0]) / leg.h])[0]
        return torch.addmv(self._starts[i], self._polynomials[i].t(), powers, alpha=leg.h)
