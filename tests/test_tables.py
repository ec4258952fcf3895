"""Tables show what a record holds, mark what is undecided, and leave holes where nothing was measured."""

from io import StringIO

from rich.console import Console

from nodebench.reports.document import ABSENT, interval, number
from nodebench.reports.tables import (
    failures_table,
    full_tables,
    gradient_tables,
    sweep_table,
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

    def shown(nodes):
        records = [record(name, node=node, **figures) for name, node in zip("ab", nodes, strict=True)]
        failed = [record(name, node=node, status="oom", reason="r") for name, node in zip("ab", nodes, strict=True)]
        tables = [
            gradient_tables(records)[1],
            training_tables(records)[1],
            sweep_table("sweep", records),
            failures_table(failed),
        ]
        return [[node in text(table) for node in nodes] for table in tables]

    assert shown(["first", "second"]) == [[True, True]] * 4
    assert shown(["same", "same"]) == [[False, False]] * 4


def test_the_table_of_costs_loses_nothing_on_80_columns():
    """A long name folds; every figure stays whole."""
    figures = {"step_s": 2.4621, "step_s_low": 2.41, "step_s_high": 2.51, "floor_ratio": 1.234, "compile_s": 12.34}
    ratio = {"ratio": 14.3, "ratio_low": 13.1, "ratio_high": 15.2, "verdict": "slower", "control": "a"}
    _, cost, _ = gradient_tables([record("torchdiffeq-adjoint", peak_memory_bytes=900 * 2**20, **figures, **ratio)])
    row = ["900", "12.3", "2462", "2410..2510", "1.23", "14.3", "13.1..15.2", "slower"]
    assert any(line.split()[1:] == row for line in text(cost).splitlines())
