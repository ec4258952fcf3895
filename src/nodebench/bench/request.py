"""What a user asks to be measured, and how, as the command line, Python and tests say it."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import cycle, islice
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodebench.bench.plan import Cell
from nodebench.errors import UnknownNameError, UserError
from nodebench.registry import GIVEN, split_list
from nodebench.results.machine import Cores, available_cores, usable_cores

if TYPE_CHECKING:
    from nodebench.tasks.base import Preset

TRAINED = ("training", "both")
"""What there is to measure of which a training is part."""

NAMES = ("backends", "tasks", "models", "solvers")
"""Fields of a request that are names."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks to be measured; a sequence left empty means the default.

    Names are taken from a list, or from a string with commas between them, and kept as a tuple.

    Attributes:
        backends: Gradient method, name[option=value]; or `all`. Of `all` the first is torchdiffeq, then diffrax.
        tasks: Task, name[option=value]; or `all`.
        models: Model of the task; or `all`.
        dataset: Data set of the task. It is handed to tasks as their option `dataset`.
        measure: gradient, untimed (errors, evaluations, memory), counts (evaluations), training, training-step (its
            memory and time), or both (gradient and training).
        preset: Budget: smoke, quick, standard or paper.
        solvers: Solver; see `nodebench list solvers`.
        controller: Step-size controller: integral or pi.
        rtols: Relative tolerance.
        atol: Absolute tolerance (default: --rtol, if that is given).
        first_step: First step size, or that of every fixed step (default: 20 steps in all).
        max_steps: Step limit of one solve. The task has its own by default.
        dtype: float32 or float64. The task has its own by default, float32 but for stiff and chaotic systems.
        device: cpu or cuda.
        batch_size: Examples in a step (default: the recipe's).
        seeds: Seed of weights, data order and noise (default: 0).
        field: A field by itself, file.py:Class, to measure without a task; `y0` says where it starts.
        y0: Initial state of the field: a shape such as 64x2, or a file y0.npy or y0.pt.
        times: Output times of the field: first:last:number, or several with commas (default: 0:1:2).
        weights: Weights of the field: a file .pt, .safetensors or .eqx (default: as it is made).
        init_args: Arguments that the class of the field is made with, name=value.
        threads: Threads of a worker. One by default: on steps as small as these a second one gains little, and where
            another process takes its core for a moment, threads that wait for each other cost many times a step.

    Raises:
        UserError: If a sequence is none.
    """

    backends: Sequence[str] = ()
    tasks: Sequence[str] = ()
    models: Sequence[str] = ()
    dataset: str | None = None
    measure: str = "both"
    preset: "Preset" = "quick"
    solvers: Sequence[str] = ()
    controller: str = "integral"
    rtols: Sequence[float] = ()
    atol: float | None = None
    first_step: float | None = None
    max_steps: int | None = None
    dtype: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    seeds: Sequence[int] = (0,)
    threads: int = 1
    field: str | None = None
    y0: str | None = None
    times: str | None = None
    weights: str | None = None
    init_args: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_types(self)
        self._keep("init_args", several("init_args", self.init_args))
        for name in NAMES:
            given = several(name, getattr(self, name))
            self._keep(name, tuple(part for text in given for part in split_list(text)))
        self._keep("rtols", several("rtols", self.rtols))
        self._keep("seeds", tuple(dict.fromkeys(several("seeds", self.seeds))) or (0,))

        self._name_field()

    def _name_field(self) -> None:
        """Make of a field that is given a task, of which the gradient alone can be measured."""
        given = {"y0": self.y0, "times": self.times, "weights": self.weights, "init-args": self.init_args or None}
        if self.field is None:
            alone = [f"--{name}" for name, value in given.items() if value is not None]
            if alone:
                raise UserError(f"`{alone[0]}` is of a field; name it with `--field file.py:Class`.")
            return
        if self.tasks and self.tasks != (self._field_task,):
            raise UserError("`--field` measures a field by itself, without a task; leave `--task` or `--field` out.")
        if self.measure in ("training", "training-step"):
            raise UserError("a field by itself has no data to be trained on; `nodebench new task` makes a task.")
        if self.y0 is None:
            raise UserError(
                "`--field` needs to know where it starts: `--y0 64x2` draws a state of that shape, `--y0 y0.npy` reads "
                "one."
            )
        self._keep("tasks", (self._field_task,))
        self._keep("measure", "gradient" if self.measure == "both" else self.measure)

    @property
    def _field_task(self) -> str:
        said = {
            "field": self.field,
            "y0": self.y0,
            "times": self.times,
            "weights_file": self.weights,
            "init": ",".join(self.init_args),
        }
        # In brackets what has commas of its own.
        inner = (f"{name}=[{value}]" if "," in value else f"{name}={value}" for name, value in said.items() if value)
        return f"{GIVEN}[{','.join(inner)}]"

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


KINDS: Mapping[str, tuple[type, str]] = {
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "text"),
    "Preset": (str, "text"),
    "Axis": (str, "text"),
    "Path": (os.PathLike, "a path"),
}
"""What a value must be an instance of whose annotation has this word, and how that is said."""


def check_types(options: "Request") -> None:
    """Check that each option has a value of the type that it is annotated with: a script of a user's is not typed.

    Raises:
        UserError: If one has not.
    """
    for option in fields(options):
        value, annotation = getattr(options, option.name), str(option.type)
        kinds = [kind for word, kind in KINDS.items() if re.search(rf"\b{word}\b", annotation)]
        # What may be named otherwise is looked up where it is used.
        if not kinds or "Baseline" in annotation or "Mapping" in annotation:
            continue
        are_several = "Sequence" in annotation
        if value is None and (are_several or "None" in annotation):
            continue
        values = value if are_several and isinstance(value, list | tuple) else [value]
        allowed = tuple(kind for kind, _ in kinds)
        for each in values:
            if not isinstance(each, allowed) or (isinstance(each, bool) and bool not in allowed):
                raise UserError(f"`{option.name}` must be {' or '.join(said for _, said in kinds)}; got {each!r}.")


def several(name: str, values: Any) -> tuple[Any, ...]:
    """The values of a list; a name that stands alone is a list of one.

    Raises:
        UserError: If it is no list.
    """
    if isinstance(values, str) and name in NAMES:
        return (values,)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"`{name}` must be a list; got {values!r}.")
    return tuple(values)


BUDGETS_S: Mapping[str, float] = {"smoke": 3.0, "quick": 20.0, "standard": 60.0, "paper": 120.0}
"""Timing budget of a cell by preset, in seconds."""

TIMEOUTS_S: Mapping[str, float | None] = {"smoke": 300.0, "quick": 1200.0, "standard": 7200.0, "paper": None}
"""Longest pass of a cell in one attempt by preset, in seconds; training as a whole is one pass."""

MOST_JOBS = 1000
"""More at once no machine has the memory for."""


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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a plan is measured; none of it changes what a cell is.

    Attributes:
        jobs: Cells whose untimed passes run in parallel (default: as many as the cores permit).
        rounds: Timing rounds (default: until --precision or --budget-s). They are spread over the starts.
        budget_s: Timing budget of a cell, in seconds. The preset has its own by default. The first few starts, without
            which there is no interval, are made whatever they take.
        precision: Relative half width of a ratio's interval that ends the timing. The interval is that of 95 %.
        timeout_s: Time limit of a pass of a cell in one attempt, in seconds; a training is one pass, and goes on from
            its checkpoint when it is measured again. The preset has its own by default.
        memory_limit_gib: Memory limit of a worker above its idle size, in GiB.
        max_grad_error: Relative gradient error above which a cell is `wrong_gradient`. That of a zero gradient is 1.
        track_error: Moments of a training, the last its end, at which its gradient's error is measured; 0 for none.
            They are ends of epochs, spread evenly, or all that there are; the initial weights are one more.
        control: Backend that time ratios refer to (default: the first of each group; of `all` torchdiffeq, or diffrax
            in JAX).
        cores: Cores that workers may use, the same for all; None for all cores.
        interpreter: How workers are started.
        objects: Objects of the caller's process that tasks are made of, pickled, by digest.
    """

    jobs: int | None = None
    rounds: int | None = None
    budget_s: float | None = None
    precision: float = 0.05
    timeout_s: float | None = None
    memory_limit_gib: float | None = None
    max_grad_error: float = 1.0
    track_error: int = 0
    control: str | None = None
    cores: Cores = None
    interpreter: Interpreter = field(default_factory=Interpreter)
    objects: Mapping[str, bytes] = field(default_factory=dict)

    def timeout(self, cell: Cell) -> float | None:
        """Longest pass of a cell in one attempt, in seconds."""
        return TIMEOUTS_S[cell.preset] if self.timeout_s is None else self.timeout_s

    def budget(self, cell: Cell) -> float:
        """Timing budget of a cell, in seconds."""
        return BUDGETS_S[cell.preset] if self.budget_s is None else self.budget_s

    def slots(self, threads: int) -> list[Cores]:
        """The cores of each job that is at work side by side with others, each of so many threads."""
        n = max(1, usable_cores() // threads) if self.jobs is None else self.jobs
        if self.cores is None:
            return [None] * n
        others = [core for core in available_cores() if core not in self.cores]
        whole = [tuple(others[at : at + threads]) for at in range(0, len(others) - threads + 1, threads)]
        # More jobs than there are cores for share them.
        return list(islice(cycle([self.cores, *whole]), n))

    def __post_init__(self) -> None:
        numbers = {
            "--rounds": self.rounds,
            "--budget-s": self.budget_s,
            "--timeout-s": self.timeout_s,
            "--precision": self.precision,
            "--max-grad-error": self.max_grad_error,
            "--memory-limit-gib": self.memory_limit_gib,
        }
        for name, value in numbers.items():
            if value is not None and not (value > 0 and isfinite(value)):
                raise UserError(f"`{name}` must be positive and finite; got {value}.")
        if self.track_error < 0:
            raise UserError(f"`--track-error` must be at least 1, or 0 to track nothing; got {self.track_error}.")
        if self.jobs is not None and not 1 <= self.jobs <= MOST_JOBS:
            raise UserError(f"`--jobs` must be from 1 to {MOST_JOBS}; got {self.jobs}.")


EXECUTORS = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """Where the work is done.

    Attributes:
        executor: Where to measure: local, or ray for a cluster of machines.
        ray_address: HOST:PORT of the cluster's head, or `auto`; a Ray of this machine by default.
        checkpoint_dir: Folder of training checkpoints, a path or fsspec URL (default: beside the store, on a cluster
            none). All nodes of a cluster must share it. A checkpoint serves whichever run measures its cell next; it is
            removed when the cell has ended well or diverged, or when it has not been written to for 30 days.
        group_cpus: With ray: CPUs reserved for each timed group (default: those of the smallest node). With a GPU: its
            share of them.
        retries: With ray: retries of a cell after its node is lost (default: 3).
        allow_mixed: With ray: continue when nodes have other versions or lack something. Nodes that cannot do the work
            are then left out.

    Raises:
        UserError: If there is no such executor, a number is out of its range, or an option belongs to the other one.
    """

    executor: str = "local"
    ray_address: str | None = None
    checkpoint_dir: str | None = None
    group_cpus: int | None = None
    retries: int | None = None
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UnknownNameError("executor", self.executor, EXECUTORS)
        for_ray = {
            "--ray-address": self.ray_address is not None,
            "--group-cpus": self.group_cpus is not None,
            "--retries": self.retries is not None,
            "--allow-mixed": self.allow_mixed,
        }
        given = [option for option, is_given in for_ray.items() if is_given]
        if given and self.executor != "ray":
            raise UserError(f"`{given[0]}` belongs to `--executor ray`.")
        if self.retries is not None and self.retries < 0:
            raise UserError(f"`--retries` must not be negative; got {self.retries}.")
        if self.group_cpus is not None and self.group_cpus < 1:
            raise UserError(f"`--group-cpus` must be at least 1; got {self.group_cpus}.")
