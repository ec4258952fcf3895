"""The page of `nodebench report`: the answer at a glance, then each task, then what it all rests on."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from nodebench import __version__
from nodebench.plots import RenderedPlot
from nodebench.reports.answers import (
    absence_sentences,
    answer_sentences,
    failure_sentences,
    short_answer,
    training_sentence,
    trainings,
)
from nodebench.reports.comparison import Machines, base_task, days, grouped, newest, several_nodes, subject
from nodebench.reports.document import Block, Bullets, Details, Document, Paragraph
from nodebench.reports.glance import picture
from nodebench.reports.sections import TaskContents, appendix, comparison_name, contents, task_section
from nodebench.reports.tables import answers_table, comparison_table
from nodebench.results.record import Record
from nodebench.results.store import Run

TITLE = "nodebench report"

WITHIN = "Times are ranked within one run on one node only; errors, evaluations and bytes are compared across all."


def report(
    records: Sequence[Record],
    runs: Sequence[Run],
    machines: Machines,
    plots: Callable[[Record], tuple[RenderedPlot, ...]],
    command: str,
    created_at: str,
) -> Document:
    """A page of what was measured. Its times are of one machine, all other figures of all.

    Args:
        records: The records, of as many runs and machines as one likes.
        runs: The runs they belong to.
        machines: The machines that they were measured on, and which of them the times are shown of.
        plots: The plots of the model that left a record.
        command: The command line that makes this page.
        created_at: When, ISO 8601.
    """
    records = machines.with_times_of_one(records)
    where = [*_unlike(records, machines), *_others(machines, command)]
    tasks = [contents(task) for task in grouped(records, base_task)]
    # What the page opens with: the task of which most backends were measured in one setting.
    main = max(
        (task for task in tasks if task.answers), key=lambda task: len(task.main.comparison.ranked), default=None
    )
    return Document(
        TITLE if main is None else f"Which gradient method for {subject(main.main.comparison.records[0])}?",
        (*_facts(records, runs, command, created_at), *_machines(machines)),
        _lead(records, where, tasks, main),
        (*(task_section(task, plots, opens=task is main) for task in tasks), *appendix(records, runs, machines)),
    )


def _facts(
    records: Sequence[Record], runs: Sequence[Run], command: str, created_at: str
) -> tuple[tuple[str, str], ...]:
    return (
        ("made", created_at),
        ("measured", days(records)),
        ("command", f"`{command}`"),
        ("nodebench", __version__),
        ("cells", _counted(newest(records))),
        ("runs", str(len(runs))),
    )


def _machines(machines: Machines) -> tuple[tuple[str, str], ...]:
    several = len(machines.all) > 1
    names_nodes = several_nodes(record for each in machines.all for record in each.records)
    return tuple(
        (
            f"machine {each.place}" if several else "machine",
            each.hardware + (f"; {' '.join(f'`{node}`' for node in each.nodes)}" if names_nodes else ""),
        )
        for each in machines.all
    )


def _lead(
    records: Sequence[Record], where: Sequence[Block], tasks: Sequence[TaskContents], main: TaskContents | None
) -> tuple[Block, ...]:
    """The answer, its picture and its table; then the answers of all settings, trainings, failures and machines."""
    if not records:
        return (Paragraph("Nothing has been measured: there are no records. `nodebench run` makes some."),)
    answers = [answer for task in tasks for answer in task.answers]
    blocks: list[Block] = [*([] if main is None else _at_a_glance(main)), *where]
    if len(answers) > 1:
        blocks.append(answers_table(answers))
    if trained := trainings(records):
        blocks.append(Paragraph("Trained models:"))
        blocks.append(Bullets(tuple(training_sentence(training) for training in trained)))
    if failures := failure_sentences(newest(records)):
        blocks.append(Paragraph("What did not end well:"))
        blocks.append(Bullets(failures))
    return tuple(blocks)


def _at_a_glance(task: TaskContents) -> list[Block]:
    """What the first screen shows: the setting, the answer, one picture and the main table; and the answer in full."""
    answer, n = task.main, len(task.answers)
    others = f" This is the setting with most backends of {n} on this task." if n > 1 else ""
    shown = picture(answer)
    said = (*answer_sentences(answer), *absence_sentences(answer))
    return [
        Paragraph(f"{answer.comparison.setting}.{others}"),
        Bullets(short_answer(answer)),
        *([] if shown is None else [shown]),
        comparison_table(comparison_name(task, 1), answer.comparison),
        Details("The answer in full", (Bullets(said),)),
    ]


def _unlike(records: Sequence[Record], machines: Machines) -> list[Block]:
    if unlike := machines.unlike():
        return [Paragraph(f"These figures are of unlike machines or software. {WITHIN}"), Bullets(tuple(unlike))]
    if several_nodes(records):
        return [Paragraph(f"These figures are of several nodes, alike in machine and software. {WITHIN}")]
    return []


def _others(machines: Machines, command: str) -> list[Block]:
    """Whose times are shown, and how to have those of the others; nothing where all are of one machine."""
    if machines.chosen is None or not machines.others:
        return []
    command = re.sub(r" --machine[ =]\S+", "", command)
    commands = (f"`{command} --machine {by}` reports those of {each.name}" for by, each in machines.others.items())
    return [Paragraph(f"Times are those of {machines.chosen.name}; {'; '.join(commands)}.")]


def _counted(records: Sequence[Record]) -> str:
    """How many records there are, by status."""
    statuses = Counter(record.status for record in records)
    return (
        f"{len(records)}: " + ", ".join(f"{n} `{status}`" for status, n in statuses.most_common()) if records else "0"
    )
