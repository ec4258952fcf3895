"""The gradient's error along a training is that of each moment's weights, or a hole with its reason. Needs no torch."""

import os
from math import exp
from pathlib import Path

import pytest

from nodebench import registry
from nodebench.bench.matrix import Request, plan
from nodebench.bench.request import Settings
from nodebench.bench.runner import Runner
from nodebench.errors import UserError
from nodebench.options import GateOptions, RunOptions
from nodebench.results.store import Store

TRACKED = {"track_error": 3, "timeout_s": 60, "max_grad_error": 0.02}


def train(folder, *options, settings=TRACKED, **changes):
    """Records of trainings by the midpoint rule's options; the rate goes from 0.18 to 0.7 in three epochs."""
    names = {registry.canonical("backend", f"rough:Midpoint[{text}]"): text for text in options}
    common = {"tasks": ("rough:Opaque",), "measure": "training", "preset": "smoke", "seeds": (3,)}
    request = Request(**{"backends": tuple(names), **common, **changes})
    store = Store(folder / "results.db")
    run_id = Runner(store, Settings(**settings), lambda _: None).run(plan(request), "test", {})
    return {names.get(record.backend, record.backend): record for record in store.records([run_id])}


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory):
    """One step, eight and 64 of a method, which errs the less the more there are, and one that cannot go on."""
    with pytest.MonkeyPatch.context() as changed:  # workers find the fakes
        changed.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        yield train(tmp_path_factory.mktemp("tracked"), "steps=1", "steps=8", "steps=64", "steps=1,limit=0.6")


def column(record, name):
    """One figure of a training, moment by moment."""
    return [entry[name] for entry in record.tracked_errors]


def test_the_error_is_that_of_the_weights_of_its_moment(trained):
    """It is the true one at the initial weights and grows with the rate; that of a finer method stays small."""
    coarse, fine = trained["steps=1"], trained["steps=8"]
    assert column(coarse, "epoch") == column(fine, "epoch") == [0, 1, 2, 3]
    rate, errors = 0.17708425, column(coarse, "grad_error_y0")
    assert errors[0] == pytest.approx(1 - (1 + rate + rate**2 / 2) / exp(rate), rel=0.02)
    assert errors[0] < errors[1] < errors[2]
    assert errors[-1] > 20 * errors[0]
    assert max(column(fine, "grad_error_params")) < 0.001
    for entry in (*coarse.tracked_errors, *fine.tracked_errors):
        assert entry["grad_error_params"] >= 100 * entry["reference_error_params"] > 0
        assert entry["grad_error_y0"] >= 100 * entry["reference_error_y0"] > 0
        assert (entry["nfe_forward"], entry["nfe_backward"]) == (7, 5)


def test_a_wrong_gradient_is_named_and_the_cell_is_as_it_was(trained):
    """A moment that is above the limit says so beside its figures; it is the training that has a status."""
    reasons = column(trained["steps=1"], "reason")
    assert reasons[0] is None
    assert "is 0.03" in reasons[-1]
    assert "above the limit of 0.02" in reasons[-1]
    assert column(trained["steps=8"], "reason") == [None] * 4
    assert (trained["steps=1"].status, trained["steps=1"].reason) == ("ok", None)


def test_an_error_beyond_the_reference_is_a_hole_with_its_reason(trained):
    """Evaluations stand all the same, and the reference's own error says how near it came."""
    for entry in trained["steps=64"].tracked_errors:
        assert entry["grad_error_params"] is None
        assert "no grad_error_params" in entry["reason"]
        assert "not 100 times better" in entry["reason"]
        assert (entry["nfe_forward"], entry["reference_error_params"] > 0) == (7, True)


def test_a_moment_at_which_the_method_fails_has_its_reason(trained):
    """Others have their figures, and the training went on to its end."""
    failing = trained["steps=1,limit=0.6"]
    assert failing.tracked_errors[0] == trained["steps=1"].tracked_errors[0]
    assert failing.status == "ok"
    assert failing.metric_value == trained["steps=1"].metric_value
    for entry in failing.tracked_errors[1:]:
        figures = {name: value for name, value in entry.items() if name not in ("epoch", "reason")}
        assert set(figures.values()) == {None}
        assert entry["reason"].startswith("no step is short enough for a rate of 0.6")


def test_tracking_leaves_the_cell_and_its_training_as_they_are(trained, tmp_path):
    """The same cell with the same result; where it is not asked for there are no moments."""
    plain = train(tmp_path, "steps=1", settings={"timeout_s": 60})["steps=1"]
    tracked = trained["steps=1"]
    assert (plain.cell_id, plain.metric_value) == (tracked.cell_id, tracked.metric_value)
    assert plain.tracked_errors == []


def test_a_closed_form_judges_the_weights_that_it_is_of(trained, tmp_path):
    """A task tells the gradient of its initial weights alone; trained ones have a reference that is solved."""
    told, without = train(tmp_path, "steps=1", tasks=("rough:Clear",), models=("growth", "constant")).values()
    assert column(told, "reference_error_params")[0] == 0
    assert min(column(told, "reference_error_params")[1:]) > 0
    errors = column(told, "grad_error_params")
    assert errors == pytest.approx(column(trained["steps=1"], "grad_error_params"), rel=0.02)
    assert (without.status, without.tracked_errors) == ("ok", [])  # a model that solves no ODE


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"track_error": -1}, "must be at least 1"),
        ({"track_error": 1.5}, "`track_error` must be a whole number"),
        ({"track_error": 2, "measure": "gradient"}, "take `--measure training` or `both`"),
        ({"track_error": 2, "field": "model.py:Field", "y0": "2"}, "take `--measure training` or `both`"),
    ],
)
def test_what_cannot_be_tracked_is_refused(given, told):
    """In a sentence that says what to do."""
    with pytest.raises(UserError, match=told):
        RunOptions(**given)


def test_a_comparison_of_versions_tracks_nothing():
    """It measures the gradient alone."""
    with pytest.raises(UserError, match="take `--measure training` or `both`"):
        GateOptions("baseline.json", track_error=1)
