"""Copy a starting point under a name of the user's."""

import keyword
import re
from collections.abc import Mapping
from pathlib import Path

from nodebench import registry
from nodebench.errors import UnknownNameError, UserError
from nodebench.frameworks.base import FRAMEWORKS
from nodebench.importing import is_installed
from nodebench.registry import Kind

SOURCES = Path(__file__).parent

FILES: Mapping[Kind, Mapping[str, str]] = {
    "backend": {"mine.py": "backend_{framework}.py", "test_mine.py": "backend_test.py"},
    "task": {
        "mine.py": "task.py",
        "mine_{framework}.py": "task_{framework}.py",
        "test_mine.py": "task_test.py",
    },
}
"""What is written for each kind, and from which file here."""


def write(kind: Kind, name: str, framework: str, folder: Path) -> list[Path]:
    """Write a starting point.

    Args:
        kind: `"backend"` or `"task"`.
        name: A Python identifier; it names the file, and in capitals the class.
        framework: `"torch"` or `"jax"`.
        folder: Where to write; it is made where it is not there.

    Returns:
        The files, the plugin's own first.

    Raises:
        UserError: If the name cannot be had, a file is there already, or the folder cannot be written to.
    """
    if framework not in FRAMEWORKS:
        raise UnknownNameError("framework", framework, FRAMEWORKS)
    _check_name(kind, name)
    files = {
        folder / _named(target.format(framework=framework), name): SOURCES / source.format(framework=framework)
        for target, source in FILES[kind].items()
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise UserError(f"`{', '.join(there)}` is there already, and is left as it is; choose another name or folder.")
    if is_installed(name):
        raise UserError(f"there is a module `{name}` already, which `{name}.py` would hide; choose another name.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, source in files.items():
            text = source.read_text(encoding="utf-8")
            if source.name == "task.py":  # which names the framework of its model, and no more of it
                text = text.replace("torch", framework)
            path.write_text(_named(text, name), encoding="utf-8")
    except OSError as error:
        raise UserError(f"`{folder}` cannot be written to: {error}.") from error
    return list(files)


def class_name(name: str) -> str:
    """`my_method` becomes `MyMethod`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _named(text: str, name: str) -> str:
    """A text with `mine` and `Mine` replaced where they are words, or parts of a name."""
    text = re.sub(r"(?<![A-Za-z])mine(?![a-z])", name, text)
    return re.sub(r"(?<![A-Za-z])Mine(?![a-z])", class_name(name), text)


def _check_name(kind: Kind, name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or not class_name(name).isidentifier():
        raise UserError(f"`{name}` cannot name a module and a class; use letters, digits and _, and no Python keyword.")
    if {name, name.replace("_", "-")} & set(registry.names(kind)):
        raise UserError(f"there is a {kind} `{name.replace('_', '-')}` already; choose another name.")
