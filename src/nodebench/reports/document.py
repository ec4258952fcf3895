"""A page as plain values, made once and written as HTML, Markdown or LaTeX, and figures as the text that stands in it.

Text is plain but for names in `backticks`, which each format sets as code; a writer escapes all else. What all writers
agree on stands here too: numbered reasons, the order of entries, all blocks.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from nodebench.plots import RenderedPlot


Tone = Literal["", "bad", "doubtful", "good", "new"]

ABSENT = "-"
"""What stands where a figure was not measured."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading, unit included, for example `peak MiB`.
        meaning: What it holds and how it is taken, in one sentence; empty where the heading says all.
        numeric: Whether it holds numbers, which stand to the right.
        wraps: Whether a terminal may set its texts in several lines.
        whole_words: Whether they wrap between words alone.
        further: Whether it is seen only by who asks for further columns, where the format allows it; these come last.
    """

    title: str
    meaning: str = ""
    numeric: bool = True
    wraps: bool = False
    whole_words: bool = False
    further: bool = False


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table.

    Attributes:
        text: As it is printed in every format.
        value: What it is sorted by; None where it has no value, which sorts last either way.
        reason: Why there is no value, where there is none and the reason is known.
        best: Whether it is among the best of its column.
        tone: What a terminal tells by its colour: that something is `bad`, `doubtful`, `good` or `new`.
    """

    text: str
    value: float | str | None = None
    reason: str | None = None
    best: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table that a reader may sort.

    Attributes:
        name: Key among the tables of a page: letters, digits and hyphens.
        caption: What it shows, in one sentence.
        columns: Its columns.
        rows: Its rows, each with an entry for every column.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A chart of figures.

    Attributes:
        name: Key among the charts of a page: letters, digits and hyphens; the name of its file.
        caption: What it shows, in one sentence.
        definition: An `altair` chart, from which both the interactive and the static one are made.
    """

    name: str
    caption: str
    definition: Any


@dataclass(frozen=True)
class Picture(Chart):
    """A chart that is seen at a glance, drawn without a script.

    Attributes:
        narrow: The same chart for a telephone.
    """

    narrow: Any = None


@dataclass(frozen=True)
class Drawing:
    """A plot of a trained model.

    Attributes:
        name: Key among the drawings of a page: letters, digits and hyphens; the name of its file.
        caption: Of which model it is, in one sentence.
        plot: The plot, as it was rendered when the model had been trained.
    """

    name: str
    caption: str
    plot: "RenderedPlot"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Missing:
    """A hole where something would stand.

    Attributes:
        what: What would stand here, for example `work-precision diagram`.
        reason: Why it does not, in one sentence.
    """

    what: str
    reason: str


@dataclass(frozen=True)
class Details:
    """What only some readers want to see, folded away where the format allows it."""

    title: str
    blocks: tuple["Block", ...]


Block = Paragraph | Bullets | Table | Chart | Drawing | Missing | Details


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of its own."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A page.

    Tables, charts and drawings whose names would give one key are numbered when the page is made: by their keys a
    writer finds them, and names their files.

    Attributes:
        title: Its title.
        facts: When, where and by which command it was made: name and text of each; they follow what it opens with.
        lead: What it opens with.
        sections: The rest.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    lead: tuple[Block, ...]
    sections: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        taken: set[tuple[bool, str]] = set()
        lead = tuple(_distinct(self.lead, taken))
        sections = tuple(replace(part, blocks=tuple(_distinct(part.blocks, taken))) for part in self.sections)
        object.__setattr__(self, "lead", lead)
        object.__setattr__(self, "sections", sections)


def key(name: str) -> str:
    """A name as part of an identifier or file name: letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "unnamed"


def _distinct(blocks: Sequence[Block], taken: set[tuple[bool, str]]) -> Iterator[Block]:
    """Blocks whose keys are neither taken nor twice among them; what they have is taken from then on."""
    for block in blocks:
        if isinstance(block, Details):
            yield replace(block, blocks=tuple(_distinct(block.blocks, taken)))
        elif isinstance(block, Table | Chart | Drawing):
            yield _named(block, taken)
        else:
            yield block


def _named(block: Table | Chart | Drawing, taken: set[tuple[bool, str]]) -> Table | Chart | Drawing:
    # Charts and drawings are files in one folder, and some systems do not tell small letters from capital ones.
    is_table, stem, n = isinstance(block, Table), key(block.name), 1
    while (is_table, (name := stem if n == 1 else f"{stem}-{n}").lower()) in taken:
        n += 1
    taken.add((is_table, name.lower()))
    return block if n == 1 else replace(block, name=name)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, whole from `10 ** digits` on, or `ABSENT`."""
    if value is None:
        return ABSENT
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """A whole number, or `ABSENT`."""
    return ABSENT if value is None else str(value)


def mebibytes(value: int | None) -> str:
    """Bytes as MiB, or `ABSENT`."""
    return number(None if value is None else value / 2**20, 4)


def milliseconds(value: float | None) -> str:
    """Seconds as ms, or `ABSENT`."""
    return number(None if value is None else 1000 * value, 4)


def interval(low: float | None, high: float | None, scale: float = 1.0) -> str:
    """The ends of an interval, or nothing."""
    return "" if low is None or high is None else f"{number(scale * low)}..{number(scale * high)}"


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


def main_columns(table: Table) -> Table:
    """A table without its further columns."""
    kept = [at for at, column in enumerate(table.columns) if not column.further]
    rows = tuple(tuple(row[at] for at in kept) for row in table.rows)
    return replace(table, columns=tuple(table.columns[at] for at in kept), rows=rows)


def order(column: Column, entry: Entry) -> float | str | None:
    """What an entry is sorted by; None sorts last either way.

    A text without a value stands for itself, unless it says that nothing is there.
    """
    if isinstance(entry.value, float) and isnan(entry.value):
        return None
    if entry.value is not None:
        return entry.value
    if column.numeric or entry.reason or entry.text in {"", ABSENT}:
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
