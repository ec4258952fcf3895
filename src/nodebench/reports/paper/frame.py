"""What all pages have in common: when and where it was measured, how it deviates from the paper, what is missing."""

from collections.abc import Sequence
from math import sqrt
from statistics import variance

from nodebench import __version__
from nodebench.reports.appendix import machine
from nodebench.reports.comparison import unlike_machines
from nodebench.reports.document import Block, Bullets, Document, Paragraph, Section
from nodebench.reports.formatting import ABSENT, count
from nodebench.reports.paper.figures import PAPER
from nodebench.reports.paper.source import Sample, Source, holes

STAND_IN = "digits"
"""Data set that stands in for MNIST."""


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


def seen(*, holds: bool) -> str:
    """How a claim of the paper is told of: it holds of what was measured here, or it does not."""
    return "is seen" if holds else "is not seen"


def below(source: Source, one: Sample, other: Sample) -> str:
    """How the claim is told of that one figure of trained models is below another.

    Several seeds decide it only where the means are further apart than twice the standard error of their difference.
    """
    if source.preset == "smoke":
        return "cannot be told from so short a training"
    if one.mean is None or other.mean is None:
        return "cannot be told"
    noise = 0.0
    if min(len(one.values), len(other.values)) > 1:
        noise = 2 * sqrt(sum(variance(each.values) / len(each.values) for each in (one, other)))
    if abs(one.mean - other.mean) <= noise:
        return "is undecided, within the spread of the seeds,"
    return seen(holds=one.mean < other.mean)


def told(source: Source) -> list[str]:
    """Deviations that the records tell: budget, data, seeds, machines and what was noted."""
    sentences = [*_budget(source), *_data(source), _seeds(source), *unlike_machines(source.runs)]
    notes = dict.fromkeys(note for record in source.records if record.status == "ok" for note in record.notes)
    return [*sentences, *notes]


def _budget(source: Source) -> list[str]:
    trained = [place for place in source.places["training"] if place.measured is not None]
    if source.preset == "paper" or not trained:
        return []
    steps = {
        (place.model, place.measured.train_steps, place.measured.batch_size)
        for place in trained
        if place.measured is not None
    }
    told = "; ".join(f"{model} {count(n)} steps of {batch} examples" for model, n, batch in sorted(steps, key=str))
    return [
        f"Preset `{source.preset}`, a smaller budget than the paper's ({told}): what a training reached is not "
        "comparable with the paper's figure, only the networks with each other."
    ]


def _data(source: Source) -> list[str]:
    names = sorted({record.dataset for record in source.records if record.dataset})
    if STAND_IN in names:
        return [f"Data: {', '.join(f'`{name}`' for name in names)}, a stand-in for MNIST, on which no error compares."]
    return [f"Data: {', '.join(f'`{name}`' for name in names)}."] if names else []


def _seeds(source: Source) -> str:
    if len(source.seeds) == 1:
        return f"A single seed ({source.seeds[0]}): how much it matters is not known; `--seed 0,1,2` would tell."
    return f"{len(source.seeds)} seeds: each trained figure is a mean ± standard deviation over them."


def _facts(source: Source) -> tuple[tuple[str, str], ...]:
    dates = sorted({record.created_at[:10] for record in source.records})
    measured = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else dates[0] if dates else ABSENT
    machines = dict.fromkeys(machine(run) for run in source.runs)
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
