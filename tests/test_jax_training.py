"""Training in JAX: the same schedules and updates as torch, and a continuation to the bit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nodebench.backends.diffrax.adjoints import Diffrax
from nodebench.errors import UserError
from nodebench.frameworks.base import Optimizer
from nodebench.frameworks.jax.framework import Jax, JaxTrainer, schedule
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import SolverSpec
from nodebench.tasks.linear.task import Linear

TOTAL = 12
START = np.array([[1.0, -2.0, 0.5]])
OPTIMIZERS = [
    Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.01, schedule="piecewise", milestones=(0.25, 0.7)),
    Optimizer("adam", 0.1, schedule="one-cycle"),
    Optimizer("adam", 0.1, weight_decay=0.1, schedule="cosine"),
    Optimizer("rmsprop", 0.02, momentum=0.9, schedule="cosine"),
    Optimizer("sgd", 0.1, clip_norm=0.5),
]


class TorchBowl(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1, 3))

    def loss(self, batch):
        return ((self.w - batch["x"]) ** 2 * batch["scale"]).sum()


class JaxBowl(eqx.Module):
    w: jax.Array

    def __init__(self):
        self.w = jnp.zeros((1, 3))

    def loss(self, batch):
        return jnp.sum((self.w - batch["x"]) ** 2 * batch["scale"])

    def metric(self, batch):
        return jnp.sum((self.w - batch["x"]) ** 2, 1)


def _losses(framework, target, optimizer):
    model = framework.build(target, {}, {"w": START}, None)
    trainer = framework.trainer(model, optimizer, TOTAL)
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((1, 3)), "scale": np.array([1.0, 3.0, 0.1])} for _ in range(TOTAL)]
    return [trainer.step(batch) for batch in batches]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda at: f"{at.name}-{at.schedule}-{at.clip_norm}")
def test_training_takes_the_steps_that_torch_takes(optimizer):
    """Optimiser, schedule, decay and clipping give torch's losses, step by step."""
    expected = _losses(Torch("cpu", "float64", 1), f"{__file__}:TorchBowl", optimizer)
    # torch adds 1e-6 to the norm that it clips by
    np.testing.assert_allclose(_losses(Jax("cpu", "float64", 1), f"{__file__}:JaxBowl", optimizer), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "lion"}, "`name` of an optimiser must be one of"),
        ({"schedule": "stairs"}, "`schedule` must be one of"),
        ({"name": "rmsprop", "weight_decay": 0.1}, "takes no weight decay"),
    ],
)
def test_unknown_settings_are_user_errors(change, message):
    """An optimiser or schedule that does not exist is named, with those that do."""
    model = Jax("cpu", "float32", 1).build(f"{__file__}:JaxBowl", {}, {"w": START}, None)
    with pytest.raises(UserError, match=message):
        JaxTrainer(model, Optimizer(**change), TOTAL, dict)


def test_one_cycle_reaches_its_peak():
    """The largest learning rate of a long schedule is the one asked for, and the first a 25th of it."""
    rates = [float(schedule(Optimizer("adam", 0.1, schedule="one-cycle"), 1000)(jnp.array(k))) for k in range(0, 1000)]
    assert max(rates) == pytest.approx(0.1, rel=1e-4)
    assert rates[0] == pytest.approx(0.004, rel=1e-4)
    assert rates[-1] < 1e-5


def test_the_metric_has_a_value_for_each_example():
    """Shape `(n,)`, as NumPy."""
    framework = Jax("cpu", "float32", 1)
    trainer = framework.trainer(framework.build(f"{__file__}:JaxBowl", {}, {"w": START}, None), Optimizer(), TOTAL)
    values = trainer.metric({"x": np.zeros((4, 3))})
    np.testing.assert_allclose(values, np.full(4, 5.25))


def test_a_restored_training_goes_on_to_the_bit(tmp_path):
    """Through a diffrax solve: losses, metric and gradient problem after save and restore are exactly the same."""
    task, framework = Linear(n_times=2), Jax("cpu", "float32", 1)
    recipe, train = task.recipe("linear", "quick"), task.data("smoke", 0).train
    spec = SolverSpec(first_step=0.1, max_steps=64)
    batches = [{name: values[k * 8 : k * 8 + 8] for name, values in train.items()} for k in range(6)]
    backend = Diffrax()

    def solve(field, y0, times):
        return backend.solve(field, y0, times, spec)

    def trainer():
        weights = task.weights("linear", 0)
        model = framework.build(task.models["linear"].targets["jax"], task.model_options("linear"), weights, solve)
        return framework.trainer(model, recipe.optimizer, 20)

    first = trainer()
    for batch in batches[:3]:
        first.step(batch)
    first.save(tmp_path / "checkpoint")
    expected = [first.step(batch) for batch in batches[3:]]
    second = trainer()
    second.restore(tmp_path / "checkpoint")
    assert [second.step(batch) for batch in batches[3:]] == expected
    np.testing.assert_array_equal(second.metric(batches[0]), first.metric(batches[0]))
    np.testing.assert_array_equal(second.problem(batches[0]).field.A, first.problem(batches[0]).field.A)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
