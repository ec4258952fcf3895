"""All cells of a group are judged by one reference, whatever their order and whatever is kept. Needs no torch."""

import os
from pathlib import Path

import pytest

from nodebench import registry
from nodebench.bench.matrix import Request, plan
from nodebench.bench.request import Settings
from nodebench.bench.runner import Runner
from nodebench.results.store import Store

QUICK = Settings(rounds=1, timeout_s=60)
ERRORS = ("grad_error_params", "grad_error_y0", "reference_error_params", "reference", "forward_error")


@pytest.fixture(autouse=True)
def _workers_find_the_fakes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def measure(tmp_path, *options, settings=QUICK, backend="rough:Midpoint", **changes):
    """Records of the midpoint rule by its options, and what was told of reference gradients."""
    names = {registry.canonical("backend", f"{backend}[{text}]"): text for text in options}
    common = {"tasks": ("rough:Opaque",), "measure": "gradient", "preset": "smoke"}
    request = Request(**{"backends": tuple(names), **common, **changes})
    store, events = Store(tmp_path / "results.db"), []
    run_id = Runner(store, settings, events.append).run(plan(request), "test", {})
    told = [event.text for event in events if event.text.startswith("reference")]
    return {names[record.backend]: record for record in store.records([run_id])}, told


def stated(records):
    """Errors by cell, and what they are stated against."""
    return {name: [getattr(record, error) for error in ERRORS] for name, record in records.items()}


def test_a_reference_is_no_finer_than_is_needed(tmp_path):
    """It is refined until it is a hundred times more accurate than the cell, a level at a time, and no further."""
    records, told = measure(tmp_path, "steps=4")
    record = records["steps=4"]
    assert told == ["reference gradient", "reference gradient, refinement 1", "reference gradient, refinement 2"]
    assert "step 0.00781, compared" in record.reference
    assert record.grad_error_params >= 100 * record.reference_error_params > 0
    assert record.grad_error_y0 >= 100 * record.reference_error_y0 > 0


def test_equal_gradients_have_equal_errors(tmp_path):
    """Two cells of the same discretisation tie, though one that needs a finer reference stands between them."""
    records, _ = measure(tmp_path, "steps=1", "steps=4", "steps=1,slow_from=99")
    found = stated(records)
    assert found["steps=1"] == found["steps=1,slow_from=99"]


def test_errors_depend_neither_on_the_order_nor_on_what_is_kept(tmp_path):
    """The same cells the other way round, and a single one beside the fine references of earlier runs."""
    one_way = stated(measure(tmp_path, "steps=1", "steps=4")[0])
    assert stated(measure(tmp_path, "steps=4", "steps=1")[0]) == one_way
    alone, _ = measure(tmp_path, "steps=1")
    assert "step 0.0312, compared" in alone["steps=1"].reference


def test_an_error_beyond_the_finest_reference_is_not_stated(tmp_path):
    """Where the task's own reference is too coarse, the error is a hole with its reason."""
    records, told = measure(tmp_path, "steps=64")
    assert (records["steps=64"].status, len(told)) == ("ok", 4)
    assert records["steps=64"].grad_error_params is None
    assert any("no grad_error_params of rough:Midpoint[steps=64]" in note for note in records["steps=64"].notes)


def test_a_solution_is_judged_by_a_better_one(tmp_path):
    """A reference is refined while its own solution may be as far from the truth as the check allows."""
    records, told = measure(tmp_path, "steps=1", rtols=(1e-5,), atol=1e-5)
    assert len(told) == 3
    assert records["steps=1"].status == "incomparable"


def test_a_solution_that_no_reference_can_judge_is_not_judged(tmp_path):
    """What is nearer to the truth than the finest reference is not called incomparable, and a note says why."""
    records, told = measure(tmp_path, "steps=900", rtols=(1e-9,), atol=1e-9, dtype="float64")
    record = records["steps=900"]
    assert (record.status, record.forward_error, len(told)) == ("ok", None, 4)
    assert any("no forward_error" in note and "not 10 times better" in note for note in record.notes)


def test_a_refinement_that_takes_too_long_is_named(tmp_path):
    """The levels before it are used, and where they do not suffice the note tells of the time-out."""
    settings = Settings(rounds=1, timeout_s=3)
    records, told = measure(tmp_path, "steps=4", settings=settings, backend="rough:StuckMidpoint")
    record = records["steps=4"]
    assert len(told) == 3
    assert "step 0.0156, compared" in record.reference
    (note,) = (note for note in record.notes if "no grad_error_params" in note)
    assert "reference took longer than 3 s" in note


def test_a_solution_of_another_size_is_one_failed_row(tmp_path):
    """It cannot be compared, and the others are none the worse."""
    records, _ = measure(tmp_path, "steps=4", "steps=4,longer=true")
    assert records["steps=4"].status == "ok"
    assert records["steps=4,longer=true"].status == "failed"
    assert "`solve` must return states of shape (2, 3)" in records["steps=4,longer=true"].reason
