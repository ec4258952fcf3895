"""What a runner tells of its progress, for whoever shows it to a person."""

from dataclasses import dataclass

from nodebench.bench.plan import Cell
from nodebench.results.record import Record


@dataclass(frozen=True)
class Event:
    """Something to show to a person.

    Attributes:
        kind: `run`, `cell` (a cell enters a phase), `timing` or `training` (progress) or `record` (a cell has ended).
        text: What happened, in a few words.
        cell: The cell concerned.
        done: How much of the phase is done, out of `total`.
        total: The whole of the phase.
        record: The record of a cell that has ended.
    """

    kind: str
    text: str
    cell: Cell | None = None
    done: int | None = None
    total: int | None = None
    record: Record | None = None
