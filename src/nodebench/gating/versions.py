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
from typing import Any

from nodebench.bench.plan import Cell
from nodebench.bench.request import Interpreter
from nodebench.errors import UserError, last_line, user_error
from nodebench.gating import probe
from nodebench.gating.probe import Defect
from nodebench.results.machine import Commit, Fingerprint

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
    environment: Fingerprint


@dataclass(frozen=True)
class Available:
    """What a version has of the plugins that it was asked for.

    Attributes:
        plugins: Why it cannot use a plugin, by kind and name; None where it can.
        cells: Why it cannot load a cell, by its id; those that it can load are left out.
        names: Names of all installed plugins, by kind.
    """

    plugins: Mapping[tuple[str, str], Defect | None]
    cells: Mapping[str, Defect]
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
        git: Commit = {"commit": commit, "dirty": False}
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
    found = _answer(interpreter, "did not answer the version probe")
    for path in interpreter.paths:
        if (path / "nodebench").is_dir() and not Path(found["file"]).is_relative_to(path):
            raise UserError(f"{interpreter.name} imports nodebench from {found['file']}; call it from another folder.")
    ours, theirs = probe.protocol(), found["protocol"]
    unlike = [
        f"{name}: {_words(ours.get(name))} here, {_words(theirs.get(name))} there"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if unlike:
        raise UserError(
            f"cannot compare with {interpreter.name}: its workers speak another protocol ({'; '.join(unlike)})."
        )
    return Version(interpreter, found["environment"])


def _words(names: list[str] | None) -> str:
    return "nothing" if names is None else ", ".join(names) or "without parameters"


def ask_available(version: Version, plugins: Sequence[tuple[str, str]] = (), cells: Sequence[Cell] = ()) -> Available:
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
    found = _answer(version.interpreter, "did not list its plugins", asked)
    of_plugins, of_cells = ([each and Defect(*each) for each in found[what]] for what in ("plugins", "cells"))
    return Available(
        plugins=dict(zip(plugins, of_plugins, strict=True)),
        cells={cell.cell_id: defect for cell, defect in zip(cells, of_cells, strict=True) if defect},
        names=found["names"],
    )


def _answer(interpreter: Interpreter, silent: str, asked: str = "") -> dict[str, Any]:
    """What a version answers to our probe, after whatever else its start may print."""
    code = Path(probe.__file__).read_text(encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": interpreter.search_path}
    done = _run([*interpreter.command, "-c", code], cwd=interpreter.folder, env=environment, input=asked)
    if done.returncode != 0:
        words = last_line(done.stderr) or f"exit code {done.returncode}"
        raise UserError(f"cannot compare with {interpreter.name}: its nodebench {silent} ({words}).")
    try:
        found: dict[str, Any] = json.loads(done.stdout.rpartition("\n")[2])
    except ValueError as error:
        raise UserError(f"cannot compare with {interpreter.name}: it does not answer as a Python does.") from error
    return found


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
        told.append(_words_of_pip(done.stderr) or last_line(done.stdout) or f"exit code {done.returncode}")
    raise UserError(f"{name} cannot be installed: {'; with build tools of its own: '.join(dict.fromkeys(told))}.")


def _words_of_pip(text: str) -> str:
    """The line that tells what went wrong: the last that a build printed, after which pip gives advice of its own."""
    printed = text.rpartition("[end of output]")[0]
    errors = "\n".join(line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: "))
    return (last_line(printed) or last_line(errors) or last_line(text)).rstrip(".")


def _git(*arguments: str, said: str = "git does not answer") -> str:
    """What git prints.

    Raises:
        UserError: If it is not installed, or fails: what was wanted and git's own words.
    """
    if shutil.which("git") is None:
        raise UserError("git is not installed.")
    done = _run(["git", *arguments], env=dict(os.environ) if arguments[0] == "rev-parse" else _elsewhere())
    if done.returncode != 0:
        words = last_line(done.stderr)
        raise UserError(f"{said} ({words})." if words else f"{said}.")
    return done.stdout.strip()


def _elsewhere() -> dict[str, str]:
    """The environment of what works in another folder than the user's repository."""
    return {name: value for name, value in os.environ.items() if name not in OF_REPOSITORY}


def _run(command: list[str], **where: Any) -> "subprocess.CompletedProcess[str]":
    try:
        with user_error(f"`{command[0]}` cannot be started"):
            return subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False, **where)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"`{command[0]}` took longer than {PROBE_S:g} s.") from error
