"""One explicit Runge-Kutta step in torch: a flat state, one buffer of stage derivatives, nothing copied."""

from collections.abc import Callable
from functools import cache
from math import sqrt

import torch
from torch import Tensor

from nodebench.problem import SolverSpec
from nodebench.solvers.tableau import Tableau, tableau

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
