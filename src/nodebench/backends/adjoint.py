"""The continuous adjoint method, its parameter gradient a quadrature apart from the state."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nodebench.backends.base import AbstractBackend
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid
from nodebench.solvers.forward import reason_unsupported, solve_plain, solve_through, step_grid
from nodebench.solvers.layout import Layout, layout, output_times
from nodebench.solvers.scheme import Scheme
from nodebench.solvers.stepping import Dynamics, Stepper
from nodebench.solvers.tableau import tableau


@dataclass(frozen=True)
class Adjoint(AbstractBackend):
    """The continuous adjoint, solved backwards from the output states: memory independent of the steps.

    The gradient is that of the continuous problem, computed with the error of a solve of its own; the state is
    reconstructed backwards, which amplifies errors where the dynamics contracts. Prefer `checkpoint` there.

    Attributes:
        norm: Error norm of the backward solve. `full`: the largest root-mean-square of the state, its adjoint and each
            parameter's gradient, as in torchdiffeq. `seminorm`: state and adjoint alone, since the parameters'
            gradients do not feed back.

    References:
        Neural ordinary differential equations (Chen, Rubanova, Bettencourt, Duvenaud, 2018), equations 10 to 12,
        https://arxiv.org/abs/1806.07366
        "Hey, that's not an ODE": faster ODE adjoints via seminorms (Kidger, Chen, Lyons, 2021),
        https://arxiv.org/abs/2009.09457
    """

    framework: ClassVar[str] = "torch"
    norm: Literal["full", "seminorm"] = "full"

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """None for every field without layers that change from one evaluation to the next."""
        return reason_unsupported(problem.field, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably; see `AbstractBackend.solve`."""
        return solve_through(_AdjointSolve, _Job(field, layout(y0), spec, full=self.norm == "full"), y0, times)

    def memory_exponent(self) -> float:
        """O(1): nothing of the forward solve is kept but its output states."""
        return 0.0

    def exact_counterpart(self) -> str | None:
        """`direct`, which takes the same forward steps."""
        return "direct"

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of the forward solve."""
        return step_grid(field, y0, times, spec)


@dataclass(frozen=True)
class _Job:
    field: Field
    layout: Layout
    spec: SolverSpec
    full: bool


class _AdjointSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: _Job, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        ys = job.layout.flatten_outputs(solve_plain(job.field, job.layout.state(y0), times, job.spec))
        ctx.job = job
        ctx.save_for_backward(ys, times, *params)
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        ys, times, *params = ctx.saved_tensors
        sweep = _Sweep(ctx.job, params, ys, grad_ys)
        by_y0, by_times = sweep.run(output_times(times), timed=ctx.needs_input_grad[2])
        by_times = None if by_times is None else times.new_tensor(by_times)
        return None, by_y0, by_times, *sweep.augmented.gradients()


class _Sweep:
    """One backward solve through all output times."""

    def __init__(self, job: _Job, params: Sequence[Tensor], ys: Tensor, grad_ys: Tensor) -> None:
        self._job, self._ys, self._grad_ys = job, ys, grad_ys
        start = torch.cat([ys[-1], grad_ys[-1]])
        self._scheme = Scheme(tableau(job.spec.solver), start)
        self.augmented = _Augmented(job, self._scheme, params)
        self._start = start

    def run(self, marks: list[float], *, timed: bool) -> tuple[Tensor, list[float] | None]:
        """Solve from the last output time to the first; returns dL/dy0 and, where wanted, dL/dtimes."""
        n, last = self._ys.shape[1], len(marks) - 1
        dynamics = Dynamics(self.augmented, self.augmented.ratio)
        stepper = Stepper(self._scheme, self._job.spec, dynamics, self._start, (marks[-1], marks[0]))
        by_times = [0.0] * len(marks)
        for i in range(last, 0, -1):
            if i < last:
                # The stored state replaces the one reconstructed backwards, whose error would otherwise go on.
                stepper.reset(torch.cat([self._ys[i], stepper.y[n:] + self._grad_ys[i]]))
            if timed:
                by_times[i] = torch.dot(self._grad_ys[i], stepper.evaluate()[:n]).item()
            for step in stepper.advance(marks[i - 1]):
                self.augmented.accept(step.end - step.start)
        adjoint = stepper.y[n:]
        if timed:
            stepper.reset(torch.cat([self._ys[0], adjoint]))
            by_times[0] = -torch.dot(adjoint, stepper.evaluate()[:n]).item()
        return adjoint + self._grad_ys[0], by_times if timed else None


class _Augmented:
    """The dynamics of state and adjoint, and the quadrature of the parameters' gradient.

    A stage writes `[f, -aᵀ ∂f/∂y]` into the scheme's row and `aᵀ ∂f/∂θ` into a row of the quadrature. The quadrature is
    summed once per accepted step and is never part of a stage.
    """

    def __init__(self, job: _Job, scheme: Scheme, params: Sequence[Tensor]) -> None:
        self._job, self._scheme, self._params = job, scheme, tuple(params)
        self._n = scheme.rows.shape[1] // 2
        self._f_rows = [job.layout.parts(row[: self._n]) for row in scheme.rows]
        self._a_rows = [job.layout.parts(row[self._n :]) for row in scheme.rows]
        self._total = scheme.rows.new_zeros(sum(p.numel() for p in params))
        self._quadrature = Scheme(scheme.tableau, self._total)
        self._p_rows = [self._split(row) for row in self._quadrature.rows]
        self._norms = _Norms(job, scheme, self._quadrature, [p.numel() for p in params] if job.full else [])
        self._next: Tensor | None = None

    def _split(self, flat: Tensor) -> list[Tensor]:
        pieces = torch.split(flat, [p.numel() for p in self._params]) if self._params else ()
        return [piece.view(p.shape) for piece, p in zip(pieces, self._params, strict=True)]

    def __call__(self, stage: int, t: float, z: Tensor) -> None:
        """Evaluate the field and one vector-Jacobian product of it."""
        shape = self._job.layout
        leaves = [part.detach().requires_grad_() for part in shape.parts(z[: self._n])]
        with torch.enable_grad():
            result = self._job.field(t, tuple(leaves) if shape.is_tuple else leaves[0])
        parts = shape.derivative(result)
        for row, part in zip(self._f_rows[stage], parts, strict=True):
            row.copy_(part.detach())
        taped = [(part, a) for part, a in zip(parts, shape.parts(z[self._n :]), strict=True) if part.requires_grad]
        found: Sequence[Tensor | None] = [None] * (len(leaves) + len(self._params))
        if taped:
            outputs, covectors = zip(*taped, strict=True)
            found = torch.autograd.grad(outputs, (*leaves, *self._params), covectors, allow_unused=True)
        for row, by_part in zip(self._a_rows[stage], found[: len(leaves)], strict=True):
            row.zero_() if by_part is None else torch.neg(by_part, out=row)
        _store(self._p_rows[stage], found[len(leaves) :])

    def ratio(self, h: float, z0: Tensor, z1: Tensor) -> float:
        """Error of a step relative to the tolerance."""
        self._next = None
        if not self._job.full or not self._params:
            return self._norms.ratio(h, (z0, z1), None)
        self._next = self._quadrature.combine(self._total, -h)
        return self._norms.ratio(h, (z0, z1), (self._total, self._next))

    def accept(self, h: float) -> None:
        """Add an accepted step's share of the parameters' gradient."""
        if not self._params:
            return
        self._total = self._quadrature.combine(self._total, -h) if self._next is None else self._next
        if self._scheme.tableau.fsal:
            self._quadrature.rows[0].copy_(self._quadrature.rows[-1])

    def gradients(self) -> list[Tensor]:
        """The gradient with respect to each parameter."""
        return self._split(self._total)


class _Norms:
    """Largest root-mean-square of the relative errors of several parts, with one synchronisation."""

    def __init__(self, job: _Job, state: Scheme, quadrature: Scheme, counts: Sequence[int]) -> None:
        rows = state.rows
        sizes = [rows.shape[1] // 2, rows.shape[1] // 2, *counts]
        self._state, self._quadrature, self._rtol = state, quadrature, job.spec.rtol
        self._atol = rows.new_tensor(job.spec.atol)
        self._relative = rows.new_empty(sum(sizes))
        self._parts = torch.split(self._relative, sizes)
        self._weights = rows.new_tensor([1 / sqrt(max(size, 1)) for size in sizes])

    def ratio(self, h: float, z: tuple[Tensor, Tensor], g: tuple[Tensor, Tensor] | None) -> float:
        n = self._state.rows.shape[1]
        torch.div(self._state.error(), self._scale(z), out=self._relative[:n])
        if g is not None:
            torch.div(self._quadrature.error(), self._scale(g), out=self._relative[n:])
        norms = torch._foreach_norm(self._parts)  # noqa: SLF001  one dispatch for all parts
        largest: float = torch.stack(norms).mul_(self._weights).max().item()
        return abs(h) * largest

    def _scale(self, ends: tuple[Tensor, Tensor]) -> Tensor:
        return torch.add(self._atol, torch.maximum(ends[0].abs(), ends[1].abs()), alpha=self._rtol)


def _store(rows: list[Tensor], found: Sequence[Tensor | None]) -> None:
    """Write gradients into their rows; a parameter that was not used has None."""
    used = [part for part in found if part is not None]
    if rows and len(used) == len(rows):
        torch._foreach_copy_(rows, used)  # one dispatch for all; torch.optim relies on its kind as well
        return
    for row, part in zip(rows, found, strict=True):
        row.zero_() if part is None else row.copy_(part)
