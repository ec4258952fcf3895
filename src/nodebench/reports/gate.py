"""A comparison for people: a table, and Markdown for a pull request."""

from collections.abc import Sequence

from nodebench.reports.columns import printed_beside
from nodebench.reports.document import Column, Entry, Table, Tone
from nodebench.reports.writers.markdown import inline
from nodebench.results.baseline import Baseline, BaselineCell
from nodebench.results.finding import Finding, Gate, Verdict
from nodebench.results.quantities import CATALOGUE, in_table

TONES: dict[Verdict, Tone] = {
    "regression": "bad",
    "incomparable": "bad",
    "undecided": "doubtful",
    "improvement": "good",
    "changed": "doubtful",
    "missing": "doubtful",
    "new": "new",
}
"""The verdicts that are shown, in their order, and their tone on a terminal."""

UPDATE = "Raise the baseline with `nodebench baseline update`."


def gate_table(gate: Gate) -> Table | None:
    """All that has changed, worst first; None where nothing has."""
    told = sorted_findings(gate)
    if not told:
        return None
    titles = ("verdict", "cell", "figure", gate.old, gate.new, "why")
    columns = tuple(Column(title, numeric=title in (gate.old, gate.new), wraps=True) for title in titles)
    rows = tuple(
        (
            Entry(finding.verdict, tone=TONES[finding.verdict]),
            Entry(finding.cell.label),
            Entry(finding.metric),
            Entry(value(finding.old)),
            Entry(value(finding.new)),
            Entry(finding.reason),
        )
        for finding in told
    )
    return Table("gate", "", columns, rows)


def gate_markdown(gate: Gate) -> str:
    """The comparison as a comment of a pull request: what must be looked at first, the rest folded away."""
    sign = {0: "✅", 1: "❌", 2: "⚠️"}[gate.exit_code]
    parts = [f"### {sign} nodebench: {inline(gate.summary)}", f"`{gate.old}` against `{gate.new}`"]
    urgent = [finding for finding in sorted_findings(gate) if finding.verdict in ("regression", "incomparable")]
    better = gate.of("improvement")
    others = [finding for finding in sorted_findings(gate) if finding not in (*urgent, *better)]
    if urgent:
        parts.append(_markdown_table(urgent))
    if better:
        parts += [f"**Improvements.** {UPDATE}", _markdown_table(better)]
    if others:
        parts.append(_folded(f"{len(others)} more: undecided, missing, new", _markdown_table(others)))
    if gate.unlike:
        lines = "\n".join(f"- `{line}`" for line in gate.unlike)
        parts.append(_folded("The machines are not alike; times are compared through ratios only", lines))
    return "\n\n".join(parts) + "\n"


def baseline_table(baseline: Baseline) -> Table:
    """The values of a baseline, a row for each cell."""
    names = in_table("baseline")
    titles = [Column(CATALOGUE[name].tables["baseline"], wraps=True) for name in names]
    columns = (Column("cell", numeric=False, wraps=True), Column("status", numeric=False), *titles)
    rows = tuple(
        (Entry(cell.label), Entry(cell.status), *(_kept(cell, name) for name in names))
        for cell in sorted(baseline.cells.values(), key=lambda cell: cell.order)
    )
    return Table("baseline", "", columns, rows)


def _kept(cell: BaselineCell, name: str) -> Entry:
    said = CATALOGUE[name]
    text = value(getattr(cell, name)) + printed_beside(said, cell)
    ends = [getattr(cell, end) for end in said.ends or ()]
    return Entry(f"{text} ({'..'.join(map(value, ends))})" if ends and None not in ends else text)


def sorted_findings(gate: Gate) -> list[Finding]:
    """All that is not the same, worst first, by cell."""
    order = list(TONES)
    told = [finding for finding in gate.findings if finding.verdict in TONES]
    return sorted(told, key=lambda finding: order.index(finding.verdict))


def value(figure: float | str | None) -> str:
    """A figure as it is shown: whole numbers in full, since a difference of one counts."""
    if figure is None:
        return "-"
    if isinstance(figure, int):
        return f"{figure:,}"
    return figure if isinstance(figure, str) else f"{figure:.4g}"


def _markdown_table(findings: Sequence[Finding]) -> str:
    rows = ["| verdict | cell | figure | baseline | candidate | why |", "|---|---|---|---:|---:|---|"]
    for finding in findings:
        names = (finding.verdict, f"`{finding.cell.label}`", f"`{finding.metric}`")
        cells = (*names, value(finding.old), value(finding.new), inline(finding.reason))
        rows.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(rows)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
