"""What is promised of the torch backends beyond right gradients: counts, memory, exactness, errors."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchdiffeq
from torch import nn
from torch_problems import Net, Pair, flat, make_problem

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.runge_kutta.dense_output import interpolant
from nodebench.backends.runge_kutta.solve import SolveSetup, solve_plain
from nodebench.backends.solvers import TABLEAUS
from nodebench.conformance.torch_models import path_loss
from nodebench.errors import DivergedError, StepLimitError, UserError
from nodebench.frameworks.torch.field import layout
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import Problem, SolverSpec

CONTINUOUS = ("adjoint", "adjoint[norm=seminorm]", "interpolated", "interpolated[norm=seminorm]")
EXACT = ("direct", "checkpoint", "checkpoint[checkpoints=1]", "checkpoint[checkpoints=2]", "symplectic")
OWN = (*EXACT, *CONTINUOUS, "reversible")
ALL = (*OWN, "torchdiffeq", "torchdiffeq-adjoint")
FIXED = {"euler": 1, "midpoint": 2, "rk4": 4, "rk38": 4}
OWN_STAGES = {"heun": 2, "bosh3": 3, "dopri5": 6, "tsit5": 6, "dopri8": 13}


@pytest.fixture
def framework():
    return Torch("cpu", "float64", 1)


def _load(text):
    return registry.load("backend", text, AbstractBackend)


TOLERANCES = {"heun": 1e-3, "bosh3": 1e-4}
"""Of methods of low order, which would take hundreds of steps at 1e-5."""


def _spec(**changes):
    tolerance = TOLERANCES.get(changes.get("solver"), 1e-5)
    return SolverSpec(**{"rtol": tolerance, "atol": tolerance, "first_step": 0.1, "dtype": "float64", **changes})


def _gradient(text, problem, spec, framework):
    return flat(_load(text).grad(problem, spec, framework))


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
@pytest.mark.parametrize("text", EXACT[1:])
def test_checkpointing_changes_nothing(text, solver, framework):
    """Recomputed gradients equal those of `direct` on the same grid to rounding, times included."""
    problem, spec = make_problem(timed=True), _spec(solver=solver)
    expected = _gradient("direct", problem, spec, framework)
    torch.testing.assert_close(_gradient(text, problem, spec, framework), expected, rtol=1e-12, atol=1e-12)


def _discretised_loss(problem, spec, fractions):
    """The loss of the same Runge-Kutta steps at frozen fractions of each output interval, taped by torch throughout."""
    method = TABLEAUS[spec.solver]
    y, ys = problem.y0, [problem.y0]
    for (begin, end), marks in zip(pairwise(problem.times), fractions, strict=True):
        for low, high in pairwise(marks):
            t, h = begin + (end - begin) * low, (end - begin) * (high - low)
            k = []
            for c, row in zip(method.c, method.a, strict=True):
                stage = y + h * sum((a * kj for a, kj in zip(row, k, strict=True)), start=torch.zeros_like(y))
                k.append(problem.field(t + c * h, stage))
            y = y + h * sum(b * ki for b, ki in zip(method.b, k, strict=True))
        ys.append(y)
    return problem.loss(torch.stack(ys))


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_direct_is_the_derivative_of_its_discretisation(solver, framework):
    """It equals autograd through the same steps, written out plainly, for y0, parameters and times."""
    problem, spec = make_problem(timed=True), _spec(solver=solver)
    grid = np.array(_load("direct[land=true]").grid(problem.field, problem.y0, problem.times, spec).times)
    fractions = []
    for a, b in ((0.0, 0.8), (0.8, 2.0)):
        inside = grid[(grid >= a) & (grid <= b)]
        fractions.append([float((t - a) / (b - a)) for t in inside])
    y0, times = problem.y0.clone().requires_grad_(), problem.times.clone().requires_grad_()
    taped = Problem(problem.field, y0, times, problem.loss)
    params = tuple(problem.field.parameters())
    found = torch.autograd.grad(_discretised_loss(taped, spec, fractions), (y0, *params, times), allow_unused=True)
    pairs = zip((y0, *params, times), found, strict=True)
    expected = torch.cat([(torch.zeros_like(x) if g is None else g).reshape(-1) for x, g in pairs])
    torch.testing.assert_close(_gradient("direct", problem, spec, framework), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", EXACT)
def test_finite_differences_agree(text, framework):
    """Along random directions of y0, parameters and times the gradient is the central difference of the solve."""
    problem, spec = make_problem(times=(0.0, 0.5, 1.0), timed=True), _spec(solver="rk4", first_step=0.3)
    gradients = _load(text).grad(problem, spec, framework)
    generator = torch.Generator().manual_seed(3)
    params = dict(problem.field.named_parameters())
    variables = [problem.y0, problem.times, *params.values()]
    found = [gradients.y0, gradients.times, *(gradients.params[name] for name in params)]
    for variable, gradient in zip(variables, found, strict=True):
        direction = torch.randn(variable.shape, generator=generator, dtype=torch.float64)
        values = []
        for shift in (1e-5, -2e-5):  # first to the one side of where it was, then as far to the other
            with torch.no_grad():
                variable.add_(direction, alpha=shift)
                ys = _load(text).solve(problem.field, problem.y0, problem.times, spec)
            values.append(problem.loss(ys).item())
        with torch.no_grad():
            variable.add_(direction, alpha=1e-5)
        difference = (values[0] - values[1]) / 2e-5
        assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
@pytest.mark.parametrize("text", [*EXACT, *CONTINUOUS, "torchdiffeq", "torchdiffeq-adjoint"])
def test_counts_equal_their_closed_forms(text, solver, framework):
    """Evaluations and VJPs follow from the steps, for every solver and backend."""
    backend, problem, spec = _load(text), make_problem(), _spec(solver=solver, max_steps=2000)
    if backend.unsupported(problem, spec) is not None:
        pytest.skip("the backend says that it does not support this")
    grid = backend.grid(problem.field, problem.y0, problem.times, spec)
    counted = backend.gradient_step(problem, spec, framework).evaluations()
    adaptive = TABLEAUS[solver].adaptive
    stages = OWN_STAGES[solver] if adaptive else FIXED[solver]
    steps = grid.n_accepted + grid.n_rejected
    assert counted.nfe_forward == stages * steps + adaptive
    if text in ("direct", "torchdiffeq"):
        assert counted.nfe_backward == 0
        assert counted.n_vjps == stages * grid.n_accepted + (text == "torchdiffeq" and adaptive)
    elif text == "checkpoint":
        assert counted.nfe_backward == counted.n_vjps == stages * grid.n_accepted
    elif text == "symplectic":
        # All stages with a graph, and all but the last before, without one, to know where they are.
        assert counted.nfe_backward == (2 * stages - 1) * grid.n_accepted
        assert counted.n_vjps == stages * grid.n_accepted
    elif text.startswith("checkpoint"):
        assert counted.nfe_backward > counted.n_vjps == stages * grid.n_accepted
    elif text in CONTINUOUS:
        # One evaluation where each of the two output times is left, and whole steps.
        assert counted.nfe_backward == counted.n_vjps
        assert (counted.nfe_backward - 2 * adaptive) % stages == 0


def test_torchdiffeq_left_to_choose_its_first_step_pays_one_evaluation_more(framework):
    """Its forward count is then 2 + 6 x steps for dopri5."""
    backend, problem, spec = _load("torchdiffeq"), make_problem(), _spec(first_step=None)
    grid = backend.grid(problem.field, problem.y0, problem.times, spec)
    counted = backend.gradient_step(problem, spec, framework).evaluations()
    assert counted.nfe_forward == 2 + 6 * (grid.n_accepted + grid.n_rejected)


def test_rejected_steps_are_counted_and_leave_no_vjps(framework):
    """A first step far too long costs evaluations, and neither VJPs nor memory."""
    backend, problem = _load("direct"), make_problem(times=(0.0, 4.0))
    long, short = (_spec(rtol=1e-9, atol=1e-9, first_step=h) for h in (4.0, 0.05))
    grid = backend.grid(problem.field, problem.y0, problem.times, long)
    step = backend.gradient_step(problem, long, framework)
    counted = step.evaluations()
    assert grid.n_rejected > 0
    assert counted.nfe_forward == 1 + 6 * (grid.n_accepted + grid.n_rejected)
    assert counted.n_vjps == 6 * grid.n_accepted
    other = backend.grid(problem.field, problem.y0, problem.times, short)
    kept = backend.gradient_step(problem, short, framework).saved_bytes() / other.n_accepted
    assert step.saved_bytes() / grid.n_accepted == pytest.approx(kept, rel=0.05)


def _saved(text, n_steps, framework):
    spec = _spec(solver="rk4", first_step=1 / n_steps, max_steps=1000)
    return _load(text).gradient_step(make_problem(times=(0.0, 1.0)), spec, framework).saved_bytes()


def test_saved_bytes_of_direct_are_proportional_to_the_steps(framework):
    """Sixteen times the steps keep sixteen times the bytes, but for the output states."""
    saved = [_saved("direct", n, framework) for n in (10, 40, 160)]
    assert saved[1] - saved[0] == pytest.approx((saved[2] - saved[1]) / 4, rel=1e-3)
    assert np.log(saved[2] / saved[0]) / np.log(16) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("text", ["adjoint", "checkpoint[checkpoints=2]", "reversible"])
def test_saved_bytes_of_the_adjoint_do_not_grow_with_the_steps(text, framework):
    """The exponent over 10 to 160 steps is below 0.1."""
    saved = [_saved(text, n, framework) for n in (10, 160)]
    assert np.log(saved[1] / saved[0]) / np.log(16) < 0.1


@pytest.mark.parametrize("text", ["checkpoint", "symplectic"])
def test_saved_bytes_of_checkpoints_are_one_state_per_step(text, framework):
    """Each further step keeps the state, 64 bytes here, and no graph."""
    assert _saved(text, 20, framework) - _saved(text, 10, framework) == 10 * 4 * 2 * 8


def test_saved_bytes_of_interpolated_are_five_states_per_step(framework):
    """The state at the beginning of a step and the four coefficients of its polynomial."""
    backend, saved, steps = _load("interpolated"), [], []
    for tolerance in (1e-4, 1e-9):
        spec = _spec(rtol=tolerance, atol=tolerance)
        saved.append(backend.gradient_step(make_problem(), spec, framework).saved_bytes())
        steps.append(backend.grid(make_problem().field, make_problem().y0, make_problem().times, spec).n_accepted)
    assert saved[1] - saved[0] == 5 * 4 * 2 * 8 * (steps[1] - steps[0]) > 0


@pytest.mark.parametrize("text", ALL)
def test_a_tuple_state_with_a_gradient_inside_is_differentiated(text, framework):
    """A field of two parts that calls autograd itself gets the gradients of a plain, tight solve."""
    problem, spec = make_problem(Pair()), _spec(rtol=1e-8, atol=1e-8, max_steps=2000)
    expected = _gradient("torchdiffeq", problem, _spec(rtol=1e-10, atol=1e-10, max_steps=5000), framework)
    torch.testing.assert_close(_gradient(text, problem, spec, framework), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ALL)
def test_unused_parameters_have_gradients_of_zero(text, framework):
    """They get zeros in their own shape, not None."""
    gradients = _load(text).grad(make_problem(), _spec(), framework)
    assert torch.equal(gradients.params["unused"], torch.zeros(3, dtype=torch.float64))
    assert gradients.params["first.weight"].abs().sum() > 0


@pytest.mark.parametrize("text", ALL)
def test_a_plain_callable_is_a_field_without_parameters(text, framework):
    """A function solves and differentiates with respect to its state."""
    y0 = torch.ones(2, dtype=torch.float64)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    problem = Problem(lambda _, y: -y, y0, times, path_loss)
    gradients = _load(text).grad(problem, _spec(rtol=1e-9, atol=1e-9), framework)
    assert gradients.params == {}
    torch.testing.assert_close(gradients.y0, torch.full((2,), 2 * np.exp(-2.0), dtype=torch.float64))


@pytest.mark.parametrize("text", ALL)
def test_a_solve_is_a_layer(text):
    """`loss.backward()` through what comes before and after fills the gradients of both."""
    backend = _load(text)
    before, field, after = nn.Linear(3, 2), Net(), nn.Linear(2, 1)
    ys = backend.solve(field, before(torch.randn(5, 3)), torch.tensor([0.0, 1.0], dtype=torch.float64), _spec())
    after(ys[-1]).sum().backward()
    used = [*before.parameters(), *after.parameters(), field.first.weight, field.second.weight]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in used[:-3])
    assert all(p.grad.isfinite().all() for p in used)


@pytest.mark.parametrize("text", OWN)
def test_without_gradients_nothing_is_kept(text):
    """Under no_grad the states are the same and carry no graph."""
    backend, problem = _load(text), make_problem()
    with torch.no_grad():
        plain = backend.solve(problem.field, problem.y0, problem.times, _spec())
    taped = backend.solve(problem.field, problem.y0, problem.times, _spec())
    assert plain.grad_fn is None
    assert torch.equal(plain, taped.detach())


def test_a_second_backward_pass_through_direct_is_refused():
    """The graphs are freed as they are read; reading them again is an error, not a gradient of zero."""
    problem = make_problem()
    y0 = problem.y0.requires_grad_()
    loss = _load("direct").solve(problem.field, y0, problem.times, _spec()).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(UserError, match="solve again"):
        loss.backward()


@pytest.mark.parametrize("text", ["adjoint", "adjoint[norm=seminorm]"])
def test_many_output_times_do_not_restart_the_adjoint(text, framework):
    """Fifty output times cost about one step each, where a restart costs several."""
    problem = make_problem(times=tuple(np.linspace(0, 2, 51)))
    counted = _load(text).gradient_step(problem, _spec(), framework).evaluations()
    assert counted.nfe_backward <= 50 * 7 + 30


@pytest.mark.parametrize("text", ALL)
def test_too_few_steps_are_named(text, framework):
    """The limit of steps raises `StepLimitError`, which says what to raise."""
    with pytest.raises(StepLimitError, match="max_steps"):
        _load(text).grad(make_problem(), _spec(rtol=1e-12, atol=1e-12, max_steps=3), framework)


@pytest.mark.parametrize("text", ["adjoint", "torchdiffeq-adjoint"])
def test_too_few_steps_backward_are_named(text, framework):
    """A backward solve that needs more steps than the forward one raises the same error, which says where."""
    problem, spec = make_problem(times=(0.0, 3.0)), _spec(rtol=1e-4, atol=1e-4)
    backend = _load(text)
    n = backend.grid(problem.field, problem.y0, problem.times, spec)
    limited = _spec(rtol=1e-4, atol=1e-4, max_steps=n.n_accepted + n.n_rejected)
    steep = Problem(problem.field, problem.y0, problem.times, lambda ys: 1e12 * ys[-1].pow(2).sum())
    step = backend.gradient_step(steep, limited, framework)
    state = step.forward()
    for call in (step.step, step.evaluations, lambda: step.backward(state)):
        with pytest.raises(StepLimitError, match=r"^in the backward solve: .*max_steps"):
            call()


class _Stiff(nn.Module):
    """A state that decays so fast that no solve goes back along it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, t, y):
        del t
        return -50 * y + self.net(y)


@pytest.mark.parametrize(
    ("text", "solver"),
    [
        ("adjoint", "dopri5"),
        ("adjoint", "rk38"),
        ("torchdiffeq-adjoint", "dopri5"),
        ("torchdiffeq-adjoint[land=true]", "bosh3"),
        ("scipy", "vode-adams"),
    ],
)
def test_a_state_that_cannot_be_solved_backwards_is_named(text, solver):
    """Its backward solve ends within its steps, in an error that says which solve it was."""
    framework, y0 = Torch("cpu", "float32", 1), torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    problem = Problem(_Stiff(), y0, torch.tensor([0.0, 2.0], dtype=torch.float64), path_loss)
    first = 0.1 if solver == "rk38" else 0.01
    spec = SolverSpec(solver=solver, first_step=first)
    with pytest.raises((StepLimitError, DivergedError), match=r"^in the backward solve: "):
        _load(text).grad(problem, spec, framework)
    exact = _load("direct").grad(problem, SolverSpec(first_step=0.01), framework)
    assert all(value.isfinite().all() for value in exact.params.values())


def test_torchdiffeqs_rk4_is_another_method():
    """`rk4` is unsupported with the reason, `rk38` is its partner and agrees with ours."""
    problem, spec = make_problem(), _spec(solver="rk38", first_step=0.2)
    assert "3/8" in _load("torchdiffeq").unsupported(problem, _spec(solver="rk4"))
    theirs = _load("torchdiffeq").solve(problem.field, problem.y0, problem.times, spec)
    ours = _load("direct").solve(problem.field, problem.y0, problem.times, spec)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_torchdiffeqs_adaptive_heun_is_another_method():
    """It evaluates the field once at the end of a step, where Euler's method predicts it to be; Heun's does twice."""
    assert "adaptive_heun" in _load("torchdiffeq").unsupported(make_problem(), _spec(solver="heun"))
    y0, times = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    evaluated = {"torchdiffeq": [], "ours": []}

    def field(library):
        def evaluate(t, y):
            evaluated[library].append(round(float(t), 9))  # torchdiffeq evaluates just before the end of a step
            return -y

        return evaluate

    spec = _spec(solver="heun", rtol=1e-3, atol=1e-3, first_step=0.03)
    tolerances = {"rtol": spec.rtol, "atol": spec.atol, "options": {"first_step": spec.first_step}}
    torchdiffeq.odeint(field("torchdiffeq"), y0, times, method="adaptive_heun", **tolerances)
    ours = field("ours")
    solve_plain(SolveSetup(field=ours, layout=layout(y0), spec=spec), y0, times)
    assert evaluated["ours"][:3] == [0.0, 0.03, 0.03]
    assert evaluated["torchdiffeq"][:2] == [0.0, 0.03]
    assert evaluated["torchdiffeq"][2] > 0.03


@pytest.mark.parametrize("first_step", [0.05, 2.0])
@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "dopri8"])
def test_torchdiffeq_takes_our_steps(solver, first_step):
    """Given the first step, it accepts and rejects the same ones and comes to the same state, to rounding."""
    problem, spec = make_problem(times=(0.0, 5.0)), _spec(solver=solver, first_step=first_step, rtol=1e-7, atol=1e-7)
    ours, theirs = (
        backend.grid(problem.field, problem.y0, problem.times, spec)
        for backend in (_load("direct"), _load("torchdiffeq[land=true]"))
    )
    assert ours.n_rejected == theirs.n_rejected
    np.testing.assert_allclose(theirs.times, ours.times, rtol=1e-6)
    states = [
        _load(text).solve(problem.field, problem.y0, problem.times, spec)[-1]
        for text in ("direct", "torchdiffeq[land=true]")
    ]
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-9)


def test_torchdiffeq_has_one_controller_alone():
    """Another is unsupported with the reason, unless the method has no error to control."""
    backend, problem = _load("torchdiffeq"), make_problem()
    assert "integral controller" in backend.unsupported(problem, _spec(controller="pi"))
    assert backend.unsupported(problem, _spec(controller="pi", solver="rk38")) is None


def test_the_backward_solve_of_the_adjoint_has_the_same_controller(framework):
    """Another controller takes other steps backward, through output states that differ by the tolerance."""
    counts = {
        controller: _load("adjoint")
        .gradient_step(make_problem(), _spec(controller=controller), framework)
        .evaluations()
        for controller in ("integral", "pi")
    }
    assert counts["integral"].nfe_backward != counts["pi"].nfe_backward


def test_torchdiffeq_landing_takes_our_steps():
    """With `land` its adaptive grid is ours, to rounding."""
    problem, spec = make_problem(), _spec()
    ours = _load("direct[land=true]").grid(problem.field, problem.y0, problem.times, spec)
    theirs = _load("torchdiffeq[land=true]").grid(problem.field, problem.y0, problem.times, spec)
    np.testing.assert_allclose(theirs.times[:4], ours.times[:4], rtol=1e-6)


def test_checkpoints_must_be_positive():
    """`checkpoints=0` is an error, and so is a word."""
    for value in ("0", "-1", "few"):
        with pytest.raises(UserError, match="checkpoint"):
            _load(f"checkpoint[checkpoints={value}]")


def _dense_problem():
    """Output times of which some share a step, one the last one, and some steps have none."""
    return make_problem(times=(0.0, 0.01, 0.02, 0.9, 1.0, 1.9, 1.95, 2.0))


def _dense_loss(problem, spec, grid):
    """The loss of the same steps with the states inside them interpolated, taped by torch throughout."""
    method, dense = TABLEAUS[spec.solver], interpolant(spec.solver)
    times = problem.times.tolist()
    y, ys = problem.y0, {0.0: problem.y0}
    for start, end in pairwise(grid.times):
        h, k = end - start, []
        for c, row in zip(method.c, method.a, strict=True):
            stage = y + h * sum((a * kj for a, kj in zip(row, k, strict=True)), start=torch.zeros_like(y))
            k.append(problem.field(start + c * h, stage))
        for t in times:
            if start < t <= end:
                weights = dense.weights((t - start) / h)
                ys[t] = y + h * sum(b * ki for b, ki in zip(weights, k, strict=True))
        y = y + h * sum(b * ki for b, ki in zip(method.b, k, strict=True))
    return problem.loss(torch.stack([ys[t] for t in times]))


@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "tsit5"])
def test_direct_is_the_derivative_of_its_dense_output(solver, framework):
    """Output times inside steps are differentiated through the interpolation, the shared closing stages included."""
    problem, spec = _dense_problem(), _spec(solver=solver)
    grid = _load("direct").grid(problem.field, problem.y0, problem.times, spec)
    assert len(grid.times) < len(problem.times) or solver == "bosh3"
    y0 = problem.y0.clone().requires_grad_()
    params = tuple(problem.field.parameters())
    loss = _dense_loss(Problem(problem.field, y0, problem.times, problem.loss), spec, grid)
    found = torch.autograd.grad(loss, (y0, *params), allow_unused=True)
    pairs = zip((y0, *params), found, strict=True)
    expected = torch.cat([(torch.zeros_like(x) if g is None else g).reshape(-1) for x, g in pairs])
    torch.testing.assert_close(_gradient("direct", problem, spec, framework), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "tsit5"])
@pytest.mark.parametrize("text", EXACT[1:])
def test_recomputing_changes_nothing_of_dense_output(text, solver, framework):
    """With output times inside steps, too, all exact methods agree with `direct` to 1e-10."""
    problem, spec = _dense_problem(), _spec(solver=solver)
    expected = _gradient("direct", problem, spec, framework)
    torch.testing.assert_close(_gradient(text, problem, spec, framework), expected, rtol=1e-10, atol=1e-10)


def test_many_output_times_cost_no_evaluations(framework):
    """A hundred output times take the very steps of two; `land=true` takes one for each."""
    two, hundred = make_problem(times=(0.0, 2.0)), make_problem(times=tuple(np.linspace(0, 2, 101)))
    counts = [_load("direct").gradient_step(p, _spec(), framework).evaluations() for p in (two, hundred)]
    assert counts[0].nfe_forward == counts[1].nfe_forward
    assert counts[1].n_vjps == counts[0].n_vjps + 1  # the closing stage of the last step, which the loss looks at
    landing = _load("direct[land=true]").gradient_step(hundred, _spec(), framework).evaluations()
    assert landing.nfe_forward == 1 + 6 * 100


@pytest.mark.parametrize(("text", "order"), [("adjoint", 5), ("interpolated", 4)])
def test_continuous_adjoints_converge_to_the_exact_gradient(text, order, framework):
    """The distance from the discrete gradient falls as the step's error does: by 2^order for half the step."""
    problem = make_problem(times=(0.0, 2.0))
    distances = []
    for h in (0.1, 0.05):
        # A tolerance that no step misses leaves steps of the first one's length only where they cannot grow.
        spec = _spec(solver="dopri5", first_step=h, rtol=1e-30, atol=(h / 0.1) ** 5 * 1e-6, max_steps=10_000)
        exact = _gradient("direct", problem, spec, framework)
        distances.append((_gradient(text, problem, spec, framework) - exact).norm().item())
    assert distances[1] < distances[0] / 2 ** (order - 1)


def test_an_output_time_that_the_loss_does_not_see_costs_the_adjoint_nothing(framework):
    """The backward solve stops only where the adjoint jumps."""
    times = torch.linspace(0, 2, 50, dtype=torch.float64)
    ends = Problem(Net().double(), make_problem().y0, times, lambda ys: ys[-1].pow(2).sum())
    two = Problem(ends.field, ends.y0, times[[0, -1]], ends.loss)
    counts = [_load("adjoint").gradient_step(p, _spec(), framework).evaluations().nfe_backward for p in (ends, two)]
    assert counts[0] == counts[1]


def test_a_hundred_output_times_cost_the_adjoint_one_step_each(framework):
    """Backward evaluations are at most three times those of a forward solve that steps onto the same times."""
    problem = make_problem(times=tuple(np.linspace(0, 2, 100)))
    counted = _load("adjoint[land=true]").gradient_step(problem, _spec(), framework).evaluations()
    assert counted.nfe_backward <= 3 * counted.nfe_forward
    assert counted.nfe_backward == 99 * 7


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_reversible_is_the_derivative_of_its_own_steps(solver, framework):
    """It equals autograd through the pair of solutions, written out plainly, to 1e-10."""
    problem, spec = make_problem(timed=True), _spec(solver=solver)
    backend = _load("reversible")
    grid = np.array(backend.grid(problem.field, problem.y0, problem.times, spec).times)
    y0, times = problem.y0.clone().requires_grad_(), problem.times.clone().requires_grad_()
    method, coupling = TABLEAUS[solver], backend.coupling

    def increment(t, y, h):
        k = []
        for c, row in zip(method.c, method.a, strict=True):
            stage = y + h * sum((a * kj for a, kj in zip(row, k, strict=True)), start=torch.zeros_like(y))
            k.append(problem.field(t + c * h, stage))
        return h * sum(b * ki for b, ki in zip(method.b, k, strict=True))

    y, z, ys = y0, y0, [y0]
    for begin, end in pairwise(times):
        inside = grid[(grid >= begin.item()) & (grid <= end.item())]
        marks = [(float(t) - begin.item()) / (end.item() - begin.item()) for t in inside]
        for low, high in pairwise(marks):
            t, h = begin + (end - begin) * low, (end - begin) * (high - low)
            y = coupling * y + (1 - coupling) * z + increment(t, z, h)
            z = z - increment(t + h, y, -h)
        ys.append(y)
    params = tuple(problem.field.parameters())
    found = torch.autograd.grad(problem.loss(torch.stack(ys)), (y0, *params, times), allow_unused=True)
    pairs = zip((y0, *params, times), found, strict=True)
    expected = torch.cat([(torch.zeros_like(x) if g is None else g).reshape(-1) for x, g in pairs])
    torch.testing.assert_close(_gradient("reversible", problem, spec, framework), expected, rtol=1e-10, atol=1e-10)


def test_counts_of_reversible_follow_from_its_steps(framework):
    """Two Runge-Kutta steps forward, one evaluation for the error, and two with graphs backward."""
    backend, problem, spec = _load("reversible"), make_problem(), _spec()
    grid = backend.grid(problem.field, problem.y0, problem.times, spec)
    counted = backend.gradient_step(problem, spec, framework).evaluations()
    assert grid.n_rejected == 0
    assert counted.nfe_forward == (2 * 6 + 1) * grid.n_accepted
    assert counted.nfe_backward == counted.n_vjps == 2 * 6 * grid.n_accepted


def test_a_coupling_out_of_range_is_refused():
    """Above 0 and at most 1, or an error that says so."""
    with pytest.raises(UserError, match="at most 1"):
        _load("reversible[coupling=1.5]")


@pytest.mark.parametrize("solver", ["rk4", "euler"])
def test_interpolated_says_what_it_cannot_interpolate(solver):
    """A method without dense output is unsupported, with what to use instead."""
    assert "has no dense output" in _load("interpolated").unsupported(make_problem(), _spec(solver=solver))


@pytest.mark.parametrize("text", OWN)
def test_a_first_step_is_chosen_where_none_is_given(text):
    """As a layer in somebody's own code, without a harness to choose it."""
    problem = make_problem()
    states = _load(text).solve(problem.field, problem.y0, problem.times, _spec(first_step=None))
    expected = _load("direct").solve(problem.field, problem.y0, problem.times, _spec(rtol=1e-9, atol=1e-9))
    torch.testing.assert_close(states, expected, rtol=1e-3, atol=1e-3)


def test_a_field_that_is_not_finite_at_the_beginning_is_named():
    """Choosing the first step says so, instead of dividing by zero."""
    with pytest.raises(DivergedError, match="where the solve begins"):
        _load("direct").solve(lambda _, y: y / 0, torch.ones(2), torch.tensor([0.0, 1.0]), _spec(first_step=None))
