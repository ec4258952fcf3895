"""Every backend against the closed form of the linear task, through the registry and whatever its framework."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.matrix import Request, plan
from nodebench.bench.reference import ReferenceSolver, continuous_errors
from nodebench.bench.saved import reference_from
from nodebench.bench.worker.subject import build_problem, make_subject
from nodebench.conformance.subjects import MATRIX, STATES
from nodebench.frameworks.base import load_framework
from nodebench.problem import SolverSpec
from nodebench.tasks.linear.task import Linear, gradients

FRAMEWORKS = ("torch",)

VARIANTS = (
    "adjoint[norm=seminorm]",
    "checkpoint[checkpoints=1]",
    "checkpoint[checkpoints=3]",
    "direct[land=true]",
    "adjoint[land=true]",
    "interpolated[norm=seminorm]",
    "symplectic[land=true]",
    "torchdiffeq[land=true]",
    "torchdiffeq-adjoint[norm=seminorm]",
    "torchdiffeq-adjoint[land=true]",
)


def _framework_of(text):
    return registry.describe("backend", text).framework


BACKENDS = [text for text in (*registry.names("backend"), *VARIANTS) if _framework_of(text) in FRAMEWORKS]
ADAPTIVE = {"scipy": ("lsoda", "vode-adams")}
"""Adaptive solvers of a backend; dopri5 where nothing is said."""

CASES = [(text, solver) for text in BACKENDS for solver in ADAPTIVE.get(text, ("dopri5",))]
EACH = pytest.mark.parametrize(("text", "solver"), CASES, ids=[f"{text}-{solver}" for text, solver in CASES])
FIXED_ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4, "rk38": 4}


def _load(text):
    return registry.load("backend", text, AbstractBackend)


def _measure(text, spec, *, times=(0.0, 0.7, 2.0), matrix=MATRIX, y0=STATES, timed=False, loss="path"):
    """Gradients of a backend, and the exact ones; None for the former where the backend says it cannot."""
    backend = _load(text)
    framework = load_framework(backend.framework)("cpu", "float64", 1)
    target = Linear.models["linear"].targets[backend.framework]
    options = {"dimension": y0.shape[1], "times": tuple(times), "loss": loss, "differentiate_times": timed}
    model = framework.build(target, options, {"field.A": matrix}, lambda f, y, t: backend.solve(f, y, t, spec))
    problem = framework.problem(model, {"y0": y0})
    exact = gradients(matrix, y0, np.array(times), loss)
    if backend.unsupported(problem, spec) is not None:
        return None, exact
    return framework.to_numpy(backend.grad(problem, spec, framework)), exact


def _errors(found, exact):
    pairs = [(found.y0, exact.y0), (found.params["A"], exact.params["A"])]
    if found.times is not None:
        pairs.append((found.times, exact.times))
    return [np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-12) for a, b in pairs]


def _spec(**changes):
    return SolverSpec(**{"first_step": 0.05, "max_steps": 20_000, "dtype": "float64", **changes})


def test_every_own_backend_is_under_test():
    """The registry is the list: no installed backend of these frameworks is left out."""
    own = {name for name in registry.names("backend") if _framework_of(name) in FRAMEWORKS}
    assert own <= set(BACKENDS)
    assert {"adjoint", "checkpoint", "direct", "scipy", "torchdiffeq", "torchdiffeq-adjoint"} <= own


@pytest.mark.parametrize(("loss", "timed"), [("end", False), ("path", True)], ids=["end", "path-times"])
@EACH
def test_gradients_are_the_closed_form(text, solver, loss, timed):
    """y0, parameters and (where supported) times agree with the matrix exponential at a tight tolerance."""
    spec = _spec(solver=solver, rtol=1e-9, atol=1e-9)
    found, exact = _measure(text, spec, timed=timed, loss=loss)
    if found is None:
        timed = False
        found, exact = _measure(text, spec, loss=loss)
    assert (found.times is not None) == timed
    assert max(_errors(found, exact)) < 1e-6
    np.testing.assert_allclose(found.loss, exact.loss, rtol=1e-8)


@EACH
def test_errors_of_the_times_are_those_of_the_closed_form(text, solver):
    """Of a problem that asks for d/dtimes, as a cell is judged; what is not asked for has no error."""
    for options, is_asked in (("[differentiate_times=true]", True), ("", False)):
        request = Request(
            backends=(text,), tasks=(f"linear{options}",), solvers=(solver,), rtols=(1e-8,), max_steps=20_000,
            measure="gradient", preset="smoke", dtype="float64",
        )  # fmt: skip
        [cell] = plan(request).cells
        subject = make_subject(cell, "float64", 0.05)
        built = build_problem(subject, subject.inputs())
        gradients = subject.gradient_backend().grad(built.problem, subject.spec, subject.framework)
        exact = ReferenceSolver(subject.framework, None, built.inputs, built.problem, "", Path())
        found = continuous_errors(
            reference_from(subject.framework, gradients, ""), exact._states_alone(subject.spec), subject.spec
        )
        assert built.untimed == ""
        assert (found.grad_error_times is not None) == is_asked
        assert found.reference_error_times == (0.0 if is_asked else None)
        assert (found.grad_error_times or 0.0) < 1e-5


@EACH
def test_gradients_are_right_backwards_in_time(text, solver):
    """Decreasing output times give the gradients of the solve in that direction."""
    spec = _spec(solver=solver, rtol=1e-10, atol=1e-10)
    found, exact = _measure(text, spec, times=(1.0, 0.4, -0.5), timed=True)
    if found is None:
        found, exact = _measure(text, spec, times=(1.0, 0.4, -0.5))
    assert max(_errors(found, exact)) < 1e-7


@EACH
def test_the_error_falls_with_the_tolerance(text, solver):
    """Over four decades of tolerance the gradient error falls by at least three."""
    tolerances = (1e-4, 1e-8)
    worst = []
    for tolerance in tolerances:
        found, exact = _measure(text, _spec(solver=solver, rtol=tolerance, atol=tolerance))
        worst.append(max(_errors(found, exact)))
    assert worst[0] < 1e-2
    assert worst[1] < worst[0] * 1e-3


@pytest.mark.parametrize("text", BACKENDS)
@pytest.mark.parametrize("solver", FIXED_ORDERS)
def test_a_fixed_method_gives_gradients_of_its_order(text, solver):
    """Halving the step divides the error of the gradients by two to the order."""
    worst = []
    for h in (0.05, 0.025):
        found, exact = _measure(text, _spec(solver=solver, first_step=h), times=(0.0, 1.0, 2.0))
        if found is None:
            pytest.skip("the backend says that it does not support this")
        worst.append(max(_errors(found, exact)))
    assert np.log2(worst[0] / worst[1]) == pytest.approx(FIXED_ORDERS[solver], abs=0.4)


@st.composite
def _linear_problems(draw):
    d = draw(st.integers(1, 3))
    unit = st.floats(-1, 1, width=32)
    matrix = np.array(draw(st.lists(unit, min_size=d * d, max_size=d * d))).reshape(d, d)
    # Beside the drawn state the unit vectors: steps are chosen by the states alone, and a state at rest would let them
    # grow past what the gradient needs.
    y0 = np.vstack([draw(st.lists(unit, min_size=d, max_size=d)), np.eye(d)])
    gaps = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4))
    direction = draw(st.sampled_from([1.0, -1.0]))
    times = draw(st.floats(-2, 2)) + direction * np.cumsum([0.0, *gaps])
    return matrix, y0, tuple(times.tolist())


@EACH
@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(problem=_linear_problems())
@example(problem=(np.zeros((1, 1)), np.array([[0.0], [1.0]]), (1.0, 1.05)))  # a step that ends on the last output time
def test_gradients_are_right_for_any_linear_problem(text, solver, problem):
    """Whatever the matrix, the states, the number and order of output times: each gradient within 1e-6 of its size."""
    matrix, y0, times = problem
    # A multistep method holds its local error for a step alone, and takes many.
    tolerance = 1e-8 if solver == "dopri5" else 1e-10
    spec = _spec(solver=solver, rtol=tolerance, atol=tolerance)
    found, exact = _measure(text, spec, times=times, matrix=matrix, y0=y0, timed=True)
    for a, b in ((found.y0, exact.y0), (found.params["A"], exact.params["A"]), (found.times, exact.times)):
        assert np.linalg.norm(a - b) <= 1e-6 * max(1.0, np.linalg.norm(b))


@EACH
def test_the_grid_reaches_from_the_first_to_the_last_time(text, solver):
    """A backend that tells its steps tells them in order, from the first time to the last or past it."""
    backend = _load(text)
    framework = load_framework(backend.framework)("cpu", "float64", 1)
    task = Linear()
    inputs = task.problem("linear", 0, 2)
    target = task.models["linear"].targets[backend.framework]
    model = framework.build(target, task.model_options("linear"), inputs.weights, lambda *_: None)
    problem = framework.problem(model, inputs.batch)
    grid = backend.grid(problem.field, problem.y0, problem.times, _spec(solver=solver, rtol=1e-6, atol=1e-6))
    if grid is None:
        pytest.skip("the library does not tell")
    assert grid.times[0] == 0.0
    assert grid.times[-1] >= 2.0 - 1e-12
    assert list(grid.times) == sorted(set(grid.times))
