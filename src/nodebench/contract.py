"""What the class of a plugin must be, whatever it computes: its base, what it declares, its methods' parameters."""

import inspect
from dataclasses import is_dataclass
from typing import Any


def violation(cls: Any, base: type) -> str | None:
    """How a class breaks the contract of its abstract class, as the end of a sentence about it, or None.

    Args:
        cls: What a plugin's name stands for.
        base: The abstract class that it must derive from.
    """
    if not (isinstance(cls, type) and issubclass(cls, base) and is_dataclass(cls)):
        return f"must be a dataclass derived from `{base.__name__}`; got {cls!r}."
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # every dataclass has them
        return "must be a frozen dataclass; write `@dataclass(frozen=True)` above it."
    undeclared = [name for name in _declarations(base) if not hasattr(cls, name)]
    if undeclared:
        return f"must declare {_listed(undeclared)} in its class body."
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        return f"lacks {_listed(missing)}, which `{base.__name__}` asks for."
    wrong = [_no_constant(cls, name) for name in _properties(base)] + [_unlike(cls, base, n) for n in _methods(base)]
    return next(filter(None, wrong), None)


def _declarations(base: type) -> list[str]:
    return [name for name, annotation in inspect.get_annotations(base).items() if "ClassVar" in str(annotation)]


def _properties(base: type) -> list[str]:
    return [name for name, value in vars(base).items() if isinstance(value, property) and not name.startswith("_")]


def _methods(base: type) -> list[str]:
    return [name for name, value in vars(base).items() if inspect.isfunction(value) and not name.startswith("_")]


def _no_constant(cls: type, name: str) -> str | None:
    """How what the base has as a property is neither a value nor a property in a class."""
    if not inspect.isroutine(inspect.getattr_static(cls, name)):
        return None
    return f"has a method `{name}`; write a value, `{name} = ...`, or `@property` above the method."


def _unlike(cls: type, base: type, name: str) -> str | None:
    """How a method cannot be called as the base's is: with its parameters in their order, and by their names."""
    wanted = list(inspect.signature(getattr(base, name)).parameters)
    method = getattr(cls, name)
    if not callable(method):
        return f"must have a method `{name}`; its `{name}` is {method!r}."
    signature = inspect.signature(method)
    try:
        signature.bind(*wanted)
        signature.bind(wanted[0], **dict.fromkeys(wanted[1:]))
    except TypeError:
        came = ", ".join(list(signature.parameters)[1:])
        return f"has a method `{name}` that takes ({came}); it must take ({', '.join(wanted[1:])})."
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
