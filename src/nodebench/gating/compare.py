"""The comparison of two sets of figures: what has become worse, and what cannot be said.

Counters, bytes and errors are compared in their bands. Times are compared through ratios whose two sides took turns in
one run, and only an interval that lies wholly beyond the threshold is a regression: what is undecided passes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isclose
from types import MappingProxyType

from nodebench import registry
from nodebench.errors import FEW, UnknownNameError
from nodebench.gating.at_error import error_findings, in_curves
from nodebench.gating.baseline import Baseline, BaselineCell
from nodebench.gating.finding import Finding, FindingVerdict
from nodebench.gating.thresholds import AT_ERROR, FIGURES, METRICS, TIME, Rule, Slowdown, Thresholds, slowdown
from nodebench.results.machine import differences
from nodebench.results.quantities import Band
from nodebench.results.record import SettingsPart

PREMISES = ("dataset", "n_params", "first_step", "batch_size")
"""What must be equal for the figures of a cell to be those of one problem, beside the settings in its id."""

FIELD = {"field_value": ("value", 1e-5), "field_derivative": ("derivative", 1e-4)}
"""What tells one field from another, with what it is called and how far it may be off between two of the same: sums in
another order, of another library or framework, move either, and a derivative more."""

ROUNDING = 1e-9
"""How far off they may be where they are about zero."""

EXPECTED = ("git:", "git.", "libraries.nodebench:")
"""How lines begin that tell of differences between the versions which are compared."""

NOTHING: Mapping[str, str] = MappingProxyType({})

RANKS = {"ok": 0, "unsupported": 1, "not_installed": 1}
"""Statuses from good to bad; all others are worst."""

NOTED = re.compile(r"no (\w+)")
"""How notes begin that say why a figure is not known; its name may be that of several without their endings."""

NO_FIGURE = "the baseline has no such figure."

TIME_FIGURES = ("step_s", "step_s_low", "step_s_high", "ratio", "ratio_low", "ratio_high", "n_starts", "control")
"""What is taken over into a baseline together, since an interval belongs to its ratio."""

ERRORS = ("grad_error_params", "grad_error_y0", "grad_error_times")
"""Figures of which a worse one takes the merit from a lower cost."""


@dataclass(frozen=True)
class GateResult:
    """What a comparison found.

    Attributes:
        old: Name of the baseline.
        new: Name of the candidate.
        findings: All of them, by cell.
        unlike: What sets the machines apart, a line each.
        n_compared: Cells that are in both.
        problem: Why there is nothing to compare at all, or None.
        notes: What a reader must know of the comparison, a sentence each.
    """

    old: str
    new: str
    findings: tuple[Finding, ...]
    unlike: tuple[str, ...]
    n_compared: int
    problem: str | None = None
    notes: tuple[str, ...] = ()

    def of(self, *verdicts: FindingVerdict) -> list[Finding]:
        """Findings with one of these verdicts."""
        return [finding for finding in self.findings if finding.verdict in verdicts]

    @property
    def may_be_raised(self) -> bool:
        """Whether the baseline would take over anything that has become better."""
        return any(not finding.derived for finding in self.of("improvement"))

    @property
    def exit_code(self) -> int:
        """1 for a regression, else 2 where something cannot be compared, else 0."""
        if self.of("regression"):
            return 1
        return 2 if self.problem or self.of("incomparable") else 0

    @property
    def summary(self) -> str:
        """One line: how many of what."""
        if self.problem:
            return f"{'failed' if self.exit_code == 1 else 'cannot compare'}: {self.problem}"
        names: dict[FindingVerdict, str] = {"regression": "regression(s)", "improvement": "improvement(s)"}
        told: tuple[FindingVerdict, ...] = (
            "regression", "incomparable", "undecided", "traded", "improvement", "missing", "new",
        )  # fmt: skip
        counts = [_counted(len(self.of(verdict)), names.get(verdict, verdict)) for verdict in told if self.of(verdict)]
        state = {0: "passed", 1: "failed", 2: "cannot compare"}[self.exit_code]
        cells = _counted(self.n_compared, "cell(s)")
        return f"{state}: {cells} compared; {', '.join(counts) or 'nothing has changed'}"


def compare(
    old: Baseline,
    new: Baseline,
    thresholds: Thresholds,
    refused: Mapping[str, str] = NOTHING,
    unloadable: Mapping[str, str] = NOTHING,
) -> GateResult:
    """Compare a candidate with a baseline.

    Args:
        old: The baseline.
        new: The candidate.
        thresholds: How far a figure may move.
        refused: Why the two sides of a cell are not one problem, by its id, where that is known already.
        unloadable: Why the baseline's side of a cell could not even be loaded, by its id.
    """
    shared = [cell_id for cell_id in old.cells if cell_id in new.cells]
    findings: list[Finding] = []
    comparable: list[str] = []
    for cell_id in shared:
        if cell_id in unloadable:
            reason = unloadable[cell_id]
            findings.append(Finding(cell=new.cells[cell_id], metric="cell", verdict="incomparable", reason=reason))
        else:
            of_cell = list(_cell_findings(old.cells[cell_id], new.cells[cell_id], thresholds, refused.get(cell_id)))
            comparable += [] if any(each.metric == "cell" for each in of_cell) else [cell_id]
            findings += _traded(of_cell)
    findings += error_findings(old, new, comparable, thresholds)
    absent = [cell for cell_id, cell in old.cells.items() if cell_id not in new.cells]
    reason = "it is in the baseline and was not measured."
    findings += [Finding(cell=cell, metric="cell", verdict="missing", reason=reason, measured=False) for cell in absent]
    added = [cell for cell_id, cell in new.cells.items() if cell_id not in old.cells]
    for cell in added:
        state = "" if cell.ok else f"; it is `{cell.status}`: {cell.reason}"
        reason = f"{unloadable.get(cell.cell_id, 'it is not in the baseline')}{state}"
        findings.append(Finding(cell=cell, metric="cell", verdict="new", reason=reason))
    if thresholds.missing_fails:
        findings = [replace(each, verdict="regression") if each.verdict == "missing" else each for each in findings]
    findings.sort(key=lambda finding: finding.cell.order)
    problem = None if shared else _nothing_shared(absent, added)
    notes = () if problem else (*_same_run(old, new), *_unmatched(old, new, thresholds))
    return GateResult(old.name, new.name, tuple(findings), _unlike(old, new, shared), len(shared), problem, notes)


def _same_run(old: Baseline, new: Baseline) -> Iterator[str]:
    """That the two sides have figures of one and the same run, a sentence for each."""
    for run in new.runs:
        if run in old.runs:
            yield f"{old.name} has figures of {run}, the run that it is compared with: of these a pass proves nothing."


def _unmatched(old: Baseline, new: Baseline, thresholds: Thresholds) -> Iterator[str]:
    """Which rules hold for no figure of either side, and why, a sentence each."""
    cells = [*old.cells.values(), *new.cells.values()]
    for rule in thresholds.rules:
        meant = [cell for cell in cells if rule.is_for(cell.task, cell.backend)]
        if rule.number is None or _has_figure(rule.metric, meant):
            continue
        several = ", which takes several tolerances of a method" if rule.metric in AT_ERROR else ""
        why = f"no cell that it is for has {rule.metric}{several}." if meant else _no_cell(rule, cells)
        yield f"rule {rule.number} in [[gate.rules]] ({rule.label}) holds for nothing here: {why}"


def _no_cell(rule: Rule, cells: list[BaselineCell]) -> str:
    """Why a rule is for none of the cells: the name that none of them has, which may be misspelt."""
    names: dict[registry.Kind, set[str]] = {
        "task": {cell.task for cell in cells},
        "backend": {cell.backend for cell in cells if cell.backend is not None},
    }
    for kind, here in names.items():
        wanted = rule.task if kind == "task" else rule.backend
        bare = {name.partition("[")[0] for name in here}
        if wanted is None or wanted in here | bare:
            continue
        known = {*bare, *registry.names(kind)}
        if wanted.partition("[")[0] not in known and ":" not in wanted:  # which is a module's or a file's
            return str(UnknownNameError(kind, wanted, known))
        told = f"; there are: {', '.join(sorted(here))}" if 0 < len(here) <= FEW else ""
        return f"no cell is of the {kind} {wanted}{told}."
    return f"no cell is of the task {rule.task} and the backend {rule.backend}."


def _has_figure(metric: str, cells: Sequence[BaselineCell]) -> bool:
    """Whether any of these cells has a figure of the gate's, or a method several cells for one at equal error."""
    if metric in AT_ERROR:
        cells = in_curves(cells)
    return any(None not in (getattr(cell, name) for name in FIGURES[metric]) for cell in cells)


def _nothing_shared(absent: list[BaselineCell], added: list[BaselineCell]) -> str:
    """Why no cell is in both, with the settings that differ where the names are the same."""
    if not absent or not added:
        return f"the {'baseline' if not absent else 'candidate'} has no cells."
    for old in absent:
        for new in added:
            if (old.task, old.model, old.backend) == (new.task, new.model, new.backend):
                settings = [*(f.name for f in fields(SettingsPart) if f.name != "cell_id"), "first_step", "dataset"]
                unlike = [n for n in settings if getattr(old, n) != getattr(new, n)]
                told = ", ".join(f"{n} {getattr(old, n)} against {getattr(new, n)}" for n in unlike)
                return f"no cell is in both; {new.label} was measured with other settings: {told}."
    return f"no cell is in both; the baseline has {absent[0].label}, the candidate {added[0].label}."


def _unlike(old: Baseline, new: Baseline, shared: list[str]) -> tuple[str, ...]:
    """What sets the machines of shared cells apart."""
    pairs = {(old.cells[cell_id].environment or "", new.cells[cell_id].environment or "") for cell_id in shared}
    lines = [
        line
        for before, after in sorted(pairs)
        for line in differences(old.environments.get(before, {}), new.environments.get(after, {}))
        if not line.startswith(EXPECTED)
    ]
    return tuple(dict.fromkeys(lines))


def _cell_findings(
    old: BaselineCell, new: BaselineCell, thresholds: Thresholds, refused: str | None
) -> Iterator[Finding]:
    unlike = [refused] if refused else _unlike_premises(old, new)
    if unlike:
        reason = f"it is not the same problem: {', '.join(unlike)}."
        yield Finding(cell=new, metric="cell", verdict="incomparable", reason=reason)
        return
    yield _status_finding(old, new)
    for metric in METRICS:
        band = thresholds.band(metric, new.task, new.backend)
        if not band.ignored:
            found = time_finding(old, new, band.relative) if metric == TIME else _finding(metric, old, new, band)
            if found is not None:
                yield found


def _traded(findings: list[Finding]) -> list[Finding]:
    """What is said of a cell, where lower costs at the price of a less exact gradient are no improvements."""
    worse = [finding.metric for finding in findings if finding.metric in ERRORS and finding.verdict == "regression"]
    if not worse:
        return findings
    exact = (*ERRORS, "grad_cosine_params", "method_error_params", "method_error_y0", "method_error_times", "status")
    why = f"{worse[0]} has become larger; several tolerances tell what it costs at equal error."
    return [
        replace(each, verdict="traded", reason=f"{each.reason} But {why}")
        if each.verdict == "improvement" and each.metric not in exact
        else each
        for each in findings
    ]


def _unlike_premises(old: BaselineCell, new: BaselineCell) -> list[str]:
    """In what the problems of two cells differ, a few words each."""
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


def _status_finding(old: BaselineCell, new: BaselineCell) -> Finding:
    worse = RANKS.get(new.status, 2) - RANKS.get(old.status, 2)
    verdict: FindingVerdict = "same"
    if old.status != new.status:
        verdict = "regression" if worse > 0 else "improvement" if worse < 0 else "changed"
    told = {"same": None, "improvement": new.reason or f"it was: {old.reason}"}.get(verdict, new.reason)
    return Finding(cell=new, metric="status", verdict=verdict, reason=told or "", old=old.status, new=new.status)


def _finding(metric: str, old: BaselineCell, new: BaselineCell, band: Band) -> Finding | None:
    """What is to be said of a figure other than the time; None where there is nothing."""
    before, after = getattr(old, metric), getattr(new, metric)
    verdict: FindingVerdict = "same"
    reason = ""
    if before is None:
        if after is None:
            return None
        verdict, reason = "new", NO_FIGURE
    elif after is None:
        if not new.ok:
            return None
        verdict, reason = "missing", _missing(metric, new)
    elif abs(after - before) > (allowed := band.allowed(before, new.dtype)):
        is_worse = after < before if METRICS[metric].better == "higher" else after > before
        verdict = "regression" if is_worse else "improvement"
        reason = f"{_change(before, after)}{f', beyond the band of {allowed:.3g}' if allowed else ''}."
    unit = METRICS[metric].unit
    return Finding(cell=new, metric=metric, verdict=verdict, reason=reason, old=before, new=after, unit=unit)


def _missing(metric: str, new: BaselineCell) -> str:
    """That a candidate lacks a figure which the baseline has, and what its record says of that."""
    told = [note for note in new.notes if (named := NOTED.match(note)) and metric.startswith(named[1])]
    return f"the baseline has it, the candidate does not{f': {told[0]}' if told else ''}."


def time_finding(old: BaselineCell, new: BaselineCell, limit: float) -> Finding | None:
    """What is to be said of the time of a cell, which only a ratio of two sides that took turns tells.

    Args:
        old: The baseline's figures.
        new: The candidate's.
        limit: Slowdown that is a regression; 0.1 is a tenth.

    Returns:
        None where there is nothing to say.
    """
    if not new.ok or not old.ok:
        return None  # it is not ranked, and its status says why
    if new.step_s is None:
        return None if old.step_s is None else _time_finding(old, new, "missing", "it was not timed.")
    if not new.paired and (old.step_s is None or old.control != new.control):
        return _no_common_control(old, new)
    if new.ratio is None:
        return _without_ratio(old, new)
    found = slowdown(old, new)
    if found is None:
        reason = "a ratio of a single start has no interval; measure with more rounds."
        return _time_finding(old, new, "undecided", reason)
    verdict = found.verdict(limit)
    return replace(
        _time_finding(old, new, verdict, _explain(found, verdict, limit, new)), low=found.low, high=found.high
    )


def _time_finding(old: BaselineCell, new: BaselineCell, verdict: FindingVerdict, reason: str) -> Finding:
    before = 1.0 if new.paired else old.ratio
    return Finding(cell=new, metric=TIME, verdict=verdict, reason=reason, old=before, new=new.ratio, unit="ratio")


def _no_common_control(old: BaselineCell, new: BaselineCell) -> Finding | None:
    """Why two ratios cannot be compared; None where there are none."""
    if old.step_s is None:
        return None if new.ratio is None else _time_finding(old, new, "new", NO_FIGURE)
    told = [f"to {cell.control}" if cell.control else "to none" for cell in (old, new)]
    reason = (
        f"the ratio of times is {told[0]} in the baseline and {told[1]} in the candidate; measure with the same "
        "--control, or both versions in turns with --against-ref."
    )
    return _time_finding(old, new, "incomparable", reason)


def _without_ratio(old: BaselineCell, new: BaselineCell) -> Finding | None:
    """Of a cell with times but no ratio: what they are, and that they say nothing."""
    if old.step_s is None or new.step_s is None:
        return None
    if old.ratio is not None:
        reason = f"the baseline has a ratio to {old.control}, the candidate does not."
        return _time_finding(old, new, "missing", reason)
    reason = (
        f"{_change(old.step_s, new.step_s)} s, not gated: it has no ratio to a control, and the two were not timed in "
        "turns; --against-ref times both versions in turns."
    )
    return Finding(
        cell=new, metric="step_s", verdict="undecided", reason=reason, old=old.step_s, new=new.step_s, unit="s"
    )


def _explain(found: Slowdown, verdict: FindingVerdict, limit: float, new: BaselineCell) -> str:
    text = f"{found.ratio:.3g} times what it was, {found.low:.3g} to {found.high:.3g}"
    if verdict == "same":
        return ""
    if verdict != "undecided":
        other = "faster" if verdict == "regression" else "slower"
        return f"{text}." if new.paired else f"{text}; or its control, {new.control}, has become {other}."
    more = found.starts_needed(limit)
    if more is not None:
        advice = f"About {more} more starts would decide (--budget-s, --precision)."
    elif found.old_error:
        advice = "No number of starts would decide: the baseline's own interval is too wide, or it is at the limit."
    else:
        advice = "No reasonable number of starts would decide: it is at the limit."
    return f"{text}; the limit is {1 + limit:.4g}. {advice}"


def _change(before: float, after: float) -> str:
    """How a figure has moved, absolutely and relative to what it was."""
    difference = after - before
    relative = f" ({difference / before:+.1%})" if before else ""
    return f"{difference:+.4g}{relative}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what.replace('(s)', '' if n == 1 else 's')}"


@dataclass(frozen=True)
class BaselineUpdate:
    """A baseline that has been brought up to date.

    Attributes:
        baseline: What it is now.
        taken: What was taken over.
        left: Regressions that were not.
        notes: As those of the comparison.
    """

    baseline: Baseline
    taken: tuple[Finding, ...]
    left: tuple[Finding, ...]
    notes: tuple[str, ...]


def update(old: Baseline, new: Baseline, result: GateResult, *, accept_regressions: bool = False) -> BaselineUpdate:
    """Take over into a baseline what has become better, and cells and figures that it does not have.

    Figure by figure, so that what has become a little worse, within its band, is not taken over with what has become
    better: a baseline that did so would creep.

    Args:
        old: The baseline.
        new: The candidate.
        result: Their comparison.
        accept_regressions: Whether to take over what has become worse and what cannot be compared, too.
    """
    taken = [finding for finding in result.of("improvement", "new", "changed") if finding.measured]
    # With a new status a cell comes whole, what has become worse in it too.
    whole = {finding.cell.cell_id for finding in taken if finding.metric in ("cell", "status")}
    # What is derived follows from figures that have findings of their own.
    taken = [finding for finding in taken if not finding.derived]
    worse = [finding for finding in result.of("regression", "incomparable", "traded") if not finding.derived]
    along = [f for f in worse if f.measured and (accept_regressions or f.cell.cell_id in whole)]
    cells: dict[str, BaselineCell] = dict(old.cells)
    for finding in (*taken, *along):
        cell_id, metric = finding.cell.cell_id, finding.metric
        known, found = cells.get(cell_id), new.cells[cell_id]
        if known is None or metric in ("cell", "status"):
            cells[cell_id] = found
        else:
            figures = {name: getattr(found, name) for name in (TIME_FIGURES if metric == TIME else (metric,))}
            cells[cell_id] = replace(known, environment=found.environment, **figures)
    left = tuple(finding for finding in worse if finding not in along)
    return BaselineUpdate(old.taking(cells, new), (*taken, *along), left, result.notes)
