"""A backend by its name: what a training loop takes once and uses often."""

from functools import cache

from nodebench import registry
from nodebench.backends.base import AbstractBackend


@cache
def backend(text: str) -> AbstractBackend:
    """The gradient method of a name, with its options, as every command takes it.

    `nodebench.backend("diffrax[checkpoints=8]").solve(field, y0, times, spec)` solves in JAX, under `jax.jit` and
    `jax.grad`, with a `nodebench.SolverSpec`. What is solved in torch is solved by `nodebench.odeint`.

    It is made once for a process: a file that has changed since is not read again.

    Args:
        text: Name with options, `module:Class` or `file.py:Class`.

    Raises:
        UnknownNameError: If the name or an option does not exist.
        NotInstalledError: If a library that it imports is missing.
        PluginError: If the plugin cannot be imported, or breaks the contract of a backend.
        UserError: If an option has a value of the wrong type.
    """
    made: AbstractBackend = registry.load("backend", text, AbstractBackend)
    return made
