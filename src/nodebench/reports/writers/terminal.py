"""Writes tables and pages to a terminal, or to a pipe, which has no width."""

from collections.abc import Callable, Iterable, Mapping
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import measure_renderables
from rich.table import Table as RichTable
from rich.text import Text

from nodebench.reports.document import (
    ABSENT,
    Block,
    Bullets,
    Details,
    Document,
    Entry,
    Missing,
    Paragraph,
    Table,
    Tone,
    reasons,
)

NARROWEST = 8
"""Characters in a line of a column that wraps, at the least."""

UNBOUNDED = 10_000
"""A width that no table has."""

PIPED = 200
"""Characters in a line of what is piped, at the least."""

COLOURS: Mapping[Tone, str] = {"bad": "red", "doubtful": "yellow", "good": "green", "new": "cyan"}


def new_console(*, err: bool = False) -> Console:
    """A console on stdout, or on stderr, that does not fold what is piped."""
    console = Console(stderr=err, highlight=False, emoji=False)
    return console if console.is_terminal else Console(stderr=err, highlight=False, emoji=False, width=PIPED)


def is_whole(console: Console) -> bool:
    """Whether lines stay whole: what is piped is not folded."""
    return not console.is_terminal and console.width >= PIPED


def text_of(show: Callable[[Console], object], width: int) -> str:
    """What is printed on a terminal of some width, without colours."""
    # Within a notebook a console would show what it prints, wherever that is to go.
    console = Console(
        file=StringIO(), width=width, highlight=False, emoji=False, force_jupyter=False, color_system=None
    )
    show(console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # what it was given


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table on stdout; where a terminal is too narrow for it, a line for each of its entries."""
    console = console or new_console()
    numbers = reasons(table)
    if table.caption:
        console.print(escape(table.caption.replace("`", "")), style="italic")
    found = _closer(console, table, numbers)
    width = _width(console, found, wraps=True)
    if not console.is_terminal:
        console.print(found, width=max(width, console.width), crop=False)
    elif width <= console.width:
        console.print(found)
    else:
        _print_entries(console, table, numbers)
    for reason, number in numbers.items():
        console.print(f"({number}) {escape(reason)}", soft_wrap=True)
    console.print()


def print_listing(table: Table) -> None:
    """Print a table of names and texts; where a terminal is too narrow for its words, a paragraph for each row."""
    console, numbers = new_console(), reasons(table)
    if not console.is_terminal or _width(console, _closer(console, table, numbers), wraps=True) <= console.width:
        print_table(table, console)
        return
    console.print(escape(table.caption), style="italic")
    titles = [" ".join(column.title.split()) for column in table.columns]
    widest = max(len(row[0].text) for row in table.rows)
    found = RichTable.grid(padding=(0, 2))
    found.add_column(no_wrap=True, width=widest)
    found.add_column()
    for row in table.rows:
        *told, last = row
        pairs = zip(titles[1:-1], told[1:], strict=True)
        more = "; ".join(f"{title} {entry.text}" for title, entry in pairs if entry.text not in ("", ABSENT))
        text = "\n".join(filter(None, (last.text, more))).replace("`", "")
        found.add_row(escape(row[0].text), escape(text))
    console.print(found)
    console.print()


def print_page(page: Document) -> None:
    """Print what a page opens with and its tables, what is folded away included; charts and plots are for files."""
    console = new_console()
    console.print(f"[bold]{escape(page.title)}[/bold]")
    print_blocks(page.lead, console)
    for section in page.sections:
        print_blocks((Paragraph(section.title), *section.blocks), console)


def print_blocks(blocks: Iterable[Block], console: Console) -> None:
    """Print texts and tables; charts and plots are for files."""
    whole = is_whole(console)
    for block in blocks:
        match block:
            case Paragraph():
                console.print(escape(block.text), soft_wrap=whole)
            case Bullets():
                for item in block.items:
                    console.print(f"- {escape(item)}", soft_wrap=whole)
            case Missing():
                console.print(f"missing: {escape(f'{block.what}: {block.reason}')}", soft_wrap=whole)
            case Table():
                print_table(block, console)
            case Details():
                console.print(escape(block.title), soft_wrap=whole)
                print_blocks(block.blocks, console)


def _closer(console: Console, table: Table, numbers: Mapping[str, int]) -> RichTable:
    """The table as wide as there is room for: its columns come closer before anything wraps."""
    found = _rich(table, numbers, gap=1)
    return found if _width(console, found, wraps=False) <= console.width else _rich(table, numbers, gap=0)


def _rich(table: Table, numbers: Mapping[str, int], gap: int) -> RichTable:
    """The table with so many spaces between two columns, beside the one that is always there."""
    found = RichTable(
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, gap),
        pad_edge=False,
        collapse_padding=True,
    )
    lines = max((column.title.count("\n") for column in table.columns), default=0)
    for column in table.columns:
        title = "\n" * (lines - column.title.count("\n")) + escape(column.title)
        justify = "right" if column.numeric else "left"
        # What is too long goes on in the next line, and loses nothing.
        found.add_column(title, justify=justify, overflow="fold", no_wrap=not column.wraps)  # type: ignore[arg-type]
        if column.whole_words:
            texts = [title, *(_coloured(row[len(found.columns) - 1], numbers) for row in table.rows)]
            found.columns[-1].min_width = max(
                (len(word) for text in texts for word in Text.from_markup(text).plain.split()), default=0
            )
    for row in table.rows:
        found.add_row(*(_coloured(entry, numbers) for entry in row))
    return found


def _coloured(entry: Entry, numbers: Mapping[str, int]) -> str:
    text = f"{entry.text} ({numbers[entry.reason]})" if entry.reason else entry.text
    text = escape(text.replace("`", ""))  # which set a name apart where that can be done in another way
    return f"[{COLOURS[entry.tone]}]{text}[/]" if entry.tone and text else text


def _width(console: Console, table: RichTable, *, wraps: bool) -> int:
    """The width of a table: as it is where nothing wraps, else that below which some column would wrap too often."""
    options = console.options.update(max_width=UNBOUNDED)
    width = 0
    for column in table.columns:
        size = measure_renderables(console, options, [column.header, *column.cells])
        least = max(min(size.minimum, NARROWEST), column.min_width or 0)
        width += least if wraps and not column.no_wrap else size.maximum
    return width + (1 + table.padding[1]) * (len(table.columns) - 1)  # the line between two columns has a place too


def _print_entries(console: Console, table: Table, numbers: Mapping[str, int]) -> None:
    names = [" ".join(column.title.split()) for column in table.columns]
    for row in table.rows:
        for name, entry in zip(names, row, strict=True):
            if entry.text:
                console.print(f"{escape(name)}: {_coloured(entry, numbers)}" if name else _coloured(entry, numbers))
        console.print()
