"""`nodebench.odeint` and `nodebench.backend`: what was measured, in a training loop of one's own."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchdiffeq
from torch import nn
from torch.autograd.forward_ad import dual_level, make_dual
from torch_problems import Net, Pair, make_problem

import nodebench
from nodebench import registry
from nodebench.backends.solvers import TABLEAUS
from nodebench.backends.step_size import chosen_first_step
from nodebench.backends.torchdiffeq import METHODS
from nodebench.errors import DivergedError, StepLimitError, UnknownNameError, UnsupportedError, UserError
from nodebench.frameworks.torch.field import named_parameters, parameters, parameters_and_buffers
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import SolverSpec
from nodebench.torch_solving import COUNTERPARTS

BACKENDS = [name for name in registry.names("backend") if registry.describe("backend", name).framework == "torch"]
OPTIONS = ["adjoint[norm=seminorm]", "checkpoint[checkpoints=2]", "direct[land=true]"]
JAX = [name for name in registry.names("backend") if registry.describe("backend", name).framework == "jax"]
ONE_TAPE = "torchdiffeq"
REAL_ALONE = "torchdiffeq-adjoint"

T = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def solver(gradient):
    """A method that a backend has."""
    return "lsoda" if gradient == "scipy" else "dopri5"


def solve(gradient, field, y0, t=T, **others):
    return nodebench.odeint(field, y0, t, gradient=gradient, method=solver(gradient), **{**TOLERANCE, **others})


def decay(t, y):
    """A field without parameters, of which the second derivative is not zero."""
    return -t * y**2


def start(n=2, dtype=torch.float64):
    return torch.linspace(0.5, 1.5, n, dtype=dtype).requires_grad_()


def gradients(ys, field, *others):
    parts = ys if isinstance(ys, tuple) else (ys,)
    loss = sum((part**2).sum() for part in parts)
    return torch.autograd.grad(loss, [*others, *parameters(field)], allow_unused=True)


@pytest.mark.parametrize("gradient", [*BACKENDS, *OPTIONS])
@pytest.mark.parametrize("times", [(0.0, 0.8, 2.0), (2.0, 0.0)], ids=["forwards", "backwards"])
def test_it_is_the_backend_that_was_measured(gradient, times):
    """Values and gradients are, to the bit, those of the backend with the first step that a worker chooses."""
    problem = make_problem(times=times)
    spec = SolverSpec(solver=solver(gradient), dtype="float64", max_steps=1000, **TOLERANCE)
    framework = Torch("cpu", "float64", torch.get_num_threads())
    first = chosen_first_step(
        spec,
        times,
        framework.evaluate(problem),
        framework.flat_state(problem.y0),
        rms=lambda y: float(np.sqrt(np.mean(y**2))),
    )
    y0 = problem.y0.requires_grad_()
    expected = nodebench.backend(gradient).solve(problem.field, y0, problem.times, replace(spec, first_step=first))
    found = solve(gradient, problem.field, y0, problem.times)
    assert found.shape == (len(times), *y0.shape)
    assert torch.equal(found, expected)
    for ours, theirs in zip(*(gradients(ys, problem.field, y0) for ys in (found, expected)), strict=True):
        assert torch.equal(*(torch.zeros(()) if g is None else g for g in (ours, theirs)))


@pytest.mark.parametrize("method", METHODS)
def test_it_is_torchdiffeq_where_that_is_asked_for(method):
    """With the same first step the same numbers; a method of fixed steps takes one for each interval, as there."""
    problem, fixed = make_problem(), not TABLEAUS[method].adaptive
    given = {} if fixed else {"options": {"first_step": 0.1}}
    theirs = torchdiffeq.odeint(problem.field, problem.y0, problem.times, method=METHODS[method], **TOLERANCE, **given)
    found = nodebench.odeint(
        problem.field, problem.y0, problem.times, gradient="torchdiffeq", method=method, **TOLERANCE, **given
    )
    own, landed = (
        nodebench.odeint(
            problem.field, problem.y0, problem.times, gradient=gradient, method=method, **TOLERANCE, **given
        )
        for gradient in ("direct", "torchdiffeq[land=true]")  # without it, `bosh3` is a thousand tolerances away there
    )
    assert torch.equal(found, theirs)
    torch.testing.assert_close(own, landed, rtol=1e-5, atol=1e-5)
    for ours, other in zip(gradients(own, problem.field), gradients(landed, problem.field), strict=True):
        if other is not None:
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_a_step_size_is_that_of_torchdiffeq():
    """Where it divides the intervals between output times; elsewhere steps are equal and end on all of them."""
    problem = make_problem(times=(0.0, 0.5, 1.0))
    options = {"step_size": 0.125}
    found = nodebench.odeint(problem.field, problem.y0, problem.times, method="rk38", options=options)
    theirs = torchdiffeq.odeint(problem.field, problem.y0, problem.times, method="rk4", options=options)
    torch.testing.assert_close(found, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("gradient", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_may_be_a_tuple(gradient, dtype):
    """Its parts come back as a tuple in their dtype, with `t` in either, and the same without gradients."""
    problem = make_problem(Pair(), dtype=dtype)
    ys = solve(gradient, problem.field, problem.y0, problem.times.float(), rtol=1e-4, atol=1e-4)
    assert isinstance(ys, tuple)
    assert [(part.shape, part.dtype) for part in ys] == [((3, 4, 2), dtype), ((3, 4, 1), dtype)]
    assert any(g is not None and g.abs().sum() > 0 for g in gradients(ys, problem.field))
    with torch.no_grad():
        again = solve(gradient, problem.field, problem.y0, problem.times.float(), rtol=1e-4, atol=1e-4)
    assert not any(part.requires_grad for part in again)
    assert all(map(torch.equal, ys, again))


@pytest.mark.parametrize("gradient", BACKENDS)
def test_inference_mode_gives_the_same(gradient):
    """Its tensors have no count of changes in place, and need none."""
    problem = make_problem()
    with torch.inference_mode():
        found = solve(gradient, problem.field, problem.y0 * 1.0, problem.times * 1.0)
    assert found.is_inference()
    expected = solve(gradient, problem.field, problem.y0, problem.times)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", BACKENDS)
def test_nothing_is_kept_where_nothing_requires_a_gradient(gradient):
    """An evaluation that forgets `torch.no_grad` costs no memory for it."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        ys = solve(gradient, decay, start().detach())
    assert not kept
    assert not ys.requires_grad


@pytest.mark.parametrize("gradient", BACKENDS)
def test_the_times_are_differentiated(gradient):
    """Against central differences of the loss, with `t` in float32 as well."""
    t = T.clone().requires_grad_()

    def loss(t, gradient=gradient):
        return (solve(gradient, decay, start().detach(), t, rtol=1e-9, atol=1e-9) ** 2).sum()

    (found,) = torch.autograd.grad(loss(t), t)
    moved = [T + 1e-4 * sign * unit for unit in torch.eye(3, dtype=T.dtype) for sign in (1, -1)]
    ends = [loss(each, "direct").item() for each in moved]
    expected = [(up - down) / 2e-4 for up, down in zip(ends[::2], ends[1::2], strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=T.dtype), rtol=1e-4, atol=1e-5)
    small = T.float().requires_grad_()
    (rounded,) = torch.autograd.grad(loss(small), small)
    torch.testing.assert_close(rounded, found.float(), rtol=1e-4, atol=1e-5)


class Turning(nn.Module):
    """A field with real parameters of odd sizes before and behind a complex one."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, -0.3, 0.8], dtype=T.dtype))
        self.turn = nn.Parameter(torch.tensor([0.4 + 0.7j, -0.2 + 0.5j, 0.9 - 0.6j]))
        self.shift = nn.Parameter(torch.tensor([0.1], dtype=T.dtype))

    def forward(self, _, y):
        return (torch.exp(1j * self.scale * y) * self.turn).real + self.shift


@pytest.mark.parametrize("gradient", [*(name for name in BACKENDS if name != REAL_ALONE), "adjoint[norm=seminorm]"])
def test_a_complex_parameter_is_differentiated_by(gradient):
    """Each gradient in the dtype of its parameter, which is here of half the state's precision."""
    field, y0 = Turning(), start(3)
    expected = gradients(torchdiffeq.odeint(field, y0, T, rtol=1e-9, atol=1e-9), field, y0)
    found = gradients(solve(gradient, field, y0, rtol=1e-8, atol=1e-8), field, y0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_complex_parameter_is_refused_where_it_cannot_be_differentiated_by():
    with pytest.raises(UnsupportedError, match="a complex parameter"):
        solve(REAL_ALONE, Turning(), start(3))


def test_what_a_backend_cannot_differentiate_it_says():
    """Its own sentence, before anything is solved."""
    field = nn.Module()
    field.forward = decay
    with pytest.raises(UnsupportedError, match="no gradient with respect to times"):
        nodebench.odeint(field, start(), T.clone().requires_grad_(), gradient="direct[compile=true]")


class Hiding(nn.Module):
    """A field with a trainable tensor that is no parameter."""

    def __init__(self, rate):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=rate.dtype))
        self.rate = rate

    def forward(self, t, y):
        del t
        return -self.rate * self.weight * y


@pytest.mark.parametrize("gradient", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"first_step": 0.1}], ids=["chosen", "given"])
def test_a_hidden_tensor_is_differentiated_by_or_refused(gradient, options):
    """In a closure, in an attribute, or made of one: never is its gradient left out without a word."""
    base = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    rate = base * 1.0

    def closing_over(tensor):
        def field(t, y):
            del t
            return -tensor * y

        return field

    for field in (closing_over(base), closing_over(rate), Hiding(base), Hiding(rate)):
        if gradient == ONE_TAPE:
            ys = solve(gradient, field, start(), options=options)
            (found,) = torch.autograd.grad(ys[-1].sum(), base, retain_graph=True)
            expected = -(start() * torch.exp(-base)).sum()
            torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
        else:
            with pytest.raises(UnsupportedError, match=r"depends on .* none of its parameters.*torchdiffeq"):
                solve(gradient, field, start(), options=options)
            with torch.no_grad():
                assert solve(gradient, field, start(), options=options).shape == (3, 2)


def test_a_module_is_looked_at_once_where_that_costs_an_evaluation():
    """With the first step given, the evaluations after the first call are those of the solve alone."""
    calls = []

    class Counting(Net):
        def forward(self, t, y):
            calls.append(t.shape)
            return super().forward(t, y)

    problem = make_problem(Counting())
    counts = []
    for options in ({"first_step": 0.1}, {"first_step": 0.1}, None):
        calls.clear()
        nodebench.odeint(problem.field, problem.y0, problem.times, options=options, rtol=1e-3, atol=1e-3)
        counts.append(len(calls))
    grid = nodebench.backend("direct").grid(
        problem.field, problem.y0, problem.times, SolverSpec(first_step=0.1, dtype="float64")
    )
    solving = 1 + 6 * (grid.n_accepted + grid.n_rejected)
    assert counts[:2] == [solving + 1, solving]
    assert (counts[2] - 2) % 6 == 1
    assert set(calls) == {torch.Size([])}  # the time is a scalar tensor


@pytest.mark.parametrize("gradient", BACKENDS)
def test_a_field_may_be_used_twice_in_a_graph_and_a_graph_twice(gradient):
    """Gradients of the two solves add up; a second backward pass gives the same, or is refused in a sentence."""
    problem = make_problem()
    field, y0 = problem.field, problem.y0.requires_grad_()
    middle = solve(gradient, field, y0)[-1]
    (once,) = torch.autograd.grad(solve(gradient, field, middle.detach())[-1].sum(), [field.second.bias])
    covector = torch.ones_like(middle)
    leaf = middle.detach().requires_grad_()
    (covector,) = torch.autograd.grad(solve(gradient, field, leaf)[-1].sum(), leaf)
    (before,) = torch.autograd.grad(middle, field.second.bias, covector, retain_graph=True)
    whole = solve(gradient, field, solve(gradient, field, y0)[-1])[-1].sum()
    (found,) = torch.autograd.grad(whole, field.second.bias, retain_graph=True)
    torch.testing.assert_close(found, once + before, rtol=1e-9, atol=1e-9)
    if gradient == "direct":
        with pytest.raises(UserError, match="solve again"):
            torch.autograd.grad(whole, field.second.bias)
    else:
        assert torch.equal(*torch.autograd.grad(whole, field.second.bias), found)


def test_threads_solve_side_by_side():
    """Several at once, with one module, as replicas on several devices do."""
    problem = make_problem()

    def one(k):
        y0 = (problem.y0 * (1 + k % 3)).requires_grad_()
        return torch.autograd.grad(solve("adjoint", problem.field, y0).sum(), [y0, problem.field.second.weight])

    alone = [one(k) for k in range(3)]
    with ThreadPoolExecutor(4) as pool:
        for k, found in enumerate(pool.map(one, range(12))):
            assert all(map(torch.equal, found, alone[k % 3]))


@pytest.mark.parametrize("gradient", ["direct", "adjoint", "torchdiffeq-adjoint"])
def test_the_copies_of_data_parallel_are_differentiated(gradient):
    """A replica has no parameters of its own but copies with a graph, which leads to those of the module."""
    problem = make_problem()
    original = problem.field
    replica = original._replicate_for_data_parallel()  # as `nn.parallel.replicate` does it on several devices
    replica._former_parameters = {}
    for name, child in original.named_children():
        part = child._replicate_for_data_parallel()
        part._former_parameters = {}
        setattr(replica, name, part)
        for key, parameter in child.named_parameters():
            copy = parameter * 1.0
            setattr(part, key, copy)
            part._former_parameters[key] = copy
    found, expected = (
        torch.autograd.grad(solve(gradient, field, problem.y0)[-1].sum(), original.second.weight)
        for field in (replica, original)
    )
    assert torch.equal(*found, *expected)


def test_parameters_are_those_that_torch_finds():
    """In its order, each once: of shared modules and tensors, absent entries, frozen ones, and a scripted module."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.BatchNorm1d(3)}), nn.GRU(3, 4))
    model.add_module("again", model[0])
    model.tied = model[1]["a"].weight
    model.register_parameter("absent", None)
    model.none = None
    model[2].weight_ih_l0.requires_grad_(requires_grad=False)
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.Tanh()))
    for module in (model, scripted):
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        assert list(named_parameters(module)) == list(trained)
        held = [*dict(module.named_parameters()), *dict(module.named_buffers())]
        assert list(parameters_and_buffers(module)) == held


class Ends(nn.Module):
    """A model with a solve within."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, y0):
        return solve("adjoint", self.field, y0)[-1]


def test_a_model_is_trained_in_several_processes(tmp_path):
    """`DistributedDataParallel` sees the gradients of a solve in its model; one process is a group as well."""
    problem = make_problem()
    del problem.field.unused
    model = Ends(problem.field)
    (expected,) = torch.autograd.grad(model(problem.y0).sum(), problem.field.second.weight)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        nn.parallel.DistributedDataParallel(model)(problem.y0).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(problem.field.second.weight.grad, expected)


@pytest.mark.parametrize("gradient", BACKENDS)
def test_a_second_derivative_is_right_or_refused(gradient):
    """`create_graph=True` works where the tape has all of the solve, and is a sentence elsewhere."""
    y0, field = start(), Hiding(torch.tensor(0.7, dtype=torch.float64)).double()

    def ends(y0, weight):
        del weight
        method = "lsoda" if gradient == "scipy" else "rk38"
        return nodebench.odeint(decay, y0, T, gradient=gradient, method=method)[-1]

    if gradient == ONE_TAPE:
        assert torch.autograd.gradgradcheck(ends, (y0, field.weight))
        return
    for inputs in ([y0], [field.weight]):
        ys = solve(gradient, field, y0)
        with pytest.raises(UnsupportedError, match=r"create_graph=True.*`torchdiffeq`"):
            torch.autograd.grad(ys.sum(), inputs, create_graph=True)


@pytest.mark.jax
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch looks at it itself, between two graphs
def test_a_compiled_caller_calls_it_between_two_graphs():
    """`torch.compile` leaves it as it is, with the same values and gradients."""
    problem = make_problem()

    def caller(y):
        return solve("direct", problem.field, torch.sin(y)).cos().sum()

    found, expected = (
        torch.autograd.grad(call(problem.y0), problem.field.second.weight)[0]
        for call in (torch.compile(caller, backend="eager"), caller)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("gradient", ["direct", "torchdiffeq"])
def test_a_transform_is_refused(gradient):
    """No state of a solve is a number within a transform."""
    y0 = start().detach()

    def ends(y):
        return solve(gradient, decay, y)[-1]

    for transformed in (
        lambda: torch.func.vmap(ends)(y0[None]),
        lambda: torch.func.jvp(ends, (y0,), (y0,)),
        lambda: torch.func.grad(lambda y: ends(y).sum())(y0),
    ):
        with pytest.raises(UnsupportedError, match="put the batch into `y0`"):
            transformed()
    with dual_level(), pytest.raises(UnsupportedError, match="no forward mode"):
        ends(make_dual(y0, y0))


@pytest.mark.parametrize("gradient", JAX)
def test_a_backend_of_jax_is_refused(gradient):
    """With the call that solves by it; JAX need not be installed for that."""
    with pytest.raises(UserError, match=rf'nodebench\.backend\("{gradient}"\)\.solve'):
        nodebench.odeint(decay, start(), T, gradient=gradient)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gradient": "adjiont"}, "unknown backend 'adjiont'; did you mean 'adjoint'"),
        ({"gradient": "adjoint[nrom=full]"}, "unknown option of backend 'adjoint' 'nrom'; did you mean 'norm'"),
        ({"gradient": "scipy"}, "`dopri5` is none of SciPy's; use `lsoda`, `vode-adams`, `radau`, `bdf`"),
        ({"gradient": "torchdiffeq", "method": "rk4"}, "the 3/8 rule"),
        ({"gradient": "interpolated", "method": "rk4"}, "no dense output"),
        ({"method": "dopri55"}, "unknown solver 'dopri55'; did you mean 'dopri5'"),
        ({"method": "adaptive_heun"}, "unknown solver 'adaptive_heun'; .* heun, "),
        ({"method": "lsoda"}, "not one of ours"),
        ({"rtol": -1.0}, "`rtol` must be positive"),
        ({"rtol": torch.ones(2)}, "`rtol` must be one number"),
        ({"options": {"max_num_steps": 9}}, "unknown option of odeint 'max_num_steps'; did you mean 'max_steps'"),
        ({"options": {"norm": max}}, "there are: controller, first_step, max_steps, step_size"),
        ({"options": {"first_step": "a"}}, "`first_step` must be one number"),
        ({"options": {"step_size": 0.1}}, "takes `first_step`, and no `step_size`"),
        ({"options": {"first_step": 0.1}, "method": "rk4"}, "takes `step_size`, and no `first_step`"),
        ({"options": {"controller": "pid"}}, "'integral' or 'pi'"),
        ({"t": [0.0, 1.0]}, "`t` must be a tensor"),
        ({"t": torch.arange(3)}, "`t` must be a tensor of floating-point numbers"),
        ({"t": T[:1]}, "output times must be two or more"),
        ({"t": T[[0, 2, 1]]}, "strictly increasing or decreasing"),
        ({"t": T[None]}, "output times must be two or more"),
        ({"y0": torch.ones(2, dtype=torch.bfloat16)}, r"`y0` is bfloat16; .* `y0.float\(\)`"),
        ({"y0": torch.ones(2, dtype=torch.complex64)}, "`y0` must be a floating-point tensor"),
        ({"y0": 1.0}, "`y0` must be a floating-point tensor"),
        ({"adjoint_steps": 3}, "unknown argument of odeint 'adjoint_steps'"),
        *(({name: 1}, f"`odeint` has no `{name}`: ") for name in COUNTERPARTS),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_is_a_sentence(changes, reason):
    """What was wanted, what came, what to do."""
    arguments = {"field": decay, "y0": start().detach(), "t": T, **changes}
    with pytest.raises((UserError, UnsupportedError), match=reason):
        nodebench.odeint(**arguments)


def test_an_unknown_option_is_an_unknown_name():
    """So that who offers a choice of them can catch it."""
    with pytest.raises(UnknownNameError):
        nodebench.odeint(decay, start(), T, options={"frist_step": 0.1})


def test_the_limit_of_steps_is_generous_and_can_be_set():
    """A thousand steps are no error, as they would be in a benchmark."""
    y0 = start().detach()
    assert nodebench.odeint(decay, y0, T, method="euler", options={"step_size": 1e-3}).isfinite().all()
    with pytest.raises(StepLimitError, match="100 steps"):
        nodebench.odeint(decay, y0, T, method="euler", options={"step_size": 1e-3, "max_steps": 100})
    with pytest.raises(DivergedError, match="not finite at t = 0"):
        nodebench.odeint(lambda t, y: y / t, y0, T)


def test_a_backend_is_made_once(tmp_path):
    """By its name, whoever asks; a file's class too."""
    assert nodebench.backend("adjoint[norm=seminorm]") is nodebench.backend("adjoint[norm=seminorm]")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from nodebench import AbstractBackend, backend\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine(AbstractBackend):\n"
        '    framework: ClassVar[str] = "torch"\n'
        "    exact_counterpart = None\n\n"
        "    def unsupported(self, problem, spec):\n        return None\n\n"
        "    def solve(self, field, y0, times, spec):\n"
        '        return backend("checkpoint").solve(field, y0, times, spec)\n\n'
        "    def grid(self, field, y0, times, spec):\n        return None\n"
    )
    problem = make_problem()
    found = solve(f"{tmp_path}/mine.py:Mine", problem.field, problem.y0)
    assert torch.equal(found, solve("direct", problem.field, problem.y0))
