"""An algebraically reversible wrapper of any explicit Runge-Kutta method: exact gradients in constant memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.base import AbstractBackend
from nodebench.backends.runge_kutta.solve import (
    FieldRows,
    SolveSetup,
    Step,
    reason_unsupported,
    solve_through,
    steps_through,
)
from nodebench.backends.runge_kutta.steps import AbstractMethod, Scheme, Span, Stepper, check_beginning, rms_ratio
from nodebench.backends.runge_kutta.transpose import Recorder, TimeShare, Transpose, time_gradient
from nodebench.backends.solvers import IMPLICIT, tableau
from nodebench.errors import UserError
from nodebench.frameworks.torch.derivative import first_derivative_alone
from nodebench.frameworks.torch.field import layout, output_times
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid


@dataclass(frozen=True)
class Reversible(AbstractBackend):
    """A reversible solver made of any explicit one: the exact gradient of its own steps, in memory of one step.

    Beside y it carries a second solution z, both beginning at y0. With the increment Ψ_h(y) of a Runge-Kutta step from
    t to t + h,

        y1 = λ y0 + (1 - λ) z0 + Ψ_h(z0),    z1 = z0 - Ψ_{-h}(y1),

    which is solved for (y0, z0) in closed form. The order is that of the Runge-Kutta method; the error estimate is that
    of the step from z0. All output times are stepped onto, whatever was asked for.

    Memory is that of one step's graphs, independent of the number of steps but for the lengths of the steps. A step
    costs two Runge-Kutta steps forward and two with graphs and VJPs backward: twice `checkpoint`. Going back multiplies
    rounding errors by 1 / λ each step, and the wrapped method is less stable than the method itself: do not use it over
    long times in float32, nor where `checkpoint` fits in memory.

    Attributes:
        coupling: λ, above 0 and at most 1.

    Raises:
        UserError: If `coupling` is not in that range.

    References:
        Efficient, accurate and stable gradients for neural ODEs (McCallum, Foster, 2024),
        https://arxiv.org/abs/2410.11648
    """

    framework: ClassVar[str] = "torch"
    memory_exponent = 0.0
    coupling: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.coupling <= 1:
            raise UserError(f"`coupling` must be above 0 and at most 1; got {self.coupling!r}.")

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        del problem
        if spec.solver in IMPLICIT:
            return f"it is made of steps of an explicit method, and `{spec.solver}` is implicit."
        return reason_unsupported(spec)

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        setup = self._setup(field, y0, spec)
        if torch.is_grad_enabled():
            return solve_through(_ReversibleSolve, setup, y0, times)
        solve = _PairSolve(setup, setup.layout.flatten(y0).detach(), output_times(times))
        for _ in solve.steps():
            pass
        return setup.layout.state(solve.ys)

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        return (
            f"its step is made of two of {spec.solver}, another discretisation with about twice the evaluations.",
            "it steps onto every output time.",
        )

    @property
    @override
    def exact_counterpart(self) -> str | None:
        """Itself: no other backend takes these steps."""
        return f"reversible[coupling={self.coupling}]"

    @override
    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        marks = output_times(times)
        setup = self._setup(field, y0, spec)
        with torch.no_grad():
            solve = _PairSolve(setup, setup.layout.flatten(y0), marks)
            ends = [step.span[1] for step in solve.steps()]
        return StepGrid((marks[0], *ends), solve.stepper.n_rejected)

    def _setup(self, field: Field, y0: State, spec: SolverSpec) -> "_ReversibleSetup":
        return _ReversibleSetup(field=field, layout=layout(y0), spec=spec, land=True, coupling=self.coupling)


@dataclass(frozen=True, kw_only=True)
class _ReversibleSetup(SolveSetup):
    coupling: float


class _PairMethod(AbstractMethod):
    """The step of a pair (y, z), which lies in one flat vector."""

    def __init__(self, setup: _ReversibleSetup, scheme: Scheme) -> None:
        self.tableau, self.rows = scheme.tableau, scheme.rows
        self._scheme, self._coupling = scheme, setup.coupling
        self._field = FieldRows(setup.field, setup.layout, scheme.rows)
        self._ratio = rms_ratio(scheme, setup.spec)
        self._first_known = False  # whether row 0 holds the derivative at z

    @override
    def derivative(self, t: float, y: Tensor) -> Tensor:
        self._field(0, t, y.chunk(2)[1])
        return torch.cat([self._scheme.rows[0], self._scheme.rows[0]])

    @override
    def step(self, y0: Tensor, span: Span) -> Tensor:
        return self._forward(y0, span)[0]

    @override
    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        pair, end = self._forward(y0, span)
        self._first_known = True
        self._field(self.tableau.n_stages - 1, span[1], end)
        z = y0.chunk(2)[1]
        ratio = self._ratio(span[1] - span[0], z, end)
        check_beginning(ratio, y0, self._scheme.rows[0], span)
        return pair, ratio

    def _forward(self, pair: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        """(y1, z0), and where the Runge-Kutta step from z0 ends."""
        y, z = pair.chunk(2)
        end = self._scheme.stages(self._field, z, span, first_known=self._first_known)
        return torch.cat([end + self._coupling * (y - z), z]), end

    @override
    def accept(self, y1: Tensor, span: Span) -> Tensor:
        """(y1, z1) from (y1, z0)."""
        y, z = y1.chunk(2)
        back = self._scheme.stages(self._field, y, (span[1], span[0]), first_known=False)
        self._first_known = False
        return torch.cat([y, z - (back - y)])

    @override
    def carry(self) -> None:
        """Nothing: a step begins with the derivative at z, and ends with that at y."""

    @override
    def forget(self) -> None:
        self._first_known = False


class _PairSolve:
    """A solve of the pair, without a graph."""

    def __init__(self, setup: _ReversibleSetup, y: Tensor, marks: list[float]) -> None:
        self.scheme = Scheme(tableau(setup.spec.solver), y)
        self.stepper = Stepper(_PairMethod(setup, self.scheme), setup.spec, torch.cat([y, y]), (marks[0], marks[-1]))
        self._pairs = y.new_empty(len(marks), 2 * y.numel())
        self._marks = marks

    def steps(self) -> Iterator[Step]:
        """Each step."""
        for step, _ in steps_through(self.stepper, self._marks, self._pairs, dense=None):
            yield step

    @property
    def ys(self) -> Tensor:
        """States at the output times."""
        return self._pairs.chunk(2, dim=1)[0].contiguous()


class _ReversibleSolve(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, setup: _ReversibleSetup, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        solve = _PairSolve(setup, y0.detach(), output_times(times))
        ctx.setup, ctx.steps = setup, list(solve.steps())
        ctx.save_for_backward(solve.stepper.y, times, *params)
        return solve.ys

    @staticmethod
    @first_derivative_alone
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        pair, times, *params = ctx.saved_tensors
        timed = ctx.needs_input_grad[2]
        back = _PairPullback(ctx.setup, pair, params, timed=timed)
        by_times = torch.zeros_like(times) if timed else None
        at = len(grad_ys)
        for step in reversed(ctx.steps):
            begin, end = step.interval
            if end < at:
                at = end
                back.by_y = back.by_y + grad_ys[at]
            share = back.pull(step)
            if share is not None and by_times is not None:
                time_gradient(share, step.fractions, by_times[begin], by_times[end])
        return None, back.by_y + back.by_z + grad_ys[0], by_times, *back.transpose.params


class _PairPullback:
    """Reconstructs (y, z) step by step and pulls the derivative of the loss back with it.

    Attributes:
        transpose: Holds the derivatives with respect to the parameters.
        by_y: Derivative with respect to the present y.
        by_z: The same for z.
    """

    def __init__(self, setup: _ReversibleSetup, pair: Tensor, params: list[Tensor], *, timed: bool) -> None:
        self._y, self._z = pair.chunk(2)
        self._coupling = setup.coupling
        self._scheme = Scheme(tableau(setup.spec.solver), self._y)
        self._recorder = Recorder(setup.field, setup.layout, self._scheme.rows, timed=timed)
        self.transpose = Transpose(self._scheme.tableau, self._y, setup.layout, params, timed=timed)
        self.by_y, self.by_z = torch.zeros_like(self._y), torch.zeros_like(self._z)

    def pull(self, step: Step) -> TimeShare | None:
        """Go back through one step: through z1 = z0 - Ψ_{-h}(y1) first, then y1 = λ y0 + (1 - λ) z0 + Ψ_h(z0)."""
        start, end = step.span
        back, by_y, second = self._redo(self._y, (end, start), -self.by_z)
        by_y1 = self.by_y + by_y
        z = self._z + (back - self._y)
        forth, by_z, first = self._redo(z, (start, end), by_y1)
        self._y, self._z = z + (self._y - forth) / self._coupling, z
        self.by_z = self.by_z + (1 - self._coupling) * by_y1 + by_z
        self.by_y = self._coupling * by_y1
        if first is None or second is None:
            return None
        # The second Runge-Kutta step begins at start + length and is -length long.
        return TimeShare(first.start + second.start, first.length + second.start - second.length)

    def _redo(self, y: Tensor, span: Span, covector: Tensor) -> tuple[Tensor, Tensor, TimeShare | None]:
        """The end of a Runge-Kutta step, and its increment's transposed derivative times a covector."""
        with torch.enable_grad():
            end = self._scheme.stages(self._recorder, y, span, first_known=False)
        self.transpose.state.copy_(covector)
        share = self.transpose.pull(span[1] - span[0], self._recorder.take(self._scheme.tableau))
        return end, self.transpose.state - covector, share
