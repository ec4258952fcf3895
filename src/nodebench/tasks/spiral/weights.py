"""Initial weights of the spiral models, drawn in NumPy so that every framework starts from the same.

The distributions are those of `torch.nn`: uniform within 1 / sqrt(fan-in) for linear layers and within 1 / sqrt(hidden
units) for recurrent ones. Names are those of `state_dict` in torch.
"""

from math import sqrt

import numpy as np

from nodebench.tasks.spiral.data import LATENT

HIDDEN = 25
"""Units of the recurrent networks."""

UNITS = 20
"""Units in the hidden layer of the dynamics and of the decoder."""


def latent_ode(seed: int) -> dict[str, np.ndarray]:
    """Weights of recognition network, dynamics and decoder, float64."""
    rng = np.random.default_rng(seed)
    return {
        **_recurrent("recognition.rnn", rng),
        **_linear("recognition.output", (2 * LATENT, HIDDEN), rng),
        **_linear("field.hidden", (UNITS, LATENT), rng),
        **_linear("field.output", (LATENT, UNITS), rng),
        **_linear("decoder.hidden", (UNITS, LATENT), rng),
        **_linear("decoder.output", (2, UNITS), rng),
    }


def rnn(seed: int) -> dict[str, np.ndarray]:
    """Weights of the recurrent network that predicts the next observation, float64."""
    rng = np.random.default_rng(seed)
    return {**_recurrent("rnn", rng), **_linear("output", (2, HIDDEN), rng)}


def _recurrent(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A recurrent layer that takes a point and a time."""
    bound = 1 / sqrt(HIDDEN)
    shapes = {
        "weight_ih_l0": (HIDDEN, 3),
        "weight_hh_l0": (HIDDEN, HIDDEN),
        "bias_ih_l0": (HIDDEN,),
        "bias_hh_l0": (HIDDEN,),
    }
    return {f"{name}.{key}": rng.uniform(-bound, bound, shape) for key, shape in shapes.items()}


def _linear(name: str, shape: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    bound = 1 / sqrt(shape[1])
    return {f"{name}.weight": rng.uniform(-bound, bound, shape), f"{name}.bias": rng.uniform(-bound, bound, shape[0])}
