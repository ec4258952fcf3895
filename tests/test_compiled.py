"""Compiled steps against the same backends uncompiled, in float64."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.runge_kutta.compiled import halves, loop, programs
from nodebench.backends.runge_kutta.steps import Stepper
from nodebench.errors import DivergedError, StepLimitError, UnsupportedError
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import Problem, SolverSpec

TIMES = (0.0, 0.3, 1.0, 1.9, 2.0)


class Flow(nn.Module):
    """A field of two parts with a buffer, a frozen parameter, an unused one, and an operation in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net, self.frozen = nn.Linear(3, 2), nn.Parameter(torch.tensor([0.5, -0.3]), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.tensor([0.1, 0.2]))

    def forward(self, t, y):
        z, _ = y
        time = torch.ones_like(z[:, :1]) * t
        rate = torch.tanh(self.net(torch.cat([z + self.shift, time], dim=1)).mul_(self.frozen))
        return rate, -rate.sum(dim=1, keepdim=True)


@pytest.fixture(scope="module", name="field")
def field_fixture():
    """One field for all tests of this file, so that its programs are compiled once."""
    return Flow().double()


def _problem(field, n=4, times=TIMES):
    torch.manual_seed(0)
    y0 = (torch.randn(n, 2, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64))
    return Problem(field, y0, torch.tensor(times, dtype=torch.float64), lambda ys: sum(p[1:].pow(2).sum() for p in ys))


def _spec(**changes):
    return SolverSpec(**{"rtol": 1e-6, "atol": 1e-6, "first_step": 0.1, "dtype": "float64", **changes})


def _backend(text):
    return registry.load("backend", text, AbstractBackend)


def _gradient(text, problem, spec):
    gradients = _backend(text).grad(problem, spec, Torch("cpu", "float64", 1))
    return torch.cat([g.reshape(-1) for g in (gradients.loss, *gradients.y0, *gradients.params.values())])


@pytest.mark.parametrize(
    ("compiled", "plain", "solver"),
    [
        ("direct[compile=true]", "direct", "dopri5"),
        ("direct[compile=true,land=true]", "direct[land=true]", "dopri5"),
        ("adjoint[compile=true]", "adjoint", "dopri5"),
        ("adjoint[norm=seminorm,compile=true]", "adjoint[norm=seminorm]", "heun"),
    ],
)
def test_compilation_changes_nothing(compiled, plain, solver, field):
    """Loss and gradients agree to 1e-10, with output times inside steps, buffers, frozen and unused parameters."""
    spec = _spec(solver=solver, max_steps=5000)
    expected = _gradient(plain, _problem(field), spec)
    torch.testing.assert_close(_gradient(compiled, _problem(field), spec), expected, rtol=1e-10, atol=1e-10)


def test_new_weights_are_seen(field):
    """Parameters and buffers are arguments of the programs: changing them needs no compilation and is not missed."""
    before = _gradient("direct[compile=true]", _problem(field), _spec())
    with torch.no_grad():
        field.net.weight.mul_(1.5)
        field.shift.add_(0.3)
        field.frozen.mul_(2.0)
    after = _gradient("direct[compile=true]", _problem(field), _spec())
    torch.testing.assert_close(after, _gradient("direct", _problem(field), _spec()), rtol=1e-10, atol=1e-10)
    assert (after - before).norm() > 0.1 * before.norm()


def test_rejected_steps_leave_no_trace(field):
    """A first step far too long is rejected, as it is uncompiled."""
    spec = _spec(first_step=2.0, rtol=1e-9, atol=1e-9)
    assert _backend("direct").grid(field, _problem(field).y0, _problem(field).times, spec).n_rejected > 0
    found = _gradient("direct[compile=true]", _problem(field), spec)
    torch.testing.assert_close(found, _gradient("direct", _problem(field), spec), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("direct[compile=true]", {"rtol": 1e-9, "atol": 1e-9, "first_step": 2.0}),
        ("direct[compile=true,land=true]", {"controller": "pi"}),
        ("adjoint[compile=true]", {"rtol": 1e-9, "atol": 1e-9}),
    ],
)
def test_the_loops_in_cpp_do_what_those_in_python_do(text, spec, field, monkeypatch):
    """To the last bit, with rejected steps, output times inside steps and onto them, and more steps than at once."""
    problem = _problem(field)
    monkeypatch.setattr(loop, "_AT_ONCE", 3)
    tried = []
    attempt = Stepper._attempt
    monkeypatch.setattr(Stepper, "_attempt", lambda self, *times: tried.append(times) or attempt(self, *times))
    found = _gradient(text, problem, _spec(**spec))
    assert not tried
    monkeypatch.setattr(programs.Program, "entry", lambda _, kept=(): None)  # noqa: ARG005
    assert torch.equal(found, _gradient(text, problem, _spec(**spec)))
    assert tried


def test_the_loop_in_cpp_knows_float32(monkeypatch):
    """Lengths and times of steps reach the programs in the state's own type, and the error comes back from it."""

    class Rate(nn.Linear):
        def forward(self, t, y):
            return super().forward(t * y)

    field, y0, times = Rate(2, 2), torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5, 0.0])
    with torch.no_grad():
        states = [_backend(b).solve(field, y0, times, _spec()) for b in ("direct[compile=true]", "direct")]
        torch.testing.assert_close(*states, rtol=1e-5, atol=1e-5)
        monkeypatch.setattr(programs.Program, "entry", lambda _, kept=(): None)  # noqa: ARG005
        assert torch.equal(states[0], _backend("direct[compile=true]").solve(field, y0, times, _spec()))


@pytest.mark.parametrize("text", ["direct", "adjoint"])
def test_a_solve_that_fails_says_the_same_compiled(text, field):
    """What is no ordinary step is judged in Python, in the middle of a solve as well."""
    problem, limit = _problem(field), _spec(max_steps=4, rtol=1e-9, atol=1e-9)
    broken = Problem(field, tuple(part * torch.nan for part in problem.y0), problem.times, problem.loss)
    for given, spec, kind in ((problem, limit, StepLimitError), (broken, _spec(), DivergedError)):
        messages = []
        for options in ("", "[compile=true]"):
            with pytest.raises(kind) as error:
                _gradient(text + options, given, spec)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("text", ["direct", "adjoint"])
def test_a_method_of_fixed_steps_is_compiled(text, field, monkeypatch):
    """Without a closing stage each step begins with an evaluation of its own, in Python's loop as in that of C++."""
    spec, problem = _spec(solver="midpoint", first_step=0.1), _problem(field)
    monkeypatch.setattr(loop, "_AT_ONCE", 3)
    found = _gradient(f"{text}[compile=true]", problem, spec)
    torch.testing.assert_close(found, _gradient(text, problem, spec), rtol=1e-10, atol=1e-10)
    limited = replace(spec, max_steps=10)
    with pytest.raises(StepLimitError):
        _gradient(f"{text}[compile=true]", problem, limited)
    monkeypatch.setattr(programs.Program, "entry", lambda _, kept=(): None)  # noqa: ARG005
    assert torch.equal(found, _gradient(f"{text}[compile=true]", problem, spec))


class Shared(nn.Module):
    """A submodule under two names, a weight of two submodules, and a matrix that the field makes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.again = self.one
        self.other.weight = self.one.weight

    def forward(self, t, y):
        del t
        turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 2.0], [0.0, -2.0, 0.0]], dtype=y.dtype)
        return torch.tanh(self.again(y)) + self.other(self.one(y)) + y @ turn


class Turned(nn.Module):
    """A linear field, whose derivative keeps nothing of an evaluation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.tensor([[-0.1, 1.0, 0.0], [-1.0, -0.2, 0.5], [0.0, 0.3, -1.0]]))
        self.bias = nn.Parameter(torch.tensor([0.1, 0.2, -0.3]))

    def forward(self, t, y):
        del t
        return y @ self.matrix + self.bias


@pytest.mark.parametrize(("kind", "text"), [(Shared, "direct"), (Shared, "adjoint"), (Turned, "direct")])
def test_every_field_is_compiled_rightly(kind, text):
    """Twice, since the first time must leave the module as it was; whatever a field holds, makes, or does not keep."""
    torch.manual_seed(3)
    field, y0 = kind().double(), torch.randn(2, 3, dtype=torch.float64)
    problem = Problem(field, y0, torch.tensor(TIMES, dtype=torch.float64), lambda ys: ys[1:].pow(2).sum())
    for _ in range(2):
        found = _gradient(f"{text}[compile=true]", problem, _spec(solver="heun", rtol=1e-3, atol=1e-3))
        torch.testing.assert_close(
            found, _gradient(text, problem, _spec(solver="heun", rtol=1e-3, atol=1e-3)), rtol=1e-10, atol=1e-10
        )
    assert all(isinstance(parameter, nn.Parameter) for parameter in field.parameters())


def test_a_buffer_that_changes_before_the_backward_pass_is_seen():
    """As torch sees it: the gradient would be that of neither value."""
    field, y0 = Turned().double(), torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    times = torch.tensor(TIMES, dtype=torch.float64)
    loss = _backend("direct[compile=true]").solve(field, y0, times, _spec(solver="heun", rtol=1e-3, atol=1e-3)).sum()
    field.matrix.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_gradients_the_states_are_the_same(field):
    """Under no_grad the compiled steps give the same states and no graph."""
    problem = _problem(field)
    with torch.no_grad():
        states = [
            _backend(b).solve(field, problem.y0, problem.times, _spec()) for b in ("direct[compile=true]", "direct")
        ]
    for found, expected in zip(*states, strict=True):
        assert found.grad_fn is None
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_evaluations_are_counted(field):
    """The closing stage of each step is differentiated with it, that before the first one by itself."""
    backend, problem = _backend("direct[compile=true]"), _problem(field)
    grid = backend.grid(field, problem.y0, problem.times, _spec())
    counted = backend.gradient_step(problem, _spec(), Torch("cpu", "float64", 1)).evaluations()
    assert counted.nfe_forward == 1 + 6 * (grid.n_accepted + grid.n_rejected)
    assert counted.nfe_backward == 0
    assert counted.n_vjps == 1 + 6 * grid.n_accepted


def test_a_second_backward_pass_gives_the_same(field):
    """What was kept is there as long as torch is told to keep it."""
    problem = _problem(field)
    y0 = tuple(part.clone().requires_grad_() for part in problem.y0)
    loss = problem.loss(_backend("direct[compile=true]").solve(field, y0, problem.times, _spec()))
    once, again = (torch.autograd.grad(loss, y0, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_what_is_kept_for_the_backward_pass_is_counted(field):
    """Every step keeps its own: twice the steps, nearly twice the bytes."""
    framework, saved = Torch("cpu", "float64", 1), []
    for h in (0.1, 0.05):
        spec = _spec(solver="midpoint", first_step=h)
        saved.append(_backend("direct[compile=true]").gradient_step(_problem(field), spec, framework).saved_bytes())
    assert 1.8 < saved[1] / saved[0] <= 2


class Kinked(nn.Module):
    """A field with constants of its own making, whose derivative keeps what is no floating-point number."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Linear(3, 3)

    def forward(self, t, state):
        (y,) = state
        turned = torch.relu(self.net(y)) * torch.tensor([0.5, 1.0, -1.0], dtype=y.dtype)
        return (turned @ torch.eye(3, dtype=y.dtype) + torch.where(y > 0, y, y.sin()) * torch.arange(3) * t.cos(),)


def test_what_is_kept_is_packed_by_its_kind(monkeypatch):
    """Nothing is lost or mixed up when some tensors are handed over together, by dtype, and some by themselves."""
    monkeypatch.setattr(halves, "LARGE", 12)
    field, times = Kinked().double(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    y0 = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem(field, (y0,), times, lambda ys: ys[0][-1].pow(2).sum())
    spec = _spec(solver="midpoint", first_step=0.5)
    found = _gradient("direct[compile=true]", problem, spec)
    torch.testing.assert_close(found, _gradient("direct", problem, spec), rtol=1e-10, atol=1e-10)


def test_what_has_been_compiled_is_found_again(field):
    """The same field in another process, or made anew as here, compiles nothing: all is on the disk."""
    spec = _spec(solver="midpoint", first_step=0.1)
    _gradient("direct[compile=true]", _problem(field), spec)
    counters.clear()
    _gradient("direct[compile=true]", _problem(Flow().double()), spec)
    assert counters["inductor"]["fxgraph_cache_hit"] == 2  # a step, forward and backward
    assert counters["inductor"]["fxgraph_cache_miss"] == 0


class Branching(nn.Module):
    """A field that does one thing or another, depending on the state."""

    def forward(self, t, y):
        del t
        return -y if y.sum() > 0 else y


@pytest.mark.parametrize("text", ["direct[compile=true]", "adjoint[compile=true]"])
def test_a_field_that_depends_on_values_is_refused(text):
    """Tracing it would freeze one of its branches: an error that says so, not a wrong solution."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(UnsupportedError, match="depends on values"):
        _backend(text).solve(Branching(), y0, torch.tensor([0.0, 1.0], dtype=torch.float64), _spec())


@pytest.mark.parametrize("text", ["direct[compile=true]", "adjoint[compile=true]"])
def test_what_cannot_be_compiled_says_so_before(text, field):
    """A plain function and derivatives by times are unsupported, with the reason; solving raises it, too."""
    backend, times = _backend(text), torch.tensor(TIMES, dtype=torch.float64)
    function = Problem(lambda _, y: -y, torch.ones(2, dtype=torch.float64), times, torch.sum)
    assert "nn.Module" in backend.unsupported(function, _spec())
    timed = Problem(field, _problem(field).y0, times, torch.sum, differentiate_times=True)
    assert "times" in backend.unsupported(timed, _spec())
    with pytest.raises(UnsupportedError, match="times"):
        backend.solve(field, timed.y0, times.requires_grad_(), _spec())


def test_other_shapes_are_compiled_anew(field):
    """Another batch size gets programs of its own and the right gradient, backwards in time as well."""
    problem, spec = _problem(field, n=3, times=(1.0, 0.0)), _spec(solver="heun", rtol=1e-4, atol=1e-4)
    found = _gradient("direct[compile=true]", problem, spec)
    torch.testing.assert_close(found, _gradient("direct", problem, spec), rtol=1e-10, atol=1e-10)


def test_a_missing_compiler_is_a_reason_given_before(field, monkeypatch):
    """Without a C++ compiler it is unsupported, with what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "install it" in _backend("direct[compile=true]").unsupported(_problem(field), _spec())


def test_a_parameter_that_is_frozen_later_is_not_confused_with_another():
    """Which parameters are differentiated by is part of what a program is compiled for."""
    field = nn.ParameterDict({"a": torch.tensor([0.5]), "b": torch.tensor([2.0])}).double()

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = field

        def forward(self, t, y):
            del t
            return y * self.factors["a"] - self.factors["b"] * y**2

    product, times = Product(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    problem = Problem(product, torch.full((1,), 0.3, dtype=torch.float64), times, lambda ys: ys[-1].sum())
    spec = _spec(solver="midpoint", first_step=0.5)
    for frozen, free in (("b", "a"), ("a", "b")):
        field[frozen].requires_grad_(requires_grad=False)
        field[free].requires_grad_(requires_grad=True)
        found, expected = (
            _backend(text).grad(problem, spec, Torch("cpu", "float64", 1)).params
            for text in ("direct[compile=true]", "direct")
        )
        assert list(found) == [f"factors.{free}"]
        torch.testing.assert_close(found[f"factors.{free}"], expected[f"factors.{free}"], rtol=1e-12, atol=0)


def test_a_tensor_that_is_no_buffer_is_refused():
    """Compiled code would keep its present values, so that drawing it anew would do nothing: an error says so."""
    field = Branching()
    field.noise = torch.ones(2)
    with pytest.raises(UnsupportedError, match="register it as a buffer"):
        _backend("direct[compile=true]").solve(
            field, torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64), _spec()
        )


def test_a_strided_initial_state_is_compiled_rightly(field):
    """A column of a larger array is solved like its copy."""
    problem = _problem(field)
    wide = tuple(torch.cat([part, part], dim=1)[:, : part.shape[1]] for part in problem.y0)
    strided = Problem(field, wide, problem.times, problem.loss)
    found = _gradient("direct[compile=true]", strided, _spec())
    torch.testing.assert_close(found, _gradient("direct", problem, _spec()), rtol=1e-10, atol=1e-10)
