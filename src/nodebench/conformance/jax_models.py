"""Fields of known solution in JAX."""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.problem import Array, Field, Problem, SolverSpec, State
from nodebench.tasks.linear.jax import JaxBatch


class KnownField(eqx.Module):
    """dy/dt = A y for each row of a state `(n, d)`, or cos(t) A y.

    Args:
        dimension: d.
        split: Whether the state is a tuple: its first column, and the others.
        waving: Whether the rate is multiplied by cos(t).
    """

    A: jax.Array
    split: bool = eqx.field(static=True)
    waving: bool = eqx.field(static=True)

    def __init__(self, dimension: int, *, split: bool, waving: bool) -> None:
        self.A = jnp.zeros((dimension, dimension))
        self.split, self.waving = split, waving

    def __call__(self, t: Array, y: Any) -> State:
        """The derivative."""
        rate = (jnp.concatenate(y, 1) if self.split else y) @ self.A.T
        if self.waving:
            rate = rate * jnp.cos(jnp.asarray(t, rate.dtype))
        return (rate[:, :1], rate[:, 1:]) if self.split else rate


class KnownODE(eqx.Module):
    """The gradient problem of a `KnownField`, whose loss is the sum of squares of all states after the first.

    Args:
        solve: What its backend solves with.
        dimension: Components of the state.
        times: Output times.
        timed: Whether the times are differentiated.
        split: See the field.
        waving: See the field.
        patience: Not used: the field is evaluated when it is compiled, and not as often as the program calls it.
    """

    field: KnownField
    solve: Callable[..., State] = eqx.field(static=True)
    times: tuple[float, ...] = eqx.field(static=True)
    timed: bool = eqx.field(static=True)

    def __init__(  # noqa: PLR0913  the options of both classes
        self,
        solve: Callable[..., State],
        dimension: int,
        times: tuple[float, ...],
        *,
        timed: bool,
        split: bool,
        waving: bool,
        patience: int,
    ) -> None:
        del patience
        self.solve, self.times, self.timed = solve, times, timed
        self.field = KnownField(dimension, split=split, waving=waving)

    def problem(self, batch: JaxBatch) -> Problem:
        """The problem of initial states `y0`, shape `(n, d)`."""
        y0 = batch["y0"]
        state: State = (y0[:, :1], y0[:, 1:]) if self.field.split else y0
        return Problem(self.field, state, np.asarray(self.times), Partial(path_loss), self.timed)


def path_loss(ys: State) -> jax.Array:
    """Squares of all states after the first, summed."""
    total: jax.Array = reduce(add, (jnp.sum(part[1:] ** 2) for part in jax.tree.leaves(ys)))
    return total


def euler(field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
    """One step of Euler's method from each output time to the next: the same steps in every framework."""
    del spec
    times = jnp.asarray(times)

    def step(y: State, interval: tuple[Array, Array]) -> tuple[State, State]:
        begin, end = interval
        after = jax.tree.map(lambda part, rate: part + (end - begin) * rate, y, field(begin, y))
        return after, after

    _, ys = jax.lax.scan(step, y0, (times[:-1], times[1:]))
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), y0, ys)
