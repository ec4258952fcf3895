"""The JAX backends against the closed form of the linear task, their counts against formulas, their failures."""

from dataclasses import replace
from functools import cache

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jax_problems import MATRIX, STATES, linear

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.diffrax.solve import controller
from nodebench.backends.step_size import chosen_first_step
from nodebench.bench.matrix import Request, plan
from nodebench.bench.worker.passes import told_untimed
from nodebench.bench.worker.subject import build_problem, make_subject
from nodebench.errors import DivergedError, StepLimitError, UserError
from nodebench.frameworks.jax.framework import Jax
from nodebench.problem import Problem, SolverSpec
from nodebench.tasks.linear.jax import end_loss
from nodebench.tasks.linear.task import gradients

OWN = [name for name in registry.names("backend") if registry.describe("backend", name).framework == "jax"]
DIFFRAX = [name for name in OWN if name.startswith("diffrax")]
CASES = [
    *[(text, "integral") for text in OWN],
    ("diffrax[checkpoints=2,scan=bounded]", "pi"),
    ("diffrax-backsolve[norm=seminorm]", "pi"),
]
"""Backends and their options, each with one of the two controllers."""


@cache  # one object, so that tests of the same backend and spec share its compiled programs
def _load(text):
    return registry.load("backend", text, AbstractBackend)


def _errors(found, exact):
    pairs = [(found.y0, exact.y0), (found.params["A"], exact.params["A"])]
    if found.times is not None:
        pairs.append((found.times, exact.times))
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]


def _spec(**changes):
    return SolverSpec(**{"first_step": 0.05, "max_steps": 256, "dtype": "float64", **changes})


TIGHT = _spec(rtol=1e-9, atol=1e-9)
"""One for several tests, so that they share their programs."""


TIMES = (0.0, 0.7, 2.0)


def _gradients(text, spec, times=TIMES, matrix=MATRIX):
    """Those of a backend, by the times as well where it has them; matrices share one program."""
    framework, backend = Jax("cpu", "float64", 1), _load(text)
    problem = linear(times, matrix=matrix, timed="backsolve" not in text)
    assert backend.unsupported(problem, spec) is None
    found = framework.to_numpy(backend.grad(problem, spec, framework))
    assert (found.times is not None) == problem.differentiate_times
    return found


def _error(text, times, spec):
    return max(_errors(_gradients(text, spec, times), gradients(MATRIX, STATES, np.array(times), "path")))


def test_all_three_diffrax_backends_are_installed():
    """The registry lists them, so that the other tests here cover them."""
    assert {"diffrax", "diffrax-direct", "diffrax-backsolve"} <= set(OWN)


@pytest.mark.parametrize("times", [TIMES, (1.0, 0.4, -0.5)], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("text", "controller"), CASES)
def test_gradients_are_the_closed_form(text, controller, times):
    """State, parameters and (where supported) times agree with the matrix exponential, in both directions of time."""
    assert _error(text, times, replace(TIGHT, controller=controller)) < 1e-6


@pytest.mark.parametrize(("text", "has"), [("diffrax", True), ("jax-odeint", True), ("diffrax-backsolve", False)])
def test_a_method_without_gradients_of_times_is_measured_without(text, has):
    """Where a problem asks for them; why it has none is a note of its cell."""
    request = Request(backends=(text,), tasks=("linear[differentiate_times=true]",), preset="smoke")
    [cell] = plan(request).cells
    subject = make_subject(cell, "float64", 0.05)
    built = build_problem(subject, subject.inputs())
    assert (built.problem.differentiate_times, built.untimed == "") == (has, has)
    told = told_untimed(built)
    assert told == "" if has else "no grad_error_times of diffrax-backsolve, whose step is taken without it" in told


def test_the_error_of_the_backward_solve_falls_with_the_tolerance():
    """Over four decades of tolerance the gradient error falls by at least three."""
    loose, tight = (_error("diffrax-backsolve", TIMES, spec) for spec in (_spec(rtol=1e-5, atol=1e-5), TIGHT))
    assert loose < 1e-3
    assert tight < 1e-3 * loose


@pytest.mark.parametrize(
    ("text", "recomputed", "solver", "stages"),
    [
        ("diffrax", 2, "dopri5", 6),
        ("diffrax[scan=bounded]", 1, "dopri5", 6),
        ("diffrax-direct", 1, "dopri8", 13),
        ("diffrax-backsolve", 0, "dopri5", 6),
    ],
)
def test_evaluations_follow_the_closed_forms(text, recomputed, solver, stages):
    """With n = 1 + stages x steps evaluations forward, an exact method has n VJPs and a whole multiple of n backward.

    The first stage of a step of dopri5 and of dopri8 is the last of the step before.
    """
    framework, backend, problem = Jax("cpu", "float64", 1), _load(text), linear((0.0, 2.0))
    spec = _spec(solver=solver, rtol=1e-5, atol=1e-5, max_steps=32)
    grid = backend.grid(problem.field, problem.y0, problem.times, spec)
    n = 1 + stages * (grid.n_accepted + grid.n_rejected)
    counted = backend.gradient_step(problem, spec, framework).evaluations()
    assert counted.nfe_forward == n
    if recomputed:
        assert (counted.nfe_backward, counted.n_vjps) == (recomputed * n, n)
    else:
        assert counted.nfe_backward == counted.n_vjps
        assert counted.n_vjps % stages == 1


@pytest.mark.parametrize(
    ("text", "solver", "error"),
    [
        ("diffrax", "kvaerno5", 2e-5),
        ("diffrax", "kencarp4", 1e-4),
        ("diffrax-backsolve", "kvaerno3", 1e-4),
        ("diffrax-direct", "implicit-euler", 0.05),
    ],
)
def test_implicit_methods_have_right_gradients(text, solver, error):
    """Of the state and the parameters, under each adjoint, to the order of what is asked for."""
    found = _gradients(text, _spec(solver=solver, rtol=1e-6, atol=1e-6, first_step=0.05))
    exact = gradients(MATRIX, STATES, np.array(TIMES), "path")
    np.testing.assert_allclose(found.y0, exact.y0, atol=error * np.linalg.norm(exact.y0))
    np.testing.assert_allclose(found.params["A"], exact.params["A"], atol=error * np.linalg.norm(exact.params["A"]))


@pytest.mark.parametrize("text", ["diffrax", "diffrax-direct", "diffrax-backsolve"])
def test_evaluations_of_implicit_methods_are_counted(text):
    """A step of kvaerno3 evaluates at least its four stages, and its Jacobian once more; all are differentiated."""
    framework, backend, problem = Jax("cpu", "float64", 1), _load(text), linear((0.0, 2.0))
    spec = _spec(solver="kvaerno3", rtol=1e-4, atol=1e-4, max_steps=32)
    grid = backend.grid(problem.field, problem.y0, problem.times, spec)
    counted = backend.gradient_step(problem, spec, framework).evaluations()
    assert counted.nfe_forward >= 5 * (grid.n_accepted + grid.n_rejected)
    assert counted.n_vjps >= grid.n_accepted


def test_evaluations_of_a_solve_alone_follow_the_stages():
    """Heun's method evaluates both of its stages in every step."""
    framework, backend = Jax("cpu", "float64", 1), _load("diffrax")
    problem, spec = linear((0.0, 2.0)), _spec(solver="heun", first_step=1.0, rtol=1e-4, atol=1e-4)
    grid = backend.grid(problem.field, problem.y0, problem.times, spec)
    counted = backend.gradient_step(problem, spec, framework).forward_evaluations()
    assert counted == 2 * (grid.n_accepted + grid.n_rejected)


def test_a_fixed_method_takes_the_steps_it_is_told():
    """Twenty steps of a tenth over [0, 2]."""
    Jax("cpu", "float64", 1)
    problem = linear((0.0, 2.0))
    grid = _load("diffrax").grid(problem.field, problem.y0, problem.times, _spec(solver="euler", first_step=0.1))
    np.testing.assert_allclose(grid.times, np.linspace(0.0, 2.0, 21), atol=1e-12)


def test_rejected_steps_are_counted():
    """A first step as long as the interval is rejected, and the grid says so."""
    Jax("cpu", "float64", 1)
    problem = linear((0.0, 2.0), matrix=10 * MATRIX)
    grid = _load("diffrax").grid(problem.field, problem.y0, problem.times, _spec(first_step=2.0))
    assert grid.n_rejected > 0
    assert (grid.times[0], grid.times[-1]) == (0.0, 2.0)


@pytest.mark.parametrize("text", ["diffrax", "diffrax-backsolve"])
def test_a_solve_beyond_its_limit_gives_no_figures(text):
    """Loss and gradients are NaN, not those of the part of the interval that was reached."""
    found = _gradients(text, TIGHT, matrix=40 * MATRIX)
    assert np.isnan(found.loss)
    assert np.isnan(found.y0).all()
    assert np.isnan(found.params["A"]).all()


def test_the_grid_names_the_step_limit():
    """A solve that needs more steps than its limit is a `StepLimitError`."""
    Jax("cpu", "float64", 1)
    problem = linear((0.0, 2.0))
    with pytest.raises(StepLimitError, match="limit of 3 steps was reached at t = "):
        _load("diffrax").grid(problem.field, problem.y0, problem.times, _spec(max_steps=3))


@pytest.mark.parametrize("solver", ["dopri5", "euler"])
def test_the_grid_names_a_state_that_left_the_finite_numbers(solver):
    """A field that is not a number from t = 2 on is a `DivergedError`, whether or not the method looks at its error."""
    Jax("cpu", "float64", 1)
    problem = Problem(_Draining(), jnp.array([1.0]), np.array([0.0, 9.0]), Partial(end_loss))
    with pytest.raises(DivergedError, match=r"left the finite numbers after t = [12]\."):
        _load("diffrax").grid(problem.field, problem.y0, problem.times, _spec(solver=solver, max_steps=200))


class _Draining(eqx.Module):
    def __call__(self, t, y):
        del t
        return -jnp.sqrt(y)  # empty at t = 2


def test_a_backward_solve_beyond_its_limit_gives_no_gradient():
    """Where the forward ODE contracts, its backward solve takes more steps; out of steps, its gradient is NaN."""
    framework, backend = Jax("cpu", "float64", 1), _load("diffrax-backsolve")
    problem = linear((0.0, 1.0), matrix=-20 * np.eye(3))
    found = framework.to_numpy(backend.grad(problem, _spec(max_steps=12), framework))
    assert np.isfinite(found.loss)
    assert np.isnan(found.y0).all()
    assert np.isnan(found.params["A"]).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"solver": "rk4"}, "no `rk4`"),
        ({"solver": "heun9"}, "it has euler"),
        ({"solver": "euler", "first_step": None}, "needs `first_step`"),
    ],
)
def test_what_diffrax_cannot_do_has_a_reason(changes, reason):
    """A solver that it lacks, or a first step that is not given: a sentence beforehand, an error from `solve`."""
    problem, spec = linear((0.0, 1.0)), _spec(**changes)
    for text in DIFFRAX:
        assert reason in _load(text).unsupported(problem, spec)
        with pytest.raises(UserError, match=reason):
            _load(text).solve(problem.field, problem.y0, problem.times, spec)


@pytest.mark.parametrize(("text", "times"), [("diffrax", (1.0, 0.3, 0.0)), ("diffrax-backsolve", (0.0, 1.0))])
def test_a_first_step_that_is_not_given_is_chosen_as_for_all(text, times):
    """That of a worker but for its rounding, within a program that differentiates the solve; the rest is the same."""
    framework, problem, spec = Jax("cpu", "float64", 1), linear(times), _spec(first_step=None)
    chosen = chosen_first_step(
        spec,
        times,
        framework.evaluate(problem),
        framework.flat_state(problem.y0),
        rms=lambda y: float(np.sqrt(np.mean(y**2))),
    )
    first, second, *_ = _load(text).grid(problem.field, problem.y0, problem.times, spec).times
    assert abs(second - first) == pytest.approx(chosen, rel=5e-3)
    given = replace(spec, first_step=abs(second - first))
    found, expected = (framework.to_numpy(_load(text).grad(problem, each, framework)) for each in (spec, given))
    np.testing.assert_allclose(found.y0, expected.y0, rtol=1e-12)
    np.testing.assert_allclose(found.params["A"], expected.params["A"], rtol=1e-12)


def test_a_first_step_of_a_field_that_is_not_finite_gives_no_state():
    """NaN, as for every solve that fails."""
    problem = linear((0.0, 1.0), matrix=np.full((3, 3), np.nan))
    assert np.isnan(_load("diffrax").solve(problem.field, problem.y0, problem.times, _spec(first_step=None))).all()


def test_backsolve_says_that_it_has_no_gradient_of_times():
    """`unsupported` gives the reason before anything is compiled."""
    assert "times" in _load("diffrax-backsolve").unsupported(linear((0.0, 1.0), timed=True), _spec())


def test_checkpoints_must_be_positive():
    """An option that makes no sense is refused when the backend is made."""
    with pytest.raises(UserError, match="`checkpoints` must be positive"):
        _load("diffrax[checkpoints=0]")


def test_a_step_size_control_is_diffrax_default():
    """Safety 0.9 and factors from 0.2 to 10 with an integral controller, the same as the other libraries' here."""
    control = controller(_spec())
    values = (control.safety, control.factormin, control.factormax, control.pcoeff, control.icoeff, control.dcoeff)
    assert values == (0.9, 0.2, 10.0, 0, 1, 0)


@pytest.mark.parametrize("norm", [None, diffrax.adjoint_rms_seminorm])
def test_the_pi_controller_is_that_of_gustafsson(norm):
    """Its gains are those of our own, whatever the norm."""
    control = controller(_spec(controller="pi"), norm)
    assert (control.pcoeff, control.icoeff, control.dcoeff) == (0.4, 0.3, 0)
    assert (control.norm is norm) == (norm is not None)


def test_float32_states_stay_float32_in_a_process_of_64_bits():
    """Times are cast to the state, so that diffrax does not promote the state to the times."""
    Jax("cpu", "float64", 1)
    problem = linear((0.0, 1.0))
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (problem.field, problem.y0))
    assert _load("diffrax").solve(*small, problem.times, _spec(max_steps=16)).dtype == jnp.float32
