"""How objects of the caller's process are packed for workers: by value where their code is in no file (cloudpickle)."""

import hashlib
import inspect
import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.registry import load_class
from nodebench.tasks.field.objects import GivenProblem, held_by

DIGITS = 12
"""Of a digest."""

DEEPEST = 6
"""How many holders deep what cannot be sent is looked for."""

MODULE_CLASS = "nodebench.tasks.field.jax:module_class"


def packed(given: GivenProblem) -> tuple[str, bytes]:
    """A problem as it is sent, and the digest that names it.

    Raises:
        UserError: If a part of it cannot be sent, with the name of what cannot.
    """
    for name, part in (("field", given.field), ("parameters", given.parameters), ("loss", given.loss)):
        try:
            _pickled(part)
        except Exception as error:  # pickling calls whatever code the parts have
            raise UserError(_unsendable(name, part, error)) from error
    content = _pickled(given)
    return hashlib.sha256(content).hexdigest()[:DIGITS], pickle.dumps((sys.path, content))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it is not typed
    """Pickles classes of Equinox so that they are made with their fields.

    A class that is sent by value is first made empty and then filled. Equinox, which reads the fields of a class when
    it is made, would find none then, and JAX lose all arrays in its objects (equinox issue 231).
    """

    @override
    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if not (
            isinstance(obj, type) and isinstance(reduced, tuple) and type(obj).__module__.partition(".")[0] == "equinox"
        ):
            return reduced
        make, arguments, *others = reduced
        own = inspect.get_annotations(obj)
        held = {each.name: bool(each.metadata.get("static")) for each in fields(obj) if each.name in own}
        return (_called, (MODULE_CLASS, make, arguments, held), *others)


def _called(target: str, *arguments: object) -> Any:
    """Call what lies in a module that is imported only where it is needed."""
    return load_class(target)(*arguments)


def _pickled(value: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def _unsendable(name: str, value: object, error: Exception) -> str:
    """What of a value cannot be sent, in a sentence."""
    path, culprit, reason = _culprit(value, str(error))
    what = f"it is {_kind(culprit)}" if not path else f"it holds {_kind(culprit)}, `{path}`"
    return f"the {name} cannot be sent to the processes that measure it: {what} ({' '.join(reason.split())})."


def _kind(value: object) -> str:
    if isinstance(value, io.IOBase):
        name = getattr(value, "name", None)
        return f"an open file ({name})" if isinstance(name, str) else "an open file"
    article = "an" if type(value).__name__[0].lower() in "aeiou" else "a"
    return f"{article} {type(value).__name__}"


def _culprit(value: object, reason: str, path: str = "", depth: int = 0) -> tuple[str, object, str]:
    """The innermost part of a value that cannot be pickled, by the names that lead to it."""
    for name, part in _parts(value) if depth < DEEPEST else ():
        try:
            _pickled(part)
        except Exception as error:  # noqa: BLE001  the part that it is raised for is what is looked for
            return _culprit(part, str(error), f"{path}.{name}" if path else name, depth + 1)
    return path, value, reason


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """What an object holds, by name: of a function its closure and the globals that it uses."""
    if isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, FunctionType | partial):
        yield from held_by(value)
    elif isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif isinstance(value, list | tuple | set):
        yield from ((str(at), part) for at, part in enumerate(value))
    else:
        held = getattr(value, "__dict__", {})
        for name, part in held.items():
            # What torch keeps in dictionaries of its own is called by the names in them.
            yield from part.items() if name in ("_modules", "_parameters", "_buffers") else [(name, part)]
        # Its methods, where its class has been defined in a notebook or a script.
        yield from ((name, part) for name, part in vars(type(value)).items() if isinstance(part, FunctionType))
