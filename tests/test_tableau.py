"""The Runge-Kutta methods are what they say, by the conditions of their order."""

import subprocess
import sys
from functools import cache
from math import prod

import numpy as np
import pytest

from nodebench.backends.solvers import IMPLICIT, TABLEAUS, Tableau, tableau
from nodebench.errors import UnknownNameError

ALL = [*sorted(TABLEAUS), *sorted(IMPLICIT)]
ADAPTIVE = [name for name in ALL if tableau(name).adaptive]


@cache
def _trees(order):
    """Rooted trees with `order` nodes; a tree is the sorted tuple of its subtrees, so that () is the single node."""
    if order == 1:
        return ((),)
    # One more leaf on any node of a smaller tree reaches all of them.
    return tuple(sorted({grown for tree in _trees(order - 1) for grown in _grown(tree)}, key=str))


def _grown(tree):
    yield _sorted((*tree, ()))
    for i, child in enumerate(tree):
        for grown in _grown(child):
            yield _sorted((*tree[:i], grown, *tree[i + 1 :]))


def _sorted(children):
    return tuple(sorted(children, key=str))


def _size(tree):
    return 1 + sum(map(_size, tree))


def _density(tree):
    return _size(tree) * prod(map(_density, tree))


def _stage_weights(tree, a):
    ones = np.ones(len(a))
    return prod((a @ _stage_weights(child, a) for child in tree), start=ones)


def _dense(method: Tableau):
    lower = np.array([[*row, *[0.0] * (method.n_stages - len(row))] for row in method.a])
    return lower + np.diag(method.diagonal) if method.implicit else lower


def _worst_residual(method: Tableau, weights, order):
    a = _dense(method)
    trees = [tree for n in range(1, order + 1) for tree in _trees(n)]
    return max(abs(weights @ _stage_weights(tree, a) - 1 / _density(tree)) for tree in trees)


def test_the_trees_are_all_there():
    """Their numbers are those of the literature (OEIS A000081)."""
    assert [len(_trees(order)) for order in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


@pytest.mark.parametrize("name", ALL)
def test_nodes_are_the_sums_of_their_rows(name):
    """Each c_i is the sum of row i of a."""
    method = tableau(name)
    np.testing.assert_allclose(method.c, _dense(method).sum(axis=1), atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_the_weights_meet_every_condition_of_their_order(name):
    """All rooted trees up to the order give 1 / density."""
    method = tableau(name)
    assert _worst_residual(method, np.array(method.b), method.order) < 1e-13


@pytest.mark.parametrize("name", ALL)
def test_the_order_is_no_higher_than_stated(name):
    """Some condition of the next order fails."""
    method = tableau(name)
    assert _worst_residual(method, np.array(method.b), method.order + 1) > 1e-6


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_embedded_weights_are_one_order_lower(name):
    """B minus b_error meets the conditions of the order below, and not those of the order itself."""
    method = tableau(name)
    embedded = np.array(method.b) - np.array(method.b_error)
    assert _worst_residual(method, embedded, method.order - 1) < 1e-13
    assert _worst_residual(method, embedded, method.order) > 1e-5


@pytest.mark.parametrize("name", sorted(IMPLICIT))
def test_implicit_pairs_end_on_their_last_two_stages(name):
    """The last stage is the step, the one before it the embedded step; all implicit stages have one coefficient."""
    method = tableau(name)
    assert len({a for a in method.diagonal if a}) == 1
    if method.adaptive:
        dense, embedded = _dense(method), np.array(method.b) - np.array(method.b_error)
        np.testing.assert_allclose(dense[-1], method.b)
        np.testing.assert_allclose(dense[-2], embedded, atol=1e-15)
        assert (method.fsal, method.diagonal[0], method.c[-2:]) == (True, 0.0, (1.0, 1.0))


@pytest.mark.parametrize("name", sorted(TABLEAUS))
def test_a_closing_stage_is_the_derivative_at_the_end(name):
    """Where fsal is stated, the last row of a is b, c is 1 and b gives it no weight; every adaptive method has it."""
    method = tableau(name)
    closing = method.a[-1] == method.b[:-1] and method.c[-1] == 1.0 and method.b[-1] == 0.0
    assert method.fsal == (closing and method.n_stages > 1)
    assert method.fsal == method.adaptive


def test_an_unknown_solver_is_answered_with_a_near_name():
    """A mistyped name raises, and names the near one."""
    with pytest.raises(UnknownNameError, match="dopri5"):
        tableau("dorpi5")


@pytest.mark.worker
def test_listing_solvers_imports_no_array_library():
    """The tableaus are read without numpy, torch or JAX."""
    code = (
        "import sys, nodebench.backends.solvers;"
        "assert not {'torch', 'jax', 'numpy'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
