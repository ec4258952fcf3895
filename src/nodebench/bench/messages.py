"""What the runner and a worker say to each other; plain values that are pickled over a socket."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Protocol

from nodebench.bench.plan import Cell
from nodebench.errors import NodebenchError, Status, raised
from nodebench.plots import RenderedPlot
from nodebench.problem import Evaluations
from nodebench.results.record import Measurement, Record
from nodebench.tasks.field.objects import Objects

if TYPE_CHECKING:
    from nodebench.bench.request import Request, Settings
    from nodebench.results.machine import Cores


@dataclass(frozen=True)
class Event:
    """Something to show to a person.

    Attributes:
        kind: `run`, `cell` (a cell enters a phase), `timing` or `training` (progress), `record` (a cell has ended),
            `cluster` (what is going on where), `lost` (work is to be done again, since its machine is gone) or
            `waiting` (nothing can be done until a machine joins).
        text: What happened, in a few words.
        cell: The cell concerned.
        done: How much of the phase is done, out of `total`.
        total: The whole of the phase.
        record: The record of a cell that has ended.
        node: Name of the machine concerned, of `record` and `lost`.
        cluster: Of `cluster`, what is going on where.
    """

    kind: str
    text: str
    cell: Cell | None = None
    done: int | None = None
    total: int | None = None
    record: Record | None = None
    node: str = ""
    cluster: "ClusterState | None" = None


@dataclass(frozen=True)
class NodeState:
    """What one machine of several is doing.

    Attributes:
        name: Its name.
        running: What is at work there: a label, of how many more cells it is, and its phase.
        done: Cells that have ended there.
        failed: Those of them that did not end well.
    """

    name: str
    running: tuple[str, ...] = ()
    done: int = 0
    failed: int = 0


@dataclass(frozen=True)
class ClusterState:
    """What several machines are doing.

    Attributes:
        nodes: Each machine that there is.
        queued: Parts of the plan that wait for one.
        failed: Cells that did not end well, on whichever machine.
    """

    nodes: tuple[NodeState, ...]
    queued: int
    failed: int


OUT_OF_MEMORY = re.compile(
    r"out of memory|(?:can't|cannot) allocate memory|MemoryError|RESOURCE_EXHAUSTED|bad_alloc|OutOfMemory|cannot map",
    re.IGNORECASE,
)
"""How torch, XLA, Python and the dynamic linker say that an allocation was refused."""

LIMITED = re.compile(r"Resource temporarily unavailable|thread creation failed|can't start new thread", re.IGNORECASE)
"""How a process that may have no more memory says that it cannot have another thread."""

REQUESTED = re.compile(r"allocat(?:e|ing) (?:about )?([\d.]+) ?(bytes|[KMGTPE]i?B?)\b", re.IGNORECASE)
"""How torch, XLA and NumPy say what was asked for."""


@dataclass(frozen=True)
class Assignment:
    """What a worker is for.

    Attributes:
        cell: The cell; None for one that is asked about a plugin alone.
        cores: The cores it may use; None for all.
        memory_limit_bytes: Limit of what it may allocate beyond its idle size, or None.
        programs: Folder where a compiling framework keeps and finds its programs, or None.
        ahead: Framework that its launcher has imported, where there is no cell.
        objects: Objects of the caller's process that its task is made of, pickled, by digest.
    """

    cell: Cell | None
    cores: tuple[int, ...] | None = None
    memory_limit_bytes: int | None = None
    programs: Path | None = None
    ahead: str = ""
    objects: Objects = field(default_factory=dict)

    @classmethod
    def of(cls, cell: Cell, settings: "Settings", programs: Path | None = None, cores: "Cores" = None) -> "Assignment":
        """What a worker of a cell is told.

        Args:
            cell: The cell.
            settings: How it is measured.
            programs: Where compiled programs are kept, or None.
            cores: The cores that it may use; None for those of the settings.
        """
        limit = None if settings.memory_limit_gib is None else int(settings.memory_limit_gib * 2**30)
        return cls(cell, cores or settings.cores, limit, programs, objects=settings.objects)

    @property
    def framework(self) -> str:
        """Framework that it needs first."""
        return self.ahead if self.cell is None else self.cell.framework

    @property
    def threads(self) -> int:
        """Threads that it may have."""
        return 1 if self.cell is None else self.cell.threads


@dataclass(frozen=True)
class Failure:
    """Why a question was not answered.

    Attributes:
        status: The status the cell ends with.
        reason: One sentence.
        traceback: Where it happened, or the last lines that a dead worker printed; the runner adds to the one what the
            worker had printed before.
    """

    status: Status
    reason: str
    traceback: str

    @classmethod
    def of_error(cls, error: Exception) -> "Failure":
        """The failure that an exception of the runner's own is, which says what no worker could say."""
        return cls("failed", sentence_of(error), "".join(format_exception(error)))

    def of(self, found: Measurement) -> Measurement:
        """What is known of a cell that failed so, after what was found before."""
        return replace(
            found,
            status=self.status,
            reason=self.reason,
            stderr=self.traceback,
            requested_bytes=self.requested_bytes,
        )

    @property
    def requested_bytes(self) -> int | None:
        """What was asked for when memory ran out, where that is known."""
        found = REQUESTED.search(f"{self.reason}\n{self.traceback}") if self.status == "oom" else None
        if found is None:
            return None
        number, unit = found.groups()
        powers = "KMGTPE"
        power = 0 if unit.lower() == "bytes" else powers.index(unit[0].upper()) + 1
        return int(float(number) * 1024**power)


def sentence_of(error: BaseException) -> str:
    """What an exception says, on one line; one that is none of ours with its type."""
    text = f"{error}" if isinstance(error, NodebenchError) else raised(error)
    return " ".join(text.split())


@dataclass(frozen=True)
class Planned:
    """Answer to `plan`: the cells of a task, or why there are none."""

    cells: tuple[Cell, ...]
    unsupported: dict[str, str]
    """Cells that cannot be measured, by id, with the reason."""
    reason: str = ""
    is_plugins: bool = False
    """Whether the reason lies in the plugin, and not in what was asked for."""


@dataclass(frozen=True)
class Beginning:
    """Answer to `begin`: what is the same for all cells that are compared."""

    found: Measurement
    """With the first step of every solve."""
    files: dict[str, str]
    """Digests of the files of code that were loaded and belong to no installed package."""

    @property
    def first_step(self) -> float:
        """The first step of every solve."""
        assert self.found.first_step is not None, "it has been chosen"
        return self.found.first_step


@dataclass(frozen=True)
class Checked:
    """Answer to `check`: what was seen of a field."""

    found: Measurement
    files: dict[str, str]
    """Digests of the files of code, as in `Beginning`."""


@dataclass(frozen=True)
class Preparation:
    """Answer to `prepare`: what is known once a cell has made its first gradient step."""

    found: Measurement
    compiles: bool
    """Whether that step compiled, as framework and backend declare."""
    exact_counterpart: str | None
    conditions: dict[str, str]
    """What must be equal for all that are compared, as the worker's own objects show it."""


@dataclass(frozen=True)
class Counts:
    """Answer to `count`."""

    found: Measurement
    evaluations: Evaluations
    fixed_grid: str = ""
    """The steps of a method that takes them as told, in words; empty for one that chooses them."""


@dataclass(frozen=True)
class Sizes:
    """Answer to `memory` and `training_memory`."""

    found: Measurement
    resident_bytes: int | None
    """Highest resident set of the worker so far."""


@dataclass(frozen=True)
class Trained:
    """Answer to `train`."""

    found: Measurement
    plots: tuple[RenderedPlot, ...]
    """Plots of the trained model."""
    files: dict[str, str]
    """Digests of the files of code, as in `Beginning`."""


@dataclass(frozen=True)
class ReferenceFile:
    """Answer to `reference`: where the reference lies, or why there is none."""

    path: Path | None
    reason: str | None = None
    finest: bool = True
    """Whether there is no more accurate one to be had."""
    contradicted: bool = False
    """Whether the gradient that a solver can compute is not that of the loss; the reason says how."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiscreteReference:
    """Answer to `discrete`: where the exact gradients of a discretisation lie, and the steps that it takes."""

    path: Path
    steps: tuple[int, int] | None


@dataclass(frozen=True)
class TrainingProgress:
    """What a worker reports while it trains.

    Attributes:
        done: Training steps done.
        total: Training steps in all.
        loss: Loss of the last one.
    """

    done: int
    total: int
    loss: float


@dataclass(frozen=True)
class Turn:
    """Answer to `turn`: what a worker measured in its turn of the timing, per gradient step.

    Attributes:
        step_s: Wall time of one gradient step, in seconds.
        cpu_s: CPU time of one gradient step, all threads together, in seconds.
    """

    step_s: float
    cpu_s: float


class Questions(Protocol):
    """What a runner may ask a worker; both ends hold to it.

    A worker implements each question as a method of this name, and `nodebench.bench.client` sends a question by its
    name, so that its arguments and its answer have the same types at both ends.
    """

    def importing(self) -> None:
        """Import all that the cell needs, which a worker does unasked."""

    def plan(
        self, task: str, request: "Request", backends: Sequence[tuple[str, str]], along: tuple[str, float] | None
    ) -> Planned:
        """The cells of a task; see `task_cells`."""

    def pin(self) -> None:
        """Keep to the assigned cores from here on."""

    def begin(self, inputs: Path) -> Beginning:
        """Make what all cells of the group are handed, once the field has been found fit for being measured.

        Args:
            inputs: Where the whole state of the model and the batch are written.
        """

    def reference(self, first_step: float, inputs: Path, folder: Path, level: int) -> ReferenceFile:
        """Gradients of the continuous problem, found in a folder or computed; see `solve_reference`."""

    def discrete(self, first_step: float, inputs: Path, folder: Path) -> DiscreteReference:
        """Gradients, in float64, of the problem as the cell's backend discretises it; see `solve_discrete`."""

    def check(self, first_step: float, inputs: Path) -> Checked:
        """Look at the field in the dtype of the cell.

        Args:
            first_step: First step of every solve.
            inputs: What `begin` wrote.
        """

    def prepare(self, first_step: float, inputs: Path) -> Preparation:
        """Build everything and make the first gradient step; arguments as for `check`. It comes before those below."""

    def count(self) -> Counts:
        """Count evaluations and steps, in instrumented runs of their own."""

    def gradients(self, path: Path) -> None:
        """Write the gradients of a step, and the states at the output times, to be judged with those of other cells."""

    def memory(self) -> Sizes:
        """Peak memory of one warmed gradient step, what it leaves behind, and the bytes that it keeps."""

    def split(self, seconds: float) -> Measurement:
        """Median times of forward and backward pass, taken for about so long."""

    def floor(self, evaluations: Evaluations, seconds: float) -> Measurement:
        """What the step's own evaluations and VJPs cost, its loss, and how far above the first the rest of it is.

        Nothing where a step does not consist of calls of its field.

        Args:
            evaluations: What was counted of a step.
            seconds: About how long this may take.
        """

    def warm_up(self) -> None:
        """The steps before the timing, which also decide how many a turn has."""

    def turn(self) -> Turn:
        """One turn of the timing."""

    def prepare_training_step(self, first_step: float | None) -> Measurement:
        """Build model, optimiser and batch, and make the first training step.

        It comes before `training_memory`, `warm_up` and `turn`, whose step then is one of the training. The learning
        rate is zero, so that each is made at the initial weights.

        Args:
            first_step: First step of every solve; None for a model without an ODE.

        Raises:
            DivergedError: If its loss is not finite.
        """

    def training_memory(self) -> Sizes:
        """Peak memory of one warmed training step."""

    def train(self, first_step: float | None, checkpoint: str, n_moments: int, kept: Path) -> Trained:
        """Train by the preset's recipe, from the checkpoint where it is of this very training, and evaluate.

        Reports on the way how far it is, as `TrainingProgress`.

        Args:
            first_step: First step of every solve; None for a model without an ODE.
            checkpoint: Where the checkpoint is.
            n_moments: At how many moments, beside the beginning, its weights are kept; 0 for none at all.
            kept: Folder in which they are kept, also of a training that fails; see `nodebench.bench.tracking`.
        """
