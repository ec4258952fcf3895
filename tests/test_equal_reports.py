"""What pages and terminals say at equal error and at equal memory follows from the figures; nothing stands empty."""

from dataclasses import replace
from io import StringIO

from rich.console import Console
from synthetic import ENVIRONMENTS, RTOLS, curve, timed

from nodebench.printing import print_records, records_text
from nodebench.reports.comparison import Machines
from nodebench.reports.document import Bullets, Chart, Missing, Table, flattened
from nodebench.reports.equal_charts import at_equal_error, at_equal_memory
from nodebench.reports.equal_cost import at_equal_error_briefly, equal_errors, sentences
from nodebench.reports.equal_memory import at_equal_memory_briefly
from nodebench.reports.report import report
from nodebench.reports.writers.terminal import print_blocks

CURVES = [
    *curve("direct", 1.0),
    *curve("adjoint", 0.1, ratio=0.6),
    *curve("torchdiffeq", 10.0, ratio=1.5),
    *curve("symplectic", 0.1, ratio=0.605),
]

MIB = 2**20
FAMILY = [
    timed("direct", peak_memory_bytes=100 * MIB, n_starts=4),
    timed("reversible", 2.5, peak_memory_bytes=8 * MIB, n_starts=4, grad_error_params=3e-4),
    timed("symplectic", 1.5, peak_memory_bytes=2 * MIB, n_starts=4),
    *(timed(f"checkpoint[checkpoints={n}]", 8 / n, peak_memory_bytes=(4 + n) * MIB, n_starts=4) for n in (1, 2, 4)),
]


def of_kind(blocks, kind):
    return [block for block in flattened(tuple(blocks)) if isinstance(block, kind)]


def texts(table):
    """The rows of a table as texts, by what stands in the first column."""
    return {row[0].text.strip("`"): [entry.text for entry in row[1:]] for row in table.rows}


def values(chart):
    """The points of a chart."""
    return next(iter(chart.definition.to_dict()["datasets"].values()))


def shown(blocks):
    """What stands on a terminal of 80 columns."""
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system=None)
    print_blocks(blocks, console)
    return console.file.getvalue()


def test_sentences_name_the_fastest_at_equal_error():
    """At the error that most methods reach and no one undercuts, and at the smallest; who ties and who is missing."""
    (found,) = equal_errors(CURVES)
    first, last = sentences(found)
    assert first.startswith("At an error of 1e-4 the fastest is not decided: the lowest time has `adjoint`, ")
    assert first.endswith("of the time of `direct`; the intervals do not tell it from `symplectic`.")
    assert ", 0.6 (0.5" in first
    assert last.startswith("At an error of 1e-8 the fastest is not decided")
    assert last.endswith("; `direct`, `torchdiffeq` do not reach it.")
    decided, _ = sentences(equal_errors(CURVES[:-3])[0])
    assert decided.startswith("At an error of 1e-4 the fastest is `adjoint`, ")


def test_who_is_more_exact_already_may_be_faster_still():
    """Where every error is undercut by somebody, the sentence says of whom it speaks, and gives the bounds."""
    exact = curve("adjoint", 1e-6, ratio=0.1)
    text, _ = sentences(equal_errors([*curve("direct", 1.0), *exact, *curve("scipy", 1.0, ratio=2.0)])[0])
    assert " the fastest of those measured on both sides of it is `direct`, " in text
    bound = 1000 * exact[0].step_s
    assert f"; more exact already at the loosest tolerance, in ms: `adjoint` at most {bound:.4g}." in text


def test_tables_at_equal_error_have_a_column_for_each_error_that_is_reached():
    """Upper bounds are marked, what is not reached has its reason, and the fastest are marked where they are known."""
    time, ratio, *_ = of_kind(at_equal_error(CURVES), Table)
    assert [column.title for column in time.columns[1:]] == [f"1e-{n}" for n in range(2, 9)]
    by_name = texts(time)
    assert by_name["direct"][0].startswith("<")
    assert by_name["direct"][-1] == "-"
    entries = {row[0].value: row[1:] for row in time.rows}
    assert entries["direct"][-1].reason == "not reached: the smallest error is 1e-07, at rtol 1e-07."
    best = [{name for name, row in entries.items() if row[at].best} for at in range(7)]
    assert best == [set(), set(), *[{"adjoint", "symplectic"}] * 5]
    assert texts(ratio)["direct"] == ["control"] * 7
    assert texts(ratio)["torchdiffeq"][2].endswith(")")
    assert texts(ratio)["adjoint"][2].startswith("0.6 (")


def test_a_page_has_a_chart_of_lines_over_errors():
    """A line for each method; none where no method reaches two errors, and nothing at all where none is reached."""
    (chart,) = of_kind(at_equal_error(CURVES), Chart)
    rows = values(chart)
    assert {row["series"] for row in rows} == {"direct", "adjoint", "torchdiffeq", "symplectic"}
    assert {row["x"] for row in rows if row["series"] == "direct"} == {1e-3, 1e-4, 1e-5, 1e-6, 1e-7}
    assert all(row["y_low"] < row["y"] < row["y_high"] for row in rows)
    single = curve("direct", 1.0)[:2]
    close = [replace(single[0], grad_error_params=2e-4), replace(single[1], grad_error_params=5e-5)]
    assert of_kind(at_equal_error(close), Chart) == []
    assert len(of_kind(at_equal_error(close), Table)) == 4
    assert list(at_equal_error(CURVES[:1])) == []


def test_solvers_stand_beside_the_backend():
    """Where there are several."""
    (found,) = equal_errors([*curve("direct", 1.0), *curve("direct", 0.1, solver="tsit5")])
    assert found.label(("direct", "tsit5")) == "direct tsit5"
    assert "dopri5" not in found.setting
    assert "`direct tsit5`" in sentences(found)[0]


def test_times_are_those_of_one_run():
    """Another run's times are not ranked beside them, but its errors, evaluations and bytes are as good."""
    later = [replace(r, run_id="run-2", created_at="2026-03-01") for r in curve("adjoint", 1.0, ratio=0.5)]
    (found,) = equal_errors([*curve("direct", 1.0), *curve("scipy", 1.0, ratio=1.0), *later])
    cost = next(cost for cost in found.costs.at(1e-4) if cost.backend == "adjoint")
    assert cost.time.value is cost.ratio.value is None
    assert cost.time.reason.endswith("of the run and machine whose times are compared.")
    assert cost.evaluations.value is not None


def test_a_cell_of_two_runs_stands_with_the_run_that_has_most():
    """A later run of one tolerance leaves the curve of the first whole."""
    again = [replace(r, run_id="run-2", created_at="2026-03-01") for r in CURVES if r.rtol == RTOLS[1]]
    first, both = equal_errors(CURVES), equal_errors([*CURVES, *again])
    assert first[0].costs == both[0].costs


def test_of_several_problems_one_stands_open():
    """That with most records has charts and tables, and another batch a sentence that names it."""
    other = [replace(r, batch_size=7, cell_id=f"{r.cell_id}/7") for r in CURVES[:6]]
    blocks = list(at_equal_error([*other, *CURVES]))
    assert (len(of_kind(blocks, Table)), len(of_kind(blocks, Chart))) == (4, 1)
    (text,) = of_kind(blocks, Bullets)[-1].items
    assert text.startswith("`cnf`, dopri5, batch 7, float64 on cpu, preset smoke: At an error of ")
    families = [replace(r, batch_size=7, cell_id=f"{r.cell_id}/7") for r in FAMILY if r.backend != "direct"]
    blocks = list(at_equal_memory([*families, *FAMILY]))
    assert (len(of_kind(blocks, Table)), len(of_kind(blocks, Chart))) == (1, 1)
    assert all(", batch 7, " in text for text in of_kind(blocks, Bullets)[-1].items)


def test_a_terminal_of_80_columns_shows_it_all():
    """Four tables without intervals, a mark for what is undecided, and the sentences."""
    undecided = [*CURVES, *curve("scipy", 1.0, ratio=1.01)]
    text = shown(at_equal_error_briefly(undecided))
    tables, _, bullets = text.partition("\n- ")
    assert max(map(len, tables.splitlines())) <= 80
    assert "1.01?" in tables
    assert all(f" 1e-{n}" in tables for n in range(2, 9))
    assert tables.count("not reached: the smallest error is 1e-07, at rtol 1e-07.") == 1
    assert bullets.count("At an error of") == 2


def test_records_of_several_tolerances_are_printed_with_it(capsys):
    """After a run and by `show`; of a single tolerance there is nothing to say."""
    print_records(CURVES)
    assert "At an error of 1e-4" in capsys.readouterr().out
    print_records(CURVES[::3])
    assert "equal error" not in capsys.readouterr().out


def test_the_table_at_equal_memory():
    """For each method without a knob the fastest that fits, or that none does and how much the least takes."""
    (table,) = of_kind(at_equal_memory(FAMILY), Table)
    rows = {row[1].value: [entry.text for entry in row] for row in table.rows}
    assert list(rows) == ["symplectic", "reversible", "direct"]
    assert rows["reversible"][3:6] == ["`checkpoint[checkpoints=4]`", "8", "0.8"]
    assert rows["reversible"][7:] == ["faster", "0.0003", "0.0001"]
    assert rows["symplectic"][3:6] == ["none of `checkpoint[checkpoints]`", "-", "-"]
    bare = [replace(r, n_params=0, grad_error_params=None, grad_error_y0=2e-5) for r in FAMILY]
    (table_y0,) = of_kind(at_equal_memory(bare), Table)
    assert {row[8].text for row in table_y0.rows} == {"2e-05"}
    reasons = [entry.reason for row in table.rows for entry in row if entry.reason]
    assert reasons == ["it needs at least 5 MiB, with `checkpoint[checkpoints=1]`."]


def test_sentences_at_equal_memory():
    """The smallest method within which the family fits, and those within which it does not."""
    (bullets,) = of_kind(at_equal_memory(FAMILY), Bullets)
    fits, too_small = bullets.items
    assert fits.startswith(
        "Within the memory of `reversible`, 8 MiB, at rtol 1e-05, the fastest of `checkpoint[checkpoints]` is "
        "`checkpoint[checkpoints=4]`: 0.8 ("
    )
    assert fits.endswith(") of its time.")
    close = [
        replace(r, ratio=2.01, ratio_low=1.99, ratio_high=2.03) if r.backend == "reversible" else r for r in FAMILY
    ]
    (bullets,) = of_kind(at_equal_memory(close), Bullets)
    assert bullets.items[0].endswith(") of its time, undecided.")
    assert too_small == (
        "`symplectic` (2 MiB) takes less than any of `checkpoint[checkpoints]`, which needs at least 5 MiB."
    )


def test_the_chart_of_time_against_memory_has_a_line_for_a_family():
    """And a mark for each method without a knob."""
    (chart,) = of_kind(at_equal_memory(FAMILY), Chart)
    rows = values(chart)
    series = [row["series"] for row in rows]
    assert series.count("checkpoint[checkpoints]") == 3
    assert series.count("reversible") == series.count("direct") == 1
    assert list(at_equal_memory([FAMILY[0], *FAMILY[3:4]])) == []


def test_the_table_at_equal_memory_fits_80_columns():
    """With both errors, of the tightest tolerance; names fold, figures stay whole."""
    loose = [replace(r, rtol=1e-3, cell_id=f"{r.cell_id}/loose") for r in FAMILY]
    text = shown(at_equal_memory_briefly([*FAMILY, *loose]))
    assert max(map(len, text.splitlines())) <= 80
    assert "rtol 1e-05: at equal memory" in " ".join(text.split())
    assert "0.001" not in text
    assert "0.0003" in text
    assert "(1) it needs at least 5 MiB" in text


def test_a_page_says_it_in_the_section_of_the_task():
    """What there is nothing to say of is left out of it, not shown as missing."""
    machines = Machines.of([*CURVES, *FAMILY], ENVIRONMENTS)
    page = report([*CURVES, *FAMILY], [], machines, lambda _: (), "nodebench report", "now")
    section = next(each for each in page.sections if each.title == "Task cnf")
    names = {block.name for block in of_kind(section.blocks, Table | Chart)}
    assert {"cnf-equal-error-time", "cnf-equal-error-ratio", "cnf-equal-memory", "cnf-equal-memory-time"} <= names
    bare = report(FAMILY[:2], [], Machines.of(FAMILY[:2], ENVIRONMENTS), lambda _: (), "nodebench report", "now")
    told = [block for each in bare.sections for block in of_kind(each.blocks, Missing | Table | Chart)]
    assert not any("equal" in getattr(block, "name", getattr(block, "what", "")) for block in told)


def test_the_text_of_a_study_is_folded():
    """It is as wide as a terminal, whatever it is printed to."""
    text = records_text(CURVES)
    assert "at equal error" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
