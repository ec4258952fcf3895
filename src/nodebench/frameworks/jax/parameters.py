"""Parameters of an Equinox module by dotted name, the names that the same model has in torch.

A parameter is a leaf that `equinox.is_inexact_array` accepts. Its name is its path: attributes and indices of tuples,
joined by dots. A tuple of layers therefore has the names of a `torch.nn.Sequential`.
"""

from collections.abc import Mapping
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

from nodebench.errors import PluginError
from nodebench.frameworks.base import Weights
from nodebench.problem import Array

_Module = TypeVar("_Module")


def named_parameters(tree: object) -> dict[str, jax.Array]:
    """Every parameter of a module by dotted name, in the order of its leaves."""
    paths, _ = tree_flatten_with_path(eqx.filter(tree, eqx.is_inexact_array))
    return {keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def whole_state(tree: object) -> dict[str, np.ndarray]:
    """Every array of a module by dotted name, parameters in float64; keys of random numbers are no numbers."""
    paths, _ = tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    found = {keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
    return {name: _widest(leaf) for name, leaf in found.items() if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)}


def _widest(leaf: jax.Array) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else array


def refuse_complex(tree: object) -> None:
    """Refuse complex parameters: optimisers, norms and references here are those of real ones.

    Raises:
        PluginError: If there is one, with its name.
    """
    for name, leaf in named_parameters(tree).items():
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise PluginError(
                f"parameter `{name}` of `{type(tree).__name__}` is complex ({leaf.dtype}), and only real ones are "
                "measured; hold its real and imaginary parts as two, and join them with `jax.lax.complex` where it is "
                "used."
            )


def with_weights(model: _Module, weights: Weights, dtype: np.dtype) -> _Module:
    """The model with every parameter replaced.

    Raises:
        PluginError: If a name is missing or unknown, a shape is another, or a parameter is complex.
    """
    refuse_complex(model)
    trained = named_parameters(model)
    if set(trained) != set(weights):
        missing, unknown = sorted(set(trained) - set(weights)), sorted(set(weights) - set(trained))
        raise PluginError(f"weights of `{type(model).__name__}`: missing {missing}, unknown {unknown}.")
    return with_arrays(model, {name: jnp.asarray(value, dtype) for name, value in weights.items()})


def with_arrays(model: _Module, values: Mapping[str, Array]) -> _Module:
    """The model with those of its arrays replaced that it has by these names, each in its own dtype.

    Raises:
        PluginError: If a shape is another.
    """
    arrays, others = eqx.partition(model, eqx.is_array)
    paths, structure = tree_flatten_with_path(arrays)
    found = []
    for path, leaf in paths:
        name = keystr(path, simple=True, separator=".")
        if name in values and leaf.shape != np.shape(values[name]):
            raise PluginError(f"weight `{name}` must have the shape {leaf.shape}; got {np.shape(values[name])}.")
        found.append(values.get(name, leaf))
    replaced: _Module = eqx.combine(tree_unflatten(structure, found), others)
    return replaced
