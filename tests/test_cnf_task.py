"""The `cnf` task: options, data, recipes, weights, without any framework."""

import numpy as np
import pytest

from nodebench.errors import UnknownNameError, UserError
from nodebench.registry import load
from nodebench.tasks.base import AbstractTask
from nodebench.tasks.cnf.data import mixture
from nodebench.tasks.cnf.task import TABULAR, Cnf

PRESETS = ("smoke", "quick", "standard", "paper")


def test_unknown_data_set_answers_with_the_near_ones():
    """A mistyped data set is refused with the one that was meant."""
    with pytest.raises(UnknownNameError, match="'moons'"):
        Cnf(dataset="moon")


def test_unknown_trace_is_refused():
    """There are two ways to get the trace."""
    with pytest.raises(UnknownNameError, match="hutchinson"):
        Cnf(trace="hutchinsons")


@pytest.mark.parametrize("option", ["hidden", "layers"])
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_below_one_are_refused(option, value):
    """M and K must be at least 1, and the message says what came."""
    with pytest.raises(UserError, match=f"`{option}`.*at least 1; got {value}"):
        Cnf(**{option: value})


def test_options_are_read_from_the_command_line():
    """Text in brackets becomes options of the right type."""
    assert load("task", "cnf[dataset=u1,hidden=8,trace=hutchinson]", AbstractTask) == Cnf("u1", 8, None, "hutchinson")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cnf[dim=5]", r"must be 2, or .* data sets: 6 \(POWER\), .* 63 \(BSDS300\); got 5"),
        ("cnf[dim=6,dataset=u1]", "`dataset=u1` is in the plane, and `dim=6` has data of its own; give one of them"),
    ],
)
def test_a_dimension_without_data_is_refused(text, reason):
    """There are the plane with its data sets, and the dimensions of FFJORD's tables."""
    with pytest.raises(UserError, match=reason):
        load("task", text, AbstractTask)


@pytest.mark.parametrize(
    ("dim", "widths"),
    [(6, [60] * 3), (8, [160] * 3), (21, [210] * 2), (43, [860] * 2), (63, [1260] * 3)],
)
def test_fields_have_the_published_sizes(dim, widths):
    """Hidden layers of FFJORD's width and number; units can be given."""
    for task, expected in ((Cnf(dim=dim), widths), (Cnf(dim=dim, hidden=4), [4] * len(widths))):
        biases = [len(array) for name, array in task.weights("cnf", 0).items() if name.endswith("linear.bias")]
        assert biases == [*expected, dim]


@pytest.mark.parametrize("dim", TABULAR)
def test_mixtures_are_standardised_and_correlated(dim):
    """Each coordinate has mean 0 and variance 1, and some are correlated; every seed has one mixture."""
    points, others = (mixture(20_000, dim, np.random.default_rng(seed)) for seed in (0, 1))
    covariance = np.cov(points.T)
    np.testing.assert_allclose(points.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(covariance.diagonal(), 1, atol=0.1)
    assert np.abs(covariance - np.diag(covariance.diagonal())).max() > 0.2
    np.testing.assert_allclose(np.cov(others.T), covariance, atol=0.1)
    assert not np.array_equal(points, others)


def test_data_out_of_the_plane_name_themselves():
    """They are no table of FFJORD's; parts that the exact trace is taken of are shorter."""
    splits = Cnf(dim=63).data("smoke", 0)
    assert splits.name == Cnf(dim=63).problem("cnf", 0, 2).dataset == "gaussian-mixture"
    assert [len(part["data"]) for part in (splits.train, splits.validation, splits.test)] == [2_048, 8, 16]
    assert Cnf(dim=63).plots("cnf", splits, None) == ()


@pytest.mark.parametrize("text", ["cnf[dataset=u5]", "cnf[hidden=0]", "cnf[hidden=many]", "cnf[trace=none]"])
def test_bad_options_are_user_errors(text):
    """Whatever is wrong with an option, the command line can print it."""
    with pytest.raises(UserError):
        load("task", text, AbstractTask)


def test_unknown_model_is_refused():
    """Recipe, options and weights all know the models."""
    for call in (
        lambda t: t.recipe("plan", "quick"),
        lambda t: t.model_options("plan"),
        lambda t: t.weights("plan", 0),
    ):
        with pytest.raises(UnknownNameError, match="planar"):
            call(Cnf())


def test_sizes_default_to_the_papers():
    """32 functions or layers match a target, 64 fit a data set; a given size wins."""
    assert Cnf("u2").model_options("cnf")["hidden"] == 32
    assert Cnf("moons").model_options("planar")["layers"] == 64
    assert Cnf("u2", hidden=2).model_options("cnf")["hidden"] == 2


def test_metric_follows_the_data_set():
    """A target is judged by KL with two figures on its window beside it, a data set by NLL alone; both in nats."""
    assert (Cnf("u1").metric.name, Cnf("u1").metric.unit) == ("KL", "nats")
    assert [metric.name for metric in Cnf("u1").diagnostics] == ["mass outside", "KL without wall"]
    assert (Cnf().metric.name, Cnf().metric.unit, Cnf().diagnostics) == ("NLL", "nats", ())


@pytest.mark.parametrize("dataset", ["circles", "u4"])
def test_data_follow_from_the_seed(dataset):
    """The same seed gives the same data, another seed other data."""
    task = Cnf(dataset)
    first, again, other = (task.data("smoke", seed) for seed in (0, 0, 1))
    for name in ("train", "validation", "test"):
        for key, array in getattr(first, name).items():
            np.testing.assert_array_equal(array, getattr(again, name)[key])
            assert not np.array_equal(array, getattr(other, name)[key])


def test_parts_of_the_data_share_no_point():
    """Training, validation and test are drawn apart."""
    splits = Cnf().data("quick", 0)
    points = np.concatenate([part["data"] for part in (splits.train, splits.validation, splits.test)])
    assert len(points) == 62_000
    assert len(np.unique(points, axis=0)) == len(points)


def test_targets_that_were_cut_say_so():
    """The note of u2 to u4 tells of the window; u1 needs none."""
    assert "window" in Cnf("u3").data("smoke", 0).note
    assert Cnf("u1").data("smoke", 0).note == ""
    assert Cnf("u3").problem("cnf", 0, 4).note == Cnf("u3").data("smoke", 0).note


def test_base_samples_are_drawn_afresh_in_every_step():
    """Density matching never trains twice on the same samples."""
    task = Cnf("u1")
    augment = task.recipe("cnf", "quick").augment
    batch = task.problem("cnf", 0, 16).batch
    first, again, other = (augment(batch, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["base"], again["base"])
    assert not np.array_equal(first["base"], other["base"])


def test_data_points_are_never_changed():
    """Maximum likelihood trains on the data as they are, with new trace noise alone."""
    assert Cnf().recipe("cnf", "quick").augment is None
    task = Cnf(trace="hutchinson")
    batch = task.problem("cnf", 0, 256).batch
    new = task.recipe("cnf", "quick").augment(batch, np.random.default_rng(5))
    np.testing.assert_array_equal(new["data"], batch["data"])
    assert not np.array_equal(new["noise"], batch["noise"])


def test_trace_noise_is_plus_or_minus_one():
    """Rademacher noise, as integers, so that no framework takes it for a parameter."""
    noise = Cnf("u1", trace="hutchinson").problem("cnf", 0, 1000).batch["noise"]
    assert noise.dtype == np.int8
    assert noise.shape == (1000, 2)
    assert set(np.unique(noise)) == {-1, 1}
    assert abs(noise.mean()) < 0.1


def test_paper_preset_has_the_papers_iterations():
    """Adam with 10,000 iterations for the continuous flow, RMSprop with 500,000 for the planar one."""
    cnf, planar = (Cnf("u1").recipe(model, "paper") for model in ("cnf", "planar"))
    assert (cnf.optimizer.name, cnf.epochs * cnf.steps_per_epoch) == ("adam", 10_000)
    assert (planar.optimizer.name, planar.epochs * planar.steps_per_epoch) == ("rmsprop", 500_000)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", ["cnf", "planar"])
def test_every_preset_has_a_recipe_and_enough_data(model, preset):
    """A batch fits into the training data of its preset."""
    task = Cnf()
    assert task.recipe(model, preset).batch_size <= len(task.data(preset, 0).train["data"])


def test_the_gradient_batch_is_the_head_of_the_training_data():
    """What the gradient is measured on is what is trained on."""
    task = Cnf("pinwheel")
    batch = task.problem("cnf", 3, 32).batch
    assert batch["data"].shape == (32, 2)
    assert task.problem("cnf", 3, 32).dataset == "pinwheel"
    np.testing.assert_array_equal(batch["data"], task.problem("cnf", 3, 32).batch["data"])


def test_weights_follow_from_the_seed():
    """The same seed gives the same float64 weights, another seed others."""
    task = Cnf("u1")
    for model in ("cnf", "planar"):
        first, again, other = (task.weights(model, seed) for seed in (0, 0, 1))
        assert all(array.dtype == np.float64 for array in first.values())
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert not all(np.array_equal(first[name], other[name]) for name in first)
