"""The part of a report that is about one task."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nodebench.errors import StoreError
from nodebench.plots import RenderedPlot
from nodebench.reports.charts import backward_evaluations, growth, work_precision
from nodebench.reports.comparison import base_task, comparisons, grouped, newest
from nodebench.reports.document import Block, Bullets, Details, Drawing, Missing, Section, key
from nodebench.reports.exponents import exponents
from nodebench.reports.sentences import absence_sentences, answer_sentences, since_sentence
from nodebench.reports.summary import Answer, answer
from nodebench.reports.tables import comparison_table, sweep_table, trained_table
from nodebench.reports.training_charts import courses
from nodebench.results.record import Record

MAX_OPEN = 6
"""Settings of a task whose tables stand open; those of the others are folded away."""

MAX_SETTINGS = 24
"""Settings of a task that have a table."""

MAX_HOLES = 2
"""Holes that stand open; more are folded away."""

MAX_PLOTTED = 6
"""Models of a task whose plots are shown."""


@dataclass(frozen=True)
class TaskContents:
    """What there is to say of a task.

    Attributes:
        records: Its records, one of each cell.
        answers: What its comparisons say, that of most backends first.
    """

    records: tuple[Record, ...]
    answers: tuple[Answer, ...]

    @property
    def name(self) -> str:
        """The task without its options."""
        return base_task(self.records[0])

    @property
    def measured(self) -> list[Record]:
        """The records that its comparisons show: those with gradients."""
        return [record for each in self.answers for record in each.comparison.records]

    @property
    def trained(self) -> list[Record]:
        """The newest record of each trained cell, as one of the machine that it was trained on."""
        return [r.as_trained for r in newest(record for record in self.records if record.metric_value is not None)]

    @property
    def failed_since(self) -> list[tuple[Record, Record]]:
        """Trained cells of which the newest attempt failed before it reached anything, each with that attempt."""
        last = {record.cell_id: record for record in newest(self.records)}
        pairs = ((record, last[record.cell_id]) for record in self.trained)
        return [(record, newer) for record, newer in pairs if newer.status != "ok" and newer.metric_value is None]


def contents(records: Sequence[Record]) -> TaskContents:
    """What there is to say of the records of one task."""
    answers = sorted(map(answer, comparisons(records)), key=lambda each: -len(each.comparison.ranked))
    return TaskContents(tuple(records), tuple(answers))


def task_section(task: TaskContents, plots: Callable[[Record], tuple[RenderedPlot, ...]]) -> Section:
    """Tables, charts and plots of a task."""
    blocks: tuple[Block, ...] = (
        *_comparisons(task),
        *_trained(task),
        *exponents(key(task.name), task.measured),
        *work_precision(task.measured),
        *growth(task.measured),
        *backward_evaluations(task.measured),
        *courses(task.trained),
        *_drawings(task, plots),
    )
    return Section(f"Task {task.name}", _holes_last(blocks))


def _holes_last(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """What there is first, then what there is not: a task that was only trained has many holes, told in one place."""
    holes = [block for block in blocks if isinstance(block, Missing)]
    there = [block for block in blocks if not isinstance(block, Missing)]
    if len(holes) <= MAX_HOLES:
        return (*there, *holes)
    return (*there, Details(f"What is not shown, and why ({len(holes)})", tuple(holes)))


def _comparisons(task: TaskContents) -> Iterator[Block]:
    if not task.answers:
        yield Missing("comparison of gradient methods", "no gradient was measured; run with `--measure gradient`.")
    parts: list[tuple[Block, ...]] = []
    for at, each in enumerate(task.answers[:MAX_SETTINGS], start=1):
        table = comparison_table(f"{key(task.name)}-comparison-{at}", each.comparison)
        # The page opens with what the first one says.
        said = (*(answer_sentences(each) if at > 1 else ()), *absence_sentences(each))
        parts.append((table, *([Bullets(said)] if said else [])))
    for part in parts[:MAX_OPEN]:
        yield from part
    if folded := [block for part in parts[MAX_OPEN:] for block in part]:
        n = len(parts) - MAX_OPEN
        yield Details(f"{n} more setting{'' if n == 1 else 's'}", tuple(folded))
    if len(task.answers) > MAX_SETTINGS:
        reason = "the table of answers has them; a report of single runs, or `-o report.csv`, has their figures."
        yield Missing(f"tables of {len(task.answers) - MAX_SETTINGS} further settings", reason)


def _trained(task: TaskContents) -> Iterator[Block]:
    if not task.trained:
        yield Missing("table of trained models", "nothing was trained; run with `--measure training` or `both`.")
        return
    yield trained_table(f"{key(task.name)}-trained", task.trained)
    if task.failed_since:
        yield Bullets(tuple(since_sentence(record, failure) for record, failure in task.failed_since))
    swept = [record for record in task.trained if record.tolerance_sweep]
    if swept:
        yield sweep_table(f"{key(task.name)}-sweep", swept)
    else:
        yield Missing("tolerance sweep of trained networks", "it needs a trained ODE model with an adaptive solver.")


def _drawings(task: TaskContents, plots: Callable[[Record], tuple[RenderedPlot, ...]]) -> Iterator[Block]:
    # The newest of each model, whatever its seed, tolerance or budget.
    models = grouped(task.trained, lambda r: (r.task, r.model, r.backend))
    shown = [(max(same, key=lambda r: r.created_at)) for same in models]
    drawn = 0
    for record in shown:
        try:
            found = plots(record)
        except StoreError as error:
            yield Missing(f"plots of {_model(record)}", str(error))
            continue
        drawn += bool(found)
        if found and drawn > MAX_PLOTTED:
            reason = f"those of {MAX_PLOTTED} models are shown; a report of its run `{record.run_id}` shows them."
            yield Missing(f"plots of {_model(record)}", reason)
        elif found:
            yield from (_drawing(record, plot) for plot in found)
    if not drawn:
        reason = "no trained model of this task left any." if shown else "they need a trained model."
        yield Missing("plots of trained models", reason)


def _drawing(record: Record, plot: RenderedPlot) -> Drawing:
    name = key("-".join([record.task, record.model, record.backend or "", plot.name]))
    caption = f"{_model(record)}, preset {record.preset}, seed {record.seed}."
    return Drawing(name, caption, plot)


def _model(record: Record) -> str:
    return f"{record.model} on `{record.task}`" + (f" with `{record.backend}`" if record.backend else "")
