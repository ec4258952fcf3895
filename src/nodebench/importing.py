"""How a plugin's file or module becomes a module of this process: the same in planning, in checks and in workers.

A user's folder comes after the standard library and the installed packages, so that a `random.py` in it hides none of
them. Two files of one name in different folders are two modules, and so are the helper modules beside them.
"""

import ctypes
import importlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import accumulate
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from zlib import crc32

from nodebench.errors import NodebenchError, NotInstalledError, PluginError, UserError, raised

DISTRIBUTIONS: Mapping[str, str] = {
    "Bio": "biopython",
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "git": "gitpython",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
"""Packages whose module has another name."""

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "report": ("altair", "jinja2", "matplotlib", "PIL", "pyarrow", "vl_convert"),
    "data": ("pooch", "sklearn"),
}
"""Modules that an extra of nodebench brings, and that a run can do without."""

UTF_8: Mapping[str, str] = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
"""Environment of a process in which users' code runs and whose output is kept: whatever it prints can be written."""

read_files: set[str] = set()
"""Files of data, such as weights, that a problem has been read from: what is measured depends on them as on code."""

_folders: list[str] = []
"""Users' folders that have been added to the import path, in the order in which they are searched."""

_aside: dict[str, dict[str, ModuleType]] = {}
"""By folder: its modules that gave way to those of the same name in the folder of another plugin."""


def split_target(target: str) -> tuple[str, str]:
    """Split `module:Class` or `path.py:Class` into module or path, and class; a path may contain colons.

    Raises:
        PluginError: If a part is missing.
    """
    module, _, attribute = target.rpartition(":") if isinstance(target, str) else ("", "", "")
    if not (module and attribute):
        raise PluginError(f"`{target}` names no class; write module:Class or file.py:Class.")
    return module, attribute


def beside(cls: type, targets: Mapping[str, str]) -> Mapping[str, str]:
    """Targets by name as a class means them: a relative path is that of a file beside its own."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:
        return targets

    def anchored(target: str) -> str:
        is_path = isinstance(target, str) and _is_path(target.rpartition(":")[0])
        return str(Path(file).parent / target) if is_path else target

    return {name: anchored(target) for name, target in targets.items()}


def source_file(name: str) -> Path:
    """The Python file of `module` or `path.py`, which is not imported, nor are the packages that a module lies in.

    Raises:
        PluginError: If there is none.
    """
    if _is_path(name):
        return _location(name)
    spec = _found(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise PluginError(f"there is no module `{name}`{_near(name, [Path.cwd()])}")
    return Path(spec.origin)


def module_of(name: str) -> ModuleType:
    """Import `module` or `path.py`.

    Raises:
        NotInstalledError: If a library that it imports is missing.
        PluginError: If it cannot be imported.
    """
    path = _location(name) if _is_path(name) else None
    folder = path.parent if path else Path.cwd()
    if path or _has(str(folder), name.partition(".")[0]):
        _search_first(str(folder))
    with users_code(f"`{name}` cannot be imported", str(path or name)):
        try:
            return _module_at(path) if path else importlib.import_module(name)
        except PluginError:
            raise
        except UserError as error:
            raise PluginError(f"`{name}` cannot be imported: {error}") from error
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                raise PluginError(f"there is no module `{error.name}`{_near(error.name, [folder])}") from error
            raise missing_module(error, folder) from error
        except ImportError as error:
            hidden = (error.name or "").partition(".")[0]
            if _has(str(folder), hidden) and _home(sys.modules.get(hidden)) not in (None, str(folder)):
                raise PluginError(
                    f"`{name}` cannot be imported: {error}; the `{hidden}` in `{folder}` is hidden by that of Python "
                    "or of an installed package: give it another name."
                ) from error
            raise


def is_installed(name: str) -> bool:
    """Whether there is a module of a name outside the folders of users' plugins."""
    spec = find_spec(name)
    return spec is not None and _home_of(spec.submodule_search_locations or [], spec.origin) not in _folders


def missing(extra: str) -> list[str]:
    """Packages of an extra, a key of `EXTRAS`, that are not installed."""
    return [DISTRIBUTIONS.get(name, name) for name in EXTRAS[extra] if find_spec(name) is None]


def require_system() -> None:
    """Check that this is a system on which workers run.

    Raises:
        UserError: If it is not.
    """
    if sys.platform not in ("linux", "darwin"):
        raise UserError("nodebench runs on Linux and macOS; on Windows, use it in WSL.")


def require(extra: str) -> None:
    """Check that the modules of an extra are installed.

    Args:
        extra: A key of `EXTRAS`.

    Raises:
        NotInstalledError: If one is missing.
    """
    lacking = missing(extra)
    if lacking:
        named = " and ".join(filter(None, [", ".join(lacking[:-1]), lacking[-1]]))
        are = "are" if len(lacking) > 1 else "is"
        raise NotInstalledError(f"{named} {are} not installed; install with: pip install 'nodebench[{extra}]'")


def optional_module(name: str) -> ModuleType:
    """Import what nodebench can do without.

    Raises:
        NotInstalledError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_module(error, Path.cwd()) from error


@contextmanager
def users_code(what: str, name: str = "") -> Iterator[None]:
    """While code of a user's runs: it prints to stderr, reads nothing, finds no arguments of ours, and ends nothing.

    Args:
        what: What does not work where it raises: the beginning of a sentence.
        name: What `sys.argv` has as the name of the program.

    Raises:
        PluginError: For whatever it raises, `SystemExit` included, but for errors of ours and `KeyboardInterrupt`.
    """
    folder = Path.cwd()
    argv, sys.argv = sys.argv, [name]
    stdin = sys.stdin
    try:
        with Path(os.devnull).open(encoding="utf-8") as sys.stdin, redirect_stdout(sys.stderr), _descriptor_on_stderr():
            yield
    except (NodebenchError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        raise PluginError(f"{what}: {syntax(error)}.") from error
    except SystemExit as error:
        raise PluginError(
            f"{what}: it calls sys.exit({error.code!r}){place_of(error)}; what a script does belongs below "
            '`if __name__ == "__main__":`.'
        ) from error
    except BaseException as error:  # some libraries raise what is no Exception, pytest's `skip` for one
        raise PluginError(f"{what}: {' '.join(raised(error).split())}{place_of(error)}") from error
    finally:
        sys.argv, sys.stdin = argv, stdin
        os.chdir(folder)


def syntax(error: SyntaxError, file: Path | None = None) -> str:
    """What is wrong with the syntax of a file, and where, as far as Python knows it; the end of a sentence."""
    place = [str(file or error.filename or ""), "" if error.lineno is None else f"line {error.lineno}"]
    told = ", ".join(filter(None, place))
    return f"{error.msg} ({told})" if told else str(error.msg)


def missing_module(error: ModuleNotFoundError, folder: Path) -> NodebenchError:
    """What to say where a user's code imports what is not there.

    Args:
        error: As Python says it.
        folder: Where the user's file lies.
    """
    name = error.name
    if not name:
        return NotInstalledError(str(error))
    top, _, inner = name.partition(".")
    package = sys.modules.get(top)
    if inner and package is not None and package.__file__ is not None:
        return PluginError(f"`{name}` is imported{place_of(error)}, but `{top}` has no module `{inner}`.")
    places = [folder, Path.cwd()]
    found = next((entry for place in places for entry in _entries(place) if entry.name.partition(".")[0] == top), None)
    if found is not None:
        return PluginError(f"`{name}` is imported{place_of(error)}, but `{found}` is not such a module.")
    near = _near(top, places)
    if near != ".":
        return PluginError(f"`{name}` is imported{place_of(error)}, but there is no such module{near}")
    if top in sys.stdlib_module_names:
        return NotInstalledError(f"the module {name} is not installed: this Python was built without it.")
    return NotInstalledError(
        f"the module {name} is not installed; install it with: pip install {DISTRIBUTIONS.get(top, top)}"
    )


def _is_path(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _location(path: str) -> Path:
    location = Path(path).resolve()
    if not location.is_file():
        raise PluginError(f"there is no file `{path}`.")
    if location.suffix != ".py":
        raise PluginError(f"`{path}` is not a Python file; its name must end in .py.")
    return location


def _found(name: str) -> ModuleSpec | None:
    if _has(str(Path.cwd()), name.partition(".")[0]):
        _search_first(str(Path.cwd()))
    found = _unimported(name)
    if found is not None:
        return found
    # What a package adds to its path, only an import of it tells.
    with users_code(f"`{name}` cannot be found", name):
        try:
            return find_spec(name)
        except ModuleNotFoundError as error:
            if error.name and name.startswith(f"{error.name}."):
                return None
            raise missing_module(error, Path.cwd()) from error


def _unimported(name: str) -> ModuleSpec | None:
    """Where a module lies by what is in the folders alone: a package that cannot be imported ends nothing here."""
    path: Sequence[str] | None = None
    parents = accumulate(name.split("."), "{}.{}".format)
    spec = None
    for each in parents:
        try:
            specs = (finder.find_spec(each, path) for finder in sys.meta_path)
            spec = next((spec for spec in specs if spec is not None), None)
        except KeyError:  # Python looks a folder without `__init__.py` up in what has been imported
            return None
        path = None if spec is None else spec.submodule_search_locations
        if path is None:
            break
    return spec if spec is not None and spec.name == name else None


@cache
def _module_at(location: Path) -> ModuleType:
    # Two files of one name in different folders are two modules.
    name = f"nodebench_plugin_{location.stem}_{crc32(bytes(location)):08x}"
    spec = spec_from_file_location(name, location)
    assert spec is not None, "the name of the file ends in .py"
    assert spec.loader is not None, "a file has a loader"
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _search_first(folder: str) -> None:
    """Let modules be found in a user's folder, then in the working directory, before the folders of other plugins.

    A module that another folder has under the same name is set aside, until a plugin of its own folder is loaded.
    """
    here = str(Path.cwd())
    sys.path[:] = [entry for entry in sys.path if entry not in _folders]
    _folders[:] = [entry for entry in dict.fromkeys([folder, here, *_folders]) if entry not in sys.path]
    sys.path += _folders

    def of_right(name: str) -> str | None:
        return next((place for place in (folder, here) if _has(place, name)), None)

    for name, module in list(sys.modules.items()):
        home = _home(module) if "." not in name else None
        if home in _folders and of_right(name) not in (None, home):
            for each in [each for each in sys.modules if f"{each}.".startswith(f"{name}.")]:
                _aside.setdefault(str(home), {})[each] = sys.modules.pop(each)
    for place in (folder, here):
        for name in list(_aside.get(place, {})):
            if of_right(name.partition(".")[0]) == place:
                sys.modules[name] = _aside[place].pop(name)


def _has(folder: str, module: str) -> bool:
    return os.path.isfile(f"{folder}/{module}.py") or os.path.isdir(f"{folder}/{module}")  # noqa: PTH112, PTH113  many calls


def _home(module: ModuleType | None) -> str | None:
    """The folder that a module or package outside any package lies in."""
    known = getattr(module, "__dict__", {})  # some modules make whatever attribute they are asked for
    return _home_of(known.get("__path__", ()), known.get("__file__"))


def _home_of(package: Iterable[str], file: str | None) -> str | None:
    place = next(iter(package), file)
    return os.path.dirname(place) if isinstance(place, str) else None  # noqa: PTH120  many calls


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _near(name: str, folders: list[Path]) -> str:
    """The end of a sentence on a name that does not exist: the user's module that may be meant."""
    own = {entry.stem for folder in folders for entry in _entries(folder) if entry.suffix == ".py" or entry.is_dir()}
    near = get_close_matches(name, own, n=1, cutoff=0.85)
    return f"; did you mean `{near[0]}`?" if near else "."


def place_of(error: BaseException) -> str:
    """Where in a user's own file it was raised, or empty."""
    libraries = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
    ours = str(Path(__file__).parent)
    frames = [
        frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith((*libraries, ours, "<"))
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


@contextmanager
def _descriptor_on_stderr() -> Iterator[None]:
    """Let what is written by C code and by other processes go where stderr goes; what is printed by now has gone."""
    if sys.__stdout__ is None or sys.__stderr__ is None:
        yield
        return
    sys.__stdout__.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C keeps what it prints to a pipe until later
        os.dup2(kept, 1)
        os.close(kept)
