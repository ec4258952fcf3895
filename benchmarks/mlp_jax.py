"""The model of `mlp_task.py` in JAX: the same names and shapes of parameters as in torch."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench import Problem


class Linear(eqx.Module):
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


class MlpField(eqx.Module):
    """dy/dt of states `(n, 4)`, the same at all times.

    Args:
        layers: Inputs and outputs of `hidden1`, `hidden2` and `output`.
    """

    hidden1: Linear
    hidden2: Linear
    output: Linear

    def __init__(self, layers: Mapping[str, tuple[int, int]]) -> None:
        self.hidden1, self.hidden2, self.output = (Linear(*size) for size in layers.values())

    def __call__(self, t: Any, y: Any) -> jax.Array:
        """The derivative."""
        del t
        return self.output(jnp.tanh(self.hidden2(jnp.tanh(self.hidden1(y)))))


class MlpODE(eqx.Module):
    """Where initial states are carried.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        layers: Sizes of the field's layers.
        times: Beginning and end.
    """

    field: MlpField
    solve: Callable[..., jax.Array] = eqx.field(static=True)
    times: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self, solve: Callable[..., jax.Array], layers: Mapping[str, tuple[int, int]], times: tuple[float, ...]
    ) -> None:
        self.solve, self.times, self.field = solve, times, MlpField(layers)

    def loss(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Mean squared error of the last state."""
        problem = self.problem(batch)
        return problem.loss(self.solve(problem.field, problem.y0, problem.times))

    def metric(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Root-mean-square error of each example, shape `(n,)`."""
        problem = self.problem(batch)
        last = self.solve(problem.field, problem.y0, problem.times)[-1]
        return jnp.sqrt(jnp.mean((last - batch["end"]) ** 2, axis=1))

    def problem(self, batch: Mapping[str, jax.Array]) -> Problem:
        """What the gradient measurement differentiates; its loss carries its arrays."""
        return Problem(self.field, batch["y0"], np.asarray(self.times), Partial(end_loss, batch["end"]))


def end_loss(end: jax.Array, ys: jax.Array) -> jax.Array:
    """Mean squared error of the last of the states at the output times."""
    return jnp.mean((ys[-1] - end) ** 2)
