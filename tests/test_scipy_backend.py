"""`scipy`: LSODA and VODE, their steps, their failures, and what only they can be asked for."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from nodebench import catalogue, registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.scipy import Scipy, _Vode
from nodebench.errors import CellError, DivergedError, StepLimitError, UnknownNameError, UserError
from nodebench.frameworks.torch import Torch
from nodebench.problem import Problem, SolverSpec
from nodebench.solvers.methods import METHODS, MULTISTEP, method
from nodebench.solvers.tableau import TABLEAUS

BACKEND = Scipy()
BOTH = pytest.mark.parametrize("solver", sorted(MULTISTEP))


class Net(nn.Module):
    """A small field that depends on time and has a parameter that it does not use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, t, y):
        time = torch.ones_like(y[:, :1]) * t
        return self.second(torch.tanh(self.first(torch.cat([y, time], dim=1))))


class Pair(nn.Module):
    """A field of two parts of different shapes, the second of which takes a gradient within."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Linear(2, 2)

    def forward(self, t, y):
        del t
        taped = torch.is_grad_enabled()
        with torch.enable_grad():
            z = y[0].requires_grad_() if taped else y[0].detach().requires_grad_()
            dz = torch.tanh(self.net(z))
            trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
        return dz, -trace[:, None]


@pytest.fixture
def framework():
    return Torch("cpu", "float64", 1)


def _spec(solver, **changes):
    common = {"rtol": 1e-6, "atol": 1e-6, "first_step": 0.01, "max_steps": 2000, "dtype": "float64"}
    return SolverSpec(**{"solver": solver, **common, **changes})


def _sum_of_squares(ys):
    parts = ys if isinstance(ys, tuple) else (ys,)
    return sum(part[1:].pow(2).sum() for part in parts)


def _problem(field=None, times=(0.0, 0.8, 2.0), *, timed=False, dtype=torch.float64):
    field = (field or Net()).to(dtype)
    torch.manual_seed(0)
    y0 = torch.randn(4, 2, dtype=dtype)
    if isinstance(field, Pair):
        y0 = (y0, torch.zeros(4, 1, dtype=dtype))
    return Problem(field, y0, torch.tensor(times, dtype=torch.float64), _sum_of_squares, timed)


def _flat(gradients):
    y0 = gradients.y0 if isinstance(gradients.y0, tuple) else (gradients.y0,)
    extra = [] if gradients.times is None else [gradients.times]
    return torch.cat([g.reshape(-1) for g in (*y0, *gradients.params.values(), *extra)])


def _exact(problem, framework):
    spec = SolverSpec(solver="dopri5", rtol=1e-11, atol=1e-11, first_step=0.01, max_steps=20_000, dtype="float64")
    return _flat(registry.load("backend", "checkpoint", AbstractBackend).grad(problem, spec, framework))


@pytest.mark.parametrize("times", [(0.0, 0.8, 2.0), (1.0, 0.3, -1.0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("field", [Net, Pair])
@BOTH
def test_gradients_are_those_of_an_exact_method(solver, field, times, framework):
    """States of one part or two, in either direction of time: the exact discrete gradient of a far finer solve."""
    problem = _problem(field(), times)
    found = _flat(BACKEND.grad(problem, _spec(solver, rtol=1e-9, atol=1e-9), framework))
    torch.testing.assert_close(found, _exact(problem, framework), rtol=1e-6, atol=1e-6)


@BOTH
def test_evaluations_backward_are_one_vector_jacobian_product_each(solver, framework):
    """Every backward evaluation has its product; the gradient of times takes one evaluation more at each of them."""
    plain, timed = (
        BACKEND.gradient_step(_problem(timed=wanted), _spec(solver), framework).evaluations()
        for wanted in (False, True)
    )
    assert plain.nfe_backward == plain.n_vjps > 0
    assert timed.n_vjps == plain.n_vjps
    assert timed.nfe_backward == plain.nfe_backward + 3


@BOTH
def test_a_plain_solve_evaluates_as_the_forward_pass_does(solver, framework):
    """Without gradients the same steps are taken, and no graph is made."""
    problem, spec = _problem(), _spec(solver)
    step = BACKEND.gradient_step(problem, spec, framework)
    assert step.forward_evaluations() == step.evaluations().nfe_forward
    with torch.no_grad():
        plain = BACKEND.solve(problem.field, problem.y0, problem.times, spec)
    taped = BACKEND.solve(problem.field, problem.y0, problem.times, spec)
    assert plain.grad_fn is None
    assert torch.equal(plain, taped.detach())


@BOTH
def test_what_is_handed_in_is_not_written(solver, framework):
    """Initial state and times are after a gradient what they were."""
    problem = _problem()
    y0, times = problem.y0.clone(), problem.times.clone()
    BACKEND.grad(problem, _spec(solver), framework)
    assert torch.equal(problem.y0, y0)
    assert torch.equal(problem.times, times)


@BOTH
def test_output_times_cost_no_evaluations_forward(solver, framework):
    """States between the steps are interpolated: fifty output times are reached by the same evaluations as one."""
    one, many = (_problem(times=times) for times in ((0.0, 2.0), tuple(np.linspace(0, 2, 51))))
    counts = [BACKEND.gradient_step(p, _spec(solver), framework).evaluations() for p in (one, many)]
    assert counts[0].nfe_forward == counts[1].nfe_forward
    assert counts[1].nfe_backward > 10 * counts[0].nfe_backward  # backward each is a start


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_rejected_steps_are_those_that_vode_counts(tolerance, monkeypatch):
    """What is told apart by the times of evaluations is what VODE reports in its work array."""
    made, initialise = [], _Vode.__init__
    monkeypatch.setattr(_Vode, "__init__", lambda self, *rest: made.append(self) or initialise(self, *rest))
    problem = _problem(times=(0.0, 2.0))
    spec = _spec("vode-adams", rtol=tolerance, atol=tolerance, first_step=0.1)
    grid = BACKEND.grid(problem.field, problem.y0, problem.times, spec)
    counters = made[0]._ode._integrator.iwork  # 1-based: 11 steps, 21 failures of the corrector, 22 of the error test
    assert grid.n_accepted == counters[10]
    assert grid.n_rejected == counters[20] + counters[21] > 0


@BOTH
def test_a_step_costs_at_least_one_evaluation(solver, framework):
    """Evaluations are one at the start and one to three for each step tried, where dopri5 takes six."""
    problem, spec = _problem(times=(0.0, 2.0)), _spec(solver)
    grid = BACKEND.grid(problem.field, problem.y0, problem.times, spec)
    n = BACKEND.gradient_step(problem, spec, framework).forward_evaluations()
    tries = grid.n_accepted + grid.n_rejected
    assert 1 + tries <= n <= 1 + 3 * tries


@BOTH
def test_saved_bytes_are_output_states_and_times(solver, framework):
    """Whatever the tolerance, three states of eight numbers and three times are kept."""
    saved = [
        BACKEND.gradient_step(_problem(), _spec(solver, rtol=tol, atol=tol), framework).saved_bytes()
        for tol in (1e-3, 1e-9)
    ]
    assert saved[0] == saved[1] == (3 * 8 + 3) * 8


@BOTH
def test_the_field_is_computed_in_its_own_dtype(solver):
    """In float32 field, states and gradients are float32, while SciPy's state is float64."""
    problem = _problem(dtype=torch.float32)
    gradients = BACKEND.grad(problem, _spec(solver, rtol=1e-4, atol=1e-4), Torch("cpu", "float32", 1))
    assert {gradients.y0.dtype, *(g.dtype for g in gradients.params.values())} == {torch.float32}
    assert BACKEND.solve(problem.field, problem.y0, problem.times, _spec(solver)).dtype == torch.float32


@BOTH
def test_parameters_that_are_not_used_have_gradients_of_zero(solver, framework):
    """They get zeros in their own shape."""
    gradients = BACKEND.grad(_problem(), _spec(solver), framework)
    assert torch.equal(gradients.params["unused"], torch.zeros(3, dtype=torch.float64))


@BOTH
def test_a_plain_callable_is_a_field_without_parameters(solver, framework):
    """A function solves and differentiates with respect to its state."""
    y0, times = torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    problem = Problem(lambda _, y: -y, y0, times, _sum_of_squares)
    gradients = BACKEND.grad(problem, _spec(solver, rtol=1e-9, atol=1e-9), framework)
    assert gradients.params == {}
    expected = torch.full((2,), 2 * np.exp(-2.0), dtype=torch.float64)
    torch.testing.assert_close(gradients.y0, expected, rtol=1e-6, atol=1e-6)


@BOTH
def test_too_few_steps_are_named(solver, framework):
    """The limit holds for all steps of a solve together, rejected ones included."""
    problem, spec = _problem(), _spec(solver)
    grid = BACKEND.grid(problem.field, problem.y0, problem.times, spec)
    tries = grid.n_accepted + grid.n_rejected
    BACKEND.grid(problem.field, problem.y0, problem.times, _spec(solver, max_steps=tries))
    with pytest.raises(StepLimitError, match="max_steps"):
        BACKEND.grid(problem.field, problem.y0, problem.times, _spec(solver, max_steps=tries - 1))
    # Backward it takes more, since each output time is a start.
    with pytest.raises(StepLimitError, match="max_steps"):
        BACKEND.grad(problem, _spec(solver, max_steps=tries), framework)


@BOTH
def test_a_field_of_nan_is_diverged(solver, framework):
    """NaN raises `DivergedError` and no gradient of NaN, and SciPy's warning does not get out."""
    problem = _problem()
    with torch.no_grad():
        problem.field.first.weight.fill_(float("nan"))
    with pytest.raises(DivergedError):
        BACKEND.grad(problem, _spec(solver), framework)


def test_an_integrator_that_gives_up_is_an_error_of_ours(framework):
    """A tolerance below rounding is refused by VODE; its warning is the reason of a `CellError`."""
    with pytest.raises(CellError, match=r"vode-adams gave up after t = 0; vode: "):
        BACKEND.grad(_problem(), _spec("vode-adams", rtol=1e-17, atol=1e-17), framework)


def test_a_warning_of_the_field_stays_a_warning():
    """What the field says itself is neither swallowed nor taken for SciPy's."""

    def field(t, y):
        del t
        warnings.warn("the field says so", UserWarning, stacklevel=1)
        return -y

    y0, times = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="the field says so"):
        BACKEND.solve(field, y0, times, _spec("vode-adams"))


@BOTH
def test_an_error_of_the_field_comes_through(solver, framework):
    """A field that returns another shape is the usual `UserError`."""
    y0, times = torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(UserError, match="shapes of the state"):
        BACKEND.grad(Problem(lambda _, y: y[:1], y0, times, _sum_of_squares), _spec(solver), framework)


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_runge_kutta_methods_are_unsupported(solver):
    """The reason tells what to ask for; so does the error of a solve."""
    problem, spec = _problem(), _spec(solver)
    reason = BACKEND.unsupported(problem, spec)
    assert "--solver lsoda" in reason
    assert "--solver vode-adams" in reason
    with pytest.raises(UserError, match="--solver lsoda"):
        BACKEND.solve(problem.field, problem.y0, problem.times, spec)


@BOTH
def test_other_torch_backends_lack_multistep_methods(solver):
    """Each of them says so in a sentence that names it."""
    names = [name for name in registry.names("backend") if registry.describe("backend", name).framework == "torch"]
    for name in set(names) - {"scipy"}:
        assert f"`{solver}`" in registry.load("backend", name, AbstractBackend).unsupported(_problem(), _spec(solver))


def test_lsoda_is_unsupported_where_its_jacobian_is_too_large():
    """State and adjoint are 60,000 numbers here, the Jacobian 60,000²: VODE, which has none, takes them."""
    problem = Problem(lambda _, y: -y, torch.ones(30_000), torch.tensor([0.0, 1.0]), _sum_of_squares)
    assert "dense Jacobian" in BACKEND.unsupported(problem, _spec("lsoda"))
    assert BACKEND.unsupported(problem, _spec("vode-adams")) is None


def test_lsoda_is_unsupported_at_tolerances_that_it_would_raise():
    """Below a hundred roundings it would solve to another tolerance than asked for."""
    assert "no relative tolerance below" in BACKEND.unsupported(_problem(), _spec("lsoda", rtol=1e-15))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.Dropout(0.5)], ids=["batch norm", "dropout"])
def test_layers_that_change_between_evaluations_are_unsupported(layer):
    """Batch normalisation and dropout are refused with a reason."""
    field = nn.Sequential(layer)
    assert type(layer).__name__ in BACKEND.unsupported(_problem(field), _spec("vode-adams"))


def test_all_solvers_have_one_home():
    """Ours and the multistep methods are looked up alike and listed together; their names are different ones."""
    assert set(METHODS) == set(TABLEAUS) | set(MULTISTEP)
    assert not set(TABLEAUS) & set(MULTISTEP)
    assert [row["name"] for row in catalogue.solvers()] == list(METHODS)
    with pytest.raises(UnknownNameError, match="did you mean 'lsoda'"):
        method("lsode")
