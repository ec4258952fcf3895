"""How solvers call a user's field in torch: what it is handed, and what it may not do or return."""

import pytest
import torch
from torch import nn

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import UnsupportedError, UserError
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import Problem, SolverSpec

RUNGE_KUTTA = (
    "direct",
    "direct[land=true]",
    "checkpoint",
    "symplectic",
    "reversible",
    "adjoint",
    "interpolated",
    "torchdiffeq",
    "torchdiffeq[land=true]",
    "torchdiffeq-adjoint",
)
WAYS = [
    *((text, "dopri5") for text in RUNGE_KUTTA),
    ("torchdiffeq", "rk38"),
    ("scipy", "vode-adams"),
    ("scipy", "lsoda"),
]

OURS = [way for way in WAYS if not way[0].startswith("torchdiffeq")]
"""Those that hold a field to what it may do; a library calls it as its users know, and the check-up comes before."""


def _ones(y):
    return torch.ones_like(y[:, :1])


TIME = {
    "function": (lambda t, y: torch.sin(t) * _ones(y), lambda t, y: torch.sin(t * _ones(y))),
    "view": (lambda t, y: torch.sin(t.view(1, 1)).expand(len(y), 1), lambda t, y: torch.sin(t * _ones(y))),
    "index": (lambda t, y: torch.sin(t[None]).expand(len(y), 1), lambda t, y: torch.sin(t * _ones(y))),
    "expand": (lambda t, y: t.expand(len(y), 1), lambda t, y: t * _ones(y)),
    "reshape": (lambda t, y: t.reshape(1, 1).expand(len(y), 1), lambda t, y: t * _ones(y)),
    "item": (lambda t, y: torch.full_like(y[:, :1], t.item()), lambda t, y: t * _ones(y)),
    "in place": (lambda t, y: t.mul_(2.0).expand(len(y), 1), lambda t, y: 2 * t * _ones(y)),
}
"""What users make of the time, a column beside the state, and the same in the plainest way."""


class Timed(nn.Module):
    """A field of states `(n, 2)` that sees the time in one of the users' ways."""

    def __init__(self, column):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.column, self.seen = nn.Linear(3, 2), column, []

    def forward(self, t, y):
        self.seen.append((t.shape, t.dtype, t.device))
        return torch.tanh(self.net(torch.cat([self.column(t, y), y], dim=1)))


class Returning(nn.Module):
    """A field that does with its state and its layer what it is told."""

    def __init__(self, rate):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.rate = nn.Linear(2, 2), rate

    def forward(self, t, y):
        del t
        return self.rate(self.net, y)


def _load(text):
    return registry.load("backend", text, AbstractBackend)


def _loss(ys):
    return sum(part[1:].pow(2).sum() for part in (ys if isinstance(ys, tuple) else (ys,)))


def _problem(field, dtype=torch.float64, y0=None, *, timed=False):
    torch.manual_seed(1)
    y0 = torch.randn(3, 2, dtype=dtype) if y0 is None else y0
    return Problem(field.to(dtype), y0, torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64), _loss, timed)


def _spec(solver, problem):
    first = problem.y0[0] if isinstance(problem.y0, tuple) else problem.y0
    dtype = str(first.dtype).removeprefix("torch.")
    return SolverSpec(solver=solver, rtol=1e-5, atol=1e-5, first_step=0.05, dtype=dtype)


def _gradient(text, solver, problem):
    found = _load(text).grad(problem, _spec(solver, problem), Torch("cpu", "float64", 1))
    y0 = found.y0 if isinstance(found.y0, tuple) else (found.y0,)
    return torch.cat([g.reshape(-1) for g in (*y0, *found.params.values())])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("text", "solver"), WAYS)
def test_time_is_a_scalar_tensor_of_the_states_dtype(text, solver, dtype):
    """Forward, backward and for the steps; with times to be differentiated, too."""
    for timed in (False, True):
        field = Timed(TIME["expand"][0])
        problem = _problem(field, dtype, timed=timed)
        step = _load(text).gradient_step(problem, _spec(solver, problem), Torch("cpu", "float32", 1))
        step.step()
        _load(text).grid(field, problem.y0, problem.times, _spec(solver, problem))
        step.field_calls().evaluation(1)
        Torch("cpu", "float32", 1).evaluate(problem)(0.5, problem.y0.double().numpy().reshape(-1))
        assert set(field.seen) == {(torch.Size(()), dtype, problem.y0.device)}


@pytest.mark.parametrize(
    ("text", "solver", "use"),
    [(*way, use) for way in WAYS for use in TIME if way in OURS or use != "in place"],
)
def test_users_may_do_with_the_time_what_they_like(text, solver, use):
    """Every backend comes to the gradient of the plainest expression, with times to be differentiated, too."""
    used, plain = TIME[use]
    wanted = _gradient("checkpoint", "dopri5", _problem(Timed(plain)))
    torch.testing.assert_close(_gradient(text, solver, _problem(Timed(used))), wanted, rtol=2e-3, atol=2e-3)
    timed = _problem(Timed(used), timed=True)
    torch.testing.assert_close(_gradient(text, solver, timed), wanted, rtol=2e-3, atol=2e-3)


def test_a_field_that_reads_values_of_the_time_is_not_compiled():
    """A program would keep the first one; it is said before anything is solved with it."""
    problem = _problem(Timed(TIME["item"][0]))
    with pytest.raises(UnsupportedError, match="cannot be traced"):
        _load("direct[compile=true]").grad(problem, _spec("dopri5", problem), Torch("cpu", "float64", 1))


def _halved(net, y):
    y *= 0.5
    return net(y)


WRONG = {
    "fewer columns": (lambda net, y: net(y)[:, :1], r"shapes of the state, \(3, 2\); it returned \(3, 1\)"),
    "a sum": (lambda net, y: net(y).sum(), r"shapes of the state, \(3, 2\); it returned \(\)"),
    "float32": (lambda net, y: net(y).float(), "returned float32 for a float64 state; .*zeros_like"),
    "complex": (lambda net, y: net(y) + 0j, "returned complex128 for a float64 state"),
    "None": (lambda net, y: None, "must return a tensor.* returned NoneType"),  # noqa: ARG005
    "a list": (lambda net, y: [net(y)], "must return a tensor.* returned list"),
    "a tuple": (lambda net, y: (net(y),), r"must return a tensor.* returned \(Tensor\)"),
    "in place": (_halved, "changes its state .*in place"),
    "ReLU in place": (lambda net, y: net(torch.relu_(y)), "changes its state .*in place"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize(("text", "solver"), OURS)
def test_what_a_field_must_not_do_is_said_in_a_sentence(text, solver, what):
    """The same for all libraries, for the gradient and for the steps."""
    rate, sentence = WRONG[what]
    problem = _problem(Returning(rate))
    with pytest.raises(UserError, match=sentence):
        _gradient(text, solver, problem)
    with pytest.raises(UserError, match=sentence):
        _load(text).grid(problem.field, problem.y0, problem.times, _spec(solver, problem))


WRONG_OF_TWO = {
    "one part": (lambda net, y: net(y[0]), "must return a tuple of 2 tensors.* returned Tensor"),
    "a list": (lambda net, y: [net(y[0]), y[1]], "must return a tuple of 2 tensors.* returned list"),
    "a part missing": (lambda net, y: (net(y[0]),), r"shapes of the state, \(3, 2\), \(4,\); it returned \(3, 2\)"),
    "float32": (lambda net, y: (net(y[0]), y[1].float()), "returned float32 for a float64 state"),
    "in place": (lambda net, y: (net(y[0]), y[1].mul_(0.5)), "changes its state .*in place"),
}


@pytest.mark.parametrize("what", WRONG_OF_TWO)
@pytest.mark.parametrize(("text", "solver"), OURS)
def test_the_parts_of_a_state_are_held_alike(text, solver, what):
    """Whatever part is wrong."""
    rate, sentence = WRONG_OF_TWO[what]
    problem = _problem(Returning(rate), y0=(torch.ones(3, 2).double(), torch.ones(4).double()))
    with pytest.raises(UserError, match=sentence):
        _gradient(text, solver, problem)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2).eval(), nn.Dropout(0.0), nn.Dropout(0.5).eval()], ids=str)
@pytest.mark.parametrize(("text", "solver"), WAYS)
def test_no_layer_is_refused_for_its_name(text, solver, layer):
    """What matters is what it does."""
    problem = _problem(Returning(lambda _, y: layer(y)))
    assert _load(text).unsupported(problem, _spec(solver, problem)) is None


SHAPES = {
    "a vector": torch.linspace(-1, 1, 5),
    "images": torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4),
    "a number": torch.tensor(0.7),
    "not contiguous": torch.linspace(-1, 1, 8).reshape(2, 4).t(),
    "parts": (torch.linspace(-1, 1, 6).reshape(3, 2), torch.linspace(0, 1, 4), torch.tensor(0.3)),
    "one part": (torch.tensor([0.5]),),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("text", "solver"), WAYS)
def test_states_have_any_shape(text, solver, shape):
    """Gradient, solution and steps of dy/dt = -w y, part by part; the closed form is e^-t."""
    state = SHAPES[shape]
    y0 = tuple(part.double() for part in state) if isinstance(state, tuple) else state.double()

    def rate(net, y):
        w = net.weight[0, 0]
        return tuple(-w * part for part in y) if isinstance(y, tuple) else -w * y

    problem = _problem(Returning(rate), y0=y0)
    with torch.no_grad():
        problem.field.net.weight.fill_(1.0)
    backend, spec = _load(text), _spec(solver, problem)
    found = backend.grad(problem, spec, Torch("cpu", "float64", 1))
    scale = 2 * torch.exp(-2 * problem.times[1:]).sum()
    parts = zip(*((s if isinstance(s, tuple) else (s,)) for s in (found.y0, y0)), strict=True)
    for by_part, part in parts:
        torch.testing.assert_close(by_part, scale * part, rtol=1e-3, atol=1e-3)
    assert backend.grid(problem.field, y0, problem.times, spec).times[0] == 0.0


@pytest.mark.parametrize("y0", [torch.zeros(0, 2), (torch.ones(2), torch.zeros(0)), torch.arange(3), ()], ids=str)
@pytest.mark.parametrize(("text", "solver"), WAYS)
def test_states_without_numbers_are_refused(text, solver, y0):
    """Empty ones, and integers, in one sentence."""
    with pytest.raises(UserError, match="`y0` must"):
        _load(text).solve(lambda _, y: y, y0, torch.tensor([0.0, 1.0]), SolverSpec(solver=solver, first_step=0.1))
