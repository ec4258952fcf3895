"""Taking over into a baseline what has become better."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nodebench.results.baseline import Baseline, BaselineCell
from nodebench.results.finding import Finding, Gate, Verdict
from nodebench.results.thresholds import TIME

TIME_FIGURES = ("step_s", "ratio", "ratio_low", "ratio_high", "n_starts", "control")
"""What is taken over together, since an interval belongs to its ratio."""


@dataclass(frozen=True)
class Update:
    """A baseline that has been brought up to date.

    Attributes:
        baseline: What it is now.
        taken: What was taken over.
        left: Regressions that were not.
    """

    baseline: Baseline
    taken: tuple[Finding, ...]
    left: tuple[Finding, ...]


def update(old: Baseline, new: Baseline, gate: Gate, *, accept_regressions: bool = False) -> Update:
    """Take over improvements, and cells and figures that the baseline does not have.

    Figure by figure, so that what has become a little worse, within its band, is not taken over with what has become
    better: a baseline that did so would creep.

    Args:
        old: The baseline.
        new: The candidate.
        gate: Their comparison.
        accept_regressions: Whether to take over what has become worse and what cannot be compared, too.
    """
    wanted: tuple[Verdict, ...] = ("improvement", "new", "changed")
    worse: tuple[Verdict, ...] = ("regression", "incomparable")
    taken = [finding for finding in gate.of(*wanted) if finding.measured]
    # With a new status a cell comes whole, what has become worse in it too.
    whole = {finding.cell.cell_id for finding in taken if finding.metric in ("cell", "status")}
    worsened = gate.of(*worse)
    along = [f for f in worsened if f.measured and (accept_regressions or f.cell.cell_id in whole)]
    taken += along
    cells: dict[str, BaselineCell] = dict(old.cells)
    for finding in taken:
        cell_id = finding.cell.cell_id
        cells[cell_id] = _merged(cells.get(cell_id), new.cells[cell_id], finding.metric)
    left = tuple(finding for finding in worsened if finding not in along)
    environments: Mapping[str, Mapping[str, object]] = {**old.environments, **new.environments}
    return Update(Baseline(old.name, cells, environments), tuple(taken), left)


def _merged(old: BaselineCell | None, new: BaselineCell, metric: str) -> BaselineCell:
    if old is None or metric in ("cell", "status"):
        return new
    names = TIME_FIGURES if metric == TIME else (metric,)
    return replace(old, environment=new.environment, **{name: getattr(new, name) for name in names})
