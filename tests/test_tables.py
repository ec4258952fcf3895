"""Tables show what a record holds, mark what is undecided, and leave holes where nothing was measured."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from synthetic import early, timed, tracked, trained
from synthetic import record as whole_record

from nodebench import installed, printing, progress
from nodebench.bench.messages import Event
from nodebench.bench.plan import Cell
from nodebench.printing import View, named_one_by_one, print_listing, print_notes, print_records
from nodebench.problem import SolverSpec
from nodebench.reports.answers import answer
from nodebench.reports.comparison import comparisons
from nodebench.reports.document import ABSENT, interval, number
from nodebench.reports.names import ShortNames
from nodebench.reports.tables import (
    answers_table,
    failures_table,
    full_tables,
    gradient_tables,
    summary_table,
    sweep_table,
    tracked_summary,
    tracked_table,
    training_tables,
)
from nodebench.reports.writers.terminal import print_table
from nodebench.results.record import Record

COMMON = {
    "run_id": "r",
    "created_at": "now",
    "nodebench_version": "0",
    "task": "t",
    "model": "m",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "seed": 0,
    "preset": "smoke",
}


def record(backend, **fields):
    return Record(**{**COMMON, "cell_id": backend, "backend": backend, "status": "ok", "first_step_s": 1.0, **fields})


def text(table):
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system=None)
    print_table(table, console)
    return console.file.getvalue()


def test_numbers_have_significant_digits_and_no_needless_exponent():
    """Three digits, whole numbers whole, absence shown."""
    assert [number(x) for x in (0.12345, 12.345, 2461.8, 1.5e-7, None)] == ["0.123", "12.3", "2462", "1.5e-07", ABSENT]
    assert interval(0.16, 0.171, 1000) == "160..171"


def test_an_undecided_ratio_is_marked():
    """The verdict stands in the table, as it stands in the record."""
    control = record("a", step_s=1.0)
    figures = {"control": "a", "ratio": 1.02, "ratio_low": 0.98, "ratio_high": 1.06}
    undecided = record("b", step_s=1.0, verdict="undecided", **figures)
    slower = record("c", step_s=2.0, verdict="slower", **figures | {"ratio": 2.04})
    _, cost, _ = gradient_tables([control, undecided, slower])
    rows = text(cost)
    assert "control" in rows
    assert "undecided" in rows
    assert "slower" in rows


def test_cells_that_were_not_compared_stand_apart():
    """Another tolerance is another set of tables."""
    assert len(gradient_tables([record("a", rtol=1e-3, step_s=1.0), record("b", rtol=1e-5, step_s=1.0)])) == 6


def test_a_controller_stands_in_the_title_where_it_is_not_the_default():
    """Cells of another controller are another table, and say so."""
    default, other = gradient_tables([record("a", controller="integral"), record("a", controller="pi")])
    assert "controller" not in default.caption
    assert "pi controller" in other.caption


def test_a_failed_cell_is_in_both_tables_with_its_reason():
    """It leaves a hole among the figures, and its reason below."""
    failed = record("a", status="oom", reason="no memory", first_step_s=None, cell_id="0123456789ab")
    exactness = text(gradient_tables([failed, record("b")])[0])
    assert "oom" in exactness
    assert ABSENT in exactness
    assert "no memory" in text(failures_table([failed]))
    assert failed.cell_id in text(failures_table([failed]))
    assert "not ok" not in [table.caption for table in full_tables([record("b")])]


def test_a_cell_that_failed_early_is_in_the_tables_of_its_setting():
    """It knows no first step, and makes no pair of tables of its own."""
    failed = record("a", status="unsupported", reason="it cannot", first_step_s=None)
    (exactness,) = gradient_tables([failed, record("b", first_step=0.1, dataset="moons")])
    assert "unsupported" in text(exactness)
    assert "first step 0.1" in exactness.caption


def test_options_in_brackets_are_shown():
    """Brackets are text, not markup."""
    assert "adjoint[norm=seminorm]" in text(gradient_tables([record("adjoint[norm=seminorm]")])[0])


def test_trained_models_show_metric_and_unit():
    """Metric, value and unit stand together; a model that was not trained is left out."""
    trained = record(None, cell_id="x", metric_name="test error", metric_value=4.011, metric_unit="%")
    reached, _ = training_tables([trained, record("b")])
    assert "test error 4.011 %" in text(reached)
    assert training_tables([record("b")]) == []


def test_the_share_of_the_floor_is_shown():
    """A step of 1.23 times its own evaluations and VJPs says so; one without a floor leaves a hole."""
    _, cost, _ = gradient_tables([record("a", step_s=1.0, floor_ratio=1.234), record("b", step_s=1.0)])
    assert "1.23" in text(cost)
    assert text(cost).splitlines()[-2].split()[4] == ABSENT


def test_compilation_has_a_column_where_something_compiled():
    """A comparison of eager cells has none."""
    _, cost, _ = gradient_tables([record("a", step_s=1.0)])
    assert "compile" not in text(cost)
    _, cost, _ = gradient_tables([record("a", step_s=1.0), record("b", step_s=1.0, compile_s=12.34)])
    assert "compile" in text(cost)
    assert "12.3" in text(cost)


def test_a_node_has_a_column_where_there_are_several():
    """Wherever times or failures stand; what is of one node does not name it."""
    sweep = [{"rtol": 0.1, "nfe_forward": 7, "solution_error": 0.1, "forward_s": 0.1, "reason": None}]
    figures = {"metric_name": "m", "metric_value": 1.0, "step_s": 1.0, "tolerance_sweep": sweep}
    figures["tracked_errors"] = tracked(0.1)

    def shown(nodes):
        records = [record(name, node=node, **figures) for name, node in zip("ab", nodes, strict=True)]
        failed = [record(name, node=node, status="oom", reason="r") for name, node in zip("ab", nodes, strict=True)]
        tables = [
            gradient_tables(records)[1],
            training_tables(records)[1],
            sweep_table("sweep", records),
            tracked_table("tracked", records),
            tracked_summary(records),
            failures_table(failed),
        ]
        return [[node in text(table) for node in nodes] for table in tables]

    assert shown(["first", "second"]) == [[True, True]] * 6
    assert shown(["same", "same"]) == [[False, False]] * 6


def test_a_training_that_was_tracked_shows_its_error_at_a_few_moments():
    """The first, the last and some between, of all networks at the same epochs; a hole where there is no error."""
    long = whole_record("direct", tracked_errors=tracked(*(10.0**-n for n in range(13))))
    short = whole_record("adjoint", status="diverged", tracked_errors=tracked(0.5, *[None] * 5, reason="why"))
    shown = tracked_summary([long, short])
    assert [column.title for column in shown.columns] == ["backend", "0", "3", "5", "8", "10", "12"]
    assert [[entry.text for entry in row] for row in shown.rows] == [
        ["direct", "1", "0.001", "1e-05", "1e-08", "1e-10", "1e-12"],
        ["adjoint", "0.5", *[ABSENT] * 5],
    ]
    assert tracked_summary([whole_record("direct")]) is None


def test_every_moment_of_a_training_has_a_row_with_its_reason():
    """A page and `--wide` have them all."""
    table = tracked_table(
        "tracked", [whole_record("adjoint", tracked_errors=tracked(0.5, None, reason="it diverged."))]
    )
    rows = [[entry.text for entry in row[1:]] for row in table.rows]
    assert rows == [
        ["0", "0.5", "0.5", "0.5", "20+21", "1e-09", ABSENT],
        ["1", *[ABSENT] * 5, "it diverged."],
    ]


def test_the_table_of_costs_loses_nothing_on_80_columns():
    """A long name folds; every figure stays whole."""
    figures = {"step_s": 2.4621, "step_s_low": 2.41, "step_s_high": 2.51, "floor_ratio": 1.234, "compile_s": 12.34}
    ratio = {"ratio": 14.3, "ratio_low": 13.1, "ratio_high": 15.2, "verdict": "slower", "control": "a"}
    _, cost, _ = gradient_tables([record("torchdiffeq-adjoint", peak_memory_bytes=900 * 2**20, **figures, **ratio)])
    row = ["900", "12.3", "2462", "2410..2510", "1.23", "14.3", "13.1..15.2", "slower"]
    assert any(line.split()[1:] == row for line in text(cost).splitlines())


MINE = "./a/folder/of/some/length/mine.py:Mine"

TASK = "field[field=/home/a/folder/model.py:ODEFunc,times=0:5:11,y0=64x2]"

LONG = "checkpoint[checkpoints=8,land=true]"


@pytest.fixture
def terminal(monkeypatch):
    """What is printed on a terminal of 80 columns."""
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system=None, highlight=False, emoji=False)
    monkeypatch.setattr(printing, "new_console", lambda **_: console)
    monkeypatch.setattr("nodebench.reports.writers.terminal.new_console", lambda **_: console)

    def shown(*records, **view):
        console.file.seek(0)
        console.file.truncate()
        print_records(records, View(**view))
        return console.file.getvalue()

    shown.console = console
    return shown


def compared(**fields):
    """A comparison of methods with long names, some of which did not end well, with the largest of figures."""
    fields = {"task": TASK, "model": "ODEFunc", "nfe_forward": 12345, "nfe_backward": 123456} | fields
    late = {"control": "torchdiffeq", "peak_memory_bytes": 12345 * 2**20, "grad_error_params": 1.2e-13}
    other = f"model ODEFunc of task {TASK} is written for torch, not for jax."
    records = [
        timed("torchdiffeq", step_s=123.4, **fields),
        timed(MINE, 0.512, **late | fields),
        timed(LONG, 0.999, **late | fields),
        timed("adjoint", 2.0, status="wrong_gradient", reason=f"the gradient error is {'far ' * 60}too large.",
              **late | fields),
        early("diffrax", reason=other, **fields),
        early("jax-odeint", reason=other, **fields),
        early("scipy", "not_installed", reason="no scipy.", **fields),
    ]  # fmt: skip
    return [replace(each, cell_id=f"0123456789{at:02}") for at, each in enumerate(records)]


def widest(text):
    return max(map(len, text.splitlines()))


def test_every_table_fits_80_columns_with_long_names(terminal):
    """Names fold, and figures stay whole; so do those of trainings, of several tolerances and of all figures."""
    moments = tracked(1.2e-13, 0.012, None, *[1.2e-5] * 9, reason="the backward solve did not come to its end.")
    network = trained("cnf", 3.0, MINE, task=TASK, tracked_errors=moments)
    for records in (compared(), [*compared(), *compared(rtol=1e-7, seed=1)], [network]):
        for wide in (False, True):
            shown = terminal(*records, wide=wide)
            assert widest(shown) <= 80
            assert all(f"{name}: " not in shown for name in ("ms", "ratio", "metric"))  # no table fell apart
    table = text(summary_table(comparisons(compared())[0]))
    for figure in ("12345+123456", "1.2e-13", " 12345 ", "0.492..0.532", "wrong_gradient"):
        assert figure in table


def test_what_is_printed_ends_with_the_answer_and_where_the_rest_is(terminal):
    """Three lines, failures with their reasons, one line for all that was not run, one for notes, one for a report."""
    records = compared()
    records[1] = timed(MINE, 0.5, control="torchdiffeq", task=TASK, model="ODEFunc", notes=["one"], differences=["two"])
    shown = " ".join(terminal(*records).split())
    place = [
        shown.index(words)
        for words in ("ratio", "Fastest: mine.py:Mine", "Leanest: ", "Most exact: ", "Choose ",
                      "wrong_gradient: adjoint: ", "(nodebench logs ", "not run: ",
                      "2 notes: nodebench show latest --notes; all figures: ",
                      "report: nodebench report latest --open")
    ]  # fmt: skip
    assert place == sorted(place)
    assert shown.count("not run: ") == 1
    assert (
        "not run: diffrax, jax-odeint: model ODEFunc of task field[field=model.py:ODEFunc,times=0:5:11,y0=64x2] is "
        "written for torch, not for jax; scipy: no scipy" in shown
    )
    assert "folder" not in shown
    assert "far far" in shown
    assert shown.count("far") < 60


def test_the_fastest_comes_first_and_what_did_not_end_well_last(terminal):
    """Unless backends were named one by one: then as they were asked for."""
    cells = [timed("direct"), early("scipy", "oom"), timed("adjoint", 2.0), timed("symplectic", 0.5)]
    names = ("direct", "scipy", "adjoint", "symplectic")

    def order(**view):
        rows = [line.split()[0] for line in terminal(*cells, **view).splitlines() if line.split()[:1]]
        return [row for row in rows if row in names]

    assert order() == ["symplectic", "direct", "adjoint", "scipy"]
    assert order(in_order=True) == ["direct", "adjoint", "symplectic", "scipy"]
    assert named_one_by_one("nodebench run -b direct,adjoint -t cnf")
    assert named_one_by_one("nodebench run --backend=direct -t cnf")
    assert not named_one_by_one("nodebench run -b direct,all -t cnf")
    assert not named_one_by_one("nodebench run -b direct --backend all")
    assert not named_one_by_one("python script.py")


def test_evaluations_alone_are_one_table_of_what_there_is(terminal):
    """No column and no table of dashes."""
    shown = terminal(
        *(whole_record(name, nfe_forward=20, nfe_backward=n) for n, name in ((0, "direct"), (20, "adjoint")))
    )
    assert "20+20" in shown
    assert "Fewest evaluations, forward and backward: direct, 20." in shown
    assert not {"MiB", "ms", "ratio", ABSENT} & set(shown.split())


def test_several_settings_end_with_their_answers(terminal):
    """A row for each, with what they differ in, and three lines for all."""
    cells = [
        timed(name, ratio, rtol=rtol, atol=rtol)
        for rtol in (1e-3, 1e-5)
        for name, ratio in (("direct", None), ("adjoint", 2.0))
    ]
    shown = terminal(*cells)
    table = answers_table([answer(each) for each in comparisons(cells)])
    assert [column.title for column in table.columns if not column.further] == [
        "rtol", "fastest", "leanest", "most exact", "Pareto front"
    ]  # fmt: skip
    assert [row[0].text for row in table.rows] == ["0.001", "1e-05"]
    assert shown.index("ratio") < shown.index("The answer in every setting.") < shown.index("Fastest: direct in all 2.")


def test_settings_that_follow_from_others_have_no_column():
    """Where the task tells all apart, its solver and tolerance need not."""
    cells = [timed(name, ratio, task=task, rtol=rtol) for task, rtol in (("cnf", 1e-3), ("mnist", 1e-5))
             for name, ratio in (("direct", None), ("adjoint", 2.0))]  # fmt: skip
    table = answers_table([answer(each) for each in comparisons(cells)])
    assert [column.title for column in table.columns][:2] == ["task", "fastest"]


def test_what_one_of_several_settings_compares_is_the_answer(terminal):
    """Of one method in each nothing can be said, of two in one of them all that can."""
    alone = [timed("direct", rtol=rtol, atol=rtol) for rtol in (1e-3, 1e-5)]
    assert "No two methods were measured in any of 2 settings, so nothing was compared." in terminal(*alone)
    shown = terminal(*alone, timed("adjoint", 2.0, rtol=1e-3, atol=1e-3))
    assert "Fastest: direct, 10 ms." in shown
    assert "The answer in every setting." not in shown


def test_paths_are_shortened_where_that_says_which_file_is_meant():
    """Two files of one name keep their folders."""
    short = ShortNames.of([MINE, TASK, "old/step.py:Step", "new/step.py:Step", "direct", None])
    assert short(f"{MINE} on {TASK}") == "mine.py:Mine on field[field=model.py:ODEFunc,times=0:5:11,y0=64x2]"
    assert short("old/step.py:Step") == "old/step.py:Step"
    nested = ShortNames.of(["site/mine.py:Mine"])
    assert nested("site/mine.py:Mine (/home/a/site/mine.py, line 3)") == "mine.py:Mine (/home/a/site/mine.py, line 3)"


def test_notes_name_what_they_are_of(terminal):
    """Each once, with the task and all backends that it is of."""
    terminal()
    print_notes([timed("direct", notes=["direct: it waited."]), timed("adjoint", 2.0, differences=["it lands."]),
                 timed("scipy", 3.0, differences=["it lands."])])  # fmt: skip
    assert terminal.console.file.getvalue().splitlines()[-2:] == [
        "cnf: direct: it waited.", "cnf: adjoint, scipy: it lands."
    ]  # fmt: skip


def test_a_listing_splits_no_word(terminal):
    """Where a table has no room for its words, each name has a paragraph."""
    for rows in (
        installed.backends(),
        installed.solvers(),
        [{"name": "n", "options": "a=" + "b" * 60, "summary": "s " * 50}],
    ):
        terminal()
        print_listing("things", rows)
        shown = terminal.console.file.getvalue()
        assert widest(shown) <= 80
        words = {word.replace("`", "") for row in rows for value in row.values() for word in value.split()}
        assert [word for word in words if len(word) < 50 and word not in shown.replace("`", "")] == []


@pytest.mark.parametrize("status", ["unsupported", "not_installed", "oom"])
def test_what_was_not_run_is_not_announced_one_by_one(status):
    """The end of the run names all in one line; a failure is told at once."""
    cell = Cell(task="t", model="m", backend="scipy", framework="torch", spec=SolverSpec(), device="cpu",
                threads=1, seed=0, preset="smoke", batch_size=1)  # fmt: skip
    event = Event("record", status, cell, record=early("scipy", status))
    console = Console(file=StringIO(), width=80)
    progress.PlainDisplay(console, 2)(event)
    with progress.Bars(console=console) as bars:
        progress.LiveDisplay(bars, 2)(event)
    assert console.file.getvalue().count("it cannot") == (2 if status == "oom" else 0)
