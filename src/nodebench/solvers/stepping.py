"""Steps through time with an error per step held below the tolerance, at one synchronisation per step."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite, sqrt, ulp

import torch
from torch import Tensor

from nodebench.errors import DivergedError, StepLimitError, UserError
from nodebench.problem import SolverSpec
from nodebench.solvers.controller import StepController, equal_steps
from nodebench.solvers.first_step import StepScale, first_step
from nodebench.solvers.method import AbstractMethod


@dataclass(frozen=True, slots=True)
class Step:
    """An accepted step.

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
    """Steps through time, landing exactly on each time it is told to reach.

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

    def advance(self, target: float) -> Iterator[Step]:
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
            remedy = "loosen the tolerances" if self._method.tableau.adaptive else "take longer ones"
            raise StepLimitError(
                f"{self._spec.max_steps} steps reached only t = {self.t:.6g} ({self.n_rejected} of them rejected); "
                f"raise `max_steps` or {remedy}."
            )

    def _fixed(self, target: float) -> Iterator[Step]:
        start, length = self.t, target - self.t
        n = equal_steps(length, min(self._h, self._longest))
        for i in range(n):
            self._count()
            span = self.t, target if i == n - 1 else start + length * ((i + 1) / n)
            y0 = self.y
            self.y = self._method.accept(self._method.step(y0, span), span)
            self.t = span[1]
            self.n_accepted += 1
            yield Step(*span, y0, (i / n, (i + 1) / n))
            self._method.carry()
        if not torch.isfinite(self.y).all():
            raise DivergedError(f"the state is not finite at t = {self.t:.6g}, after {n} steps of {length / n:.3g}.")

    def _adaptive(self, target: float) -> Iterator[Step]:
        begin, length = self.t, target - self.t
        while self.t != target:
            self._count()
            h = min(self._h, self._longest)
            landing = h >= abs(target - self.t) * (1 - 1e-9)
            span = self.t, target if landing else self.t + (h if length > 0 else -h)
            # A few units in the last place are no step: rounding the end would stretch it again and again.
            if not landing and h < 8 * ulp(self.t):
                raise DivergedError(f"the step underflows at t = {self.t:.6g}: {h:.3g}.")
            y0 = self.y
            y1, ratio = self._method.attempt(y0, span)
            self._h = abs(span[1] - span[0]) * self._controller.factor(ratio, shortened=landing)
            if not ratio <= 1:
                self.n_rejected += 1
                continue
            # A step shortened to land says little of the step that could be taken next.
            self._h = max(self._h, h) if landing else self._h
            self.y, self.t = self._method.accept(y1, span), span[1]
            self.n_accepted += 1
            yield Step(*span, y0, ((span[0] - begin) / length, (span[1] - begin) / length))
            self._method.carry()
