"""Parameters of an Equinox module by dotted name, the names that the same model has in torch.

A parameter is a leaf that `equinox.is_inexact_array` accepts. Its name is its path: attributes and indices of tuples,
joined by dots. A tuple of layers therefore has the names of a `torch.nn.Sequential`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

from nodebench.errors import PluginError, UnsupportedError
from nodebench.frameworks.base import Weights


def named_parameters(tree: Any) -> dict[str, jax.Array]:
    """Every parameter of a module by dotted name, in the order of its leaves."""
    paths, _ = tree_flatten_with_path(eqx.filter(tree, eqx.is_inexact_array))
    return {keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def with_weights(model: Any, weights: Weights, dtype: Any) -> Any:
    """The model with every parameter replaced.

    Raises:
        PluginError: If a name is missing or unknown, or a shape is another.
    """
    parameters, others = eqx.partition(model, eqx.is_inexact_array)
    paths, structure = tree_flatten_with_path(parameters)
    shapes = {keystr(path, simple=True, separator="."): leaf.shape for path, leaf in paths}
    if set(shapes) != set(weights):
        missing, unknown = sorted(set(shapes) - set(weights)), sorted(set(weights) - set(shapes))
        raise PluginError(f"weights of `{type(model).__name__}`: missing {missing}, unknown {unknown}.")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise PluginError(f"weight `{name}` must have the shape {shape}; got {weights[name].shape}.")
    return eqx.combine(tree_unflatten(structure, [jnp.asarray(weights[name], dtype) for name in shapes]), others)


def refuse_layers_with_state(field: Any) -> None:
    """Refuse a field whose value depends on more than time, state and parameters.

    Raises:
        UnsupportedError: If the field holds batch normalisation or active dropout.
    """
    for layer in jax.tree.leaves(field, is_leaf=_has_state):
        if _has_state(layer):
            raise UnsupportedError(
                f"the field holds `{type(layer).__name__}`, so that its value changes between evaluations and "
                "the backward pass would see another field than the forward pass; use GroupNorm or LayerNorm."
            )


def _has_state(layer: Any) -> bool:
    if isinstance(layer, eqx.nn.Dropout):
        return not layer.inference
    return isinstance(layer, eqx.nn.BatchNorm | eqx.nn.SpectralNorm)
