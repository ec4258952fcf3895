r"""A page as a LaTeX document that compiles by itself, its tables ready to be pasted into another.

It asks for no more than Debian's `texlive-latex-recommended` has: a paper that takes a table over needs `booktabs` and
`graphicx`, and `longtable` for one that has more rows than a page.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
    key,
    meanings,
    reasons,
    spans,
)

NOTHING: Mapping[str, str] = {}

MANY_ROWS = 40
"""Rows from which a table runs over several pages."""

SIZES = ((110, "footnotesize"), (150, "scriptsize"), (190, "tiny"))
r"""Letters that a line of `\textwidth` holds, by size of type."""

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=20mm]{geometry}
\usepackage{booktabs,graphicx,longtable}
\IfFileExists{lmodern.sty}{\usepackage[T1]{fontenc}\usepackage{lmodern}}{}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\sloppy
\renewcommand{\labelitemi}{$\bullet$}
"""

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{ALMOST EQUAL TO}": r"$\approx$",
    "\N{NOT EQUAL TO}": r"$\neq$",
    "\N{INFINITY}": r"$\infty$",
    "\N{MINUS SIGN}": "$-$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{SUPERSCRIPT TWO}": r"\textsuperscript{2}",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{GREEK SMALL LETTER MU}": r"$\mu$",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{GREEK SMALL LETTER BETA}": r"$\beta$",
    "\N{GREEK SMALL LETTER THETA}": r"$\theta$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
}


ACCENTED = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŁłŒœŠšŽžŚśŹźŻżČčŘřŃńĆćĞğİıŞş")
"""Letters that LaTeX has in every encoding of its fonts."""


def text(document: Document, charts: Mapping[str, str] = NOTHING) -> str:
    r"""A page as a LaTeX document.

    Args:
        document: The page.
        charts: The relative path of the PDF of each chart and drawing by its name; one that is not among them is left
            out with a line that says so.
    """
    pieces = [
        PREAMBLE + r"\begin{document}",
        rf"\begin{{center}}\Large\bfseries {inline(document.title)}\end{{center}}",
    ]
    pieces += _blocks(document.lead, charts)
    if document.facts:
        facts = "\n".join(rf"{inline(name)}: {inline(fact)}\par" for name, fact in document.facts)
        pieces.append(f"{{\\footnotesize\n{facts}\n}}")
    for section in document.sections:
        pieces += [r"\clearpage", rf"\section*{{{inline(section.title)}}}", *_blocks(section.blocks, charts)]
    return "\n\n".join([*pieces, r"\end{document}"]) + "\n"


def inline(words: str) -> str:
    r"""Text with every special character escaped, names in backticks set as `\texttt`."""
    return "".join(rf"\texttt{{{_escaped(span.text)}}}" if span.code else _escaped(span.text) for span in spans(words))


def _escaped(words: str) -> str:
    # Two hyphens in a row, as of an option, would be set as one dash.
    return "".join(map(_character, re.sub(r"\s+", " ", words))).replace("--", "-{}-")


def _character(character: str) -> str:
    """One character. One that LaTeX may have no glyph for is named by its number, so that a document compiles."""
    if character in SPECIAL:
        return SPECIAL[character]
    known = character.isascii() or character in ACCENTED
    return character if known and character.isprintable() else f"{{[}}U+{ord(character):04X}]"


def _blocks(blocks: Sequence[Block], charts: Mapping[str, str]) -> list[str]:
    """Blocks as LaTeX; an empty list of sentences, which LaTeX refuses, as nothing."""
    found = []
    for block in blocks:
        match block:
            case Paragraph():
                found.append(inline(block.text))
            case Bullets():
                items = [rf"\item {inline(item)}" for item in block.items]
                found.append("\n".join([r"\begin{itemize}", *items, r"\end{itemize}"]) if items else "")
            case Table():
                found.append(_tables(block))
            case Chart() | Drawing():
                found.append(_figure(block, charts))
            case Missing():
                found.append(rf"\begin{{quote}}\textbf{{{inline(block.what)}}}: {inline(block.reason)}\end{{quote}}")
            case Details():
                found += [rf"\paragraph{{{inline(block.title)}}}", *_blocks(block.blocks, charts)]
    return found


def _figure(block: Chart | Drawing, charts: Mapping[str, str]) -> str:
    if block.name not in charts:
        return rf"\begin{{quote}}{inline(caption(block))} Left out here: no file was written for it.\end{{quote}}"
    return "\n".join(
        [
            r"\begin{figure}[htbp]\centering",
            rf"\includegraphics[width=\linewidth,height=0.6\textheight,keepaspectratio]"
            rf"{{\detokenize{{{charts[block.name]}}}}}",
            rf"\caption{{{inline(caption(block))}}}\label{{fig:{key(block.name)}}}",
            r"\end{figure}",
        ]
    )


def _tables(table: Table) -> str:
    """A table as it fits: on a page, running over several, or in parts where it is too wide to run over."""
    if len(table.rows) <= MANY_ROWS:
        return _table(table)
    texts = [[column.title for column in table.columns], *([entry.text for entry in row] for row in table.rows)]
    letters = sum(max(map(len, column)) + 2 for column in zip(*texts, strict=True))
    fitting = [size for most, size in SIZES if letters <= most]
    if fitting:
        return _long_table(table, fitting[0])
    parts = []
    for start in range(0, len(table.rows), MANY_ROWS):
        rows = table.rows[start : start + MANY_ROWS]
        caption = f"{table.caption} Rows {start + 1} to {start + len(rows)}."
        part = replace(table, name=f"{table.name}-{start + 1}", caption=caption, rows=rows)
        # LaTeX keeps only so many floats waiting.
        parts.append(_table(part) + "\n\\clearpage")
    return "\n\n".join(parts)


def _table(table: Table) -> str:
    """A table of its own that shrinks to the width of the text where it is wider."""
    alignment, head, rows = _lines(table)
    lines = [
        r"\begin{table}[htbp]\centering\footnotesize",
        rf"\caption{{{inline(table.caption)}}}\label{{tab:{key(table.name)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        *_notes(table),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _long_table(table: Table, size: str) -> str:
    """A table that runs over as many pages as it needs, in a size of type in which it is not too wide."""
    alignment, head, rows = _lines(table)
    lines = [
        rf"\begingroup\{size}\setlength{{\tabcolsep}}{{3pt}}",
        rf"\begin{{longtable}}{{{alignment}}}",
        rf"\caption{{{inline(table.caption)}}}\label{{tab:{key(table.name)}}}\\",
        r"\toprule",
        head,
        r"\midrule\endfirsthead",
        r"\toprule",
        head,
        r"\midrule\endhead",
        rf"\midrule\multicolumn{{{len(table.columns)}}}{{r}}{{continued}}\\\endfoot",
        r"\bottomrule\endlastfoot",
        *rows,
        r"\end{longtable}",
        *_notes(table),
        r"\endgroup",
    ]
    return "\n".join(lines)


def _lines(table: Table) -> tuple[str, str, list[str]]:
    """Alignment of the columns, the line of their titles, and a line for each row."""
    numbers = reasons(table)
    head = " & ".join(inline(column.title) for column in table.columns) + r" \\"
    alignment = "".join("r" if column.numeric and at else "l" for at, column in enumerate(table.columns))
    return alignment, head, [" & ".join(_entry(entry, numbers) for entry in row) + r" \\" for row in table.rows]


def _entry(entry: Entry, numbers: Mapping[str, int]) -> str:
    words = inline(entry.text)
    if entry.best:
        words = rf"\textbf{{{words}}}"
    return rf"{words}\textsuperscript{{{numbers[entry.reason]}}}" if entry.reason else words


def _notes(table: Table) -> list[str]:
    """Reasons and meanings below a table."""
    why = [rf"\textsuperscript{{{number}}}{inline(reason)}" for reason, number in reasons(table).items()]
    explained = [rf"\emph{{{inline(column.title)}}}: {inline(column.meaning)}" for column in meanings(table)]
    notes = [r"\par".join(part) for part in (why, [" ".join(explained)]) if any(part)]
    return [rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\scriptsize {note}\end{{minipage}}" for note in notes]
