"""How long the next step is: controllers of the step size, in plain Python."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, nan

from nodebench.backends.solvers import STARTING_ORDER, method
from nodebench.errors import DivergedError
from nodebench.problem import Array, SolverSpec

SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0
"""Constants of the controllers, those of torchdiffeq and diffrax."""

FORGIVEN = 1e-9
"""Part of a step by which equal steps may be too long."""


@dataclass(frozen=True)
class Gains:
    """Gains of a proportional-integral controller of the step size.

    With e_n the error of a step relative to the tolerance and k the order of its method, the next step is longer by
    the factor `0.9 e_n^(-(integral + proportional) / k) e_{n-1}^(proportional / k)`, e_{n-1} being that of the last
    accepted step before.

    Attributes:
        proportional: `pcoeff` of `diffrax.PIDController`.
        integral: Its `icoeff`.
    """

    proportional: float
    integral: float


CONTROLLERS: Mapping[str, Gains] = {"integral": Gains(0.0, 1.0), "pi": Gains(0.4, 0.3)}
"""Gains by name in `SolverSpec.controller`.

`integral`: Solving Ordinary Differential Equations I: Nonstiff Problems (Hairer, Nørsett, Wanner, 1993), section II.4.
`pi`: Control theoretic techniques for stepsize selection in explicit Runge-Kutta methods (Gustafsson, 1991),
https://doi.org/10.1145/210232.210242; also Solving Ordinary Differential Equations II (Hairer, Wanner, 1996), section
IV.2, with its exponents 0.7 / k and 0.4 / k.
"""


def equal_steps(length: float, longest: float) -> int:
    """How many equal steps, none longer than `longest`, lead through an interval in every library's fixed-step method.

    A billionth of a step more is forgiven, so that rounding adds no step.
    """
    return max(1, ceil(abs(length) / longest - FORGIVEN))


class StepController:
    """The controller of one solve.

    Factors lie between 0.2 and 10, and are never below 1 after an accepted step. The error before the first step counts
    as 1. All as in diffrax.

    Args:
        name: One of `CONTROLLERS`.
        order: Order of the method.

    Attributes:
        exponent: That of a step's own error ratio, negative in the factor.
        exponent_before: That of the ratio before.
        ratio_before: Error ratio of the last accepted step that was not cut.
    """

    def __init__(self, name: str, order: int) -> None:
        gains = CONTROLLERS[name]
        self.exponent = (gains.integral + gains.proportional) / order
        self.exponent_before = gains.proportional / order
        self.ratio_before = 1.0

    def factor(self, ratio: float, *, shortened: bool = False) -> float:
        """How much longer than this step the next one is, and remember this step's error if it is accepted.

        Args:
            ratio: Error of this step relative to the tolerance, at most 1 where it is accepted; it may be infinite or
                NaN.
            shortened: Whether the step was cut to end on an output time. Its error says nothing of how the error
                changes from step to step, and is not remembered.
        """
        if not isfinite(ratio):
            return SMALLEST
        wanted = SAFETY / ratio**self.exponent * self.ratio_before**self.exponent_before if ratio else LARGEST
        if not ratio <= 1:
            return max(SMALLEST, wanted)
        if not shortened:
            self.ratio_before = ratio or 1.0  # zero would keep the next step from being longer
        return min(LARGEST, max(1.0, wanted))


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
    rms: Callable[[Array], float]


def first_step(
    field: Callable[[float, Array], Array], y0: Array, times: tuple[float, float], scale: StepScale
) -> float:
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


def chosen_first_step(
    spec: SolverSpec,
    times: Sequence[float],
    field: Callable[[float, Array], Array],
    y0: Array,
    rms: Callable[[Array], float],
) -> float:
    """The first step with which a problem is solved, in a benchmark and by `nodebench.odeint` alike.

    It is that of `spec` where there is one. Else a method that estimates its error begins with `first_step`, and one
    that does not takes `spec.n_steps` equal steps.

    Args:
        spec: Solver, tolerances and, possibly, the first step.
        times: Output times.
        field: `field(t, y)` on flat arrays.
        y0: Flat initial state.
        rms: Root-mean-square norm of a flat array.

    Returns:
        The length of the first step, positive, at most that of the time span.

    Raises:
        UnknownNameError: If there is no solver of this name.
        DivergedError: If the field is not finite where the solve begins.
    """
    span = abs(times[-1] - times[0])
    if spec.first_step is not None:
        return min(spec.first_step, span)
    solver = method(spec.solver)
    if not solver.adaptive:
        return span / spec.n_steps
    scale = StepScale(solver.order or STARTING_ORDER, spec.rtol, spec.atol, rms)
    step = first_step(field, y0, (times[0], times[-1]), scale)
    if not isfinite(step):
        raise DivergedError(f"the field is not finite at t = {times[0]:.6g}, where the solve begins.")
    # Three digits: the number must not depend on the rounding errors of the machine that chose it.
    return min(float(f"{step:.3g}"), span)
