"""A page as one HTML file, which asks nothing of the network, and its first screen as a fragment for a notebook."""

import base64
import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from nodebench.reports.document import (
    Chart,
    Column,
    Document,
    Drawing,
    Entry,
    Missing,
    Picture,
    Table,
    contents,
    key,
    main_columns,
    meanings,
    order,
    reasons,
    spans,
)
from nodebench.reports.glance import INK
from nodebench.reports.writers import theme

PAGE_LIMIT = 3_000_000
"""Bytes a page may have; drawings are left out from the end on rather than passing it."""

PLAIN_LIMIT = 40_000
"""Characters from which a chart's definition is embedded compressed."""

MANY_ROWS = 30
"""Rows from which a table scrolls up and down within a box of its own."""

PLAIN_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")
"""A number that Python and JavaScript read alike."""

MANY_REASONS = 6
"""Reasons for missing entries from which they are folded away."""


def page(document: Document, limit: int = PAGE_LIMIT) -> str:
    """A page as the text of one HTML file.

    Args:
        document: The page.
        limit: Bytes it may have. Where its drawings would pass them, those from the first that does not fit on are
            replaced by a box that says so. Where its tables and charts alone pass them, it opens with that.
    """
    blocks = contents(document)
    parts = _Parts(
        {block.name: _rows(block) for block in blocks if isinstance(block, Table)},
        {b.name: _definition(b) for b in blocks if isinstance(b, Chart) and not isinstance(b, Picture)},
        {},
        {block.name: _picture(block) for block in blocks if isinstance(block, Picture)},
    )
    size = len(_page(document, parts, limit).encode())
    if size > limit:
        document = replace(document, lead=(_too_large(size, limit), *document.lead))
    for block in blocks:
        if isinstance(block, Drawing):
            html = _drawing(block)
            size += len(html.encode())
            if size > limit:
                break
            parts.drawings[block.name] = html
    return _page(document, parts, limit)


def first_screen(document: Document) -> str:
    """The question, the answer, the picture and the main table of a page, as a fragment for a notebook.

    It has styles of its own, no script and no further columns, takes its colours from the text around it, and so is
    legible by day and by night.

    Args:
        document: The page: what it opens with, up to its first table.
    """
    blocks = []
    for block in document.lead:
        blocks.append(main_columns(block) if isinstance(block, Table) else block)
        if isinstance(block, Table):
            break
    return fragment(replace(document, lead=tuple(blocks)))


def fragment(document: Document) -> str:
    """What a page opens with, as a fragment for a notebook; see `first_screen`."""
    blocks = document.lead
    parts = _Parts(
        {block.name: _rows(block) for block in blocks if isinstance(block, Table)},
        {},
        {},
        {block.name: _picture(block) for block in blocks if isinstance(block, Picture)},
    )
    return _environment().get_template("first.html.j2").render(document=document, blocks=blocks, parts=parts)


def inline(text: str) -> Markup:
    """Text with its names in backticks set as code."""
    # A name may be broken where its options begin and between them.
    return Markup("").join(
        Markup("<code>{}</code>").format(
            escape(span.text).replace("[", Markup("<wbr>[")).replace(",", Markup(",<wbr>"))
        )
        if span.code
        else escape(span.text)
        for span in spans(text)
    )


@dataclass(frozen=True)
class _Parts:
    """What stands in a page by its name, as HTML: bodies of tables, definitions of charts, drawings, pictures."""

    bodies: dict[str, Markup]
    definitions: dict[str, Markup]
    drawings: dict[str, Markup]
    pictures: dict[str, Markup]


def _page(document: Document, parts: _Parts, limit: int) -> str:
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            parts=parts,
            tables=[block for block in contents(document) if isinstance(block, Table)],
            limit=_megabytes(limit),
            palettes=theme.PALETTES,
            sans=Markup(theme.SANS),
            configs={mode: theme.chart_config(mode) for mode in theme.PALETTES},
            bundle=_bundle() if parts.definitions else None,
        )
    )


def _picture(picture: Picture) -> Markup:
    """A picture for a screen and for a telephone, in the colour of the text around it."""
    return Markup("\n").join(
        _static(definition, f"{key(picture.name)}-{width}", width, picture.caption)
        for width, definition in (("wide", picture.definition), ("narrow", picture.narrow))
    )


def _static(definition: Any, name: str, width: str, said: str) -> Markup:
    """A chart as an image that is part of the page; its identifiers are its own."""
    svg = vl_convert.vegalite_to_svg(definition.to_dict(), config=theme.static_config(INK))
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg.replace(INK, "currentColor"))
    words = escape(said.replace("`", ""))
    return Markup(svg.replace("<svg ", f'<svg class="{width}" role="img" aria-label="{words}" ', 1))


def _drawing(drawing: Drawing) -> Markup:
    """A plot on a light ground by day and by night, as an image, so that its ids are its own."""
    plot = drawing.plot
    return Markup(
        '<figure class="drawing" id="drawing-{}">\n'
        '<div class="plot" tabindex="0" role="region" aria-label="{}">'
        '<img src="data:image/svg+xml;base64,{}" alt="{}"></div>\n'
        "<figcaption><b>{}.</b> {}</figcaption>\n</figure>"
    ).format(
        key(drawing.name),
        plot.caption,
        base64.b64encode(plot.svg).decode(),
        plot.alternative,
        inline(plot.caption.rstrip(".")),
        inline(drawing.caption),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("nodebench.reports.writers"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "inline": inline,
        "kind": lambda block: type(block).__name__,
        "key": key,
        "meanings": meanings,
        "reasons": reasons,
        "left_out": _left_out,
    }
    environment.globals |= {
        "MANY_ROWS": MANY_ROWS,
        "MANY_REASONS": MANY_REASONS,
        "style": _own("page.css"),
        "first_style": _own("first.css"),
        "script": _own("page.js"),
    }
    return environment


def _own(name: str) -> Markup:
    """A part of the page that stands as it is."""
    return Markup(files("nodebench.reports.writers").joinpath("templates", name).read_text("utf-8"))


@cache
def _bundle() -> str:
    """The program that draws charts, compressed."""
    return _compressed(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _compressed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _definition(chart: Chart) -> Markup:
    """The element that holds the definition of a chart."""
    definition = json.dumps(chart.definition.to_dict(), separators=(",", ":"))
    if len(definition) > PLAIN_LIMIT:
        return Markup('<script type="application/gzip">{}</script>').format(_compressed(definition))
    plain = htmlsafe_json_dumps(json.loads(definition), dumps=json.dumps, separators=(",", ":"))
    return Markup('<script type="application/json">{}</script>').format(plain)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.3g} MB"


def _too_large(size: int, limit: int) -> Missing:
    reason = f"its tables and charts alone take {_megabytes(size)}; a page of fewer runs is smaller."
    return Missing(f"a page under {_megabytes(limit)}", reason)


def _left_out(drawing: Drawing, limit: str) -> Missing:
    reason = (
        f"left out to keep this page under {limit}; the command that made this page, with `-o page.md --charts png`, "
        f"writes it as the file `{key(drawing.name)}.png`."
    )
    return Missing(drawing.caption, reason)


def _rows(table: Table) -> Markup:
    """The body of a table. It may have 30,000 entries, so that it is as short as HTML allows."""
    numbers = reasons(table)
    lines = []
    for row in table.rows:
        first, *others = (_entry(*pair, numbers) for pair in zip(table.columns, row, strict=True))
        lines.append(
            Markup('<tr><th scope="row"{}').format(first) + Markup("").join(Markup("<td") + other for other in others)
        )
    return Markup("\n").join(lines)


def _entry(column: Column, entry: Entry, numbers: Mapping[str, int]) -> Markup:
    """What follows the name of an entry's tag."""
    # An interval may be broken between its ends.
    text = Markup("..<wbr>").join(map(inline, re.split(r"(?<=\d)\.\.(?=\d)", entry.text)))
    if entry.best:
        text = Markup("<b>{}</b>").format(text)
    attributes = _order_attribute(entry.text, order(column, entry))
    if entry.reason:
        number = numbers[entry.reason]
        attributes += Markup(' data-r="{}"').format(number)
        text += Markup("<sup>{}</sup>").format(number)
    return attributes + Markup(">") + text


def _order_attribute(text: str, value: float | str | None) -> Markup:
    """What an entry is sorted by, where its text does not say so itself."""
    if value is None:
        return Markup(' class="x"')
    if text == value or (isinstance(value, float | int) and PLAIN_NUMBER.fullmatch(text) and float(text) == value):
        return Markup("")
    # As JavaScript reads it.
    printed = value if isinstance(value, str) else f"{value:.9g}".replace("inf", "Infinity")
    return Markup(' data-v="{}"').format(printed)
