"""What the runner and a worker say to each other; plain values that are pickled over a socket."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebench.bench.plan import Cell
from nodebench.errors import NodebenchError
from nodebench.problem import Evaluations

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
    """

    cell: Cell | None
    cores: tuple[int, ...] | None = None
    memory_limit_bytes: int | None = None
    programs: Path | None = None
    ahead: str = ""

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
    """Why a command was not carried out.

    Attributes:
        status: The status the cell ends with.
        reason: One sentence.
        traceback: Where it happened, or the last lines that a dead worker printed; the runner adds to the one what the
            worker had printed before.
    """

    status: str
    reason: str
    traceback: str

    @property
    def figures(self) -> dict[str, Any]:
        """Fields of the record of a cell that failed so."""
        return {
            "status": self.status,
            "reason": self.reason,
            "stderr": self.traceback,
            "requested_bytes": self.requested_bytes,
        }

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
    text = f"{error}" if isinstance(error, NodebenchError) else f"{type(error).__name__}: {error}"
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

    first_step: float
    notes: list[str]
    files: dict[str, str]
    """Digests of the files of code that were loaded and belong to no installed package."""


@dataclass(frozen=True)
class Checked:
    """Answer to `check`: what was seen of a field."""

    notes: list[str]
    field_value: float | None
    """A figure of its values at fixed points."""
    field_derivative: float | None
    """The same of its derivatives."""
    files: dict[str, str]
    """Digests of the files of code, as in `Beginning`."""


@dataclass(frozen=True)
class Preparation:
    """Answer to `prepare`: what is known once a cell has made its first gradient step."""

    first_step_s: float
    compiles: bool
    """Whether that step compiled, as framework and backend declare."""
    n_params: int
    loss: float
    dataset: str
    notes: list[str]
    exact_counterpart: str | None
    conditions: dict[str, str]
    """What must be equal for all that are compared, as the worker's own objects show it."""
    differences: list[str]
    """What remains different by the nature of the library or method."""
    memory_exponent: float | None
    """p of the law memory ~ steps^p that the method states."""


@dataclass(frozen=True)
class Counts:
    """Answer to `count`."""

    evaluations: Evaluations
    steps: tuple[int, int] | None
    """Accepted and rejected steps of the forward solve, where the library tells."""
    fixed_grid: str = ""
    """The steps of a method that takes them as told, in words; empty for one that chooses them."""


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
class Turn:
    """Answer to `turn`: what a worker measured in its turn of the timing, per gradient step.

    Attributes:
        step_s: Wall time of one gradient step, in seconds.
        cpu_s: CPU time of one gradient step, all threads together, in seconds.
    """

    step_s: float
    cpu_s: float
