"""Backpropagation through the solver, with only the field on the tape."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nodebench.backends.base import AbstractBackend
from nodebench.errors import UserError
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers.forward import reason_unsupported, solve_through, step_grid
from nodebench.solvers.layout import Layout, layout, output_times
from nodebench.solvers.reverse import Recorder, StageGraph, Transpose, time_gradient
from nodebench.solvers.scheme import Scheme, rms_ratio
from nodebench.solvers.stepping import Dynamics, Step, Stepper
from nodebench.solvers.tableau import tableau


@dataclass(frozen=True)
class Direct(AbstractBackend):
    """Backpropagation through the accepted steps: exact for the discretised problem, memory grows with the steps.

    The graphs of the field are kept for every stage of every accepted step; the sums between them are differentiated
    by hand. Lengths of steps count as constants: their dependence on state and parameters is not differentiated.
    Prefer `checkpoint` where memory is short, at the price of evaluating the field once more.

    References:
        Discretize-optimize vs. optimize-discretize for time-series regression and continuous normalizing flows (Onken,
        Ruthotto, 2020), https://arxiv.org/abs/2005.13420
    """

    framework: ClassVar[str] = "torch"

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """None for every field without layers that change from one evaluation to the next."""
        return reason_unsupported(problem.field, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solve_through(_DirectSolve, _Job(field, layout(y0), spec), y0, times)

    def memory_exponent(self) -> float:
        """O(n): the graphs of all stages of accepted steps are kept."""
        return 1.0

    def exact_counterpart(self) -> str | None:
        """Itself."""
        return "direct"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of the forward solve."""
        return step_grid(field, y0, times, spec)


@dataclass(frozen=True)
class _Job:
    field: Field
    layout: Layout
    spec: SolverSpec


@dataclass(frozen=True, slots=True)
class _Taped:
    h: float
    fractions: tuple[float, float]
    graphs: list[StageGraph]


class _DirectSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: _Job, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        marks = output_times(times)
        y = y0.detach()
        scheme = Scheme(tableau(job.spec.solver), y)
        timed = bool(ctx.needs_input_grad[2])
        recorder = Recorder(job.field, job.layout, scheme.rows, timed=timed)
        ys, tape = y.new_empty(len(marks), y.numel()), []
        ys[0] = y
        with torch.enable_grad():
            dynamics = Dynamics(recorder, rms_ratio(scheme, job.spec))
            stepper = Stepper(scheme, job.spec, dynamics, y, (marks[0], marks[-1]))
            for i, mark in enumerate(marks[1:], start=1):
                steps = [_taped(step, recorder, scheme) for step in stepper.advance(mark)]
                tape.append(steps)
                ys[i] = stepper.y
        ctx.tape, ctx.layout, ctx.scheme, ctx.params, ctx.times = tape, job.layout, scheme, params, times
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        if not ctx.tape:
            raise UserError("`direct` frees its graphs as it reads them; solve again for a second backward pass.")
        transpose = Transpose(ctx.scheme, ctx.layout, [p for p in ctx.params if p.requires_grad])
        by_times = torch.zeros_like(ctx.times) if ctx.needs_input_grad[2] else None
        while ctx.tape:
            i = len(ctx.tape)
            transpose.state.add_(grad_ys[i])
            steps = ctx.tape.pop()
            while steps:
                step = steps.pop()
                share = transpose.pull(step.h, step.graphs)
                if share is not None and by_times is not None:
                    time_gradient(share, step.fractions, by_times[i - 1], by_times[i])
        return None, transpose.state + grad_ys[0], by_times, *transpose.params


def _taped(step: Step, recorder: Recorder, scheme: Scheme) -> _Taped:
    return _Taped(step.end - step.start, step.fractions, recorder.take(scheme.tableau))
