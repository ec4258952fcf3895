"""What a comparison found: a verdict for each figure of each cell, and one for all of it."""

from dataclasses import dataclass
from typing import Literal

from nodebench.results.baseline import BaselineCell

Verdict = Literal["regression", "incomparable", "missing", "undecided", "improvement", "changed", "new", "same"]
"""`incomparable`: a figure on both sides that cannot be compared. `missing`: one that only the baseline has. `changed`:
another failure than before. `new`: one that only the candidate has."""

NO_FIGURE = "the baseline has no such figure."


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is to be said of one figure of one cell.

    Attributes:
        cell: The cell, as the candidate has it where it does.
        metric: Name of the figure; `status`, or `cell` for the whole of it.
        verdict: How it compares.
        reason: One sentence; empty where there is nothing to say.
        old: The baseline's figure.
        new: The candidate's.
        low: Of a slowdown, the lower end of its interval.
        high: The upper end.
        unit: Unit of the figures.
        measured: Whether the candidate has the cell.
    """

    cell: BaselineCell
    metric: str
    verdict: Verdict
    reason: str = ""
    old: float | str | None = None
    new: float | str | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    measured: bool = True


@dataclass(frozen=True)
class Gate:
    """What a comparison found.

    Attributes:
        old: Name of the baseline.
        new: Name of the candidate.
        findings: All of them, by cell.
        unlike: What sets the machines apart, a line each.
        n_compared: Cells that are in both.
        problem: Why there is nothing to compare at all, or None.
    """

    old: str
    new: str
    findings: tuple[Finding, ...]
    unlike: tuple[str, ...]
    n_compared: int
    problem: str | None = None

    def of(self, *verdicts: Verdict) -> list[Finding]:
        """Findings with one of these verdicts."""
        return [finding for finding in self.findings if finding.verdict in verdicts]

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
        names: dict[Verdict, str] = {"regression": "regression(s)", "improvement": "improvement(s)"}
        told: tuple[Verdict, ...] = ("regression", "incomparable", "undecided", "improvement", "missing", "new")
        counts = [_counted(len(self.of(verdict)), names.get(verdict, verdict)) for verdict in told if self.of(verdict)]
        state = {0: "passed", 1: "failed", 2: "cannot compare"}[self.exit_code]
        cells = _counted(self.n_compared, "cell(s)")
        return f"{state}: {cells} compared; {', '.join(counts) or 'nothing has changed'}"


def change(before: float, after: float) -> str:
    """How a figure has moved, absolutely and relative to what it was."""
    difference = after - before
    relative = f" ({difference / before:+.1%})" if before else ""
    return f"{difference:+.4g}{relative}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what.replace('(s)', '' if n == 1 else 's')}"
