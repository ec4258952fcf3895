"""The files of code that a process has loaded from outside of the installed packages: a result depends on all of them.

What is installed is known by its version. What lies elsewhere (a user's task and field, what they import, a checkout)
is known by its content.
"""

import hashlib
import json
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from nodebench.bench.machine import LIBRARIES, library_version

Files = Mapping[str, str]
"""Digests of files by path."""


def loaded_files() -> dict[str, str]:
    """The files of all modules of this process that belong to no installed package, with digests of their content."""
    origins = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    here = str(Path.cwd())
    # By their text: thousands of modules are installed, and each worker looks at them several times.
    whole = {os.path.join(here, origin) for origin in origins if origin}  # noqa: PTH118
    paths = sorted(Path(path) for path in whole if not path.startswith(_installed_folders()))
    return {str(path): file_digest(path) for path in paths if path.is_file()}


def file_digest(path: Path) -> str:
    """Digest of a file's content; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def changed(files: Files) -> list[str]:
    """The files that are no longer what they were."""
    return [path for path, digest in files.items() if file_digest(Path(path)) != digest]


def code_identity() -> str:
    """What this process's code is known by: versions of libraries, and the content of all that is not installed."""
    versions = {name: library_version(name) for name in LIBRARIES if name in sys.modules}
    content = json.dumps([sys.version, versions, loaded_files()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@cache
def _installed_folders() -> tuple[str, ...]:
    """Each with the separator at its end."""
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places += [*site.getsitepackages(), site.getusersitepackages()]
    folders = {Path(place).absolute() for place in places} | {Path(place).resolve() for place in places}
    return tuple(f"{folder}{os.sep}" for folder in folders)
