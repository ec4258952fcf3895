"""Other versions of the code, built so that their workers can take turns with this version's."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from nodebench.bench import presence, protocol
from nodebench.bench.plan import Cell
from nodebench.bench.presence import Lack
from nodebench.bench.request import Interpreter
from nodebench.errors import UserError

PROBE_S = 120.0
"""How long another version may take to say what it is."""

OF_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
"""Variables that git sets in hooks: they name the user's repository, which no other may be taken for."""

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that stands for one in Git LFS."""


@dataclass(frozen=True)
class Version:
    """A version whose workers this one can speak with.

    Attributes:
        interpreter: How its workers are started.
        environment: Its fingerprint of this machine.
    """

    interpreter: Interpreter
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Presence:
    """What a version has of the plugins that it was asked for.

    Attributes:
        plugins: What it lacks of each plugin, by kind and name; None where it has it.
        cells: What it lacks of cells, by their ids; those that it can load are left out.
        names: Names of all installed plugins, by kind.
    """

    plugins: Mapping[tuple[str, str], Lack | None]
    cells: Mapping[str, Lack]
    names: Mapping[str, Sequence[str]]


@contextmanager
def version_of_ref(ref: str) -> Iterator[Version]:
    """The project of the working directory as git has it at a revision, installed beside this environment's libraries.

    Its workers run in the folder of the same name within that revision, where files that are no package are found too.

    Raises:
        UserError: If there is no such revision, it cannot be installed, or does not speak with this version.
    """
    root = Path(_git("rev-parse", "--show-toplevel", said="the working directory is in no git repository"))
    commit = _commit(ref)
    with TemporaryDirectory() as temporary:
        tree, site = Path(temporary, "tree"), Path(temporary, "site")
        _check_out(commit, tree)
        try:
            paths = (_installed(tree, site, ref),) if _is_package(tree) else ()
        except UserError as error:
            raise UserError(" ".join([str(error), *_left_out(tree)])) from error
        folder = tree / Path.cwd().relative_to(root)
        version = ask_version(Interpreter(ref, paths=paths, folder=folder if folder.is_dir() else tree))
        git = {"commit": commit, "dirty": False}
        yield Version(version.interpreter, {**version.environment, "git": git})


@contextmanager
def version_of_wheel(wheel: Path) -> Iterator[Version]:
    """What a wheel holds, beside this environment's libraries.

    Raises:
        UserError: If there is no such wheel, it cannot be installed, or does not speak with this version.
    """
    if not wheel.is_file():
        raise UserError(f"there is no wheel `{wheel}`.")
    with TemporaryDirectory() as temporary:
        site = _installed(wheel.resolve(), Path(temporary, "site"), wheel.name)
        yield ask_version(Interpreter(wheel.name, paths=(site,)))


@contextmanager
def version_of_python(python: str) -> Iterator[Version]:
    """What another environment holds, by its interpreter.

    Raises:
        UserError: If there is no such interpreter, or its nodebench does not speak with this version.
    """
    found = shutil.which(python)
    if found is None:
        raise UserError(f"there is no interpreter `{python}`.")
    yield ask_version(Interpreter(python, python=found, inherits=False))


def ask_version(interpreter: Interpreter) -> Version:
    """Ask an interpreter for its version, and see that this one can speak with it.

    Raises:
        UserError: If it cannot.
    """
    found = _answer(interpreter, protocol, "did not answer the version probe")
    for path in interpreter.paths:
        if (path / "nodebench").is_dir() and not Path(found["file"]).is_relative_to(path):
            raise UserError(f"{interpreter.name} imports nodebench from {found['file']}; call it from another folder.")
    unlike = _unlike(protocol.protocol(), found["protocol"])
    if unlike:
        raise UserError(
            f"cannot compare with {interpreter.name}: its workers speak another protocol ({'; '.join(unlike)})."
        )
    return Version(interpreter, found["environment"])


def ask_presence(version: Version, plugins: Sequence[tuple[str, str]] = (), cells: Sequence[Cell] = ()) -> Presence:
    """Ask another version what it has, once for all, since that imports the plugins of the cells.

    Args:
        version: The version.
        plugins: Kinds and names of plugins.
        cells: Cells with a backend.

    Raises:
        UserError: If it does not answer.
    """
    named = [{name: getattr(cell, name) for name in ("task", "model", "backend", "framework")} for cell in cells]
    asked = json.dumps({"plugins": plugins, "cells": named})
    found = _answer(version.interpreter, presence, "did not list its plugins", asked)
    return Presence(
        plugins=dict(zip(plugins, found["plugins"], strict=True)),
        cells={cell.cell_id: lack for cell, lack in zip(cells, found["cells"], strict=True) if lack},
        names=found["names"],
    )


def _answer(interpreter: Interpreter, program: ModuleType, silent: str, asked: str = "") -> dict[str, Any]:
    """What a version answers to a module of ours that it runs, after whatever else its start may print."""
    code = Path(str(program.__file__)).read_text(encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": interpreter.search_path}
    done = _run([*interpreter.command, "-c", code], cwd=interpreter.folder, env=environment, input=asked)
    if done.returncode != 0:
        words = _last_line(done.stderr) or f"exit code {done.returncode}"
        raise UserError(f"cannot compare with {interpreter.name}: its nodebench {silent} ({words}).")
    try:
        found: dict[str, Any] = json.loads(done.stdout.rpartition("\n")[2])
    except ValueError as error:
        raise UserError(f"cannot compare with {interpreter.name}: it does not answer as a Python does.") from error
    return found


def _unlike(ours: Mapping[str, list[str]], theirs: Mapping[str, list[str]]) -> list[str]:
    """What two protocols differ in, a few words each."""
    return [
        f"{name}: {_words(ours.get(name))} here, {_words(theirs.get(name))} there"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _words(names: list[str] | None) -> str:
    return "nothing" if names is None else ", ".join(names) or "without parameters"


def _commit(ref: str) -> str:
    hint = ""
    if _git("rev-parse", "--is-shallow-repository") == "true":
        relative = {*"~^@"} & {*ref}  # to what is here, where the remote knows nothing of it
        fetch = "git fetch --unshallow" if relative else f"git fetch origin {ref.removeprefix('origin/')}"
        hint = f", whose history is cut short; fetch it: `{fetch}`, or `fetch-depth: 0` in the workflow"
    unknown = f"git knows no revision `{ref}` here{hint}"
    return _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", said=unknown)


def _check_out(commit: str, tree: Path) -> None:
    """A clone at a commit, since a version may come from tags and an archive lacks what its attributes leave out.

    It borrows the objects of the repository of the working directory, in which nothing is written.
    """
    repository = _git("rev-parse", "--path-format=absolute", "--git-common-dir")
    failed = f"revision {commit[:12]} cannot be checked out"
    _git("clone", "--quiet", "--shared", "--no-checkout", repository, str(tree), said=failed)
    within = ("-C", str(tree))
    _git(*within, "fetch", "--quiet", repository, commit, said=failed)  # one that no branch has
    _git(*within, "checkout", "--quiet", "--detach", commit, said=failed)
    if not _git(*within, "ls-files"):
        raise UserError(f"cannot compare with revision {commit[:12]}: it has no files.")


def _left_out(tree: Path) -> list[str]:
    """What a clone does not have by itself, a sentence each."""
    entries = [line.split(maxsplit=3) for line in _git("-C", str(tree), "ls-files", "--stage").splitlines()]
    modules = [name for mode, *_, name in entries if mode == "160000"]
    found = [f"It is built without its submodules: {', '.join(modules)}."] if modules else []
    stored = _git("-C", str(tree), "ls-files", ":(attr:filter=lfs)").splitlines()
    pointers = [name for name in stored if (tree / name).read_bytes().startswith(LFS_POINTER)]
    return [*found, f"Files are in Git LFS and not here: {', '.join(pointers)}."] if pointers else found


def _is_package(tree: Path) -> bool:
    project = tree / "pyproject.toml"
    if (tree / "setup.py").is_file():
        return True
    if not project.is_file():
        return False
    return bool({"project", "build-system"} & tomllib.loads(project.read_text(encoding="utf-8")).keys())


def _installed(source: Path, site: Path, name: str) -> Path:
    """Install a project or a wheel, without its dependencies, into a folder of its own, entry points and all."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # With the build tools of this environment where it has them, which needs no network; else as pip does.
    told: list[str] = []
    for isolation in (["--no-build-isolation"], []):
        done = _run([*pip, *isolation, "--target", str(site), str(source)], env=_elsewhere())
        if done.returncode == 0:
            return site
        told.append(_words_of_pip(done.stderr) or _last_line(done.stdout) or f"exit code {done.returncode}")
    raise UserError(f"{name} cannot be installed: {'; with build tools of its own: '.join(dict.fromkeys(told))}.")


def _words_of_pip(text: str) -> str:
    """The line that tells what went wrong: the last that a build printed, after which pip gives advice of its own."""
    printed = text.rpartition("[end of output]")[0]
    errors = "\n".join(line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: "))
    return (_last_line(printed) or _last_line(errors) or _last_line(text)).rstrip(".")


def _git(*arguments: str, said: str = "git does not answer") -> str:
    """What git prints.

    Raises:
        UserError: If it is not installed, or fails: what was wanted and git's own words.
    """
    if shutil.which("git") is None:
        raise UserError("git is not installed.")
    done = _run(["git", *arguments], env=dict(os.environ) if arguments[0] == "rev-parse" else _elsewhere())
    if done.returncode != 0:
        words = _last_line(done.stderr)
        raise UserError(f"{said} ({words})." if words else f"{said}.")
    return done.stdout.strip()


def _elsewhere() -> dict[str, str]:
    """The environment of what works in another folder than the user's repository."""
    return {name: value for name, value in os.environ.items() if name not in OF_REPOSITORY}


def _run(command: list[str], **where: Any) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False, **where)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"`{command[0]}` took longer than {PROBE_S:g} s.") from error
    except OSError as error:
        raise UserError(f"`{command[0]}` cannot be started: {error.strerror or error}.") from error


def _last_line(text: str) -> str:
    """The last line that is not empty; empty where none is."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
