"""A quantity is declared once, and is then everywhere; here the last that was added, `grad_cosine_params`."""

import json
import re
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from synthetic import ENVIRONMENT, ENVIRONMENTS, record

from nodebench import __version__
from nodebench.bench.reference import continuous_errors
from nodebench.bench.saved import Reference
from nodebench.errors import StoreError
from nodebench.gating.baseline import Baseline, BaselineCell
from nodebench.gating.compare import compare
from nodebench.gating.outputs import baseline_tables, gate_entries
from nodebench.gating.probe import protocol
from nodebench.gating.thresholds import METRICS, Thresholds
from nodebench.problem import SolverSpec
from nodebench.reports.comparison import comparisons
from nodebench.reports.tables import comparison_table, gradient_tables
from nodebench.results.quantities import CATALOGUE, HOW_TAKEN, Band, bands, how_taken
from nodebench.results.record import Measurement, columns
from nodebench.results.store import Store

NAME = "grad_cosine_params"


def titles(table):
    return [column.title for column in table.columns]


def column(table, title):
    at = titles(table).index(title)
    return [row[at] for row in table.rows]


@pytest.mark.parametrize(("gradient", "expected"), [((3.0, 4.0), 1.0), ((-6.0, -8.0), -1.0), ((-4.0, 3.0), 0.0)])
def test_it_is_the_cosine_of_the_angle(gradient, expected):
    """Of all parameters as one vector, whatever the length."""
    reference = Reference(np.ones(1), {"a": np.array([3.0]), "b": np.array([4.0])}, "")
    found = Reference(np.ones(1), {"a": np.array(gradient[:1]), "b": np.array(gradient[1:])}, "")
    assert continuous_errors(found, reference, SolverSpec()).grad_cosine_params == pytest.approx(expected)


def test_what_points_nowhere_has_none():
    """Nor has a field without parameters, nor what is judged by a reference that does not know the gradient."""
    zero, some = ({"a": np.full(2, value)} for value in (0.0, 1.0))
    for found, exact, error in ((zero, some, 0.0), (some, zero, 0.0), ({}, {}, 0.0), (some, some, 0.5)):
        reference = Reference(np.ones(1), exact, "", params_error=error)
        measured = continuous_errors(Reference(np.ones(1), found, ""), reference, SolverSpec())
        assert measured.grad_cosine_params is None


def test_it_is_a_column_of_the_store_and_a_key_of_json(tmp_path):
    """A store that was made before it was declared gains the column, empty."""
    path = tmp_path / "s.db"
    old, new = record("a"), record("b", grad_cosine_params=0.987654321)
    Store(path).append(old)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"ALTER TABLE records DROP COLUMN {NAME}")
    Store(path).append(new)
    assert columns()[NAME] == "REAL"
    assert Store(path, read_only=True).records() == [old, new]
    assert [json.loads(json.dumps(each.to_dict()))[NAME] for each in (old, new)] == [None, 0.987654321]


def test_a_store_with_a_quantity_that_is_not_known_is_refused(tmp_path):
    """It is of a newer version, and what that has measured must not be lost."""
    path = tmp_path / "s.db"
    Store(path).append(record("a", nodebench_version="9.9"))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE records ADD COLUMN grad_angle_params REAL")
    said = f"of a newer nodebench, 9.9: it has grad_angle_params, which this one, {__version__}, does not know"
    with pytest.raises(StoreError, match=re.escape(said)):
        Store(path, read_only=True)


def test_it_has_columns_where_its_declaration_says():
    """In reports, on a terminal and of a baseline; the highest is the best, and no column where no cell has it."""
    cells = [record("a", grad_cosine_params=0.5, first_step_s=1.0), record("b", first_step_s=1.0, nfe_forward=7)]
    exactness = gradient_tables(cells)[0]
    assert [entry.text for entry in column(exactness, "cos dp")] == ["0.5", "-"]
    [compared] = comparisons(cells)
    assert "cosine d/dparams" in titles(comparison_table("t", compared))
    assert "cos dp" not in titles(gradient_tables(cells[1:])[0])
    kept = Baseline.from_records("r", cells, ENVIRONMENTS)
    assert [entry.text for entry in column(baseline_tables(kept)[0], "cos dp")] == ["0.5", "-"]


def test_the_gate_holds_it_and_more_is_better():
    """A cosine that falls is a regression, one that rises an improvement, and within its band it is the same."""

    def verdict(old, new):
        sides = [
            Baseline(
                name, {"c": BaselineCell(cell_id="c", task="t", model="m", grad_cosine_params=value)}, {"": ENVIRONMENT}
            )
            for name, value in (("old", old), ("new", new))
        ]
        found = compare(*sides, Thresholds())
        return next(each.verdict for each in found.findings if each.metric == NAME)

    assert verdict(0.9, 0.5) == "regression"
    assert verdict(0.5, 0.9) == "improvement"
    assert verdict(0.9, 0.8995) == "same"


def test_a_file_of_what_is_better_if_smaller_leaves_it_out():
    """`customSmallerIsBetter` would call a fall an improvement."""
    cell = BaselineCell(cell_id="c", task="t", model="m", grad_cosine_params=0.9, nfe_forward=7)
    entries = gate_entries(compare(*(Baseline("f", {"c": cell}, {"": ENVIRONMENT}) for _ in range(2)), Thresholds()))
    assert [entry["name"] for entry in entries] == [f"{cell.label}: nfe_forward"]


def test_another_version_may_lack_it():
    """Its workers speak the same protocol, and what it says of a cell is joined to what is known."""
    assert "Measurement" not in protocol()
    foreign = Measurement(nfe_forward=7)
    vars(foreign).pop("notes")
    vars(foreign)["grad_angle_params"] = 0.1
    assert Measurement(loss=1.0).joined(foreign).known == {"loss": 1.0, "nfe_forward": 7}


@pytest.mark.parametrize(
    ("band", "unit", "text"),
    [
        (Band(), "steps", "none: exact"),
        (Band(relative=0.01, absolute=2**16), "bytes", "1 %, at least 64 KiB"),
        (Band(absolute=0.001, epsilons=16), "cosine", "0.001, at least 16 roundings"),
    ],
)
def test_a_band_says_how_wide_it_is(band, unit, text):
    """In the unit of the quantity."""
    assert band.text(unit) == text


def test_a_record_is_made_of_parts():
    """Each is a value of its own, with the fields that the record has."""
    found = record("a", step_s=2.0, nfe_forward=7, metric_value=0.5)
    assert found.settings.backend == "a"
    assert (found.gradient.nfe_forward, found.timing.step_s, found.training.metric_value) == (7, 2.0, 0.5)
    assert (found.machine.node, found.outcome.status) == (found.node, "ok")
    parts = (found.settings, found.outcome, found.machine, found.gradient, found.timing, found.training)
    own = {"run_id", "created_at", "nodebench_version", "attempt"}
    assert {name for part in parts for name in vars(part)} | own == vars(found).keys()


def test_each_quantity_says_what_it_is():
    """A sentence, a group that says how it is taken, a band with its reason; the tables of docs/ have them."""
    for name, said in CATALOGUE.items():
        assert said.meaning.endswith("."), name
        assert said.group in ("", *HOW_TAKEN), name
        assert (said.band is None) == (not said.because), name
        assert {said.own_error, *(said.ends or ())} <= {"", *CATALOGUE}, name
    assert {f"`{name}`" for names, _, _ in bands() for name in names.replace("`", "").split(", ")} == {
        f"`{metric}`" for metric in METRICS
    }
    assert any(f"`{NAME}`" in fields for _, fields, _ in how_taken())
