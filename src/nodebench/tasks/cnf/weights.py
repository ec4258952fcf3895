"""Initial weights of the flows, drawn in NumPy so that every framework starts from the same."""

from math import sqrt

import numpy as np

HYPER_WIDTH = 32
"""Units in each of the two hidden layers of the hypernetwork."""


def cnf(hidden: int, seed: int) -> dict[str, np.ndarray]:
    """Weights of the hypernetwork of a sum of gated planar functions, float64.

    Hidden layers are drawn as `torch.nn.Linear` draws them. The output layer starts near functions that do not depend
    on time: directions w standard normal, offsets b uniform over where the data lie, gates one half, and u of order
    1 / M, so that the sum starts equally gentle whatever the number M of functions.

    Args:
        hidden: Number M of gated planar functions.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for name, fan_in in (("input", 1), ("middle", HYPER_WIDTH)):
        bound = 1 / sqrt(fan_in)
        weights[f"field.{name}.weight"] = rng.uniform(-bound, bound, (HYPER_WIDTH, fan_in))
        weights[f"field.{name}.bias"] = rng.uniform(-bound, bound, HYPER_WIDTH)
    scale = np.repeat([1.0, 1.0 / hidden, 1.0, 1.0], [2 * hidden, 2 * hidden, hidden, hidden])
    bound = 1 / sqrt(HYPER_WIDTH)
    weights["field.output.weight"] = scale[:, None] * rng.uniform(-bound, bound, (6 * hidden, HYPER_WIDTH))
    weights["field.output.bias"] = np.concatenate(
        [
            rng.normal(0, 1, 2 * hidden),
            rng.normal(0, 1 / hidden, 2 * hidden),
            np.zeros(hidden),
            rng.uniform(-2, 2, hidden),
        ]
    )
    return weights


def planar(layers: int, seed: int) -> dict[str, np.ndarray]:
    """Weights of a stack of planar layers that starts near the identity, float64.

    Args:
        layers: Number K of layers.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(0, 0.1, (layers, 2)),
        "w": rng.normal(0, 1, (layers, 2)),
        "b": rng.uniform(-2, 2, layers),
    }
