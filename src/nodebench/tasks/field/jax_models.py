"""A field of one's own in JAX."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.frameworks.base import Weights
from nodebench.frameworks.jax_parameters import named_parameters
from nodebench.problem import Problem
from nodebench.registry import load_class


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
        self.field = load_class(fields["jax"])(key=jax.random.key(0))  # with weights that are replaced

    def loss(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Mean squared distance of the last states from their targets."""
        return jnp.mean((self._ends(batch) - batch["end"]) ** 2)

    def metric(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Root-mean-square distance of each example, shape `(n,)`."""
        squares = (self._ends(batch) - batch["end"]) ** 2
        return jnp.sqrt(jnp.mean(squares.reshape(len(squares), -1), axis=1))

    def problem(self, batch: Mapping[str, jax.Array]) -> Problem:
        """What the gradient measurement differentiates; its loss carries its arrays."""
        return Problem(self.field, batch["y0"], np.asarray(self.times), Partial(end_loss, batch["end"]))

    def _ends(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        problem = self.problem(batch)
        last: jax.Array = self.solve(problem.field, problem.y0, problem.times)[-1]
        return last


def end_loss(end: jax.Array, ys: Any) -> jax.Array:
    """Mean squared distance of the last of the states at the output times."""
    return jnp.mean((ys[-1] - end) ** 2)


def initial_weights(target: str, seed: int) -> Weights:
    """Weights of a field made from a key of the seed, by their names in the model."""
    # Drawn in 32 bits in any process: JAX draws other numbers in 64, and a reference must have the weights of its cell.
    with jax.enable_x64(False):  # noqa: FBT003  the signature is JAX's
        field = load_class(target)(key=jax.random.key(seed))
    return {f"field.{name}": np.asarray(value, np.float64) for name, value in named_parameters(field).items()}
