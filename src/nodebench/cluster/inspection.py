"""What a node has of what a plan needs: versions, plugins, data.

The program that finds it out runs on the node as a worker would, so that it finds what a worker finds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nodebench import registry
from nodebench.bench.machine import fingerprint, frameworks
from nodebench.bench.request import Interpreter
from nodebench.errors import NodebenchError
from nodebench.tasks.base import AbstractTask
from nodebench.tasks.mnist.data import FOLDER_VARIABLE

INSPECTION_S = 600.0
"""How long an inspection may take, which may have to fetch data."""


@dataclass(frozen=True)
class Question:
    """What a node is asked.

    Attributes:
        folder: The working directory of the command, in which plugins may lie.
        data: Folder of data sets that the command was given, or None.
        backends: Backends that must be there.
        tasks: Tasks whose data must be there: name, preset, seed.
        devices: Whether to ask the frameworks for their devices, which takes seconds.
    """

    folder: str
    data: str | None
    backends: tuple[str, ...] = ()
    tasks: tuple[tuple[str, str, int], ...] = ()
    devices: bool = False

    def interpreter(self) -> Interpreter:
        """How workers of the command are started on this machine."""
        return Interpreter(folder=Path(self.folder) if Path(self.folder).is_dir() else Path(os.sep))


@dataclass(frozen=True)
class Inspection:
    """What a node has.

    Attributes:
        environment: Its fingerprint.
        problems: Why work of the plan cannot be done there, a sentence each.
        data: The data set that each task has there.
        frameworks: What each framework says of its devices; empty where they were not asked.
    """

    environment: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    frameworks: Mapping[str, str] = field(default_factory=dict)


def inspect_here(question: Question) -> Inspection:
    """Inspect this machine, by a process that is started as workers are."""
    interpreter = question.interpreter()
    with data_folder(question.data):
        environment = {**os.environ, "PYTHONPATH": interpreter.search_path}
    command = [*interpreter.command, "-m", __name__, json.dumps(asdict(question))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSPECTION_S, check=False, cwd=interpreter.folder,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Inspection(fingerprint(), (f"its inspection took longer than {INSPECTION_S:g} s",))
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Inspection(fingerprint(), (f"its inspection failed: {last[0]}",))
    found = json.loads(done.stdout.rpartition("\n")[2])
    return Inspection(**{**found, "problems": tuple(found["problems"])})


@contextmanager
def data_folder(given: str | None) -> Iterator[None]:
    """Let data sets be found where the command was told to find them, if this machine has that folder."""
    before = os.environ.get(FOLDER_VARIABLE)
    if given is not None and Path(given).is_dir():
        os.environ[FOLDER_VARIABLE] = given
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(FOLDER_VARIABLE, None)
        else:
            os.environ[FOLDER_VARIABLE] = before


def _inspect(question: Question) -> Inspection:
    problems: list[str] = []
    data: dict[str, str] = {}

    def attempt(what: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except NodebenchError as error:
            problems.append(f"{what}: {error}")

    for name in question.backends:
        attempt(f"backend `{name}`", lambda name=name: registry.describe("backend", name))  # type: ignore[misc]
    for task in question.tasks:
        attempt(f"task `{task[0]}`", lambda task=task: data.update({task[0]: _data(*task)}))  # type: ignore[misc]
    return Inspection(fingerprint(), tuple(problems), data, frameworks() if question.devices else {})


def _data(name: str, preset: Any, seed: int) -> str:
    """The data set that a task has here, found or fetched."""
    task: AbstractTask = registry.load("task", name, AbstractTask)
    return task.data(preset, seed).name


def main(text: str) -> None:
    """Print what this machine has."""
    asked = json.loads(text)
    question = Question(**{**asked, "backends": tuple(asked["backends"]), "tasks": tuple(map(tuple, asked["tasks"]))})
    sys.stdout.write(json.dumps(asdict(_inspect(question))))


if __name__ == "__main__":
    main(sys.argv[1])
