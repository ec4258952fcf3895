"""Which records may be compared, and in what: those of many runs and machines become groups of like settings."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from nodebench.backends.solvers import method
from nodebench.registry import parse
from nodebench.reports.document import number
from nodebench.results.record import Record

NOT_COMPARED = ("wrong_gradient", "incomparable")
"""Statuses of cells that were measured and must not be ranked."""


@dataclass(frozen=True)
class Comparison:
    """Cells that differ in nothing but the backend.

    Attributes:
        records: One of each cell, in the order in which they were first measured, failures included: that among
            `timed`, else the newest.
        timed: Those that were timed in turns with each other, in one run, on one node and against one control: what may
            be ranked by time. Of several such sets the largest, and of equally large ones the newest.
        failed_since: Later attempts at cells of `records` that failed and have no figures of a gradient, such as a
            training that diverged; one of each cell.
    """

    records: tuple[Record, ...]
    timed: tuple[Record, ...]
    failed_since: tuple[Record, ...] = ()

    @property
    def ranked(self) -> tuple[Record, ...]:
        """The cells that may be ranked by error, memory and evaluations, which need no common run."""
        return tuple(record for record in self.records if record.status == "ok")

    @property
    def timed_elsewhere(self) -> tuple[Record, ...]:
        """Cells with a time that must not be set beside the others'."""
        together = {record.cell_id for record in self.timed}
        return tuple(r for r in self.ranked if r.step_s is not None and r.cell_id not in together)

    def where_else(self, record: Record) -> str:
        """In what the timing of a cell of `timed_elsewhere` differs from that of `timed`, in words."""
        first = self.timed[0]
        if record.run_id == first.run_id:
            alike = (record.node, record.environment) == (first.node, first.environment)
            return "against another control" if alike else "on another node"
        # Between runs of one machine the fingerprint may differ in the commit, and an old name may be unknown.
        elsewhere = None not in (record.node, first.node) and record.node != first.node
        return f"in another run{', on another node' if elsewhere else ''}"

    @property
    def control(self) -> Record | None:
        """The cell to whose time those of the others are related, or None where nothing was timed with it."""
        return next((record for record in self.timed if record.control is None), None)

    @property
    def setting(self) -> str:
        """What all cells have in common, in words."""
        return setting(min(self.records, key=lambda record: _known(record).count(None)))


def comparisons(records: Iterable[Record]) -> list[Comparison]:
    """Groups of records whose gradients may be compared, in the order in which they were first measured.

    Devices are never mixed. Errors, evaluations and bytes of one device type may come from several machines, times may
    not.
    """
    asked = [r for r in records if r.backend is not None and (has_gradient(r) or r.status != "ok")]
    measured = {record.cell_id for record in asked if record.status == "ok"}
    without = [record for record in asked if record.cell_id in measured and not has_gradient(record)]
    shown = [record for record in asked if record.cell_id not in measured or has_gradient(record)]
    last = {record.cell_id: record for record in newest(shown)}
    # A failure that was mended is of no interest any more.
    current = [record for record in shown if record.status == "ok" or record is last[record.cell_id]]
    return [_comparison(group, without) for group in alike(current)]


def alike(records: Iterable[Record]) -> list[list[Record]]:
    """Records whose settings differ in nothing but the backend, in the order in which they come.

    A cell that failed early knows neither its data set nor its first step: it is put to the only records that agree
    with it in all else, if there is one such group, and stands apart otherwise.
    """
    numbered = list(enumerate(records))
    groups: dict[Hashable, list[list[tuple[int, Record]]]] = {}
    for at, record in sorted(numbered, key=lambda pair: _known(pair[1]).count(None)):
        candidates = groups.setdefault(_key(record), [])
        same = [group for group in candidates if _known(group[0][1]) == _known(record)]
        fitting = same or [group for group in candidates if _agree(group[0][1], record)]
        if len(fitting) == 1:
            fitting[0].append((at, record))
        else:
            candidates.append([(at, record)])
    found = sorted(sorted(group, key=lambda pair: pair[0]) for candidates in groups.values() for group in candidates)
    return [[record for _, record in group] for group in found]


def has_gradient(record: Record) -> bool:
    """Whether a record has figures of a gradient, be they all that were asked for or not."""
    figures = (record.first_step_s, record.grad_error_params, record.peak_memory_bytes, record.nfe_forward)
    return any(figure is not None for figure in figures)


def newest(records: Iterable[Record]) -> list[Record]:
    """The newest record of each cell, in the order in which the cells were first measured."""
    cells: dict[str, Record] = {}
    for record in records:
        if record.cell_id not in cells or record.created_at >= cells[record.cell_id].created_at:
            cells[record.cell_id] = record
    return list(cells.values())


def grouped(records: Iterable[Record], key: Callable[[Record], Hashable]) -> list[list[Record]]:
    """Records of equal keys together, in the order in which they come."""
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def base_task(record: Record) -> str:
    """The task of a record without its options."""
    return parse(record.task)[0]


def label(record: Record) -> str:
    """What a line or row is called: the backend, or the model where there is none."""
    return record.backend or record.model


def setting(record: Record) -> str:
    """What cells of a comparison have in common, in words; what is as usual is left out."""
    unusual = (
        (record.controller not in (None, "integral"), f"{record.controller} controller"),
        (record.threads != 1, f"{record.threads} threads"),
        (record.seed != 0, f"seed {record.seed}"),
        (record.horizon != 1, f"time span times {number(record.horizon)}"),
    )
    parts = [
        f"`{record.task}` {record.model}",
        f"{record.solver} at {tolerances(record)}",
        f"batch {record.batch_size}",
        f"{record.dtype} on {record.device}",
        *(text for is_unusual, text in unusual if is_unusual),
        f"preset {record.preset}",
    ]
    return ", ".join(parts)


def fixed_step(record: Record) -> float | None:
    """The step of a solver that does not choose its own; the first step of another follows from the problem."""
    if record.solver is None or method(record.solver).adaptive:
        return None
    return record.first_step


def tolerances(record: Record) -> str:
    """How exactly the solver was to work, with the first step, which is every step of a fixed-step solver."""
    apart = f"rtol {number(record.rtol)}, atol {number(record.atol)}"
    both = f"rtol and atol {number(record.rtol)}" if record.rtol == record.atol else apart
    return f"{both}, first step {number(record.first_step)}"


def line_key(record: Record) -> tuple[Hashable, ...]:
    """What the records of one chart have in common: all but backend, tolerance and steps."""
    return (
        record.task, record.model, record.dataset, record.solver, record.controller, record.dtype, record.device,
        record.threads, record.batch_size, record.seed, record.preset, record.horizon,
    )  # fmt: skip


def line_setting(record: Record, varied: str = "") -> str:
    """What the points of a line have in common, in words.

    Args:
        record: One of them.
        varied: `batch` or `horizon` where they differ in it.
    """
    parts = [f"`{record.task}` {record.model}", str(record.solver)]
    if varied in ("batch", "horizon"):
        parts.append(tolerances(record))
    if varied != "batch":
        parts.append(f"batch {record.batch_size}")
    parts.append(f"{record.dtype} on {record.device}")
    if record.seed:
        parts.append(f"seed {record.seed}")
    if record.horizon != 1 and varied != "horizon":
        parts.append(f"time span times {number(record.horizon)}")
    return ", ".join([*parts, f"preset {record.preset}"])


def _comparison(records: Sequence[Record], without: Sequence[Record]) -> Comparison:
    last = {record.cell_id: record for record in newest(records)}
    sets: dict[Hashable, list[Record]] = {}
    for record in records:
        # What was wrong when it was last measured is not ranked by what it did before.
        if record.status == last[record.cell_id].status == "ok" and record.step_s is not None:
            together = (record.run_id, record.node, record.environment, record.control or record.backend)
            sets.setdefault(together, []).append(record)
    timed = max(sets.values(), key=lambda members: (len(members), members[0].created_at), default=[])
    shown = last | {record.cell_id: record for record in timed}
    since = [r for r in newest(without) if r.cell_id in last and r.created_at >= last[r.cell_id].created_at]
    return Comparison(tuple(shown.values()), tuple(timed), tuple(since))


def _known(record: Record) -> tuple[Hashable, Hashable]:
    """What is known of a cell only once it is prepared; None where it is not."""
    # Where the harness chooses the first step, its last digits follow the machine.
    return record.dataset, None if record.first_step is None else number(record.first_step, 4)


def _agree(one: Record, other: Record) -> bool:
    return all(mine == its or None in (mine, its) for mine, its in zip(_known(one), _known(other), strict=True))


def _key(record: Record) -> Hashable:
    return (
        record.task, record.model, record.solver, record.controller, record.rtol, record.atol, record.max_steps,
        record.dtype, record.device, record.threads, record.batch_size, record.seed, record.preset, record.horizon,
    )  # fmt: skip
