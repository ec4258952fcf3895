"""The exact discrete gradient from checkpoints: each step redone with a graph, then differentiated."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nodebench.backends.base import AbstractBackend
from nodebench.errors import UserError
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers.forward import FieldRows, plain_stepper, reason_unsupported, solve_through, step_grid
from nodebench.solvers.layout import Layout, layout, output_times
from nodebench.solvers.reverse import Recorder, Transpose, time_gradient
from nodebench.solvers.revolve import backwards
from nodebench.solvers.scheme import Scheme
from nodebench.solvers.tableau import tableau


@dataclass(frozen=True)
class Checkpoint(AbstractBackend):
    """The gradient of `direct`, its graphs rebuilt one step at a time from kept states: exact, memory of one step.

    The forward solve keeps its steps and states and no graph. The backward pass redoes each step with a graph and
    differentiates it, so that the field is evaluated once more. Lengths of steps count as constants, as in `direct`.

    Attributes:
        checkpoints: `all` keeps the state before each step. A number keeps only as many, the initial one included, and
            recomputes the others along the binomial schedule.

    Raises:
        UserError: If `checkpoints` is not positive.

    References:
        Adaptive checkpoint adjoint method for gradient estimation in neural ODE (Zhuang et al., 2020),
        https://arxiv.org/abs/2006.02493
        Algorithm 799: revolve (Griewank, Walther, 2000), https://doi.org/10.1145/347837.347846
    """

    framework: ClassVar[str] = "torch"
    checkpoints: Literal["all"] | int = "all"

    def __post_init__(self) -> None:
        if self.checkpoints != "all" and self.checkpoints < 1:
            raise UserError(f"`checkpoints` must be 'all' or at least 1; got {self.checkpoints}.")

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """None for every field without layers that change from one evaluation to the next."""
        return reason_unsupported(problem.field, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solve_through(
            _CheckpointSolve,
            _Job(field, layout(y0), spec, None if self.checkpoints == "all" else self.checkpoints),
            y0,
            times,
        )

    def memory_exponent(self) -> float:
        """O(n), a state for each step; O(1) with a fixed number of checkpoints."""
        return 1.0 if self.checkpoints == "all" else 0.0

    def exact_counterpart(self) -> str | None:
        """`direct`, which takes the same steps."""
        return "direct"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of the forward solve."""
        return step_grid(field, y0, times, spec)


@dataclass(frozen=True)
class _Job:
    field: Field
    layout: Layout
    spec: SolverSpec
    n_kept: int | None


@dataclass(frozen=True, slots=True)
class _Taken:
    """A step of the forward solve; it belongs to the interval that ends at output time `interval`."""

    span: tuple[float, float]
    fractions: tuple[float, float]
    interval: int


class _CheckpointSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: _Job, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        marks = output_times(times)
        y = y0.detach()
        stepper = plain_stepper(job.field, job.layout, y, marks, job.spec)
        ys = y.new_empty(len(marks), y.numel())
        ys[0] = y
        steps: list[_Taken] = []
        kept = [y0]
        for i, mark in enumerate(marks[1:], start=1):
            for step in stepper.advance(mark):
                if job.n_kept is None and steps:
                    kept.append(step.y0)
                steps.append(_Taken((step.start, step.end), step.fractions, i))
            ys[i] = stepper.y
        ctx.job, ctx.steps = job, steps
        ctx.save_for_backward(times, *params, *kept)
        ctx.n_params = len(params)
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        times, *saved = ctx.saved_tensors
        params, kept = saved[: ctx.n_params], saved[ctx.n_params :]
        rerun = _Rerun(ctx.job, ctx.steps, kept, timed=ctx.needs_input_grad[2])
        transpose = Transpose(rerun.scheme, ctx.job.layout, params)
        by_times = torch.zeros_like(times) if ctx.needs_input_grad[2] else None
        interval = len(grad_ys)
        for i, y in rerun.states():
            step = ctx.steps[i]
            if step.interval < interval:
                interval = step.interval
                transpose.state.add_(grad_ys[interval])
            share = transpose.pull(step.span[1] - step.span[0], rerun.graphs(i, y))
            if share is not None and by_times is not None:
                time_gradient(share, step.fractions, by_times[interval - 1], by_times[interval])
        return None, transpose.state + grad_ys[0], by_times, *transpose.params


class _Rerun:
    """Redoes steps of a known grid, without a graph to reach a state and with one to differentiate a step."""

    def __init__(self, job: _Job, steps: list[_Taken], kept: list[Tensor], *, timed: bool) -> None:
        self.scheme = Scheme(tableau(job.spec.solver), kept[0])
        self._n_kept, self._steps, self._kept = job.n_kept, steps, [y.detach() for y in kept]
        self._plain = FieldRows(job.field, job.layout, self.scheme.rows)
        self._recorder = Recorder(job.field, job.layout, self.scheme.rows, timed=timed)

    def states(self) -> Iterator[tuple[int, Tensor]]:
        """The state before each step, last step first."""
        if self._n_kept is None:
            return ((i, self._kept[i]) for i in reversed(range(len(self._steps))))
        return backwards(len(self._steps), self._n_kept, self._kept[0], self._advance)

    def graphs(self, i: int, y: Tensor) -> Any:
        """The graphs of step i from the state before it."""
        with torch.enable_grad():
            self.scheme.stages(self._recorder, y, self._steps[i].span, first_known=False)
        return self._recorder.take(self.scheme.tableau)

    def _advance(self, i: int, y: Tensor) -> Tensor:
        return self.scheme.stages(self._plain, y, self._steps[i].span, first_known=False)
