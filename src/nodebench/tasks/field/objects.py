"""Objects of the caller's process, such as a field that a notebook has made, where they arrive.

They come with the assignment of a worker, pickled, and are named by a digest (`sending` packs them). No file and no
store ever holds one.
"""

import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from nodebench.errors import PluginError
from nodebench.problem import Array, State

Objects = Mapping[str, bytes]
"""Pickled objects by digest."""

_received: dict[str, bytes] = {}


@dataclass(frozen=True)
class GivenProblem:
    """A field with all that a measurement of it needs, as the caller has it.

    Attributes:
        framework: Name of its framework.
        field: A module of the framework, or a function.
        parameters: What the function is called with after time and state; None for a field that needs nothing else.
        y0: Initial state in NumPy.
        times: Output times.
        loss: Scalar loss of the states at `times`, shape `(n, *y0.shape)`; None for the last's mean square.
        differentiate_times: Whether the gradient with respect to `times` is wanted too.
    """

    framework: str
    field: Any
    parameters: Any
    y0: State
    times: tuple[float, ...]
    loss: Callable[[State], Array] | None
    differentiate_times: bool = False


def receive(objects: Objects) -> None:
    """Keep what has been sent to this process."""
    _received.update(objects)


def unpacked(digest: str) -> GivenProblem:
    """A problem that has been sent to this process, made anew at each call.

    Raises:
        PluginError: If there is none, or its code cannot be imported here.
    """
    if digest not in _received:
        raise PluginError(
            f"the object {digest} lives only while the process that measures it does; call `nodebench.compare` with it."
        )
    folders, content = pickle.loads(_received[digest])
    # After all that is installed, as any folder of a user's.
    sys.path += [folder for folder in folders if folder not in sys.path]
    try:
        given: GivenProblem = pickle.loads(content)
    except Exception as error:
        raise PluginError(f"the field cannot be made in another process: {type(error).__name__}: {error}.") from error
    return given


def held_by(function: object) -> Iterator[tuple[str, object]]:
    """What a function closes over by name, and the globals that it uses; nothing where it is no function in Python."""
    if isinstance(function, partial):
        yield from held_by(function.func)
        yield from ((f"arg{at}", part) for at, part in enumerate(function.args))
        yield from function.keywords.items()
    if not isinstance(function, FunctionType):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a cell that is still empty
            yield name, cell.cell_contents
    yield from (
        (name, function.__globals__[name]) for name in _names(function.__code__) if name in function.__globals__
    )


def _names(code: CodeType) -> set[str]:
    """The global names that code uses, that of functions in it included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names, *(name for each in inner for name in _names(each))}
