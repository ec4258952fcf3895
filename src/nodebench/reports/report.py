"""The page of `nodebench report`: the answer first, then each task, then what it all rests on."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from nodebench import __version__
from nodebench.plots import RenderedPlot
from nodebench.reports.answers import (
    ERROR,
    MEMORY,
    Answer,
    Least,
    answer_sentences,
    failure_sentences,
    names,
    training_sentence,
    trainings,
    why_no_front,
    why_no_least,
)
from nodebench.reports.comparison import Machines, base_task, days, grouped, newest, several_nodes
from nodebench.reports.document import ABSENT, Block, Bullets, Column, Document, Entry, Paragraph, Table, number
from nodebench.reports.sections import TaskContents, appendix, contents, task_section
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
    return Document(
        TITLE,
        (*_facts(records, runs, command, created_at), *_machines(machines)),
        _lead(records, runs, where, tasks),
        (*(task_section(task, plots) for task in tasks), *appendix(records, runs, machines)),
    )


def _facts(
    records: Sequence[Record], runs: Sequence[Run], command: str, created_at: str
) -> tuple[tuple[str, str], ...]:
    return (
        ("made", created_at),
        ("measured", days(records)),
        ("command", f"`{command}`"),
        ("nodebench", __version__),
        ("cells", str(len(newest(records)))),
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
    records: Sequence[Record], runs: Sequence[Run], where: Sequence[Block], tasks: Sequence[TaskContents]
) -> tuple[Block, ...]:
    if not records:
        return (Paragraph("Nothing has been measured: there are no records. `nodebench run` makes some."),)
    answers = [answer for task in tasks for answer in task.answers]
    trained = trainings(records)
    blocks: list[Block] = [Paragraph(_opening(newest(records), runs))]
    blocks += where
    for task in tasks:
        if task.answers:
            blocks += _task_answer(task.answers)
    if trained:
        blocks.append(Paragraph("Trained models:"))
        blocks.append(Bullets(tuple(training_sentence(training) for training in trained)))
    if failures := failure_sentences(newest(records)):
        blocks.append(Paragraph("What did not end well:"))
        blocks.append(Bullets(failures))
    if len(answers) > 1:
        blocks.append(_answers_table(answers))
    return tuple(blocks)


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


def _opening(records: Sequence[Record], runs: Sequence[Run]) -> str:
    statuses = Counter(record.status for record in records)
    counted = ", ".join(f"{n} `{status}`" for status, n in statuses.most_common())
    cells, of = f"{len(records)} cell{_s(len(records))}", f"{len(runs)} run{_s(len(runs))}"
    return f"{cells} of {of}: {counted}."


def _task_answer(answers: Sequence[Answer]) -> list[Block]:
    main, n = answers[0], len(answers)
    others = f" This is the setting with most backends of {n} on this task." if n > 1 else ""
    return [Paragraph(f"{main.comparison.setting}.{others}"), Bullets(answer_sentences(main))]


def _answers_table(answers: Sequence[Answer]) -> Table:
    columns = tuple(
        Column(title, meaning, numeric=title in ("rtol", "backends"))
        for title, meaning in (
            ("task", "With its options, and the model."),
            ("solver", ""),
            ("rtol", ""),
            ("backends", "How many ended well."),
            ("lowest time", "By the ratio of times; decided where the next column is empty."),
            ("not shown slower", "Cannot be told from the fastest: the intervals overlap."),
            ("leanest", "Lowest peak memory; several where they print alike."),
            ("most exact", "Smallest error of d/dparams; several where they print alike."),
            ("Pareto front", "None was shown to be at least as good in error, memory and time, and better in one."),
            ("setting", ""),
        )
    )
    rows = tuple(_answer_row(answer) for answer in answers)
    return Table("answers", "The answer in every setting.", columns, rows)


def _answer_row(answer: Answer) -> tuple[Entry, ...]:
    comparison, fastest = answer.comparison, answer.fastest
    untimed = None if fastest else "fewer than two cells were timed together."
    first = comparison.records[0]
    return (
        Entry(f"`{first.task}` {first.model}", f"{first.task} {first.model}"),
        Entry(first.solver or ABSENT, first.solver),
        Entry(number(first.rtol), first.rtol),
        Entry(str(len(comparison.ranked)), len(comparison.ranked)),
        _names((fastest.record,) if fastest else (), untimed),
        _names(fastest.undistinguished if fastest else (), untimed),
        _least(answer.leanest, why_no_least(comparison.ranked, MEMORY)),
        _least(answer.most_exact, why_no_least(comparison.ranked, ERROR)),
        _names(answer.front, None if answer.front else why_no_front(comparison.timed)),
        Entry(comparison.setting, comparison.setting),
    )


def _least(least: Least | None, why: str) -> Entry:
    return _names(least.records if least else (), None if least else why)


def _names(records: Sequence[Record], why: str | None) -> Entry:
    text = names(records)
    return Entry(text or ABSENT, text or None, why)


def _s(n: int) -> str:
    return "" if n == 1 else "s"
