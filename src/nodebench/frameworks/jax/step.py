"""One gradient step in JAX: compiled, split in two, counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.tree_util import PyTreeDef, tree_flatten, tree_unflatten

from nodebench.frameworks.base import FieldCalls, Solve, solve_checked
from nodebench.frameworks.jax.parameters import named_parameters
from nodebench.problem import Array, Evaluations, Field, Gradients, Problem, SolverSpec, State


@dataclass(frozen=True)
class _Program:
    """All of a gradient step that is no array; two problems with equal programs share their compiled code.

    Attributes:
        solve: A backend's `solve`.
        spec: The solver spec.
        parameters: Structure of the field's parameters.
        rest: Structure of the field's other leaves and the loss, arrays left out.
        constants: The leaves of `rest`, for example activation functions.
        times: Output times, where they are not differentiated. As constants they spare the compiled program the checks
            which diffrax makes on times that it does not know.
        counted: Whether evaluations of the field are counted.
    """

    solve: Solve
    spec: SolverSpec
    parameters: PyTreeDef
    rest: PyTreeDef
    constants: tuple[object, ...]
    times: tuple[float, ...] | None
    counted: bool = False


_Inputs = tuple[list[Array], State, Array | None]
"""What is differentiated: the field's parameters, the initial state, and the times where asked for."""

_Arrays = tuple[Field, Callable[[State], Array]]
"""Arrays that are not differentiated: what the field has beside its parameters, and those of the loss."""

_Pullback = Callable[[Array], tuple[_Inputs]]
"""From the cotangent of the loss to those of what is differentiated."""


# One object for the process: a compiled program keeps the callbacks that it was traced with.
_COUNTS: Counter[str] = Counter()
"""Evaluations (`plain`, `with residuals`) and `vjps` since it was last cleared, as compiled programs report them."""


def _transposed(cotangents: Sequence[Any], *tangents: Any) -> list[Any]:
    del tangents
    jax.debug.callback(partial(_COUNTS.update, ["vjps"]))
    return [ad.instantiate_zeros(each) if type(each) is ad.Zero else each for each in cotangents]


_PASSED = Primitive("passed")
"""The identity of a tangent, which counts how often it is transposed."""
_PASSED.multiple_results = True
_PASSED.def_impl(lambda *tangents: list(tangents))
_PASSED.def_abstract_eval(lambda *tangents: list(tangents))
ad.deflinear2(_PASSED, _transposed)
batching.primitive_batchers[_PASSED] = lambda tangents, axes: (_PASSED.bind(*tangents), axes)
mlir.register_lowering(_PASSED, lambda _, *tangents: list(tangents))


@jax.custom_jvp
def _tick(y: State) -> State:
    """The identity, which counts how often it is evaluated, evaluated for differentiation, and transposed."""
    jax.debug.callback(partial(_COUNTS.update, ["plain"]))
    return y


# By its forward mode, which implicit solvers take for their Jacobians; reverse mode is that transposed.
@_tick.defjvp
def _tick_forward(primals: tuple[State], tangents: tuple[State]) -> tuple[State, State]:
    jax.debug.callback(partial(_COUNTS.update, ["with residuals"]))
    leaves, structure = tree_flatten(tangents[0])
    return primals[0], tree_unflatten(structure, _PASSED.bind(*leaves))


class _Counted(eqx.Module):
    """A field that counts its evaluations."""

    field: Field

    def __call__(self, t: Array, y: State) -> State:
        return self.field(t, _tick(y))


def _field_and_loss(program: _Program, leaves: list[Array], arrays: _Arrays) -> tuple[Field, Callable[[State], Array]]:
    others, loss = eqx.combine(arrays, tree_unflatten(program.rest, program.constants))
    return eqx.combine(tree_unflatten(program.parameters, leaves), others), loss


def _states_and_loss(program: _Program, inputs: _Inputs, arrays: _Arrays) -> tuple[State, Callable[[State], Array]]:
    leaves, y0, times = inputs
    field, loss = _field_and_loss(program, leaves, arrays)
    if program.counted:
        field = _Counted(field)
    at = times if program.times is None else np.asarray(program.times)
    return solve_checked(program.solve, field, y0, at, program.spec), loss


def _objective(program: _Program, inputs: _Inputs, arrays: _Arrays) -> Array:
    ys, loss = _states_and_loss(program, inputs, arrays)
    return loss(ys)


# The compiled functions live at module level, so that a problem with new weights but the same program and shapes finds
# the code of the last one.
@partial(jax.jit, static_argnums=0)
def _value_and_gradient(program: _Program, inputs: _Inputs, arrays: _Arrays) -> tuple[Array, _Inputs]:
    done: tuple[Array, _Inputs] = jax.value_and_grad(_objective, argnums=1)(program, inputs, arrays)
    return done


@partial(jax.jit, static_argnums=0)
def _solution(program: _Program, inputs: _Inputs, arrays: _Arrays) -> State:
    return _states_and_loss(program, inputs, arrays)[0]


@partial(jax.jit, static_argnums=0)
def _value_and_pullback(program: _Program, inputs: _Inputs, arrays: _Arrays) -> tuple[Array, _Pullback]:
    return jax.vjp(lambda at: _objective(program, at, arrays), inputs)


@jax.jit
def _pull_back(pullback: _Pullback, cotangent: Array) -> _Inputs:
    gradient: tuple[_Inputs] = pullback(cotangent)
    return gradient[0]


# The calls of a floor, n times in one program, so that they cost what they cost within a solver: arithmetic without
# dispatch. Each depends on the one before by a step of length `h`. It is zero, so that all calls are the same; but XLA
# does not know it, and can neither move one out of the loop nor leave one out. What depends on parameters alone it may
# move, as it may out of a solver's loop.
def _moved(y: State, rate: State, h: float) -> State:
    moved: State = jax.tree.map(lambda y, rate: y + h * rate, y, rate)
    return moved


@partial(jax.jit, static_argnums=0)
def _evaluations(program: _Program, inputs: _Inputs, arrays: _Arrays, t: Array, h: float, n: int) -> State:
    """The state after n Euler steps of length `h` from the initial state at time `t`."""
    leaves, y0, _ = inputs
    field, _ = _field_and_loss(program, leaves, arrays)

    def step(_: Array, before: tuple[Array, State]) -> tuple[Array, State]:
        t, y = before
        return t + h, _moved(y, field(t, y), h)

    return jax.lax.fori_loop(0, n, step, (t, y0))[1]


@partial(jax.jit, static_argnums=0)
def _evaluations_with_vjp(
    program: _Program, inputs: _Inputs, arrays: _Arrays, t: Array, h: float, n: int
) -> tuple[State, State, list[Array]]:
    """The same steps, the covector that is pulled back in each and moved likewise, and the sum of the parameters' VJPs.

    The covector begins with ones.
    """
    leaves, y0, _ = inputs

    def step(_: Array, before: tuple[Array, State, State, list[Array]]) -> tuple[Array, State, State, list[Array]]:
        t, y, covector, total = before
        rate, pull_back = jax.vjp(lambda leaves, y: _field_and_loss(program, leaves, arrays)[0](t, y), leaves, y)
        by_params, by_state = pull_back(covector)
        total = jax.tree.map(jnp.add, total, by_params)
        return t + h, _moved(y, rate, h), _moved(covector, by_state, h), total

    zeros = [jnp.zeros_like(leaf) for leaf in leaves]
    _, *found = jax.lax.fori_loop(0, n, step, (t, y0, jax.tree.map(jnp.ones_like, y0), zeros))
    return tuple(found)


@partial(jax.jit, static_argnums=0)
def _losses(
    program: _Program, leaves: list[Array], arrays: _Arrays, ys: State, h: float, n: int
) -> tuple[State, Array]:
    """The states after n steps of length `h` along the loss's gradient by them, and the sum of its values."""
    loss = _field_and_loss(program, leaves, arrays)[1]

    def step(_: Array, before: tuple[State, Array]) -> tuple[State, Array]:
        ys, total = before
        value, slope = jax.value_and_grad(loss)(ys)
        return _moved(ys, slope, h), total + value

    done: tuple[State, Array] = jax.lax.fori_loop(0, n, step, (ys, jnp.zeros_like(jax.eval_shape(loss, ys))))
    return done


class JaxGradientStep:
    """One gradient step as one compiled program; compiled by the first call of each method.

    A non-finite loss is returned as it is. Arguments as in `AbstractFramework.gradient_step`.
    """

    def __init__(self, solve: Solve, problem: Problem, spec: SolverSpec) -> None:
        parameters, others = eqx.partition(problem.field, eqx.is_inexact_array)
        leaves, structure = tree_flatten(parameters)
        self._arrays, static = eqx.partition((others, problem.loss), eqx.is_array)
        constants, rest = tree_flatten(static)
        times = None if problem.differentiate_times else tuple(np.asarray(problem.times, np.float64).tolist())
        self._program = _Program(solve, spec, structure, rest, tuple(constants), times)
        self._inputs: _Inputs = (leaves, problem.y0, jnp.asarray(problem.times) if times is None else None)
        self._names = list(named_parameters(problem.field))
        self._start = problem.times[0]

    def step(self) -> Gradients:
        """Loss and all gradients, in one call of one program."""
        done = _value_and_gradient(self._program, self._inputs, self._arrays)
        return self._gradients(*jax.block_until_ready(done))

    def forward(self) -> tuple[Array, _Pullback]:
        """The loss and its pullback, whose arrays are what is kept for `backward`."""
        done: tuple[Array, _Pullback] = _value_and_pullback(self._program, self._inputs, self._arrays)
        jax.block_until_ready(done)
        return done

    def backward(self, state: tuple[Array, _Pullback]) -> Gradients:
        """Gradients from what `forward` returned."""
        loss, pullback = state
        return self._gradients(loss, jax.block_until_ready(_pull_back(pullback, jnp.ones_like(loss))))

    def solution(self) -> State:
        """The states at the output times, in a program of its own that differentiates nothing."""
        return jax.block_until_ready(_solution(self._program, self._inputs, self._arrays))

    def forward_evaluations(self) -> int:
        """Count the evaluations of `solution` in a program whose field calls back to the host."""
        jax.effects_barrier()
        _COUNTS.clear()
        jax.block_until_ready(_solution(replace(self._program, counted=True), self._inputs, self._arrays))
        jax.effects_barrier()
        return _COUNTS["plain"] + _COUNTS["with residuals"]

    def evaluations(self) -> Evaluations:
        """Count evaluations in a program of its own, whose field calls back to the host."""
        jax.effects_barrier()
        _COUNTS.clear()
        program = replace(self._program, counted=True)
        loss, pullback = jax.block_until_ready(_value_and_pullback(program, self._inputs, self._arrays))
        jax.effects_barrier()
        forward = _COUNTS["plain"] + _COUNTS["with residuals"]
        _COUNTS.clear()
        jax.block_until_ready(_pull_back(pullback, jnp.ones_like(loss)))
        jax.effects_barrier()
        return Evaluations(forward, _COUNTS["plain"] + _COUNTS["with residuals"], _COUNTS["vjps"])

    def field_calls(self) -> FieldCalls | None:
        """The field at the initial state, and the loss of the solution; each a program that makes all calls itself.

        What a VJP needs of its evaluation is used at once, where a solve may keep it for longer.
        """
        t = jnp.asarray(self._start, jax.tree.leaves(self._inputs[1])[0].dtype)
        at = self._program, self._inputs, self._arrays, t
        solved = self._program, self._inputs[0], self._arrays, self.solution()
        return FieldCalls(
            evaluation=lambda n: jax.block_until_ready(_evaluations(*at, 0.0, n)),
            evaluation_with_vjp=lambda n: jax.block_until_ready(_evaluations_with_vjp(*at, 0.0, n)),
            loss=lambda n: jax.block_until_ready(_losses(*solved, 0.0, n)),
        )

    def saved_bytes(self) -> int | None:
        """Temporary and output buffers of the compiled step.

        XLA sets them aside before the first step, for as many steps as the limit allows, not as many as are taken.
        """
        compiled = _value_and_gradient.lower(self._program, self._inputs, self._arrays).compile()
        analysis = compiled.memory_analysis()
        if analysis is None:
            return None
        return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)

    def _gradients(self, loss: Array, gradient: _Inputs) -> Gradients:
        leaves, y0, times = gradient
        return Gradients(loss, y0, dict(zip(self._names, leaves, strict=True)), times)
