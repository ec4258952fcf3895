"""One solve with diffrax, which is handed the `diffrax.AbstractAdjoint` that differentiates it.

Diffrax is run with `throw=False`, since raising from a compiled program needs a call back to the host, which would be
part of what is timed. A solve that fails is not silent for that: its states and its gradient become NaN. `step_grid`
finds out why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import floor, inf, sqrt
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jax.flatten_util import ravel_pytree
from typing_extensions import override

from nodebench.backends.solvers import STARTING_ORDER, method
from nodebench.backends.step_size import CONTROLLERS, FORGIVEN, equal_steps
from nodebench.errors import DivergedError, StepLimitError, UserError
from nodebench.problem import Array, Field, SolverSpec, State, StepGrid

Scan = Literal["default", "bounded"]
"""How diffrax loops over the stages of a step: `"bounded"` keeps them in the backward pass, `"default"` recomputes."""


@dataclass(frozen=True)
class Loop:
    """How diffrax goes through the steps of a solve.

    Attributes:
        scan: How it loops over the stages of a step.
        max_step: Longest step; None for no limit.

    Raises:
        UserError: If `max_step` is not positive.
    """

    scan: Scan = "default"
    max_step: float | None = None

    def __post_init__(self) -> None:
        if self.max_step is not None and not self.max_step > 0:
            raise UserError(f"`max_step` must be positive; got {self.max_step}.")


FIXED: Mapping[str, Callable[..., Any]] = {
    "euler": diffrax.Euler,
    "midpoint": diffrax.Midpoint,
    "implicit-euler": diffrax.ImplicitEuler,
}
SPLIT: Mapping[str, Callable[..., Any]] = {
    "kencarp3": diffrax.KenCarp3,
    "kencarp4": diffrax.KenCarp4,
    "kencarp5": diffrax.KenCarp5,
}
"""Methods that solve one part of a field implicitly and the rest not; here that part is all of it."""

ADAPTIVE: Mapping[str, Callable[..., Any]] = {
    "heun": diffrax.Heun,
    "bosh3": diffrax.Bosh3,
    "dopri5": diffrax.Dopri5,
    "tsit5": diffrax.Tsit5,
    "dopri8": diffrax.Dopri8,
    "kvaerno3": diffrax.Kvaerno3,
    "kvaerno5": diffrax.Kvaerno5,
    **SPLIT,
}


def reason_unsupported(spec: SolverSpec) -> str | None:
    """One sentence why diffrax cannot solve this, or None."""
    if spec.solver in ("rk4", "rk38"):
        return (
            f"diffrax has no `{spec.solver}`: its Runge-Kutta methods of order four and above all are embedded pairs."
        )
    if spec.solver not in FIXED and spec.solver not in ADAPTIVE:
        return f"diffrax has no `{spec.solver}`; it has {', '.join([*FIXED, *ADAPTIVE])}."
    if spec.solver in FIXED and spec.first_step is None:
        return f"`{spec.solver}` has no error estimate, so that it needs `first_step`."
    return None


def solve(
    field: Field,
    y0: State,
    times: Array,
    spec: SolverSpec,
    adjoint: diffrax.AbstractAdjoint,
    loop: Loop = Loop(),
) -> State:
    """Solve dy/dt = field(t, y) at `times`, with diffrax as its users run it.

    The first and last states are those at the ends of the first and last step; between them diffrax interpolates, but
    for methods of equal steps, which end one on every output time.

    Args:
        field: The vector field, a pytree, so that its parameters are seen by every adjoint.
        y0: Initial state.
        times: Output times, shape `(n,)`, increasing or decreasing; cast to the dtype of the state, which diffrax would
            otherwise promote.
        spec: Solver, tolerances, first step and limit. Without a first step one is chosen as for all others, by two
            evaluations within the program; left to diffrax 0.7.2, every solve would begin with 0.01 without looking.
        adjoint: How diffrax differentiates the solve.
        loop: How it goes through the steps.

    Returns:
        The states at `times`; all of them NaN if the solve failed.

    Raises:
        UserError: If `reason_unsupported` has one.
    """
    inner = _cast(times, y0)[1:-1]
    saveat = diffrax.SaveAt(t0=True, t1=True, ts=inner if len(inner) else None)
    solution = diffrax.diffeqsolve(**_arguments(field, y0, times, spec, loop), saveat=saveat, adjoint=adjoint)
    return poisoned(solution.ys, solution.result)


def common_differences(spec: SolverSpec) -> tuple[str, ...]:
    """What remains different from an eager solver that ends its steps on all output times."""
    compiled = "XLA compiles it to one program, while torch runs operator by operator."
    if spec.solver in FIXED:
        return (compiled,)
    return (compiled, "it ends a step on the last output time and interpolates to those before.")


def default_checkpoints(max_steps: int) -> int:
    """How many checkpoints diffrax keeps where it is not told: the least k with max_steps < (k + 1)(k + 2) / 2."""
    return 1 if max_steps == 1 else floor(-1.5 + sqrt(2 * max_steps + 0.25)) + 1


def poisoned(ys: State, result: diffrax.RESULTS) -> State:
    """The states, times one where the solve succeeded, times NaN where it did not; NaN then in their gradient, too.

    Without it, a solve that ran into its limit would hand out the state it came to as if it were the last.
    """
    succeeded = result == diffrax.RESULTS.successful
    return jax.tree.map(lambda y: y * jnp.where(succeeded, 1.0, jnp.nan).astype(y.dtype), ys)


def controller(
    spec: SolverSpec, norm: Callable[[State], Array] | None = None, max_step: float | None = None
) -> diffrax.PIDController:
    """Diffrax's own step size control, with the gains of `spec.controller`."""
    gains = CONTROLLERS[spec.controller]
    chosen: dict[str, Any] = {} if norm is None else {"norm": norm}
    return diffrax.PIDController(
        rtol=spec.rtol, atol=spec.atol, pcoeff=gains.proportional, icoeff=gains.integral, dtmax=max_step, **chosen
    )


def _equal_steps(times: Array, longest: float, limit: int) -> Array:
    """Boundaries of equal steps in every output interval, as our own solver takes; at most `limit` steps of them.

    Args:
        times: Output times, NumPy's where they are known.
        longest: Longest step.
        limit: How many steps are allowed. So many places there are where the times are not known; those left over
            repeat the last time.
    """
    xp: Any = np if isinstance(times, np.ndarray) else jnp
    if isinstance(times, np.ndarray):
        counts: Array = np.array([equal_steps(end - begin, longest) for begin, end in pairwise(times.tolist())])
        limit = min(limit, int(counts.sum()))
    else:
        # What two times are rounded by is no reason for another step.
        rounded = 2 * np.finfo(times.dtype).eps * jnp.abs(times).max() / longest
        wanted = jnp.ceil(jnp.abs(jnp.diff(times)) / longest - FORGIVEN - rounded)
        counts = jnp.maximum(1, wanted).astype(int)
    ends, i = xp.cumsum(counts), xp.arange(limit + 1)
    k = xp.minimum(xp.searchsorted(ends, i), len(counts) - 1)
    begin, end, j = times[k], times[k + 1], i - (ends - counts)[k]
    return xp.where(j < counts[k], begin + (end - begin) * (j / counts[k]), end)


class _StepTo(diffrax.AbstractStepSizeController[Any, Any]):
    """Steps to given times; unlike diffrax's own it has no checks that call back to the host.

    It has no state, since `BacksolveAdjoint` hands the state of one interval on to the next.

    Attributes:
        boundaries: The times.
    """

    boundaries: Array

    @override
    def wrap(self, direction: Array) -> "_StepTo":
        return _StepTo(jnp.sort(self.boundaries * direction))

    @override
    def init(self, terms: Any, t0: Array, *others: Any) -> tuple[Array, None]:
        del terms, others
        return self._after(t0), None

    @override
    def adapt_step_size(self, t0: Array, t1: Array, *others: Any) -> Any:
        del t0, others
        return True, t1, self._after(t1), False, None, diffrax.RESULTS.successful

    def _after(self, t: Array) -> Array:
        i = jnp.searchsorted(jax.lax.stop_gradient(self.boundaries), jax.lax.stop_gradient(t), side="right")
        return self.boundaries[jnp.minimum(i, len(self.boundaries) - 1)]


def step_grid(
    field: Field,
    y0: State,
    times: Array,
    spec: SolverSpec,
    loop: Loop = Loop(),
) -> StepGrid:
    """The steps of the forward solve, which no choice of adjoint changes.

    Raises:
        StepLimitError: If `spec.max_steps` do not suffice.
        DivergedError: If a state left the finite numbers: that of an accepted step, or, where the steps did not
            suffice, that which the last rejected step tried.
    """
    boundaries, finite, n_rejected, result = _steps(field, y0, np.asarray(times), spec, loop)
    if result == "diverged" or not finite.all():
        raise DivergedError(f"the state left the finite numbers after t = {boundaries[finite][-1]:.6g}.")
    if result == "limit":
        raise StepLimitError(f"the limit of {spec.max_steps} steps was reached at t = {boundaries[-1]:.6g}.")
    return StepGrid(tuple(boundaries.tolist()), n_rejected)


def _steps(
    field: Field, y0: State, times: np.ndarray, spec: SolverSpec, loop: Loop
) -> tuple[np.ndarray, np.ndarray, int, Literal["finished", "limit", "diverged"]]:
    """Boundaries of accepted steps, whether the state is finite at each, number of rejected steps, how it ended."""
    arrays, static = eqx.partition((field, y0), eqx.is_array)

    def run(arrays: Any) -> tuple[Array, ...]:
        field, y0 = eqx.combine(arrays, static)
        arguments = _arguments(field, y0, times, spec, loop)
        arguments["stepsize_controller"] = _WatchedController(arguments["stepsize_controller"])
        # Of the states only that they are finite is saved: memory for all of them would be that of the step limit.
        saveat = diffrax.SaveAt(t0=True, steps=True, controller_state=True, fn=_state_is_finite)
        solution = diffrax.diffeqsolve(**arguments, saveat=saveat)
        finished = solution.result == diffrax.RESULTS.successful
        return solution.ts, solution.ys, solution.stats["num_rejected_steps"], finished, solution.controller_state[1]

    ts, finite, n_rejected, finished, last_is_finite = (np.asarray(part) for part in jax.jit(run)(arrays))
    saved = np.isfinite(ts)
    end: Literal["limit", "diverged"] = "limit" if last_is_finite else "diverged"
    return ts[saved].astype(np.float64), finite[saved], int(n_rejected), "finished" if finished else end


def _state_is_finite(t: Array, y: State, args: None) -> Array:
    del t, args
    return _is_finite(y)


def _is_finite(y: State | None) -> Array:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(y)]))


class _WatchedController(diffrax.AbstractStepSizeController[Any, Any]):
    """A step size control that remembers whether the error estimate of the last rejected step was finite.

    Diffrax takes one that is not a number for infinite, and goes on with a smaller step until its limit.
    """

    control: Any

    @override
    def wrap(self, direction: Any) -> "_WatchedController":
        return _WatchedController(self.control.wrap(direction))

    @override
    def init(self, *args: Any) -> tuple[Any, Any]:
        tnext, state = self.control.init(*args)
        return tnext, (state, jnp.array(True))  # noqa: FBT003  the signature is JAX's

    @override
    def adapt_step_size(self, *args: Any) -> Any:
        *others, (state, finite) = args
        keep, next_t0, next_t1, jump, state, result = self.control.adapt_step_size(*others, state)
        _, _, _, _, _, y_error, _ = others
        finite = jnp.where(keep, finite, _is_finite(y_error))
        return keep, next_t0, next_t1, jump, (state, finite), result


class _VectorField(eqx.Module):
    """The field in the form that diffrax calls."""

    field: Field

    def __call__(self, t: Array, y: State, args: None) -> State:
        del args
        return self.field(t, y)


def _first_step(field: Field, y0: State, times: Array, spec: SolverSpec) -> Array:
    """What `step_size.chosen_first_step` chooses outside of a compiled program, within one, and not rounded.

    Its length is a constant to what is differentiated. It is not a number where the field is none.
    """
    y, unflatten = ravel_pytree(y0)
    start, span, direction = times[0], abs(times[-1] - times[0]), jnp.sign(times[-1] - times[0])

    def rate(t: Array, y: Array) -> Array:
        return ravel_pytree(field(t, unflatten(y)))[0] / scale

    def rms(v: Array) -> Array:
        return jnp.sqrt(jnp.mean(v**2))

    scale = spec.atol + abs(y) * spec.rtol
    f0 = rate(start, y)
    size_y, size_f = rms(y / scale), rms(f0)
    small = (size_y < 1e-5) | (size_f < 1e-5)
    trial = jnp.minimum(jnp.where(small, 1e-6, 0.01 * size_y / jnp.where(small, 1, size_f)), span)
    f1 = rate(start + direction * trial, y + direction * trial * f0 * scale)
    largest = jnp.maximum(size_f, rms(f1 - f0) / trial)
    still = largest <= 1e-15
    order = method(spec.solver).order or STARTING_ORDER
    step = jnp.where(still, jnp.maximum(1e-6, trial * 1e-3), (0.01 / jnp.where(still, 1, largest)) ** (1 / order))
    return jax.lax.stop_gradient(jnp.minimum(jnp.minimum(100 * trial, step), span))


def _arguments(field: Field, y0: State, times: Array, spec: SolverSpec, loop: Loop) -> dict[str, Any]:
    reason = reason_unsupported(spec)
    if reason is not None:
        raise UserError(reason)
    make = {**FIXED, **ADAPTIVE}[spec.solver]
    limit = inf if loop.max_step is None else loop.max_step
    exact, times = times, _cast(times, y0)
    span: Array = times[-1] - times[0]
    control: Any = controller(spec, max_step=loop.max_step)
    if spec.first_step is None:
        first: Array = jnp.copysign(jnp.minimum(_first_step(field, y0, times, spec), limit), span)
    else:
        longest, xp = min(spec.first_step, limit), np if isinstance(times, np.ndarray) else jnp
        first = xp.copysign(times.dtype.type(longest), span)
        if spec.solver in FIXED:
            control = _StepTo(_cast(_equal_steps(exact, longest, spec.max_steps), y0))
    term: Any = diffrax.ODETerm(_VectorField(field))
    if spec.solver in SPLIT:
        term = diffrax.MultiTerm(diffrax.ODETerm(_nothing), term)
    options: dict[str, Any] = {} if loop.scan == "default" else {"scan_kind": loop.scan}
    if isinstance(make, type) and issubclass(make, diffrax.AbstractImplicitSolver):
        # What diffrax itself takes, whose tolerances it asks of a controller; that of equal steps has none.
        options["root_finder"] = diffrax.VeryChord(rtol=spec.rtol, atol=spec.atol, norm=optimistix.rms_norm)
    return {
        "terms": term,
        "solver": make(**options),
        "t0": times[0],
        "t1": times[-1],
        "dt0": first,
        "y0": y0,
        "stepsize_controller": control,
        "max_steps": spec.max_steps,
        "throw": False,
    }


def _nothing(t: Array, y: State, args: object) -> State:
    """A field that moves nothing."""
    del t, args
    return jax.tree.map(jnp.zeros_like, y)


def _cast(times: Array, y0: State) -> Array:
    # Known times stay NumPy arrays: constants of the compiled program.
    dtype = jax.tree.leaves(y0)[0].dtype
    return np.asarray(times, dtype) if isinstance(times, np.ndarray) else jnp.asarray(times, dtype)
