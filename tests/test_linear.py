"""The linear task: its closed form against finite differences, its data, its options."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import UnknownNameError, UserError
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import SolverSpec
from nodebench.tasks.base import AbstractTask
from nodebench.tasks.linear.task import Linear, gradients, states


def _numeric(function, x):
    step, out = 1e-6, np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        out[i] = (function(up) - function(down)) / (2 * step)
    return out


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), loss=st.sampled_from(["end", "path"]), back=st.booleans())
def test_the_closed_form_agrees_with_finite_differences(seed, loss, back):
    """Matrix, initial state and every output time, forwards and backwards in time."""
    rng = np.random.default_rng(seed)
    matrix, y0 = rng.normal(size=(3, 3)) / 2, rng.normal(size=(2, 3))
    times = np.sort(rng.uniform(-1, 1, size=4))[:: -1 if back else 1]

    def value(a, y, t):
        solution = states(a, y, t)
        return np.sum((solution[1:] if loss == "path" else solution[-1]) ** 2)

    exact = gradients(matrix, y0, times, loss)
    np.testing.assert_allclose(exact.loss, value(matrix, y0, times))
    np.testing.assert_allclose(exact.y0, _numeric(lambda y: value(matrix, y, times), y0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(exact.params["A"], _numeric(lambda a: value(a, y0, times), matrix), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(exact.times, _numeric(lambda t: value(matrix, y0, t), times), rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_data_and_another_does_not():
    """Splits are disjoint draws from the seed alone."""
    first, again, other = Linear().data("smoke", 3), Linear().data("smoke", 3), Linear().data("smoke", 4)
    np.testing.assert_array_equal(first.test["observed"], again.test["observed"])
    assert not np.array_equal(first.test["y0"], other.test["y0"])
    rows = np.concatenate([first.train["y0"], first.validation["y0"], first.test["y0"]])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_data_has_the_example_first():
    """`observed` holds one trajectory per example, beginning at its initial state."""
    train = Linear(dimension=2, n_times=6).data("smoke", 0).train
    assert train["observed"].shape == (64, 6, 2)
    np.testing.assert_allclose(train["observed"][:, 0], train["y0"])


@pytest.mark.parametrize("options", [{"dimension": 0}, {"n_times": 1}, {"horizon": 0.0}, {"horizon": float("nan")}])
def test_impossible_sizes_are_refused(options):
    """A task without state, interval or output time is an error."""
    with pytest.raises(UserError, match="at least"):
        Linear(**options)


def test_an_unknown_model_is_refused():
    """The error names the model that there is."""
    with pytest.raises(UnknownNameError, match="linear"):
        Linear().recipe("lineer", "smoke")


def test_options_are_read_from_the_command_line():
    """The registry makes the task with its options."""
    task = registry.load("task", "linear[dimension=3,loss=path,differentiate_times=true]", AbstractTask)
    assert task == Linear(dimension=3, loss="path", differentiate_times=True)


def test_the_closed_form_of_the_problem_is_that_of_its_batch():
    """The gradients handed to the harness are those of a tight solve of the same weights and batch."""
    task, framework = Linear(differentiate_times=True), Torch("cpu", "float64", 1)
    inputs, backend = task.problem("linear", 5, 3), registry.load("backend", "direct", AbstractBackend)
    target, options = task.models["linear"].targets["torch"], task.model_options("linear")
    problem = framework.problem(framework.build(target, options, inputs.weights, lambda *_: None), inputs.batch)
    spec = SolverSpec(rtol=1e-9, atol=1e-9, first_step=0.01, max_steps=5000, dtype="float64")
    found, exact = framework.to_numpy(backend.grad(problem, spec, framework)), inputs.closed_form()
    np.testing.assert_allclose(found.y0, exact.y0, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.params["A"], exact.params["A"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.times, exact.times, rtol=1e-6, atol=1e-6)


def test_training_finds_the_hidden_matrix():
    """A hundred and fifty steps bring the error of the held-out trajectories far below where they began."""
    task, framework = Linear(dimension=2, horizon=1.0, n_times=4), Torch("cpu", "float32", 1)
    backend, spec = (
        registry.load("backend", "adjoint", AbstractBackend),
        SolverSpec(rtol=1e-4, atol=1e-4, first_step=0.3),
    )
    model = framework.build(
        task.models["linear"].targets["torch"],
        task.model_options("linear"),
        task.weights("linear", 1),
        lambda f, y, t: backend.solve(f, y, t, spec),
    )
    data, recipe = task.data("smoke", 1), task.recipe("linear", "quick")
    trainer = framework.trainer(model, recipe.optimizer, 150)
    before = trainer.metric(data.test).mean()
    for _ in range(150):
        trainer.step(data.train)
    assert trainer.metric(data.test).mean() < 0.05 * before
