"""What must not be ranked, and which figures must not be kept."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nodebench.bench.judge import disagreement, method_errors, unlike, unlike_fields, wrong_gradient
from nodebench.bench.reference import (
    continuous_errors,
    ignorance,
    judged_errors,
    refusal,
    sought,
    state_refusal,
    suffices,
)
from nodebench.bench.saved import Reference
from nodebench.problem import SolverSpec
from nodebench.results.quantities import GradientPart


def test_an_error_above_the_limit_is_wrong():
    """The larger of two errors is named; one that is not a number is wrong too."""
    assert wrong_gradient({"grad_error_params": 0.2, "grad_error_y0": 0.9}, 1.0) is None
    assert "grad_error_y0 is 3" in wrong_gradient({"grad_error_params": 2.0, "grad_error_y0": 3.0}, 1.0)
    assert wrong_gradient({"grad_error_params": math.nan}, 1.0) is not None


def test_a_wrong_error_that_cannot_be_stated_is_not_quoted():
    """What the reference is too coarse to state is wrong all the same, without a figure."""
    errors = {"grad_error_params": 2.0, "grad_error_y0": 3.0}
    reason = wrong_gradient(errors, 1.0, unstated={"grad_error_y0"})
    assert reason == "grad_error_y0 is above the limit of 1 (--max-grad-error)."
    assert "grad_error_y0 is 3" in wrong_gradient(errors, 1.0, unstated={"grad_error_params"})


def test_a_reference_is_sought_that_can_state_the_error():
    """A hundredth of the error; none is looked for where the error is no number."""
    assert sought(0.5) == 0.005
    assert sought(math.nan) == math.inf


def test_a_reference_states_only_what_it_can_see():
    """An error below a hundred times the reference's own is refused, one above it kept."""
    assert "known to 1.0e-07 only" in refusal(9.9e-6, 1e-7)
    assert refusal(1.01e-5, 1e-7) is None
    assert refusal(1e-20, 0.0) is None


def test_the_odd_one_out_is_named():
    """A cell whose dtype is not that of the others is told apart, and they are not."""
    usual, odd = {"weights": "abc", "dtype": "float32"}, {"weights": "abc", "dtype": "float16"}
    group = [usual, usual, odd]
    assert "its dtype is float16, that of the others float32" in unlike(odd, group)
    assert unlike(usual, group) is None


def test_two_cells_that_differ_are_told_apart():
    """The second is the odd one, by the name of what differs; a parameter that one lacks is such a difference."""
    first, second = {"parameter `w`": "abc", "parameter `b`": "def"}, {"parameter `w`": "abc"}
    assert unlike(first, [first, second]) is None
    assert "its parameter `b` is missing, that of the others def" in unlike(second, [first, second])
    assert "its parameter `b` is def, that of the others missing" in unlike(first, [second, first])


def test_what_is_no_parameter_is_compared_where_both_have_it():
    """One framework holds an array that another writes into the code; a library may not tell its steps."""
    one, other = {"constant `B`": "abc", "step grid": "4 of 0.25"}, {}
    assert unlike(other, [one, other]) is None
    assert "its constant `B` is abd" in unlike({"constant `B`": "abd"}, [one, {"constant `B`": "abd"}])
    assert "its step grid is 3 of 0.3" in unlike({"step grid": "3 of 0.3"}, [one, {"step grid": "3 of 0.3"}])


def test_two_fields_are_told_apart_by_what_they_give():
    """Equal up to rounding is equal; the one that is not like most of its group is another problem."""
    usual, near, odd = (GradientPart(field_value=value, field_derivative=1.0) for value in (1.0, 1.0 + 1e-6, 1.1))
    assert unlike_fields(near, [usual, near, odd]) is None
    assert "its field has other values (1.1 at fixed points, the others 1)" in unlike_fields(odd, [usual, near, odd])
    assert "its field has other values" in unlike_fields(odd, [usual, odd])
    assert unlike_fields(usual, [usual, odd]) is None
    assert unlike_fields(GradientPart(), [usual, GradientPart()]) is None
    turned = GradientPart(field_value=1.0, field_derivative=2.0)
    assert "its field has other derivatives" in unlike_fields(turned, [usual, turned])


def test_a_reference_condemns_nothing_that_it_does_not_know():
    """Its own error beyond a few per cent, or a gradient below what the dtype can say, and it judges none."""
    assert ignorance(0.04, 1.0, 1.0, "float32") is None
    assert "own relative error of it is 49" in ignorance(49.0, 1.0, 1.0, "float32")
    assert ignorance(math.nan, 1.0, 1.0, "float32") is not None
    assert "its largest entry is 1e-44, below what float32 can say" in ignorance(0.0, 1e-44, 1.0, "float32")
    assert ignorance(0.0, 1e-44, 1.0, "float64") is None
    assert "below what float32 can say beside 0.1" in ignorance(1.0, 1e-17, 0.1, "float32")


@pytest.mark.parametrize(
    ("error", "steps", "agrees"), [(None, 3, True), (30.0, 3, True), (31.0, 3, False), (11, None, False)]
)
def test_a_solution_may_err_by_some_tolerances_for_each_step(error, steps, agrees):
    """Beyond that it is a solution of another problem."""
    assert (disagreement(error, steps) is None) == agrees


@pytest.mark.parametrize(
    ("own", "steps", "judges"), [(None, 3, True), (3.0, 3, True), (3.1, 3, False), (2, None, False)]
)
def test_a_solution_is_judged_by_one_ten_times_better(own, steps, judges):
    """What is known less well than to a tenth of what is allowed judges nothing; nor does what is no number."""
    assert (state_refusal(own, steps) is None) == judges
    assert state_refusal(math.nan, steps) is not None


def gradients(**changes):
    return Reference(**{"y0": np.ones(2), "params": {"A": np.ones(3)}, "description": "d", **changes})


def test_gradients_of_the_times_are_kept_and_judged(tmp_path):
    """Beside the others where there are any; a method without them is no misfit."""
    exact = gradients(times=np.array([1.0, 0.0]), times_error=1e-9, states=np.ones(2))
    for each in (exact, gradients()):
        each.save(tmp_path / "r.npz")
        read = Reference.load(tmp_path / "r.npz")
        assert (read.sizes, read.times_error, read.largest) == (each.sizes, each.times_error, each.largest)
    found = gradients(times=np.array([1.1, 0.0]), states=np.ones(2))
    errors = continuous_errors(found, exact, SolverSpec())
    assert errors.grad_error_times == pytest.approx(0.1)
    assert judged_errors(errors)["grad_error_times"] == (errors.grad_error_times, 1e-9)
    assert method_errors(found, exact).method_error_times == pytest.approx(0.1)
    for one, other in ((gradients(states=np.ones(2)), exact), (found, gradients(states=np.ones(2)))):
        without = continuous_errors(one, other, SolverSpec())
        assert (without.grad_error_times, "grad_error_times" in judged_errors(without)) == (None, False)
        assert one.misfit(other) is None
    assert found.misfit(gradients(times=np.ones(3))) == "d/dtimes has 2 numbers, not 3"
    assert not suffices(replace(exact, times_error=0.01), found, SolverSpec(), 1)
    assert suffices(exact, found, SolverSpec(), 1)


def test_where_disturbances_grow_errors_may_have_grown():
    """In a chaotic system a solution may be as much farther from the reference's as dy(end)/dy(start) is large."""
    assert disagreement(5000.0, 10) is not None
    assert disagreement(5000.0, 10, grown=100.0) is None
    assert disagreement(5000.0, 10, grown=1e-3) is not None
