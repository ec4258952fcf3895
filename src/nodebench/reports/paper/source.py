"""What a page is made of: the cells that a reproduction wants, with what is known of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from nodebench.errors import StoreError
from nodebench.plots import RenderedPlot
from nodebench.reports.document import ABSENT, Block, Drawing, Entry, Missing, key, number
from nodebench.reports.machines import Machines, parts
from nodebench.results.record import Record

DIGITS = 4
"""Significant digits of what trained models reach."""

UNLIKE = "measured on unlike machines, whose times are not set side by side."


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cell that a reproduction wants.

    Attributes:
        task: Its task.
        model: Its model.
        backend: Its backend, or None.
        solver: Its solver.
        rtol: Its tolerance.
        seed: Its seed.
        record: What was measured of it, or how it failed; None where nothing is known.
    """

    task: str
    model: str
    backend: str | None
    solver: str
    rtol: float
    seed: int
    record: Record | None = None

    @property
    def measured(self) -> Record | None:
        """Its record, where it ended well."""
        return self.record if self.record is not None and self.record.status == "ok" else None

    @property
    def label(self) -> str:
        """Task, model and backend."""
        return f"`{self.task}` {self.model}" + (f" by `{self.backend}`" if self.backend else "")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a page is made of.

    Attributes:
        name: The reproduction, as the command line calls it.
        places: Its cells, by part.
        environments: Fingerprints of the machines that their records name, by key.
        plots: The plots of the model that left a record.
        preset: The budget.
        seeds: The seeds.
        measuring: The command that measures what is missing.
        command: The command that makes this page.
        created_at: When, ISO 8601.
    """

    name: str
    places: Mapping[str, Sequence[Place]]
    environments: Mapping[str, Mapping[str, Any]]
    plots: Callable[[Record], tuple[RenderedPlot, ...]]
    preset: str
    seeds: tuple[int, ...]
    measuring: str
    command: str
    created_at: str

    @property
    def records(self) -> list[Record]:
        """All that was measured or failed."""
        return [place.record for part in self.places.values() for place in part if place.record is not None]

    def trainings(self, task: str, model: str, backend: str | None = None) -> list[Place]:
        """The cells of one model, a seed each."""
        wanted = (task, model, backend)
        return [place for place in self.places["training"] if (place.task, place.model, place.backend) == wanted]

    @property
    def machines(self) -> Machines:
        """The machines that its records were measured on."""
        return Machines.of(self.records, self.environments)

    def of_one_machine(self, places: Iterable[Place]) -> bool:
        """Whether all that was measured of some cells is of machines and software alike, so that times compare."""
        machines = self.machines
        measured = [place.measured for place in places if place.measured is not None]
        return len({machines.of_record(record) for record in parts(measured)}) < 2

    def why(self, places: Iterable[Place]) -> str:
        """Why there is nothing of some cells, in one sentence."""
        for place in places:
            if place.record is not None and place.record.status != "ok":
                return f"{place.record.status}: {place.record.reason}"
        return f"not measured; `{self.measuring}` measures it."

    def drawing(self, places: Sequence[Place], name: str, caption: str) -> Block:
        """A plot of the model that the first seed has trained, or why there is none."""
        record = next((place.measured for place in places if place.measured is not None), None)
        if record is None:
            return Missing(f"{name}, {caption}", self.why(places))
        try:
            found = next((plot for plot in self.plots(record) if plot.name == name), None)
        except StoreError as error:
            return Missing(f"{name}, {caption}", str(error))
        if found is None:
            told = next((note for note in record.notes if note.startswith("no plots")), "its training kept none")
            return Missing(f"{name}, {caption}", f"{told}.")
        parts = (name, record.task, record.model, record.backend or "")
        return Drawing(key(" ".join(parts)), f"{caption[:1].upper()}{caption[1:]}.", found)


@dataclass(frozen=True)
class Sample:
    """One figure of one model, over its seeds.

    Attributes:
        values: What was measured.
        reason: Why nothing was, or empty.
    """

    values: tuple[float, ...]
    reason: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over the seeds, or None."""
        return fmean(self.values) if self.values else None

    def text(self, digits: int = 3) -> str:
        """The mean, with the standard deviation between seeds where there are several that differ."""
        if len(set(self.values)) < 2:
            return number(self.mean, digits)
        return f"{number(self.mean, digits)} ± {number(stdev(self.values), 2)}"

    def entry(self, digits: int = 3) -> Entry:
        """It as what stands in a table."""
        return Entry(self.text(digits), self.mean, reason=None if self.values else self.reason or None)


def sample(source: Source, places: Sequence[Place], value: Callable[[Record], float | None]) -> Sample:
    """A figure over the seeds of a model."""
    measured = [place.measured for place in places if place.measured is not None]
    values = tuple(found for record in measured if (found := value(record)) is not None)
    reason = "" if values else "its record lacks this figure." if measured else source.why(places)
    return Sample(values, reason)


def published(value: float | None, digits: int = 4, reason: str = "the paper has no such figure.") -> Entry:
    """A figure of the paper in a table."""
    return Entry(ABSENT, reason=reason) if value is None else Entry(f"{value:.{digits}f}", value)


def holes(source: Source) -> list[Block]:
    """What is missing, a hole for each model and reason."""
    lacking: dict[tuple[str, str], list[Place]] = {}
    for part, places in source.places.items():
        for place in places:
            if place.measured is None:
                lacking.setdefault((f"{part}: {place.label}", source.why([place])), []).append(place)
    return [
        Missing(what + (f", {len(same)} cells" if len(same) > 1 else ""), why) for (what, why), same in lacking.items()
    ]
