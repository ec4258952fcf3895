"""Which records may be compared, and in what: those of many runs become groups of like settings and of one machine.

Times of unlike machines are never compared, and shown are those of one.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from nodebench.backends.solvers import method
from nodebench.errors import UserError
from nodebench.registry import GIVEN, parse
from nodebench.reports.document import ABSENT, number
from nodebench.results.machine import Fingerprint, differences, environment_of
from nodebench.results.quantities import Epoch, SweepEntry, TimingPart
from nodebench.results.record import Record
from nodebench.results.scaling import OF_TASK, Axis

NOT_COMPARED = ("wrong_gradient", "incomparable")
"""Statuses of cells that were measured and must not be ranked."""

NOT_RUN = ("unsupported", "not_installed")
"""Statuses of cells that there was nothing to measure of."""

OTHER_MACHINE = "other machine"
"""What stands for the verdict of a cell whose times are not shown, since they are of another machine."""

TIMES = {each.name for each in fields(TimingPart)} - {"first_step_s", "control", "n_starts", "n_rounds", "stopped_by"}
"""What is not shown of another machine. `first_step_s` says that there is a gradient, and nothing is ranked by it."""


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


def days(records: Iterable[Record]) -> str:
    """From which day to which records were measured."""
    found = sorted({record.created_at[:10] for record in records})
    return " to ".join(dict.fromkeys((found[0], found[-1]))) if found else ABSENT


def label(record: Record) -> str:
    """What a line or row is called: the backend, or the model where there is none."""
    return record.backend or record.model


def subject(record: Record) -> str:
    """The task of a record and its model, which is named where its name is another; or the field, if it has no task."""
    task, options = parse(record.task)
    if task == GIVEN and "field" in options:
        digest = options.get("digest", "")
        return f"field `{options['field']}`" + (f" ({digest[:6]})" if digest else "")
    return f"`{record.task}`" + ("" if record.model == record.task else f" {record.model}")


def setting(record: Record) -> str:
    """What cells of a comparison have in common, in words; what is as usual is left out."""
    unusual = (
        (record.controller not in (None, "integral"), f"{record.controller} controller"),
        (record.threads != 1, f"{record.threads} threads"),
        (record.seed != 0, f"seed {record.seed}"),
        (record.horizon != 1, f"time span times {number(record.horizon)}"),
    )
    pieces = [
        subject(record),
        f"{record.solver} at {tolerances(record)}",
        f"batch {record.batch_size}",
        f"{record.dtype} on {record.device}",
        *(text for is_unusual, text in unusual if is_unusual),
        f"preset {record.preset}",
    ]
    return ", ".join(pieces)


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


def in_common(axis: Axis, record: Record, names: Mapping[str, str]) -> Hashable:
    """What records have in common that differ in the backend and in their place on an axis alone.

    Args:
        axis: The axis.
        record: One of them.
        names: What its task is called without the option that varies, along an axis of tasks.
    """
    if axis in ("steps", "tolerance"):
        return line_key(record)
    without = replace(record, batch_size=None) if axis == "batch" else replace(record, horizon=1.0)
    task = names[record.task] if axis in OF_TASK else record.task
    return (*line_key(replace(without, task=task)), record.rtol, record.atol, fixed_step(record))


def line_setting(record: Record, varied: str = "") -> str:
    """What the points of a line have in common, in words.

    Args:
        record: One of them.
        varied: `batch` or `horizon` where they differ in it.
    """
    pieces = [subject(record), str(record.solver)]
    if varied in ("batch", "horizon"):
        pieces.append(tolerances(record))
    if varied != "batch":
        pieces.append(f"batch {record.batch_size}")
    pieces.append(f"{record.dtype} on {record.device}")
    if record.seed:
        pieces.append(f"seed {record.seed}")
    if record.horizon != 1 and varied != "horizon":
        pieces.append(f"time span times {number(record.horizon)}")
    return ", ".join([*pieces, f"preset {record.preset}"])


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


@dataclass(frozen=True)
class Machine:
    """Nodes whose machine and software are alike; git commits are not compared.

    Attributes:
        place: Its place among the machines of a report, from 1.
        keys: Keys of the fingerprints of what was measured on it.
        environments: These fingerprints, which differ in the commit alone.
        records: What was measured on it.
    """

    place: int
    keys: tuple[str, ...]
    environments: tuple[Fingerprint, ...]
    records: tuple[Record, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of its nodes, without those that were not recorded."""
        return tuple(dict.fromkeys(record.node for record in self.records if record.node is not None))

    @property
    def name(self) -> str:
        """What sentences call it: its place, and the names of its nodes."""
        nodes = ", ".join(f"`{node}`" for node in self.nodes)
        return f"machine {self.place}" + (f" ({nodes})" if nodes else "")

    @property
    def n_timed(self) -> int:
        """How many of its records have a time."""
        return sum(record.step_s is not None or record.train_s is not None for record in self.records)

    @property
    def hardware(self) -> str:
        """Processor, memory and GPU, in words."""
        environment = self.environments[0]
        memory = environment.get("memory_bytes")
        size = "" if memory is None else f", {number(memory / 2**30)} GiB"
        gpu = f", {environment['gpu']}" if environment.get("gpu") else ""
        return f"{environment.get('cpu', 'unknown')}, {environment.get('cores', ABSENT)} cores{size}{gpu}"


@dataclass(frozen=True)
class Machines:
    """The machines of some records.

    Attributes:
        all: The machines, none like another, in the order of their first records.
        places: The machine of each fingerprint, by key, as its place in `all`.
        chosen: The machine whose times are shown; None where there are no records.
    """

    all: tuple[Machine, ...]
    places: Mapping[str | None, int]
    chosen: Machine | None

    @classmethod
    def of(
        cls, records: Iterable[Record], environments: Mapping[str, Fingerprint], name: str | None = None
    ) -> "Machines":
        """The machines that some records name.

        Args:
            records: The records, of as many runs and nodes as one likes.
            environments: Fingerprints by key.
            name: Whose times are shown: a node's name or the key of a fingerprint; None for the machine with most.

        Raises:
            StoreError: If the fingerprint of a record is not among them.
            UserError: If no machine, or more than one, answers to the name.
        """
        kinds: list[dict[str, Fingerprint]] = []
        measured: list[list[Record]] = []
        places: dict[str | None, int] = {}
        for record in parts(records):
            if record.environment not in places:
                found = environment_of(record, environments)
                firsts = (next(iter(kind.values())) for kind in kinds)
                place = next((at for at, first in enumerate(firsts) if not _unlike(first, found)), len(kinds))
                if place == len(kinds):
                    kinds.append({})
                    measured.append([])
                kinds[place][str(record.environment)] = found
                places[record.environment] = place
            measured[places[record.environment]].append(record)
        pairs = enumerate(zip(kinds, measured, strict=True), start=1)
        machines = tuple(Machine(at, tuple(kind), tuple(kind.values()), tuple(own)) for at, (kind, own) in pairs)
        return cls(machines, places, _chosen(machines, name))

    def of_record(self, record: Record) -> int:
        """Which of the machines a record was measured on."""
        return self.places[record.environment]

    @property
    def others(self) -> dict[str, Machine]:
        """The machines whose times are not shown, by what each is chosen by."""
        return {_handle(each, self.all): each for each in self.all if each is not self.chosen and each.n_timed}

    def with_times_of_one(self, records: Iterable[Record]) -> list[Record]:
        """Records without the times that were taken on another machine than the chosen one; all else of them stands."""
        return [self._with_times_of_one(record) for record in records]

    def _with_times_of_one(self, record: Record) -> Record:
        if self.all[self.of_record(record)] is not self.chosen:
            missing: dict[str, Any] = dict.fromkeys(TIMES)
            missing["verdict"] = None if record.step_s is None else OTHER_MACHINE
            record = replace(record, **missing)
        if self.all[self.of_record(record.as_trained)] is not self.chosen:
            history: list[Epoch] = [{**epoch, "train_s": None} for epoch in record.history]
            sweep: list[SweepEntry] = [{**entry, "forward_s": None} for entry in record.tolerance_sweep]
            record = replace(record, train_s=None, history=history, tolerance_sweep=sweep)
        return record

    def unlike(self) -> list[str]:
        """In what each machine or its software differs from the first, a sentence each; git commits are left out."""
        first, *others = self.all or (None,)
        return [
            f"{first.name.capitalize()} and {other.name} differ in "
            f"{'; '.join(_unlike(first.environments[0], other.environments[0]))}."
            for other in others
            if first is not None and "cpu" in other.environments[0]  # of a node that was lost unseen nothing is known
        ]


def parts(records: Iterable[Record]) -> list[Record]:
    """Records, those that were trained elsewhere than they were measured once for each machine."""
    found = []
    for record in records:
        found.append(record)
        if (record.as_trained.node, record.as_trained.environment) != (record.node, record.environment):
            found.append(record.as_trained)
    return found


def several_nodes(records: Iterable[Record]) -> bool:
    """Whether records come from more than one node, so that each must name its own."""
    return len({record.node for record in records}) > 1


def _chosen(machines: Sequence[Machine], name: str | None) -> Machine | None:
    if name is None:
        return max(machines, key=lambda each: (each.n_timed, len(each.records)), default=None)
    found = [each for each in machines if name in (*each.nodes, *each.keys)]
    if len(found) != 1:
        there = "; ".join(f"{_handle(each, machines)} ({each.hardware})" for each in machines) or "none"
        what = "more than one machine has the node" if found else "unknown machine"
        raise UserError(f"{what} {name!r}; there are: {there}.")
    return found[0]


def _handle(machine: Machine, machines: Sequence[Machine]) -> str:
    """What a machine is chosen by: a node that no other has, or else the key of its fingerprint."""
    taken = {node for each in machines if each is not machine for node in each.nodes}
    return next((node for node in machine.nodes if node not in taken), machine.keys[0])


def _unlike(one: Fingerprint, other: Fingerprint) -> list[str]:
    return [text for text in differences(one, other) if not text.startswith("git.")]
