"""The gradient measurement of cells that are compared with each other."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

from nodebench.bench.messages import Assignment, Counts, DiscreteReference, Failure, Preparation, ReferenceFile, Turn
from nodebench.bench.plan import Cell
from nodebench.bench.process import WorkerError, WorkerProcess
from nodebench.bench.timing import median_interval, narrow_enough, paired_ratio
from nodebench.errors import UserError
from nodebench.results.record import Record

BUDGETS_S: Mapping[str, float] = {"smoke": 3.0, "quick": 20.0, "standard": 60.0, "paper": 120.0}
"""Timing budget of a cell by preset, in seconds."""

TIMEOUTS_S: Mapping[str, float | None] = {"smoke": 300.0, "quick": 1200.0, "standard": 7200.0, "paper": None}
"""Longest pass of a cell by preset, in seconds; training as a whole is one pass."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a plan is measured; none of it changes what a cell is.

    Attributes:
        rounds: Timing rounds; None goes on until `precision` or the budget.
        budget_s: Timing budget of a cell, in seconds; None for the preset's.
        timeout_s: Longest pass of a cell, in seconds; None for the preset's.
        precision: Half width of a ratio's 95 % interval, relative to it, at which timing ends.
        max_grad_error: Relative gradient error above which a cell is `wrong_gradient`; 1 is that of a zero gradient.
        memory_limit_gib: What a worker may allocate beyond its idle size, in GiB, or None.
        cores: Cores that workers may use, the same for all; None for all cores.
    """

    rounds: int | None = None
    budget_s: float | None = None
    timeout_s: float | None = None
    precision: float = 0.05
    max_grad_error: float = 1.0
    memory_limit_gib: float | None = None
    cores: tuple[int, ...] | None = None

    def timeout(self, cell: Cell) -> float | None:
        """Longest pass of a cell, in seconds."""
        return TIMEOUTS_S[cell.preset] if self.timeout_s is None else self.timeout_s

    def assignment(self, cell: Cell) -> Assignment:
        """What a worker of a cell is told."""
        limit = None if self.memory_limit_gib is None else int(self.memory_limit_gib * 2**30)
        return Assignment(cell, self.cores, limit)

    def __post_init__(self) -> None:
        numbers = {
            "--rounds": self.rounds,
            "--budget-s": self.budget_s,
            "--timeout-s": self.timeout_s,
            "--precision": self.precision,
            "--max-grad-error": self.max_grad_error,
            "--memory-limit-gib": self.memory_limit_gib,
        }
        for name, value in numbers.items():
            if value is not None and not (value > 0 and isfinite(value)):
                raise UserError(f"`{name}` must be positive and finite; got {value}.")


@dataclass(frozen=True)
class Event:
    """Something to show to a person.

    Attributes:
        kind: `run`, `cell` (a cell enters a phase), `timing` or `training` (progress) or `record` (a cell has ended).
        text: What happened, in a few words.
        cell: The cell concerned.
        done: How much of the phase is done, out of `total`.
        total: The whole of the phase.
        record: The record of a cell that has ended.
    """

    kind: str
    text: str
    cell: Cell | None = None
    done: int | None = None
    total: int | None = None
    record: Record | None = None


Figures = dict[str, Any]
"""Fields of a record by name."""


@dataclass
class Measured:
    """What is known of a cell so far."""

    cell: Cell
    figures: Figures = field(default_factory=lambda: {"status": "ok"})
    worker: WorkerProcess | None = None
    turns: list[Turn] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong with it."""
        return bool(self.figures["status"] == "ok")

    def fail(self, failure: Failure) -> None:
        """Enter how it failed, and let its worker go.

        Raises:
            UserError: If it is the request that is wrong, not the cell.
        """
        if failure.status is None:
            raise UserError(failure.reason)
        self.figures |= {"status": failure.status, "reason": failure.reason}
        self.dismiss()

    def dismiss(self) -> None:
        """End its worker."""
        if self.worker is not None:
            self.worker.stop()
            self.worker = None


@dataclass(frozen=True)
class Comparison:
    """What is the same for all cells that are compared.

    Attributes:
        first_step: First step of every solve.
        reference: Gradients of the continuous problem.
        folder: Where reference gradients are kept.
    """

    first_step: float
    reference: ReferenceFile
    folder: Path


@dataclass(frozen=True)
class GradientGroup:
    """The gradient measurement of cells that are compared with each other, the first being the control.

    Attributes:
        cells: The cells; their figures are filled in.
        comparison: What is the same for all.
        settings: How they are measured.
        notify: Told what happens.
        discrete: Exact gradients of the discretisations met so far, by the backend that gave them.
    """

    cells: list[Measured]
    comparison: Comparison
    settings: Settings
    notify: Callable[[Event], None]
    discrete: dict[str, DiscreteReference | Failure] = field(default_factory=dict, init=False)

    def measure(self) -> None:
        """All passes of all cells: one by one first, then the timing in turns."""
        with ExitStack() as stack:
            for measured in self.cells:
                stack.callback(measured.dismiss)
                self._passes(measured)
            alive = [measured for measured in self.cells if measured.worker is not None]
            if alive:
                self._take_turns(alive)
            self._judge()
            self._summarise([measured for measured in alive if measured.worker is not None])

    def _passes(self, measured: Measured) -> None:
        cell = measured.cell
        measured.worker = WorkerProcess(self.settings.assignment(cell))
        with self._failures_of(measured):
            prepared: Preparation = self._ask(measured, "prepare", {"first_step": self.comparison.first_step})
            measured.figures |= {
                "first_step_s": prepared.first_step_s,
                "n_params": prepared.n_params,
                "loss": prepared.loss,
                "dataset": prepared.dataset,
                "notes": prepared.notes,
            }
            counts: Counts = self._ask(measured, "count")
            measured.figures |= {
                "nfe_forward": counts.evaluations.nfe_forward,
                "nfe_backward": counts.evaluations.nfe_backward,
                "n_vjps": counts.evaluations.n_vjps,
            }
            if counts.steps is not None:
                measured.figures |= {"n_accepted": counts.steps[0], "n_rejected": counts.steps[1]}
            if self.comparison.reference.path is None:
                measured.figures["notes"].append(f"no grad_error: {self.comparison.reference.reason}")
            discrete = self._discrete(measured, prepared.exact_counterpart, counts)
            references = {"continuous": self.comparison.reference.path, "discrete": discrete}
            measured.figures |= self._ask(measured, "accuracy", references)
            measured.figures |= self._ask(measured, "memory")
            self._ask(measured, "turn", {"warm_up": True})

    def _discrete(self, measured: Measured, counterpart: str | None, counts: Counts) -> Path | None:
        """The exact gradients of the cell's own discretisation, where a backend can tell them on the same steps."""
        if counterpart is None:
            return None
        if counterpart not in self.discrete:
            self.notify(Event("cell", f"exact gradient of its discretisation, by {counterpart}", measured.cell))
            worker = WorkerProcess(self.settings.assignment(replace(measured.cell, backend=counterpart)))
            try:
                arguments = {"first_step": self.comparison.first_step, "folder": self.comparison.folder}
                timeout_s = self.settings.timeout(measured.cell)
                self.discrete[counterpart] = worker.ask("discrete", arguments, timeout_s=timeout_s)
            except WorkerError as error:
                self.discrete[counterpart] = error.failure
            finally:
                worker.stop()
        found = self.discrete[counterpart]
        if isinstance(found, Failure):
            measured.figures["notes"].append(f"no method_error: {counterpart} in float64: {found.reason}")
            return None
        if found.steps != counts.steps:
            reason = f"it takes {counts.steps} steps (accepted, rejected), {counterpart} in float64 {found.steps}"
            measured.figures["notes"].append(f"no method_error of {measured.cell.backend}: {reason}")
            return None
        return found.path

    def _take_turns(self, cells: list[Measured]) -> None:
        budget_s = self.settings.budget_s or BUDGETS_S[cells[0].cell.preset]
        deadline = time.monotonic() + budget_s * len(cells)
        order = Random(0)
        alive, stopped_by, n_rounds = list(cells), "", 0
        while alive and not stopped_by:
            for measured in order.sample(alive, len(alive)):
                with self._failures_of(measured):
                    measured.turns.append(self._ask(measured, "turn"))
            alive = [measured for measured in alive if measured.worker is not None]
            n_rounds += 1
            stopped_by = self._stop(alive, n_rounds, deadline)
            self.notify(
                Event("timing", f"timing {len(alive)} cells in turns", cells[0].cell, n_rounds, self.settings.rounds)
            )
        for measured in alive:
            measured.figures |= {"stopped_by": stopped_by, "n_rounds": n_rounds}

    def _stop(self, alive: Sequence[Measured], n_rounds: int, deadline: float) -> str:
        if self.settings.rounds is not None:
            return "rounds" if n_rounds >= self.settings.rounds else ""
        if alive and narrow_enough([measured.turns for measured in alive], self.settings.precision):
            return "precision"
        return "budget" if time.monotonic() > deadline else ""

    def _summarise(self, alive: Sequence[Measured]) -> None:
        for measured in alive:
            steps = [turn.step_s for turn in measured.turns]
            measured.figures |= {
                "step_s": _median(steps),
                "cpu_s": _median([turn.cpu_s for turn in measured.turns]),
                "forward_s": _median([turn.forward_s for turn in measured.turns]),
                "backward_s": _median([turn.backward_s for turn in measured.turns]),
            }
            interval = median_interval(steps)
            if interval is not None:
                measured.figures |= {"step_s_low": interval.low, "step_s_high": interval.high}
        # A wrong gradient is shown with its time, but neither ranked nor a measure for others.
        ranked = [measured for measured in alive if measured.ok]
        for measured in ranked[1:]:
            self._compare(measured, ranked[0])

    def _compare(self, measured: Measured, control: Measured) -> None:
        pair = ([turn.step_s for turn in m.turns] for m in (measured, control))
        ratio = paired_ratio(*pair)
        measured.figures["control"] = control.cell.backend
        if ratio is not None:
            measured.figures |= {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}

    def _judge(self) -> None:
        for measured in self.cells:
            errors = {name: measured.figures.get(name) for name in ("grad_error_params", "grad_error_y0")}
            wrong = {name: e for name, e in errors.items() if e is not None and not e <= self.settings.max_grad_error}
            if measured.ok and wrong:
                name, error = max(wrong.items(), key=lambda item: item[1])
                reason = (
                    f"{name} is {error:.2g}, above the limit of {self.settings.max_grad_error:g} (--max-grad-error)."
                )
                measured.figures |= {"status": "wrong_gradient", "reason": reason}

    def _ask(self, measured: Measured, command: str, arguments: dict[str, Any] | None = None) -> Any:
        assert measured.worker is not None, "a failed cell is asked nothing"
        if command != "turn":
            self.notify(Event("cell", command, measured.cell))
        return measured.worker.ask(command, arguments, timeout_s=self.settings.timeout(measured.cell))

    @contextmanager
    def _failures_of(self, measured: Measured) -> Iterator[None]:
        try:
            yield
        except WorkerError as error:
            measured.fail(error.failure)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
