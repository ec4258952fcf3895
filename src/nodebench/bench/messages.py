"""What the runner and a worker say to each other; plain values that are pickled over a socket."""

import re
from dataclasses import dataclass
from pathlib import Path

from nodebench.bench.plan import Cell
from nodebench.problem import Evaluations

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|RESOURCE_EXHAUSTED|bad_alloc|OutOfMemory", re.IGNORECASE
)
"""How torch and XLA say that an allocation was refused."""


@dataclass(frozen=True)
class Assignment:
    """What a worker is for.

    Attributes:
        cell: The cell.
        cores: The cores it may use; None for all.
        memory_limit_bytes: Limit of what it may allocate beyond its idle size, or None.
    """

    cell: Cell
    cores: tuple[int, ...] | None = None
    memory_limit_bytes: int | None = None


@dataclass(frozen=True)
class Failure:
    """Why a command was not carried out.

    Attributes:
        status: The status the cell ends with; None where the request itself is wrong and the run must end.
        reason: One sentence.
        traceback: Where it happened.
    """

    status: str | None
    reason: str
    traceback: str


@dataclass(frozen=True)
class Preparation:
    """Answer to `prepare`: what is known once a cell has made its first gradient step."""

    first_step_s: float
    n_params: int
    loss: float
    dataset: str
    notes: list[str]
    exact_counterpart: str | None


@dataclass(frozen=True)
class Counts:
    """Answer to `count`."""

    evaluations: Evaluations
    steps: tuple[int, int] | None
    """Accepted and rejected steps of the forward solve, where the library tells."""


@dataclass(frozen=True)
class ReferenceFile:
    """Answer to `reference`: where the reference lies, or why there is none."""

    path: Path | None
    reason: str | None = None


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
        forward_s: Wall time of the forward pass of one more step, in seconds.
        backward_s: Wall time of its backward pass, in seconds.
    """

    step_s: float
    cpu_s: float
    forward_s: float
    backward_s: float
