"""The record of a measured cell."""

from typing import Any

from nodebench import __version__
from nodebench.bench.plan import Cell
from nodebench.bench.work import CellResult
from nodebench.results.record import Record, SettingsPart
from nodebench.results.store import now


def record_of(outcome: CellResult, run_id: str, attempt: int = 1) -> Record:
    """What a cell leaves behind.

    Args:
        outcome: What became of it, and where: its figures have the fields `node` and `environment`.
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
