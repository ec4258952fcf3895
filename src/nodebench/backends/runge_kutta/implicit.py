"""Diagonally implicit steps in torch: each stage an equation, solved by simplified Newton with a dense Jacobian.

A stage is `k_i = f(t + c_i h, Y_i)`, `Y_i = y0 + h Σ_{j<i} a_ij k_j + h a_ii k_i`. With J the Jacobian at the beginning
of the step, the iteration is `k ← k - (I - h a_ii J)⁻¹ (k - f(t_i, Y_i(k)))`. All implicit stages of a method have one
a_ii, so that one factorisation serves all of them. A step is a function of where it begins and of nothing that was
before: whoever redoes it gets the very same numbers.

Solving Ordinary Differential Equations II: Stiff and Differential-Algebraic Problems (Hairer, Wanner, 1996), IV.8.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from typing_extensions import override

from nodebench.backends.runge_kutta.steps import AbstractMethod, ErrorRatio, Scheme, Span, check_beginning
from nodebench.backends.solvers import IMPLICIT
from nodebench.errors import DivergedError
from nodebench.frameworks.torch.field import Layout, state_parts
from nodebench.problem import Field, SolverSpec, State

LARGEST_STATE = 2048
"""Numbers of a state beyond which its Jacobian is not formed: at this size it takes 32 MiB in float64."""

CONVERGED = 1e-3
"""Estimated error of a stage, relative to the tolerance, at which its iteration ends."""

MAX_ITERATIONS = 12

Solve = Callable[[Tensor], Tensor]
"""Applies the inverse of I - h a_ii J to a flat vector."""

Visit = Callable[[int, float, Tensor], None]
"""`visit(i, t, y)` is told the time and the state of each stage that has been solved."""


def jacobian(
    outputs: Sequence[Tensor | None] | Sequence[GradientEdge | None], inputs: Sequence[Tensor], layout: Layout
) -> Tensor:
    """The Jacobian of an evaluation whose graph is there, shape `(n, n)`; the graph stays.

    Args:
        outputs: The parts of the derivative, or the edges of its graph; None for a part that depends on nothing.
        inputs: The parts of the state, leaves of that graph.
        layout: Layout of the state.
    """
    n = sum(part.numel() for part in inputs)
    like = inputs[0]
    taped: Any = [output for output in outputs if output is not None]
    if not taped:
        return like.new_zeros(n, n)
    unit = layout.parts(torch.eye(n, dtype=like.dtype, device=like.device))
    covectors = [each for each, output in zip(unit, outputs, strict=True) if output is not None]
    rows = torch.autograd.grad(
        taped, list(inputs), covectors, retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    found = [
        like.new_zeros(n, part.numel()) if row is None else row.reshape(n, -1)
        for row, part in zip(rows, inputs, strict=True)
    ]
    return torch.cat(found, dim=1)


def factorised(by_y: Tensor, ha: float, *, transposed: bool = False) -> Solve | None:
    """What applies the inverse of I - h a_ii J, or of its transpose, to a vector; None where it is singular."""
    unit = torch.eye(len(by_y), dtype=by_y.dtype, device=by_y.device)
    factors, pivots, info = torch.linalg.lu_factor_ex(unit.sub_(by_y, alpha=ha))
    if int(info.item()) != 0:
        return None
    return lambda vector: torch.linalg.lu_solve(factors, pivots, vector[:, None], adjoint=transposed)[:, 0]


class AbstractStageField(ABC):
    """What is solved, on flat states, as the equations of the stages need it."""

    @abstractmethod
    def __call__(self, t: float, y: Tensor) -> Tensor:
        """The flat derivative, a new tensor without a graph."""

    @abstractmethod
    def newton(self, t: float, y: Tensor) -> Callable[[float], Solve | None]:
        """For a step that begins at `y`: by h a_ii what solves with the matrix of Newton's iteration; None if singular.

        Raises:
            DivergedError: If the Jacobian is not finite.
        """


class DenseField(AbstractStageField):
    """A field and its Jacobian.

    Args:
        field: The field.
        layout: Layout of its state.
    """

    def __init__(self, field: Field, layout: Layout) -> None:
        self._field, self._layout = field, layout

    @override
    def __call__(self, t: float, y: Tensor) -> Tensor:
        with torch.no_grad():
            parts = self._layout.evaluate(self._field, t, self._layout.parts(y))
            return torch.cat([part.reshape(-1) for part in parts])

    def jacobian(self, t: float, y: Tensor) -> Tensor:
        """The Jacobian at a state, shape `(n, n)`: one evaluation and n vector-Jacobian products in one batch.

        Raises:
            DivergedError: If it is not finite.
        """
        leaves = [part.detach().requires_grad_() for part in self._layout.parts(y)]
        with torch.enable_grad():
            parts = self._layout.evaluate(self._field, t, leaves)
        found = jacobian([part if part.requires_grad else None for part in parts], leaves, self._layout)
        if not torch.isfinite(found).all():
            raise DivergedError(f"the Jacobian of the field is not finite at t = {t:.6g}.")
        return found

    @override
    def newton(self, t: float, y: Tensor) -> Callable[[float], Solve | None]:
        return partial(factorised, self.jacobian(t, y))


class ImplicitRungeKutta(AbstractMethod):
    """A diagonally implicit Runge-Kutta method.

    Args:
        scheme: Tableau and buffers.
        field: What is solved.
        ratio: Error norm; never asked for by a method without an error estimate.
        spec: Tolerances, which the stages are solved to a fraction of.
        visit: Told of each stage of a step; it may write into the rows.

    Attributes:
        n_jacobians: Jacobians formed so far.
        n_factorisations: Matrices factorised so far.
    """

    def __init__(
        self,
        scheme: Scheme,
        field: AbstractStageField,
        ratio: ErrorRatio,
        spec: SolverSpec,
        visit: Visit | None = None,
    ) -> None:
        self.tableau, self.rows = scheme.tableau, scheme.rows
        self._scheme, self._field, self._ratio, self._spec, self._visit = scheme, field, ratio, spec, visit
        self.n_jacobians = self.n_factorisations = 0
        self._first_known = False  # whether row 0 holds the derivative at the present state
        self._linearised: tuple[float, Tensor, Callable[[float], Solve | None]] | None = None

    @override
    def derivative(self, t: float, y: Tensor) -> Tensor:
        """Row 0 of the buffer, which an implicit first stage overwrites."""
        if not self._first_known:
            self.rows[0].copy_(self._field(t, y))
            self._first_known = self.tableau.fsal
        return self.rows[0]

    def begin(self, derivative: Tensor) -> None:
        """Begin with a derivative that the step before has left, as `carry` does."""
        self.rows[0].copy_(derivative)
        self._first_known = True

    @override
    def step(self, y0: Tensor, span: Span) -> Tensor:
        """As in the base class.

        Raises:
            DivergedError: If Newton's iteration does not converge.
        """
        y1 = self._stages(y0, span)
        if y1 is None:
            raise DivergedError(
                f"Newton's iteration for a stage does not converge at t = {span[0]:.6g}, in a step of "
                f"{span[1] - span[0]:.3g}; take shorter steps."
            )
        return y1

    @override
    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        y1 = self._stages(y0, span)
        if y1 is None:
            check_beginning(float("inf"), y0, self.rows[0], span)
            return y0, float("inf")
        return y1, self._ratio(span[1] - span[0], y0, y1)

    @override
    def carry(self) -> None:
        """Copy the last derivative to the first row."""
        if self.tableau.fsal:
            self.rows[0].copy_(self.rows[-1])

    @override
    def forget(self) -> None:
        self._first_known = False

    def _stages(self, y0: Tensor, span: Span) -> Tensor | None:
        """The state at the end, or None where the equation of a stage cannot be solved."""
        (t0, t1), method = span, self.tableau
        h, explicit = t1 - t0, method.diagonal[0] == 0.0
        if explicit and not self._first_known:
            self.derivative(t0, y0)
            self._tell(0, t0, y0)
        ha = h * method.diagonal[-1]
        solve = self._newton(t0, y0)(ha)
        self.n_factorisations += 1
        if solve is None:
            return None
        # Newton's iteration begins at the derivative before, or where the step does: its derivative, times a long step,
        # may be far beyond what the linearisation there says anything of.
        known = self.rows[0] if explicit else torch.zeros_like(y0)
        for i in range(1 if explicit else 0, method.n_stages):
            t = t1 if method.c[i] == 1.0 else t0 + method.c[i] * h
            base = self._scheme.before(i, y0, h)
            k = self._solved(t, base, ha, known, solve)
            if k is None:
                return None
            self.rows[i].copy_(k)
            self._tell(i, t, torch.add(base, k, alpha=ha))
            known = k
        return self._scheme.combine(y0, h)

    def _tell(self, i: int, t: float, y: Tensor) -> None:
        if self._visit is not None:
            kept = self.rows[i].clone()
            self._visit(i, t, y)
            self.rows[i].copy_(kept)

    def _newton(self, t0: float, y0: Tensor) -> Callable[[float], Solve | None]:
        """The linearisation at the beginning of a step, which another try at that step has as well."""
        if self._linearised is None or self._linearised[0] != t0 or self._linearised[1] is not y0:
            self._linearised = t0, y0, self._field.newton(t0, y0)
            self.n_jacobians += 1
        return self._linearised[2]

    def _solved(self, t: float, base: Tensor, ha: float, guess: Tensor, solve: Solve) -> Tensor | None:
        """The derivative of a stage, or None where the iteration does not converge."""
        k, before = guess, None
        spec = self._spec
        resolution = 16 * torch.finfo(base.dtype).eps / spec.rtol
        for _ in range(MAX_ITERATIONS):
            y = torch.add(base, k, alpha=ha)
            change = solve(k - self._field(t, y))
            k = k - change
            scale = spec.atol + spec.rtol * torch.maximum(base.abs(), y.abs())
            size = abs(ha) * float(torch.linalg.vector_norm(change / scale).item()) / sqrt(max(len(base), 1))
            if not isfinite(size):
                return None
            if before is not None:
                rate = size / before if before else 0.0
                if size <= resolution or (rate < 1 and size * rate / (1 - rate) <= CONVERGED):
                    return k
                if rate >= 2:
                    return None
            before = size
        return None


def reason_too_large(y0: State, spec: SolverSpec) -> str | None:
    """Why an implicit solver cannot form the Jacobian of a state, in one sentence, or None."""
    n = sum(part.numel() for part in state_parts(y0))
    if spec.solver not in IMPLICIT or n <= LARGEST_STATE:
        return None
    return (
        f"`{spec.solver}` needs a dense Jacobian, and the state has {n} numbers, more than {LARGEST_STATE}; take a "
        "smaller batch, or an explicit solver such as `dopri5`."
    )
