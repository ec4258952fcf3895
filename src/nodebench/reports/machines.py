"""The machines that records were measured on, and which of them are alike: times of unlike ones are never compared."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodebench.reports.formatting import ABSENT, number
from nodebench.results.environment import differences, environment_of
from nodebench.results.record import Record


@dataclass(frozen=True)
class Machine:
    """Nodes whose machine and software are alike; git commits are not compared.

    Attributes:
        place: Its place among the machines of a report, from 1.
        environments: Fingerprints of what was measured on it, which differ in the commit alone.
        records: What was measured on it.
    """

    place: int
    environments: tuple[Mapping[str, Any], ...]
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
    """

    all: tuple[Machine, ...]
    places: Mapping[str | None, int]

    @classmethod
    def of(cls, records: Iterable[Record], environments: Mapping[str, Mapping[str, Any]]) -> "Machines":
        """The machines that some records name.

        Args:
            records: The records, of as many runs and nodes as one likes.
            environments: Fingerprints by key.

        Raises:
            StoreError: If the fingerprint of a record is not among them.
        """
        kinds: list[list[Mapping[str, Any]]] = []
        measured: list[list[Record]] = []
        places: dict[str | None, int] = {}
        for record in parts(records):
            if record.environment not in places:
                found = environment_of(record, environments)
                place = next((at for at, kind in enumerate(kinds) if not _unlike(kind[0], found)), len(kinds))
                if place == len(kinds):
                    kinds.append([])
                    measured.append([])
                kinds[place].append(found)
                places[record.environment] = place
            measured[places[record.environment]].append(record)
        pairs = enumerate(zip(kinds, measured, strict=True), start=1)
        return cls(tuple(Machine(place, tuple(kind), tuple(own)) for place, (kind, own) in pairs), places)

    def of_record(self, record: Record) -> int:
        """Which of the machines a record was measured on."""
        return self.places[record.environment]

    def of_one(self, records: Sequence[Record]) -> list[Record]:
        """Of records with times those of the machine that most come from: times of others do not stand beside them."""
        if not records:
            return []
        (most, _), *_ = Counter(map(self.of_record, records)).most_common(1)
        return [record for record in records if self.of_record(record) == most]

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
        if record.as_trained.node != record.node:
            found.append(record.as_trained)
    return found


def several_nodes(records: Iterable[Record]) -> bool:
    """Whether records come from more than one node, so that each must name its own."""
    return len({record.node for record in records}) > 1


def whose_times(records: Sequence[Record]) -> str:
    """On what the times of records of one machine were taken, as the end of a caption."""
    nodes = len({record.node for record in records})
    return " All times are of one machine." if nodes < 2 else f" All times are of {nodes} nodes alike."


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [text for text in differences(one, other) if not text.startswith("git.")]
