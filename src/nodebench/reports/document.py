"""A page as plain values, made once and written as HTML, Markdown or LaTeX.

Text is plain but for names in `backticks`, which each format sets as code; a writer escapes all else.
"""

from dataclasses import dataclass
from typing import Any

from nodebench.pictures import Picture


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading, unit included, for example `peak MiB`.
        meaning: What it holds and how it is taken, in one sentence; empty where the heading says all.
        numeric: Whether it holds numbers, which stand to the right.
    """

    title: str
    meaning: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table.

    Attributes:
        text: As it is printed in every format.
        value: What it is sorted by; None where it has no value, which sorts last either way.
        reason: Why there is no value, where there is none and the reason is known.
        best: Whether it is among the best of its column.
    """

    text: str
    value: float | str | None = None
    reason: str | None = None
    best: bool = False


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
class Drawing:
    """A picture of a trained model.

    Attributes:
        name: Key among the drawings of a page: letters, digits and hyphens; the name of its file.
        caption: Of which model it is, in one sentence.
        picture: What is drawn.
        animated: Whether moments of a moving picture are played as well.
    """

    name: str
    caption: str
    picture: Picture
    animated: bool = False


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

    Attributes:
        title: Its title.
        facts: When, where and by which command it was made: name and text of each.
        lead: What it opens with.
        sections: The rest.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    lead: tuple[Block, ...]
    sections: tuple[Section, ...] = ()
