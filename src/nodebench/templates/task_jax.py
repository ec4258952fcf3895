"""The model of `mine.py` in JAX, written the way Equinox's users write one."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench import Problem, check_same_shape


class Layer(eqx.Module):
    """`y A^T + b` for each row of `y`.

    Args:
        n_in: Inputs.
        n_out: Outputs.
    """

    weight: jax.Array
    bias: jax.Array

    def __init__(self, n_in: int, n_out: int) -> None:
        self.weight, self.bias = jnp.zeros((n_out, n_in)), jnp.zeros(n_out)

    def __call__(self, y: jax.Array) -> jax.Array:
        """Apply the layer."""
        return y @ self.weight.T + self.bias


class MineField(eqx.Module):
    """dy/dt of states `(n, 2)`: a network with one hidden layer.

    Args:
        hidden: Units of the hidden layer.
    """

    inner: Layer
    outer: Layer

    def __init__(self, hidden: int) -> None:
        self.inner, self.outer = Layer(2, hidden), Layer(hidden, 2)

    def __call__(self, t: Any, y: Any) -> jax.Array:
        """The derivative."""
        del t
        return self.outer(jnp.tanh(self.inner(y)))


class MineODE(eqx.Module):
    """Where the field carries its initial states in one unit of time.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        hidden: Units of the hidden layer.
    """

    field: MineField
    # Whatever is not to be trained is a static field.
    solve: Callable[..., jax.Array] = eqx.field(static=True)

    def __init__(self, solve: Callable[..., jax.Array], hidden: int) -> None:
        self.solve, self.field = solve, MineField(hidden)

    def loss(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The scalar that is trained on."""
        problem = self.problem(batch)
        loss: jax.Array = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The metric of each example, shape `(n,)`."""
        problem = self.problem(batch)
        last = self.solve(problem.field, problem.y0, problem.times)[-1]
        check_same_shape(last, batch["end"])
        return jnp.sqrt(jnp.mean((last - batch["end"]) ** 2, axis=1))

    def problem(self, batch: Mapping[str, jax.Array]) -> Problem:
        """What the gradient measurement differentiates; a `Partial` carries the loss's arrays as data, not as code."""
        return Problem(self.field, batch["start"], np.array([0.0, 1.0]), Partial(end_loss, batch["end"]))


def end_loss(end: jax.Array, ys: jax.Array) -> jax.Array:
    """Mean squared error of the last of the states at the output times."""
    check_same_shape(ys[-1], end)  # else the difference of shapes `(n, 1)` and `(n,)` would be one of shape `(n, n)`
    return jnp.mean((ys[-1] - end) ** 2)
