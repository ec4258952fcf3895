"""torch as a framework: arrays, weights, counters, saved bytes, optimisers, and training that goes on to the bit."""

from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch
from torch import nn

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import PluginError, UserError
from nodebench.frameworks.base import Optimizer, load_framework
from nodebench.frameworks.torch.framework import Torch, make_optimizer, make_schedule
from nodebench.frameworks.torch.step import CountingField
from nodebench.problem import Problem, SolverSpec
from nodebench.tasks.linear.task import Linear

TARGET = Linear.models["linear"].targets["torch"]


def _model(framework, *, weights=None, solver="dopri5"):
    backend = registry.load("backend", "direct", AbstractBackend)
    task = Linear(n_times=3)
    spec = SolverSpec(solver=solver, rtol=1e-4, atol=1e-4, first_step=0.5)
    given = task.weights("linear", 0) if weights is None else weights
    solve = lambda f, y, t: backend.solve(f, y, t, spec)  # noqa: E731  a model is handed a closure
    return framework.build(TARGET, task.model_options("linear"), given, solve)


def test_torch_is_loaded_by_name():
    """`torch` names this class."""
    assert load_framework("torch") is Torch


@pytest.mark.parametrize("name", ["cuda.matmul.allow_tf32", "cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision"])
def test_tf32_is_switched_off_by_whatever_name_it_was_switched_on(name):
    """There are new names since torch 2.9; where they have been used it cannot be asked by the older ones."""
    framework, (place, attribute) = Torch("cpu", "float32", 1), name.rsplit(".", 1)
    where = attrgetter(place)(torch.backends)
    if not hasattr(where, attribute):
        pytest.skip(f"this torch has no {name}")
    assert framework.settle() == []
    setattr(where, attribute, True if attribute == "allow_tf32" else "tf32")
    assert framework.settle() == ["TF32"]
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert framework.settle() == []


def test_arrays_keep_integers_and_times():
    """Floats take the dtype, `times` stays float64, integers stay integers."""
    batch = {"x": np.ones(2), "times": np.ones(2, dtype=np.float32), "labels": np.array([1, 2])}
    arrays = Torch("cpu", "float32", 1).arrays(batch)
    assert [arrays[name].dtype for name in batch] == [torch.float32, torch.float64, torch.int64]


@pytest.mark.parametrize(
    ("device", "dtype", "match"),
    [("tpu", "float32", "device"), ("cpu", "float16", "dtype")],
)
def test_unknown_devices_and_dtypes_are_refused(device, dtype, match):
    """They are errors of the user."""
    with pytest.raises(UserError, match=match):
        Torch(device, dtype, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused():
    """It says so, and what to use instead."""
    with pytest.raises(UserError, match="no CUDA device"):
        Torch("cuda", "float32", 1)


def test_threads_are_set():
    """The number of threads is that asked for."""
    Torch("cpu", "float32", 2)
    assert torch.get_num_threads() == 2
    Torch("cpu", "float32", 1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "weights",
    [{}, {"field.A": np.zeros((3, 3))}, {"field.A": np.zeros((4, 4)), "field.b": np.zeros(4)}],
    ids=["missing", "shape", "unknown"],
)
def test_weights_must_fit(weights):
    """Missing, unknown or ill-shaped weights break the contract of a plugin."""
    with pytest.raises(PluginError, match=r"field\.[Ab]"):
        _model(Torch("cpu", "float32", 1), weights=weights)


def test_weights_are_loaded_in_the_dtype():
    """The model has the weights that were given, in the configured dtype."""
    model = _model(Torch("cpu", "float32", 1))
    expected = Linear().weights("linear", 0)["field.A"]
    assert model.field.A.dtype == torch.float32
    np.testing.assert_array_equal(model.field.A.detach().numpy(), expected.astype(np.float32))
    assert Torch("cpu", "float32", 1).n_params(model) == 16


def test_the_field_is_evaluated_on_flat_numpy_states():
    """`evaluate` gives the field of the problem, flat and in float64."""
    framework = Torch("cpu", "float64", 1)
    problem = framework.problem(_model(framework), {"y0": np.arange(8.0).reshape(2, 4)})
    flat = framework.flat_state(problem.y0)
    expected = np.arange(8.0).reshape(2, 4) @ Linear().weights("linear", 0)["field.A"].T
    np.testing.assert_allclose(framework.evaluate(problem)(0.0, flat), expected.ravel())


class ConvField(nn.Module):
    """The dynamics of the MNIST network of the paper, written with a concatenated time channel."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(32, 64) for _ in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(65, 64, 3, padding=1) for _ in range(2)])

    def forward(self, t, y):
        for norm, conv in zip(self.norms[:2], self.convs, strict=True):
            y = torch.relu(norm(y))
            y = conv(torch.cat([torch.ones_like(y[:, :1]) * t, y], dim=1))
        return self.norms[2](y)


def _euler(field, y0, times, spec):
    del times, spec
    return torch.stack([y0, y0 + field(0.0, y0)])


def test_saved_bytes_are_those_counted_by_hand():
    """One convolutional evaluation at 128x64x6x6 keeps 8,392,704 bytes: five activations, two with a time channel."""
    y0 = torch.zeros(128, 64, 6, 6).normal_(generator=torch.Generator().manual_seed(0))
    problem = Problem(ConvField(), y0, torch.tensor([0.0, 1.0], dtype=torch.float64), lambda ys: ys[-1].sum())
    step = Torch("cpu", "float32", 2).gradient_step(_euler, problem, SolverSpec())
    assert step.saved_bytes() == 8_392_704


def test_forward_and_backward_make_the_step():
    """The step in two calls gives the gradients of the step in one."""
    framework = Torch("cpu", "float64", 1)
    problem = framework.problem(_model(framework), {"y0": np.ones((2, 4))})
    backend = registry.load("backend", "direct", AbstractBackend)
    step = backend.gradient_step(problem, SolverSpec(rtol=1e-5, atol=1e-5, first_step=0.1), framework)
    whole, halves = framework.to_numpy(step.step()), framework.to_numpy(step.backward(step.forward()))
    np.testing.assert_array_equal(whole.y0, halves.y0)
    np.testing.assert_array_equal(whole.params["A"], halves.params["A"])
    assert whole.times is None


def test_a_field_with_a_memory_is_known():
    """Statistics that each evaluation moves are those of a solver; a layer that no longer moves them is as any."""
    layer = nn.BatchNorm1d(2)
    layer.forward = lambda _, y: nn.BatchNorm1d.forward(layer, y)
    problem = Problem(layer, torch.randn(3, 2), torch.tensor([0.0, 1.0]), torch.sum)
    assert Torch("cpu", "float32", 1).remembered(problem) == "running_mean, running_var, num_batches_tracked"
    assert layer.training
    layer.eval()
    assert Torch("cpu", "float32", 1).remembered(problem) == ""


def test_no_device_memory_is_read_on_a_cpu():
    """The figure is None there, not zero, and the call is not made."""
    assert Torch("cpu", "float32", 1).peak_device_bytes(lambda: pytest.fail("called")) is None


OPTIMIZERS = [
    Optimizer("sgd", 0.01, momentum=0.9, weight_decay=1e-4, schedule="piecewise", milestones=(0.25, 0.5)),
    Optimizer("adam", 0.01, weight_decay=1e-2, schedule="one-cycle", clip_norm=0.5),
    Optimizer("adam", 0.01, schedule="cosine"),
    Optimizer("rmsprop", 0.001, momentum=0.5),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o.name}-{o.schedule}")
def test_training_goes_on_to_the_bit(optimizer, tmp_path):
    """Ten steps in one go and five, saved and restored into a fresh model, five give the same losses and weights."""
    framework, data = Torch("cpu", "float32", 1), Linear(n_times=3).data("smoke", 0).train
    batches = [{name: value[i : i + 8] for name, value in data.items()} for i in range(10)]
    straight = framework.trainer(_model(framework), optimizer, 10)
    expected = [straight.step(batch) for batch in batches]
    first = framework.trainer(_model(framework), optimizer, 10)
    losses = [first.step(batch) for batch in batches[:5]]
    first.save(tmp_path / "half")
    second = framework.trainer(_model(framework), optimizer, 10)
    second.restore(tmp_path / "half")
    losses += [second.step(batch) for batch in batches[5:]]
    assert losses == expected
    np.testing.assert_array_equal(second.metric(batches[0]), straight.metric(batches[0]))
    fresh = framework.trainer(_model(framework), optimizer, 10)
    assert not np.array_equal(straight.metric(batches[0]), fresh.metric(batches[0]))


def test_a_loss_that_is_not_finite_changes_nothing():
    """It is returned as it is, and the weights stay."""
    framework = Torch("cpu", "float32", 1)
    model = _model(framework)
    trainer = framework.trainer(model, Optimizer("sgd", 0.1), 10)
    before = model.field.A.detach().clone()
    data = Linear(n_times=3).data("smoke", 0).train
    assert np.isnan(trainer.step({"y0": data["y0"], "observed": data["observed"] * np.nan}))
    assert torch.equal(model.field.A, before)


def _rates(optimizer, n):
    parameter = nn.Parameter(torch.zeros(1))
    made = make_optimizer([parameter], optimizer)
    schedule, rates = make_schedule(made, optimizer, n), []
    for _ in range(n):
        rates.append(made.param_groups[0]["lr"])
        parameter.grad = torch.zeros(1)
        made.step()
        schedule.step()
    return np.array(rates)


def test_schedules_are_what_their_names_say():
    """Constant, cosine to zero, one cycle with its peak at 30 %, and drops by ten at the milestones."""
    n = 100
    np.testing.assert_allclose(_rates(Optimizer(learning_rate=0.1), n), 0.1)
    cosine = _rates(Optimizer(learning_rate=0.1, schedule="cosine"), n)
    np.testing.assert_allclose(cosine, 0.05 * (1 + np.cos(np.pi * np.arange(n) / n)), rtol=1e-6)
    cycle = _rates(Optimizer(learning_rate=0.1, schedule="one-cycle"), n)
    assert cycle[0] == pytest.approx(0.1 / 25)
    assert cycle.max() == pytest.approx(0.1, rel=1e-3)
    assert abs(int(cycle.argmax()) - 30) <= 1
    drops = _rates(Optimizer("sgd", 0.1, schedule="piecewise", milestones=(0.5, 0.75)), n)
    np.testing.assert_allclose(drops, [0.1] * 50 + [0.01] * 25 + [0.001] * 25)


@pytest.mark.parametrize(
    "optimizer", [Optimizer("lion"), Optimizer("rmsprop", weight_decay=0.1)], ids=["name", "decay"]
)
def test_unknown_optimisers_are_refused(optimizer):
    """A name or setting that is not known is an error."""
    with pytest.raises(UserError, match="optimiser"):
        make_optimizer([nn.Parameter(torch.zeros(1))], optimizer)


def test_unknown_schedules_are_refused():
    """So is a schedule."""
    settings = Optimizer(schedule="step")
    with pytest.raises(UserError, match="schedule"):
        make_schedule(make_optimizer([nn.Parameter(torch.zeros(1))], settings), settings, 10)


class _PartlyConstant(nn.Module):
    """The rate of the second part depends on nothing."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))
        self.graphs = []

    def forward(self, t, y):
        assert (t.shape, t.dtype) == ((), torch.float32)
        self.graphs.append(torch.is_grad_enabled())
        return self.rate * y[0], torch.ones_like(y[1])


def test_field_calls_are_evaluations_with_and_without_a_graph():
    """So many calls each, at the first time; a part of constant rate has no derivative, and no graph stays behind."""
    framework, field = Torch("cpu", "float32", 1), _PartlyConstant()
    problem = Problem(field, (torch.ones(3), torch.ones(2)), torch.tensor([0.0, 1.0]), lambda ys: ys[0].sum())
    calls = framework.gradient_step(_resting, problem, SolverSpec()).field_calls()
    calls.evaluation(3)
    assert field.graphs == [False] * 3
    calls.evaluation_with_vjp(2)
    assert field.graphs == [False] * 3 + [True] * 2
    assert field.rate.grad is None


def _resting(field, y0, times, spec):
    del field, spec
    return tuple(torch.stack([part] * len(times)) for part in y0)


def test_the_loss_is_called_with_its_gradient_by_the_states():
    """So many times, at the states of all output times; the field has no part in it."""
    slopes = []

    def loss(ys):
        assert [part.shape for part in ys] == [(2, 3), (2, 2)]
        first = ys[0].clone()
        first.register_hook(slopes.append)
        return first[-1].sum()

    field = _PartlyConstant()
    problem = Problem(field, (torch.ones(3), torch.ones(2)), torch.tensor([0.0, 1.0]), loss)
    Torch("cpu", "float32", 1).gradient_step(_resting, problem, SolverSpec()).field_calls().loss(2)
    assert [slope.tolist() for slope in slopes] == [[[0.0] * 3, [1.0] * 3]] * 2
    assert field.graphs == []


@pytest.mark.parametrize("name", ["direct", "torchdiffeq-adjoint"])
def test_a_floor_counts_calls_of_the_field_and_its_vjps(name):
    """`evaluation_with_vjp` differentiates by state and parameters, whatever wraps the step."""
    framework = Torch("cpu", "float32", 1)
    model = _model(framework)
    problem = framework.problem(model, {"y0": torch.ones(2, 4)})
    counter = CountingField(problem.field)
    backend = registry.load("backend", name, AbstractBackend)
    step = backend.gradient_step(replace(problem, field=counter), SolverSpec(first_step=0.1), framework)
    calls = step.field_calls()
    solved = counter.n_evaluations
    calls.evaluation(2)
    assert (counter.n_evaluations - solved, counter.n_vjps) == (2, 0)
    calls.evaluation_with_vjp(3)
    assert (counter.n_evaluations - solved, counter.n_vjps) == (5, 3)
    calls.loss(3)
    assert (counter.n_evaluations - solved, counter.n_vjps) == (5, 3)


def _short(field, y0, ys):
    del field, y0
    return ys[-1]


def _decaying(field, y0, ys):
    del field
    y0.data.mul_(0.5)
    return ys


def _learning(field, y0, ys):
    del y0
    field.field.A.data.mul_(0.5)
    return ys


def test_times_that_an_earlier_step_changed_are_told():
    """The next solve fails by them, and the backend is to blame, not who asked for the times."""
    framework, inputs = Torch("cpu", "float64", 1), Linear().problem("linear", 0, 2)
    problem = framework.problem(_model(framework), inputs.batch)
    backend = registry.load("backend", "direct", AbstractBackend)

    def solve(field, y0, times, spec):
        ys = backend.solve(field, y0, times, spec)
        times[-1] = times[0]
        return ys

    step = framework.gradient_step(solve, problem, SolverSpec(first_step=0.5, dtype="float64"))
    step.step()
    with pytest.raises(PluginError, match="changed its `times`"):
        step.evaluations()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_short, r"shape \(3, 2, 4\), the output times first; got \(2, 4\)"),
        (_decaying, "changed its `y0`"),
        (_learning, "changed parameter `A` of its field"),
    ],
)
def test_a_backend_that_breaks_its_contract_is_told(spoil, message):
    """States of another shape, and changes of what was handed over, are errors that name them."""
    framework, inputs = Torch("cpu", "float64", 1), Linear().problem("linear", 0, 2)
    problem = framework.problem(_model(framework), inputs.batch)
    backend = registry.load("backend", "direct", AbstractBackend)

    def solve(field, y0, times, spec):
        return spoil(field, y0, backend.solve(field, y0, times, spec))

    step = framework.gradient_step(solve, problem, SolverSpec(first_step=0.5, dtype="float64"))
    with pytest.raises(PluginError, match=message):
        step.evaluations()


def test_times_that_require_a_gradient_are_differentiated():
    """A model asks so for d/dtimes, without a word; other times are left alone."""
    framework = Torch("cpu", "float64", 1)

    class Model(nn.Module):
        def problem(self, batch):
            del batch
            return Problem(nn.Linear(1, 1), torch.ones(2, 1), times, torch.sum)

    for asked in (True, False):
        times = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=asked)
        found = framework.problem(Model(), {})
        assert (found.differentiate_times, found.times.requires_grad) == (asked, False)
        assert torch.equal(found.times, times)
