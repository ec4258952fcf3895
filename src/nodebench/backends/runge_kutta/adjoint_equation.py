"""The adjoint equation, solved backwards; the parameters' gradient is a quadrature apart from its state.

With a = dL/dy, along a solution of dy/dt = f(t, y): da/dt = -aᵀ ∂f/∂y and dL/dθ = -∫ aᵀ ∂f/∂θ dt, taken backwards in
time. It is shared by the backends that differ in where y comes from.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.runge_kutta.solve import SolveSetup
from nodebench.backends.runge_kutta.steps import AbstractMethod, RungeKutta, Scheme, Stepper, error_scale
from nodebench.backends.solvers import tableau


class Path(Protocol):
    """The state as a function of time."""

    def __call__(self, t: float) -> Tensor:
        """The flat state at `t`."""


@dataclass(frozen=True, kw_only=True)
class AdjointSetup(SolveSetup):
    """What is solved, and how the error of the backward solve is measured.

    Attributes:
        full: Whether the parameters' gradients count, each with a norm of its own; else state and adjoint alone.
        compile: Whether steps are compiled, forward and backward.
    """

    full: bool = True
    compile: bool = False


class AbstractAdjointEquation(ABC):
    """The adjoint equation as something to take steps of, and the quadrature of the parameters' gradient."""

    @property
    @abstractmethod
    def method(self) -> AbstractMethod:
        """What takes the steps of [y, a], or of a alone where the state follows a path."""

    @abstractmethod
    def accept(self, h: float) -> None:
        """Add the share of an accepted step of length `h`, while its buffers are as it left them."""

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """The gradient with respect to each parameter so far."""


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
        stepper = Stepper(equation.method, self._setup.spec, self.start, (marks[-1], marks[0]))
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
        self._method = RungeKutta(scheme, self._evaluate, self._ratio)
        rows = scheme.rows
        self._n = rows.shape[1] if path is not None else rows.shape[1] // 2
        self._f_rows = [setup.layout.parts(row[: self._n]) if path is None else [] for row in rows]
        self._a_rows = [setup.layout.parts(row[-self._n :]) for row in rows]
        self._total = rows.new_zeros(sum(p.numel() for p in params))
        self._quadrature = Scheme(scheme.tableau, self._total)
        self._p_rows = [self._split(row) for row in self._quadrature.rows]
        sizes = [self._n] * (rows.shape[1] // self._n) + [p.numel() for p in params if setup.full]
        self._norms = _Norms(setup, scheme, self._quadrature, sizes)
        self._next: Tensor | None = None

    def _split(self, flat: Tensor) -> list[Tensor]:
        pieces = torch.split(flat, [p.numel() for p in self._params]) if self._params else ()
        return [piece.view(p.shape) for piece, p in zip(pieces, self._params, strict=True)]

    @property
    @override
    def method(self) -> AbstractMethod:
        return self._method

    def _evaluate(self, stage: int, t: float, z: Tensor) -> None:
        """Evaluate the field and one vector-Jacobian product of it."""
        shape = self._setup.layout
        y = z[: self._n] if self._path is None else self._path(t)
        leaves = [part.detach().requires_grad_() for part in shape.parts(y)]
        with torch.enable_grad():
            parts = shape.evaluate(self._setup.field, t, leaves)
        for row, part in zip(self._f_rows[stage], parts if self._path is None else (), strict=True):
            row.copy_(part.detach())
        taped = [(part, a) for part, a in zip(parts, shape.parts(z[-self._n :]), strict=True) if part.requires_grad]
        found: Sequence[Tensor | None] = [None] * (len(leaves) + len(self._params))
        if taped:
            outputs, covectors = zip(*taped, strict=True)
            found = torch.autograd.grad(outputs, (*leaves, *self._params), covectors, allow_unused=True)
        for row, by_part in zip(self._a_rows[stage], found[: len(leaves)], strict=True):
            row.zero_() if by_part is None else torch.neg(by_part, out=row)
        _store(self._p_rows[stage], found[len(leaves) :])

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
        return self._split(self._total)


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
    used = [part for part in found if part is not None]
    if rows and len(used) == len(rows):
        torch._foreach_copy_(rows, used)  # one dispatch for all; torch.optim relies on its kind as well
        return
    for row, part in zip(rows, found, strict=True):
        row.zero_() if part is None else row.copy_(part)
