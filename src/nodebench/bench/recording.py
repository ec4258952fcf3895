"""The record of a measured cell."""

from nodebench import __version__
from nodebench.bench.measured import Figures
from nodebench.bench.plan import Cell
from nodebench.bench.work import Outcome
from nodebench.results.record import Record
from nodebench.results.store import now


def record_of(outcome: Outcome, run_id: str, attempt: int = 1) -> Record:
    """What a cell leaves behind.

    Args:
        outcome: What became of it, and where: its figures have the fields `node` and `environment`.
        run_id: The run it belongs to.
        attempt: How often it has been measured in this run.
    """
    cell, figures = outcome.cell, outcome.figures
    return Record(
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
        horizon=cell.horizon,
        attempt=attempt,
        **figures,
    )


def _spec_fields(cell: Cell) -> Figures:
    spec = cell.spec
    return {
        "solver": spec.solver,
        "controller": spec.controller,
        "rtol": spec.rtol,
        "atol": spec.atol,
        "max_steps": spec.max_steps,
        "dtype": spec.dtype,
    }
