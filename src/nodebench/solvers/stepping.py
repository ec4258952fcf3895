"""Explicit Runge-Kutta steps in torch: one flat state, one buffer of stage derivatives, one synchronisation per step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from nodebench.errors import DivergedError, StepLimitError, UserError
from nodebench.frameworks.torch import impure_reason
from nodebench.problem import Field, SolverSpec, State, StepGrid
from nodebench.solvers.first_step import StepScale, first_step
from nodebench.solvers.tableau import TABLEAUS, Tableau, tableau

SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0
"""Constants of the step-size controller, those of torchdiffeq and diffrax."""

Evaluate = Callable[[int, float, Tensor], None]
"""`evaluate(i, t, y)` writes the derivative at the flat state `y` into row `i` of the buffer it was made with."""

ErrorRatio = Callable[[float, Tensor, Tensor], float]
"""`ratio(h, y0, y1)`: norm of a step's error relative to the tolerance; at most 1 is accepted."""


@dataclass(frozen=True)
class Layout:
    """How a state, one tensor or a tuple of them, lies in one flat vector.

    Attributes:
        shapes: Shapes of the parts.
        is_tuple: Whether the state is a tuple.
    """

    shapes: tuple[torch.Size, ...]
    is_tuple: bool

    def flatten(self, state: State) -> Tensor:
        """The state as one vector, differentiable."""
        if not self.is_tuple:
            flat: Tensor = state.reshape(-1)  # type: ignore[union-attr]
            return flat
        return torch.cat([part.reshape(-1) for part in state])

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor `(*leading, n)`, each of shape `(*leading, *shape)`."""
        lead = flat.shape[:-1]
        if not self.is_tuple:
            return [flat.view(*lead, *self.shapes[0])]
        pieces = flat.split([shape.numel() for shape in self.shapes], dim=-1)
        return [piece.reshape(*lead, *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def state(self, flat: Tensor) -> State:
        """The state that lies in a flat tensor."""
        parts = self.parts(flat)
        return tuple(parts) if self.is_tuple else parts[0]

    def flatten_outputs(self, states: State) -> Tensor:
        """States at n times, as one tensor `(n, size of the state)`; the reverse of `state`."""
        if not self.is_tuple:
            flat: Tensor = states.reshape(len(states), -1)  # type: ignore[union-attr]
            return flat
        return torch.cat([part.reshape(len(part), -1) for part in states], dim=-1)

    def derivative(self, result: Any) -> Sequence[Tensor]:
        """The parts of what a field returned.

        Raises:
            UserError: If its structure or shapes are not those of the state; copying would broadcast silently.
        """
        parts = tuple(result) if self.is_tuple else (result,)
        shapes = tuple(part.shape for part in parts)
        if shapes != self.shapes:
            raise UserError(f"the field must return the shapes of the state, {self.shapes}; it returned {shapes}.")
        return parts


def layout(y0: State) -> Layout:
    """The layout of states like `y0`.

    Raises:
        UserError: If `y0` is empty, holds no floating-point tensors, or its parts differ in dtype or device.
    """
    parts = tuple(y0) if isinstance(y0, tuple) else (y0,)
    if not parts or not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
        raise UserError("`y0` must be a floating-point tensor or a tuple of such.")
    if len({(part.dtype, part.device) for part in parts}) > 1:
        raise UserError("the parts of `y0` must have one dtype and lie on one device.")
    return Layout(tuple(part.shape for part in parts), isinstance(y0, tuple))


def output_times(times: Tensor) -> list[float]:
    """Output times as Python floats.

    Raises:
        UserError: If they are not one-dimensional, at least two, finite, and strictly increasing or decreasing.
    """
    values = [float(t) for t in times.tolist()] if times.dim() == 1 else []
    rising = [b > a for a, b in zip(values, values[1:], strict=False)]
    falling = [b < a for a, b in zip(values, values[1:], strict=False)]
    if not rising or not all(map(isfinite, values)) or not (all(rising) or all(falling)):
        raise UserError(f"`times` must be two or more finite times, strictly increasing or decreasing; got {times}.")
    return values


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

    def combine(self, y: Tensor, h: float) -> Tensor:
        """End of a step that begins at `y`, from the rows of the buffer."""
        return torch.addmv(y, self._columns[self.tableau.n_own], self._b, alpha=h)

    def error(self) -> Tensor:
        """Error of the step divided by its length, flat."""
        assert self._b_error is not None  # noqa: S101  only called for an adaptive tableau
        return torch.mv(self._columns[-1], self._b_error)


def rms_ratio(scheme: Scheme, spec: SolverSpec) -> ErrorRatio:
    """Root-mean-square norm of error / (atol + rtol max(|y0|, |y1|)) over the whole flat state."""
    rtol, rows = spec.rtol, scheme.rows
    atol = torch.tensor(spec.atol, dtype=rows.dtype, device=rows.device)
    inverse = 1 / sqrt(max(rows.shape[1], 1))

    def ratio(h: float, y0: Tensor, y1: Tensor) -> float:
        scale = torch.add(atol, torch.maximum(y0.abs(), y1.abs()), alpha=rtol)
        norm: float = torch.linalg.vector_norm(scheme.error().div_(scale)).item()
        return abs(h) * inverse * norm

    return ratio


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


@dataclass(frozen=True)
class Dynamics:
    """What a stepper integrates: how a stage is evaluated and how an error is measured.

    Attributes:
        evaluate: Writes rows of the scheme's buffer.
        ratio: Error norm; never asked for by a method without an error estimate.
    """

    evaluate: Evaluate
    ratio: ErrorRatio


class Stepper:
    """Steps through time, landing exactly on each time it is told to reach.

    The length of the next step and the last derivative are carried from one interval to the next. Steps are chosen by
    an integral controller (safety 0.9, factors from 0.2 to 10, never below 1 after an accepted step), as in
    torchdiffeq and diffrax. A method without an error estimate takes equal steps of at most `spec.first_step`.

    Args:
        scheme: Tableau and buffers.
        spec: Tolerances, first step and limit.
        dynamics: What is integrated.
        y: Flat initial state.
        times: Beginning and end of the whole solve.

    Attributes:
        y: The present flat state.
        t: The present time.
        n_accepted: Accepted steps.
        n_rejected: Rejected steps.
    """

    def __init__(
        self, scheme: Scheme, spec: SolverSpec, dynamics: Dynamics, y: Tensor, times: tuple[float, float]
    ) -> None:
        self.y, self.t = y, times[0]
        self.n_accepted = self.n_rejected = 0
        self._scheme, self._spec, self._dynamics = scheme, spec, dynamics
        self._first_known = False  # whether row 0 holds the derivative here
        self._h = self._first_step(times)

    def reset(self, y: Tensor) -> None:
        """Go on from another state at the same time; its derivative is not known."""
        self.y, self._first_known = y, False

    def evaluate(self) -> Tensor:
        """The derivative here: row 0 of the buffer, where the next step finds it again."""
        if not self._first_known:
            self._dynamics.evaluate(0, self.t, self.y)
            self._first_known = self._scheme.tableau.fsal
        return self._scheme.rows[0]

    def advance(self, target: float) -> Iterator[Step]:
        """Step to `target` and yield each accepted step, with the buffers still as the step left them.

        Raises:
            StepLimitError: If `spec.max_steps` do not suffice.
            DivergedError: If the state leaves the finite numbers.
        """
        return self._adaptive(target) if self._scheme.tableau.adaptive else self._fixed(target)

    def _first_step(self, times: tuple[float, float]) -> float:
        spec, method = self._spec, self._scheme.tableau
        if spec.first_step is not None:
            return spec.first_step
        if not method.adaptive:
            raise UserError(f"`{method.name}` has no error estimate, so that it needs `first_step`.")

        def field(t: float, y: Tensor) -> Tensor:
            self._dynamics.evaluate(0, t, y)
            return self._scheme.rows[0].clone()

        def rms(v: Tensor) -> float:
            return float(torch.linalg.vector_norm(v).item()) / sqrt(max(v.numel(), 1))

        h = first_step(field, self.y, times, StepScale(method.order, spec.rtol, spec.atol, rms))
        if not isfinite(h):
            raise DivergedError(f"the field is not finite at t = {self.t:.6g}, where the solve begins.")
        return h

    def _count(self) -> None:
        if self.n_accepted + self.n_rejected >= self._spec.max_steps:
            raise StepLimitError(
                f"{self._spec.max_steps} steps reached only t = {self.t:.6g} ({self.n_rejected} of them rejected); "
                "raise `max_steps` or loosen the tolerances."
            )

    def _fixed(self, target: float) -> Iterator[Step]:
        start, length = self.t, target - self.t
        n = max(1, ceil(abs(length) / self._h - 1e-9))
        for i in range(n):
            self._count()
            span = self.t, target if i == n - 1 else start + length * ((i + 1) / n)
            y0 = self.y
            self.y = self._scheme.stages(self._dynamics.evaluate, y0, span, first_known=False)
            self.t = span[1]
            self.n_accepted += 1
            yield Step(*span, y0, (i / n, (i + 1) / n))
        if not torch.isfinite(self.y).all():
            raise DivergedError(f"the state is not finite at t = {self.t:.6g}, after {n} steps of {length / n:.3g}.")

    def _adaptive(self, target: float) -> Iterator[Step]:
        begin, length = self.t, target - self.t
        while self.t != target:
            self._count()
            h = self._h
            landing = h >= abs(target - self.t) * (1 - 1e-9)
            span = self.t, target if landing else self.t + (h if length > 0 else -h)
            if span[0] == span[1]:
                raise DivergedError(f"the step underflows at t = {self.t:.6g}: {h:.3g}.")
            y0 = self.y
            y1, ratio = self._attempt(y0, span)
            self._h = abs(span[1] - span[0]) * _factor(ratio, self._scheme.tableau.order)
            if not ratio <= 1:
                self.n_rejected += 1
                continue
            # A step shortened to land says little of the step that could be taken next.
            self._h = max(self._h, h) if landing else self._h
            self.y, self.t = y1, span[1]
            self.n_accepted += 1
            yield Step(*span, y0, ((span[0] - begin) / length, (span[1] - begin) / length))
            self._scheme.rows[0].copy_(self._scheme.rows[-1])

    def _attempt(self, y0: Tensor, span: tuple[float, float]) -> tuple[Tensor, float]:
        # Every adaptive method here ends with the derivative at the end of the step (a test holds it).
        y1 = self._scheme.stages(self._dynamics.evaluate, y0, span, first_known=self._first_known)
        self._first_known = True
        self._dynamics.evaluate(self._scheme.tableau.n_stages - 1, span[1], y1)
        ratio = self._dynamics.ratio(span[1] - span[0], y0, y1)
        # Only asked after an infinite error: a shorter step mends one that left the finite numbers on its way.
        if not isfinite(ratio) and not (y0.isfinite().all() and self._scheme.rows[0].isfinite().all()):
            raise DivergedError(f"not finite at t = {span[0]:.6g}, before a step of {span[1] - span[0]:.3g}.")
        return y1, ratio


def _factor(ratio: float, order: int) -> float:
    """How much longer the next step is; `ratio` may be infinite or NaN."""
    if ratio == 0:
        return LARGEST
    if not isfinite(ratio):
        return SMALLEST
    return min(LARGEST, max(SAFETY / ratio ** (1 / order), 1.0 if ratio <= 1 else SMALLEST))


class FieldRows:
    """Evaluates a field without a graph.

    Args:
        field: The field.
        shape: Layout of its state.
        rows: Buffer that it writes.
    """

    def __init__(self, field: Field, shape: Layout, rows: Tensor) -> None:
        self._field, self._layout = field, shape
        self._rows = [shape.parts(row) for row in rows]

    def __call__(self, stage: int, t: float, y: Tensor) -> None:
        """Write the derivative at `y` into row `stage`.

        Raises:
            UserError: If the field changes its state in place, which would corrupt the solve, or returns other shapes.
        """
        version = y._version  # noqa: SLF001  torch's documented count of in-place changes has no public name
        result = self._field(t, self._layout.state(y))
        if y._version != version:  # noqa: SLF001
            raise UserError("the field changes its state in place; make its first operation one that does not.")
        for row, part in zip(self._rows[stage], self._layout.derivative(result), strict=True):
            row.copy_(part)


def plain_stepper(field: Field, shape: Layout, y: Tensor, times: Sequence[float], spec: SolverSpec) -> Stepper:
    """A stepper through the field itself, without a graph."""
    scheme = Scheme(tableau(spec.solver), y)
    dynamics = Dynamics(FieldRows(field, shape, scheme.rows), rms_ratio(scheme, spec))
    return Stepper(scheme, spec, dynamics, y, (times[0], times[-1]))


def solve_plain(field: Field, y0: State, times: Tensor, spec: SolverSpec) -> State:
    """Solve without a graph: what every gradient method of ours does where no gradient is wanted."""
    shape, marks = layout(y0), output_times(times)
    with torch.no_grad():
        y = shape.flatten(y0).detach()
        stepper = plain_stepper(field, shape, y, marks, spec)
        ys = y.new_empty(len(marks), y.numel())
        ys[0] = y
        for i, mark in enumerate(marks[1:], start=1):
            for _ in stepper.advance(mark):
                pass
            ys[i] = stepper.y
    return shape.state(ys)


def step_grid(field: Field, y0: State, times: Tensor, spec: SolverSpec) -> StepGrid:
    """The steps of a solve, from a solve of its own."""
    shape, marks = layout(y0), output_times(times)
    with torch.no_grad():
        stepper = plain_stepper(field, shape, shape.flatten(y0), marks, spec)
        ends = [step.end for mark in marks[1:] for step in stepper.advance(mark)]
    return StepGrid((marks[0], *ends), stepper.n_rejected)


def reason_unsupported(field: Field, spec: SolverSpec) -> str | None:
    """Why our own solver cannot solve this, in one sentence, or None."""
    if spec.solver not in TABLEAUS:
        return f"the solver `{spec.solver}` is none of ours: {', '.join(sorted(TABLEAUS))}."
    if not TABLEAUS[spec.solver].adaptive and spec.first_step is None:
        return f"`{spec.solver}` has no error estimate, so that it needs `first_step`."
    return impure_reason(field)
