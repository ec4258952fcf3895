"""The machines that records were measured on: times of unlike ones are never compared, and shown are those of one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from nodebench.errors import UserError
from nodebench.reports.document import ABSENT, number
from nodebench.results.machine import Fingerprint, differences, environment_of
from nodebench.results.quantities import Epoch, SweepEntry, TimingPart
from nodebench.results.record import Record

OTHER_MACHINE = "other machine"
"""What stands for the verdict of a cell whose times are not shown, since they are of another machine."""

TIMES = {each.name for each in fields(TimingPart)} - {"first_step_s", "control", "n_starts", "n_rounds", "stopped_by"}
"""What is not shown of another machine. `first_step_s` says that there is a gradient, and nothing is ranked by it."""


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
