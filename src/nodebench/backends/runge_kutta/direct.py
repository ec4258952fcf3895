"""Backpropagation through the solver, with only the field on the tape."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.runge_kutta.compiled.direct import (
    AbstractCompilable,
    CompiledDirectSolve,
    solve_through_compiled,
)
from nodebench.backends.runge_kutta.dense_output import dense_output
from nodebench.backends.runge_kutta.solve import SolveSetup, own_method, solve_through, steps_through
from nodebench.backends.runge_kutta.steps import Scheme, Stepper
from nodebench.backends.runge_kutta.transpose import LossGradient, Recorder, Transpose, pull_through
from nodebench.backends.solvers import tableau
from nodebench.errors import UserError
from nodebench.frameworks.torch.derivative import first_derivative_alone
from nodebench.frameworks.torch.field import layout, output_times
from nodebench.problem import Array, Field, SolverSpec, State


@dataclass(frozen=True)
class Direct(AbstractCompilable):
    """Backpropagation through the accepted steps: exact for the discretised problem, memory grows with the steps.

    The graphs of the field are kept for every stage of every accepted step; the sums between them are differentiated
    by hand. Lengths of steps count as constants: their dependence on state and parameters is not differentiated.

    With n accepted steps of s stages, memory is n s graphs, the cost n s VJPs beside the forward solve. Do not use it
    where the graphs do not fit: `checkpoint` gives the same gradient from n states, for n s further evaluations.

    Attributes:
        land: Step onto every output time. Else only the last is stepped onto and those before are interpolated to, at
            no evaluation and with an error like that of a step, where the method can (`bosh3`, `dopri5`, `heun`,
            `tsit5`); where the times are differentiated, all are stepped onto in any case.
        compile: Compile a step and its transposed derivative, once for a field, its shapes and the solver. The field
            must be an `nn.Module` whose operations do not depend on values; it is traced once, so that what is neither
            a parameter nor a buffer of it is fixed. On a CPU a loop in C++ takes the steps. Takes 20 to 40 seconds the
            first time, a few from the cache on disk, and pays where evaluations take less than a millisecond. The times
            are not differentiated.

    References:
        Discretize-optimize vs. optimize-discretize for time-series regression and continuous normalizing flows (Onken,
        Ruthotto, 2020), https://arxiv.org/abs/2005.13420
    """

    framework: ClassVar[str] = "torch"
    memory_exponent = 1.0
    land: bool = False
    compile: bool = False

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        setup = self.setup(field, y0, spec)
        if self.compile:
            return solve_through_compiled(CompiledDirectSolve, setup, y0, times)
        return solve_through(_DirectSolve, setup, y0, times)

    @override
    def setup(self, field: Field, y0: State, spec: SolverSpec) -> SolveSetup:
        return SolveSetup(field=field, layout=layout(y0), spec=spec, land=self.land)


class _DirectSolve(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, setup: SolveSetup, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        marks, y = output_times(times), y0.detach()
        scheme = Scheme(tableau(setup.spec.solver), y)
        dense = dense_output(scheme.tableau, y, marks, land=setup.land)
        final = marks[-1] if scheme.tableau.closes and dense is None else None
        recorder = Recorder(setup.field, setup.layout, scheme.rows, timed=ctx.needs_input_grad[2], final=final)
        ys = y.new_empty(len(marks), y.numel())
        steps, tape = [], []
        with torch.enable_grad():
            stepper = Stepper(own_method(setup, scheme, recorder), setup.spec, y, (marks[0], marks[-1]))
            for step, _ in steps_through(stepper, marks, ys, dense):
                steps.append(step)
                tape.append(recorder.take(scheme.tableau))
        if steps[-1].thetas and scheme.tableau.closes:
            tape[-1] += recorder.closing()
        ctx.tape, ctx.steps, ctx.dense = tape, steps, dense
        ctx.setup, ctx.params, ctx.times = setup, params, times
        return ys

    @staticmethod
    @first_derivative_alone
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.tape:
            raise UserError(
                "`direct` frees its graphs as it reads them; solve again for a second backward pass, or take "
                "`checkpoint`, which has the same gradient."
            )
        method, shape = tableau(ctx.setup.spec.solver), ctx.setup.layout
        transpose = Transpose(method, grad_ys[0], shape, ctx.params, timed=ctx.needs_input_grad[2])
        by_times = torch.zeros_like(ctx.times) if ctx.needs_input_grad[2] else None
        recorded = ((i, ctx.tape.pop()) for i in reversed(range(len(ctx.tape))))
        by_y0 = pull_through(transpose, LossGradient(ctx.steps, grad_ys, ctx.dense, method), recorded, by_times)
        return None, by_y0, by_times, *transpose.params
