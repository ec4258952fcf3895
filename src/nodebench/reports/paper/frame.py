"""What all pages have in common: when and where it was measured, how it deviates from the paper, what is missing."""

from collections.abc import Mapping, Sequence

from nodebench import __version__
from nodebench.reports.comparison import base_task
from nodebench.reports.document import ABSENT, Block, Bullets, Document, Paragraph, Section, count, number
from nodebench.reports.paper.figures import BUDGETS, PAPER
from nodebench.reports.paper.source import Place, Source, holes

MNIST = "mnist"
"""The task, and the name of its data set where no other stands in for it."""


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
    return Document(title, _facts(source), tuple(lead), (*sections, *ends))


def told(source: Source) -> list[str]:
    """Deviations that the records tell: budget, data, seeds, machines and what was noted."""
    sentences = [*_budget(source), *_data(source), *_seeds(source), *source.machines.unlike()]
    trained = (place.measured for place in source.places["training"])
    # Of the trainings alone: what is noted of a gradient step is about figures that no page here has.
    notes = dict.fromkeys(note for record in trained if record is not None for note in record.notes)
    return [*sentences, *notes]


def stand_ins(source: Source) -> set[str]:
    """Data sets that stand in for MNIST."""
    names = {record.dataset for record in source.records if base_task(record) == MNIST and record.dataset}
    return names - {MNIST}


def _budget(source: Source) -> list[str]:
    trained = [place.measured for place in source.places["training"] if place.measured is not None]
    steps = {(record.model, record.train_steps, record.batch_size) for record in trained}
    ours = "; ".join(f"{model} {count(n)} steps of {batch} examples" for model, n, batch in sorted(steps, key=str))
    theirs = BUDGETS.get(source.name)
    sentences = []
    if trained and source.preset != "paper":
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
    ended: dict[str, list[Place]] = {}
    for place in source.places["training"]:
        ended.setdefault(place.label, []).extend([place] if place.measured is not None else [])
    fewer = [f"{label} {len(places)}" for label, places in ended.items() if len(places) < n]
    return [
        f"{n} seeds: each trained figure is a mean ± standard deviation over them.",
        *([f"Not all {n} of them have figures of {', '.join(fewer)}."] if fewer else []),
    ]


def _facts(source: Source) -> tuple[tuple[str, str], ...]:
    dates = sorted({record.created_at[:10] for record in source.records})
    measured = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else dates[0] if dates else ABSENT
    machines = dict.fromkeys(machine.hardware for machine in source.machines.all)
    return (
        ("paper", PAPER),
        ("made", source.created_at),
        ("measured", measured),
        ("command", f"`{source.command}`"),
        ("preset", f"`{source.preset}`"),
        ("seeds", ", ".join(map(str, source.seeds))),
        ("nodebench", __version__),
        ("machine", "; ".join(machines) or ABSENT),
    )
