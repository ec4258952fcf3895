"""The adjoint equation by compiled steps: all evaluations and vector-Jacobian products of a step are one program."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.runge_kutta.compiled.direct import step_scalars, weighted
from nodebench.backends.runge_kutta.compiled.loop import AbstractCompiledMethod, StepPrograms
from nodebench.backends.runge_kutta.compiled.programs import CompiledField, Program
from nodebench.backends.runge_kutta.solve import AbstractAdjointEquation, AdjointSetup
from nodebench.backends.runge_kutta.steps import AbstractMethod, Span, check_beginning
from nodebench.backends.solvers import Tableau, tableau
from nodebench.frameworks.torch.field import from_one_vector, in_one_vector, real_sizes

_Rate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From time and [y, a] to the derivatives of both and of the parameters' gradient."""


class CompiledAdjointEquation(AbstractAdjointEquation):
    """State and adjoint [y, a], and the quadrature of the parameters' gradient beside them.

    Args:
        setup: What is solved.
        start: [y, a] at the last output time.
        params: Parameters of the field.
    """

    def __init__(self, setup: AdjointSetup, start: Tensor, params: Sequence[Tensor]) -> None:
        self._params = params
        self._method = _AdjointMethod(setup, start, params)

    @property
    @override
    def method(self) -> AbstractMethod:
        return self._method

    @override
    def accept(self, h: float) -> None:
        """The program has summed the step's share already; it counts from here on."""
        del h
        self._method.keep()

    @override
    def gradients(self) -> list[Tensor]:
        return from_one_vector(self._method.total, self._params)


class _AdjointFunctions:
    """A step of the adjoint equation, and the evaluation before the first one, as functions of tensors.

    Their arguments are the parameters, the field's constants, and what is named; `scalars` holds the length of the
    step, the two tolerances, and the times of the stages.
    """

    def __init__(self, field: CompiledField, method: Tableau, params: Sequence[Tensor], *, full: bool) -> None:
        self._field, self._method, self._n_params = field, method, len(params)
        self._n_fixed = len(params) + len(field.constants)
        self._sizes = real_sizes(params) if full else []

    def first(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """(z, scalars) -> derivative of z, and that of the parameters' gradient."""
        (z, scalars), rate = self._split(arguments)
        return rate(scalars[3], z)

    def step(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """(z, its derivative, the gradient's, the gradient, scalars) -> the same at the end, and the relative error.

        Without both derivatives, before and after, where the last stage is not the first of the next step.
        """
        (z, *known, total, scalars), rate = self._split(arguments)
        method, h, rows, shares = self._method, scalars[0], known[:1], known[1:]

        def visit(i: int, place: Tensor) -> None:
            row, share = rate(scalars[3 + i], place)
            rows.append(row)
            shares.append(share)

        if not known:
            visit(0, z)
        for i in range(1, method.n_own):
            visit(i, weighted(z, h, method.a[i], rows))
        end = weighted(z, h, method.b, rows)
        if method.fsal:
            visit(method.n_own, end)
        # The integral runs backwards in time, against the sign of h.
        later = weighted(total, -h, method.b, shares)
        ratio = torch.zeros_like(h)
        if method.b_error is not None:
            errors = [weighted(torch.zeros_like(x), h, method.b_error, r) for x, r in ((z, rows), (total, shares))]
            ratio = self._norm(errors, (z, end), (total, later), scalars)
        last = (rows[-1], shares[-1]) if method.fsal else ()
        return end, *last, later, ratio

    def _norm(
        self, errors: Sequence[Tensor], z: tuple[Tensor, Tensor], total: tuple[Tensor, Tensor], scalars: Tensor
    ) -> Tensor:
        """Largest root-mean-square of the relative errors of the state, the adjoint and each parameter's gradient."""
        relative = [
            error / (scalars[2] + scalars[1] * torch.maximum(before.abs(), after.abs()))
            for error, (before, after) in zip(errors, (z, total), strict=True)
        ]
        parts = [*relative[0].chunk(2), *(torch.split(relative[1], self._sizes) if self._sizes else ())]
        return torch.stack([part.square().mean().sqrt() for part in parts]).max()

    def _split(self, arguments: Sequence[Tensor]) -> tuple[Sequence[Tensor], _Rate]:
        params, constants = arguments[: self._n_params], arguments[self._n_params : self._n_fixed]
        return arguments[self._n_fixed :], partial(self._rate, params, constants)

    def _rate(
        self, params: Sequence[Tensor], constants: Sequence[Tensor], t: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, a = (half.detach() for half in z.chunk(2))
        with torch.enable_grad():
            leaves = [y.requires_grad_(), *(p.detach().requires_grad_() for p in params)]
            f = self._field.rate(leaves[1:], constants, t, leaves[0])
        found: Sequence[Tensor | None] = [None] * len(leaves)
        if f.requires_grad:
            found = torch.autograd.grad(f, leaves, a, allow_unused=True)
        by_y = torch.zeros_like(y) if found[0] is None else found[0]
        return torch.cat([f.detach(), -by_y]), in_one_vector(found[1:], leaves[1:], y)


class _AdjointMethod(AbstractCompiledMethod):
    """Steps of the adjoint equation by compiled programs."""

    def __init__(self, setup: AdjointSetup, z: Tensor, params: Sequence[Tensor]) -> None:
        self.tableau = tableau(setup.spec.solver)
        half = z.chunk(2)[0]
        field = CompiledField(setup, half)
        functions = _AdjointFunctions(field, self.tableau, params, full=setup.full)
        fixed = self._fixed = [p.detach() for p in params] + field.constants
        self._spec = setup.spec
        self.rows = z[None]  # no state inside a step is asked for
        self.total = z.new_zeros(sum(real_sizes(params)))
        self._next = self.total
        known = (z, self.total) if self.tableau.fsal else ()
        self._first = None
        if known:
            self._first = field.function(
                "adjoint first", functions.first, lambda: [*fixed, z, self._scalars(z, (0.0, 1.0))]
            )
        self._program = field.function(
            f"adjoint step, {'full norm' if setup.full else 'seminorm'}",
            functions.step,
            lambda: [*fixed, z, *known, self.total, self._scalars(z, (0.0, 1.0))],
        )
        self._known: Sequence[Tensor] | None = None  # both derivatives at the present place
        self._last: Sequence[Tensor] = ()

    def keep(self) -> None:
        """Let the gradient after the last step be the present one."""
        self.total = self._next

    @override
    def derivative(self, t: float, y: Tensor) -> Tensor:
        if self._known is None:
            assert self._first is not None, "only a method whose steps do not evaluate their first stage asks"
            self._known = self._first(*self._fixed, y, self._scalars(y, (t, t)))
        return self._known[0]

    @override
    def step(self, y0: Tensor, span: Span) -> Tensor:
        return self._run(y0, span)[0]

    @override
    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        end, error = self._run(y0, span)
        ratio: float = error.item()
        check_beginning(ratio, y0, self.derivative(span[0], y0), span)
        return end, ratio

    def _run(self, y0: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        if self.tableau.fsal:
            self.derivative(span[0], y0)
        known, scalars = self._known or (), self._scalars(y0, span)
        end, *self._last, self._next, error = self._program(*self._fixed, y0, *known, self.total, scalars)
        return end, error

    def _scalars(self, z: Tensor, span: Span) -> Tensor:
        return step_scalars(self.tableau, self._spec, z, span)

    @override
    def carry(self) -> None:
        self._known = self._last or None

    @override
    def forget(self) -> None:
        self._known = None

    @override
    def programs(self) -> StepPrograms | None:
        first, step = (
            program.entry() if isinstance(program, Program) else None for program in (self._first, self._program)
        )
        n_evaluated = 2 if self.tableau.fsal else 0
        return StepPrograms.of(first, step, self._fixed, n_evaluated=n_evaluated, ratio_at=2 + n_evaluated)

    @override
    def states(self, y: Tensor) -> list[Tensor | None]:
        return [y, *(self._known or ((None, None) if self.tableau.fsal else ())), self.total]

    @override
    def resume(self, states: Sequence[Tensor | None], before: Sequence[Tensor] | None) -> None:
        known = [state for state in states[1:-1] if state is not None]
        self._known = known or None
        assert states[-1] is not None, "it is known from the beginning"
        self.total = self._next = states[-1]

    @override
    def accepted(self, kept: Sequence[Tensor], before: Sequence[Tensor] | None) -> None:
        """Nothing is kept, and what the step adds to the gradient counts from `resume` on."""
