"""What a node has of what a plan needs: versions, plugins, data.

The program that finds it out runs on the node as a worker would, so that it finds what a worker finds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nodebench import registry
from nodebench.bench.plan import Plan
from nodebench.bench.request import Interpreter
from nodebench.errors import NodebenchError
from nodebench.results.machine import Fingerprint, fingerprint, frameworks
from nodebench.tasks.base import AbstractTask, Preset
from nodebench.tasks.mnist.data import FOLDER_VARIABLE

INSPECTION_S = 600.0
"""How long an inspection may take, which may have to fetch data."""


@dataclass(frozen=True)
class Requirements:
    """What a node must have.

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
    tasks: tuple[tuple[str, Preset, int], ...] = ()
    devices: bool = False

    @classmethod
    def of(cls, plan: Plan, data: str | None) -> "Requirements":
        """What nodes must have for a plan, started in this folder and with a folder of data sets or None."""
        tasks = {cell.task: (cell.task, cell.preset, cell.seed) for cell in reversed(plan.cells)}
        backends = dict.fromkeys(cell.backend for cell in plan.cells if cell.backend is not None)
        return cls(str(Path.cwd()), data, tuple(backends), tuple(tasks.values()))

    def interpreter(self) -> Interpreter:
        """How workers of the command are started on this machine."""
        return Interpreter(folder=Path(self.folder) if Path(self.folder).is_dir() else Path(os.sep))


@dataclass(frozen=True)
class NodeInspection:
    """What a node has.

    Attributes:
        environment: Its fingerprint.
        problems: Why work of the plan cannot be done there, a sentence each.
        data: The data set that each task has there.
        frameworks: What each framework says of its devices; empty where they were not asked.
    """

    environment: Fingerprint
    problems: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    frameworks: Mapping[str, str] = field(default_factory=dict)


def inspect_here(requirements: Requirements) -> NodeInspection:
    """Inspect this machine, by a process that is started as workers are."""
    interpreter = requirements.interpreter()
    with data_folder(requirements.data):
        environment = {**os.environ, "PYTHONPATH": interpreter.search_path}
    command = [*interpreter.command, "-m", __name__, json.dumps(asdict(requirements))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSPECTION_S, check=False, cwd=interpreter.folder,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return NodeInspection(fingerprint(), (f"its inspection took longer than {INSPECTION_S:g} s",))
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return NodeInspection(fingerprint(), (f"its inspection failed: {last[0]}",))
    found = json.loads(done.stdout.rpartition("\n")[2])
    return NodeInspection(**{**found, "problems": tuple(found["problems"])})


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


def main(asked: str) -> None:
    """Print what this machine has of `Requirements`, both as JSON."""
    given = json.loads(asked)
    requirements = Requirements(
        **{**given, "backends": tuple(given["backends"]), "tasks": tuple(map(tuple, given["tasks"]))}
    )
    problems: list[str] = []
    data: dict[str, str] = {}

    @contextmanager
    def problem_with(what: str) -> Iterator[None]:
        try:
            yield
        except NodebenchError as error:
            problems.append(f"{what}: {error}")

    for name in requirements.backends:
        with problem_with(f"backend `{name}`"):
            registry.describe("backend", name)
    for name, preset, seed in requirements.tasks:
        with problem_with(f"task `{name}`"):
            task: AbstractTask = registry.load("task", name, AbstractTask)
            data[name] = task.data(preset, seed).name  # found or fetched
    found = NodeInspection(fingerprint(), tuple(problems), data, frameworks() if requirements.devices else {})
    sys.stdout.write(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(sys.argv[1])
