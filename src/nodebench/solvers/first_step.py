"""Choice of the first step of a solve, for arrays of any library."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any


@dataclass(frozen=True)
class StepScale:
    """What the choice of a first step depends on beside the problem.

    Attributes:
        order: Order of the method.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        rms: Root-mean-square norm of a flat array, as a Python float.
    """

    order: int
    rtol: float
    atol: float
    rms: Callable[[Any], float]


def first_step(field: Callable[[float, Any], Any], y0: Any, times: tuple[float, float], scale: StepScale) -> float:
    """Choose a first step from the sizes of the state and of its first two derivatives.

    Two evaluations of the field. The step never reaches past `times[1]`.

    Args:
        field: `field(t, y)` on flat arrays.
        y0: Flat initial state at `times[0]`.
        times: First and last time of the solve, the last possibly the earlier one.
        scale: Order, tolerances and norm.

    Returns:
        The length of the first step, positive; not a number where the field is not finite.

    References:
        Solving Ordinary Differential Equations I: Nonstiff Problems (Hairer, Nørsett, Wanner, 1993), section II.4. The
        exponent is 1 / order, since it is the error of the embedded method that is estimated.
    """
    start, end = times
    span = abs(end - start)
    direction = 1.0 if end > start else -1.0
    tolerance = scale.atol + abs(y0) * scale.rtol
    f0 = field(start, y0)
    size_y, size_f = scale.rms(y0 / tolerance), scale.rms(f0 / tolerance)
    if not isfinite(size_f):
        return nan
    trial = 1e-6 if size_y < 1e-5 or size_f < 1e-5 else 0.01 * size_y / size_f
    trial = min(trial, span)
    f1 = field(start + direction * trial, y0 + direction * trial * f0)
    size_second = scale.rms((f1 - f0) / tolerance) / trial
    largest = max(size_f, size_second)
    step = max(1e-6, trial * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / scale.order)
    return min(100 * trial, step, span)
