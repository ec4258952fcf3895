"""Where the code of a worker comes from: this process's interpreter and packages, or those of another version."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Interpreter:
    """How a worker is started.

    Attributes:
        name: What a person calls the version it runs; empty for this process's own.
        python: Its Python.
        paths: Folders that come before all others on its import path.
        folder: Its working directory; None for this process's.
        inherits: Whether this process's `PYTHONPATH` is its own too.
    """

    name: str = ""
    python: str = sys.executable
    paths: tuple[Path, ...] = ()
    folder: Path | None = None
    inherits: bool = True

    @property
    def command(self) -> list[str]:
        """How it is called, before what it is to run.

        With `-P` Python puts no folder before its own: what lies in the user's would hide the standard library, and a
        package in it that of another version, which would be compared with itself.
        """
        return [self.python, "-P"]

    @property
    def search_path(self) -> str:
        """Its `PYTHONPATH`; the folder of a plugin is added where it is imported, after the standard library."""
        inherited = os.environ.get("PYTHONPATH", "") if self.inherits else ""
        return os.pathsep.join(filter(None, [*map(str, self.paths), inherited]))
