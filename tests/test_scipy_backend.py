"""`scipy`: LSODA and VODE, their steps, their failures, and what only they can be asked for."""

import warnings

import numpy as np
import pytest
import torch
from torch_problems import Net, Pair, flat, make_problem

from nodebench import installed, registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.scipy import Scipy, _Integration, _Vode
from nodebench.backends.solvers import IMPLICIT, LIBRARY, METHODS, MULTISTEP, TABLEAUS, method
from nodebench.conformance.torch_models import path_loss
from nodebench.errors import CellError, DivergedError, StepLimitError, UnknownNameError, UserError
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import Problem, SolverSpec

BACKEND = Scipy()
ALL = pytest.mark.parametrize("solver", [*sorted(MULTISTEP), "radau", "bdf"])


@pytest.fixture
def framework():
    return Torch("cpu", "float64", 1)


def _spec(solver, **changes):
    common = {"rtol": 1e-6, "atol": 1e-6, "first_step": 0.01, "max_steps": 2000, "dtype": "float64"}
    return SolverSpec(**{"solver": solver, **common, **changes})


def _exact(problem, framework):
    spec = SolverSpec(solver="dopri5", rtol=1e-11, atol=1e-11, first_step=0.01, max_steps=20_000, dtype="float64")
    return flat(registry.load("backend", "checkpoint", AbstractBackend).grad(problem, spec, framework))


@pytest.mark.parametrize("times", [(0.0, 0.8, 2.0), (1.0, 0.3, -1.0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("field", [Net, Pair])
@ALL
def test_gradients_are_those_of_an_exact_method(solver, field, times, framework):
    """States of one part or two, in either direction of time: the exact discrete gradient of a far finer solve."""
    problem = make_problem(field(), times)
    found = flat(BACKEND.grad(problem, _spec(solver, rtol=1e-9, atol=1e-9), framework))
    torch.testing.assert_close(found, _exact(problem, framework), rtol=1e-6, atol=1e-6)


@ALL
def test_evaluations_backward_are_one_vector_jacobian_product_each(solver, framework):
    """Every backward evaluation has its product; the gradient of times takes one evaluation more at each of them."""
    plain, timed = (
        BACKEND.gradient_step(make_problem(timed=wanted), _spec(solver), framework).evaluations()
        for wanted in (False, True)
    )
    assert plain.nfe_backward == plain.n_vjps > 0
    assert timed.n_vjps == plain.n_vjps
    assert timed.nfe_backward == plain.nfe_backward + 3


@ALL
def test_a_plain_solve_evaluates_as_the_forward_pass_does(solver, framework):
    """Without gradients the same steps are taken, and no graph is made."""
    problem, spec = make_problem(), _spec(solver)
    step = BACKEND.gradient_step(problem, spec, framework)
    assert step.forward_evaluations() == step.evaluations().nfe_forward
    with torch.no_grad():
        plain = BACKEND.solve(problem.field, problem.y0, problem.times, spec)
    taped = BACKEND.solve(problem.field, problem.y0, problem.times, spec)
    assert plain.grad_fn is None
    assert torch.equal(plain, taped.detach())


@ALL
def test_what_is_handed_in_is_not_written(solver, framework):
    """Initial state and times are after a gradient what they were."""
    problem = make_problem()
    y0, times = problem.y0.clone(), problem.times.clone()
    BACKEND.grad(problem, _spec(solver), framework)
    assert torch.equal(problem.y0, y0)
    assert torch.equal(problem.times, times)


@ALL
def test_output_times_cost_no_evaluations_forward(solver, framework):
    """States between the steps are interpolated: fifty output times are reached by the same evaluations as one."""
    one, many = (make_problem(times=times) for times in ((0.0, 2.0), tuple(np.linspace(0, 2, 51))))
    counts = [BACKEND.gradient_step(p, _spec(solver), framework).evaluations() for p in (one, many)]
    assert counts[0].nfe_forward == counts[1].nfe_forward
    assert counts[1].nfe_backward > 10 * counts[0].nfe_backward  # backward each is a start


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_rejected_steps_are_those_that_vode_counts(tolerance, monkeypatch):
    """What is told apart by the times of evaluations is what VODE reports in its work array."""
    made, initialise = [], _Vode.__init__
    monkeypatch.setattr(_Vode, "__init__", lambda self, *rest: made.append(self) or initialise(self, *rest))
    problem = make_problem(times=(0.0, 2.0))
    spec = _spec("vode-adams", rtol=tolerance, atol=tolerance, first_step=0.1)
    grid = BACKEND.grid(problem.field, problem.y0, problem.times, spec)
    counters = made[0]._ode._integrator.iwork  # 1-based: 11 steps, 21 failures of the corrector, 22 of the error test
    assert grid.n_accepted == counters[10]
    assert grid.n_rejected == counters[20] + counters[21] > 0


@pytest.mark.parametrize("solver", sorted(MULTISTEP))
def test_a_step_costs_at_least_one_evaluation(solver, framework):
    """Evaluations are one at the start and one to three for each step tried, where dopri5 takes six."""
    problem, spec = make_problem(times=(0.0, 2.0)), _spec(solver)
    grid = BACKEND.grid(problem.field, problem.y0, problem.times, spec)
    n = BACKEND.gradient_step(problem, spec, framework).forward_evaluations()
    tries = grid.n_accepted + grid.n_rejected
    assert 1 + tries <= n <= 1 + 3 * tries


@ALL
def test_saved_bytes_are_output_states_and_times(solver, framework):
    """Whatever the tolerance, three states of eight numbers and three times are kept."""
    saved = [
        BACKEND.gradient_step(make_problem(), _spec(solver, rtol=tol, atol=tol), framework).saved_bytes()
        for tol in (1e-3, 1e-9)
    ]
    assert saved[0] == saved[1] == (3 * 8 + 3) * 8


@ALL
def test_the_field_is_computed_in_its_own_dtype(solver):
    """In float32 field, states and gradients are float32, while SciPy's state is float64."""
    problem = make_problem(dtype=torch.float32)
    gradients = BACKEND.grad(problem, _spec(solver, rtol=1e-4, atol=1e-4), Torch("cpu", "float32", 1))
    assert {gradients.y0.dtype, *(g.dtype for g in gradients.params.values())} == {torch.float32}
    assert BACKEND.solve(problem.field, problem.y0, problem.times, _spec(solver)).dtype == torch.float32


@ALL
def test_parameters_that_are_not_used_have_gradients_of_zero(solver, framework):
    """They get zeros in their own shape."""
    gradients = BACKEND.grad(make_problem(), _spec(solver), framework)
    assert torch.equal(gradients.params["unused"], torch.zeros(3, dtype=torch.float64))


@ALL
def test_a_plain_callable_is_a_field_without_parameters(solver, framework):
    """A function solves and differentiates with respect to its state."""
    y0, times = torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    problem = Problem(lambda _, y: -y, y0, times, path_loss)
    gradients = BACKEND.grad(problem, _spec(solver, rtol=1e-9, atol=1e-9), framework)
    assert gradients.params == {}
    expected = torch.full((2,), 2 * np.exp(-2.0), dtype=torch.float64)
    torch.testing.assert_close(gradients.y0, expected, rtol=1e-6, atol=1e-6)


@ALL
def test_too_few_steps_are_named(solver, framework):
    """The limit holds for all steps of a solve together, rejected ones included."""
    problem, spec = make_problem(), _spec(solver)
    grid = BACKEND.grid(problem.field, problem.y0, problem.times, spec)
    tries = grid.n_accepted + grid.n_rejected
    BACKEND.grid(problem.field, problem.y0, problem.times, _spec(solver, max_steps=tries))
    with pytest.raises(StepLimitError, match="max_steps"):
        BACKEND.grid(problem.field, problem.y0, problem.times, _spec(solver, max_steps=tries - 1))
    # Backward it takes more, since each output time is a start.
    with pytest.raises(StepLimitError, match="max_steps"):
        BACKEND.grad(problem, _spec(solver, max_steps=tries), framework)


@ALL
def test_a_field_of_nan_is_diverged(solver, framework):
    """NaN raises `DivergedError` and no gradient of NaN, and SciPy's warning does not get out."""
    problem = make_problem()
    with torch.no_grad():
        problem.field.first.weight.fill_(float("nan"))
    with pytest.raises(DivergedError):
        BACKEND.grad(problem, _spec(solver), framework)


def test_an_integrator_that_gives_up_is_an_error_of_ours(framework):
    """A tolerance below rounding is refused by VODE; its warning is the reason of a `CellError`."""
    with pytest.raises(CellError, match=r"vode-adams gave up after t = 0; vode: "):
        BACKEND.grad(make_problem(), _spec("vode-adams", rtol=1e-17, atol=1e-17), framework)


def test_a_warning_of_the_field_stays_a_warning():
    """What the field says itself is neither swallowed nor taken for SciPy's."""

    def field(t, y):
        del t
        warnings.warn("the field says so", UserWarning, stacklevel=1)
        return -y

    y0, times = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="the field says so"):
        BACKEND.solve(field, y0, times, _spec("vode-adams"))


@ALL
def test_an_error_of_the_field_comes_through(solver, framework):
    """A field that returns another shape is the usual `UserError`."""
    y0, times = torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(UserError, match="shapes of the state"):
        BACKEND.grad(Problem(lambda _, y: y[:1], y0, times, path_loss), _spec(solver), framework)


@pytest.mark.parametrize("n_good", [0, 1, 2, 7])
@ALL
def test_a_field_that_has_raised_is_not_asked_again(solver, n_good):
    """VODE would ask on while the exception is pending, which the interpreter does not survive unharmed."""
    raised, n_calls = KeyboardInterrupt(), 0

    def derivative(_, y):
        nonlocal n_calls
        n_calls += 1
        if n_calls > n_good:
            raise raised
        return -y

    with pytest.raises(KeyboardInterrupt) as caught:
        list(_Integration(_spec(solver)).solve(derivative, np.ones(2), (0.0, 1.0)))
    assert caught.value is raised
    assert n_calls == n_good + 1


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_runge_kutta_methods_are_unsupported(solver):
    """The reason tells what to ask for; so does the error of a solve."""
    problem, spec = make_problem(), _spec(solver)
    reason = BACKEND.unsupported(problem, spec)
    assert "`lsoda`" in reason
    assert "`vode-adams`" in reason
    with pytest.raises(UserError, match="use `lsoda`"):
        BACKEND.solve(problem.field, problem.y0, problem.times, spec)


@ALL
def test_other_torch_backends_lack_multistep_methods(solver):
    """Each of them says so in a sentence that names it."""
    names = [name for name in registry.names("backend") if registry.describe("backend", name).framework == "torch"]
    for name in set(names) - {"scipy"}:
        assert f"`{solver}`" in registry.load("backend", name, AbstractBackend).unsupported(
            make_problem(), _spec(solver)
        )


def test_lsoda_is_unsupported_where_its_jacobian_is_too_large():
    """State and adjoint are 60,000 numbers here, the Jacobian 60,000²: VODE, which has none, takes them."""
    problem = Problem(lambda _, y: -y, torch.ones(30_000), torch.tensor([0.0, 1.0]), path_loss)
    assert "dense Jacobian" in BACKEND.unsupported(problem, _spec("lsoda"))
    assert BACKEND.unsupported(problem, _spec("vode-adams")) is None


def test_lsoda_is_unsupported_at_tolerances_that_it_would_raise():
    """Below a hundred roundings it would solve to another tolerance than asked for."""
    assert "no relative tolerance below" in BACKEND.unsupported(make_problem(), _spec("lsoda", rtol=1e-15))


def test_all_solvers_have_one_home():
    """Ours and the multistep methods are looked up alike and listed together; their names are different ones."""
    assert set(METHODS) == set(TABLEAUS) | set(IMPLICIT) | set(MULTISTEP) | set(LIBRARY)
    assert not set(TABLEAUS) & set(MULTISTEP)
    assert [row["name"] for row in installed.solvers()] == list(METHODS)
    with pytest.raises(UnknownNameError, match="did you mean 'lsoda'"):
        method("lsode")
