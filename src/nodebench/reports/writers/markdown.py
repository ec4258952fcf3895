"""A page as Markdown, in the flavour of GitHub."""

import re
from collections.abc import Mapping, Sequence

from nodebench.reports.document import (
    Block,
    Bullets,
    Chart,
    Details,
    Document,
    Drawing,
    Entry,
    Missing,
    Paragraph,
    Table,
    caption,
    meanings,
    reasons,
    spans,
)

NOTHING: Mapping[str, str] = {}


def text(document: Document, charts: Mapping[str, str] = NOTHING) -> str:
    """A page as Markdown.

    Args:
        document: The page.
        charts: The relative path of the file of each chart and drawing by its name; one that is not among them is
            left out with a line that says so.
    """
    pieces = [f"# {inline(document.title)}"]
    pieces += _blocks(document.lead, charts)
    if document.facts:
        pieces.append("\n".join(f"- {inline(name)}: {inline(fact)}" for name, fact in document.facts))
    for section in document.sections:
        pieces += [f"## {inline(section.title)}", *_blocks(section.blocks, charts)]
    return "\n\n".join(pieces) + "\n"


def inline(words: str) -> str:
    """Text on one line, names in backticks set as code, everything else as it stands."""
    return "".join(f"`{_line(span.text)}`" if span.code else _escaped(_line(span.text)) for span in spans(words))


def _line(words: str) -> str:
    return re.sub(r"\s*[\r\n]+\s*", " ", words)


def _escaped(words: str) -> str:
    words = re.sub(r"([\\`*_\[\]<>~$])", r"\\\1", re.sub(r"&(?=#?\w+;)", "&amp;", words))
    # What would begin a heading, a list or a quotation.
    return re.sub(r"^(\s*)([#+-]|\d+[.)])(?=\s)", r"\1\\\2", words)


def _blocks(blocks: Sequence[Block], charts: Mapping[str, str]) -> list[str]:
    return [_block(block, charts) for block in blocks]


def _block(block: Block, charts: Mapping[str, str]) -> str:
    match block:
        case Paragraph():
            return inline(block.text)
        case Bullets():
            return "\n".join(f"- {inline(item)}" for item in block.items)
        case Table():
            return _table(block)
        case Chart() | Drawing():
            return _image(block, charts)
        case Missing():
            return f"> **{inline(block.what)}**: {inline(block.reason)}"
        case Details():
            folded = "\n\n".join(_blocks(block.blocks, charts))
            return f"<details>\n<summary>{_html(block.title)}</summary>\n\n{folded}\n\n</details>"


def _html(words: str) -> str:
    """Text within an HTML element, where backticks say nothing."""
    return "".join(f"<code>{_entities(s.text)}</code>" if s.code else _entities(s.text) for s in spans(_line(words)))


def _entities(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _image(block: Chart | Drawing, charts: Mapping[str, str]) -> str:
    below = inline(caption(block))
    if block.name not in charts:
        return f"> {below} Left out here: no file was written for it."
    path = charts[block.name].replace(" ", "%20").replace("(", "%28").replace(")", "%29")
    alternative = re.sub(r"[`\[\]\\]", "", _line(caption(block)))
    return f"![{alternative}]({path})\n\n{below}"


def _table(table: Table) -> str:
    numbers = reasons(table)
    lines = [
        f"**{inline(table.caption)}**\n",
        _row([_cell(column.title) for column in table.columns]),
        _row(["---:" if column.numeric and at > 0 else ":---" for at, column in enumerate(table.columns)]),
        *(_row([_entry(entry, numbers) for entry in row]) for row in table.rows),
    ]
    if numbers:
        lines += ["", *(f"{number}. {inline(reason)}" for reason, number in numbers.items())]
    explained = meanings(table)
    if explained:
        terms = "\n".join(f"- {inline(column.title)}: {inline(column.meaning)}" for column in explained)
        lines += ["", f"<details>\n<summary>What the columns hold</summary>\n\n{terms}\n\n</details>"]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _entry(entry: Entry, numbers: Mapping[str, int]) -> str:
    words = _cell(entry.text)
    if entry.best:
        words = f"**{words}**"
    return f"{words}<sup>{numbers[entry.reason]}</sup>" if entry.reason else words


def _cell(words: str) -> str:
    """Text within a table, where even code may hold no bare pipe."""
    return inline(words).replace("|", r"\|")
