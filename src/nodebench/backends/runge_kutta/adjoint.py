"""The continuous adjoint method: the adjoint equation solved backwards, the parameters' gradient a quadrature apart.

With a = dL/dy, along a solution of dy/dt = f(t, y): da/dt = -aᵀ ∂f/∂y and dL/dθ = -∫ aᵀ ∂f/∂θ dt, taken backwards in
time. The two backends differ in where y comes from.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.runge_kutta.compiled.adjoint import CompiledAdjointEquation
from nodebench.backends.runge_kutta.compiled.direct import AbstractCompilable, solve_compiled, solve_through_compiled
from nodebench.backends.runge_kutta.dense_output import DenseOutput, interpolant
from nodebench.backends.runge_kutta.implicit import (
    AbstractStageField,
    DenseField,
    ImplicitRungeKutta,
    Solve,
    factorised,
)
from nodebench.backends.runge_kutta.solve import (
    AbstractAdjointEquation,
    AbstractRungeKutta,
    AdjointSetup,
    PlainSolve,
    Step,
    solve_plain,
    solve_through,
)
from nodebench.backends.runge_kutta.steps import AbstractMethod, RungeKutta, Scheme, Stepper, error_scale
from nodebench.backends.solvers import OURS, tableau
from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch.derivative import first_derivative_alone
from nodebench.frameworks.torch.field import from_one_vector, layout, output_times, real_sizes, real_view, real_views
from nodebench.problem import Array, Field, Problem, SolverSpec, State


@dataclass(frozen=True)
class Adjoint(AbstractCompilable):
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
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        through = solve_through_compiled if self.compile else solve_through
        return through(_AdjointSolve, self.setup(field, y0, spec), y0, times)

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
    @first_derivative_alone
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
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
        reason = super().unsupported(problem, spec)
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
    known = [name for name in OURS if interpolant(name) is not None]
    return f"`{solver}` has no dense output; use one of {', '.join(known)}, or `checkpoint`."


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
    @first_derivative_alone
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
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


Path = Callable[[float], Tensor]
"""The flat state as a function of time."""


class AdjointSweep:
    """One backward solve through all output times that the loss looks at.

    Args:
        setup: What is solved.
        ys: States at the output times, flat, shape `(n_times, n)`.
        grad_ys: Derivative of the loss with respect to them.
        along: Whether the state follows a path and only the adjoint is solved for; else it is solved for again,
            backwards, beside its adjoint.

    Attributes:
        start: State and adjoint, or the adjoint alone, at the last output time.
    """

    def __init__(self, setup: AdjointSetup, ys: Tensor, grad_ys: Tensor, *, along: bool = False) -> None:
        self._setup, self._ys, self._grad_ys, self._along = setup, ys, grad_ys, along
        self.start = self._joined(len(ys) - 1, grad_ys[-1])

    def run(
        self, equation: AbstractAdjointEquation, marks: Sequence[float], *, timed: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Solve from the last output time to the first.

        Args:
            equation: The equation, fresh; the parameters' gradient is in it afterwards.
            marks: The output times.
            timed: Whether the derivatives with respect to them are wanted.

        Returns:
            dL/dy0, flat, and dL/dtimes or None.
        """
        n = self._ys.shape[1]
        stepper = equation.method.stepper(self._setup.spec, self.start, (marks[-1], marks[0]))
        # An output time that the loss does not look at is no place to stop. One synchronisation for all.
        seen = (self._grad_ys != 0).any(dim=1).tolist()
        for i in [i for i in reversed(range(1, len(marks) - 1)) if seen[i]]:
            _advance(stepper, equation, marks[i])
            # The stored state replaces the one reconstructed backwards, whose error would otherwise go on.
            stepper.reset(self._joined(i, stepper.y[-n:] + self._grad_ys[i]))
        _advance(stepper, equation, marks[0])
        adjoint = stepper.y[-n:]
        return adjoint + self._grad_ys[0], self._by_times(marks, adjoint) if timed else None

    def _joined(self, i: int, adjoint: Tensor) -> Tensor:
        return adjoint if self._along else torch.cat([self._ys[i], adjoint])

    def _by_times(self, marks: Sequence[float], adjoint: Tensor) -> Tensor:
        """<dL/dy_i, f(t_i, y_i)> at every output time but the first, where it is that of the adjoint, negative."""
        shape = self._setup.layout
        covectors = torch.cat([-adjoint[None], self._grad_ys[1:]])
        with torch.no_grad():
            rates = [
                torch.cat([part.reshape(-1) for part in shape.evaluate(self._setup.field, t, shape.parts(y))])
                for t, y in zip(marks, self._ys, strict=True)
            ]
        return (covectors * torch.stack(rates)).sum(dim=1)


def _advance(stepper: Stepper, equation: AbstractAdjointEquation, target: float) -> None:
    for step in stepper.advance(target):
        equation.accept(step.end - step.start)


class AdjointEquation(AbstractAdjointEquation):
    """The equation operator by operator.

    A stage writes `[f, -aᵀ ∂f/∂y]` into the scheme's row (without f where the state follows a path) and `aᵀ ∂f/∂θ` into
    a row of the quadrature. The quadrature is summed once per accepted step and is never part of a stage.

    Args:
        setup: What is solved.
        start: State and adjoint, or the adjoint alone, at the last output time.
        params: Parameters of the field.
        path: Where the state comes from on the way; None where it is part of what is solved for.
    """

    def __init__(self, setup: AdjointSetup, start: Tensor, params: Sequence[Tensor], path: Path | None = None) -> None:
        scheme = Scheme(tableau(setup.spec.solver), start)
        self._setup, self._scheme, self._params, self._path = setup, scheme, tuple(params), path
        self._method: AbstractMethod
        if scheme.tableau.implicit:
            field = _AdjointField(setup, path)
            self._method = ImplicitRungeKutta(scheme, field, self._ratio, setup.spec, self._evaluate)
        else:
            self._method = RungeKutta(scheme, self._evaluate, self._ratio)
        rows = scheme.rows
        self._n = rows.shape[1] if path is not None else rows.shape[1] // 2
        self._f_rows = [setup.layout.parts(row[: self._n]) if path is None else [] for row in rows]
        self._a_rows = [setup.layout.parts(row[-self._n :]) for row in rows]
        sizes = real_sizes(params)
        self._total = rows.new_zeros(sum(sizes))
        self._quadrature = Scheme(scheme.tableau, self._total)
        self._p_rows = [real_views(row, params) for row in self._quadrature.rows]
        sizes = [self._n] * (rows.shape[1] // self._n) + (sizes if setup.full else [])
        self._norms = _Norms(setup, scheme, self._quadrature, sizes)
        self._next: Tensor | None = None

    @property
    @override
    def method(self) -> AbstractMethod:
        return self._method

    def _evaluate(self, stage: int, t: float, z: Tensor) -> None:
        """Evaluate the field and one vector-Jacobian product of it."""
        y = z[: self._n] if self._path is None else self._path(t)
        parts, found = _evaluated(self._setup, t, y, z[-self._n :], self._params)
        for row, part in zip(self._f_rows[stage], parts if self._path is None else (), strict=True):
            row.copy_(part.detach())
        for row, by_part in zip(self._a_rows[stage], found[: len(parts)], strict=True):
            row.zero_() if by_part is None else torch.neg(by_part, out=row)
        _store(self._p_rows[stage], found[len(parts) :])

    def _ratio(self, h: float, z0: Tensor, z1: Tensor) -> float:
        """Error of a step relative to the tolerance."""
        self._next = None
        if not self._setup.full or not self._params:
            return self._norms.ratio(h, (z0, z1), None)
        self._next = self._quadrature.combine(self._total, -h)
        return self._norms.ratio(h, (z0, z1), (self._total, self._next))

    @override
    def accept(self, h: float) -> None:
        if not self._params:
            return
        self._total = self._quadrature.combine(self._total, -h) if self._next is None else self._next
        if self._scheme.tableau.fsal:
            self._quadrature.rows[0].copy_(self._quadrature.rows[-1])

    @override
    def gradients(self) -> list[Tensor]:
        return from_one_vector(self._total, self._params)


def _evaluated(
    setup: AdjointSetup, t: float, y: Tensor, adjoint: Tensor, params: Sequence[Tensor] = ()
) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
    """The parts of the derivative at a state, and the products of the adjoint with it by the state and parameters."""
    shape = setup.layout
    leaves = [part.detach().requires_grad_() for part in shape.parts(y)]
    with torch.enable_grad():
        parts = shape.evaluate(setup.field, t, leaves)
    taped = [(part, a) for part, a in zip(parts, shape.parts(adjoint), strict=True) if part.requires_grad]
    found: Sequence[Tensor | None] = [None] * (len(leaves) + len(params))
    if taped:
        outputs, covectors = zip(*taped, strict=True)
        found = torch.autograd.grad(outputs, (*leaves, *params), covectors, allow_unused=True)
    return parts, found


class _AdjointField(AbstractStageField):
    """The adjoint equation as an implicit method's stages need it.

    Newton's matrix has two blocks, that of the state and, transposed, that of the adjoint. How the adjoint's derivative
    changes with the state, which takes second derivatives, is left out: the iteration converges all the same, since the
    state is solved for whatever the adjoint is.

    Args:
        setup: What is solved.
        path: Where the state comes from; None where it is part of what is solved for.
    """

    def __init__(self, setup: AdjointSetup, path: Path | None) -> None:
        self._setup, self._path = setup, path
        self._field = DenseField(setup.field, setup.layout)

    @override
    def __call__(self, t: float, y: Tensor) -> Tensor:
        state, adjoint = self._split(t, y)
        parts, found = _evaluated(self._setup, t, state, adjoint)
        by_y = [torch.zeros_like(part) if one is None else one for one, part in zip(found, parts, strict=True)]
        rates = [*(part.detach() for part in parts if self._path is None), *map(torch.neg, by_y)]
        return torch.cat([rate.reshape(-1) for rate in rates])

    @override
    def newton(self, t: float, y: Tensor) -> Callable[[float], Solve | None]:
        state, _ = self._split(t, y)
        n, by_y = len(state), self._field.jacobian(t, state)

        def at(ha: float) -> Solve | None:
            of_adjoint = factorised(by_y, -ha, transposed=True)
            if self._path is not None:
                return of_adjoint
            of_state = factorised(by_y, ha)
            if of_state is None or of_adjoint is None:
                return None
            return lambda vector: torch.cat([of_state(vector[:n]), of_adjoint(vector[n:])])

        return at

    def _split(self, t: float, z: Tensor) -> tuple[Tensor, Tensor]:
        if self._path is not None:
            return self._path(t), z
        n = len(z) // 2
        return z[:n], z[n:]


class _Norms:
    """Largest root-mean-square of the relative errors of several parts, with one synchronisation."""

    def __init__(self, setup: AdjointSetup, state: Scheme, quadrature: Scheme, sizes: Sequence[int]) -> None:
        rows = state.rows
        self._state, self._quadrature, self._rtol = state, quadrature, setup.spec.rtol
        self._atol = rows.new_tensor(setup.spec.atol)
        self._relative = rows.new_empty(sum(sizes))
        self._parts = torch.split(self._relative, list(sizes))
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
        return error_scale(*ends, self._atol, self._rtol)


def _store(rows: list[Tensor], found: Sequence[Tensor | None]) -> None:
    """Write gradients into their rows; a parameter that was not used has None."""
    found = [None if part is None else real_view(part) for part in found]
    used = [part for part in found if part is not None]
    if rows and len(used) == len(rows):
        torch._foreach_copy_(rows, used)  # one dispatch for all; torch.optim relies on its kind as well
        return
    for row, part in zip(rows, found, strict=True):
        row.zero_() if part is None else row.copy_(part)
