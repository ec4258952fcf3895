"""The mnist networks in torch."""

import numpy as np
import pytest
import torch
from torch import nn

from nodebench.tasks.mnist import torch as torch_models
from nodebench.tasks.mnist.task import Mnist


def euler(field, y0, times):
    """Four Euler steps: enough of a solver for shapes and gradients."""
    ys, step = [y0], float(times[1] - times[0]) / 4
    y = y0
    for k in range(4):
        y = y + step * field(float(times[0]) + k * step, y)
    return torch.stack([*ys, y])


def build(name, downsampling="conv", seed=0):
    task = Mnist(downsampling=downsampling)
    cls = vars(torch_models)[task.models[name].targets["torch"].partition(":")[2]]
    solve = {"solve": euler} if task.models[name].uses_backend else {}
    model = cls(**solve, **task.model_options(name)).double()
    weights = {key: torch.from_numpy(value.copy()) for key, value in task.weights(name, seed).items()}
    model.load_state_dict(weights, strict=True)
    return model


def batch_of(n):
    rng = np.random.default_rng(0)
    return {"images": torch.from_numpy(rng.random((n, 1, 28, 28))), "labels": torch.from_numpy(rng.integers(0, 10, n))}


@pytest.mark.parametrize(
    ("name", "downsampling", "expected"),
    [
        ("odenet", "conv", 208_266),
        ("odenet", "res", 232_970),
        ("resnet", "conv", 576_778),
        ("resnet", "res", 601_482),
        ("resnet-2", "conv", 280_842),
        ("resnet-1", "conv", 206_858),
        ("resnet-0", "conv", 132_874),
        ("mlp", "conv", 238_510),
    ],
)
def test_parameter_counts(name, downsampling, expected):
    """The NumPy weights load strictly, and there are as many as in the published networks."""
    model = build(name, downsampling)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("downsampling", ["conv", "res"])
@pytest.mark.parametrize("name", sorted(Mnist.models))
def test_logits_loss_and_metric_have_their_shapes(name, downsampling):
    """Ten logits and one metric value for each image, one loss for the batch."""
    model, batch = build(name, downsampling), batch_of(3)
    assert model(batch["images"]).shape == (3, 10)
    assert model.loss(batch).shape == ()
    assert model.metric(batch).shape == (3,)


def test_metric_is_100_for_each_wrong_answer():
    """Right answers count nothing, wrong ones a hundred percent."""
    model, batch = build("mlp"), batch_of(6)
    answers = model(batch["images"]).argmax(dim=1)
    labels = torch.where(torch.arange(6) < 4, answers, (answers + 1) % 10)
    assert model.metric({**batch, "labels": labels}).tolist() == [0.0] * 4 + [100.0] * 2


@pytest.mark.parametrize(("downsampling", "side"), [("conv", 6), ("res", 7)])
def test_state_of_the_ode_has_64_feature_maps(downsampling, side):
    """The solver is handed `(n, 64, 6, 6)` or `(n, 64, 7, 7)`, without a graph, over [0, 1]."""
    problem = build("odenet", downsampling).problem(batch_of(2))
    assert problem.y0.shape == (2, 64, side, side)
    assert not problem.y0.requires_grad
    assert problem.times.dtype == torch.float64
    assert problem.times.tolist() == [0.0, 1.0]


def test_problem_has_the_loss_of_training():
    """Solved from its initial state, the gradient problem gives the very loss that training sees."""
    model, batch = build("odenet"), batch_of(3)
    problem = model.problem(batch)
    loss = problem.loss(euler(problem.field, problem.y0, problem.times))
    torch.testing.assert_close(loss, model.loss(batch), rtol=0, atol=0)


class ConcatField(nn.Module):
    """The field as its authors publish it: time concatenated as the first channel."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, t, y):
        out = self._conv(self.field.conv1, t, torch.relu(self.field.norm1(y)))
        out = self._conv(self.field.conv2, t, torch.relu(self.field.norm2(out)))
        return self.field.norm3(out)

    def _conv(self, conv, t, x):
        return conv(torch.cat([torch.ones_like(x[:, :1]) * t, x], dim=1))


def test_field_is_the_published_one_with_a_concatenated_time_channel():
    """Value and all derivatives (time, state, parameters) are those of the concatenation."""
    field = build("odenet").field
    y = torch.randn(2, 64, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = (t, y, *field.parameters())
    cotangent = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape)
    ours, published = field(t, y), ConcatField(field)(t, y)
    torch.testing.assert_close(ours, published, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(published, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_field_takes_the_time_as_float_or_tensor(dtype):
    """A Python float and a float64 scalar tensor give the same derivative, in the type of the state."""
    field = build("odenet").field.to(dtype)
    y = torch.randn(2, 64, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))
    from_float, from_tensor = field(0.7, y), field(torch.tensor(0.7, dtype=torch.float64), y)
    assert from_float.dtype == dtype
    torch.testing.assert_close(from_float, from_tensor, rtol=0, atol=0)


def test_field_does_not_write_to_the_state():
    """The solver's state is as it was, though activations are computed in place."""
    field = build("odenet").field
    y = torch.randn(2, 64, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = y.clone()
    field(0.5, y)
    assert torch.equal(y, before)


@pytest.mark.parametrize("name", sorted(Mnist.models))
def test_every_parameter_gets_a_gradient(name):
    """No layer is left out of the loss."""
    model = build(name, "res")
    model.loss(batch_of(3)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key
