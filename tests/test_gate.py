"""The gate names what has become worse, in which cell, and passes what it cannot tell."""

from dataclasses import replace
from math import exp, log

import pytest

from nodebench.errors import UserError
from nodebench.gating.baseline import Baseline, BaselineCell
from nodebench.gating.compare import compare
from nodebench.gating.thresholds import Thresholds, read_thresholds, slowdown

CELL = BaselineCell(
    cell_id="a",
    task="cnf[dataset=moons]",
    model="cnf",
    backend="adjoint[norm=seminorm]",
    solver="dopri5",
    rtol=1e-3,
    environment="here",
    preset="smoke",
    dataset="moons",
    n_params=10,
    field_value=0.123456789,
    field_derivative=-20.0,
    first_step=0.1,
    nfe_forward=100,
    nfe_backward=200,
    n_rejected=0,
    peak_memory_bytes=100 * 2**20,
    unreleased_bytes=600,
    saved_bytes=1000,
    grad_error_params=1e-3,
    grad_error_times=1e-3,
    method_error_params=2e-7,
    step_s=0.1,
    ratio=2.0,
    ratio_low=1.98,
    ratio_high=2.02,
    n_starts=4,
    control="direct",
)
HERE = {"cpu": "one", "git": {"commit": "x"}, "libraries": {"torch": "2", "nodebench": "0"}}


def figures(*cells, environment=HERE):
    return Baseline("b", {cell.cell_id: cell for cell in cells}, {"here": environment})


def gate(thresholds=Thresholds(), old=CELL, **changes):  # noqa: B008  frozen
    """A cell compared with itself but for the changes."""
    return compare(figures(old), figures(replace(old, **changes)), thresholds)


def told(found):
    """Verdicts other than `same`, by metric."""
    return {finding.metric: finding.verdict for finding in found.findings if finding.verdict != "same"}


def ratio(estimate, half=0.01):
    """Fields of a ratio whose interval reaches so far on both sides, relatively."""
    return {"ratio": estimate, "ratio_low": estimate * exp(-half), "ratio_high": estimate * exp(half)}


def test_the_same_figures_pass():
    """Nothing is said, and the exit code is 0."""
    found = gate()
    assert told(found) == {}
    assert (found.exit_code, found.n_compared) == (0, 1)
    assert found.summary == "passed: 1 cell compared; nothing has changed"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nfe_forward": 101}, {"nfe_forward": "regression"}),
        ({"nfe_backward": 199}, {"nfe_backward": "improvement"}),
        ({"n_rejected": 1}, {"n_rejected": "regression"}),
        ({"saved_bytes": 1001}, {"saved_bytes": "regression"}),
        ({"peak_memory_bytes": 101 * 2**20}, {}),
        ({"peak_memory_bytes": 102 * 2**20}, {"peak_memory_bytes": "regression"}),
        ({"unreleased_bytes": 60_000}, {}),
        ({"unreleased_bytes": 2**20}, {"unreleased_bytes": "regression"}),
        ({"grad_error_params": 1.09e-3}, {}),
        ({"grad_error_params": 1.2e-3}, {"grad_error_params": "regression"}),
        ({"grad_error_times": 1.09e-3}, {}),
        ({"grad_error_times": 1.2e-3}, {"grad_error_times": "regression"}),
        ({"method_error_params": 2e-6}, {}),
        ({"method_error_params": 3e-6}, {"method_error_params": "regression"}),
        ({"n_vjps": 3}, {"n_vjps": "new"}),
        ({"nfe_forward": None}, {"nfe_forward": "missing"}),
    ],
)
def test_exact_figures_are_gated_in_their_bands(changes, expected):
    """Counters to the last one; memory and errors beyond what repeats of one and the same measurement may differ by."""
    found = gate(**changes)
    assert told(found) == expected
    assert found.exit_code == (1 if "regression" in expected.values() else 0)


def test_a_lower_cost_with_a_less_exact_gradient_is_traded():
    """It is named and no improvement, whether or not there are other tolerances to compare at."""
    found = gate(nfe_forward=90, peak_memory_bytes=90 * 2**20, grad_error_params=2e-3, **ratio(1.5))
    traded = dict.fromkeys(("nfe_forward", "peak_memory_bytes", "time"), "traded")
    assert told(found) == traded | {"grad_error_params": "regression"}
    assert found.summary == "failed: 1 cell compared; 1 regression, 3 traded"
    assert "But grad_error_params has become larger" in found.of("traded")[0].reason
    assert told(gate(nfe_forward=90, grad_error_params=1.05e-3)) == {"nfe_forward": "improvement"}


def test_a_new_failure_is_a_regression():
    """It is named with its reason, and figures that a failed cell cannot have are not counted as missing."""
    nothing = {"nfe_forward": None, "nfe_backward": None, "step_s": None, "ratio": None}
    found = gate(status="oom", reason="no room.", **nothing)
    assert told(found) == {"status": "regression"}
    assert found.of("regression")[0].reason == "no room."


def test_failures_are_ranked():
    """What was refused politely and now crashes is a regression, what works again an improvement."""
    verdicts = {
        ("unsupported", "failed"): "regression",
        ("failed", "ok"): "improvement",
        ("oom", "unsupported"): "improvement",
        ("oom", "timeout"): "changed",
    }
    for (before, after), verdict in verdicts.items():
        assert told(gate(old=replace(CELL, status=before), status=after))["status"] == verdict


def test_only_an_interval_beyond_the_limit_is_a_slowdown():
    """Of the same estimate, a narrow interval is a regression and a wide one undecided, which passes."""
    narrow, wide = gate(**ratio(2.4)), gate(**ratio(2.4, half=0.3))
    assert told(narrow) == {"time": "regression"}
    assert told(wide) == {"time": "undecided"}
    assert (narrow.exit_code, wide.exit_code) == (1, 0)
    assert "or its control, direct, has become faster" in narrow.of("regression")[0].reason
    assert told(gate(**ratio(2.05))) == {}
    assert told(gate(**ratio(1.5))) == {"time": "improvement"}
    assert told(gate(read_thresholds(max_slowdown="50%"), **ratio(2.4))) == {}


def test_an_undecided_comparison_says_how_many_starts_would_decide():
    """As many as make the interval narrower than the estimate's distance from the limit."""
    reason = gate(**ratio(2.4, half=0.3)).of("undecided")[0].reason
    assert "1.2 times what it was" in reason
    found = slowdown(CELL, replace(CELL, **ratio(2.4, half=0.3)))
    more = found.starts_needed(0.1)
    assert f"About {more} more starts would decide" in reason
    # Nearly all the width is the candidate's: 0.3 / sqrt(n / 4) must come below log(1.2 / 1.1).
    assert 4 + more == pytest.approx(4 * (0.3 / log(1.2 / 1.1)) ** 2, rel=0.1)


def test_no_number_of_starts_helps_at_the_limit():
    """Nor where the baseline itself is too uncertain."""
    assert "it is at the limit" in gate(**ratio(2.2, half=0.1)).of("undecided")[0].reason
    vague = replace(CELL, **ratio(2.0, half=0.5))
    assert "baseline's own interval is too wide" in gate(old=vague, **ratio(2.4)).of("undecided")[0].reason


def test_the_errors_of_two_runs_add_up():
    """Welch's interval of two equal ones: as many starts on both sides, twice the variance, twice the degrees."""
    found = slowdown(CELL, CELL)
    half = log(CELL.ratio_high / CELL.ratio_low) / 2
    assert found.ratio == pytest.approx(1)
    assert log(found.high) == pytest.approx(half / 3.182 * 2.447 * 2**0.5, rel=1e-3)


def test_a_paired_ratio_is_the_slowdown_itself():
    """Both versions took turns in one run: the baseline contributes no error of its own."""
    paired = gate(paired=True, control="adjoint of main", **ratio(1.2))
    finding = paired.of("regression")[0]
    assert (finding.metric, finding.old, finding.new) == ("time", 1.0, 1.2)
    assert "control" not in finding.reason


def test_ratios_to_different_controls_cannot_be_compared():
    """Exit code 2, with both controls in the reason; a regression elsewhere still makes it 1."""
    found = gate(control="adjoint")
    assert told(found) == {"time": "incomparable"}
    assert found.exit_code == 2
    assert "to direct in the baseline and to adjoint in the candidate" in found.of("incomparable")[0].reason
    assert gate(control="adjoint", nfe_forward=101).exit_code == 1
    alone = {"control": None, "ratio": None, "ratio_low": None, "ratio_high": None}
    assert "to none in the candidate" in gate(**alone).of("incomparable")[0].reason


def test_the_control_itself_is_not_gated_by_time():
    """Its times in two runs say nothing; they are shown as undecided."""
    control = replace(CELL, control=None, ratio=None, ratio_low=None, ratio_high=None)
    assert told(gate(old=control, step_s=0.2)) == {"step_s": "undecided"}
    assert told(gate(old=CELL, step_s=None, ratio=None, control=None)) == {"time": "missing"}
    assert "no interval" in gate(ratio_low=None, ratio_high=None).of("undecided")[0].reason


def test_another_problem_is_not_compared():
    """Where data, weights or first step differ, figures of equal settings are not those of one problem."""
    found = gate(dataset="circles", nfe_forward=999)
    assert told(found) == {"cell": "incomparable"}
    assert found.exit_code == 2
    assert "dataset moons against circles" in found.of("incomparable")[0].reason


@pytest.mark.parametrize(
    ("changes", "told_as"),
    [
        ({"field_value": 0.12346}, "the field's value at fixed points 0.123457 against 0.12346"),
        ({"field_derivative": -20.003}, "the field's derivative at fixed points -20 against -20.003"),
        ({"field_value": -0.123456789}, "0.123457 against -0.123457"),
        ({"field_value": 0.0}, "0.123457 against 0"),
        ({"field_value": 0.1234568}, None),
        ({"field_derivative": -20.001}, None),
        ({"field_value": None, "field_derivative": None}, None),
    ],
)
def test_another_field_is_not_compared(changes, told_as):
    """However much better it may be; what differs by rounding, or an older version did not know, is compared."""
    other, better = replace(CELL, **changes), replace(CELL, nfe_forward=90)
    for found in (gate(nfe_forward=90, **changes), compare(figures(other), figures(better), Thresholds())):
        if told_as is None:
            assert told(found) == {"nfe_forward": "improvement"}
        else:
            assert (told(found), found.exit_code) == ({"cell": "incomparable"}, 2)
    if told_as is not None:
        reason = gate(**changes).of("incomparable")[0].reason
        assert reason.startswith("it is not the same problem: the field's ")
        assert told_as in reason


def test_a_field_that_is_zero_differs_by_rounding_alone():
    """No relative difference means anything there."""
    still = replace(CELL, field_value=1e-17, field_derivative=0.0)
    assert told(gate(old=still, field_value=-3e-16, field_derivative=1e-12)) == {}
    assert told(gate(old=still, field_value=1e-7)) == {"cell": "incomparable"}


def test_what_is_known_not_to_be_comparable_is_not_compared():
    """The conditions that two versions were measured under are known to those who measured them."""
    found = compare(figures(CELL), figures(replace(CELL, nfe_forward=1)), Thresholds(), {"a": "weights x against y"})
    assert told(found) == {"cell": "incomparable"}
    assert "not the same problem: weights x against y." in found.of("incomparable")[0].reason


def test_missing_and_new_cells_are_named():
    """They pass; a missing one fails where that is asked for."""
    other = replace(CELL, cell_id="b", backend="direct")
    found = compare(figures(CELL, other), figures(CELL), Thresholds())
    assert [(finding.cell.backend, finding.verdict) for finding in found.of("missing")] == [("direct", "missing")]
    assert found.exit_code == 0
    assert compare(figures(CELL, other), figures(CELL), Thresholds(missing_fails=True)).exit_code == 1
    assert compare(figures(CELL), figures(CELL, other), Thresholds()).of("new")[0].cell == other


NO_TIME = {"step_s": None, "ratio": None, "ratio_low": None, "ratio_high": None, "control": None}


@pytest.mark.parametrize(
    ("lost", "metric", "reason"),
    [
        ({"nfe_forward": None}, "nfe_forward", "the baseline has it, the candidate does not."),
        ({"peak_memory_bytes": None}, "peak_memory_bytes", "the baseline has it, the candidate does not."),
        (
            {"grad_error_params": None, "notes": ["slow.", "no grad_error_params of adjoint: the reference is coarse"]},
            "grad_error_params",
            "the candidate does not: no grad_error_params of adjoint: the reference is coarse.",
        ),
        (
            {"method_error_params": None, "notes": ["no method_error: direct in float64: it has no room"]},
            "method_error_params",
            "the candidate does not: no method_error: direct in float64: it has no room.",
        ),
        (NO_TIME, "time", "it was not timed."),
        ({"ratio": None, "ratio_low": None, "ratio_high": None}, "time", "the baseline has a ratio to direct"),
        ({**NO_TIME, "paired": True}, "time", "it was not timed."),
    ],
)
def test_a_figure_that_vanishes_is_missing(lost, metric, reason):
    """Of a cell that ended well: it is named with what its record says of it, and fails where what is missing does."""
    for thresholds, verdict in ((Thresholds(), "missing"), (Thresholds(missing_fails=True), "regression")):
        found = gate(thresholds, **lost)
        assert told(found) == {metric: verdict}
        assert reason in found.of(verdict)[0].reason
        assert found.exit_code == (verdict == "regression")
    failed = gate(Thresholds(missing_fails=True), status="oom", reason="no room.", **lost)
    assert told(failed) == {"status": "regression"}


def test_nothing_in_common_cannot_be_compared():
    """Exit code 2, with the settings that differ."""
    found = compare(figures(CELL), figures(replace(CELL, cell_id="b", preset="quick")), Thresholds())
    assert found.exit_code == 2
    assert "preset smoke against quick" in found.summary
    assert compare(figures(), figures(CELL), Thresholds()).problem == "the baseline has no cells."


def test_unlike_machines_are_told():
    """All that differs but the versions that are being compared."""
    there = {"cpu": "two", "git": {"commit": "y"}, "libraries": {"torch": "3", "nodebench": "1"}}
    found = compare(figures(CELL), figures(CELL, environment=there), Thresholds())
    assert found.unlike == ("cpu: one against two", "libraries.torch: 2 against 3")


def write(tmp_path, text):
    path = tmp_path / "nodebench.toml"
    path.write_text(text)
    return path


def test_bands_are_set_by_metric_task_and_backend(tmp_path):
    """A rule holds for a task or backend by its bare name or with its options; of several the last does."""
    path = write(
        tmp_path,
        """
        [gate]
        max_slowdown = 0.2
        missing = "fail"
        [gate.metrics.peak_memory_bytes]
        band = "5%"
        [gate.metrics.n_accepted]
        ignore = true
        [[gate.rules]]
        metric = "time"
        task = "cnf"
        band = "30%"
        [[gate.rules]]
        metric = "time"
        task = "cnf"
        backend = "adjoint[norm=full]"
        band = "40%"
        """,
    )
    found = read_thresholds(path)
    assert found.missing_fails
    assert found.band("peak_memory_bytes", "mnist", "direct").relative == 0.05
    assert found.band("n_accepted", "mnist", None).ignored
    slowdowns = [("mnist", "direct"), ("cnf[dataset=moons]", "direct"), ("cnf", "adjoint[norm=full]")]
    assert [found.band("time", *names).relative for names in slowdowns] == [0.2, 0.3, 0.4]
    # A rule of a cell that is spelled out is of that cell, however it is spelled, and of no other.
    spelled = [("cnf", "adjoint"), ("cnf", "adjoint[norm=seminorm]")]
    assert [found.band("time", *names).relative for names in spelled] == [0.4, 0.3]
    assert read_thresholds(path, "1%").band("time", "mnist", "direct").relative == 0.01
    assert told(gate(found, nfe_forward=101, peak_memory_bytes=104 * 2**20)) == {"nfe_forward": "regression"}


def test_the_file_of_the_working_directory_is_read(tmp_path, monkeypatch):
    """`nodebench.toml` counts where it lies; nothing there means the bands as they are."""
    monkeypatch.chdir(tmp_path)
    assert read_thresholds() == Thresholds()
    write(tmp_path, "[gate]\nmax_slowdown = '3%'\n")
    assert read_thresholds().band("time", "a", "b").relative == 0.03


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gate]\nmax_slowdwn = 1", "unknown key `gate.max_slowdwn`; did you mean `max_slowdown`?"),
        ("[gates]", "unknown key `gates`; did you mean `gate`?"),
        ("[gate.metrics.peak_memory_byte]\nband = 1", "did you mean 'peak_memory_bytes'"),
        ("[gate.metrics.time]\nbnd = 1", "unknown key `gate.metrics.time.bnd`; did you mean `band`?"),
        ("[[gate.rules]]\nmetric = 'time'\nbackand = 'x'", "did you mean `backend`?"),
        ("[[gate.rules]]\nband = 1", "`gate.rules.0.metric`: Field required."),
        ("[gate]\nmax_slowdown = 'a lot'", "`gate.max_slowdown`: must be a number or a percentage"),
        ("[gate]\nmax_slowdown = -1", "`gate.max_slowdown`: Input should be greater than or equal to 0."),
        ("[gate]\nmissing = 'maybe'", "`gate.missing`: Input should be 'pass' or 'fail'."),
        ("[gate", "is not TOML"),
        ("[gate]\nmax_slowdown = 10", '`gate.max_slowdown`: 10 is 1000%; write "10%" or "1000%", whichever is meant.'),
        ("[gate.metrics.time]\nband = true", "`gate.metrics.time.band`: must be a number or a percentage"),
        ("[gate.metrics.time]\nabsolute = 0.2", "`absolute` means nothing for `time`"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, text, message):
    """With the file, the key and what would be right."""
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_thresholds(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_configuration_that_is_not_there_is_an_error(tmp_path):
    """Only where it was asked for."""
    with pytest.raises(UserError, match="there is no file"):
        read_thresholds(tmp_path / "none.toml")
    with pytest.raises(UserError, match=r"`--max-slowdown`: `gate\.max_slowdown`: must be a number"):
        read_thresholds(max_slowdown="much")


def test_a_configuration_in_another_encoding_is_refused(tmp_path):
    """It is no TOML, which is UTF-8."""
    path = tmp_path / "nodebench.toml"
    path.write_bytes(b"# \xe4\n[gate]\n")
    with pytest.raises(UserError, match="is not TOML"):
        read_thresholds(path)


def test_a_wrong_option_is_not_blamed_on_the_file(tmp_path):
    """Nor a wrong file overlooked where the option is given."""
    path = write(tmp_path, "[gate]\nmissing = 'fail'\n")
    with pytest.raises(UserError, match=r"^`--max-slowdown`: `gate\.max_slowdown`: must be a number"):
        read_thresholds(path, "much")
    path = write(tmp_path, "gate = 3\n")
    with pytest.raises(UserError, match=r"nodebench\.toml`: `gate`"):
        read_thresholds(path, "10%")


LINEAR = replace(CELL, cell_id="l", task="linear", backend="direct", ratio=None, ratio_low=None, ratio_high=None)
"""The control of another task, which has no ratio."""


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        ("metric = 'time'\ntask = 'cnff'", "unknown task 'cnff'; did you mean 'cnf'?"),
        ("metric = 'time'\ntask = 'mnist'", "no cell is of the task mnist; there are: cnf[dataset=moons], linear."),
        ("metric = 'time'\ntask = 'cnf[dataset=x]'", "no cell is of the task cnf[dataset=x]; there are: cnf["),
        ("metric = 'time'\nbackend = 'ajoint'", "unknown backend 'ajoint'; did you mean 'adjoint'"),
        ("metric = 'time'\nbackend = 'symplectic'", "no cell is of the backend symplectic; there are: adjoint["),
        (
            "metric = 'time'\nbackend = './mine.py:Mine'",
            "no cell is of the backend ./mine.py:Mine; there are: adjoint[",
        ),
        ("metric = 'time'\ntask = 'linear'\nbackend = 'adjoint'", "no cell is of the task linear and the backend adj"),
        ("metric = 'grad_error_y0'", "no cell that it is for has grad_error_y0."),
        ("metric = 'time'\ntask = 'linear'", "no cell that it is for has time."),
        ("metric = 'time_at_error'", "has time_at_error, which takes several tolerances of a method."),
    ],
)
def test_a_rule_that_holds_for_nothing_is_named(tmp_path, rule, note):
    """By its place, with the name that no cell has, or what the cells lack; the comparison itself passes."""
    path = write(tmp_path, f"[[gate.rules]]\nmetric = 'nfe_forward'\nband = 0.1\n[[gate.rules]]\n{rule}\nband = 0.5\n")
    found = compare(figures(CELL, LINEAR), figures(CELL, LINEAR), read_thresholds(path))
    assert (found.exit_code, len(found.notes)) == (0, 1)
    assert found.notes[0].startswith("rule 2 in [[gate.rules]] (metric ")
    assert note in found.notes[0].partition(" holds for nothing here: ")[2]


@pytest.mark.parametrize(
    "rule",
    [
        "metric = 'time'\ntask = 'cnf'\nband = 0.5",
        "metric = 'time'\nbackend = 'adjoint[norm=seminorm]'\nignore = true",
        "metric = 'n_vjps'\nbackend = 'direct'\nband = 0.5",
    ],
)
def test_a_rule_that_holds_for_a_figure_is_not_named(tmp_path, rule):
    """Ignored though it is, or known to one side alone."""
    found = read_thresholds(write(tmp_path, f"[[gate.rules]]\n{rule}\n"))
    assert compare(figures(CELL, LINEAR), figures(CELL, replace(LINEAR, n_vjps=3)), found).notes == ()


def test_a_rule_at_equal_error_holds_for_several_tolerances(tmp_path):
    """Of a method; and `gate.metrics`, which is meant for whatever there is, is no such rule."""
    path = write(
        tmp_path, "[gate.metrics.grad_error_y0]\nband = 0.2\n[[gate.rules]]\nmetric = 'time_at_error'\nband = 0.3\n"
    )
    tight = replace(CELL, cell_id="t", rtol=1e-5)
    assert compare(figures(CELL, tight), figures(CELL, tight), read_thresholds(path)).notes == ()


def test_brackets_that_hold_no_options_are_a_name(tmp_path):
    """A benchmark of somebody else's is compared under rules for tasks like any cell."""
    path = write(tmp_path, "[[gate.rules]]\nmetric = 'nfe_forward'\ntask = 'cnf'\nignore = true\n")
    old = replace(CELL, task="test_a.py::test_a[1]::b")
    assert told(gate(read_thresholds(path), old, nfe_forward=101)) == {"nfe_forward": "regression"}


def test_nothing_measured_fails_where_what_is_missing_does():
    """The exit code and the summary say the same."""
    found = compare(figures(CELL), figures(), Thresholds(missing_fails=True))
    assert (found.exit_code, found.summary) == (1, "failed: the candidate has no cells.")
