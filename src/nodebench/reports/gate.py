"""A comparison for people: a table for the terminal, and Markdown for a pull request."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from nodebench.reports.markdown import inline
from nodebench.results.baseline import Baseline
from nodebench.results.finding import Finding, Gate, Verdict

COLOURS: dict[Verdict, str] = {
    "regression": "red",
    "incomparable": "red",
    "undecided": "yellow",
    "improvement": "green",
    "changed": "yellow",
    "missing": "yellow",
    "new": "cyan",
}
"""What is told of, in the order in which it is told, and its colour on a terminal."""

UPDATE = "Raise the baseline with `nodebench baseline update`."


def gate_table(gate: Gate) -> Table | None:
    """All that has changed, worst first; None where nothing has."""
    told = sorted_findings(gate)
    if not told:
        return None
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("verdict", "cell", "figure"):
        table.add_column(name, overflow="fold")
    for name in (gate.old, gate.new):
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_column("why", overflow="fold")
    for finding in told:
        names = (finding.cell.label, finding.metric, value(finding.old), value(finding.new), finding.reason)
        colour = COLOURS[finding.verdict]
        table.add_row(f"[{colour}]{finding.verdict}[/{colour}]", *map(escape, names))
    return table


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
    """The figures of a baseline, a row for each cell."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "status"):
        table.add_column(name, overflow="fold")
    for name in ("NFE", "VJPs", "steps", "saved bytes", "peak bytes", "err dp", "err dy0", "ratio"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("control", overflow="fold")
    for cell in sorted(baseline.cells.values(), key=lambda cell: cell.order):
        figures = (
            _sum(cell.nfe_forward, cell.nfe_backward),
            value(cell.n_vjps),
            _sum(cell.n_accepted, cell.n_rejected),
            *map(value, (cell.saved_bytes, cell.peak_memory_bytes, cell.grad_error_params, cell.grad_error_y0)),
            value(cell.ratio) + (f" ({value(cell.ratio_low)}..{value(cell.ratio_high)})" if cell.ratio else ""),
        )
        table.add_row(*map(escape, (cell.label, cell.status, *figures, value(cell.control))))
    return table


def sorted_findings(gate: Gate) -> list[Finding]:
    """All that is not the same, worst first, by cell."""
    order = list(COLOURS)
    told = [finding for finding in gate.findings if finding.verdict in COLOURS]
    return sorted(told, key=lambda finding: order.index(finding.verdict))


def value(figure: float | str | None) -> str:
    """A figure as it is shown: whole numbers in full, since a difference of one counts."""
    if figure is None:
        return "-"
    if isinstance(figure, int):
        return f"{figure:,}"
    return figure if isinstance(figure, str) else f"{figure:.4g}"


def _sum(first: int | None, second: int | None) -> str:
    return "-" if first is None else f"{value(first)}+{value(second)}"


def _markdown_table(findings: Sequence[Finding]) -> str:
    rows = ["| verdict | cell | figure | baseline | candidate | why |", "|---|---|---|---:|---:|---|"]
    for finding in findings:
        names = (finding.verdict, f"`{finding.cell.label}`", f"`{finding.metric}`")
        cells = (*names, value(finding.old), value(finding.new), inline(finding.reason))
        rows.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(rows)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
