"""What a runner tells of its progress, for whoever shows it to a person."""

from dataclasses import dataclass

from nodebench.bench.plan import Cell
from nodebench.results.record import Record


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
