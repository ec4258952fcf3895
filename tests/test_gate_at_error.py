"""The gate at equal error: faster by being less exact is no improvement, and what was reached must stay reached."""

import json
from dataclasses import replace

import pytest
from synthetic import ENVIRONMENTS, RTOLS, curve

from nodebench.gating.baseline import Baseline, loads
from nodebench.gating.compare import compare, update
from nodebench.gating.outputs import gate_entries, gate_junit, gate_markdown
from nodebench.gating.thresholds import Thresholds, default_band, read_thresholds

CONTROL = curve("direct", 1.0)


def method(factor=1.0, ratio=1.5, **fields):
    """The records of a method with an error of `factor` times the tolerance, and of its control."""
    return [*CONTROL, *curve("adjoint", factor, ratio=ratio, **fields)]


OLD = method()


def baseline(records, *, paired=False):
    return Baseline.from_records("b", records, ENVIRONMENTS, paired=paired)


def gate(old, new, thresholds=Thresholds()):  # noqa: B008  frozen
    return compare(baseline(old), baseline(new), thresholds)


def told(found, backend="adjoint"):
    """Verdicts at errors that are not `same`, by metric."""
    return {
        each.metric: each.verdict
        for each in found.findings
        if each.derived and each.verdict != "same" and each.cell.backend == backend
    }


def at(found, metric):
    """What is said of a figure of the method."""
    return next(each for each in found.findings if each.metric == metric and each.cell.backend == "adjoint")


def cheaper(records, by):
    """The same with all costs a factor lower, the errors as they are."""
    costs = ("step_s", "step_s_low", "step_s_high", "ratio", "ratio_low", "ratio_high")
    return [
        replace(r, **{name: getattr(r, name) / by for name in costs}, nfe_forward=round(r.nfe_forward / by))
        if r.backend == "adjoint"
        else r
        for r in records
    ]


def test_nothing_is_said_where_nothing_has_changed():
    """Of each error that is reached on both sides there is a finding, and all are the same."""
    found = gate(OLD, OLD)
    assert found.exit_code == 0
    assert found.summary == "passed: 6 cells compared; 3 undecided"  # the control's own times
    names = {each.metric for each in found.findings if each.derived and each.cell.backend == "adjoint"}
    powers = [f"1e-{n}" for n in range(3, 8)]
    assert names == {f"{kind} at error {power}" for kind in ("time", "NFE", "bytes") for power in powers}
    assert at(found, "time at error 1e-4").cell.label == "cnf/cnf/adjoint dopri5 dtype float64"


def test_faster_by_being_less_exact_is_no_improvement():
    """A loosened tolerance under the same name: all costs fall, and at equal error nothing has."""
    found = gate(OLD, method(factor=10.0))
    assert found.exit_code == 1
    costs = ("time", "nfe_forward", "peak_memory_bytes")
    lower = [each for each in found.findings if each.metric in costs and each.cell.backend == "adjoint"]
    assert {each.verdict for each in lower} == {"traded"}
    assert all("grad_error_params has become larger" in each.reason for each in lower)
    assert not found.of("improvement")
    assert told(found) == {"reaching error 1e-7": "regression"}
    assert at(found, "time at error 1e-4").new == pytest.approx(1.0, abs=0.01)
    assert at(found, "reaching error 1e-7").reason == "the smallest error is 1e-06."


def test_slower_by_being_more_exact_is_no_regression_at_equal_error():
    """The costs of each tolerance have risen, and the error is worth it."""
    found = gate(OLD, method(factor=0.1))
    assert "regression" not in told(found).values()
    assert told(found)["reaching error 1e-8"] == "improvement"
    assert "undecided" not in {verdict for metric, verdict in told(found).items() if metric.endswith("1e-5")}


@pytest.mark.parametrize(("by", "verdict"), [(0.8, "regression"), (1.25, "improvement")])
def test_costs_that_have_changed_at_equal_error_are_found(by, verdict):
    """Time by the rule for slowdowns, evaluations beyond their band."""
    found = gate(OLD, cheaper(OLD, by))
    for metric in ("time at error 1e-4", "NFE at error 1e-4"):
        assert told(found)[metric] == verdict
        assert at(found, metric).new / at(found, metric).old == pytest.approx(1 / by, rel=1e-3)
    assert "times what it was" in at(found, "time at error 1e-4").reason


@pytest.mark.parametrize(
    ("metric", "lost", "reason"),
    [
        ("bytes", {"peak_memory_bytes": None}, "lacks peak_memory_bytes."),
        ("NFE", {"nfe_backward": None}, "lacks nfe_forward or nfe_backward."),
        ("time", {"step_s": None, "ratio": None}, "lacks step_s."),
    ],
)
def test_a_cost_that_vanishes_at_an_error_is_missing(tmp_path, metric, lost, reason):
    """The cells say so; where their own figures are ignored, those at the errors between their tolerances do."""
    new = [replace(r, **lost) if (r.backend, r.rtol) == ("adjoint", RTOLS[-1]) else r for r in OLD]
    assert "missing" not in told(gate(OLD, new)).values()
    assert gate(OLD, new, Thresholds(missing_fails=True)).exit_code == 1
    path = tmp_path / "nodebench.toml"
    ignored = ("time", "nfe_forward", "nfe_backward", "peak_memory_bytes")
    own = "".join(f"{name}_at_error.band = 0.5\n" for name in ("time", "nfe", "bytes"))
    path.write_text("[gate.metrics]\n" + "".join(f"{name}.ignore = true\n" for name in ignored) + own)
    thresholds = read_thresholds(path)
    missing = {f"{metric} at error 1e-{n}": "missing" for n in (6, 7)}
    # Between its two looser tolerances nothing is lost.
    found = gate(OLD, new, thresholds)
    assert {name: verdict for name, verdict in told(found).items() if verdict == "missing"} == missing
    assert reason in found.of("missing")[0].reason
    assert gate(OLD, new, replace(thresholds, missing_fails=True)).exit_code == 1


def test_what_is_less_exact_and_cheaper_even_so_is_told():
    """It has become better at equal error, and worse at each tolerance: a baseline takes nothing of it over."""
    worse = [replace(r, grad_error_params=1.5 * r.grad_error_params) if r.backend == "adjoint" else r for r in OLD]
    found = gate(OLD, cheaper(worse, 2.0))
    assert told(found)["time at error 1e-4"] == told(found)["NFE at error 1e-4"] == "improvement"
    assert {each.metric for each in found.findings if each.verdict == "traded"} == {"time", "nfe_forward"}
    assert not found.may_be_raised
    assert "baseline update" not in gate_markdown(found)


def test_a_wide_interval_is_undecided():
    """It passes, and says what would help."""
    found = gate(OLD, cheaper(method(error=0.1), 0.9))
    assert told(found)["time at error 1e-5"] == "undecided"
    assert "--budget-s" in at(found, "time at error 1e-5").reason


def test_an_error_within_its_band_decides_nothing():
    """A smallest error that moves across a power of ten by a hundredth was not lost, and costs a little more."""
    old, new = method(factor=0.999), method(factor=1.01)
    assert told(gate(old, new)) == {}
    assert told(gate(new, old)) == {}


def test_the_machines_drift_drops_out_where_the_errors_are_what_they_were():
    """A control whose times at other tolerances are others moves nothing: the ratios are what they were."""
    there = [replace(r, step_s=r.step_s * (1 + at)) for at, r in enumerate(CONTROL)]
    found = gate(OLD, [*there, *OLD[3:]])
    assert told(found) == {}
    assert at(found, "time at error 1e-4").new == pytest.approx(1.0)


def test_where_the_errors_have_moved_the_controls_time_relates_the_tolerances():
    """The candidate needs a tighter tolerance for the same error, which costs what it costs the control."""
    worse = [replace(r, grad_error_params=10 * r.grad_error_params) if r.backend == "adjoint" else r for r in OLD]
    found = at(gate(OLD, worse), "time at error 1e-4")
    assert found.new == pytest.approx(10**0.2, rel=1e-3)
    assert (found.verdict, found.old) == ("regression", 1.0)


def test_versions_that_took_turns_are_compared_through_the_other_version():
    """The ratio of each cell is to the very same cell of the other version."""
    old = curve("adjoint", 1.0)
    worse = [
        replace(r, ratio=1.0, ratio_low=0.99, ratio_high=1.01, control="adjoint of main", grad_error_params=10 * e)
        for r, e in ((r, r.grad_error_params) for r in old)
    ]
    found = compare(baseline(old), baseline(worse, paired=True), Thresholds())
    assert at(found, "time at error 1e-4").new == pytest.approx(10**0.2, rel=1e-3)
    assert told(found)["time at error 1e-4"] == "regression"


def test_a_control_is_not_gated_by_time():
    """Its evaluations and bytes are."""
    found = gate(OLD, OLD)
    names = {each.metric.partition(" ")[0] for each in found.findings if each.derived and each.cell.backend == "direct"}
    assert names == {"NFE", "bytes"}


def test_a_tolerance_that_was_not_measured_says_nothing():
    """Nor does an error that is not stated, which may be too small for its reference."""
    assert told(gate(OLD, [r for r in OLD if r.rtol != 1e-7])) == {}
    unstated = [replace(r, grad_error_params=None) if r.rtol == 1e-7 else r for r in OLD]
    assert told(gate(OLD, unstated)) == {}


def test_a_tolerance_that_fails_is_no_point_any_more():
    """What only it reached is lost."""
    failed = [
        replace(r, status="diverged", reason="NaN.", grad_error_params=None, ratio=None, step_s=None)
        if (r.backend, r.rtol) == ("adjoint", 1e-7)
        else r
        for r in OLD
    ]
    lost = {metric: verdict for metric, verdict in told(gate(OLD, failed)).items() if metric.startswith("reaching")}
    assert lost == {"reaching error 1e-6": "regression", "reaching error 1e-7": "regression"}


def test_one_tolerance_has_no_curve():
    """Nothing is said at errors then."""
    one = [r for r in OLD if r.rtol == 1e-5]
    assert not [each for each in gate(one, one).findings if each.derived]


def test_another_problem_has_no_curve_either():
    """Cells that cannot be compared are no points."""
    found = gate(OLD, [replace(r, n_params=7) for r in OLD])
    assert found.exit_code == 2
    assert not [each for each in found.findings if each.derived]


def test_bands_at_errors_are_set_like_others(tmp_path):
    """Time follows `time` unless it has a rule of its own; figures can be ignored."""
    path = tmp_path / "nodebench.toml"
    path.write_text("[gate]\nmax_slowdown = 0.5\n[gate.metrics.nfe_at_error]\nignore = true\n")
    found = read_thresholds(path)
    assert found.band("time_at_error", "cnf", "adjoint").relative == 0.5
    assert default_band("time_at_error") == default_band("time")
    assert default_band("bytes_at_error") == default_band("peak_memory_bytes")
    assert told(gate(OLD, cheaper(OLD, 0.8), found)) == {}
    path.write_text("[gate.metrics.time]\nignore = true\n")
    kinds = {metric.partition(" ")[0] for metric in told(gate(OLD, cheaper(OLD, 0.8), read_thresholds(path)))}
    assert kinds == {"NFE"}


def test_a_baseline_file_has_what_it_takes():
    """The figures of cells are enough, as they are read from a file."""
    read = loads("b", json.loads(baseline(OLD).dumps()))
    found = compare(read, baseline(cheaper(OLD, 0.8)), Thresholds())
    assert told(found)["time at error 1e-4"] == "regression"


def test_what_is_derived_is_not_taken_over():
    """It follows from figures that are; what was traded is taken over only with what has become worse."""
    old, new = baseline(OLD), baseline(method(factor=10.0))
    found = compare(old, new, Thresholds())
    kept, accepted = (update(old, new, found, accept_regressions=accept) for accept in (False, True))
    assert kept.taken == ()
    assert not [each for each in (*kept.left, *accepted.taken) if each.derived]
    ids = [r.cell_id for r in OLD if r.backend == "adjoint"]
    assert [accepted.baseline.cells[i].nfe_forward for i in ids] == [new.cells[i].nfe_forward for i in ids]
    assert [kept.baseline.cells[i] for i in ids] == [old.cells[i] for i in ids]


def test_figures_at_errors_are_written():
    """In Markdown, JUnit's XML and JSON, under the name of the method without a tolerance."""
    found = gate(OLD, cheaper(OLD, 0.8))
    name = "cnf/cnf/adjoint dopri5 dtype float64"
    assert f"| regression | `{name}` | `time at error 1e-4` |" in gate_markdown(found)
    assert f'classname="{name}" name="NFE at error 1e-4"' in gate_junit(found)
    entries = {entry["name"]: entry for entry in gate_entries(found)}
    assert entries[f"{name}: time at error 1e-4"]["value"] == pytest.approx(1.25, rel=1e-3)
    assert {f"cnf/cnf/adjoint dopri5 rtol {rtol:g} dtype float64: time" for rtol in RTOLS} <= entries.keys()
