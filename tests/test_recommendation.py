"""Which method is recommended, by figures that are known, and why the others are not."""

from dataclasses import replace

import pytest
from synthetic import record

from nodebench.errors import UserError
from nodebench.recommending import _is_open
from nodebench.reports.recommendation import Wishes, code, recommendation, relative_time


def cell(backend, rtol=1e-5, **fields):
    """A cell of which all is known, with a time that is known to a per cent."""
    step_s = fields.pop("step_s", 0.01)
    found = {
        "grad_error_params": 1e-5,
        "grad_error_y0": 1e-5,
        "n_params": 10,
        "nfe_forward": 13,
        "nfe_backward": 0,
        "n_vjps": 12,
        "peak_memory_bytes": 2**20,
        "first_step_s": 0.1,
        "control": "torchdiffeq",
        "ratio": step_s / 0.01,
        "ratio_low": step_s / 0.0101,
        "ratio_high": step_s / 0.0099,
        "step_s": step_s,
        "step_s_low": 0.99 * step_s,
        "step_s_high": 1.01 * step_s,
        "n_starts": 6,
    }
    return record(backend, rtol=rtol, atol=rtol, **{**found, **fields})


STUDY = [
    cell("direct", 1e-3, grad_error_params=1e-2, step_s=0.004),
    cell("direct", 1e-5, grad_error_params=1e-4, step_s=0.008),
    cell("direct", 1e-7, grad_error_params=1e-6, step_s=0.016),
    cell("adjoint", 1e-3, grad_error_params=1e-3, step_s=0.012, peak_memory_bytes=2**16),
    cell("adjoint", 1e-5, grad_error_params=1e-5, step_s=0.03, peak_memory_bytes=2**16),
    cell("torchdiffeq", 1e-3, grad_error_params=0.5),
    cell("torchdiffeq", 1e-5, grad_error_params=2e-3, control=None, ratio=None, ratio_low=None, ratio_high=None),
    record("diffrax", status="unsupported", reason="the field is written for torch."),
]


def test_each_method_is_taken_where_it_is_exact_enough_and_cheapest():
    """The fastest of them comes first, with the line of code that uses it."""
    found = recommendation(STUDY, Wishes.of(error=1e-4))
    assert [(choice.record.backend, choice.record.rtol) for choice in found.choices] == [
        ("direct", 1e-5),
        ("adjoint", 1e-5),
    ]
    assert found.code == ('nodebench.odeint(field, y0, t, gradient="direct", method="dopri5", rtol=1e-05, atol=1e-05)')
    assert found.choices[1].verdict.startswith("slower: 3.75 (")
    reasons = {each.name: each.reason for each in found.lost}
    assert reasons["torchdiffeq"] == "too inexact at any tolerance tried (0.001 to 1e-05): 0.002 at best"
    assert reasons["diffrax"] == "unsupported: the field is written for torch"


def test_costs_at_the_error_itself_are_interpolated():
    """Between the tolerances that were tried, of the methods that are on both sides of it."""
    found = recommendation(STUDY, Wishes.of(error=1e-3))
    assert "At an error of 0.001 itself, interpolated between tolerances: `direct` 13 evaluations" in found.at_error
    assert "`adjoint` 13 evaluations, 0.0625 MiB, 12 ms" in found.at_error
    assert "5.657 ms" in found.at_error  # half way between 4 and 8 in the logarithm
    assert "torchdiffeq" not in found.at_error
    assert recommendation(STUDY, Wishes.of(error=1e-9)).at_error == ""


def test_memory_and_time_are_limits_too():
    """What exceeds one is not chosen, by how much it does."""
    lean = recommendation(STUDY, Wishes.of(error=1e-4, memory="0.5 MiB"))
    assert [choice.record.backend for choice in lean.choices] == ["adjoint"]
    assert {each.name: each.reason for each in lean.lost}["direct"] == "too much memory: 1 MiB"
    fast = recommendation(STUDY, Wishes.of(error=1e-4, time="10ms"))
    assert [choice.record.backend for choice in fast.choices] == ["direct"]
    assert {each.name: each.reason for each in fast.lost}["adjoint"] == "too slow: 30 ms"


def test_who_comes_nearest_to_a_wish_that_nobody_meets_is_named():
    """By the factor by which it misses it."""
    found = recommendation(STUDY, Wishes.of(error=1e-7))
    assert not found.choices
    assert found.lost[0].name == "direct"
    assert found.lost[0].misses == pytest.approx(10)
    assert (
        "The nearest is `direct`: too inexact at any tolerance tried (0.001 to 1e-07): 1e-06 at best." in found.answer
    )
    assert found.code == ""
    assert "The nearest is\n  direct: too inexact" in repr(found)


def test_methods_that_cannot_be_told_apart_are_said_to_be_so():
    """The interval of their ratio holds 1."""
    pair = [cell("direct", step_s=0.010), cell("checkpoint", step_s=0.01005)]
    found = recommendation(pair, Wishes.of())
    assert found.choices[1].verdict.startswith("undecided: ")
    assert "do not tell it from `checkpoint`" in found.answer
    ratio = relative_time(pair[1], pair[0])
    assert ratio.low < 1 < ratio.high


def test_an_untimed_study_is_ranked_by_evaluations():
    """And the answer says so."""
    names = ("step_s", "step_s_low", "step_s_high", "ratio", "ratio_low", "ratio_high", "control")
    pair = cell("adjoint", nfe_backward=31), cell("direct")
    records = [replace(each, **dict.fromkeys(names)) for each in pair]
    found = recommendation(records, Wishes.of(error=1e-4))
    assert [choice.record.backend for choice in found.choices] == ["direct", "adjoint"]
    assert "nothing was timed" in found.answer


def test_rules_of_thumb_are_judged_by_the_figures():
    """One that holds, one that does not; without figures none."""
    pair = [
        cell("torchdiffeq", step_s=0.03, peak_memory_bytes=2**22),
        cell("torchdiffeq-adjoint", step_s=0.01, peak_memory_bytes=2**18),
    ]
    lean, slow = recommendation(pair, Wishes.of()).rules
    assert lean.holds
    assert "0.25 MiB against 4" in lean.because
    assert not slow.holds
    assert "does not hold" in repr(recommendation(pair, Wishes.of()))
    assert recommendation(pair[:1], Wishes.of()).rules == ()
    untimed = replace(pair[0], step_s=None, control=None)
    assert [rule.source for rule in recommendation([untimed, pair[1]], Wishes.of()).rules] == ["torchdiffeq's README"]


def test_it_fits_80_columns():
    """However long the names are."""
    records = [cell("checkpoint[checkpoints=16]"), cell("adjoint[compile=true,norm=seminorm]", step_s=0.02)]
    lines = repr(recommendation(records, Wishes.of(error=1e-4))).splitlines()
    assert max(len(line) for line in lines if "nodebench.odeint" not in line) <= 80


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        ({"error": 0}, r"`error` must be a positive number; got 0"),
        ({"error": float("nan")}, r"`error` must be"),
        (
            {"memory": "200 apples"},
            r"`memory` must be a positive number with a unit \(b, kb, .*gib\); got '200 apples'",
        ),
        ({"memory": "-1MiB"}, r"`memory` must be"),
        ({"time": "soon"}, r"`time` must be a positive number with a unit \(us, ms, s\)"),
    ],
)
def test_a_wish_that_is_none_is_a_sentence(wishes, sentence):
    """Before anything is measured."""
    with pytest.raises(UserError, match=sentence):
        Wishes.of(**wishes)


def test_wishes_have_units():
    """Bytes and seconds where none is named."""
    wishes = Wishes.of(memory="1.5 GiB", time="250us")
    assert (wishes.memory_bytes, wishes.time_s) == (3 * 2**29, pytest.approx(250e-6))
    assert Wishes.of(memory=1000, time=0.5) == Wishes(memory_bytes=1000, time_s=0.5)
    assert Wishes.of(memory="2MB").memory_bytes == 2_000_000


def test_records_of_two_problems_have_no_answer():
    """Nor have records without a gradient."""
    with pytest.raises(UserError, match=r"for one problem; these records are of several: cnf/cnf, spiral/ode"):
        recommendation([cell("direct"), cell("direct", task="spiral", model="ode")], Wishes.of())
    with pytest.raises(UserError, match=r"there is no gradient"):
        recommendation([STUDY[-1]], Wishes.of())


def test_a_jax_method_is_used_by_its_backend():
    """With all that its solve is told."""
    assert code(cell("diffrax[checkpoints=8]", framework="jax")) == (
        'nodebench.backend("diffrax[checkpoints=8]").solve(field, y0, t, nodebench.SolverSpec(solver="dopri5", '
        "rtol=1e-05, atol=1e-05, max_steps=1000))"
    )


def test_a_method_is_tried_at_tighter_tolerances_while_that_helps():
    """Until it is exact enough, cannot be measured, or two tolerances have gained nothing."""

    def tried(*errors, **last):
        rows = [cell("direct", 10.0**-at, grad_error_params=error) for at, error in enumerate(errors, start=3)]
        return [*rows[:-1], replace(rows[-1], **last)]

    assert _is_open(tried(1e-1, 1e-2), 1e-4)
    assert not _is_open(tried(1e-1, 1e-5), 1e-4)
    assert not _is_open(tried(1e-1, status="unsupported"), 1e-4)
    assert _is_open(tried(1e-1, 2e-1, 1e-2), 1e-4)
    assert not _is_open(tried(1e-2, 1e-2, 1e-2), 1e-4)
