"""Systems of equations in JAX."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.problem import Problem
from nodebench.tasks.systems.task import AbstractSystem

JaxBatch = Mapping[str, jax.Array]
"""`y0`, shape `(n, d)`, and `observed` and `scale`, shape `(n, n_times, d)`."""

JaxSolve = Callable[[eqx.Module, jax.Array, np.ndarray], jax.Array]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""


class Equations(eqx.Module):
    """The equations of a system, with parameters to be fitted.

    Args:
        system: The system.
    """

    theta: jax.Array
    system: AbstractSystem = eqx.field(static=True)

    def __init__(self, system: AbstractSystem) -> None:
        self.theta = jnp.zeros(len(system.truth))
        self.system = system

    def __call__(self, t: jax.Array, y: jax.Array) -> jax.Array:
        """The derivative of states `(n, d)`."""
        theta = jnp.exp(self.theta) if self.system.positive else self.theta
        derivative: jax.Array = self.system.derivative(jnp, t, y, theta)
        return derivative


class Layer(eqx.Module):
    """An affine layer, its weights shaped as torch's."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, n: int, m: int) -> None:
        self.weight, self.bias = jnp.zeros((m, n)), jnp.zeros(m)

    def __call__(self, y: jax.Array) -> jax.Array:
        """Map `(n, ...)` inputs."""
        return y @ self.weight.T + self.bias


class Network(eqx.Module):
    """A multilayer perceptron with tanh between its layers, as a field that does not depend on time.

    Args:
        sizes: Widths of its layers, from the state on.
    """

    layers: tuple[Layer, ...]

    def __init__(self, sizes: Sequence[int]) -> None:
        self.layers = tuple(Layer(n, m) for n, m in pairwise(sizes))

    def __call__(self, t: jax.Array, y: jax.Array) -> jax.Array:
        """Map states `(n, sizes[0])` to `(n, sizes[-1])`."""
        del t
        for layer in self.layers[:-1]:
            y = jnp.tanh(layer(y))
        return self.layers[-1](y)


class SmallMlp(Network):
    """The network of `small-mlp`, 4-32-4."""

    def __init__(self, *, key: jax.Array) -> None:
        del key
        super().__init__((4, 32, 4))


class Line(Network):
    """The network of `minus-x` in one dimension, 1-16-16-1."""

    def __init__(self, *, key: jax.Array) -> None:
        del key
        super().__init__((1, 16, 16, 1))


class Plane(Network):
    """The network of `annuli`, and of `minus-x` with a dimension more, 2-16-16-2."""

    def __init__(self, *, key: jax.Array) -> None:
        del key
        super().__init__((2, 16, 16, 2))


class Space(Network):
    """The network of `annuli` with a dimension more, 3-16-16-3."""

    def __init__(self, *, key: jax.Array) -> None:
        del key
        super().__init__((3, 16, 16, 3))


class Hamiltonian(eqx.Module):
    """(dq/dt, dp/dt) = (∂H/∂p, -∂H/∂q) of a learnt energy H, a network 2-32-1."""

    energy: Network

    def __init__(self, *, key: jax.Array) -> None:
        del key
        self.energy = Network((2, 32, 1))

    def __call__(self, t: jax.Array, y: jax.Array) -> jax.Array:
        """The derivative of states `(n, 2)`."""
        by_state = jax.grad(lambda state: jnp.sum(self.energy(t, state)))(y)
        return jnp.concatenate([by_state[:, 1:], -by_state[:, :1]], axis=1)


class SystemODE(eqx.Module):
    """Trajectories of a system from their starts.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        system: The system.
        neural: Whether a network is in the place of its equations.
    """

    field: Any
    solve: JaxSolve = eqx.field(static=True)
    times: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, solve: JaxSolve, system: AbstractSystem, *, neural: bool) -> None:
        self.field = Network(system.sizes) if neural else Equations(system)
        self.solve, self.times = solve, system.times

    def loss(self, batch: JaxBatch) -> jax.Array:
        """Mean square of the misfit, relative to the largest value of each component."""
        return jnp.mean(self._misfit(batch) ** 2)

    def metric(self, batch: JaxBatch) -> jax.Array:
        """Root mean square of the misfit of each trajectory, shape `(n,)`."""
        return jnp.sqrt(jnp.mean(self._misfit(batch) ** 2, axis=(1, 2)))

    def problem(self, batch: JaxBatch) -> Problem:
        """The gradient of the training loss."""
        loss = Partial(_loss, batch["observed"], batch["scale"])
        return Problem(self.field, batch["y0"], np.asarray(self.times), loss)

    def _misfit(self, batch: JaxBatch) -> jax.Array:
        ys = self.solve(self.field, batch["y0"], np.asarray(self.times)).swapaxes(0, 1)
        return (ys - batch["observed"]) / batch["scale"]


def _loss(observed: jax.Array, scale: jax.Array, ys: jax.Array) -> jax.Array:
    return jnp.mean(((ys.swapaxes(0, 1) - observed) / scale) ** 2)
