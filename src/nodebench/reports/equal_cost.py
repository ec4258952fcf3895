"""Costs at equal error as sentences and tables; what would say nothing is left out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nodebench.reports.comparison import TIMES, comparisons, grouped, line_key, line_setting
from nodebench.reports.document import (
    ABSENT,
    Block,
    Bullets,
    Column,
    Entry,
    Table,
    Tone,
    interval,
    mebibytes,
    milliseconds,
    number,
)
from nodebench.results.equal_cost import CostAtError, EqualCosts, Estimate, equal_costs, power
from nodebench.results.record import Record

TONES: dict[str | None, Tone] = {"undecided": "doubtful", "faster": "good"}

ERROR_NAMES = {"grad_error_params": "d/dparams", "grad_error_y0": "d/dy0"}

SIGNS = (
    "`<`: more exact already at the loosest tolerance tried, so that the figure is an upper bound. `?`: undecided, the "
    "interval of the ratio holds 1."
)

BETWEEN = (
    "Costs at equal error are interpolated, linearly in the logarithms, between the tolerances that were run, never "
    "beyond them."
)


@dataclass(frozen=True)
class EqualErrors:
    """Methods on one problem, and what each costs at equal errors.

    Attributes:
        records: What was measured, one of each cell, with times of one run on one machine.
        costs: What it says.
    """

    records: tuple[Record, ...]
    costs: EqualCosts

    @property
    def several_solvers(self) -> bool:
        """Whether methods must be told apart by their solvers, too."""
        return len({solver for _, solver in self.costs.methods}) > 1

    @property
    def setting(self) -> str:
        """What all have in common, in words."""
        found = line_setting(self.records[0])
        return found.replace(f", {self.records[0].solver},", ",", 1) if self.several_solvers else found

    def label(self, name: tuple[str, str]) -> str:
        """What a method is called."""
        return " ".join(name) if self.several_solvers else name[0]


def equal_errors(records: Sequence[Record]) -> list[EqualErrors]:
    """Problems on which some method comes down to one of the errors between two of its tolerances.

    Args:
        records: Records with times of one machine, of as many runs as one likes. Times are taken from the run with most
            of them on each problem.
    """
    shown = [record for comparison in comparisons(records) for record in comparison.records]
    found = []
    for group in grouped(shown, _problem):
        of_run = _with_times_of_one_run(group, records)
        costs = equal_costs(of_run)
        if costs is not None and any(len(cost.points) > 1 for cost in costs.costs):
            found.append(EqualErrors(tuple(of_run), costs))
    return found


def _problem(record: Record) -> tuple[object, ...]:
    """What records have in common that differ in backend, solver and tolerance or step alone."""
    return line_key(replace(record, solver=None))


def _with_times_of_one_run(group: Sequence[Record], records: Iterable[Record]) -> list[Record]:
    """One record of each cell, those of the run and node with most times where they have it; others without times."""
    ok = {record.cell_id for record in group if record.ok}
    timed = [record for record in records if record.cell_id in ok and record.ok and record.step_s is not None]
    sets = grouped(timed, lambda record: (record.run_id, record.node, record.environment))
    chosen = max(sets, key=lambda each: (len({r.cell_id for r in each}), each[0].created_at), default=[])
    ours = {record.cell_id: record for record in chosen}
    untimed: dict[str, Any] = dict.fromkeys(TIMES)
    return [ours.get(record.cell_id) or replace(record, **untimed) for record in group]


def at_equal_error_briefly(records: Sequence[Record]) -> Iterator[Block]:
    """The same for a terminal of 80 columns: a table for each cost without intervals, and the sentences."""
    for found in equal_errors(records):
        where = f"{found.setting.replace('`', '')}: at equal error of {ERROR_NAMES[found.costs.error]}"
        for figure in FIGURES:
            title = f"{where}, {figure.title}" if figure is TIME_AT else figure.title
            yield cost_table(found, figure, figure.key, title)
        yield Bullets((*sentences(found), SIGNS))


def sentences(found: EqualErrors) -> tuple[str, ...]:
    """Who is fastest at the error that most methods reach, and at the smallest that two of them do.

    Errors that no method undercuts at its loosest tolerance come first: of the others it is not known who is fastest.
    """
    compared = {target: timed_costs(found.costs.at(target)) for target in found.costs.targets}
    several = [target for target, costs in compared.items() if len(costs) > 1]
    targets = [target for target in several if not undercut(found, target)] or several
    if not targets:
        return ()
    most = max(targets, key=lambda target: len(compared[target]))
    return tuple(_sentence(found, target) for target in dict.fromkeys((most, min(targets))))


def timed_costs(costs: Iterable[CostAtError]) -> list[CostAtError]:
    """Costs of the methods that reach an error, and whose time is known."""
    return [cost for cost in costs if cost.outcome == "reached" and cost.time.value is not None]


def _sentence(found: EqualErrors, target: float) -> str:
    costs = found.costs.at(target)
    best, ties = _fastest(found, timed_costs(costs))
    time = f"{milliseconds(best.time.value)} ms a step{_ends(best.time, 1000)}"
    if best.ratio.value is not None and found.costs.control is not None:
        time += f", {number(best.ratio.value)}{_ends(best.ratio)} of the time of `{found.label(found.costs.control)}`"
    name, finer = _names(found, [best]), undercut(found, target)
    whose = " of those measured on both sides of it" if finer else ""
    text = f"At an error of {power(target)} the fastest{whose} is"
    if ties:
        text += f" not decided: the lowest time has {name}, {time}; the intervals do not tell it from "
        text += _names(found, ties)
    else:
        text += f" {name}, {time}"
    if finer:
        bounds = (f"{_names(found, [cost])} at most {milliseconds(cost.time.value)}" for cost in finer)
        text += f"; more exact already at the loosest tolerance, in ms: {', '.join(bounds)}"
    if missing := [cost for cost in costs if cost.outcome == "not reached"]:
        text += f"; {_names(found, missing)} {'does' if len(missing) == 1 else 'do'} not reach it"
    return f"{text}."


def undercut(found: EqualErrors, target: float) -> list[CostAtError]:
    """The methods that are more exact than asked at their loosest tolerance, with upper bounds of their costs."""
    return [cost for cost in found.costs.at(target) if cost.outcome == "more exact"]


def _names(found: EqualErrors, costs: Iterable[CostAtError]) -> str:
    return ", ".join(f"`{found.label((cost.backend, cost.solver))}`" for cost in costs)


def _fastest(found: EqualErrors, timed: Sequence[CostAtError]) -> tuple[CostAtError, list[CostAtError]]:
    """Who takes the least time at an error, and of whom the intervals do not say that they are slower."""
    related = {id(cost): _relative(found, cost) for cost in timed}
    use_ratios = all(estimate.high is not None for estimate in related.values())
    estimates = related if use_ratios else {id(cost): cost.time for cost in timed}
    best = min(timed, key=lambda cost: estimates[id(cost)].value or 0.0)
    highest = estimates[id(best)].high
    lows = ((cost, estimates[id(cost)].low) for cost in timed if cost is not best)
    return best, [cost for cost, low in lows if highest is None or low is None or low <= highest]


def _relative(found: EqualErrors, cost: CostAtError) -> Estimate:
    is_control = (cost.backend, cost.solver) == found.costs.control
    return Estimate(1.0, 1.0, 1.0) if is_control else cost.ratio


def _ends(estimate: Estimate, scale: float = 1.0) -> str:
    ends = interval(estimate.low, estimate.high, scale)
    return f" ({ends})" if ends else ""


@dataclass(frozen=True)
class Figure:
    """A figure at equal error, as a table shows it.

    Attributes:
        key: Part of the table's name.
        title: What it is, with its unit.
        of: The figure.
        text: How a value is printed.
        scale: What the ends of its interval are multiplied with.
    """

    key: str
    title: str
    of: Callable[[CostAtError], Estimate]
    text: Callable[[Any], str]
    scale: float = 1.0


TIME_AT = Figure("time", "time of a gradient step, ms", lambda cost: cost.time, milliseconds, 1000)
RATIO_AT = Figure("ratio", "the time relative to the control's", lambda cost: cost.ratio, number)
NFE_AT = Figure("NFE", "evaluations, forward and backward", lambda cost: cost.evaluations, number)
MEMORY_AT = Figure("memory", "peak memory, MiB", lambda cost: cost.memory, mebibytes)
FIGURES = (TIME_AT, RATIO_AT, NFE_AT, MEMORY_AT)


def cost_table(found: EqualErrors, figure: Figure, name: str, brief: str = "") -> Table:
    """A figure at equal errors, a row for each method and a column for each error that some method reaches.

    Args:
        found: The costs.
        figure: The figure.
        name: Name of the table.
        brief: Title of a table without intervals and meanings; empty for one with them.
    """
    targets = found.costs.targets
    best = {target: _marked(found, target) if figure is TIME_AT else set() for target in targets}
    rows = []
    for method in found.costs.methods:
        own = {cost.target: cost for cost in found.costs.costs if (cost.backend, cost.solver) == method}
        label = found.label(method)
        entries = (
            replace(_entry(found, own[target], figure, brief=bool(brief)), best=method in best[target])
            for target in targets
        )
        rows.append((Entry(f"`{label}`", label), *entries))
    columns = (
        Column("method", numeric=False, wraps=True),
        *(Column(power(target)) for target in targets),
    )
    caption = f"At equal error of {ERROR_NAMES[found.costs.error]}, {figure.title}: {found.setting}."
    return Table(name, brief or caption, columns, tuple(rows))


def _marked(found: EqualErrors, target: float) -> set[tuple[str, str]]:
    """The fastest at an error, and those that are not distinguishable from it; none where that is not known."""
    timed = timed_costs(found.costs.at(target))
    if len(timed) < 2 or undercut(found, target):
        return set()
    best, ties = _fastest(found, timed)
    return {(cost.backend, cost.solver) for cost in (best, *ties)}


def _entry(found: EqualErrors, cost: CostAtError, figure: Figure, *, brief: bool) -> Entry:
    estimate = figure.of(cost)
    if figure is RATIO_AT and (cost.backend, cost.solver) == found.costs.control:
        return Entry("control")
    if estimate.value is None:
        told = brief and figure is not TIME_AT and estimate.reason == cost.time.reason
        return Entry(ABSENT, reason=None if told else estimate.reason)
    text = f"{'<' if cost.outcome == 'more exact' else ''}{figure.text(estimate.value)}"
    text += "" if brief else _ends(estimate, figure.scale)
    order = float(f"{estimate.value:.4g}")  # by which it is sorted; more digits would only make a page long
    if figure is not RATIO_AT:
        return Entry(text, order)
    return Entry(f"{text}?" if cost.verdict == "undecided" else text, order, tone=TONES.get(cost.verdict, ""))
