"""The runner: drives workers through the measurements of a plan and writes a record per cell.

It prints nothing; what a person may want to see goes to `notify` as events.
"""

import math
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nodebench.bench.events import Event
from nodebench.bench.gradient import Comparison, GradientGroup
from nodebench.bench.machine import available_memory
from nodebench.bench.measured import Figures, Measured
from nodebench.bench.plan import Cell, Plan
from nodebench.bench.process import WorkerError
from nodebench.bench.recording import record_of
from nodebench.bench.references import References, preparer
from nodebench.bench.settings import Settings
from nodebench.errors import UserError
from nodebench.results.environment import differences
from nodebench.results.store import Store

Continuation = Literal["new", "resume", "rerun-failed"]
"""Whether to begin anew, go on with the newest interrupted run of the same plan, or measure again what failed in the
newest run of it."""


@dataclass(frozen=True)
class Runner:
    """Measures a plan into a store.

    Attributes:
        store: Where records go, one the moment its cell ends.
        settings: How the plan is measured.
        notify: Told what happens.
        measure_group: How the gradients of cells that are compared with each other are measured.
    """

    store: Store
    settings: Settings
    notify: Callable[[Event], None]
    measure_group: Callable[[GradientGroup], None] = field(default=GradientGroup.measure)

    def run(
        self,
        plan: Plan,
        command: str,
        environment: Mapping[str, Any],
        continuation: Continuation = "new",
        known: Collection[str] = (),
    ) -> str:
        """Measure a plan.

        Args:
            plan: What to measure.
            command: The command line, for the store.
            environment: Fingerprint of the machine.
            continuation: Whether to go on with a run that there is.
            known: Ids of cells that other runs have measured, and this one leaves out.

        Returns:
            The id of the run. A `KeyboardInterrupt` leaves a store from which it can be resumed.

        Raises:
            UserError: If a worker finds the request itself to be wrong, or the run to go on with was made on another
                machine or with other software.
        """
        found = self._earlier(plan, continuation)
        if found is not None:
            self._check_environment(found, environment)
        left_out = {cell.cell_id for cell in plan.cells} & set(known)
        run_id = found or self._begin(plan, command, environment, len(left_out))
        records = self.store.records([run_id])
        done = {record.cell_id for record in records if continuation != "rerun-failed" or record.status == "ok"}
        text = f"run {run_id}"
        if continuation != "new" and not found:
            text = f"no {'interrupted ' * (continuation == 'resume')}run of this plan to go on with; {text}"
        done |= left_out
        self.notify(Event("run", text, done=len(done), total=len(plan.cells)))
        key = self.store.save_environment(environment)
        job = _Job(self, run_id, plan.measure, key, self._kept(run_id, continuation))
        for group in plan.groups:
            missing = [cell for cell in group if cell.cell_id not in done]
            if missing:
                job.measure_group(group, missing)
        self.store.finish_run(run_id)
        shutil.rmtree(self.checkpoints(run_id), ignore_errors=True)
        return run_id

    @property
    def references(self) -> Path:
        """Where reference gradients are kept."""
        return self.store.path.parent / "references"

    def checkpoints(self, run_id: str) -> Path:
        """Where a run keeps the checkpoints of its training."""
        return self.store.path.parent / "checkpoints" / run_id

    def _earlier(self, plan: Plan, continuation: Continuation) -> str | None:
        if continuation == "new":
            return None
        return self.store.newest(plan.plan_id, unfinished=continuation == "resume")

    def _check_environment(self, run_id: str, environment: Mapping[str, Any]) -> None:
        found = differences(self.store.run(run_id).environment, environment)
        if found:
            raise UserError(
                f"run {run_id} was made under other conditions, and one run must not mix them: {'; '.join(found)}. "
                "Begin a new run, without --resume and --rerun-failed."
            )

    def _begin(self, plan: Plan, command: str, environment: Mapping[str, Any], n_left_out: int) -> str:
        run_id = new_run_id()
        self.store.start_run(run_id, command, plan.plan_id, environment, len(plan.cells) - n_left_out)
        return run_id

    def _kept(self, run_id: str, continuation: Continuation) -> dict[str, Figures]:
        """Gradient measurements that need not be made again."""
        kept = self.store.measurements(run_id)
        if continuation == "rerun-failed":
            return {cell_id: figures for cell_id, figures in kept.items() if figures["status"] == "ok"}
        return kept


@dataclass(frozen=True)
class _Job:
    """The cells of one run that are still to be measured.

    Attributes:
        runner: Store, settings and whom to notify.
        run_id: The run.
        measure: What is measured of each, as the plan has it.
        environment: Key of this machine's fingerprint.
        kept: Gradient measurements of the run that need not be made again, by cell.
    """

    runner: Runner
    run_id: str
    measure: str
    environment: str
    kept: Mapping[str, Figures] = field(default_factory=dict)

    def measure_group(self, group: Sequence[Cell], missing: Sequence[Cell]) -> None:
        """Measure the missing cells of a group and write their records."""
        cells = [Measured(cell, self.runner.settings) for cell in missing]
        first_step: float | None = None
        for measured in cells:
            measured.figures |= self.kept.get(measured.cell.cell_id, {})
        if group[0].backend is not None:
            first_step = self._solve(group, cells)
        for measured in cells:
            if self.measure in ("training", "both") and measured.ok:
                self._train(measured, first_step)
            self._finish(measured)

    def _solve(self, group: Sequence[Cell], cells: list[Measured]) -> float | None:
        """Choose the first step and measure what gradients are to be measured; None where no framework works."""
        began = time.monotonic()
        fresh = [m for m in cells if self.measure != "training" and m.cell.cell_id not in self.kept]
        if fresh and self.measure != "counts":
            fresh = [*self._companion(group, fresh), *fresh]
        with self._reference_worker(cells) as (worker, first_step):
            if worker is None:
                return None
            reference = self._references(worker, first_step) if fresh else None
        for measured in cells:
            measured.figures["first_step"] = first_step
        if reference is not None:
            comparison = Comparison(first_step, reference, self.runner.references, available_memory())
            compared = GradientGroup(fresh, comparison, self.runner.settings, self.runner.notify)
            compared.count() if self.measure == "counts" else self.runner.measure_group(compared)
            work_s = reference.measured_s + sum(measured.measured_s for measured in fresh)
            for measured in fresh:
                measured.figures["overhead_s"] = (time.monotonic() - began - work_s) / len(fresh)
                if not measured.companion:
                    self.runner.store.save_measurement(self.run_id, measured.cell.cell_id, measured.figures)
        return first_step

    def _companion(self, group: Sequence[Cell], fresh: Sequence[Measured]) -> list[Measured]:
        """The group's control, where it is not to be measured but what is to be measured is compared with it."""
        wanted = self.runner.settings.control
        control = next((cell for cell in group if cell.backend == wanted), group[0])
        if any(measured.cell == control for measured in fresh):
            return []
        return [Measured(control, self.runner.settings, companion=True)]

    def _references(self, worker: Measured, first_step: float) -> References:
        found = References(worker.cell, self.runner.settings, first_step, self.runner.references, self.runner.notify)
        if self.measure != "counts":
            found.begin(worker)
        return found

    @contextmanager
    def _reference_worker(self, cells: list[Measured]) -> Iterator[tuple[Measured | None, float]]:
        """A worker in a framework that is installed, and the first step it chose; the group fails where none is."""
        failure = None
        for measured in _one_per_framework(cells):
            self.runner.notify(Event("cell", "first step", measured.cell))
            worker = preparer(measured.cell, self.runner.settings)
            worker.open()
            try:
                chosen: float = worker.ask("first_step", overhead=True)
            except WorkerError as error:
                worker.dismiss()
                failure = failure or error.failure
                if error.failure.status is None:
                    raise UserError(error.failure.reason) from error
                continue
            try:
                yield worker, chosen
            finally:
                worker.dismiss()
            return
        assert failure is not None, "a group has at least one cell"
        for measured in cells:
            measured.fail(failure)
        yield None, math.nan

    def _train(self, measured: Measured, first_step: float | None) -> None:
        cell = measured.cell
        self.runner.notify(Event("training", "training", cell, 0, 1))
        folder = self.runner.checkpoints(self.run_id) / cell.cell_id

        def progress(content: tuple[int, int, float]) -> None:
            done, total, loss = content
            self.runner.notify(Event("training", f"training, loss {loss:.4g}", cell, done, total))

        began, before = time.monotonic(), measured.measured_s
        with measured.failures():
            measured.open()
            measured.ask("pin", overhead=True)
            trained = measured.ask("train", {"first_step": first_step, "folder": folder}, on_progress=progress)
            measured.pictures = trained.pop("pictures")
            notes = dict.fromkeys(measured.figures["notes"] + trained.pop("notes"))
            measured.figures |= {**trained, "notes": list(notes)}
        measured.dismiss()
        overhead_s = time.monotonic() - began - (measured.measured_s - before)
        measured.figures["overhead_s"] = measured.figures.get("overhead_s", 0.0) + overhead_s

    def _finish(self, measured: Measured) -> None:
        cell = measured.cell
        attempt = self.runner.store.attempts(self.run_id, cell.cell_id) + 1
        record = record_of(measured, self.run_id, attempt)
        record = replace(record, node=platform.node(), environment=self.environment)
        self.runner.store.append(record, measured.pictures)
        # Only now: an interruption before the row is written must find the checkpoint.
        shutil.rmtree(self.runner.checkpoints(self.run_id) / cell.cell_id, ignore_errors=True)
        self.runner.notify(Event("record", record.status, cell, record=record))


def new_run_id() -> str:
    """A name for a run that begins now."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _one_per_framework(cells: Sequence[Measured]) -> list[Measured]:
    # torch first: on a CPU its reference is the faster one.
    chosen: dict[str, Measured] = {}
    for measured in cells:
        chosen.setdefault(measured.cell.framework, measured)
    return sorted(chosen.values(), key=lambda measured: measured.cell.framework != "torch")
