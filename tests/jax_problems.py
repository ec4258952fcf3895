"""A linear problem in JAX, whose closed form is known, that tests of several backends share."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.problem import Problem
from nodebench.tasks.linear.jax_models import LinearField, path_loss

MATRIX = np.array([[-0.3, 1.2, 0.1], [-1.0, -0.2, 0.4], [0.2, -0.5, 0.1]])
STATES = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.1]])


def linear(times, *, matrix=MATRIX, y0=STATES, timed=False):
    """The sum of squares over all output times after the first."""
    field = eqx.tree_at(lambda at: at.A, LinearField(len(matrix)), jnp.asarray(matrix))
    return Problem(field, jnp.asarray(y0), np.asarray(times), Partial(path_loss), timed)
