"""Tables of records: for a page all quantities side by side, for a terminal one that fits its width, or all that do."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import get_args

from nodebench.backends.solvers import method
from nodebench.reports.answers import (
    ERROR,
    MEMORY,
    Answer,
    Least,
    best_first,
    fastest,
    few,
    names,
    unit,
    why_no_front,
    why_no_least,
)
from nodebench.reports.columns import (
    RecordColumn,
    code,
    marked,
    of_quantity,
    of_table,
    plain,
    reason,
    shown,
)
from nodebench.reports.comparison import (
    NOT_RUN,
    Comparison,
    alike,
    fixed_step,
    grouped,
    in_common,
    line_setting,
    several_nodes,
    subject,
)
from nodebench.reports.document import (
    ABSENT,
    Block,
    Column,
    Entry,
    Missing,
    Table,
    count,
    interval,
    milliseconds,
    number,
)
from nodebench.results.quantities import CATALOGUE, SweepEntry, TrackedError, in_table
from nodebench.results.record import Record, SettingsPart
from nodebench.results.scaling import MEANING, Axis, Limit, Scaling, scalings, without_varied

LAST_EPOCHS = 6
"""Epochs whose evaluations a terminal shows; `--json` has them all."""

MOMENTS = 5
"""Moments of a training whose gradient errors a terminal shows beside the first; `--wide` has them all."""

SETTINGS = (
    "run_id",
    "created_at",
    *(f.name for f in fields(SettingsPart)),
    "dataset",
    "first_step",
    "attempt",
    "node",
    "nodebench_version",
)
"""Fields of a record that say what was measured, and where it is found."""


def _verdict(record: Record) -> str | None:
    control = "control" if record.control is None and record.step_s is not None else None
    return record.verdict or control


def _solves_none(_: Record) -> str:
    return "it solves no ODE."


BACKEND = plain("backend", lambda r: r.backend, text=code)
NAME = plain("backend", lambda r: r.backend, wraps=True)
MODEL = plain("model", lambda r: r.model, wraps=True)
TASK = plain("task", lambda r: r.task, wraps=True)
SOLVER = plain("solver", lambda r: r.solver)
RTOL = plain("rtol", lambda r: r.rtol, text=number)
SEED = plain("seed", lambda r: r.seed, text=count)
STATUS = plain("status", lambda r: r.status, "How the cell ended.")
RUN = plain("run", lambda r: r.run_id)
NODE = plain("node", lambda r: r.node, "Machine that the cell was measured on.", wraps=True)
METRIC = plain(
    "metric",
    lambda r: f"{r.metric_name} {number(r.metric_value, 4)} {'' if r.metric_unit == '1' else r.metric_unit}".strip(),
    wraps=True,
)
VERDICT = plain("verdict", _verdict, "Against the control: `undecided` where the interval of the ratio holds 1.")


def _ratio(record: Record) -> str:
    """The ratio with its interval and, where it decides nothing, that word."""
    ends = interval(record.ratio_low, record.ratio_high)
    doubt = "undecided" if record.verdict == "undecided" else ""
    return " ".join(filter(None, (number(record.ratio), ends and f"({ends})", doubt)))


def comparison_table(name: str, comparison: Comparison) -> Table:
    """All quantities of a comparison, a row for each backend, the fastest first; the best of the ranked are marked.

    What is seen first are error, evaluations, memory, time and ratio; all else are further columns.
    """
    records = best_first(comparison)
    together = {record.cell_id for record in comparison.timed}
    elsewhere = {record.cell_id for record in comparison.timed_elsewhere}
    first = fastest(comparison.timed)
    all_ranked = {record.cell_id for record in comparison.ranked}
    timed = {record.cell_id for record in (first.record, *first.undistinguished)} if first else set()
    run = [RUN] if len({record.run_id for record in records}) > 1 else []
    ratio, _ = of_quantity("ratio", "summary")
    _, step_ends = of_quantity("step_s", "summary")
    main = [replace(each, only_if_any=False) for each in _summary(ratio=replace(ratio, text=_ratio))]
    more = with_node([STATUS, VERDICT, replace(step_ends, column=replace(step_ends.column, title="95 % ms")),
                      *of_table("comparison"), *run], records)  # fmt: skip
    further = [replace(each, column=replace(each.column, further=True), only_if_any=True) for each in more]
    columns = shown([BACKEND, *main, *further], records)
    entries = [marked(each, records, timed if each.best == "timed" else all_ranked) for each in columns]
    at = len(main)  # the ratio, in whose place stands why there is none
    for place, record in enumerate(records):
        if record.cell_id in elsewhere and len(together) > 1:
            entries[at][place] = Entry(f"timed {comparison.where_else(record)}")
        elif record.status != "ok":
            entries[at][place] = replace(entries[at][place], text=record.status)
        elif record.control is None and record.step_s is not None and len(together) > 1:
            entries[at][place] = Entry("control", 1.0)
    rows = tuple(zip(*entries, strict=True))
    return Table(name, f"One gradient step: {comparison.setting}.", tuple(each.column for each in columns), rows)


def _summary(**instead: RecordColumn) -> list[RecordColumn]:
    """The columns that are seen first, each of a quantity alone: intervals stand with the ratio, if at all."""
    return [instead.get(name) or of_quantity(name, "summary")[0] for name in in_table("summary")]


def answers_table(answers: Sequence[Answer]) -> Table:
    """The answer in every setting, a row for each; what tells the settings apart comes first."""
    settings = [_places(answer.comparison) for answer in answers]
    varying = _telling(settings)
    titles = (
        ("fastest", "By the ratio of times; of several it is not decided which is, since their intervals overlap."),
        ("leanest", "Lowest peak memory; several where they print alike."),
        ("most exact", "Smallest error of d/dparams; several where they print alike."),
        ("Pareto front", "None was shown to be at least as good in error, memory and time, and better in one."),
    )
    columns = (
        *(Column(t, numeric=isinstance(settings[0][t].value, int | float), whole_words=True) for t in varying),
        *(Column(title, meaning, numeric=False, wraps=True) for title, meaning in titles),
        Column("backends", "How many ended well.", further=True),
        Column("setting", numeric=False, further=True),
    )
    rows = tuple(
        (*(places[title] for title in varying), *_answer_row(answer))
        for answer, places in zip(answers, settings, strict=True)
    )
    return Table("answers", "The answer in every setting.", columns, rows)


def _telling(settings: Sequence[Mapping[str, Entry]]) -> list[str]:
    """The titles that tell settings apart: each tells some apart that those before it do not."""
    found: list[str] = []
    apart = 1
    for title in settings[0]:
        n = len({tuple(each[t].text for t in (*found, title)) for each in settings})
        if n > apart:
            found, apart = [*found, title], n
    return found


def _places(comparison: Comparison) -> dict[str, Entry]:
    """The settings of a comparison by their titles, each of which may vary between comparisons."""
    record = max(comparison.records, key=lambda each: each.first_step is not None)
    return {
        "task": Entry(subject(record), subject(record)),
        "data": plain_entry(record.dataset),
        "solver": plain_entry(record.solver),
        "rtol": Entry(number(record.rtol), record.rtol),
        "atol": Entry(ABSENT) if record.atol == record.rtol else Entry(number(record.atol), record.atol),
        "step": Entry(number(fixed_step(record)), fixed_step(record)),
        **{
            title: Entry(value if isinstance(value, str) else number(value), value)
            for title, value in (
                ("controller", record.controller or ABSENT),
                ("batch", record.batch_size),
                ("time span", record.horizon),
                ("dtype", record.dtype),
                ("device", record.device),
                ("threads", record.threads),
                ("seed", record.seed),
                ("preset", record.preset),
            )
        },
    }


def _answer_row(answer: Answer) -> tuple[Entry, ...]:
    comparison, first = answer.comparison, answer.fastest
    untimed = None if first else "fewer than two cells were timed together."
    fast = " or ".join(names([each]) for each in (first.record, *first.undistinguished)) if first else ABSENT
    return (
        Entry(fast, fast if first else None, untimed),
        _least(answer.leanest, why_no_least(comparison.ranked, MEMORY)),
        _least(answer.most_exact, why_no_least(comparison.ranked, ERROR)),
        _few(answer.front, None if answer.front else why_no_front(comparison.timed)),
        Entry(str(len(comparison.ranked)), len(comparison.ranked)),
        Entry(comparison.setting, comparison.setting),
    )


def _least(least: Least | None, why: str) -> Entry:
    return _few(least.records if least else (), None if least else why)


def _few(records: Sequence[Record], why: str | None) -> Entry:
    text = few(records)
    return Entry(text or ABSENT, text or None, why)


def trained_table(name: str, records: Sequence[Record]) -> Table:
    """What trained models reached and took, a row for each."""
    which = plain(
        "which",
        lambda r: ", ".join(filter(None, (r.metric_name, unit(r), f"{r.metric_direction} is better"))),
        "Name and unit of the metric, and which direction is better.",
    )
    metric = of_quantity("metric_value", "trained")
    columns = [
        MODEL,
        plain("backend", lambda r: r.backend, text=code, hole=_solves_none),
        STATUS,
        plain("task", lambda r: r.task, text=code),
        plain("preset", lambda r: r.preset),
        SEED,
        plain("solver", lambda r: r.solver, hole=_solves_none),
        plain("rtol", lambda r: r.rtol, text=number, hole=_solves_none),
        *metric,
        which,
        *(each for name in in_table("trained") if name != "metric_value" for each in of_quantity(name, "trained")),
    ]
    return records_table(name, "Trained models.", with_node(columns, records), records)


def steps_table(name: str, records: Iterable[Record]) -> Table | None:
    """Memory and time of a training step of whole models, a row for each; None where none was measured."""
    steps = [record for record in records if record.train_step_s is not None]
    if not steps:
        return None
    several = len({record.task for record in steps}) > 1
    columns = [*([TASK] if several else []), MODEL, NAME, *of_table("training step")]
    first = steps[0]
    caption = (
        f"one training step: {'' if several else f'{first.task}, '}batch {first.batch_size}, {first.dtype} on "
        f"{first.device}, preset {first.preset}"
    )
    return records_table(name, caption, with_node(columns, steps), steps)


def failed_table(name: str, records: Sequence[Record]) -> Table:
    """The cells that did not end well, a row for each, as a page shows them."""
    columns = [
        plain("cell", lambda r: f"{r.backend or r.model} on {r.task}/{r.model}", text=code),
        STATUS,
        plain("reason", reason),
        SOLVER,
        RTOL,
        *of_table("not ok"),
        plain("attempts", lambda r: r.attempt, text=count),
        RUN,
    ]
    return records_table(name, "Cells that did not end well.", with_node(columns, records), records)


def sweep_table(name: str, records: Sequence[Record]) -> Table:
    """The trained networks at other tolerances: a row for each network and tolerance."""
    columns = (
        Column("network", numeric=False, wraps=True),
        Column("rtol", "Relative and absolute tolerance alike."),
        Column("NFE forward", "Evaluations of one forward solve."),
        Column("NFE backward", "Evaluations of the backward pass after it."),
        Column("solution error", "Relative distance of the states from those at a far smaller tolerance."),
        Column("solve ms", "Median time of a forward solve without gradients."),
    )
    where = with_node([], records)
    rows = tuple(
        (*_sweep_row(record, entry), *(each.entry(record) for each in where))
        for record in records
        for entry in record.tolerance_sweep
    )
    return Table(
        name,
        "Trained networks, solved at other tolerances.",
        (*columns, *(each.column for each in where)),
        rows,
    )


def tracked_table(name: str, records: Sequence[Record]) -> Table:
    """The gradient along trainings: a row for each network and moment."""
    columns = (
        Column("network", numeric=False, wraps=True),
        Column("epoch", "Epochs that had ended; 0 for the initial weights."),
        Column("err dp", CATALOGUE["grad_error_params"].meaning),
        Column("err dy0", CATALOGUE["grad_error_y0"].meaning),
        Column("cos dp", CATALOGUE["grad_cosine_params"].meaning),
        Column("NFE f+b", "Field evaluations of the forward solve and of the backward pass."),
        Column("ref err", CATALOGUE["reference_error_params"].meaning),
        Column("note", "Why figures are missing, or what is wrong with the gradient.", numeric=False, wraps=True),
    )
    where = with_node([], records)
    rows = tuple(
        (*_tracked_row(record, entry), *(each.entry(record) for each in where))
        for record in records
        for entry in record.tracked_errors
    )
    return Table(name, "The gradient along the training.", (*columns, *(each.column for each in where)), rows)


def settings_table(name: str, records: Iterable[Record], names: Sequence[str]) -> Table:
    """Settings of every cell, out of `SETTINGS`."""
    records = list(records)
    texts = {field for field in names if any(isinstance(getattr(record, field), str) for record in records)}
    columns = tuple(Column(field, numeric=field not in texts) for field in names)
    rows = tuple(tuple(plain_entry(getattr(record, field)) for field in names) for record in records)
    return Table(name, "Settings of every cell.", columns, rows)


def records_table(name: str, caption: str, columns: Sequence[RecordColumn], records: Sequence[Record]) -> Table:
    """A table with a row for each record."""
    each = shown(columns, records)
    rows = tuple(tuple(column.entry(record) for column in each) for record in records)
    return Table(name, caption, tuple(column.column for column in each), rows)


def with_node(columns: Sequence[RecordColumn], records: Iterable[Record]) -> list[RecordColumn]:
    """Columns of a table of records, and that of the node where the records come from more than one."""
    return [*columns, NODE] if several_nodes(records) else list(columns)


def summary_table(comparison: Comparison, *, in_order: bool = False) -> Table | None:
    """What a terminal shows of a comparison: error, evaluations, memory, time and ratio, a row for each backend.

    Args:
        comparison: The comparison.
        in_order: Whether the rows stay in the order of measuring, rather than the fastest first.

    Returns:
        The table, which fits 80 columns; what did not end well comes last, and what was not run has no row. None where
        there is no row with figures.
    """
    ranked = comparison.records if in_order else best_first(comparison)
    rows = sorted((r for r in ranked if r.status not in NOT_RUN), key=lambda r: r.status != "ok")
    verdict = plain("", lambda r: _verdict(r) if r.status == "ok" else r.status)
    ratio = of_quantity("ratio", "summary")
    figures = [*_summary(ratio=ratio[0]), *ratio[1:]]
    if not shown(figures, rows):
        return None
    said = [verdict] if any(verdict.value(record) not in (None, "control", "ok") for record in rows) else []
    return _terminal_table(f"{comparison.setting}", with_node([NAME, *figures, *said], rows), rows)


def full_tables(records: Sequence[Record]) -> list[Table]:
    """All tables of records that a wide terminal shows: gradients, trainings, what was seen of them, what failed."""
    tables = [*gradient_tables(records), *training_tables(records)]
    tables += [] if (steps := steps_table("steps", records)) is None else [steps]
    swept = [record.as_trained for record in records if record.tolerance_sweep]
    if swept:
        tables.append(sweep_table("sweep", swept))
    tracked = [record.as_trained for record in records if record.tracked_errors]
    if tracked:
        tables.append(tracked_table("tracked", tracked))
    failed = [record for record in records if record.status != "ok"]
    return [*tables, failures_table(failed)] if failed else tables


def gradient_tables(records: Iterable[Record]) -> list[Table]:
    """Three tables for each group of records whose gradients were compared: how exact, what they cost, how timed.

    Three, so that each fits a terminal of ordinary width; without times there is the first alone.
    """
    asked = [r for r in records if r.backend is not None and (r.first_step_s is not None or r.status != "ok")]
    groups = [group for of_run in grouped(asked, lambda record: record.run_id) for group in alike(of_run)]
    tables = []
    for group in groups:
        measured = next((record for record in group if record.first_step is not None), group[0])
        tables.append(_terminal_table(_gradient_title(measured), [NAME, STATUS, *of_table("exactness")], group))
        started = [record for record in group if record.step_s is not None or record.peak_memory_bytes is not None]
        verdict = plain("verdict", lambda r: _verdict(r) if r.status == "ok" else r.verdict or r.status)
        cost = [NAME, *of_table("cost", verdict=verdict)]
        tables.append(_terminal_table("", with_node(cost, started), started))
        timed = [record for record in started if record.step_s is not None]
        tables.append(_terminal_table("", [NAME, *of_table("times")], timed))
    return [table for table in tables if table.rows]


def trained_summary(records: Iterable[Record]) -> Table | None:
    """What trained models reached, in how long; None where none was trained."""
    trained = [record.as_trained for record in records if record.metric_value is not None]
    if not trained:
        return None
    several = {title for title, found in (("task", {r.task for r in trained}), ("seed", {r.seed for r in trained}))
               if len(found) > 1}  # fmt: skip
    columns = [
        *([TASK] if "task" in several else []),
        MODEL,
        NAME,
        *([SEED] if "seed" in several else []),
        METRIC,
        *of_quantity("train_s", "training cost"),
        *of_quantity("train_steps", "training cost"),
    ]
    first = trained[0]
    caption = f"trained models: {'' if 'task' in several else f'{first.task}, '}preset {first.preset}"
    return _terminal_table(caption, with_node(columns, trained), trained)


def tracked_summary(records: Iterable[Record]) -> Table | None:
    """The gradient's error along trainings, a row for each and a column for each of a few moments; None for none."""
    tracked = [record.as_trained for record in records if record.tracked_errors]
    if not tracked:
        return None
    epochs = sorted({entry["epoch"] for record in tracked for entry in record.tracked_errors})
    n = len(epochs) - 1
    few = dict.fromkeys(epochs[-(-n * k // MOMENTS)] for k in range(MOMENTS + 1))
    several = [each for each in (TASK, MODEL, SOLVER, RTOL, SEED) if len(set(map(each.value, tracked))) > 1]
    columns = [*several, NAME, *map(_error_at, few)]
    first = tracked[0]
    caption = f"gradient error by epoch: {'' if TASK in several else f'{first.task}, '}preset {first.preset}"
    return _terminal_table(caption, with_node(columns, tracked), tracked)


def _error_at(epoch: int) -> RecordColumn:
    def error(record: Record) -> float | None:
        return next((e["grad_error_params"] for e in record.tracked_errors if e["epoch"] == epoch), None)

    return plain(str(epoch), error, text=lambda value: number(value, 2))


def training_tables(records: Iterable[Record]) -> list[Table]:
    """Two tables of all trained models, what they reached and what it took; none where none was trained."""
    trained = [record.as_trained for record in records if record.metric_value is not None]
    if not trained:
        return []
    evaluations = plain(
        "NFE f+b by epoch",
        lambda r: (
            " ".join(f"{e['nfe_forward']}+{e['nfe_backward']}" for e in r.history[-LAST_EPOCHS:])
            if r.history and r.history[0]["nfe_forward"] is not None
            else None
        ),
        wraps=True,
    )
    took = [MODEL, NAME, SEED, *of_table("training cost"), evaluations]
    return [
        _terminal_table("training", [TASK, MODEL, NAME, SEED, *of_table("training", metric_value=METRIC)], trained),
        _terminal_table("", with_node(took, trained), trained),
    ]


def failures_table(failed: Sequence[Record]) -> Table:
    """The cells that did not end well, with the ids by which `nodebench logs` finds them."""
    cell = plain("cell", lambda r: r.cell_id)
    why = plain("reason", lambda r: r.reason, wraps=True)
    return _terminal_table("not ok", with_node([cell, TASK, MODEL, NAME, STATUS, why], failed), failed)


def repetition_table(runs: Sequence[Sequence[Record]]) -> Table | None:
    """The ratios of the cells that several runs have in common, side by side, or None where there are none.

    The last column says whether the intervals of all runs have a point in common.
    """
    by_cell = [{record.cell_id: record for record in records if record.ratio is not None} for records in runs]
    common = [cell_id for cell_id in by_cell[0] if all(cell_id in records for records in by_cell[1:])]
    if not common:
        return None
    titles = ("cell", *(records[0].run_id for records in runs), "intervals")
    rows = []
    for cell_id in common:
        same = [records[cell_id] for records in by_cell]
        name = "/".join([same[0].task, same[0].model, same[0].backend or ABSENT])
        ratios = (f"{number(r.ratio)}  {interval(r.ratio_low, r.ratio_high)}  {r.verdict}" for r in same)
        rows.append(tuple(map(Entry, (name, *ratios, _overlap(same)))))
    columns = tuple(Column(title, numeric=False) for title in titles)
    return Table("repetition", "ratio of time to the control", columns, tuple(rows))


def _terminal_table(caption: str, columns: Sequence[RecordColumn], records: Sequence[Record]) -> Table:
    """A table without reasons of holes, which notes tell; what did not end well is red."""
    table = records_table("records", caption, columns, records)
    rows = tuple(
        tuple(replace(entry, reason=None, tone="" if record.status == "ok" else "bad") for entry in row)
        for record, row in zip(records, table.rows, strict=True)
    )
    return replace(table, rows=rows)


def _overlap(records: Sequence[Record]) -> str:
    if len({record.control for record in records}) > 1:
        return "other controls"
    lows = [record.ratio_low for record in records if record.ratio_low is not None]
    highs = [record.ratio_high for record in records if record.ratio_high is not None]
    if len(lows) < len(records) or len(highs) < len(records):
        return ABSENT
    return "overlap" if max(lows) <= min(highs) else "apart"


def _network(record: Record) -> Entry:
    name = f"`{record.task}` {record.model}, `{record.backend}`, {record.solver}, seed {record.seed}"
    return Entry(name, name)


def _tracked_row(record: Record, entry: TrackedError) -> tuple[Entry, ...]:
    why, forward, backward = entry["reason"], entry["nfe_forward"], entry["nfe_backward"]
    n_evaluations = None if forward is None or backward is None else forward + backward
    return (
        _network(record),
        Entry(count(entry["epoch"]), entry["epoch"]),
        Entry(number(entry["grad_error_params"], 2), entry["grad_error_params"]),
        Entry(number(entry["grad_error_y0"], 2), entry["grad_error_y0"]),
        Entry(number(entry["grad_cosine_params"], 4), entry["grad_cosine_params"]),
        Entry(ABSENT if n_evaluations is None else f"{forward}+{backward}", n_evaluations),
        Entry(number(entry["reference_error_params"], 2), entry["reference_error_params"]),
        Entry(why or ABSENT, why),
    )


def _sweep_row(record: Record, entry: SweepEntry) -> tuple[Entry, ...]:
    why = entry["reason"]
    return (
        _network(record),
        Entry(number(entry["rtol"]), entry["rtol"]),
        Entry(count(entry["nfe_forward"]), entry["nfe_forward"], why),
        Entry(count(entry.get("nfe_backward")), entry.get("nfe_backward"), why),
        Entry(number(entry["solution_error"], 2), entry["solution_error"], why),
        Entry(milliseconds(entry["forward_s"]), entry["forward_s"], why),
    )


def plain_entry(value: object) -> Entry:
    """A setting as what stands in a table; it is sorted by itself where it is a number or text."""
    return Entry(ABSENT if value is None else str(value), value if isinstance(value, int | float | str) else None)


def _gradient_title(record: Record) -> str:
    return (
        f"{record.task} {record.model}: one gradient step; batch {record.batch_size}, {record.solver}, "
        f"{'' if record.controller in (None, 'integral') else f'{record.controller} controller, '}"
        f"rtol {number(record.rtol)}, atol {number(record.atol)}, first step {number(record.first_step)}, "
        f"{record.dtype}, {record.device}, "
        f"{record.threads} threads, seed {record.seed}"
        + ("" if record.horizon == 1 else f", time span times {number(record.horizon)}")
    )


def exponents(name: str, measured: Sequence[Record]) -> Iterator[Block]:
    """A table for each axis along which at least three places of one backend were measured, or why there is none.

    Args:
        name: What the names of the tables begin with.
        measured: Records of one task that show a gradient, one per cell, with times of one machine.
    """
    solved = [record for record in measured if record.solver is not None]
    n_tables = 0
    for axis in get_args(Axis):
        found: list[tuple[str, Scaling]] = []
        # A solver is told its steps or a tolerance, never both.
        adaptive = {"steps": (False,), "tolerance": (True,)}.get(axis, (False, True))
        varied = [record for record in solved if method(str(record.solver)).adaptive in adaptive]
        names = without_varied((record.task for record in solved), axis)
        for line in grouped(varied, lambda record: in_common(axis, record, names)):  # noqa: B023  called at once
            laws = [scaling for scaling in scalings(line, axis) if scaling.law is not None]
            found += [(line_setting(line[0], axis), scaling) for scaling in laws]
        if found:
            n_tables += 1
            yield exponents_table(f"{name}-exponents-{axis}", axis, found)
    if not n_tables:
        reason = (
            "they need three numbers of steps, tolerances, batches, time spans or parameters, or three values of the "
            "stiffness, of one backend; run `nodebench scale`."
        )
        yield Missing("exponents of memory, evaluations and time", reason)


def exponents_table(name: str, axis: str, laws: Sequence[tuple[str, Scaling]]) -> Table:
    """Measured exponents beside those of theory.

    Args:
        name: Name of the table.
        axis: What was varied, in words.
        laws: Exponents, each with its setting in words.
    """
    columns = (
        Column("backend", numeric=False),
        Column("quantity", numeric=False),
        Column("exponent", f"p of the law quantity ~ ({axis})^p, fitted by least squares of the logarithms."),
        Column("95 %", "Interval of the exponent."),
        Column("at 1", f"The law's value at {axis} 1, in the unit of the quantity: bytes, evaluations, seconds."),
        Column("theory", "The exponent that theory states for the method."),
        Column("points"),
        Column("setting", numeric=False),
    )
    rows = []
    for setting, scaling in laws:
        law = scaling.law
        found = (
            (Entry(ABSENT, reason=scaling.reason), Entry(ABSENT), Entry(ABSENT), Entry(ABSENT))
            if law is None
            else (
                Entry(f"{law.exponent:.3f}", law.exponent),
                Entry(f"{law.low:.3f}..{law.high:.3f}", law.low),
                Entry(number(law.coefficient), law.coefficient),
                Entry(str(law.n_points), law.n_points),
            )
        )
        exponent, ends, coefficient, n_points = found
        names = (Entry(f"`{scaling.backend}`", scaling.backend), Entry(scaling.quantity, scaling.quantity))
        theory = Entry(number(scaling.theory), scaling.theory)
        rows.append((*names, exponent, ends, coefficient, theory, n_points, Entry(setting, setting)))
    return Table(name, f"Exponents over {axis}: measured, and theory's.", columns, tuple(rows))


def limits_table(name: str, found: Sequence[Limit]) -> Table:
    """How far along an axis the gradients of each backend are right.

    Args:
        name: Name of the table.
        found: Limits along one axis, at least one.
    """
    axis = found[0].axis
    columns = (
        Column("backend", numeric=False),
        Column("solver", numeric=False),
        Column("right up to", f"The last place on the axis of {axis} at which its gradient is right."),
        Column("wrong from", "The first from which it is not, and where its line ends in charts and laws."),
        Column("how", "How the measurement ended there.", numeric=False),
        Column("why", numeric=False),
        Column("setting", numeric=False),
    )
    rows = tuple(
        (
            Entry(f"`{each.backend}`", each.backend),
            Entry(each.solver, each.solver),
            Entry(number(each.right), each.right),
            Entry(number(each.wrong), each.wrong, reason=None if each.wrong else "right wherever it was measured."),
            Entry(each.status or ABSENT, each.status),
            Entry(each.reason or ABSENT, each.reason),
            Entry(f"`{each.task}`", each.task),
        )
        for each in found
    )
    return Table(name, f"Along {MEANING[axis]}: how far gradients are right.", columns, rows)
