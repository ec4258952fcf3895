"""Statistics of paired, interleaved timing: medians within a start, Student's interval over the starts.

Two processes of one and the same cell differ by one to three per cent from one start to the next, whatever is done
inside them (memory layout), and no number of rounds within a start averages that out. So the start is the sample: what
is estimated is the mean over the starts, on the scale of logarithms, of each start's median, and its interval is
Student's with as many degrees of freedom as there are starts but one. A percentile bootstrap of so few samples is too
narrow: over five of them it covers 83 % instead of 95 % (`tests/test_timing.py`).

"Rigorous benchmarking in reasonable time", Kalibera, Jones, 2013, https://doi.org/10.1145/2491894.2464160: repetition
belongs on the highest level that varies.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from math import exp, log, sqrt
from pathlib import Path
from random import Random
from statistics import mean, median, stdev

from nodebench.bench.cell_run import CellRun, Start, repeated
from nodebench.bench.client import LostError
from nodebench.bench.messages import Event, Questions, Turn
from nodebench.bench.processes import Launchers, kept_launchers
from nodebench.bench.request import Settings
from nodebench.results.record import Measurement
from nodebench.stats import RatioVerdict, from_logs, ratio_verdict, student

MIN_STARTS = 4
"""Starts before which the width of an interval ends nothing: rules that may stop earlier cover too little."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; without one, where a single start gives none."""

    estimate: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float:
        """Half of the interval relative to the estimate; infinite where there is no interval."""
        if self.low is None or self.high is None:
            return float("inf")
        return (self.high - self.low) / (2 * self.estimate)

    @property
    def verdict(self) -> RatioVerdict:
        """Of a ratio of times: which of the two is faster, or that the interval, holding 1, does not tell."""
        return ratio_verdict(self.low, self.high)


def over_starts(samples: Sequence[Sequence[float]]) -> Interval:
    """Geometric mean over the starts of each start's median.

    Args:
        samples: Positive times or ratios, one sequence per start, none of them empty.
    """
    logs = [median([log(sample) for sample in start]) for start in samples]
    centre = mean(logs)
    if len(logs) == 1:
        return Interval(exp(centre))
    half = student(len(logs) - 1) * stdev(logs) / sqrt(len(logs))
    return Interval(*from_logs(centre, half))


def reason_to_stop(intervals: Sequence[Interval], n_starts: int, precision: float, *, spent: bool) -> str:
    """What ends the starts, `precision` or `budget`; nothing where they go on.

    Args:
        intervals: Every ratio to the control.
        n_starts: Starts so far; fewer than `MIN_STARTS` are never enough.
        precision: Half width of an interval, relative to its estimate, that is narrow enough.
        spent: Whether the budget is spent.
    """
    if n_starts < MIN_STARTS:
        return ""
    if all(interval.half_width <= precision for interval in intervals):
        return "precision"
    return "budget" if spent else ""


def paired_ratio(samples: Sequence[Sequence[float]], control: Sequence[Sequence[float]]) -> Interval:
    """Ratio to the control, paired within the round: drift and a competitor hit both members of a pair alike.

    Args:
        samples: Times of a cell, one sequence per start, in the order of the rounds.
        control: Times of the control in the very same rounds.
    """
    return over_starts([[a / b for a, b in zip(s, c, strict=True)] for s, c in zip(samples, control, strict=True)])


ROUNDS_PER_START = 10
"""Rounds of a start, if its share of the budget allows: more would make its own median better, not the estimate."""

STARTS_PER_BUDGET = 6
"""A start takes no more than this part of the budget, at least one round."""

MEMORY_SHARE = 0.8
"""Part of the available memory that live workers may take together."""


@dataclass
class Interleaving:
    """The timing of cells that are compared.

    Attributes:
        cells: The cells, whose first steps are known; the first is the control. Their `starts` are filled in.
        settings: Rounds, budget and precision.
        notify: Told of the progress.
        programs: Folder in which workers of the same cell keep compiled programs for each other.
        available_bytes: Memory for live workers, or None where it is not known.
    """

    cells: Sequence[CellRun]
    settings: Settings
    notify: Callable[[Event], None]
    programs: Path | None = None
    available_bytes: int | None = None
    _order: Random = field(default_factory=lambda: Random(0), init=False)
    _launched: list[Launchers] = field(default_factory=list, init=False)
    _n_starts: int = field(default=0, init=False)
    _n_rounds: int = field(default=0, init=False)

    @property
    def control(self) -> CellRun | None:
        """The first cell whose worker has not failed; None where all have."""
        return next(iter(self._alive()), None)

    def measure(self) -> None:
        """Start after start until every ratio is precise enough, the budget is spent, or the rounds are done."""
        budget_s = self.settings.budget(self.cells[0].cell) * len(self.cells)
        began, stopped_by = time.monotonic(), ""
        try:
            while not stopped_by and (control := self.control) is not None:
                groups, n_rounds = subgroups(self._alive(), self.available_bytes), []
                for group in groups:
                    plan = (group, self._rounds(), budget_s / STARTS_PER_BUDGET / len(groups))
                    try:
                        with self._launchers() as launchers:
                            n_rounds.append(self.start(launchers, *plan))
                    except LostError as lost:
                        # Where a launcher ends in the midst of a start, it is worth nothing: again, without one.
                        for measured in group:
                            measured.note(repeated(lost))
                        n_rounds.append(self.start(None, *plan))
                self._count(control, min(n_rounds))
                stopped_by = self._stop(spent=time.monotonic() - began > budget_s)
        finally:
            for launchers in self._launched:
                launchers.close()
        self._enter_counts(stopped_by)

    def conclude(self) -> None:
        """After an interruption of `measure`: the starts that are complete are what there is."""
        for measured in self.cells:
            del measured.starts[self._n_starts :]
        if self._n_starts:
            self._enter_counts("interruption")

    def _enter_counts(self, stopped_by: str) -> None:
        for measured in self._alive():
            measured.enter(Measurement(stopped_by=stopped_by, n_rounds=self._n_rounds, n_starts=self._n_starts))

    def _count(self, control: CellRun, n_rounds: int) -> None:
        """Count a start of every cell."""
        if control.failed:
            # What was paired with it is worth nothing: the timing begins anew with another control.
            for measured in self.cells:
                measured.starts.clear()
            self._n_starts = self._n_rounds = 0
        else:
            self._n_starts += 1
            self._n_rounds += n_rounds

    def _alive(self) -> list[CellRun]:
        return [measured for measured in self.cells if not measured.failed]

    def _rounds(self) -> int:
        """Rounds of the next start; those that were asked for are spread evenly."""
        rounds = self.settings.rounds
        if rounds is None:
            return ROUNDS_PER_START
        return rounds // self._least_starts + (self._n_starts < rounds % self._least_starts)

    @property
    def _least_starts(self) -> int:
        """Starts that there are in any case."""
        return min(MIN_STARTS, self.settings.rounds or MIN_STARTS)

    def _stop(self, *, spent: bool) -> str:
        if self.settings.rounds is not None:
            return "rounds" if self._n_rounds >= self.settings.rounds else ""
        if not self._n_starts:
            return ""  # the control has just failed
        return reason_to_stop(self._intervals(), self._n_starts, self.settings.precision, spent=spent)

    def _intervals(self) -> list[Interval]:
        control, *others = self._alive()
        return [step_ratio(measured) for measured in others] or [step_time(control)]

    def _launchers(self) -> AbstractContextManager[Launchers]:
        """Launchers of the next start: fresh ones, but for a single start, which is no sample of starts anyway."""
        return nullcontext(kept_launchers()) if self._least_starts == 1 else self._fresh_launchers()

    def _fresh_launchers(self) -> Launchers:
        """Launchers of the next start."""
        if not self._launched:
            self._launch(self._n_starts)
        return self._launched.pop(0)

    def _launch(self, n_before: int) -> None:
        """Have launchers of the starts after so many begin to import side by side, as many as there are cores for.

        Only of starts that there will be in any case, until those are over: more then follow more often than not.
        """
        n_certain = self._least_starts - n_before
        if n_certain > 0 or self.settings.rounds is None:
            n_beside = len(self.settings.slots(self.cells[0].cell.threads))
            for _ in range(min(n_beside, n_certain) if n_certain > 0 else n_beside):
                self._launched.append(Launchers())
                for measured in self._alive():
                    measured.launch(self._launched[-1])

    def start(self, launchers: Launchers | None, group: Sequence[CellRun], rounds: int, share_s: float) -> int:
        """One start of a subgroup.

        Args:
            launchers: Where their workers are forked if that is safe; None for new interpreters.
            group: The cells, the control first; what they measure is added to their `starts`.
            rounds: Most rounds.
            share_s: Time after which no round begins, where the number of rounds was not asked for, in seconds.

        Returns:
            How many rounds it had.

        Raises:
            LostError: If a launcher ends; nothing has been added then.
        """
        if group[0].failed:
            return 0
        group = [measured for measured in group if not measured.failed]
        with ExitStack() as stack:
            for measured in group:
                stack.callback(measured.dismiss)
                measured.open(launchers, self.programs)
            self._warm_up(group)
            until, turns = time.monotonic() + share_s, [list[Turn]() for _ in group]
            for n in range(1, rounds + 1):
                order = [i for i, measured in enumerate(group) if measured.alive]
                for i in self._order.sample(order, len(order)):
                    with group[i].failures():
                        turns[i].append(group[i].ask(Questions.turn))
                text = f"timing {len(order)} cells in turns, start {self._n_starts + 1}"
                self.notify(Event("timing", text, group[0].cell, n, rounds))
                if self.settings.rounds is None and time.monotonic() > until:
                    break
        for measured, own in zip(group, turns, strict=True):
            if not (measured.failed or group[0].failed):
                measured.starts.append(Start(own, turns[0]))
        return len(turns[0])

    def _warm_up(self, group: Sequence[CellRun]) -> None:
        """Warm all workers up side by side, on all cores, and wait until nothing but them is at work.

        What the next start needs is imported meanwhile, but after the last certain start, which may be the last.
        """
        if not self._launched and self._n_starts + 1 != self._least_starts:
            self._launch(self._n_starts + 1)
        for measured in group:
            with measured.failures():
                measured.begin_step()
                measured.send(Questions.warm_up)
        for measured in (one for one in group if one.alive):
            with measured.failures():
                measured.first_step_made()
                measured.receive(Questions.warm_up)
                measured.ask_aside(Questions.pin)
        for launchers in self._launched:
            launchers.settle(self.settings.timeout(group[0].cell))


def subgroups(cells: Sequence[CellRun], available_bytes: int | None) -> list[list[CellRun]]:
    """Groups whose workers fit in memory together, each with the control, the first of `cells`, at its head.

    A pair that does not fit is tried all the same: nothing smaller can be compared.
    """
    control, *others = cells
    room = float("inf") if available_bytes is None else MEMORY_SHARE * available_bytes
    groups: list[list[CellRun]] = [[control]]
    for measured in others:
        taken = sum(member.resident_bytes for member in groups[-1])
        if len(groups[-1]) > 1 and taken + measured.resident_bytes > room:
            groups.append([control])
        groups[-1].append(measured)
    return groups


def step_time(measured: CellRun) -> Interval:
    """Time of a gradient step, in seconds."""
    return over_starts([[turn.step_s for turn in start.turns] for start in measured.starts])


def cpu_time(measured: CellRun) -> Interval:
    """CPU time of a gradient step, all threads together, in seconds."""
    return over_starts([[turn.cpu_s for turn in start.turns] for start in measured.starts])


def step_ratio(measured: CellRun) -> Interval:
    """Time of a gradient step relative to the control's in the same rounds."""
    return paired_ratio(
        [[turn.step_s for turn in start.turns] for start in measured.starts],
        [[turn.step_s for turn in start.control] for start in measured.starts],
    )
