"""A linear problem in JAX, whose closed form is known, that tests of several backends share."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.conformance.subjects import MATRIX, STATES
from nodebench.problem import Problem
from nodebench.tasks.linear.jax import LinearField, path_loss


def linear(times, *, matrix=MATRIX, y0=STATES, timed=False):
    """The sum of squares over all output times after the first."""
    field = eqx.tree_at(lambda at: at.A, LinearField(len(matrix)), jnp.asarray(matrix))
    return Problem(field, jnp.asarray(y0), np.asarray(times), Partial(path_loss), timed)
