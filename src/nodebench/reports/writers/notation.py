"""What all writers of pages agree on: names in backticks, numbered reasons, the order of entries, all blocks."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

from nodebench.reports.document import Block, Chart, Column, Details, Document, Drawing, Entry, Table


@dataclass(frozen=True)
class Span:
    """A piece of a text.

    Attributes:
        text: What it says, without backticks.
        code: Whether it stood in backticks.
    """

    text: str
    code: bool


def spans(text: str) -> tuple[Span, ...]:
    """The pieces of a text in its order; a backtick without a partner is itself."""
    pieces = re.split(r"`([^`]+)`", text)
    return tuple(Span(piece, bool(at % 2)) for at, piece in enumerate(pieces) if piece)


def caption(block: Chart | Drawing) -> str:
    """What stands below a chart or a drawing."""
    if isinstance(block, Drawing):
        return f"{block.plot.caption.rstrip('.')}. {block.caption}"
    return block.caption


def reasons(table: Table) -> dict[str, int]:
    """Why entries of a table have no value, each reason once, numbered from 1 as they come."""
    found = dict.fromkeys(entry.reason for row in table.rows for entry in row if entry.reason)
    return {reason: number for number, reason in enumerate(found, start=1)}


def meanings(table: Table) -> tuple[Column, ...]:
    """The columns of a table that have something to explain."""
    return tuple(column for column in table.columns if column.meaning)


def order(column: Column, entry: Entry, absent: str = "-") -> float | str | None:
    """What an entry is sorted by; None sorts last either way.

    A text without a value stands for itself, unless it says that nothing is there.
    """
    if isinstance(entry.value, float) and isnan(entry.value):
        return None
    if entry.value is not None:
        return entry.value
    if column.numeric or entry.reason or entry.text in {"", absent}:
        return None
    return entry.text


def flattened(blocks: Sequence[Block]) -> Iterator[Block]:
    """Blocks in the order of reading, those that are folded away included."""
    for block in blocks:
        if isinstance(block, Details):
            yield from flattened(block.blocks)
        else:
            yield block


def contents(document: Document) -> tuple[Block, ...]:
    """Every block of a page in the order of reading."""
    parts = (document.lead, *(section.blocks for section in document.sections))
    return tuple(block for blocks in parts for block in flattened(blocks))
