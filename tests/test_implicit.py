"""Implicit methods of our own solver: stages that are equations, their exact derivative, and how they fail."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch_problems import Net, Pair, flat, make_problem

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.runge_kutta.implicit import LARGEST_STATE
from nodebench.backends.solvers import IMPLICIT, tableau
from nodebench.errors import DivergedError, StepLimitError
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import Problem, SolverSpec

EXACT = ("checkpoint", "checkpoint[checkpoints=1]", "checkpoint[checkpoints=2]", "symplectic")
ALL = pytest.mark.parametrize("solver", sorted(IMPLICIT))
PAIRS = pytest.mark.parametrize("solver", ["kvaerno3", "kvaerno5"])


@pytest.fixture
def framework():
    return Torch("cpu", "float64", 1)


def _load(text):
    return registry.load("backend", text, AbstractBackend)


def _spec(solver, **changes):
    common = {"rtol": 1e-5, "atol": 1e-5, "first_step": 0.1, "max_steps": 1000, "dtype": "float64"}
    return SolverSpec(**{"solver": solver, **common, **changes})


def _gradient(text, problem, spec, framework):
    return flat(_load(text).grad(problem, spec, framework))


class Rates(nn.Module):
    """Robertson's reactions, whose rate constants are to be learnt on the scale of logarithms."""

    def __init__(self, rates=(0.04, 3e7, 1e4)):
        super().__init__()
        self.logs = nn.Parameter(torch.tensor(rates, dtype=torch.float64).log())

    def forward(self, t, y):
        del t
        (a, b, c), (first, second, third) = y.unbind(-1), self.logs.exp()
        return torch.stack([-first * a + third * b * c, first * a - third * b * c - second * b * b, second * b * b], -1)


def robertson(end=1e4, **changes):
    """The problem from its usual start, with a loss of its last component."""
    y0, times = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, end], dtype=torch.float64)
    return Problem(Rates(**changes), y0, times, lambda ys: ys[-1, :, 2].sum())


@ALL
@pytest.mark.parametrize("field", [Net, Pair])
@pytest.mark.parametrize("text", EXACT)
def test_redoing_steps_changes_nothing(text, field, solver, framework):
    """States, derivatives that steps hand on and stages are the very same numbers; so is the gradient, to rounding."""
    problem, spec = make_problem(field(), timed=True), _spec(solver)
    expected = _gradient("direct", problem, spec, framework)
    torch.testing.assert_close(_gradient(text, problem, spec, framework), expected, rtol=1e-12, atol=1e-12)


def _stage(problem, t, base, ha):
    """The derivative of a stage, solved for to rounding; differentiable, as the implicit function theorem has it."""
    y, unit = base.detach(), torch.eye(base.numel(), dtype=base.dtype)

    def field(state):
        return problem.field(t.detach(), state.view(base.shape)).reshape(-1)

    k = field(y.reshape(-1)).detach()
    for _ in range(50):
        state = y.reshape(-1) + ha.detach() * k
        by_y = torch.autograd.functional.jacobian(field, state)
        k = (k - torch.linalg.solve(unit - ha.detach() * by_y, k - field(state))).detach()
    residual = k - problem.field(t, base + ha * k.view(base.shape)).reshape(-1)
    return (k - torch.linalg.solve(unit - ha.detach() * by_y, residual)).view(base.shape)


def _discretised_loss(problem, method, fractions):
    """The loss of the same steps at frozen fractions of each output interval, taped by torch throughout."""
    y, ys, last = problem.y0, [problem.y0], None
    for (begin, end), marks in zip(pairwise(problem.times), fractions, strict=True):
        for low, high in pairwise(marks):
            t, h, k = begin + (end - begin) * low, (end - begin) * (high - low), []
            for c, row, a_ii in zip(method.c, method.a, method.diagonal, strict=True):
                base = y + h * sum((a * kj for a, kj in zip(row, k, strict=True)), start=torch.zeros_like(y))
                handed_on = method.fsal and last is not None
                explicit = last if handed_on else problem.field(t + c * h, base) if a_ii == 0 else None
                k.append(explicit if a_ii == 0 else _stage(problem, t + c * h, base, h * a_ii))
            y, last = y + h * sum(b * ki for b, ki in zip(method.b, k, strict=True)), k[-1]
        ys.append(y)
    return problem.loss(torch.stack(ys))


@ALL
def test_direct_is_the_derivative_of_its_discretisation(solver, framework):
    """It equals autograd through the same steps, their stages solved to rounding, for y0, parameters and times."""
    problem, spec = make_problem(timed=True), _spec(solver, rtol=1e-6, atol=1e-6, first_step=0.2)
    grid = np.array(_load("direct[land=true]").grid(problem.field, problem.y0, problem.times, spec).times)
    fractions = [
        [float((t - a) / (b - a)) for t in grid[(grid >= a) & (grid <= b)]] for a, b in ((0.0, 0.8), (0.8, 2.0))
    ]
    y0, times = problem.y0.clone().requires_grad_(), problem.times.clone().requires_grad_()
    taped = Problem(problem.field, y0, times, problem.loss)
    params = tuple(problem.field.parameters())
    loss = _discretised_loss(taped, tableau(solver), fractions)
    found = torch.autograd.grad(loss, (y0, *params, times), allow_unused=True)
    pairs = zip((y0, *params, times), found, strict=True)
    expected = torch.cat([(torch.zeros_like(x) if g is None else g).reshape(-1) for x, g in pairs])
    torch.testing.assert_close(_gradient("direct", problem, spec, framework), expected, rtol=1e-6, atol=1e-6)


@PAIRS
@pytest.mark.parametrize("text", ["direct", "checkpoint", "symplectic"])
def test_gradients_of_a_stiff_problem_are_right(text, solver, framework):
    """They agree with those of a far finer solve by the other method."""
    problem = robertson(end=10.0)
    fine = _spec("kvaerno5", rtol=1e-9, atol=1e-13, first_step=1e-6, max_steps=20_000)
    expected = _gradient("checkpoint", problem, fine, framework)
    found = _gradient(text, problem, _spec(solver, rtol=1e-5, atol=1e-9, first_step=1e-4), framework)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_a_stiff_problem_takes_few_steps():
    """Robertson's take an implicit method under 200; an explicit one is at its limit, and advised."""
    problem, spec = robertson(1e4), _spec("kvaerno5", rtol=1e-6, atol=1e-10, first_step=1e-4)
    grid = _load("checkpoint").grid(problem.field, problem.y0, problem.times, spec)
    assert grid.n_accepted + grid.n_rejected == grid.n_factorisations < 200
    assert grid.n_jacobians == grid.n_accepted  # those of a rejected step serve the next try
    with torch.no_grad():
        y = _load("checkpoint").solve(problem.field, problem.y0, problem.times, spec)[-1, 0]
    assert y.sum().item() == pytest.approx(1.0, abs=1e-9)
    explicit = _spec("dopri5", rtol=1e-6, atol=1e-10, first_step=1e-4)
    with pytest.raises(StepLimitError, match="an implicit solver such as `kvaerno5`"), torch.no_grad():
        _load("checkpoint").solve(problem.field, problem.y0, problem.times, explicit)


@PAIRS
@pytest.mark.parametrize("text", ["adjoint", "adjoint[norm=seminorm]", "interpolated"])
def test_the_adjoint_equation_is_solved_by_the_same_method(text, solver, framework):
    """Of a field that is stiff in neither direction, it gives the gradient to the order of the tolerance."""
    backend, problem, spec = _load(text), make_problem(timed=True), _spec(solver, rtol=1e-7, atol=1e-7)
    if backend.unsupported(problem, spec) is not None:
        assert (text, solver) == ("interpolated", "kvaerno5")  # which has no dense output
        return
    expected = _gradient("checkpoint", problem, _spec("dopri5", rtol=1e-10, atol=1e-10), framework)
    found = flat(backend.grad(problem, spec, framework))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["direct[compile=true]", "adjoint[compile=true]", "reversible", "torchdiffeq"])
def test_what_cannot_take_implicit_steps_says_so(text):
    """In a sentence that names the solver, before anything is measured."""
    assert "`kvaerno5`" in _load(text).unsupported(make_problem(), _spec("kvaerno5"))


def test_a_state_that_is_too_large_is_refused():
    """With its size, and what to take instead."""
    problem = make_problem()
    large = Problem(problem.field, torch.zeros(LARGEST_STATE, 2), problem.times, problem.loss)
    reason = _load("direct").unsupported(large, _spec("kvaerno3"))
    assert f"the state has {2 * LARGEST_STATE} numbers" in reason
    assert "`dopri5`" in reason


class Broken(nn.Module):
    """A field whose values are right and whose Jacobian is not finite, or makes Newton's matrix singular."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.rate = kind, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t, y):
        del t
        if self.kind == "nan":
            return self.rate * torch.where(y > 0, torch.sqrt(y.clamp(min=0.0) * 0.0), 0.0)
        return self.rate * y * 2


@pytest.mark.parametrize("solver", ["implicit-euler", "kvaerno5"])
def test_a_jacobian_that_is_not_finite_is_told(solver):
    """The derivative of a root at zero is infinite, though its value is not."""
    problem = make_problem(Broken("nan"))
    with pytest.raises(DivergedError, match="Jacobian of the field is not finite at t = 0"):
        _load("direct").solve(problem.field, problem.y0.abs() + 1, problem.times, _spec(solver))


def test_a_singular_matrix_ends_equal_steps_and_shortens_others(framework):
    """Steps of 0.5 of y' = 2 y have the matrix 1 - 1: of one length there is no other."""
    problem = make_problem(Broken("singular"), times=(0.0, 1.0))
    with pytest.raises(DivergedError, match=r"does not converge at t = 0, in a step of 0\.5; take shorter steps"):
        _load("direct").solve(problem.field, problem.y0, problem.times, _spec("implicit-euler", first_step=0.5))
    spec = _spec("kvaerno5", first_step=0.5 / 0.26, rtol=1e-3, atol=1e-3)
    assert torch.isfinite(_gradient("direct", problem, spec, framework)).all()
