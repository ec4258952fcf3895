"""A comparison for other programs: JUnit's XML, github-action-benchmark's JSON, Markdown, by the suffix of a file."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from nodebench.errors import UserError
from nodebench.reports.gate import gate_markdown, value
from nodebench.results.baseline import BaselineCell
from nodebench.results.finding import Finding, Gate, Verdict
from nodebench.results.thresholds import METRICS, TIME

_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""

ELEMENTS: Mapping[Verdict, str] = {"regression": "failure", "incomparable": "error", "missing": "skipped"}
"""What JUnit calls the verdicts that are not a pass."""


def gate_junit(gate: Gate) -> str:
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
    if gate.unlike:
        properties = ET.SubElement(suite, "properties")
        for line in gate.unlike:
            what, _, rest = line.partition(": ")
            ET.SubElement(properties, "property", {"name": _printable(what), "value": _printable(rest)})
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


def gate_entries(gate: Gate) -> list[dict[str, Any]]:
    """The candidate's figures as github-action-benchmark's `customSmallerIsBetter`, with the baseline's in `extra`."""
    entries = []
    found = {(finding.cell.cell_id, finding.metric): finding for finding in gate.findings}
    cells = {finding.cell.cell_id: finding.cell for finding in gate.findings if finding.measured}
    for cell in cells.values():
        for metric, (figure, unit) in _figures(cell).items():
            entry = {"name": f"{cell.label}: {metric}", "unit": unit, "value": figure}
            if metric == TIME and None not in (cell.ratio_low, cell.ratio_high):
                entry["range"] = f"{cell.ratio_low:.4g} to {cell.ratio_high:.4g}"
            finding = found.get((cell.cell_id, metric))
            if finding is not None:
                entry["extra"] = f"{finding.verdict}; baseline {value(finding.old)}. {finding.reason}".strip()
            entries.append(entry)
    return entries


def _figures(cell: BaselineCell) -> dict[str, tuple[float, str]]:
    """What is known of a cell, with its units; the plain time only where there is no ratio."""
    times = {TIME: (cell.ratio, "ratio")} if cell.ratio is not None else {"step_s": (cell.step_s, "s")}
    exact = {name: (getattr(cell, name), metric.unit) for name, metric in METRICS.items() if name != TIME}
    return {name: (figure, unit) for name, (figure, unit) in {**exact, **times}.items() if figure is not None}


def gate_json(gate: Gate) -> str:
    """`gate_entries` as text."""
    return json.dumps(gate_entries(gate), indent=2, allow_nan=False) + "\n"


WRITERS: Mapping[str, Callable[[Gate], str]] = {".md": gate_markdown, ".xml": gate_junit, ".json": gate_json}


def check_output(path: Path) -> None:
    """See that a file has a suffix that can be written, before anything is measured for it.

    Raises:
        UserError: If it has not.
    """
    if path.suffix not in WRITERS:
        raise UserError(
            f"`--output` ends with .md (Markdown), .xml (JUnit) or .json (customSmallerIsBetter); got {path}."
        )


def write_gate(gate: Gate, path: Path) -> None:
    """Write a comparison in the form that the file's suffix names.

    Raises:
        UserError: If the suffix is unknown, or the file cannot be written.
    """
    check_output(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WRITERS[path.suffix](gate), encoding="utf-8")
    except OSError as error:
        raise UserError(f"`{path}` cannot be written: {error.strerror or error}.") from error


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)
