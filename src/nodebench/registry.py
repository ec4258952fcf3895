"""Plugins by name: entry points, `module:Class` and `path.py:Class`, each with options in brackets.

Names, options, frameworks and summaries are read from a plugin's source without importing it, so that listing and
planning stay fast and need no framework. Only `load` imports.
"""

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from nodebench.errors import NotInstalledError, PluginError, UnknownNameError, UserError

Kind = Literal["backend", "task"]


@dataclass(frozen=True)
class PluginInfo:
    """What a plugin says of itself, read without importing it.

    Attributes:
        name: Name it is known by.
        target: Where it lives, `module:Class` or `path.py:Class`.
        framework: The framework it declares, or None.
        summary: First line of its docstring.
        options: Option names with the source text of their defaults.
        error: Why it cannot be used, in one sentence, or None.
    """

    name: str
    target: str
    framework: str | None = None
    summary: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


def names(kind: Kind) -> list[str]:
    """Names of all installed plugins of a kind, sorted."""
    return sorted(_targets(kind))


def working(kind: Kind) -> list[str]:
    """Names of the installed plugins of a kind that are not broken, sorted."""
    return [name for name in names(kind) if probe(kind, name).error is None]


def split_list(text: str) -> list[str]:
    """Split `a,b[x=1,y=2]` at the commas outside brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [part.strip() for part in [*parts, current] if part.strip()]


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split `name[option=value,...]` into its name and options.

    Raises:
        UserError: If the brackets or an option are malformed.
    """
    name, bracket, rest = text.strip().partition("[")
    if not bracket:
        return name, {}
    if not rest.endswith("]"):
        raise UserError(f"`{text}` lacks its closing bracket; write name[option=value,option=value].")
    options = {}
    for item in split_list(rest[:-1]):
        key, equals, value = item.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise UserError(f"`{item}` in `{text}` is no option; write name[option=value].")
        options[key.strip()] = value.strip()
    return name, options


def canonical(text: str) -> str:
    """The one spelling of `name[options]`: options sorted, no spaces."""
    name, options = parse(text)
    inner = ",".join(f"{key}={options[key]}" for key in sorted(options))
    return f"{name}[{inner}]" if inner else name


def describe(kind: Kind, text: str) -> PluginInfo:
    """Read what a plugin says of itself, and check the options of `text`, without importing it.

    Raises:
        UnknownNameError: If there is no such plugin, or it has no such option.
        UserError: If `text` is malformed.
        PluginError: If its source cannot be found or parsed.
    """
    name, options = parse(text)
    target = _target(kind, name)
    info = _read(name, target)
    for option in options:
        if option not in info.options:
            raise UnknownNameError(f"option of {kind} '{name}'", option, info.options)
    return info


def probe(kind: Kind, name: str) -> PluginInfo:
    """Like `describe`, but a broken plugin is a value with its error.

    A plugin from outside this package is imported in a process of its own, since only an import shows that it works.
    """
    target = _targets(kind)[name]
    try:
        info = _read(name, target)
    except PluginError as error:
        return PluginInfo(name, target, error=str(error))
    if target.startswith("nodebench."):
        return info
    return PluginInfo(name, target, info.framework, info.summary, info.options, _import_error(target))


def load(kind: Kind, text: str, base: type) -> Any:
    """Import a plugin and make it with its options.

    Args:
        kind: `"backend"` or `"task"`.
        text: Name with options, `module:Class` or `path.py:Class`.
        base: The abstract class it must derive from.

    Returns:
        An instance of the plugin's class.

    Raises:
        UnknownNameError: If the name or an option does not exist.
        NotInstalledError: If a library that it imports is missing.
        PluginError: If the plugin cannot be imported, or is no frozen dataclass derived from `base`.
        UserError: If an option has a value of the wrong type.
    """
    name, options = parse(text)
    cls = load_class(_target(kind, name))
    if not (isinstance(cls, type) and issubclass(cls, base) and is_dataclass(cls)):
        raise PluginError(f"{kind} `{name}` must be a dataclass derived from `{base.__name__}`; got {cls!r}.")
    known = {f.name for f in fields(cls)}
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {kind} '{name}'", option, known)
    return _construct(cls, name, options)


def load_class(target: str) -> Any:
    """Import the object that `module:Class` or `path.py:Class` names.

    Raises:
        NotInstalledError: If a library that it imports is missing.
        PluginError: If it cannot be imported or does not exist.
    """
    module_name, _, attribute = target.partition(":")
    try:
        module = _module_from_path(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            raise PluginError(f"`{target}` cannot be found: there is no module `{missing}`.") from error
        raise NotInstalledError(f"{missing} is not installed; mend it with: pip install {missing}") from error
    except Exception as error:  # a foreign module may raise anything on import; the cause is kept and shown
        raise PluginError(f"`{target}` cannot be imported: {type(error).__name__}: {error}") from error
    if attribute not in vars(module):
        raise PluginError(f"`{module_name}` has no `{attribute}`.")
    return vars(module)[attribute]


def _construct(cls: type, name: str, options: Mapping[str, str]) -> Any:
    if not options:
        try:
            return cls()
        except TypeError as error:
            raise PluginError(f"`{name}` cannot be made without options: {error}.") from error
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  imported late: listing must stay fast

    try:
        return TypeAdapter(cls).validate_strings(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"option `{where}` of `{name}`: {first['msg']}; got {first['input']!r}.") from error


@cache
def _targets(kind: Kind) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"nodebench.{kind}s")}


def _target(kind: Kind, name: str) -> str:
    if ":" in name:
        return name
    targets = _targets(kind)
    if name not in targets:
        raise UnknownNameError(kind, name, targets)
    return targets[name]


@cache
def _module_from_path(path: str) -> ModuleType:
    location = Path(path).resolve()
    if not location.is_file():
        raise PluginError(f"there is no file `{path}`.")
    spec = importlib.util.spec_from_file_location(f"nodebench_plugin_{location.stem}", location)
    if spec is None or spec.loader is None:
        raise PluginError(f"`{path}` is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _source(target: str) -> str:
    module_name = target.partition(":")[0]
    try:
        if module_name.endswith(".py"):
            return Path(module_name).read_text(encoding="utf-8")
        spec = importlib.util.find_spec(module_name)
    except Exception as error:  # finding a module imports its parent packages, which may raise anything
        raise PluginError(f"`{target}` cannot be found: {type(error).__name__}: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise PluginError(f"`{target}` cannot be found: there is no module `{module_name}`.")
    return Path(spec.origin).read_text(encoding="utf-8")


def _read(name: str, target: str) -> PluginInfo:
    attribute = target.partition(":")[2]
    try:
        tree = ast.parse(_source(target))
    except SyntaxError as error:
        raise PluginError(f"`{target}` cannot be parsed: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            return PluginInfo(name, target, _framework(node), summary, _options(node))
    raise PluginError(f"`{target}`: the module defines no class `{attribute}`.")


def _framework(node: ast.ClassDef) -> str | None:
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and target.id == "framework" and isinstance(value, ast.Constant):
            return str(value.value)
    return None


def _options(node: ast.ClassDef) -> dict[str, str]:
    return {
        statement.target.id: ast.unparse(statement.value) if statement.value else ""
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and "ClassVar" not in ast.unparse(statement.annotation)
    }


def _import_error(target: str) -> str | None:
    code = f"from nodebench.registry import load_class; load_class({target!r})"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return f"importing `{target}` takes longer than a minute."
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
