"""The NumPy side of the `spiral` task: data, options, weights and recipes."""

import subprocess
import sys

import numpy as np
import pytest

from nodebench.errors import UnknownNameError, UserError
from nodebench.registry import load
from nodebench.tasks.base import AbstractTask
from nodebench.tasks.spiral.task import SPACING, Spiral, curve, draw, redraw_noise, span_times

PRESETS = ("smoke", "quick", "standard", "paper")


@pytest.fixture(name="batch")
def batch_fixture():
    return draw(200, 30, 0.3, np.random.default_rng(0))


def turning(points):
    """Sign of the turn at each inner point of trajectories `(n, m, 2)`: +1 counter-clockwise."""
    step = np.diff(points, axis=1)
    return np.sign(step[:, :-1, 0] * step[:, 1:, 1] - step[:, :-1, 1] * step[:, 1:, 0])


def test_half_of_the_spirals_turn_clockwise(batch):
    """Half turn clockwise, half counter-clockwise, and none changes its mind beyond the span."""
    turns = turning(np.concatenate([batch["inside"], batch["beyond"]], axis=1))
    assert (turns == turns[:, :1]).all()
    assert (turns[:, 0] == -1).sum() == 100


def test_every_spiral_starts_elsewhere(batch):
    """No two trajectories share their first point."""
    assert len(np.unique(batch["inside"][:, 0], axis=0)) == 200


def test_times_are_kept_without_replacement_for_each_trajectory(batch):
    """Each trajectory has 30 different times of the 100, in order, and not those of the next one."""
    index = batch["times"] / SPACING
    np.testing.assert_allclose(index, index.round(), atol=1e-9)
    assert (np.diff(index) > 0.5).all()
    assert index.min() >= 0
    assert index.max() < 99.5
    assert not (batch["times"][:-1] == batch["times"][1:]).all(axis=1).any()


def test_observations_are_the_trajectory_with_white_noise():
    """What is added has the stated standard deviation, no mean, and no correlation in time or space."""
    batch = draw(1000, 100, 0.25, np.random.default_rng(1))
    noise = batch["observations"] - batch["inside"]
    assert abs(noise.std() - 0.25) < 0.002
    assert abs(noise.mean()) < 0.002
    for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[..., 0], noise[..., 1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


def test_what_follows_the_span_continues_the_same_curve(batch):
    """The points inside and beyond lie on one of the two curves at consecutive times."""
    grid = SPACING * np.arange(200)
    for clean in np.concatenate([batch["inside"], batch["beyond"]], axis=1)[:20]:
        clockwise = clean[0, 0] < 0
        centre = -5.0 if clockwise else 5.0
        radius = np.hypot(clean[0, 0] - centre, clean[0, 1])
        start = 6 * np.pi + 1 - 15 / radius if clockwise else radius / 0.3
        np.testing.assert_allclose(clean, curve(start + grid, np.array(clockwise)), atol=1e-9)


def test_data_are_repeatable_and_differ_by_seed_and_split():
    """A seed gives the same data every time; another seed, and each of the three parts, gives other data."""
    first, again, other = Spiral().data("quick", 3), Spiral().data("quick", 3), Spiral().data("quick", 4)
    for name, values in first.train.items():
        np.testing.assert_array_equal(values, again.train[name])
    starts = [split.train["inside"][0, 0] for split in (first, other)]
    starts += [first.validation["inside"][0, 0], first.test["inside"][0, 0]]
    assert len(np.unique(starts, axis=0)) == 4
    assert [len(part["times"]) for part in (first.train, first.validation, first.test)] == [1000, 250, 500]


@pytest.mark.parametrize("observations", [-1, 0, 1, 101, 1000])
def test_impossible_numbers_of_observations_are_refused(observations):
    """Fewer than two, or more than there are points."""
    with pytest.raises(UserError, match="between 2 and 100"):
        Spiral(observations=observations)


@pytest.mark.parametrize("noise", [0.0, -0.1, float("nan"), float("inf")])
def test_impossible_noise_is_refused(noise):
    """The noise is the likelihood's standard deviation, hence positive and finite."""
    with pytest.raises(UserError, match="`noise`"):
        Spiral(noise=noise)


def test_options_are_read_from_the_command_line_text():
    """`spiral[observations=100,noise=0.1]` is the task with those options."""
    assert load("task", "spiral[observations=100,noise=0.1]", AbstractTask) == Spiral(observations=100, noise=0.1)


def test_an_unknown_model_is_answered_with_the_near_one():
    """A mistyped model names the one that was meant."""
    with pytest.raises(UnknownNameError, match="'latent-ode'"):
        Spiral().recipe("latent_ode", "quick")


def test_a_batch_beyond_the_data_is_refused():
    """A gradient measurement cannot take more trajectories than there are."""
    with pytest.raises(UserError, match="1000"):
        Spiral().problem("latent-ode", 0, 1001)


def test_a_gradient_problem_is_the_start_of_the_training_data():
    """Its batch is the first training trajectories, and smaller ones are parts of larger ones."""
    task = Spiral()
    train, inputs = task.data("quick", 5).train, task.problem("latent-ode", 5, 7)
    for name, values in inputs.batch.items():
        np.testing.assert_array_equal(values, train[name][:7])
    assert inputs.dataset == "spirals"


@pytest.mark.parametrize("model", ["latent-ode", "rnn"])
def test_weights_come_from_the_seed(model):
    """Equal for equal seeds, different for others."""
    task = Spiral()
    first, again, other = task.weights(model, 1), task.weights(model, 1), task.weights(model, 2)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        assert not np.array_equal(value, other[name])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", ["latent-ode", "rnn"])
def test_every_recipe_fits_the_data(model, preset):
    """A full batch exists, and the gradient measurement can take the same number."""
    recipe = Spiral().recipe(model, preset)
    assert recipe.batch_size <= 1000
    assert recipe.epochs >= 1


def test_the_latent_noise_is_drawn_anew_and_nothing_else_changes(batch):
    """Augmentation replaces the noise by a draw of its generator, repeatably."""
    drawn, again = (redraw_noise(batch, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(drawn["noise"], again["noise"])
    assert not np.array_equal(drawn["noise"], batch["noise"])
    assert all(drawn[name] is batch[name] for name in batch if name != "noise")


@pytest.mark.worker
def test_the_task_imports_no_framework():
    """Planning needs the task without torch and JAX."""
    code = "import sys; import nodebench.tasks.spiral.task; sys.exit('torch' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_span_begins_at_zero():
    """A trajectory counts time from its own start."""
    times = span_times()
    assert times[0] == 0
    assert len(times) == 100
