"""What commands share in parsing."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nodebench import registry
from nodebench.errors import UserError

DEFAULT_STORE = Path(".nodebench/results.db")

Many = list[str] | None
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="NODEBENCH_STORE", help="Results store, an SQLite file.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Records as one JSON array on stdout, all else on stderr.")]


def command_line() -> str:
    """The command as it was given."""
    return shlex.join(["nodebench", *sys.argv[1:]])


def split(values: Many) -> tuple[str, ...]:
    """Values of an option that repeats or takes commas."""
    return tuple(item for value in values or [] for item in registry.split_list(value))


def number(option: str, text: str, *, whole: bool = False) -> float:
    """The number that an option was given.

    Raises:
        UserError: If it is none.
    """
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise UserError(f"`{option}` must be a {'whole ' if whole else ''}number; got {text!r}.") from None


def open_store(path: Path) -> Any:
    """A store that exists.

    Raises:
        UserError: If it does not.
    """
    from nodebench.results.store import Store  # noqa: PLC0415

    if not path.is_file():
        raise UserError(f"there is no store at `{path}`; `nodebench run` makes one, or name another with --store.")
    return Store(path)
