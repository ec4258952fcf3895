"""At equal memory a family is asked for its fastest member that is no larger than a method without a knob."""

import pytest
from synthetic import timed

from nodebench.results.equal_cost import time_ratio
from nodebench.results.equal_memory import equal_memory, families

MIB = 2**20


def cell(backend, mib, ratio=None, **fields):
    """A cell of so much memory, in four starts."""
    return timed(backend, ratio, peak_memory_bytes=round(mib * MIB), n_starts=4, **fields)


CELLS = [
    cell("direct", 100),
    cell("checkpoint", 20, 1.4),
    cell("checkpoint[checkpoints=2]", 4, 4.0),
    cell("checkpoint[checkpoints=16]", 8, 2.0),
    cell("reversible", 8.05, 2.5),
    cell("symplectic", 3, 1.5),
]


def names(records):
    return [record.backend for record in records]


def test_a_family_differs_in_one_number():
    """The backend without the option belongs to it, another text option makes another family."""
    more = [cell(f"adjoint[norm=seminorm,rate={n}]", n, 1.0) for n in (1, 2)]
    found = families([*CELLS, *more, cell("adjoint[norm=full,rate=3]", 3, 1.0), cell("adjoint[norm=full]", 2, 1.0)])
    assert [(family.name, names(family.members)) for family in found] == [
        (
            "checkpoint[checkpoints]",
            ["checkpoint[checkpoints=2]", "checkpoint[checkpoints=16]", "checkpoint"],
        ),
        ("adjoint[norm=seminorm,rate]", ["adjoint[norm=seminorm,rate=1]", "adjoint[norm=seminorm,rate=2]"]),
        ("adjoint[norm=full,rate]", ["adjoint[norm=full]", "adjoint[norm=full,rate=3]"]),
    ]


def test_a_number_that_leaves_the_memory_as_it_is_makes_no_family():
    """It is no knob for memory; nor is one member alone a family."""
    assert families([cell("reversible[coupling=0.9]", 8, 1.0), cell("reversible", 8.01, 1.0)]) == []
    assert families([cell("checkpoint[checkpoints=2]", 4, 1.0), cell("direct", 9)]) == []


def test_the_fastest_member_that_fits_is_found():
    """Within the memory of each method without a knob, the smallest of which is smaller than the whole family."""
    found = {cost.fixed.backend: cost for cost in equal_memory(CELLS)}
    assert list(found) == ["symplectic", "reversible", "direct"]
    assert found["direct"].member.backend == "checkpoint"
    assert found["reversible"].member.backend == "checkpoint[checkpoints=16]"
    assert found["symplectic"].member is None
    assert found["symplectic"].verdict is None
    assert found["symplectic"].ratio.reason == "it needs at least 4 MiB, with `checkpoint[checkpoints=2]`."


def test_a_ratio_is_that_of_the_ratios_to_the_control():
    """With an interval that has the errors of both; of the control itself it is the other's own, or its inverse."""
    by_name = {record.backend: record for record in CELLS}
    direct, kept, reversible = (by_name[name] for name in ("direct", "checkpoint", "reversible"))
    both = time_ratio(kept, reversible)
    assert both.value == pytest.approx(1.4 / 2.5)
    assert both.low < 1.4 / 2.5 < both.high
    alone, inverse = time_ratio(kept, direct), time_ratio(direct, kept)
    assert (alone.value, inverse.value) == (pytest.approx(1.4), pytest.approx(1 / 1.4))
    assert alone.high == pytest.approx(1 / inverse.low)
    assert alone.high / alone.low == pytest.approx(kept.ratio_high / kept.ratio_low)


def test_an_interval_that_holds_1_is_undecided():
    """And a ratio of a single start has none."""
    close = [*CELLS[:2], cell("checkpoint[checkpoints=2]", 4, 1.5), cell("reversible", 8, 1.51)]
    undecided = next(cost for cost in equal_memory(close) if cost.fixed.backend == "reversible")
    assert (undecided.member.backend, undecided.verdict) == ("checkpoint[checkpoints=2]", "undecided")
    single = time_ratio(timed("a", 2.0, n_starts=1), timed("b", 1.0, n_starts=4))
    assert (single.value, single.low) == (pytest.approx(2.0), None)


def test_what_may_not_be_ranked_is_left_out():
    """A wrong gradient is neither a member nor what is compared with, and neither is what has no time or memory."""
    wrong = {"status": "wrong_gradient", "reason": "it differs."}
    cells = [*CELLS, cell("checkpoint[checkpoints=3]", 5, 0.1, **wrong), cell("adjoint", 5, 0.1, **wrong)]
    cells += [timed("scipy", 1.0, peak_memory_bytes=None), cell("interpolated", 9, 1.0, step_s=None)]
    assert equal_memory(cells) == equal_memory(CELLS)
