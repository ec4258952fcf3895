"""A vector field of your own in JAX, and all gradient methods compared on it.

nodebench run -b all -t ./examples/jax_field.py:MyTask --measure gradient --preset smoke
"""

from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from nodebench import AbstractFieldTask


class Pendulum(eqx.Module):
    """A pendulum and the friction that a network learns: dy/dt of states `(n, 2)`, angle and velocity."""

    friction: eqx.nn.MLP

    def __init__(self, *, key):
        self.friction = eqx.nn.MLP(2, 1, width_size=32, depth=1, activation=jnp.tanh, key=key)

    def __call__(self, t, y):
        """`t` is a scalar; the rate has the shape of `y`."""
        angle, velocity = y[:, :1], y[:, 1:]
        return jnp.concatenate([velocity, -jnp.sin(angle) + jax.vmap(self.friction)(y)], axis=1)


@dataclass(frozen=True)
class MyTask(AbstractFieldTask):
    """A pendulum with a learnt friction, to be at rest after five seconds."""

    fields: ClassVar = {"jax": f"{__file__}:Pendulum"}
    times: ClassVar = (0.0, 5.0)

    def initial_states(self, n, rng):
        """The angle and the velocity that each pendulum begins with."""
        return rng.standard_normal((n, 2))
