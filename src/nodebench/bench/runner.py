"""The runner: has the work of a plan done and writes a record per cell. It alone writes to the store.

It prints nothing; what a person may want to see goes to `notify` as events.
"""

import platform
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from nodebench import __version__
from nodebench.bench.checkpoints import TrainingCheckpoint, remove_old
from nodebench.bench.executors.local import AbstractExecutor, LocalExecutor
from nodebench.bench.group import GradientGroup
from nodebench.bench.messages import Event, Failure
from nodebench.bench.plan import Cell, Plan
from nodebench.bench.request import TRAINED, Settings
from nodebench.bench.work import (
    AbstractWork,
    CellResult,
    GroupWork,
    MachineContext,
    Measure,
    TrainingStepWork,
    TrainingWork,
    WorkResult,
    checkpoint,
)
from nodebench.errors import Status, UserError
from nodebench.results.machine import SOFTWARE, Files, Fingerprint, changed, differences, environment_key
from nodebench.results.record import Measurement, Record, SettingsPart
from nodebench.results.store import ITS_COMMAND, Store, now


def record_of(outcome: CellResult, run_id: str, attempt: int = 1) -> Record:
    """The record of a cell.

    Args:
        outcome: What became of it; what was found includes `node` and `environment`.
        run_id: The run it belongs to.
        attempt: How often it has been measured in this run.
    """
    values: dict[str, Any] = vars(settings_of(outcome.cell)) | vars(outcome.found)
    return Record(run_id=run_id, created_at=now(), nodebench_version=__version__, attempt=attempt, **values)


def settings_of(cell: Cell) -> SettingsPart:
    """The settings of a cell as a record has them; those of a solver are none of a model that solves no ODE."""
    spec, solves = cell.spec, cell.backend is not None
    return SettingsPart(
        cell_id=cell.cell_id,
        task=cell.task,
        model=cell.model,
        backend=cell.backend,
        framework=cell.framework,
        solver=spec.solver if solves else None,
        controller=spec.controller if solves else None,
        rtol=spec.rtol if solves else None,
        atol=spec.atol if solves else None,
        max_steps=spec.max_steps if solves else None,
        dtype=spec.dtype,
        device=cell.device,
        threads=cell.threads,
        batch_size=cell.batch_size,
        seed=cell.seed,
        preset=cell.preset,
        horizon=cell.horizon,
    )


GOES_ON: Collection[Status] = ("timeout", "failed", "oom", "not_installed")
"""With which of these a training has ended, it goes on from its checkpoint when it is measured again."""

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
        measure_group: How the gradients of cells that are compared with each other are measured on this machine.
        executor: Where the work is done.
        checkpoint_dir: Folder of training checkpoints, a path or URL as fsspec knows it; None for one beside the store.
        made_by: Name of the command that it measures for, which the store keeps of each run.
    """

    store: Store
    settings: Settings
    notify: Callable[[Event], None]
    measure_group: Callable[[GradientGroup], None] = field(default=GradientGroup.measure)
    executor: AbstractExecutor = field(default_factory=LocalExecutor)
    checkpoint_dir: str | None = None
    made_by: str = ITS_COMMAND

    def run(
        self,
        plan: Plan,
        command: str,
        environment: Fingerprint,
        continuation: Continuation = "new",
        known: Collection[str] = (),
    ) -> str:
        """Measure a plan.

        Args:
            plan: What to measure.
            command: The command line, for the store.
            environment: Fingerprint of what must be the same for the whole run: of this machine, or of the software
                where the work is done on several.
            continuation: Whether to go on with a run that there is.
            known: Ids of cells that other runs have measured, and this one leaves out.

        Returns:
            The id of the run. A `KeyboardInterrupt` leaves a store from which it can be resumed.

        Raises:
            UserError: If the run to go on with was made on another machine, with other software, or with files of code
                that have changed since.
        """
        found = self._earlier(plan, continuation)
        if found is not None:
            self._check_environment(found, environment)
            self._check_files(found)
        left_out = {cell.cell_id for cell in plan.cells} & set(known)
        run_id = found or self._begin(plan, command, environment, len(left_out))
        records = self.store.records([run_id])
        done = {record.cell_id for record in records if continuation != "rerun-failed" or record.status == "ok"}
        text = f"run {run_id}"
        if continuation != "new" and not found:
            text = f"no {'interrupted ' * (continuation == 'resume')}run of this plan to continue; {text}"
        done |= left_out
        self.notify(Event("run", text, done=len(done), total=len(plan.cells)))
        attempts = {record.cell_id: record.attempt for record in records}
        drawn = plan.cells[0].seed if plan.cells else 0
        plan = plan.ordered_as(attempts)
        machine = self._machine(environment)
        if plan.measure in TRAINED:
            _forget(lambda: remove_old(self._checkpoints))
        kept = self.store.measurements(run_id)
        job = _Job(self.store, run_id, cast(Measure, plan.measure), machine, attempts, kept, drawn)
        self.executor.carry_out(job.work(plan, done), machine, job.arrived)
        self.store.finish_run(run_id)
        return run_id

    @property
    def _checkpoints(self) -> str:
        return self.checkpoint_dir or f"{self.store.path.parent.absolute() / 'checkpoints'}"

    def _machine(self, environment: Fingerprint) -> MachineContext:
        folder = self.store.path.parent
        # Of the software a checkpoint knows itself: those of older code are replaced. Times of unlike machines, and
        # results of unlike processors, must not become one.
        kind = environment_key({name: value for name, value in environment.items() if name not in SOFTWARE})
        return MachineContext(
            platform.node(),
            environment,
            self.settings,
            references=folder / "references",
            checkpoints=f"{self._checkpoints}/{kind}",
            notify=self.notify,
            measure_group=self.measure_group,
        )

    def _earlier(self, plan: Plan, continuation: Continuation) -> str | None:
        if continuation == "new":
            return None
        return self.store.newest(plan.plan_id, unfinished=continuation == "resume")

    def _check_environment(self, run_id: str, environment: Fingerprint) -> None:
        found = differences(self.store.run(run_id).environment, environment)
        if found:
            raise UserError(
                f"run {run_id} was made under other conditions, and one run must not mix them: {'; '.join(found)}. "
                "Begin a new run, without --resume and --rerun-failed."
            )

    def _check_files(self, run_id: str) -> None:
        found = changed(self.store.sources(run_id))
        if found:
            raise UserError(
                f"run {run_id} was made with other code, and one run must not mix two programs: {', '.join(found)} "
                "changed since. Begin a new run, without --resume and --rerun-failed."
            )

    def _begin(self, plan: Plan, command: str, environment: Fingerprint, n_left_out: int) -> str:
        run_id = new_run_id()
        n_cells = len(plan.cells) - n_left_out
        self.store.start_run(run_id, command, plan.plan_id, environment, n_cells, made_by=self.made_by)
        return run_id


@dataclass(frozen=True)
class _Job:
    """The cells of one run that are still to be measured.

    Attributes:
        store: Where records go.
        run_id: The run.
        measure: What is measured of each.
        machine: This machine.
        attempts: How often cells have been measured in this run.
        kept: Gradient measurements of the run that need not be made again, by cell.
        drawn: The seed whose trained models leave plots; those of further seeds would show the same again.
        keys: Keys of the fingerprints that are in the store.
        files: Files of code that are entered in the store as what the run depends on.
    """

    store: Store
    run_id: str
    measure: Measure
    machine: MachineContext
    attempts: Mapping[str, int]
    kept: Mapping[str, Measurement]
    drawn: int
    keys: set[str] = field(default_factory=set, init=False)
    files: dict[str, str] = field(default_factory=dict, init=False)

    def work(self, plan: Plan, done: Collection[str]) -> Iterator[AbstractWork]:
        """What is to be done first; the trainings follow."""
        for group in plan.groups:
            missing = [cell for cell in group if cell.cell_id not in done]
            for cell in missing:
                if cell.cell_id in plan.unsupported:
                    self._refuse(cell, plan.unsupported[cell.cell_id])
            left = tuple(cell for cell in group if cell.cell_id not in plan.unsupported)
            yield from self._group_work(left, tuple(cell for cell in missing if cell in left))

    def _group_work(self, group: tuple[Cell, ...], missing: tuple[Cell, ...]) -> Iterator[AbstractWork]:
        if self.measure == "training-step":
            if missing:
                yield TrainingStepWork(missing)
            return
        fresh = tuple(cell for cell in missing if cell.backend is not None and cell.cell_id not in self.kept)
        if fresh:
            yield GroupWork(group, fresh, self.measure)
        for cell in missing:
            if cell not in fresh:
                yield TrainingWork(CellResult(cell, self.kept.get(cell.cell_id, Measurement())))

    def arrived(self, done: WorkResult) -> Iterator[AbstractWork]:
        """Write the records of cells that are done, and give the trainings of those that are not."""
        for outcome in done.outcomes:
            self._keep_files(outcome.files, done.node)
            to_train = isinstance(done.work, GroupWork) and self.measure in TRAINED and outcome.found.ok
            placed = self._placed(outcome, done)
            if not to_train:
                self._finish(placed, done)
            elif self.measure == "training":
                yield TrainingWork(outcome)  # of the group it has nothing but the first step
            else:
                self.store.save_measurement(self.run_id, outcome.cell.cell_id, placed.found)
                yield TrainingWork(placed)

    def _refuse(self, cell: Cell, reason: str) -> None:
        """Write the record of a cell for which no process need be started."""
        outcome = CellResult(cell).failed(Failure("unsupported", reason, ""))
        work = GroupWork((cell,), (cell,), self.measure)
        done = WorkResult(work, (outcome,), self.machine.node, self.machine.environment)
        self._finish(self._placed(outcome, done), done)

    def _keep_files(self, files: Files, node: str) -> None:
        """Enter what the run depends on; of another machine's files this one knows nothing."""
        fresh = {path: digest for path, digest in files.items() if path not in self.files}
        if fresh and node == self.machine.node:
            self.store.save_sources(self.run_id, fresh)
            self.files.update(fresh)

    def _placed(self, outcome: CellResult, done: WorkResult) -> CellResult:
        """What became of a cell, with where: its gradient may have been measured elsewhere than it was trained."""
        node, key = done.node, self._key(done.environment)
        found = Measurement(node=node, environment=key).joined(outcome.found)
        if isinstance(done.work, TrainingWork):
            found = replace(found, train_node=node, train_environment=key)
        return replace(outcome, found=found)

    def _finish(self, outcome: CellResult, done: WorkResult) -> None:
        cell = outcome.cell
        record = record_of(outcome, self.run_id, self.attempts.get(cell.cell_id, 0) + 1)
        self.store.append(record, outcome.plots if cell.seed == self.drawn else ())
        # Only now: an interruption before the row is written must find the checkpoint.
        if isinstance(done.work, TrainingWork) and outcome.found.status not in GOES_ON:
            _forget(lambda: TrainingCheckpoint(checkpoint(self.machine.checkpoints, cell)).remove())
        self.machine.notify(Event("record", record.status, cell, record=record, node=done.node))

    def _key(self, environment: Fingerprint) -> str:
        """Key of a machine's fingerprint, which is in the store when this returns."""
        key = environment_key(environment)
        if key not in self.keys:
            self.store.save_environment(environment)
            self.keys.add(key)
        return key


def _forget(remove: Callable[[], None]) -> None:
    """Remove what is no longer needed. A disk that refuses must not end the work that is under way."""
    with suppress(OSError, NotImplementedError):
        remove()


def new_run_id() -> str:
    """A name for a run that begins now."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
