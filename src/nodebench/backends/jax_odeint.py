"""`jax.experimental.ode.odeint`: JAX's own dopri5 with its backsolve gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from typing_extensions import override

from nodebench.backends.base import AbstractBackend
from nodebench.errors import CellError, DivergedError, StepLimitError
from nodebench.frameworks.base import IN_BACKWARD_SOLVE, AbstractFramework, GradientStep
from nodebench.problem import Array, Evaluations, Field, Problem, SolverSpec, State, StepGrid

N_BEFORE = 2
"""Evaluations before the first step: at the first time, and for the choice of the first step."""

N_STAGES = 6
"""Evaluations of every step tried."""


@dataclass(frozen=True)
class JaxOdeint(AbstractBackend):
    """`jax.experimental.ode.odeint`: dopri5 with a continuous adjoint, in constant memory, as JAX brings it along.

    State, adjoint and the gradients of the first time and of the parameters are solved backwards as one ODE, started
    anew at every output time. The gradient is that of the continuous problem, exact only as tolerances go to zero, and
    wrong where the forward ODE contracts strongly. Decreasing times, which it lacks, are solved in mirrored time.

    It has no way to say that it failed. Out of steps (`mxstep`, here `spec.max_steps`, counts tried steps anew from
    each output time) or past a derivative that is not a number, it extrapolates its last step to the output time, and
    nothing in what it returns tells. `solve` hands that on. `grid` and the counting passes of `gradient_step` follow
    every step, forward and backward, from the times of the evaluations, and raise what happened.

    "Neural Ordinary Differential Equations", Chen et al., 2018, https://arxiv.org/abs/1806.07366; the code:
    https://github.com/jax-ml/jax/blob/main/jax/experimental/ode.py
    """

    framework: ClassVar[str] = "jax"
    exact_counterpart = None  # it chooses its first step, so that no other backend takes its steps
    memory_exponent = 0.0

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """Other methods, and fields whose arrays are not all parameters."""
        if spec.solver != "dopri5":
            return f"`jax.experimental.ode.odeint` has one method, `dopri5`, and no `{spec.solver}`."
        if spec.controller != "integral":
            return "`jax.experimental.ode.odeint` has an integral controller of the step size only."
        others = [
            leaf for leaf in jax.tree.leaves(problem.field) if eqx.is_array(leaf) and not eqx.is_inexact_array(leaf)
        ]
        if others:
            return f"the field holds arrays of {others[0].dtype}, which the gradient of `odeint` cannot be handed."
        return None

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """A failure is silent, see the class."""
        cast = jnp.asarray(times, jax.tree.leaves(y0)[0].dtype)
        parameters, rest = eqx.partition(field, eqx.is_inexact_array)
        up, down = (partial(_mirrored, rest, spec, sign) for sign in (1, -1))
        if isinstance(times, jax.core.Tracer):  # only where they are differentiated
            return jax.lax.cond(cast[-1] > cast[0], up, down, parameters, y0, cast)
        known = np.asarray(times)  # in a program that is being traced, an item of JAX's own array is not known
        return (up if known[-1] > known[0] else down)(parameters, y0, cast)

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        del spec
        return (
            "XLA compiles it to one program, while torch runs operator by operator.",
            "it chooses its own first step, forward and at each start backward, and cannot be told one.",
            "it interpolates to every output time, the last one too.",
            "its step limit counts anew from each output time; out of steps it extrapolates, without a word.",
            "its backward solve starts anew at every output time.",
            "the root-mean-square norm of its backward solve covers state, adjoint and the gradients of the first time "
            "and of the parameters, all entries as one vector.",
        )

    @override
    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid:
        """The steps of the forward solve, as the times of its evaluations tell them; the last one reaches past the end.

        Raises:
            StepLimitError: If more than `spec.max_steps` are needed from one output time to the next.
            DivergedError: If the derivative is not finite.
        """
        _SEEN.begin()
        jax.block_until_ready(self.solve(_WatchedField(field), y0, times, _one_more(spec)))
        return _followed(_SEEN.taken(), _marks(y0, times), spec.max_steps)

    @override
    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> GradientStep:
        """The common gradient step, whose counting passes raise what `odeint` keeps to itself.

        They go through a watched field, with one more step allowed.
        """
        watched = replace(problem, field=_WatchedField(problem.field))
        counted = framework.gradient_step(self.solve, watched, _one_more(spec))
        marks, limit = _marks(problem.y0, problem.times), spec.max_steps

        def forward_evaluations() -> int:
            _SEEN.begin()
            found = counted.forward_evaluations()
            _followed(_SEEN.taken(), marks, limit)
            return found

        def evaluations() -> Evaluations:
            _SEEN.begin()
            found = counted.evaluations()
            solves = [(backward, list(group)) for backward, group in groupby(_SEEN.taken(), lambda one: one.backward)]
            # Before each backward solve the field is evaluated once for the gradient of the time at which it starts.
            _followed(solves[0][1][:-1], marks, limit)
            _check_backward([solve for backward, solve in solves if backward], marks, limit)
            return found

        step = framework.gradient_step(self.solve, problem, spec)
        return replace(step, forward_evaluations=forward_evaluations, evaluations=evaluations)


def _mirrored(rest: Field, spec: SolverSpec, sign: int, parameters: Field, y0: State, times: Array) -> State:
    """Solve dy/ds = sign f(sign s, y) at s = sign t, which increases."""

    def rate(y: State, s: Array, parameters: Field) -> State:
        found = eqx.combine(parameters, rest)(sign * s, y)
        return jax.tree.map(lambda leaf: sign * leaf, found)

    ys: State = odeint(rate, y0, sign * times, parameters, rtol=spec.rtol, atol=spec.atol, mxstep=spec.max_steps)
    return ys


@dataclass(frozen=True)
class _Sighting:
    """One evaluation: when, for the backward solve or not, and whether its value was finite."""

    t: float
    backward: bool
    finite: bool


class _Sightings:
    """Evaluations of watched fields in their order, as the callbacks of the compiled program report them."""

    def __init__(self) -> None:
        self._found: list[_Sighting] = []

    def begin(self) -> None:
        jax.effects_barrier()
        self._found.clear()

    def taken(self) -> list[_Sighting]:
        jax.effects_barrier()
        return list(self._found)

    def add_forward(self, t: np.ndarray, finite: np.ndarray) -> None:
        self._found.append(_Sighting(float(t), backward=False, finite=bool(finite)))

    def add_backward(self, t: np.ndarray, finite: np.ndarray) -> None:
        self._found.append(_Sighting(float(t), backward=True, finite=bool(finite)))


# One object for the process: a compiled program keeps the callbacks that it was traced with.
_SEEN = _Sightings()


@jax.custom_vjp
def _seen(t: Array, rate: State) -> State:
    """`rate` itself, reported; `odeint` differentiates the field in its backward solve only."""
    jax.debug.callback(_SEEN.add_forward, t, _is_finite(rate), ordered=True)
    return rate


def _seen_forward(t: Array, rate: State) -> tuple[State, Array]:
    jax.debug.callback(_SEEN.add_backward, t, _is_finite(rate), ordered=True)
    return rate, jnp.zeros_like(t)


def _seen_backward(no_time: Array, cotangent: State) -> tuple[Array, State]:
    return no_time, cotangent


_seen.defvjp(_seen_forward, _seen_backward)


def _is_finite(state: State) -> Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


class _WatchedField(eqx.Module):
    """A field whose evaluations are reported."""

    field: Field

    def __call__(self, t: Array, y: State) -> State:
        return _seen(t, self.field(t, y))


def _one_more(spec: SolverSpec) -> SolverSpec:
    """With one step more than allowed: whoever takes it shows that those allowed did not suffice."""
    return replace(spec, max_steps=spec.max_steps + 1)


def _marks(y0: State, times: Array) -> list[float]:
    """Output times, rounded as `solve` rounds them."""
    return [float(t) for t in np.asarray(times).astype(jax.tree.leaves(y0)[0].dtype)]


def _followed(seen: Sequence[_Sighting], marks: Sequence[float], limit: int) -> StepGrid:
    """The steps of one call of `odeint`, from its evaluations.

    Args:
        seen: Its evaluations: two, then six of each step tried, at the nodes 1/5, 3/10, 4/5, 8/9, 1 and 1.
        marks: Its output times.
        limit: Tries that are allowed from one output time to the next.

    Raises:
        StepLimitError: If they do not suffice.
        DivergedError: If a derivative was not finite and the solve went no further.
    """
    sign = 1 if marks[-1] > marks[0] else -1  # `odeint` is handed times that increase
    tries = [seen[i : i + N_STAGES] for i in range(N_BEFORE, len(seen), N_STAGES)]
    ends = [sign * stages[-1].t for stages in tries]
    # A step begins where the one before it ended, or began if that one was rejected: 1/5 of it before its first stage.
    begins = [end - (end - sign * stages[0].t) * 5 / 4 for end, stages in zip(ends, tries, strict=True)]
    boundaries, used = [sign * marks[0]], 0
    for mark in (sign * mark for mark in marks[1:]):
        before = used
        while boundaries[-1] < mark:
            if used - before == limit:
                raise StepLimitError(
                    f"odeint: the limit of {limit} steps from one output time to the next was reached at "
                    f"t = {sign * boundaries[-1]:.6g}; raise `max_steps` or loosen the tolerances."
                )
            if used == len(tries) or not all(sighting.finite for sighting in tries[used]):
                raise DivergedError(f"odeint: the derivative is not finite after t = {sign * boundaries[-1]:.6g}.")
            end, start = ends[used], boundaries[-1]
            used += 1
            if used == len(tries) or abs(begins[used] - end) < abs(begins[used] - start):
                boundaries.append(end)
    return StepGrid(tuple(sign * t for t in boundaries), used - len(boundaries) + 1)


def _check_backward(solves: Sequence[Sequence[_Sighting]], marks: Sequence[float], limit: int) -> None:
    intervals = zip(marks[:0:-1], marks[-2::-1], strict=True)
    try:
        for solve, interval in zip(solves, intervals, strict=True):
            _followed(solve, interval, limit)
    except CellError as error:
        raise type(error)(f"{IN_BACKWARD_SOLVE}{error}") from error
