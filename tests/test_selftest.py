"""The harness finds what was planted into it, and says so when it does not. Needs no torch and no JAX."""

import json
from dataclasses import replace

import pytest

from nodebench.bench import selftest
from nodebench.bench.selftest import FAKE, PlantedSlowdown, SelfTest, n_planted, run_selftest, smallest_effect
from nodebench.bench.timing import Interval
from nodebench.errors import UserError

SOUND = SelfTest(
    workload="w",
    n_comparisons=40,
    n_alarms=2,
    alarm_low=0.006,
    alarm_high=0.17,
    slowdowns=(PlantedSlowdown(0.02, 0, 5, 1.01), PlantedSlowdown(0.2, 5, 5, 1.2)),
    leak_bytes=2**20 + 100,
    clean_bytes=600,
    wrong_gradient="wrong_gradient",
    smallest_effect=0.04,
)


@pytest.mark.quiet
def test_a_selftest_finds_what_was_planted(monkeypatch):
    """A leak to the byte, a wrong gradient; all figures are there, from the least number of starts."""
    monkeypatch.setattr(selftest, "BUDGET_S", 0.1)
    found = run_selftest(FAKE, 1, lambda _: None)
    assert found.n_comparisons == 1
    assert 2**20 <= found.leak_bytes < 1.1 * 2**20
    assert found.clean_bytes < 2**16
    assert found.wrong_gradient == "wrong_gradient"
    assert [planted.slowdown for planted in found.slowdowns] == [0.02, 0.05, 0.1, 0.2]
    assert found.smallest_effect > 0
    assert json.loads(json.dumps(found.to_dict()))["n_alarms"] == found.n_alarms


def test_a_sound_harness_has_no_problems():
    """Small slowdowns may be missed; the rate of false alarms need only be compatible with the nominal one."""
    assert SOUND.problems == []
    assert n_planted(40) == 5


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_alarms": 12, "alarm_low": 0.17, "alarm_high": 0.46}, "rate of false alarms is 30%"),
        ({"slowdowns": (PlantedSlowdown(0.2, 4, 5, 1.1),)}, "caught 4 times of 5 only"),
        ({"leak_bytes": 900}, "read as 900 bytes"),
        ({"clean_bytes": 2**20}, "planted leak"),
        ({"wrong_gradient": "ok"}, "was called `ok`"),
    ],
)
def test_an_unsound_harness_says_what_is_wrong(changes, problem):
    """One sentence for each."""
    assert problem in replace(SOUND, **changes).problems[0]


def test_the_smallest_effect_grows_with_the_noise():
    """Intervals twice as wide see effects about twice as large: (3.18 + 0.98) standard errors of the log ratio."""
    one = smallest_effect([Interval(1.0, 1 / 1.0318, 1.0318)])
    assert one == pytest.approx(0.0416, rel=0.03)
    assert smallest_effect([Interval(1.0, 1 / 1.0647, 1.0647)]) == pytest.approx(2 * one, rel=0.05)


def test_no_comparison_is_no_selftest():
    """Refused before anything starts."""
    with pytest.raises(UserError, match="at least 1"):
        run_selftest(FAKE, 0, lambda _: None)
