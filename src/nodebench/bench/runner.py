"""The runner: drives workers through the measurements of a plan and writes a record per cell.

It prints nothing; what a person may want to see goes to `notify` as events.
"""

import math
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nodebench import __version__, registry
from nodebench.bench.gradient import Comparison, Event, Figures, GradientGroup, Measured, Settings
from nodebench.bench.messages import ReferenceFile
from nodebench.bench.plan import Cell, Plan
from nodebench.bench.process import WorkerError, WorkerProcess
from nodebench.errors import UserError
from nodebench.results.record import Record
from nodebench.results.store import Store, now
from nodebench.tasks.base import AbstractTask


@dataclass(frozen=True)
class Runner:
    """Measures a plan into a store.

    Attributes:
        store: Where records go, one the moment its cell ends.
        settings: How the plan is measured.
        notify: Told what happens.
    """

    store: Store
    settings: Settings
    notify: Callable[[Event], None]

    def run(self, plan: Plan, command: str, environment: Mapping[str, Any], *, resume: bool) -> str:
        """Measure a plan.

        Args:
            plan: What to measure.
            command: The command line, for the store.
            environment: Fingerprint of the machine.
            resume: Whether to go on with the newest interrupted run of the same plan, where there is one.

        Returns:
            The id of the run. A `KeyboardInterrupt` leaves a store from which it can be resumed.

        Raises:
            UserError: If a worker finds the request itself to be wrong.
        """
        found = self.store.unfinished(plan.plan_id) if resume else None
        run_id = found or self._begin(plan, command, environment)
        done = {record.cell_id for record in self.store.records([run_id])}
        text = f"run {run_id}" if found or not resume else f"no interrupted run of this plan to resume; run {run_id}"
        self.notify(Event("run", text, done=len(done), total=len(plan.cells)))
        for group in plan.groups:
            missing = tuple(cell for cell in group if cell.cell_id not in done)
            if missing:
                self._group(run_id, group, missing, plan.measure)
        self.store.finish_run(run_id)
        shutil.rmtree(self._checkpoints(run_id), ignore_errors=True)
        return run_id

    @property
    def _references(self) -> Path:
        return self.store.path.parent / "references"

    def _checkpoints(self, run_id: str) -> Path:
        return self.store.path.parent / "checkpoints" / run_id

    def _begin(self, plan: Plan, command: str, environment: Mapping[str, Any]) -> str:
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.store.start_run(run_id, command, plan.plan_id, environment, len(plan.cells))
        return run_id

    def _group(self, run_id: str, group: tuple[Cell, ...], missing: tuple[Cell, ...], measure: str) -> None:
        kept = self.store.measurements(run_id)
        cells = [Measured(cell) for cell in missing]
        gradient = measure != "training" and group[0].backend is not None
        first_step: float | None = None
        for measured in cells:
            measured.figures |= kept.get(measured.cell.cell_id, {})
        if group[0].backend is not None:
            first_step = self._first_step_and_gradients(cells, kept, run_id, gradient=gradient)
        for measured in cells:
            if measure != "gradient" and measured.ok:
                self._train(measured, first_step, run_id)
            self._finish(measured, run_id)

    def _first_step_and_gradients(
        self, cells: list[Measured], kept: Mapping[str, Any], run_id: str, *, gradient: bool
    ) -> float | None:
        fresh = [measured for measured in cells if measured.cell.cell_id not in kept]
        with self._reference_worker(cells) as (worker, first_step):
            if worker is None:
                return None
            for measured in cells:
                measured.figures["first_step"] = first_step
            if not (gradient and fresh):
                return first_step
            cell = fresh[0].cell
            self.notify(Event("cell", "reference gradient", cell))
            arguments = {"first_step": first_step, "folder": self._references}
            try:
                found: ReferenceFile = worker.ask("reference", arguments, timeout_s=self.settings.timeout(cell))
            except WorkerError as error:
                found = ReferenceFile(None, error.failure.reason)
        comparison = Comparison(first_step, found, self._references)
        GradientGroup(fresh, comparison, self.settings, self.notify).measure()
        for measured in fresh:
            self.store.save_measurement(run_id, measured.cell.cell_id, measured.figures)
        return first_step

    @contextmanager
    def _reference_worker(self, cells: list[Measured]) -> Iterator[tuple[WorkerProcess | None, float]]:
        """A worker in a framework that is installed, and the first step it chose; the group fails where none is."""
        failure = None
        for measured in _one_per_framework(cells):
            self.notify(Event("cell", "first step", measured.cell))
            worker = WorkerProcess(self.settings.assignment(measured.cell))
            try:
                chosen: float = worker.ask("first_step", timeout_s=self.settings.timeout(measured.cell))
            except WorkerError as error:
                worker.stop()
                failure = failure or error.failure
                if error.failure.status is None:
                    raise UserError(error.failure.reason) from error
                continue
            try:
                yield worker, chosen
            finally:
                worker.stop()
            return
        assert failure is not None, "a group has at least one cell"
        for measured in cells:
            measured.fail(failure)
        yield None, math.nan

    def _train(self, measured: Measured, first_step: float | None, run_id: str) -> None:
        cell = measured.cell
        self.notify(Event("training", "training", cell, 0, 1))
        folder = self._checkpoints(run_id) / cell.cell_id
        worker = WorkerProcess(self.settings.assignment(cell))

        def progress(content: tuple[int, int, float]) -> None:
            done, total, loss = content
            self.notify(Event("training", f"training, loss {loss:.4g}", cell, done, total))

        try:
            trained = worker.ask(
                "train",
                {"first_step": first_step, "folder": folder},
                timeout_s=self.settings.timeout(cell),
                on_progress=progress,
            )
        except WorkerError as error:
            measured.fail(error.failure)
        else:
            notes = dict.fromkeys(measured.figures.get("notes", []) + trained.pop("notes"))
            measured.figures |= {**trained, "notes": list(notes)}
        finally:
            worker.stop()

    def _finish(self, measured: Measured, run_id: str) -> None:
        cell = measured.cell
        metric = registry.load("task", cell.task, AbstractTask).metric
        has_metric = measured.figures.get("metric_value") is not None
        record = Record(
            run_id=run_id,
            cell_id=cell.cell_id,
            created_at=now(),
            nodebench_version=__version__,
            task=cell.task,
            model=cell.model,
            backend=cell.backend,
            framework=cell.framework,
            **(_spec_fields(cell) if cell.backend else {"dtype": cell.spec.dtype}),
            device=cell.device,
            threads=cell.threads,
            batch_size=cell.batch_size,
            seed=cell.seed,
            preset=cell.preset,
            **({"metric_name": metric.name, "metric_unit": metric.unit} if has_metric else {}),
            metric_direction=metric.direction if has_metric else None,
            **measured.figures,
        )
        self.store.append(record)
        # Only now: an interruption before the row is written must find the checkpoint.
        shutil.rmtree(self._checkpoints(run_id) / cell.cell_id, ignore_errors=True)
        self.notify(Event("record", record.status, cell, record=record))


def _one_per_framework(cells: Sequence[Measured]) -> list[Measured]:
    # torch first: on a CPU its reference is the faster one.
    chosen: dict[str, Measured] = {}
    for measured in cells:
        chosen.setdefault(measured.cell.framework, measured)
    return sorted(chosen.values(), key=lambda measured: measured.cell.framework != "torch")


def _spec_fields(cell: Cell) -> Figures:
    spec = cell.spec
    return {
        "solver": spec.solver,
        "rtol": spec.rtol,
        "atol": spec.atol,
        "max_steps": spec.max_steps,
        "dtype": spec.dtype,
    }
