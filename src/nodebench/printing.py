"""What is printed on a terminal: tables, records, machines, pages and what becomes of a run."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from nodebench.options import DEFAULT_STORE, default_store
from nodebench.registry import split_list
from nodebench.reports.answers import (
    Answer,
    absences,
    answer,
    common_answer,
    short_answer,
    training_sentence,
    trainings,
)
from nodebench.reports.columns import reason
from nodebench.reports.comparison import NOT_COMPARED, NOT_RUN, Machines, comparisons, parts
from nodebench.reports.document import ABSENT, Column, Entry, Table, main_columns, mebibytes
from nodebench.reports.equal_cost import at_equal_error_briefly
from nodebench.reports.equal_memory import at_equal_memory_briefly
from nodebench.reports.names import ShortNames
from nodebench.reports.tables import (
    answers_table,
    exponents_table,
    full_tables,
    repetition_table,
    steps_table,
    summary_table,
    tracked_summary,
    trained_summary,
)
from nodebench.reports.writers.terminal import is_whole, new_console, print_blocks, print_table, text_of
from nodebench.reports.writers.terminal import print_listing as print_listing_of
from nodebench.results.machine import Fingerprint, differences, environment_of
from nodebench.results.scaling import OF_TASK, limits

if TYPE_CHECKING:
    from nodebench.bench.executors.ray.nodes import ClusterInspection, Node
    from nodebench.bench.plan import Cell, Plan
    from nodebench.bench.selftest import SelfTest
    from nodebench.conformance.check import CheckOutcome
    from nodebench.gating.baseline import Baseline, BaselineCell
    from nodebench.gating.compare import BaselineUpdate, GateResult
    from nodebench.gating.finding import Finding
    from nodebench.paper.reproductions import Reproductions
    from nodebench.reports.recommendation import Recommendation
    from nodebench.reports.writers.files import Written
    from nodebench.results.merging import Merged
    from nodebench.results.record import Record
    from nodebench.results.scaling import Scaling
    from nodebench.results.store import Run, Store


MAX_FAILURES = 6
"""Failures that each have a line; `--wide` has all."""

FAILURE_LINES = 2
"""Lines of a terminal that a failure takes at the most."""

NARROW = 80
"""Characters in a line of what is read on a terminal, through a pipe as well."""

LEAST_REASON = 24
"""Characters of a reason that are shown on however narrow a terminal."""


def _texts(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[str] = ()) -> Table:
    """A table of texts, which wrap but in the columns that are to be whole."""
    columns = tuple(Column(title, numeric=False, wraps=title not in whole) for title in titles)
    return Table("table", caption, columns, tuple(tuple(map(Entry, row)) for row in rows))


def print_json(value: object) -> None:
    """Print a value as JSON, and nothing beside it."""
    print(json.dumps(value, indent=2, allow_nan=False))


@dataclass(frozen=True)
class View:
    """How the records of a run are shown.

    Attributes:
        run: What commands call the run: its id, or `latest`.
        store: The store that has it.
        wide: Whether with all their figures, in several tables.
        in_order: Whether rows stay in the order in which the backends were asked for, rather than the fastest first.
    """

    run: str = "latest"
    store: Path = DEFAULT_STORE
    wide: bool = False
    in_order: bool = False

    def command(self, name: str, *options: str) -> str:
        """A command about the run."""
        store = [] if self.store == default_store() else ["--store", str(self.store)]
        return shlex.join(["nodebench", name, self.run, *options, *store])


def named_one_by_one(command: str) -> bool:
    """Whether a command line names its backends, rather than `all` of them."""
    words = shlex.split(command.replace("--backend=", "-b "))
    given = [after for before, after in pairwise(words) if before in ("-b", "--backend")]
    return bool(given) and "all" not in [name for text in given for name in split_list(text)]


def short_names(records: Iterable["Record | Cell | BaselineCell"]) -> ShortNames:
    """The names of users' files in the tasks and backends of records or cells."""
    return ShortNames.of(name for record in records for name in (record.task, record.backend))


def print_records(
    records: Sequence["Record"], view: View | None = None, laws: "Sequence[Scaling]" = (), *, as_json: bool = False
) -> None:
    """Print records as tables that end with the answer, and where the rest is found; or as one JSON array.

    Args:
        records: The records of one run.
        view: How they are shown.
        laws: Exponents that were fitted to them.
        as_json: Whether as JSON, and nothing else.
    """
    if as_json:
        print_json([record.to_dict() for record in records])
    if as_json or not records:
        return
    view, console, short = view or View(), new_console(), short_names(records)
    said = _print_tables(records, view, laws, short, console)
    rest = [*_failure_lines(records, view, short, console.width), *_more(records, view)]
    _print_lines([*([""] if said else []), *rest], short, console)


def records_text(records: Sequence["Record"], width: int = 80) -> str:
    """Records as a terminal of some width shows them, without colours and without commands for more."""
    short = short_names(records)
    failed = (f"{record.status}: {record.backend or record.model}: {reason(record)}" for record in _failed(records))

    def show(console: Console) -> None:
        _print_tables(records, View(), (), short, console)
        _print_lines([*failed, *_not_run(records)], short, console)

    return text_of(show, width)


def _print_tables(
    records: Sequence["Record"], view: View, laws: "Sequence[Scaling]", short: ShortNames, console: Console
) -> list[str]:
    """Print records as tables, and below them the answer, whose lines are returned."""
    answers = [answer(comparison) for comparison in comparisons(records)]
    tables = full_tables(records) if view.wide else _summaries(records, answers, in_order=view.in_order)
    # What is of several settings comes after what is of one, and before the answer.
    tables += [answers_table(compared)] if len(compared := _compared(answers)) > 1 else []
    settings = [(f"{law.task}, {law.solver}", law) for law in laws]
    tables += [exponents_table("exponents", laws[0].axis, settings)] if laws else []
    for table in tables:
        print_table(short.table(_on_a_terminal(table)), console)
    print_blocks((*at_equal_error_briefly(records), *at_equal_memory_briefly(records)), console)
    said = list(_answer_lines(records, answers))
    _print_lines(said, short, console)
    if laws and laws[0].axis in OF_TASK:
        _print_lines((limit.text for limit in limits(records, laws[0].axis)), short, console)
    return said


def _print_lines(lines: Iterable[str], short: ShortNames, console: Console) -> None:
    for line in lines:
        console.print(escape(short(line).replace("`", "")), soft_wrap=is_whole(console))


def _summaries(records: Sequence["Record"], answers: Sequence[Answer], *, in_order: bool) -> list[Table]:
    """One table for each comparison, one of training steps, one of what was trained, one of the gradient meanwhile."""
    found = [summary_table(each.comparison, in_order=in_order) for each in answers]
    found += [steps_table("steps", records), trained_summary(records), tracked_summary(records)]
    return [table for table in found if table is not None]


def _compared(answers: Sequence[Answer]) -> list[Answer]:
    """The answers of comparisons in which there was something to compare."""
    return [each for each in answers if len(each.comparison.ranked) > 1]


def _on_a_terminal(table: Table) -> Table:
    """A table without what only some readers want to see, and without why there are holes."""
    kept = main_columns(table)
    return replace(kept, rows=tuple(tuple(replace(entry, reason=None) for entry in row) for row in kept.rows))


def _answer_lines(records: Sequence["Record"], answers: Sequence[Answer]) -> Iterator[str]:
    """The answer in three lines: of one setting, or of all that their table has; and what trainings reached."""
    told, compared = [each for each in answers if _has_figures(each)], _compared(answers)
    if len(compared) > 1:
        yield from common_answer(compared)
    elif compared or len(told) == 1:
        yield from short_answer((compared or told)[0])
    elif told:
        yield f"No two methods were measured in any of {len(told)} settings, so nothing was compared."
    yield from map(training_sentence, trainings(records))


def _has_figures(answer: Answer) -> bool:
    """Whether anything was measured of a comparison."""
    return any(record.status in ("ok", *NOT_COMPARED) for record in answer.comparison.records)


def _failed(records: Sequence["Record"]) -> list["Record"]:
    return [record for record in records if record.status not in ("ok", *NOT_RUN)]


def _failure_lines(records: Sequence["Record"], view: View, short: ShortNames, width: int) -> Iterator[str]:
    """What failed, each with as much of its reason as fits, and how to read more."""
    several = len({record.task for record in records}) > 1
    failed = _failed(records)
    for record in failed[:MAX_FAILURES]:
        of_task = f"{record.task} " if several else ""
        name = short(f"{record.status}: {of_task}{record.backend or record.model}: ")
        more = f" (nodebench logs {record.cell_id})"
        room = FAILURE_LINES * width - len(name) - len(more)
        yield name + shorten(short(reason(record)), max(room, LEAST_REASON), placeholder=" ...") + more
    if failed[MAX_FAILURES:]:
        yield f"{len(failed) - MAX_FAILURES} more did not end well: {view.command('show', '--wide')}"


def _more(records: Sequence["Record"], view: View) -> Iterator[str]:
    """What was not run, and where notes, the other figures and the report are; a line each."""
    yield from _not_run(records)
    n_notes = len(_notes(records))
    notes = f"{n_notes} note{'s' if n_notes > 1 else ''}: {view.command('show', '--notes')}"
    wide = f"all figures: {view.command('show', '--wide')}"
    if told := [*([notes] if n_notes else []), *([] if view.wide else [wide])]:
        yield "; ".join(told)
    yield f"report: {view.command('report', '--open')}"


def _not_run(records: Sequence["Record"]) -> Iterator[str]:
    if absent := absences(records):
        yield f"not run: {'; '.join(absent)}"


def _notes(records: Iterable["Record"]) -> list[str]:
    """What a reader must know of the figures, each note once, with the task and the backends it is of."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        name = record.backend or record.model
        for note in (*record.notes, *record.differences):
            found.setdefault((record.task, note.removeprefix(f"{name}: ")), {})[name] = None
    return [f"{task}: {', '.join(names)}: {note}" for (task, note), names in found.items()]


def print_notes(records: Sequence["Record"]) -> None:
    """Print what a reader must know of the figures of records."""
    console, short = new_console(), short_names(records)
    for note in _notes(records) or ["no cell left a note"]:
        console.print(escape(short(note)), soft_wrap=is_whole(console))


def print_recommendation(found: "Recommendation", *, as_json: bool) -> None:
    """Print what to use, and why, or all of it as JSON."""
    if as_json:
        print_json(found.to_dict())
        return
    from nodebench.reports import recommendation

    recommendation.print_recommendation(found, new_console())


def print_plan(planned: "Plan", *, as_json: bool) -> None:
    """Print the cells that would be measured."""
    if as_json:
        print_json([{"cell_id": cell.cell_id, **asdict(cell)} for cell in planned.cells])
        return
    caption = f"{len(planned.cells)} cells, {len(planned.groups)} groups timed in turns; measure: {planned.measure}"
    titles = ("cell", "task", "model", "backend", "solver", "rtol", "batch", "seed", "preset")
    rows = [
        (*_names(cell), f"{cell.spec.rtol:g}", str(cell.batch_size), str(cell.seed), cell.preset)
        for cell in planned.cells
    ]
    print_table(short_names(planned.cells).table(_texts(caption, titles, rows, ("cell", "rtol", "batch", "seed"))))


def _names(cell: "Cell") -> tuple[str, ...]:
    return (cell.cell_id, cell.task, cell.model, cell.backend or ABSENT, cell.spec.solver)


def print_cost(records: Sequence["Record"], elapsed_s: float) -> None:
    """Print how long a run took, and how much of that was not measured work."""
    overhead_s = sum(record.overhead_s or 0.0 for record in records)
    share = overhead_s / elapsed_s
    told = f"{elapsed_s:.0f} s, of which {overhead_s:.0f} s ({share:.0%}) were not spent in measured work"
    new_console().print(f"{told}\n")


def print_reproductions(found: "Reproductions") -> None:
    """Print what would be measured for reproductions of the paper, and what the store has."""
    titles = ("cell", "task", "model", "backend", "solver", "rtol", "seed", "state")
    for planned in found.each:
        settled = found.settled(planned)
        n_missing = len(planned.cells) - len(settled)
        rows = []
        for cell in planned.cells:
            known = settled.get(cell.cell_id)
            state = "to be measured" if known is None else f"in run {known.run_id}"
            rows.append((*_names(cell), f"{cell.spec.rtol:g}", str(cell.seed), state))
        caption = f"{planned.measure}: {n_missing} of {len(planned.cells)} cells to be measured"
        print_table(_texts(caption, titles, rows, ("rtol", "seed")))


def print_listing(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of text as a table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = _texts(title, names, [[row.get(name, "") for name in names] for row in rows], ("name",))
    whole = tuple(replace(column, whole_words=column.title != "command") for column in table.columns)
    print_listing_of(replace(table, columns=whole))


def print_run(run: "Run", records: Sequence["Record"], store: "Store", view: View, machine: str | None = None) -> None:
    """Print a run: its command, the machines it was taken on, and its records with the times of one machine.

    Args:
        run: The run.
        records: Its records.
        store: The store that they are from.
        view: How the records are shown.
        machine: The machine; None for that with most times.

    Raises:
        UserError: If there is no such machine.
    """
    state = run.finished_at or "not finished: continue with --resume"
    new_console().print(f"run {run.run_id}: {escape(run.command)}\nbegan {run.created_at}, ended {state}")
    print_environment(run.environment)
    _print_nodes(run, records, store.environments())
    new_console().print()
    print_records(of_one_machine(records, store, machine), view)


def of_one_machine(records: Sequence["Record"], store: "Store", name: str | None = None) -> Sequence["Record"]:
    """The records of a run with the times of one machine; the command that shows another machine's times is printed."""
    machines = Machines.of(records, store.environments(), name)
    shown = machines.chosen.name if machines.chosen else ""
    for by, other in machines.others.items():
        again = shlex.join(["nodebench", "show", records[0].run_id, "--store", str(store.path), "--machine", by])
        text = f"times are those of {shown}; those of {other.name}: {again}"
        new_console().print(escape(text.replace("`", "")), soft_wrap=True)
    return machines.with_times_of_one(records)


def _print_nodes(run: "Run", records: Sequence["Record"], environments: Mapping[str, Fingerprint]) -> None:
    """Say what each node is that the cells of a run were measured on, unless it is the one that began the run."""
    nodes: dict[tuple[str | None, str | None], list[Record]] = {}
    for record in parts(records):
        nodes.setdefault((record.node, record.environment), []).append(record)
    if len(nodes) < 2 and "cpu" in run.environment:
        return
    if nodes:
        apart = "s, whose times are not compared with each other" if len(nodes) > 1 else ""
        new_console().print(f"measured on {len(nodes)} node{apart}:")
    for (node, _), measured in nodes.items():
        cells = f"{len(measured)} cell{'s' if len(measured) > 1 else ''}"
        text = f"{node}, {cells}: {hardware(environment_of(measured[0], environments))}"
        new_console().print(f"- {escape(text)}")


def print_repetition(
    runs: Sequence["Run"], records: Sequence[Sequence["Record"]], environments: Mapping[str, Fingerprint]
) -> None:
    """Print the ratios of several runs side by side, and in what their machines differ."""
    first = {record.cell_id: environment_of(record, environments) for record in records[0]}
    for run, each in zip(runs[1:], records[1:], strict=True):
        shared = (record for record in each if record.cell_id in first)
        pairs = ((first[record.cell_id], environment_of(record, environments)) for record in shared)
        for difference in dict.fromkeys(line for one, other in pairs for line in differences(one, other)):
            new_console().print(f"[red]not alike:[/red] {runs[0].run_id} and {run.run_id}: {escape(difference)}")
    table = repetition_table(records)
    if table is None:
        new_console().print("no cell has a ratio in all of these runs")
    else:
        print_table(short_names(record for each in records for record in each).table(table))


def print_log(record: "Record") -> None:
    """Print what an attempt at a cell left behind."""
    from nodebench.gating.baseline import BaselineCell

    print(f"{BaselineCell.from_record(record).label}\ncell {record.cell_id}, run {record.run_id}", end="")
    where = f" on {record.node}" if record.node else ""
    print(f", attempt {record.attempt}, {record.created_at}{where}: {record.status}")
    if record.reason is not None:
        print(record.reason)
    ended = "it ended well, and " if record.status == "ok" else ""
    print(f"\n{record.stderr}" if record.stderr else f"{ended}nothing was kept of what it printed")


def print_broken(broken: Mapping[str, str]) -> None:
    """Print on stderr which plugins are broken, and why: once before what is measured without them, and once after."""
    for name, why in broken.items():
        new_console(err=True).print(f"[red]broken:[/red] {escape(f'{name}: {why}')}", soft_wrap=True)


def print_environment(environment: Fingerprint) -> None:
    """Print the fingerprint of a machine, or what there is of it: a run on many machines has that of software alone."""
    versions = {name: version or "not installed" for name, version in environment["libraries"].items()}
    lines = (
        hardware(environment) if "cpu" in environment else "",
        ", ".join(filter(None, (environment.get("system"), f"Python {environment['python']}"))),
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    )
    for line in filter(None, lines):
        new_console().print(escape(line))


def hardware(environment: Fingerprint) -> str:
    """Processor, cores, memory and GPU of a machine, in words."""
    if "cpu" not in environment:
        return "lost before it could be looked at"
    memory = environment["memory_bytes"]
    size = "" if memory is None else f", {memory / 2**30:.3g} GiB"
    return f"{environment['cpu']}, {environment['cores']} cores{size}; GPU: {environment['gpu'] or 'none'}"


def print_nothing_to_measure(planned: "Plan", *, as_json: bool) -> None:
    """Say why a plan has no cells."""
    new_console(err=as_json).print(f"nothing to measure in {planned.empty}")
    print_records([], as_json=as_json)


def print_merged(path: Path, merged: "Merged") -> None:
    """Print what a store has after others were joined into it."""
    counted = f"runs: {merged.n_runs}, records: {merged.n_records}, added: {merged.n_added}"
    new_console().print(f"wrote {escape(str(path))}; {counted}", soft_wrap=True)


def print_written(files: Sequence["Written"]) -> None:
    """Print which files were written, and how large they are."""
    for file in files:
        n_bytes, count = file.n_bytes, "" if file.n_files is None else f"{file.n_files} files, "
        size = f"{n_bytes / 1e6:.2g} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.3g} kB"
        new_console().print(f"wrote {escape(str(file.path))}, {count}{size}")


def print_not_opened(page: Path) -> None:
    """Print where a page is that no browser could be opened for."""
    text = f"no browser can be opened here; the page is at {page.resolve().as_uri()}"
    new_console().print(escape(text), soft_wrap=True)


def print_gate(gate: "GateResult") -> None:
    """Print what has become worse or better, and the verdict."""
    from nodebench.gating.outputs import UPDATE, gate_table

    console = new_console()
    for line in gate.unlike:
        console.print(f"[red]not alike:[/red] {escape(line)}")
    table, short = gate_table(gate), short_names(finding.cell for finding in gate.findings)
    if table is not None:
        print_table(short.table(table))
    if gate.may_be_raised:
        console.print(UPDATE)
    _print_gate_notes(gate.notes, console)
    console.print(escape(gate.summary))


def _print_gate_notes(notes: Iterable[str], console: Console) -> None:
    for note in notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=is_whole(console))


def print_update(path: str, found: "BaselineUpdate") -> None:
    """Print what was taken over into a baseline file, and what was not."""
    console = new_console()
    for finding in found.taken:
        console.print(escape(f"taken over: {_one_line(finding)}"))
    for finding in found.left:
        console.print(f"[red]left as it was:[/red] {escape(_one_line(finding))}")
    _print_gate_notes(found.notes, console)
    console.print(f"{escape(path)}: {len(found.taken)} taken over, {len(found.left)} left as they were")


def _one_line(finding: "Finding") -> str:
    from nodebench.gating.outputs import value

    if finding.old is None and finding.new is None:  # of a cell as a whole
        return f"{finding.cell.label}: {finding.reason}"
    return f"{finding.cell.label}: {finding.metric} {value(finding.old)} -> {value(finding.new)} {finding.unit}".strip()


def print_saved(path: str, names: Sequence[str], figures: "Baseline") -> None:
    """Print what a baseline file has from runs."""
    new_console().print(escape(f"{path}: {len(figures.cells)} cells of {', '.join(names)}"))
    for cell in figures.cells.values():
        if not cell.ok:
            new_console().print(f"[red]kept as it is:[/red] {escape(cell.label)} is {cell.status}")


def print_baseline(figures: "Baseline") -> None:
    """Print the figures of a baseline, and the machines that it is from."""
    from nodebench.gating.outputs import baseline_tables, without_values

    console, short = new_console(), short_names(figures.cells.values())
    machines = [f"{found.get('cpu')}, {found.get('system')}" for found in figures.environments.values()]
    _print_lines(dict.fromkeys(machines), short, console)
    tables = new_console()
    if not tables.is_terminal:
        tables.width = NARROW
    for table in baseline_tables(figures):
        print_table(short.table(table), tables)
    _print_lines(without_values(figures), short, console)


def print_machine(environment: Fingerprint, frameworks: Mapping[str, str], data: Mapping[str, str]) -> None:
    """Print a machine, its frameworks, and where data sets would come from."""
    print_environment(environment)
    for name, state in frameworks.items():
        new_console().print(f"{name}: {escape(state)}")
    for name, source in data.items():
        new_console().print(f"data of {name}: {escape(source)}")


def print_cluster(cluster: "ClusterInspection", *, as_json: bool) -> None:
    """Print what the nodes of a cluster have, those alike together, and in what they differ."""
    if as_json:
        rows = [asdict(node) | asdict(cluster.inspections[node.node_id]) for node in cluster.nodes]
        print_json({"nodes": rows, "differences": cluster.differences})
        return
    console = new_console()
    for alike in _alike(cluster):
        names, found = ", ".join(node.name for node in alike), cluster.inspections[alike[0].node_id]
        each = " each" if len(alike) > 1 else ""
        console.print(f"[bold]{escape(names)}[/bold]: {alike[0].cpus} CPUs and {alike[0].gpus} GPUs for Ray{each}")
        if found.environment:
            print_environment(found.environment)
        for name, state in found.frameworks.items():
            console.print(f"{name}: {escape(state)}", soft_wrap=True)
    for difference in cluster.differences:
        console.print(f"[red]unlike:[/red] {escape(difference)}", soft_wrap=True)
    if not cluster.differences:
        console.print("no differences in Python, libraries and nodebench's commit")


def _alike(cluster: "ClusterInspection") -> list[list["Node"]]:
    """The nodes of a cluster, those together of which there is the same to say."""
    groups: dict[str, list[Node]] = {}
    for node in cluster.nodes:
        found = cluster.inspections[node.node_id]
        told = json.dumps([node.cpus, node.gpus, found.environment, found.frameworks], sort_keys=True)
        groups.setdefault(told, []).append(node)
    return list(groups.values())


def print_selftest(tested: "SelfTest") -> None:
    """Print what the harness found out about itself."""
    rate = f"{tested.alarm_rate:.0%}, {tested.alarm_low:.1%} to {tested.alarm_high:.0%}; nominal 5 %"
    rows = [("false alarms, A against A", f"{tested.n_alarms} of {tested.n_comparisons} ({rate})")]
    for planted in tested.slowdowns:
        caught = f"caught {planted.n_caught} of {planted.n_comparisons}, ratio {planted.estimate:.3f}"
        rows.append((f"slowdown of {planted.slowdown:.0%}", caught))
    leak = f"{mebibytes(tested.leak_bytes)} MiB a step, {mebibytes(tested.clean_bytes)} without"
    rows.append(("leak of 1 MiB a step", leak))
    rows.append(("gradient of the wrong sign", f"called {tested.wrong_gradient}"))
    rows.append(("smallest visible slowdown", f"{tested.smallest_effect:.1%}"))
    print_table(_texts(f"selftest with {tested.workload}", ("planted", "found"), rows))
    for problem in tested.problems:
        new_console().print(f"[red]not sound:[/red] {escape(problem)}")


def print_checks(title: str, outcomes: Sequence["CheckOutcome"]) -> None:
    """Print what came of the checks of a plugin: first the faults, each with all the checks that it fails."""
    console = new_console()
    faults = _grouped(outcomes, "failed", lambda outcome: outcome.cause)
    console.print(escape(f"{title}: {_verdict(outcomes, len(faults))}"), soft_wrap=is_whole(console))
    for found in sorted(faults, key=len, reverse=True):
        first, *others = found
        console.print(f"[red]failed:[/red] {_plain(first.reason)}", soft_wrap=is_whole(console))
        console.print(Padding(f"{first.check}: {_plain(first.meaning)}", (0, 0, 0, 2), expand=False))
        if others:
            console.print(Padding(f"and with it: {_checks(others)}", (0, 0, 0, 2), expand=False))
    for found in _grouped(outcomes, "skipped", lambda outcome: outcome.reason):
        console.print(f"[yellow]not checked:[/yellow] {_plain(found[0].reason)}", soft_wrap=is_whole(console))
        console.print(Padding(_checks(found), (0, 0, 0, 2), expand=False))
    if well := [outcome for outcome in outcomes if outcome.state == "ok"]:
        console.print(f"[green]ok:[/green] {_checks(well)}")


def _grouped(
    outcomes: Sequence["CheckOutcome"], state: str, key: Callable[["CheckOutcome"], str]
) -> list[list["CheckOutcome"]]:
    groups: dict[str, list[CheckOutcome]] = {}
    for outcome in outcomes:
        if outcome.state == state:
            groups.setdefault(key(outcome), []).append(outcome)
    return list(groups.values())


def _verdict(outcomes: Sequence["CheckOutcome"], n_faults: int) -> str:
    states = [outcome.state for outcome in outcomes]
    if states[0] != "ok":
        return "it cannot be loaded, and nothing else was checked"
    skipped = f", {states.count('skipped')} not made" if "skipped" in states else ""
    if not n_faults:
        return f"{states.count('ok')} of {len(states)} checks hold{skipped}"
    reasons = "for one reason" if n_faults == 1 else f"for {n_faults} reasons"
    return f"{states.count('failed')} of {len(states)} checks failed{skipped}, {reasons}"


def _checks(outcomes: Iterable["CheckOutcome"]) -> str:
    return escape("; ".join(outcome.check for outcome in outcomes))


def _plain(text: str) -> str:
    return escape(text.replace("`", ""))
