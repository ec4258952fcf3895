"""A field of one's own in JAX."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.frameworks.base import Weights, check_alike, seeded_globally
from nodebench.frameworks.jax.parameters import named_parameters, refuse_complex, whole_state
from nodebench.problem import Problem, State
from nodebench.registry import load_class
from nodebench.tasks.field.task import parts_of


class FieldODE(eqx.Module):
    """Where a field carries its initial states.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        fields: Where the field's class lives, by framework.
        times: Output times.
    """

    field: Any
    solve: Callable[..., jax.Array] = eqx.field(static=True)
    times: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, solve: Callable[..., jax.Array], fields: Mapping[str, str], times: tuple[float, ...]) -> None:
        self.solve, self.times = solve, times
        # With weights that are replaced, and whatever else it draws from the seed.
        self.field = _made(fields["jax"], random.getrandbits(31))

    def loss(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Mean squared distance of the last states from their targets."""
        problem = self.problem(batch)
        loss: jax.Array = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Root-mean-square distance of each example, shape `(n,)`."""
        problem = self.problem(batch)
        ys = self.solve(problem.field, problem.y0, problem.times)
        return jnp.sqrt(jnp.mean(distances(parts_of("end", batch), ys), axis=1))

    def problem(self, batch: Mapping[str, jax.Array]) -> Problem:
        """What the gradient measurement differentiates; its loss carries its arrays."""
        loss = Partial(end_loss, parts_of("end", batch))
        return Problem(self.field, parts_of("y0", batch), np.asarray(self.times), loss)


def end_loss(end: State, ys: State) -> jax.Array:
    """Mean squared distance of the last of the states at the output times, over all numbers of the state."""
    return jnp.mean(distances(end, ys))


def distances(end: State, ys: State) -> jax.Array:
    """Squared distances of the last of the states from their targets, shape `(n, numbers of a state)`.

    Raises:
        PluginError: If the shapes of states and targets differ.
    """
    squares = []
    for states, target in zip(jax.tree.leaves(ys), jax.tree.leaves(end), strict=True):
        last = states[-1]
        check_alike(last, target)
        squares.append(((last - target) ** 2).reshape(len(last), -1))
    return jnp.concatenate(squares, axis=1)


def initial_weights(target: str, seed: int) -> Weights:
    """Weights of a field made from a key of the seed, by their names in the model."""
    with seeded_globally(seed):
        field = _made(target, seed)
    refuse_complex(field)
    state = whole_state(field)
    return {f"field.{name}": state[name] for name in named_parameters(field)}


def _made(target: str, seed: int) -> Any:
    # Drawn in 32 bits in any process: JAX draws other numbers in 64, and a reference must have those of its cell.
    cls = load_class(target)
    with jax.enable_x64(False):  # noqa: FBT003  the signature is JAX's
        return cls(key=jax.random.key(seed))
