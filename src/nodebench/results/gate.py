"""The regression gate: what has become worse between two sets of figures, and what cannot be said.

Counters, bytes and errors are compared in their bands. Times are compared through ratios whose two sides took turns in
one run, and only an interval that lies wholly beyond the threshold is a regression: what is undecided passes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import isclose
from types import MappingProxyType

from nodebench.results.baseline import Baseline, BaselineCell
from nodebench.results.environment import differences
from nodebench.results.finding import NO_FIGURE, Finding, Gate, Verdict, change
from nodebench.results.record import SettingsPart
from nodebench.results.thresholds import METRICS, TIME, Thresholds
from nodebench.results.time_gate import time_finding

PREMISES = ("dataset", "n_params", "first_step", "batch_size")
"""What must be equal for the figures of a cell to be those of one problem, beside the settings in its id."""

FIELD = {"field_value": ("value", 1e-5), "field_derivative": ("derivative", 1e-4)}
"""What tells one field from another, with what it is called and how far it may be off between two of the same: sums in
another order, of another library or framework, move either, and a derivative more."""

ROUNDING = 1e-9
"""How far off they may be where they are about zero."""

EXPECTED = ("git", "git.", "libraries.nodebench")
"""Differences between fingerprints that are those of the versions compared."""

NOTHING: Mapping[str, str] = MappingProxyType({})

RANKS = {"ok": 0, "unsupported": 1, "not_installed": 1}
"""Statuses from good to bad; all others are worst."""


def compare(
    old: Baseline,
    new: Baseline,
    thresholds: Thresholds,
    refused: Mapping[str, str] = NOTHING,
    unloadable: Mapping[str, str] = NOTHING,
) -> Gate:
    """Compare a candidate with a baseline.

    Args:
        old: The baseline.
        new: The candidate.
        thresholds: How far a figure may move.
        refused: Why the two sides of a cell are not one problem, by its id, where that is known already.
        unloadable: Why the baseline's side of a cell could not even be loaded, by its id.
    """
    shared = [cell_id for cell_id in old.cells if cell_id in new.cells]
    findings = [
        finding
        for cell_id in shared
        for finding in (
            [Finding(cell=new.cells[cell_id], metric="cell", verdict="incomparable", reason=unloadable[cell_id])]
            if cell_id in unloadable
            else _cell_findings(old.cells[cell_id], new.cells[cell_id], thresholds, refused.get(cell_id))
        )
    ]
    absent = [cell for cell_id, cell in old.cells.items() if cell_id not in new.cells]
    findings += [_missing(cell, thresholds) for cell in absent]
    added = [cell for cell_id, cell in new.cells.items() if cell_id not in old.cells]
    findings += [Finding(cell=cell, metric="cell", verdict="new", reason=_new_cell(cell, unloadable)) for cell in added]
    findings.sort(key=lambda finding: finding.cell.order)
    problem = None if shared else _nothing_shared(absent, added)
    return Gate(old.name, new.name, tuple(findings), tuple(_unlike(old, new, shared)), len(shared), problem)


def _missing(cell: BaselineCell, thresholds: Thresholds) -> Finding:
    verdict: Verdict = "regression" if thresholds.missing_fails else "missing"
    reason = "it is in the baseline and was not measured."
    return Finding(cell=cell, metric="cell", verdict=verdict, reason=reason, measured=False)


def _new_cell(cell: BaselineCell, unloadable: Mapping[str, str]) -> str:
    state = "" if cell.ok else f"; it is `{cell.status}`: {cell.reason}"
    return f"{unloadable.get(cell.cell_id, 'it is not in the baseline')}{state}"


def _nothing_shared(absent: list[BaselineCell], added: list[BaselineCell]) -> str:
    """Why no cell is in both, with the settings that differ where the names are the same."""
    if not absent or not added:
        return f"the {'baseline' if not absent else 'candidate'} has no cells."
    for old in absent:
        for new in added:
            if (old.task, old.model, old.backend) == (new.task, new.model, new.backend):
                settings = [f.name for f in fields(SettingsPart) if f.name != "cell_id"]
                unlike = [n for n in settings if getattr(old, n) != getattr(new, n)]
                told = ", ".join(f"{n} {getattr(old, n)} against {getattr(new, n)}" for n in unlike)
                return f"no cell is in both; {new.label} was measured with other settings: {told}."
    return f"no cell is in both; the baseline has {absent[0].label}, the candidate {added[0].label}."


def _unlike(old: Baseline, new: Baseline, shared: list[str]) -> list[str]:
    pairs = {(old.cells[cell_id].environment or "", new.cells[cell_id].environment or "") for cell_id in shared}
    lines = [
        line
        for before, after in sorted(pairs)
        for line in differences(old.environments.get(before, {}), new.environments.get(after, {}))
        if not line.startswith(tuple(f"{name}:" if not name.endswith(".") else name for name in EXPECTED))
    ]
    return list(dict.fromkeys(lines))


def _cell_findings(
    old: BaselineCell, new: BaselineCell, thresholds: Thresholds, refused: str | None
) -> Iterator[Finding]:
    unlike = [refused] if refused else _unlike_premises(old, new)
    if unlike:
        reason = f"it is not the same problem: {', '.join(unlike)}."
        yield Finding(cell=new, metric="cell", verdict="incomparable", reason=reason)
        return
    yield _status(old, new)
    for metric in METRICS:
        if thresholds.band(metric, new.task, new.backend).ignored:
            continue
        finding = (
            time_finding(old, new, thresholds.band(TIME, new.task, new.backend).relative)
            if metric == TIME
            else _figure(metric, old, new, thresholds)
        )
        if finding is not None:
            yield finding


def _status(old: BaselineCell, new: BaselineCell) -> Finding:
    worse = RANKS.get(new.status, 2) - RANKS.get(old.status, 2)
    verdict: Verdict = "same"
    if old.status != new.status:
        verdict = "regression" if worse > 0 else "improvement" if worse < 0 else "changed"
    told = {"same": None, "improvement": new.reason or f"it was: {old.reason}"}.get(verdict, new.reason)
    return Finding(cell=new, metric="status", verdict=verdict, reason=told or "", old=old.status, new=new.status)


def _figure(metric: str, old: BaselineCell, new: BaselineCell, thresholds: Thresholds) -> Finding | None:
    before, after = getattr(old, metric), getattr(new, metric)
    said = METRICS[metric]

    def found(verdict: Verdict, reason: str = "") -> Finding:
        return Finding(cell=new, metric=metric, verdict=verdict, reason=reason, old=before, new=after, unit=said.unit)

    if before is None and after is None:
        return None
    if before is None:
        return found("new", NO_FIGURE)
    if after is None:
        return found("missing", "the baseline has it, the candidate does not.") if new.ok else None
    allowed = thresholds.band(metric, new.task, new.backend).allowed(before, new.dtype)
    if abs(after - before) <= allowed:
        return found("same")
    band = f", beyond the band of {allowed:.3g}" if allowed else ""
    worse = after < before if said.better == "higher" else after > before
    return found("regression" if worse else "improvement", f"{change(before, after)}{band}.")


def _unlike_premises(old: BaselineCell, new: BaselineCell) -> list[str]:
    pairs = {name: (getattr(old, name), getattr(new, name)) for name in (*PREMISES, *FIELD)}
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    unlike = [
        f"{name} {known[name][0]} against {known[name][1]}" for name in PREMISES if len({*known.get(name, ())}) > 1
    ]
    return unlike + [
        f"the field's {word} at fixed points {known[name][0]:.6g} against {known[name][1]:.6g}"
        for name, (word, relative) in FIELD.items()
        if name in known and not isclose(*known[name], rel_tol=relative, abs_tol=ROUNDING)
    ]
