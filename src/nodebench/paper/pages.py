"""What all pages have in common: the cells that each is made of, with what is known of them, and its frame.

A page says when and where it was measured, how it deviates from the paper, and what is missing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

from nodebench import __version__
from nodebench.bench.plan import Cell
from nodebench.errors import StoreError
from nodebench.plots import RenderedPlot
from nodebench.registry import canonical
from nodebench.reports.comparison import Machines, base_task, days, parts
from nodebench.reports.document import (
    ABSENT,
    Block,
    Bullets,
    Document,
    Drawing,
    Entry,
    Missing,
    Paragraph,
    Section,
    count,
    key,
    number,
)
from nodebench.results.machine import Fingerprint
from nodebench.results.record import Record

PAPER = "Chen et al. 2018, arXiv 1806.07366"

_FLOW_BUDGETS = "10,000 iterations of Adam, and the planar flow for 500,000 of RMSprop"

BUDGETS: Mapping[str, str] = {
    "figure4": f"The paper trains the continuous flow for {_FLOW_BUDGETS}.",
    "figure5": f"The paper names no budget of this figure; for figure 4 it trains the continuous flow for "
    f"{_FLOW_BUDGETS}.",
}
"""Budgets of the trainings (section 4), by figure."""

DIGITS = 4
"""Significant digits of what trained models reach."""

UNLIKE = "measured on unlike machines, whose times are not set side by side."

MNIST = "mnist"
"""The task, and the name of its data set where no other stands in for it."""


@dataclass(frozen=True)
class Place:
    """A cell that a reproduction wants.

    Attributes:
        cell: The cell.
        record: What was measured of it, or how it failed; None where nothing is known.
    """

    cell: Cell
    record: Record | None = None

    @property
    def measured(self) -> Record | None:
        """Its record, where it ended well."""
        return self.record if self.record is not None and self.record.status == "ok" else None

    @property
    def label(self) -> str:
        """Task, model and backend."""
        cell = self.cell
        return f"`{cell.task}` {cell.model}" + (f" by `{cell.backend}`" if cell.backend else "")


def measured(places: Iterable[Place]) -> list[Record]:
    """The records of the cells that ended well."""
    return [place.measured for place in places if place.measured is not None]


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
    environments: Mapping[str, Fingerprint]
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
        """The trainings of one model, a seed each."""
        return self.of("training", task, model, backend)

    def of(self, part: str, task: str, model: str, backend: str | None = None) -> list[Place]:
        """The cells of one model in a part."""
        wanted = (canonical("task", task), model, backend)
        return [
            place for place in self.places[part] if (place.cell.task, place.cell.model, place.cell.backend) == wanted
        ]

    @cached_property
    def machines(self) -> Machines:
        """The machines that its records were measured on."""
        return Machines.of(self.records, self.environments)

    def of_one_machine(self, places: Iterable[Place]) -> bool:
        """Whether all that was measured of some cells is of machines and software alike, so that times compare."""
        machines = self.machines
        return len({machines.of_record(record) for record in parts(measured(places))}) < 2

    def why(self, places: Iterable[Place]) -> str:
        """Why there is nothing of some cells, in one sentence."""
        for place in places:
            if place.record is not None and place.record.status != "ok":
                return f"{place.record.status}: {place.record.reason}"
        return f"not measured; `{self.measuring}` measures it."

    def drawing(self, places: Sequence[Place], name: str, caption: str) -> Block:
        """A plot of the model that the first seed has trained, or why there is none."""
        record = next(iter(measured(places)), None)
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
    records = measured(places)
    values = tuple(found for record in records if (found := value(record)) is not None)
    reason = "" if values else "its record lacks this figure." if records else source.why(places)
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


def page(
    source: Source,
    title: str,
    paper: str,
    claims: Sequence[str],
    sections: Sequence[Section],
    deviations: Sequence[str],
) -> Document:
    """A page.

    Args:
        source: What it is made of.
        title: Its title.
        paper: What the paper did.
        claims: What the paper says, and whether it is seen here, a sentence or two each.
        sections: Tables, charts and drawings.
        deviations: In what this measurement differs from the paper's, beside what the records tell.
    """
    lead: list[Block] = [Paragraph(paper), Bullets(tuple(claims))] if claims else [Paragraph(paper)]
    missing = holes(source)
    ends = [Section("What differs from the paper", (Bullets((*told(source), *deviations)),))]
    if missing:
        ends.append(Section("What is missing", tuple(missing)))
    return Document(title, facts(source), tuple(lead), (*sections, *ends))


def told(source: Source) -> list[str]:
    """Deviations that the records tell: budget, data, seeds, machines and what was noted."""
    # Of the trainings alone: what is noted of a gradient step is about figures that no page here has.
    notes = dict.fromkeys(note for record in measured(source.places["training"]) for note in record.notes)
    return [*_budget(source), *_data(source), *_seeds(source), *source.machines.unlike(), *notes]


def stand_ins(source: Source) -> set[str]:
    """Data sets that stand in for MNIST."""
    names = {record.dataset for record in source.records if base_task(record) == MNIST and record.dataset}
    return names - {MNIST}


def _budget(source: Source) -> list[str]:
    trained = measured(source.places["training"])
    steps = {(record.model, record.train_steps, record.batch_size) for record in trained}
    ours = "; ".join(f"{model} {count(n)} steps of {batch} examples" for model, n, batch in sorted(steps, key=str))
    theirs = BUDGETS.get(source.name)
    sentences = []
    if trained and source.preset == "standard":
        sentences.append(
            f"Preset `standard`, a budget of ours ({ours}), with which validation data gained little from more steps."
        )
    elif trained and source.preset != "paper":
        only = "" if theirs else ", only the networks with each other"
        sentences.append(
            f"Preset `{source.preset}`, a smaller budget than the paper's ({ours}): what a training reached is not "
            f"comparable with the paper's figure{only}."
        )
    if trained and theirs:
        sentences.append(theirs)
        sentences += _ratio({record.model: record.train_steps for record in trained})
    return sentences


def _ratio(steps: Mapping[str, int | None]) -> list[str]:
    """How many steps the planar flow has here for one of the continuous flow."""
    continuous, planar = steps.get("cnf"), steps.get("planar")
    if not (continuous and planar):
        return []
    return [
        f"Here the planar flow has {number(planar / continuous)} times the steps of the continuous one (`cnf` "
        f"{continuous}, `planar` {planar}), where that budget has 50 times: the fewer, the more the comparison of the "
        "two favours the continuous flow."
    ]


def _data(source: Source) -> list[str]:
    names = sorted({record.dataset for record in source.records if record.dataset})
    told = ", ".join(f"`{name}`" for name in names)
    if stand_ins(source):
        return [f"Data: {told}, a stand-in for MNIST, on which no error compares."]
    return [f"Data: {told}."] if names else []


def _seeds(source: Source) -> list[str]:
    if len(source.seeds) == 1:
        return [f"A single seed ({source.seeds[0]}): how much it matters is not known; `--seed 0,1,2` would tell."]
    n = len(source.seeds)
    ended: Counter[str] = Counter()
    for place in source.places["training"]:
        ended[place.label] += place.measured is not None
    fewer = [f"{label} {n_ended}" for label, n_ended in ended.items() if n_ended < n]
    return [
        f"{n} seeds: each trained figure is a mean ± standard deviation over them.",
        *([f"Not all {n} of them have figures of {', '.join(fewer)}."] if fewer else []),
    ]


def facts(source: Source, *, of_paper: bool = True) -> tuple[tuple[str, str], ...]:
    """What stands above a page: when, where and how it was measured, and of which paper it is."""
    machines = dict.fromkeys(machine.hardware for machine in source.machines.all)
    return (
        *([("paper", PAPER)] if of_paper else []),
        ("made", source.created_at),
        ("measured", days(source.records)),
        ("command", f"`{source.command}`"),
        ("preset", f"`{source.preset}`"),
        ("seeds", ", ".join(map(str, source.seeds))),
        ("nodebench", __version__),
        ("machine", "; ".join(machines) or ABSENT),
    )
