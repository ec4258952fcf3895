"""Plugins by name: entry points, `module:Class` and `path.py:Class`, each with options in brackets.

Names, options, frameworks and summaries are read from a plugin's source without importing it, so that listing and
planning stay fast and need no framework. Only `load` imports.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, cast, get_args

from nodebench.errors import PluginError, UnknownNameError, UserError, first_error, last_line
from nodebench.importing import UTF_8, module_of, source_file, split_target, syntax, users_code

Kind = Literal["backend", "task"]

BASES: Mapping[Kind, str] = {
    "backend": "nodebench.backends.base:AbstractBackend",
    "task": "nodebench.tasks.base:AbstractTask",
}
"""The abstract class of each kind, named here for the process in which a foreign plugin is tried."""

OWN_PACKAGE = "nodebench"

GIVEN = "field"
"""The task of a field that is given by itself: the task is ours, and its code a user's."""

_TRIAL = """
import sys
from nodebench import registry
from nodebench.errors import NodebenchError
kind, target = sys.argv[1:]
try:
    registry.load(kind, target, registry.load_class(registry.BASES[kind]))
except NodebenchError as error:
    sys.exit(str(error))
except KeyboardInterrupt:
    sys.exit(f"importing `{target}` raises KeyboardInterrupt.")
print("it works")
"""


@dataclass(frozen=True)
class PluginInfo:
    """What a plugin says of itself, read without importing it.

    Attributes:
        name: Name it is known by.
        target: Where it lives, `module:Class` or `path.py:Class`.
        framework: The framework it declares, or None.
        summary: First line of its docstring.
        options: Option names with the source text of their defaults.
        annotations: Option names with the source text of their types.
        error: Why it cannot be used, in one sentence, or None.
    """

    name: str
    target: str
    framework: str | None = None
    summary: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def required(self) -> list[str]:
        """Options without a default."""
        return [name for name, default in self.options.items() if not default]


def kind_of(text: str) -> Kind:
    """A kind of plugin by its name.

    Raises:
        UnknownNameError: If there is none.
    """
    if text not in get_args(Kind):
        raise UnknownNameError("kind of plugin", text, get_args(Kind))
    return cast(Kind, text)


def names(kind: Kind) -> list[str]:
    """Names of all installed plugins of a kind, sorted."""
    return sorted(_targets(kind))


def working(kind: Kind) -> list[str]:
    """Names of the installed plugins of a kind that are not broken and need no option, sorted."""
    return [info.name for name in names(kind) if (info := probe(kind, name)).error is None and not info.required]


def refused(kind: Kind) -> list[PluginInfo]:
    """Plugins that are registered under a name which is not theirs to have, each with the reason."""
    return [info for claims in _claims(kind).values() for info in claims if info.error]


def split_list(text: str) -> list[str]:
    """Split `a,b[x=1,y=2]` at the commas outside brackets and outside the path of a file that exists."""
    parts, depth, at, begin = [], 0, 0, 0
    while at < len(text):
        if at == begin:
            at += len(_path_at(text[at:]))
        char = text[at : at + 1]
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
        at += 1
    return [part.strip() for part in [*parts, text[begin:]] if part.strip()]


def _path_at(text: str) -> str:
    """What a list begins with that is `path.py:Class`, of a file that exists; else empty."""
    ends = (found.end() for found in re.finditer(r"\.py:[^\W\d]\w*(?=\s*(?:[\[,]|$))", text))
    return next((text[:end] for end in ends if Path(text[:end].rpartition(":")[0].strip()).is_file()), "")


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split `name[option=value,...]` into its name and options; the path in `path.py:Class[...]` may have brackets.

    Raises:
        UserError: If the brackets or an option are malformed.
    """
    in_file = re.fullmatch(r"(.+?\.py:[^\W\d]\w*)(\[.*)?", text.strip(), re.DOTALL)
    name, bracket, inner = text.strip().partition("[")
    rest = f"{bracket}{inner}"
    if in_file:
        name, rest = in_file.groups("")
    if not rest:
        return name, {}
    if not rest.endswith("]"):
        raise UserError(f"`{text}` lacks its closing bracket; write name[option=value,option=value].")
    options = {}
    for item in split_list(rest[1:-1]):
        key, equals, value = item.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise UserError(f"`{item}` in `{text}` is not an option; write name[option=value].")
        options[key.strip()] = value.strip()
    return name, options


def canonical(kind: Kind, text: str) -> str:
    """The one spelling of `name[options]`: options sorted, without those at their defaults, numbers as short as can be.

    Read from the plugin's source. Of one that cannot be found options are sorted alone: who uses it is told what is
    wrong. A default that is no literal, nor a constant of its module, cannot be told from what is named.

    Raises:
        UserError: If the brackets or an option are malformed.
    """
    name, options = parse(text)
    if not options:
        return name
    try:
        info = _read(name, _target(kind, name))
    except UserError:
        return spelled(name, options)
    values = {option: _short(value, info.annotations.get(option, "")) for option, value in options.items()}
    left = {option: value for option, value in values.items() if value != _default(info.options.get(option, ""))}
    return spelled(name, left)


def spelled(name: str, options: Mapping[str, str]) -> str:
    """The one spelling of a name with options; the reverse of `parse`."""
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
    if target.startswith(f"{OWN_PACKAGE}."):
        return info
    return replace(info, error=_trial_error(kind, target))


def is_own(kind: Kind, text: str) -> bool:
    """Whether a plugin is one of this package; raises as `describe` where there is none of the name."""
    return _target(kind, parse(text)[0]).startswith(f"{OWN_PACKAGE}.")


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
        PluginError: If the plugin cannot be imported, or breaks the contract of `base`.
        UserError: If an option has a value of the wrong type.
    """
    name, options = parse(text)
    cls = load_class(_target(kind, name))
    wrong = _violation(cls, base)
    if wrong is not None:
        raise PluginError(f"{kind} `{name}` {wrong}")
    known = {f.name for f in fields(cls)}
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {kind} '{name}'", option, known)
    with users_code(f"{kind} `{text}` cannot be made"):
        return _construct(cls, name, options)


def load_class(target: str) -> Any:
    """Import the object that `module:Class` or `path.py:Class` names.

    Raises:
        NotInstalledError: If a library that it imports is missing.
        PluginError: If it cannot be imported or does not exist.
    """
    module_name, attribute = split_target(target)
    module = module_of(module_name)
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
        where, why, value = first_error(error)
        raise UserError(f"option `{where}` of `{name}`: {why}; got {value!r}.") from error


@cache
def _claims(kind: Kind) -> dict[str, list[PluginInfo]]:
    """What is registered under each name, sorted by it; a name is ours where we have it, nobody's where others do."""
    points = sorted(entry_points(group=f"nodebench.{kind}s"), key=lambda point: point.name)
    return {name: _settled(kind, name, list(same)) for name, same in groupby(points, key=lambda point: point.name)}


def _settled(kind: Kind, name: str, points: list[EntryPoint]) -> list[PluginInfo]:
    packages = [point.dist.name if point.dist else "an unknown package" for point in points]

    def refusal(package: str) -> str | None:
        if len(points) == 1 or package == OWN_PACKAGE:
            return None
        if OWN_PACKAGE in packages:
            return f"the name `{name}` is that of a {kind} of nodebench; {package} must register its own under another."
        several = " and ".join(sorted(packages))
        return f"the name `{name}` is registered by {several}, so that it is neither's; uninstall all but one."

    return [
        PluginInfo(name, point.value, error=refusal(package)) for point, package in zip(points, packages, strict=True)
    ]


@cache
def _targets(kind: Kind) -> dict[str, str]:
    return {info.name: info.target for claims in _claims(kind).values() for info in claims if not info.error}


def _target(kind: Kind, name: str) -> str:
    if ":" in name:
        return name
    targets = _targets(kind)
    if name in targets:
        return targets[name]
    if name.endswith(".py"):
        raise UserError(f"`{name}` names no class; write {name}:Class.")
    for info in _claims(kind).get(name, []):
        raise PluginError(str(info.error))
    raise UnknownNameError(kind, name, targets)


def _trial_error(kind: Kind, target: str) -> str | None:
    command = [sys.executable, "-P", "-c", _TRIAL, kind, target]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=60, check=False,
            env={**os.environ, **UTF_8},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"importing `{target}` takes longer than a minute."
    if done.stdout.endswith("it works\n"):
        return None
    return last_line(done.stderr) or f"importing `{target}` ends the process."


def _read(name: str, target: str) -> PluginInfo:
    """Read the class that `module:Class` or `path.py:Class` names.

    Raises:
        PluginError: If its source cannot be found or parsed, or does not define the class.
    """
    module, attribute = split_target(target)
    try:
        source = source_file(module)
        tree = _parsed(source.read_bytes(), str(source))
    except SyntaxError as error:
        raise PluginError(f"`{target}` cannot be parsed: {syntax(error, source)}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise PluginError(f"`{target}` cannot be read: {error}.") from error
    found = list(_with_bases(attribute, tree))
    if not found:
        raise PluginError(f"`{target}`: the module defines no class `{attribute}`.")
    summary = (ast.get_docstring(found[-1][0]) or "").partition("\n")[0]
    framework = next(filter(None, (_framework(node) for node, _ in reversed(found))), None)
    options = {option: (each, within) for node, within in found for option, each in _options(node).items()}
    defaults = {option: _source(each.value, within) for option, (each, within) in options.items()}
    annotations = {option: ast.unparse(each.annotation) for option, (each, _) in options.items()}
    return PluginInfo(name, target, framework, summary, defaults, annotations)


@lru_cache(maxsize=64)
def _parsed(source: bytes, path: str) -> ast.Module:
    return ast.parse(source, path)


def _with_bases(
    name: str, module: ast.Module, seen: frozenset[tuple[str, int]] = frozenset()
) -> Iterator[tuple[ast.ClassDef, ast.Module]]:
    """A class of a module and those it is derived from, each with its module, the class itself last.

    Those are told that the module defines or imports by `from MODULE import NAME`, from wherever its source is found.
    """
    node = next((each for each in module.body if isinstance(each, ast.ClassDef) and each.name == name), None)
    if node is None or (name, id(module)) in seen:
        return
    seen |= {(name, id(module))}
    for base in (each.id for each in reversed(node.bases) if isinstance(each, ast.Name)):
        yield from _with_bases(base, module, seen)
        for origin in (each for each in module.body if isinstance(each, ast.ImportFrom)):
            alias = next((each for each in origin.names if base == (each.asname or each.name)), None)
            within = None if alias is None or origin.level else _module(origin.module or "")
            if alias is not None and within is not None:
                yield from _with_bases(alias.name, within, seen)
    yield node, module


def _module(name: str) -> ast.Module | None:
    """A module that a base is imported from; None where it has no options to tell, or cannot be read."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return None
    with suppress(PluginError, OSError, ValueError, SyntaxError):  # whoever imports it is told
        source = source_file(name)
        return _parsed(source.read_bytes(), str(source))
    return None


def _framework(node: ast.ClassDef) -> str | None:
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and target.id == "framework" and isinstance(value, ast.Constant):
            return str(value.value)
    return None


def _options(node: ast.ClassDef) -> dict[str, ast.AnnAssign]:
    return {
        statement.target.id: statement
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and "ClassVar" not in ast.unparse(statement.annotation)
    }


def _source(default: ast.expr | None, module: ast.Module) -> str:
    """The text of an option's default, of a constant of its module that of its value; empty where there is none."""
    if default is None:
        return ""
    if isinstance(default, ast.Call) and ast.unparse(default.func).rpartition(".")[2] == "field":
        default = next((each.value for each in default.keywords if each.arg == "default"), default)
    if isinstance(default, ast.Name):
        default = _constants(module).get(default.id, default)
    return ast.unparse(default)


def _constants(module: ast.Module) -> dict[str, ast.expr]:
    """What a module assigns to single names; of several times the last."""
    found: dict[str, ast.expr] = {}
    for statement in module.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        found |= {target.id: value for target in targets if isinstance(target, ast.Name) and value is not None}
    return found


TRUTHS: Mapping[str, str] = {
    **dict.fromkeys(("true", "1", "yes", "y", "on", "t"), "true"),
    **dict.fromkeys(("false", "0", "no", "n", "off", "f"), "false"),
}
"""What options that are true or false are told by, which is pydantic's choice, and the one spelling of each."""


def _default(source: str) -> str | None:
    """A default as an option's value has it; None where there is none that a value could spell."""
    try:
        value = ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value)
    return value if isinstance(value, str) else None


def _short(value: str, annotation: str) -> str:
    """An option's value in its shortest spelling, where its type says that there are several."""
    kinds = set(re.findall(r"\w+", re.sub(r"Literal\[[^]]*\]", "", annotation)))
    if "str" in kinds:
        return value
    if "bool" in kinds and "int" not in kinds:
        return TRUTHS.get(value.lower(), value)
    if kinds & {"int", "float"} and (whole := re.fullmatch(r"([+-]?\d+)(\.0*)?", value)):
        return str(int(whole[1]))
    try:
        return _number(float(value)) if "float" in kinds else value
    except ValueError:
        return value


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _violation(cls: Any, base: type) -> str | None:
    """How a class breaks the contract of its abstract class, as the end of a sentence about it, or None.

    Args:
        cls: What a plugin's name stands for.
        base: The abstract class that it must derive from.
    """
    if not (isinstance(cls, type) and issubclass(cls, base) and is_dataclass(cls)):
        return f"must be a dataclass derived from `{base.__name__}`; got {cls!r}."
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # every dataclass has them
        return "must be a frozen dataclass; write `@dataclass(frozen=True)` above it."
    declared = [name for name, annotation in inspect.get_annotations(base).items() if "ClassVar" in str(annotation)]
    undeclared = [name for name in declared if not hasattr(cls, name)]
    if undeclared:
        return f"must declare {_listed(undeclared)} in its class body."
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        return f"lacks {_listed(missing)}, which `{base.__name__}` asks for."
    wrong = [
        *(_no_constant(cls, name) for name in _public(base, lambda value: isinstance(value, property))),
        *(_unlike(cls, base, name) for name in _public(base, inspect.isfunction)),
    ]
    return next(filter(None, wrong), None)


def _public(base: type, is_meant: Callable[[object], bool]) -> list[str]:
    """The public attributes of a class that are of some kind."""
    return [name for name, value in vars(base).items() if is_meant(value) and not name.startswith("_")]


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
