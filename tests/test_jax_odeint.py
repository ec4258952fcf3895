"""`jax-odeint`: its counts follow from its steps, and what the library keeps to itself is raised."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jax_problems import MATRIX, STATES, linear

from nodebench.backends.jax_odeint import JaxOdeint
from nodebench.errors import DivergedError, StepLimitError
from nodebench.frameworks.jax.framework import Jax
from nodebench.problem import Problem, SolverSpec
from nodebench.tasks.linear.jax import LinearField, end_loss, path_loss
from nodebench.tasks.linear.task import gradients, states

BACKEND = JaxOdeint()


@pytest.fixture
def framework():
    return Jax("cpu", "float64", 1)


def _spec(**changes):
    return SolverSpec(**{"rtol": 1e-6, "atol": 1e-6, "max_steps": 256, "dtype": "float64", **changes})


FALLING, RISING = (2.0, 1.1, 0.7, 0.0), (0.0, 1.0, 2.0)


@cache  # each call compiles anew
def _grid(times):
    problem = linear(times)
    return BACKEND.grid(problem.field, problem.y0, problem.times, _spec())


def test_evaluations_follow_the_closed_form(framework):
    """Two and six for each step tried forward; backward the same in each interval, and one for the gradient of time."""
    grid, step = _grid(FALLING), BACKEND.gradient_step(linear(FALLING), _spec(), framework)
    counted, intervals = step.evaluations(), len(FALLING) - 1
    assert step.forward_evaluations() == counted.nfe_forward
    assert counted.nfe_forward == 2 + 6 * (grid.n_accepted + grid.n_rejected)
    assert counted.nfe_backward == counted.n_vjps + intervals
    assert (counted.n_vjps - 2 * intervals) % 6 == 0


@pytest.mark.parametrize("times", [RISING, FALLING], ids=["forwards", "backwards"])
def test_the_grid_is_that_of_dopri5(times, framework):
    """Steps of the same method from boundary to boundary end at the solution, the last one past the last time."""
    del framework
    grid = _grid(times)
    steps = np.diff(grid.times)
    direction = np.sign(times[-1] - times[0])
    assert grid.times[0] == times[0]
    assert (direction * steps > 0).all()
    assert direction * grid.times[-2] < direction * times[-1] <= direction * grid.times[-1]
    # Where the error is far below the tolerance a step grows tenfold, which the second one does after the first guess.
    assert steps[1] / steps[0] == pytest.approx(10)


def test_rejected_steps_are_told_apart(framework):
    """Where a field jumps the solver tries steps that it rejects: tries and accepted steps differ by them."""
    problem, spec = Problem(_Jump(), jnp.array([1.0]), np.array([0.0, 2.0]), Partial(end_loss)), _spec()
    grid = BACKEND.grid(problem.field, problem.y0, problem.times, spec)
    counted = BACKEND.gradient_step(problem, spec, framework).forward_evaluations()
    assert grid.n_rejected > 0
    assert counted == 2 + 6 * (grid.n_accepted + grid.n_rejected)


class _Jump(eqx.Module):
    def __call__(self, t, y):
        return jnp.where(t < 1.0, -y, 30 * jnp.cos(40 * t) * jnp.ones_like(y))


def test_both_directions_of_time_take_the_same_steps(framework):
    """A field mirrored in time is solved down as the field itself is solved up."""
    del framework
    up, down = linear((0.0, 1.0, 2.0)), linear((0.0, -1.0, -2.0), matrix=-MATRIX)
    found = [BACKEND.solve(p.field, p.y0, p.times, _spec()) for p in (up, down)]
    np.testing.assert_array_equal(found[0], found[1])


def test_a_tuple_is_a_state_like_an_array(framework):
    """A state in two parts gives the closed form of the same state in one."""
    whole = linear((0.0, 1.0))
    parts = Problem(_InParts(whole.field), (whole.y0[:, :1], whole.y0[:, 1:]), whole.times, Partial(_joined_loss))
    found = framework.to_numpy(BACKEND.grad(parts, _spec(rtol=1e-8, atol=1e-8), framework))
    exact = gradients(MATRIX, STATES, whole.times, "path")
    np.testing.assert_allclose(np.concatenate(found.y0, 1), exact.y0, rtol=1e-6)
    np.testing.assert_allclose(found.params["field.A"], exact.params["A"], rtol=1e-6)


class _InParts(eqx.Module):
    field: LinearField

    def __call__(self, t, y):
        rate = self.field(t, jnp.concatenate(y, 1))
        return rate[:, :1], rate[:, 1:]


def _joined_loss(ys):
    return path_loss(jnp.concatenate(ys, 2))


def test_the_library_is_silent_about_its_limit(framework):
    """Out of steps it hands out a finite, wrong loss: what the checks of this backend are there for."""
    problem = linear((0.0, 2.0))
    cut, whole = (BACKEND.grad(problem, _spec(max_steps=n), framework).loss for n in (3, 256))
    assert np.isfinite(cut)
    assert abs(cut - whole) > 0.01 * abs(whole)


def test_the_counting_passes_name_the_step_limit(framework):
    """A forward solve with one step less than it needs is a `StepLimitError` of `grid` and of both counts."""
    problem, limit = linear((0.0, 2.0)), _tries(RISING) - 1
    spec = _spec(max_steps=limit)
    step = BACKEND.gradient_step(problem, spec, framework)
    for call in (
        lambda: BACKEND.grid(problem.field, problem.y0, problem.times, spec),
        step.forward_evaluations,
        step.evaluations,
    ):
        with pytest.raises(StepLimitError, match=rf"limit of {limit} steps .* raise `max_steps`"):
            call()


def _tries(times):
    grid = _grid(times)
    return grid.n_accepted + grid.n_rejected


def test_steps_that_just_suffice_are_no_error(framework):
    """The limit allows as many tries from one output time to the next as it says; output times change no step."""
    del framework
    problem, tries = linear((0.0, 2.0)), _tries(RISING)
    assert BACKEND.grid(problem.field, problem.y0, problem.times, _spec(max_steps=tries)) == _grid(RISING)
    whole, cut = (BACKEND.solve(problem.field, problem.y0, problem.times, _spec(max_steps=n)) for n in (256, tries))
    np.testing.assert_array_equal(whole, cut)


def test_the_limit_counts_anew_from_each_output_time(framework):
    """More steps than the limit are allowed over two intervals."""
    del framework
    problem, tries = linear(RISING), _tries(RISING)
    assert BACKEND.grid(problem.field, problem.y0, problem.times, _spec(max_steps=tries - 2)) == _grid(RISING)


def test_a_backward_solve_beyond_its_limit_is_named(framework):
    """Where the forward ODE contracts, the backward solve takes more steps; out of steps, the count says so."""
    problem = linear((0.0, 1.0), matrix=np.array([[-20.0]]), y0=np.array([[1.0]]))
    step = BACKEND.gradient_step(problem, _spec(rtol=1e-3, atol=1e-3, max_steps=12), framework)
    with pytest.raises(StepLimitError, match=r"^in the backward solve: .*limit of 12 steps"):
        step.evaluations()


def test_a_derivative_that_is_not_a_number_is_diverged(framework):
    """A tank that is empty at t = 2: the library extrapolates its last step, the grid is a `DivergedError`."""
    del framework
    problem = Problem(_Draining(), jnp.array([1.0]), np.array([0.0, 9.0]), Partial(end_loss))
    assert np.isfinite(BACKEND.solve(problem.field, problem.y0, problem.times, _spec())).all()
    with pytest.raises(DivergedError, match=r"not finite after t = [12]\."):
        BACKEND.grid(problem.field, problem.y0, problem.times, _spec())


class _Draining(eqx.Module):
    def __call__(self, t, y):
        del t
        return -jnp.sqrt(y)


def test_what_it_cannot_do_has_a_reason(framework):
    """Another method than dopri5, and arrays of the field that are no parameters."""
    del framework
    assert "`dopri5`" in BACKEND.unsupported(linear((0.0, 1.0)), _spec(solver="tsit5"))
    assert "`lsoda`" in BACKEND.unsupported(linear((0.0, 1.0)), _spec(solver="lsoda"))
    problem = Problem(_Indexed(jnp.array([1, 0])), jnp.ones(2), np.array([0.0, 1.0]), Partial(end_loss))
    assert "int" in BACKEND.unsupported(problem, _spec())
    assert BACKEND.unsupported(linear((0.0, 1.0), timed=True), _spec()) is None


class _Indexed(eqx.Module):
    order: jnp.ndarray

    def __call__(self, t, y):
        del t
        return -y[self.order]


def test_that_it_chooses_its_first_step_is_said(framework):
    """It takes the same steps whatever first step is asked for, and its differences say so."""
    del framework
    problem = linear(RISING)
    assert BACKEND.grid(problem.field, problem.y0, problem.times, _spec(first_step=1.0)) == _grid(RISING)
    assert any("first step" in sentence for sentence in BACKEND.differences(_spec()))


def test_times_of_jax_are_known_within_a_program(framework):
    """An array that a program closes over is a constant of it, whose direction is read as that of NumPy's."""
    del framework
    problem, times = linear(FALLING), jnp.array(FALLING)
    found = jax.jit(lambda y0: BACKEND.solve(problem.field, y0, times, _spec()))(problem.y0)
    np.testing.assert_allclose(found, states(MATRIX, np.asarray(STATES), np.array(FALLING)), rtol=1e-4, atol=1e-4)
