"""What a plugin says of itself, read from its source without importing it, so that listing needs no framework."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from nodebench.errors import PluginError
from nodebench.importing import source_file, split_target


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


def read(name: str, target: str) -> PluginInfo:
    """Read the class that `module:Class` or `path.py:Class` names.

    Raises:
        PluginError: If its source cannot be found or parsed, or does not define the class.
    """
    module, attribute = split_target(target)
    try:
        source = source_file(module)
        tree = ast.parse(source.read_bytes(), str(source))
    except SyntaxError as error:
        raise PluginError(f"`{target}` cannot be parsed: {error.msg} ({source}, line {error.lineno}).") from error
    except (OSError, ValueError, RecursionError) as error:
        raise PluginError(f"`{target}` cannot be read: {error}.") from error
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
