"""`nodebench recommend`: measures what a choice needs, the cheapest first, and says what to use.

Errors, evaluations and memory come first, of one tolerance after the other from the loosest on, and of a method only
until it is exact enough. Then those that can still win are timed in turns with each other, each at its own tolerance.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nodebench.bench.plan import Cell, Plan
from nodebench.bench.runner import new_run_id, record_of
from nodebench.bench.work import CellResult, MachineContext, TimingWork
from nodebench.measuring import Watcher, measure, planned, run_settings
from nodebench.options import RecommendOptions, part_of, taking
from nodebench.reports.comparison import Machines, grouped
from nodebench.reports.recommendation import (
    Lost,
    Recommendation,
    Wishes,
    chosen,
    effort,
    error_of,
    recommendation,
)
from nodebench.results.equal_cost import time_ratio
from nodebench.results.machine import fingerprint
from nodebench.results.record import Measurement, Record
from nodebench.results.store import Store, existing

LADDER = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Relative tolerances that are tried, from the wished error on: hardly a gradient is more exact than its solve."""

TIGHTEST: Mapping[str, float] = {"float32": 1e-7, "float64": 1e-8}
"""Below it rounding, and no longer the solver, decides."""

HOPELESS = 4.0
"""Times the evaluations of the method with the fewest from which on a method is not timed."""

STILL = 0.7
"""Part of its error at the tolerance before which a method must get below, or it is not tried at a tighter one."""

OVER = ("unsupported", "not_installed", "timeout", "oom")
"""Statuses with which a method is not tried again."""


@taking(RecommendOptions)
def recommend(options: RecommendOptions) -> Recommendation:
    """Say which gradient method to use, what it costs, and why the others lost.

    Returns:
        The methods that keep to the wishes, the best first, the line of code that uses it, and the others with reasons.

    Raises:
        UserError: If a wish is no positive number, there is nothing to measure, or no such run.
    """
    return recommended(options, Watcher())


def recommended(options: RecommendOptions, watcher: Watcher) -> Recommendation:
    """What `recommend` returns; the watcher is told what is being measured."""
    wishes = Wishes.of(options.error, options.memory, options.time)
    if options.run is not None:
        store = existing(options.store)
        records = store.records([store.run(options.run).run_id])
        machines = Machines.of(records, store.environments())
        return recommendation(machines.with_times_of_one(records), wishes)
    with TemporaryDirectory(prefix="nodebench-") as folder:
        return Search(options, wishes, watcher, Path(folder)).found()


@dataclass
class Search:
    """The measurements that a recommendation needs; at their end they are a run in the store.

    Attributes:
        options: What is asked for.
        wishes: What a method must keep to.
        watcher: Told what happens.
        folder: Where the measurements are kept until the end, and reference gradients.
        cells: The cells that were measured, by id.
        records: What was found of each.
    """

    options: RecommendOptions
    wishes: Wishes
    watcher: Watcher
    folder: Path
    cells: dict[str, Cell] = field(default_factory=dict, init=False)
    records: list[Record] = field(default_factory=list, init=False)

    def found(self) -> Recommendation:
        """Measure, and recommend."""
        began = time.monotonic()
        left = replace(self.options, store=self.folder / "search.db")
        for rtols in self._tolerances():
            plan = planned(replace(left, rtols=rtols))
            if plan.broken:
                self.watcher.broken(plan.broken)
            self.records += measure(plan, left, self.watcher)
            self.cells |= {cell.cell_id: cell for cell in plan.cells}
            still = self._open()
            if not still:
                break
            if time.monotonic() - began > self._budget_s:
                self.watcher.tell(
                    f"the budget of {self._budget_s:g} s is spent: no tighter tolerance was tried of {', '.join(still)}"
                )
                break
            left = replace(left, backends=still)
        self._timed(max(1.0, self._budget_s - (time.monotonic() - began)))
        found = recommendation(self._kept(), self.wishes, time_ratio)
        untimed = [choice for choice in found.choices if choice.record.step_s is None]
        if len(untimed) == len(found.choices):
            return found
        fewest = min(effort(choice.record) for choice in found.choices)
        lost = [
            Lost(
                str(choice.record.backend),
                f"not timed: {effort(choice.record):.0f} evaluations and VJPs, the fewest are {fewest:.0f}",
                effort(choice.record) / fewest,
                choice.record,
            )
            for choice in untimed
        ]
        timed = tuple(choice for choice in found.choices if choice not in untimed)
        return replace(found, choices=timed, lost=(*lost, *found.lost))

    @property
    def _budget_s(self) -> float:
        return 60.0 if self.options.budget_s is None else self.options.budget_s

    def _tolerances(self) -> list[Sequence[float]]:
        """The tolerances of each round; the task's own alone where no error is wished for."""
        if self.options.rtols:
            return [(rtol,) for rtol in sorted(self.options.rtols, reverse=True)]
        if self.wishes.error is None:
            return [()]
        tightest = TIGHTEST.get(self.options.dtype or "float32", LADDER[-1])
        loosest = max(tightest, min(LADDER[0], self.wishes.error))
        rungs = [rtol for rtol in LADDER if 0.99 * tightest <= rtol <= 1.01 * loosest]
        # Every second one, and the last: what lies between is interpolated.
        return [(rtol,) for rtol in dict.fromkeys([*rungs[::2], *rungs[-1:]])]

    def _open(self) -> list[str]:
        """The backends that are not exact enough yet, and may become so."""
        wished = self.wishes.error
        if wished is None and not self.options.rtols:
            return []
        return [
            backend
            for backend in dict.fromkeys(str(record.backend) for record in self.records)
            if _may_improve([record for record in self.records if record.backend == backend], wished)
        ]

    def _timed(self, budget_s: float) -> None:
        """Time what can still win, in turns with each other, each at its own tolerance."""
        methods = grouped(self.records, lambda record: (record.backend, record.solver))
        fits = [found for each in methods if isinstance(found := chosen(each, self.wishes), Record)]
        if not fits:
            return
        fewest = min(map(effort, fits))
        # Those with the fewest evaluations first: the first is the control.
        fits = sorted((record for record in fits if effort(record) <= HOPELESS * fewest), key=effort)
        before = tuple(CellResult(self.cells[record.cell_id], part_of(Measurement, record)) for record in fits)
        timed = self._in_turns(before, budget_s / len(before))
        taken = {record.cell_id for record in timed}
        self.records = [*timed, *(record for record in self.records if record.cell_id not in taken)]

    def _in_turns(self, before: tuple[CellResult, ...], budget_s: float) -> list[Record]:
        """Records of cells with their times, and ratios to the first."""
        settings = replace(run_settings(self.options, here=True), budget_s=budget_s)
        with self.watcher.progress(len(before)) as notify:
            machine = MachineContext(platform.node(), fingerprint(), settings, self.folder / "references", "", notify)
            return [record_of(result, "") for result in TimingWork(before).measured(machine)]

    def _kept(self) -> list[Record]:
        """The records as a run of their own in the store."""
        store, run_id, plan = (
            Store(Path(self.options.store)),
            new_run_id(),
            Plan(tuple(self.cells.values()), "gradient"),
        )
        made_by, n_cells = self.options.made_by, len(self.records)
        store.start_run(run_id, self.watcher.command, plan.plan_id, fingerprint(), n_cells, made_by=made_by)
        store.save_environment(fingerprint())
        control = next(
            (record for record in self.records if record.step_s is not None and record.control is None), None
        )
        for record in self.records:
            store.append(replace(record, run_id=run_id, **_ratio_kept(record, control)))
        store.finish_run(run_id)
        return [replace(record, run_id=run_id) for record in self.records]


def _ratio_kept(record: Record, control: Record | None) -> Mapping[str, Any]:
    """What becomes of a ratio in the store: one to a cell of another tolerance would be taken for what it is not."""
    alike = control is not None and (record.rtol, record.solver) == (control.rtol, control.solver)
    return {} if alike else dict.fromkeys(("control", "ratio", "ratio_low", "ratio_high", "verdict"))


def _may_improve(backend: Sequence[Record], wished: float | None) -> bool:
    """Whether a tighter tolerance may make a backend exact enough, with any of its solvers."""
    return any(_is_open(each, wished) for each in grouped(backend, lambda record: record.solver))


def _is_open(method: Sequence[Record], wished: float | None) -> bool:
    if method[-1].status in OVER:
        return False
    errors = [error for record in method if (error := error_of(record)) is not None]
    if wished is not None and any(error <= wished for error in errors):
        return False
    # A single step down may be a bad one; two that gain nothing are the end.
    return len(errors) < 3 or min(errors[-2:]) < STILL * errors[-3]
