"""What a comparison found, for people and programs: a table, Markdown, JUnit's XML and customSmallerIsBetter's JSON."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from nodebench.errors import UserError, user_error
from nodebench.gating.baseline import Baseline, BaselineCell
from nodebench.gating.compare import GateResult
from nodebench.gating.finding import Finding, FindingVerdict
from nodebench.gating.thresholds import METRICS, TIME
from nodebench.reports.columns import printed_beside
from nodebench.reports.document import Column, Entry, Table, Tone
from nodebench.reports.writers.markdown import inline
from nodebench.results.quantities import CATALOGUE, in_table

TONES: dict[FindingVerdict, Tone] = {
    "regression": "bad",
    "incomparable": "bad",
    "undecided": "doubtful",
    "traded": "doubtful",
    "improvement": "good",
    "changed": "doubtful",
    "missing": "doubtful",
    "new": "new",
}
"""The verdicts that are shown, in their order, and their tone on a terminal."""

EXACT = ("gradient error", "NFE, VJPs, steps")
"""Groups of quantities that are the same wherever they are taken."""

UPDATE = "Raise the baseline with `nodebench baseline update`."

ELEMENTS: Mapping[FindingVerdict, str] = {"regression": "failure", "incomparable": "error", "missing": "skipped"}
"""What JUnit calls the verdicts that are not a pass."""

_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""


def gate_table(gate: GateResult) -> Table | None:
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


def gate_markdown(gate: GateResult) -> str:
    """The comparison as a comment of a pull request: what must be looked at first, the rest folded away."""
    sign = {0: "✅", 1: "❌", 2: "⚠️"}[gate.exit_code]
    parts = [f"### {sign} nodebench: {inline(gate.summary)}", f"`{gate.old}` against `{gate.new}`"]
    urgent = [finding for finding in sorted_findings(gate) if finding.verdict in ("regression", "incomparable")]
    better = gate.of("improvement")
    others = [finding for finding in sorted_findings(gate) if finding not in (*urgent, *better)]
    if urgent:
        parts.append(_markdown_table(urgent))
    if better:
        parts += [f"**Improvements.** {UPDATE if gate.may_be_raised else ''}".strip(), _markdown_table(better)]
    if others:
        parts.append(_folded(f"{len(others)} more: undecided, missing, new", _markdown_table(others)))
    parts += [f"**Note.** {inline(note)}" for note in gate.notes]
    if gate.unlike:
        lines = "\n".join(f"- `{line}`" for line in gate.unlike)
        parts.append(_folded("The machines are not alike; times are compared through ratios only", lines))
    return "\n\n".join(parts) + "\n"


def baseline_tables(baseline: Baseline) -> list[Table]:
    """The values of a baseline, a row for each cell that has any: what is exact, and memory and time apart.

    Cells of one problem stand together below what they have in common, so that a row has a backend and a tolerance.
    """
    groups: dict[str, list[BaselineCell]] = {}
    for cell in sorted(baseline.cells.values(), key=lambda cell: (cell.order[:3], -(cell.rtol or 0.0), cell.order)):
        groups.setdefault(replace(cell, backend=None, rtol=None, test=None).label, []).append(cell)
    names = in_table("baseline")
    parts = {
        "errors and counts": [name for name in names if CATALOGUE[name].group in EXACT],
        "memory and time": [name for name in names if CATALOGUE[name].group not in EXACT],
    }
    tables = (
        _part_of_baseline(f"{common}: {part}", cells, columns)
        for common, cells in groups.items()
        for part, columns in parts.items()
    )
    return [table for table in tables if table.rows]


def _part_of_baseline(caption: str, cells: Sequence[BaselineCell], names: Sequence[str]) -> Table:
    known = [name for name in names if any(getattr(cell, name) is not None for cell in cells)]
    rows = [cell for cell in cells if any(getattr(cell, name) is not None for name in known)]
    controls = {cell.control for cell in rows} - {None}
    if "control" in known and len(controls) == 1:
        known.remove("control")
        caption = f"{caption}, ratios to {controls.pop()}"
    has_rtol = any(cell.rtol is not None for cell in rows)
    settings = (Column("backend", numeric=False, wraps=True), *([Column("rtol")] if has_rtol else []))
    return Table(
        "baseline",
        caption,
        (*settings, *(Column(CATALOGUE[name].tables["baseline"], wraps=True) for name in known)),
        tuple((*_row_name(cell, has_rtol=has_rtol), *(_kept(cell, name) for name in known)) for cell in rows),
    )


def _row_name(cell: BaselineCell, *, has_rtol: bool) -> list[Entry]:
    test = cell.test and f"in {cell.test}"
    name = " ".join(filter(None, (cell.backend or cell.model or cell.task, test)))
    # Where it is too long it goes on in the next line with another option.
    return [Entry(name.replace(",", ", ")), *([Entry(value(cell.rtol))] if has_rtol else [])]


def without_values(baseline: Baseline) -> list[str]:
    """What is to be said of cells beside their values: that they did not end well, or have none, a line for each."""
    names, lines = in_table("baseline"), []
    for cell in sorted(baseline.cells.values(), key=lambda cell: cell.order):
        if not cell.ok:
            lines.append(f"{cell.label}: {cell.status}{f': {cell.reason}' if cell.reason else ''}")
        elif all(getattr(cell, name) is None for name in names):
            lines.append(f"{cell.label}: no figure that is gated")
    return lines


def _kept(cell: BaselineCell, name: str) -> Entry:
    said = CATALOGUE[name]
    text = value(getattr(cell, name)) + printed_beside(said, cell)
    ends = [getattr(cell, end) for end in said.ends or ()]
    return Entry(f"{text} ({'..'.join(map(value, ends))})" if ends and None not in ends else text)


def sorted_findings(gate: GateResult) -> list[Finding]:
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


def gate_junit(gate: GateResult) -> str:
    """The comparison as JUnit's XML: a suite, a test case for each figure of each cell."""
    n = {kind: len(gate.of(verdict)) for verdict, kind in ELEMENTS.items()}
    n["error"] += gate.problem is not None
    counts = {
        "tests": len(gate.findings) + (gate.problem is not None),
        "failures": n["failure"],
        "errors": n["error"],
        "skipped": n["skipped"],
    }
    name = _printable(f"nodebench compare {gate.old} {gate.new}")
    suite = ET.Element("testsuite", {"name": name, **{key: str(count) for key, count in counts.items()}})
    told = [*(line.partition(": ")[::2] for line in gate.unlike), *(("note", note) for note in gate.notes)]
    if told:
        properties = ET.SubElement(suite, "properties")
        for what, text in told:
            ET.SubElement(properties, "property", {"name": _printable(what), "value": _printable(text)})
    if gate.problem is not None:
        case = ET.SubElement(suite, "testcase", {"classname": "nodebench", "name": "comparison"})
        ET.SubElement(case, "error", {"type": "incomparable", "message": _printable(gate.problem)})
    for finding in gate.findings:
        _add_case(suite, finding)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ET.Element, finding: Finding) -> None:
    names = {"classname": _printable(finding.cell.label), "name": finding.metric}
    case = ET.SubElement(suite, "testcase", names)
    if finding.verdict == "same":
        return
    text = f"{value(finding.old)} -> {value(finding.new)} {finding.unit}: {finding.reason}"
    if finding.verdict in ELEMENTS:
        attributes = {"type": finding.verdict, "message": _printable(f"{finding.metric} {text}")}
        ET.SubElement(case, ELEMENTS[finding.verdict], attributes).text = _printable(finding.cell.label)
    else:
        ET.SubElement(case, "system-out").text = _printable(f"{finding.verdict}: {text}")


def gate_entries(gate: GateResult) -> list[dict[str, Any]]:
    """The candidate's figures as github-action-benchmark's `customSmallerIsBetter`, with the baseline's in `extra`.

    What a reader must know of the comparison is one more entry, whose value is how many notes there are.
    """
    entries = []
    found = {(finding.cell.cell_id, finding.metric): finding for finding in gate.findings}
    cells = {each.cell.cell_id: each.cell for each in gate.findings if each.measured and not each.derived}
    for cell in cells.values():
        for metric, (figure, unit) in _figures(cell).items():
            entry = {"name": f"{cell.label}: {metric}", "unit": unit, "value": figure}
            if metric == TIME and None not in (cell.ratio_low, cell.ratio_high):
                entry["range"] = f"{cell.ratio_low:.4g} to {cell.ratio_high:.4g}"
            finding = found.get((cell.cell_id, metric))
            if finding is not None:
                entry["extra"] = f"{finding.verdict}; baseline {value(finding.old)}. {finding.reason}".strip()
            entries.append(entry)
    entries += [_derived_entry(each) for each in gate.findings if each.derived and _is_figure(each.new)]
    if gate.notes:
        entries.append({"name": "notes", "unit": "notes", "value": len(gate.notes), "extra": " ".join(gate.notes)})
    return entries


def _is_figure(found: float | str | None) -> bool:
    return isinstance(found, int | float)


def _derived_entry(finding: Finding) -> dict[str, Any]:
    """A figure that is worked out from several cells; its time is relative to what it was."""
    name, extra = f"{finding.cell.label}: {finding.metric}", f"{finding.verdict}; baseline {value(finding.old)}."
    ends = {} if finding.low is None else {"range": f"{finding.low:.4g} to {finding.high:.4g}"}
    return {
        "name": name, "unit": finding.unit, "value": finding.new, **ends, "extra": f"{extra} {finding.reason}".strip(),
    }  # fmt: skip


def _figures(cell: BaselineCell) -> dict[str, tuple[float, str]]:
    """What is known of a cell and better if smaller, with its units; the plain time only where there is no ratio."""
    times = {TIME: (cell.ratio, "ratio")} if cell.ratio is not None else {"step_s": (cell.step_s, "s")}
    exact = {
        name: (getattr(cell, name), metric.unit)
        for name, metric in METRICS.items()
        if name != TIME and metric.better != "higher"
    }
    return {name: (figure, unit) for name, (figure, unit) in {**exact, **times}.items() if figure is not None}


WRITERS: Mapping[str, Callable[[GateResult], str]] = {
    ".md": gate_markdown,
    ".xml": gate_junit,
    ".json": lambda gate: json.dumps(gate_entries(gate), indent=2, allow_nan=False) + "\n",
}


def check_output(path: Path, *compared: object) -> None:
    """See that a file can be written for a comparison, before anything is measured for it.

    Args:
        path: The file.
        compared: What is compared, of which files must stay what they are.

    Raises:
        UserError: If its suffix is none that can be written, or it is one of the files that are compared.
    """
    if path.suffix not in WRITERS:
        raise UserError(
            f"`--output` ends with .md (Markdown), .xml (JUnit) or .json (customSmallerIsBetter); got {path}."
        )
    for given in compared:
        if isinstance(given, str | Path) and path.is_file() and Path(given).is_file() and path.samefile(given):
            raise UserError(f"`--output` is `{path}`, which is compared; name another file.")


def write_gate(gate: GateResult, path: Path) -> None:
    """Write a comparison in the form that the file's suffix names.

    Raises:
        UserError: If the suffix is unknown, or the file cannot be written.
    """
    check_output(path)
    with user_error(f"`{path}` cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WRITERS[path.suffix](gate), encoding="utf-8")


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)
