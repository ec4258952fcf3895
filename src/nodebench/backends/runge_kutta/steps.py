"""Steps in torch: what one step computes, and how long the next one is so that the error stays below the tolerance.

The state is one flat tensor, the stage derivatives of a step lie in one buffer, and a step costs one synchronisation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import inf, isfinite, sqrt, ulp

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.solvers import Tableau, tableau
from nodebench.backends.step_size import StepController, StepScale, equal_steps, first_step
from nodebench.errors import DivergedError, StepLimitError, UserError
from nodebench.problem import SolverSpec

Evaluate = Callable[[int, float, Tensor], None]
"""`evaluate(i, t, y)` writes the derivative at the flat state `y` into row `i` of the buffer it was made with."""

ErrorRatio = Callable[[float, Tensor, Tensor], float]
"""`ratio(h, y0, y1)`: norm of a step's error relative to the tolerance; at most 1 is accepted."""


@cache
def _weights(name: str, dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Rows of `a`, then `b` without the closing stage, then `b_error`, as tensors."""
    method = tableau(name)
    a = [torch.tensor(row, dtype=dtype, device=device) for row in method.a]
    b = torch.tensor(method.b[: method.n_own], dtype=dtype, device=device)
    error = None if method.b_error is None else torch.tensor(method.b_error, dtype=dtype, device=device)
    return a, b, error


class Scheme:
    """A tableau with the buffers of a solve.

    Args:
        method: The tableau.
        y: A flat state; the buffers are made like it.

    Attributes:
        rows: Stage derivatives, shape `(stages, n)`.
    """

    def __init__(self, method: Tableau, y: Tensor) -> None:
        self.tableau = method
        self.rows = y.new_empty(method.n_stages, y.numel())
        self._a, self._b, self._b_error = _weights(method.name, y.dtype, y.device)
        # Column-major views, so that a stage is one matrix-vector product with no copy.
        self._columns = [self.rows[:i].t() for i in range(method.n_stages + 1)]
        self._plan = [(i, method.c[i], self._columns[i], self._a[i]) for i in range(1, method.n_own)]

    def stages(self, evaluate: Evaluate, y: Tensor, span: tuple[float, float], *, first_known: bool) -> Tensor:
        """Evaluate the stages on which the end of a step depends.

        Args:
            evaluate: Writes rows of the buffer.
            y: Flat state at the beginning.
            span: Beginning and end of the step.
            first_known: Whether row 0 holds the derivative at the beginning already.

        Returns:
            The flat state at the end, a new tensor.
        """
        t0, t1 = span
        h = t1 - t0
        if not first_known:
            evaluate(0, t0, y)
        for i, c, columns, a in self._plan:
            # c = 1 means the very end: adding h to t0 may miss it by a rounding error.
            evaluate(i, t1 if c == 1.0 else t0 + c * h, torch.addmv(y, columns, a, alpha=h))
        return self.combine(y, h)

    def before(self, i: int, y: Tensor, h: float) -> Tensor:
        """State of stage i as far as the stages before it make it, in a step that begins at `y`."""
        return torch.addmv(y, self._columns[i], self._a[i], alpha=h) if i else y

    def combine(self, y: Tensor, h: float) -> Tensor:
        """End of a step that begins at `y`, from the rows of the buffer."""
        return torch.addmv(y, self._columns[self.tableau.n_own], self._b, alpha=h)

    def error(self) -> Tensor:
        """Error of the step divided by its length, flat."""
        assert self._b_error is not None, "only an adaptive tableau estimates its error"
        return torch.mv(self._columns[-1], self._b_error)


def error_scale(y0: Tensor, y1: Tensor, atol: Tensor, rtol: float) -> Tensor:
    """What an error is measured by, atol + rtol max(|y0|, |y1|), in one new tensor."""
    scale = y0.abs()
    torch.maximum(scale, y1.abs(), out=scale)
    return torch.add(atol, scale, alpha=rtol, out=scale)


def rms_ratio(scheme: Scheme, spec: SolverSpec) -> ErrorRatio:
    """Root-mean-square norm of error / (atol + rtol max(|y0|, |y1|)) over the whole flat state."""
    rtol, rows = spec.rtol, scheme.rows
    atol = torch.tensor(spec.atol, dtype=rows.dtype, device=rows.device)
    inverse = 1 / sqrt(max(rows.shape[1], 1))

    def ratio(h: float, y0: Tensor, y1: Tensor) -> float:
        norm: float = torch.linalg.vector_norm(scheme.error().div_(error_scale(y0, y1, atol, rtol))).item()
        return abs(h) * inverse * norm

    return ratio


Span = tuple[float, float]
"""Beginning and end of a step."""


class AbstractMethod(ABC):
    """One-step method on a flat state, with whatever it carries from one step to the next.

    Attributes:
        tableau: Its tableau.
        rows: Stage derivatives of the last step, shape `(stages, n)`.
    """

    tableau: Tableau
    rows: Tensor

    @abstractmethod
    def derivative(self, t: float, y: Tensor) -> Tensor:
        """The derivative at a state, kept for the step that begins there; overwritten by the next step."""

    @abstractmethod
    def step(self, y0: Tensor, span: Span) -> Tensor:
        """The state at the end of a step that is not to be judged, a new tensor."""

    @abstractmethod
    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        """The state at the end of a step, and its error relative to the tolerance; at most 1 is accepted.

        Raises:
            DivergedError: If nothing is finite any more before the step.
        """

    def accept(self, y1: Tensor, span: Span) -> Tensor:
        """Go on from the end of an accepted step; returns the state there, which most methods have found already."""
        del span
        return y1

    @abstractmethod
    def carry(self) -> None:
        """Keep the last derivative of an accepted step as the first of the next; its buffers are free from here on."""

    @abstractmethod
    def forget(self) -> None:
        """What was carried does not belong to the next state."""

    def stepper(
        self, spec: SolverSpec, y: Tensor, times: tuple[float, float], longest: float | None = None
    ) -> "Stepper":
        """What takes steps of this method; see `Stepper`."""
        return Stepper(self, spec, y, times, longest)


class RungeKutta(AbstractMethod):
    """An explicit Runge-Kutta method.

    Args:
        scheme: Tableau and buffers.
        evaluate: Writes rows of the scheme's buffer.
        ratio: Error norm; never asked for by a method without an error estimate.
    """

    def __init__(self, scheme: Scheme, evaluate: Evaluate, ratio: ErrorRatio) -> None:
        self.tableau, self.rows = scheme.tableau, scheme.rows
        self._scheme, self._evaluate, self._ratio = scheme, evaluate, ratio
        self._first_known = False  # whether row 0 holds the derivative at the present state

    @override
    def derivative(self, t: float, y: Tensor) -> Tensor:
        """Row 0 of the buffer."""
        if not self._first_known:
            self._evaluate(0, t, y)
            self._first_known = self.tableau.fsal
        return self._scheme.rows[0]

    @override
    def step(self, y0: Tensor, span: Span) -> Tensor:
        return self._scheme.stages(self._evaluate, y0, span, first_known=self._first_known)

    @override
    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        # Every adaptive method here ends with the derivative at the end of the step (a test holds it).
        y1 = self.step(y0, span)
        self._first_known = True
        self._evaluate(self.tableau.n_stages - 1, span[1], y1)
        ratio = self._ratio(span[1] - span[0], y0, y1)
        check_beginning(ratio, y0, self._scheme.rows[0], span)
        return y1, ratio

    @override
    def carry(self) -> None:
        """Copy the closing derivative to the first row."""
        if self.tableau.fsal:
            self._scheme.rows[0].copy_(self._scheme.rows[-1])

    @override
    def forget(self) -> None:
        self._first_known = False


def check_beginning(ratio: float, y0: Tensor, derivative: Tensor, span: Span) -> None:
    """After an infinite error, see that state and derivative were finite before the step.

    A shorter step mends one that left the finite numbers on its way, and nothing mends one that began outside of them.

    Raises:
        DivergedError: If they were not.
    """
    if not isfinite(ratio) and not (torch.isfinite(y0).all() and torch.isfinite(derivative).all()):
        raise DivergedError(f"not finite at t = {span[0]:.6g}, before a step of {span[1] - span[0]:.3g}.")


@dataclass(frozen=True, slots=True)
class AcceptedStep:
    """A step whose error was within the tolerance.

    Attributes:
        start: Beginning.
        end: End.
        y0: Flat state at the beginning.
        fractions: Where beginning and end lie in their output interval, from 0 to 1.
    """

    start: float
    end: float
    y0: Tensor
    fractions: tuple[float, float]


class Stepper:
    """Steps through time, ending a step exactly on each time it is told to reach.

    The length of the next step, the controller's memory and the last derivative are carried from one interval to the
    next. A method without an error estimate takes equal steps of at most `spec.first_step`.

    Args:
        method: What takes the steps.
        spec: Tolerances, first step and limit.
        y: Flat initial state.
        times: Beginning and end of the whole solve.
        longest: Longest step; None for no limit.

    Attributes:
        y: The present flat state.
        t: The present time.
        n_accepted: Accepted steps.
        n_rejected: Rejected steps.
    """

    def __init__(
        self,
        method: AbstractMethod,
        spec: SolverSpec,
        y: Tensor,
        times: tuple[float, float],
        longest: float | None = None,
    ) -> None:
        self.y, self.t = y, times[0]
        self.n_accepted = self.n_rejected = 0
        self._method, self._spec, self._longest = method, spec, inf if longest is None else longest
        self._controller = StepController(spec.controller, method.tableau.order)
        self._h = self._first_step(times)

    def reset(self, y: Tensor) -> None:
        """Go on from another state at the same time; its derivative is not known."""
        self.y = y
        self._method.forget()

    @property
    def rows(self) -> Tensor:
        """Stage derivatives of the last step, shape `(stages, n)`; overwritten by the next one."""
        return self._method.rows

    def advance(self, target: float) -> Iterator[AcceptedStep]:
        """Step to `target` and yield each accepted step, with the buffers still as the step left them.

        Raises:
            StepLimitError: If `spec.max_steps` do not suffice.
            DivergedError: If the state leaves the finite numbers.
        """
        return self._adaptive(target) if self._method.tableau.adaptive else self._fixed(target)

    def _first_step(self, times: tuple[float, float]) -> float:
        spec, method = self._spec, self._method.tableau
        if spec.first_step is not None:
            return spec.first_step
        if not method.adaptive:
            raise UserError(f"`{method.name}` has no error estimate, so that it needs `first_step`.")

        def field(t: float, y: Tensor) -> Tensor:
            self._method.forget()
            return self._method.derivative(t, y).clone()

        def rms(v: Tensor) -> float:
            return float(torch.linalg.vector_norm(v).item()) / sqrt(max(v.numel(), 1))

        h = first_step(field, self.y, times, StepScale(method.order, spec.rtol, spec.atol, rms))
        self._method.forget()
        if not isfinite(h):
            raise DivergedError(f"the field is not finite at t = {self.t:.6g}, where the solve begins.")
        return h

    def _count(self) -> None:
        if self.n_accepted + self.n_rejected >= self._spec.max_steps:
            method = self._method.tableau
            remedy = "loosen the tolerances" if method.adaptive else "take longer ones"
            if method.adaptive and not method.implicit:
                remedy += ", or take an implicit solver such as `kvaerno5` if the problem is stiff"
            raise StepLimitError(
                f"{self._spec.max_steps} steps reached only t = {self.t:.6g} ({self.n_rejected} of them rejected); "
                f"raise `max_steps` or {remedy}."
            )

    def _fixed(self, target: float) -> Iterator[AcceptedStep]:
        start, length = self.t, target - self.t
        n = equal_steps(length, min(self._h, self._longest))
        for begin, end in pairwise(i / n for i in range(n + 1)):
            self._count()
            span = self.t, target if end == 1 else start + length * end
            y0 = self.y
            self.y = self._method.accept(self._method.step(y0, span), span)
            self.t = span[1]
            self.n_accepted += 1
            yield AcceptedStep(*span, y0, (begin, end))
            self._method.carry()
        self._check_end(n, length / n)

    def _check_end(self, n: int, h: float) -> None:
        """See that equal steps, which nothing has judged, have ended with finite numbers."""
        if not torch.isfinite(self.y).all():
            raise DivergedError(f"the state is not finite at t = {self.t:.6g}, after {n} steps of {h:.3g}.")

    def _adaptive(self, target: float) -> Iterator[AcceptedStep]:
        begin = self.t
        while self.t != target:
            step = self._attempt(begin, target)
            if step is not None:
                yield step
                self._method.carry()

    def _attempt(self, begin: float, target: float) -> AcceptedStep | None:
        """Try one step on the way from `begin` to `target`; None where its error was too large."""
        self._count()
        length = target - begin
        h = min(self._h, self._longest)
        last = h >= abs(target - self.t) * (1 - 1e-9)
        span = self.t, target if last else self.t + (h if length > 0 else -h)
        # A few units in the last place are no step: rounding the end would stretch it again and again.
        if not last and h < 8 * ulp(self.t):
            raise DivergedError(f"the step underflows at t = {self.t:.6g}: {h:.3g}.")
        y0 = self.y
        y1, ratio = self._method.attempt(y0, span)
        self._h = abs(span[1] - span[0]) * self._controller.factor(ratio, shortened=last)
        if not ratio <= 1:
            self.n_rejected += 1
            return None
        # A step shortened to end on an output time says little of the step that could be taken next.
        self._h = max(self._h, h) if last else self._h
        self.y, self.t = self._method.accept(y1, span), span[1]
        self.n_accepted += 1
        return AcceptedStep(*span, y0, ((span[0] - begin) / length, (span[1] - begin) / length))
