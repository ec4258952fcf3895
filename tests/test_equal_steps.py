"""Methods of fixed steps take one grid in every library, and the longest step holds where one is asked for."""

from functools import cache

import numpy as np
import pytest
import torch
from jax.tree_util import Partial
from jax_problems import MATRIX, STATES, linear
from torch import nn

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.step_size import equal_steps
from nodebench.errors import StepLimitError, UserError
from nodebench.frameworks.jax.framework import Jax
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import Problem, SolverSpec

EXACT = ("checkpoint", "symplectic", "direct[land=true]", "torchdiffeq", "torchdiffeq[land=true]", "diffrax")
CONTINUOUS = ("adjoint", "torchdiffeq-adjoint", "diffrax-backsolve")
RISING, FALLING = (0.0, 0.5, 1.13), (1.0, 0.4, -0.5)


class Linear(nn.Module):
    """dy/dt = A y for each row of the state."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.tensor(MATRIX))

    def forward(self, t, y):
        del t
        return y @ self.A.T


@cache  # one object, so that tests of the same backend and spec share its compiled programs
def _load(text):
    return registry.load("backend", text, AbstractBackend)


def _loss(ys):
    return (ys[1:] ** 2).sum()


def _problem(text, times, *, timed=False):
    """The same problem in the framework of a backend, and that framework."""
    if _load(text).framework == "jax":
        framework, found = Jax("cpu", "float64", 1), linear(times, timed=timed)
        return Problem(found.field, found.y0, found.times, Partial(_loss), timed), framework
    at = torch.tensor(times, dtype=torch.float64)
    return Problem(Linear(), torch.tensor(STATES), at, _loss, timed), Torch("cpu", "float64", 1)


def _spec(solver, h, **changes):
    return SolverSpec(**{"solver": solver, "first_step": h, "rtol": 1e-2, "atol": 1e-2, "dtype": "float64", **changes})


def _grid(text, times, spec):
    """The boundaries of the steps; None where the problem is unsupported."""
    backend, (problem, _) = _load(text), _problem(text, times)
    if backend.unsupported(problem, spec) is not None:
        return None
    return backend.grid(problem.field, problem.y0, problem.times, spec).times


def _gradient(text, times, spec, *, timed=False):
    """The gradient as one vector."""
    problem, framework = _problem(text, times, timed=timed)
    found = framework.to_numpy(_load(text).grad(problem, spec, framework))
    parts = [found.y0.ravel(), found.params["A"].ravel(), *([] if found.times is None else [found.times])]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("solver", "h", "times"),
    [("midpoint", 0.07, RISING), ("euler", 5.0, FALLING), ("rk38", 0.07, FALLING)],
)
def test_all_libraries_take_one_grid(solver, h, times):
    """Steps and gradients agree to rounding, those of the backward solves as well."""
    spec = _spec(solver, h)
    for first, *others in (("direct", *EXACT), CONTINUOUS):
        grid, gradient = _grid(first, times, spec), _gradient(first, times, spec)
        assert np.abs(np.diff(grid)).max() <= h + 1e-12
        assert set(times) <= set(grid)
        for text in others:
            found = _grid(text, times, spec)
            if found is not None:
                np.testing.assert_allclose(found, grid, rtol=0, atol=1e-12, err_msg=text)
                if solver == "euler" and _load(text).framework == "jax":
                    continue  # one more gradient to compile; the next test has that of Euler's method
                found = _gradient(text, times, spec)
                np.testing.assert_allclose(found, gradient, rtol=1e-11, atol=1e-11, err_msg=text)


@pytest.mark.parametrize(
    ("text", "solver"), [("torchdiffeq", "midpoint"), ("torchdiffeq", "euler"), ("diffrax", "euler")]
)
def test_times_that_are_differentiated_change_no_step(text, solver):
    """A compiled program that does not know its times takes the same steps, and has their exact derivative."""
    spec = _spec(solver, 0.07)
    exact = _gradient("direct", FALLING, spec, timed=True)
    np.testing.assert_allclose(_gradient(text, FALLING, spec, timed=True), exact, rtol=1e-11)


def test_rounding_adds_no_step():
    """Ten tenths are one, and a little more than ten is eleven."""
    assert [equal_steps(length, 0.1) for length in (1.0, 0.1 + 0.2 + 0.7, -1.0, 1.0001, 0.01)] == [10, 10, 10, 11, 1]


@pytest.mark.parametrize("text", ["direct", "adjoint", "torchdiffeq", "torchdiffeq-adjoint", "diffrax"])
def test_equal_steps_have_a_limit(text):
    """Twenty steps are more than nineteen, in all intervals together, and not more than twenty."""
    times, enough = (0.0, 0.5, 1.0), _spec("euler", 0.05, max_steps=20)
    problem, _ = _problem(text, times)
    assert _grid(text, times, enough)[-1] == 1.0
    if text != "diffrax":  # of which `grid` alone can raise
        assert np.isfinite(_gradient(text, times, enough)).all()
    with pytest.raises(StepLimitError, match="19"):
        _load(text).grid(problem.field, problem.y0, problem.times, _spec("euler", 0.05, max_steps=19))


def test_a_tiny_step_is_refused_before_it_fills_the_memory():
    """A million million steps are counted, not written down."""
    for text in ("direct", "torchdiffeq", "diffrax"):
        problem, _ = _problem(text, (0.0, 1.0))
        with pytest.raises(StepLimitError, match="256"):
            _load(text).grid(problem.field, problem.y0, problem.times, _spec("euler", 1e-12))


def test_libraries_of_equal_steps_are_not_said_to_interpolate():
    """What no longer differs is not told; it still is for methods that choose their steps."""
    for text in ("torchdiffeq", "diffrax"):
        assert not any("interpolat" in sentence for sentence in _load(text).differences(_spec("midpoint", 0.1)))
        assert any("interpolat" in sentence for sentence in _load(text).differences(_spec("dopri5", 0.1)))


@pytest.mark.parametrize(
    ("name", "solver"), [("checkpoint", "dopri5"), ("checkpoint", "midpoint"), ("diffrax", "dopri5")]
)
def test_the_longest_step_holds(name, solver):
    """No step is longer, first step and equal steps included; the gradient is the exact one of these steps."""
    spec, times = _spec(solver, 0.5), (0.0, 0.5, 2.0)
    names = (name, f"{name}[max_step=0.01]")
    free, bound = (np.diff(_grid(text, times, spec)) for text in names)
    assert free.max() > 0.1
    assert bound.max() <= 0.01 + 1e-12
    free, bound = (_gradient(text, times, spec) for text in names)
    exact = _gradient("direct", times, _spec("dopri5", 0.1, rtol=1e-12, atol=1e-12))
    assert np.abs(bound - exact).max() < 1e-3 * np.abs(free - exact).max()


@pytest.mark.parametrize("name", ["checkpoint", "diffrax"])
def test_the_longest_step_is_told(name):
    """Its own exact counterpart, a sentence of what differs, and no step that is not positive."""
    limited = _load(f"{name}[max_step=0.01]")
    assert _load(limited.exact_counterpart).max_step == 0.01
    assert "no step of it is longer than 0.01." in limited.differences(_spec("dopri5", 0.1))
    for value in (0, -1.0):
        with pytest.raises(UserError, match="`max_step` must be positive"):
            _load(f"{name}[max_step={value}]")
