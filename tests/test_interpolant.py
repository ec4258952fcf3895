"""Tests of dense output."""

from math import factorial

import pytest

from nodebench.backends.runge_kutta.dense_output import interpolant
from nodebench.backends.solvers import TABLEAUS, tableau

NAMES = [name for name in TABLEAUS if interpolant(name) is not None]


def products(method):
    """The vectors a c^q, which order conditions up to four are made of."""
    c = method.c
    a = [[*row, *([0.0] * (len(c) - len(row)))] for row in method.a]

    def mul(vector):
        return [sum(a_ij * v for a_ij, v in zip(row, vector, strict=True)) for row in a]

    return c, mul(c), mul([x * x for x in c]), mul(mul(c))


def conditions(method, theta):
    """Rooted trees up to order four by order: elementary weight vector and what b(θ) times it must be."""
    c, ac, acc, aac = products(method)
    one = [1.0] * len(c)
    return [
        (1, one, theta),
        (2, c, theta**2 / 2),
        (3, [x * x for x in c], theta**3 / 3),
        (3, ac, theta**3 / 6),
        (4, [x**3 for x in c], theta**4 / 4),
        (4, [x * y for x, y in zip(c, ac, strict=True)], theta**4 / 8),
        (4, acc, theta**4 / 12),
        (4, aac, theta**4 / factorial(4)),
    ]


@pytest.mark.parametrize("theta", [0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_order_conditions_hold_inside_the_step(name, theta):
    """b(θ) satisfies every order condition up to the order that is stated."""
    method, dense = tableau(name), interpolant(name)
    weights = dense.weights(theta)
    for order, vector, wanted in conditions(method, theta):
        if order <= dense.order:
            assert sum(w * v for w, v in zip(weights, vector, strict=True)) == pytest.approx(wanted, abs=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_the_step_is_met(name):
    """At θ = 1 the weights are those of the step itself."""
    assert interpolant(name).weights(1.0) == pytest.approx(list(tableau(name).b), abs=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_is_met_at_both_ends(name):
    """The slope of b(θ) is 1 for the first stage at the beginning and for the last at the end, else 0."""
    coefficients = interpolant(name).coefficients
    at_start = [row[0] for row in coefficients]
    at_end = [sum((p + 1) * c for p, c in enumerate(row)) for row in coefficients]
    assert at_start == pytest.approx([1.0, *[0.0] * (len(coefficients) - 1)], abs=1e-12)
    assert at_end == pytest.approx([*[0.0] * (len(coefficients) - 1), 1.0], abs=1e-12)


def test_methods_of_fixed_steps_have_none():
    """Without a derivative at the end of the step there is nothing to interpolate with."""
    assert all(interpolant(name) is None for name, method in TABLEAUS.items() if not method.adaptive)
