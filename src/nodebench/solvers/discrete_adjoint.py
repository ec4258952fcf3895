"""The exact discrete gradient from kept states: each step redone, then differentiated by its transpose.

Shared by the backends that differ in which states are kept and in how many graphs of the field are alive at once. It
stands here because a backend imports no other backend.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nodebench.solvers.forward import FieldRows, Job, PlainSolve
from nodebench.solvers.layout import output_times
from nodebench.solvers.passage import Leg
from nodebench.solvers.reverse import Graphs, LossGradient, Recorder, StageGraph, Transpose, pull_through
from nodebench.solvers.revolve import backwards
from nodebench.solvers.scheme import Scheme
from nodebench.solvers.tableau import tableau


@dataclass(frozen=True, kw_only=True)
class DiscreteJob(Job):
    """What is solved, and how its steps are redone.

    Attributes:
        n_kept: How many states are kept, the initial one included; None for the state before each step.
        one_graph: Whether the graph of one stage at a time is built, the step having been redone without graphs before,
            instead of those of a whole step at once.
    """

    n_kept: int | None = None
    one_graph: bool = False


class DiscreteAdjointSolve(torch.autograd.Function):
    """A solve that keeps states instead of graphs; a function of (job, flat y0, times, *params)."""

    @staticmethod
    def forward(ctx: Any, job: DiscreteJob, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        """Solve, and keep the steps and their states."""
        solve = PlainSolve(job, y0.detach(), output_times(times))
        legs: list[Leg] = []
        kept = [y0]
        for leg, y in solve.legs():
            if job.n_kept is None and legs:
                kept.append(y)
            legs.append(leg)
        ctx.job, ctx.legs, ctx.dense, ctx.n_params = job, legs, solve.dense, len(params)
        ctx.save_for_backward(times, *params, *kept)
        return solve.ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        """Redo the steps, last one first, and pull the derivative through them."""
        times, *saved = ctx.saved_tensors
        params, kept = saved[: ctx.n_params], saved[ctx.n_params :]
        timed = ctx.needs_input_grad[2]
        rerun = _Rerun(ctx.job, ctx.legs, kept, timed=timed)
        transpose = Transpose(rerun.scheme.tableau, kept[0], ctx.job.layout, params, timed=timed)
        by_times = torch.zeros_like(times) if timed else None
        loss = LossGradient(ctx.legs, grad_ys, ctx.dense)
        by_y0 = pull_through(transpose, loss, rerun.steps(), by_times)
        return None, by_y0, by_times, *transpose.params


class _Rerun:
    """Redoes steps of a known grid, without a graph to reach a state and with graphs to differentiate a step."""

    def __init__(self, job: DiscreteJob, legs: list[Leg], kept: list[Tensor], *, timed: bool) -> None:
        self.scheme = Scheme(tableau(job.spec.solver), kept[0])
        self._job, self._legs, self._kept = job, legs, [y.detach() for y in kept]
        self._plain = FieldRows(job.field, job.layout, self.scheme.rows)
        self._recorder = Recorder(job.field, job.layout, self.scheme.rows, timed=timed)

    def steps(self) -> Iterator[tuple[int, Graphs]]:
        """The graphs of each step, last step first."""
        graphs = self._one_by_one if self._job.one_graph else self._whole_step
        return ((i, graphs(i, y)) for i, y in self._states())

    def _states(self) -> Iterator[tuple[int, Tensor]]:
        if self._job.n_kept is None:
            return ((i, self._kept[i]) for i in reversed(range(len(self._legs))))
        return backwards(len(self._legs), self._job.n_kept, self._kept[0], self._advance)

    def _advance(self, i: int, y: Tensor) -> Tensor:
        return self.scheme.stages(self._plain, y, self._legs[i].span, first_known=False)

    def _needs_closing(self, i: int) -> bool:
        """Whether the loss depends on a closing stage that no later step begins with."""
        return i + 1 == len(self._legs) and bool(self._legs[i].thetas)

    def _whole_step(self, i: int, y: Tensor) -> Graphs:
        span, method = self._legs[i].span, self.scheme.tableau
        with torch.enable_grad():
            y1 = self.scheme.stages(self._recorder, y, span, first_known=False)
            if self._needs_closing(i):
                self._recorder(method.n_stages - 1, span[1], y1)
        graphs = self._recorder.take(method)
        return graphs + self._recorder.closing() if self._needs_closing(i) else graphs

    def _one_by_one(self, i: int, y: Tensor) -> Graphs:
        span = self._legs[i].span
        n_own = self.scheme.tableau.n_own
        # The last stage's derivative leads to no other stage, only to the end of the step.
        visited = _StageStates(self._plain, n_own if self._needs_closing(i) else n_own - 1)
        y1 = self.scheme.stages(visited, y, span, first_known=False)
        if self._needs_closing(i):
            visited.places.append((span[1], y1))
        return _GraphsOnDemand(self._recorder, visited.places)


class _StageStates:
    """Evaluates the first stages of a step, and keeps where all of them are."""

    def __init__(self, plain: FieldRows, n_evaluated: int) -> None:
        self._plain, self._n_evaluated = plain, n_evaluated
        self.places: list[tuple[float, Tensor]] = []

    def __call__(self, stage: int, t: float, y: Tensor) -> None:
        self.places.append((t, y))
        if stage < self._n_evaluated:
            self._plain(stage, t, y)


@dataclass(frozen=True)
class _GraphsOnDemand:
    """Graphs of a step's stages, each built when it is asked for, so that one is alive at a time."""

    recorder: Recorder
    places: list[tuple[float, Tensor]]

    def __len__(self) -> int:
        return len(self.places)

    def pop(self) -> StageGraph:
        t, y = self.places.pop()
        with torch.enable_grad():
            return self.recorder.single(t, y)
