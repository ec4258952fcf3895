"""Splits, recipes, augmentation and weights of the mnist task, without any framework."""

from typing import get_args

import numpy as np
import pytest

from nodebench.errors import UnknownNameError, UserError
from nodebench.registry import load
from nodebench.tasks.base import AbstractTask, Preset
from nodebench.tasks.mnist.task import RECIPES, SIZES, Mnist, random_crop

PRESETS = get_args(Preset)


def rows(batch):
    return {image.tobytes() for image in batch["images"]}


def test_registry_loads_the_task_with_its_options():
    """Options in brackets arrive as fields."""
    task = load("task", "mnist[dataset=digits,downsampling=res]", AbstractTask)
    assert task == Mnist(dataset="digits", downsampling="res")


def test_registry_refuses_an_unknown_downsampling():
    """A mistyped value is an error that names the option."""
    with pytest.raises(UserError, match="downsampling"):
        load("task", "mnist[downsampling=pool]", AbstractTask)


@pytest.mark.parametrize("preset", PRESETS)
def test_splits_are_disjoint(preset):
    """No image of one split is in another."""
    splits = Mnist(dataset="digits").data(preset, 0)
    train, validation, test = rows(splits.train), rows(splits.validation), rows(splits.test)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_splits_hold_float32_images_in_the_unit_interval_and_their_labels():
    """Nothing but the scaling to [0, 1] is done to an image."""
    splits = Mnist(dataset="digits").data("quick", 0)
    for batch in (splits.train, splits.validation, splits.test):
        assert batch["images"].dtype == np.float32
        assert batch["images"].min() == 0
        assert 0.99 < batch["images"].max() <= 1
        assert batch["labels"].dtype == np.int64
        assert len(batch["labels"]) == len(batch["images"])


def test_smoke_says_that_it_cuts_the_data():
    """A preset that looks at part of the test images does not pass for one that looks at all."""
    splits = Mnist(dataset="digits").data("smoke", 0)
    size = SIZES["smoke"]
    assert (len(splits.train["labels"]), len(splits.test["labels"])) == (size.train, size.test)
    assert f"{size.train} training and {size.test} test images" in splits.note


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", sorted(Mnist.models))
def test_every_model_has_a_recipe_under_every_preset(model, preset):
    """Batches fit the data, and the drops of the schedule lie within the training in rising order."""
    recipe = Mnist().recipe(model, preset)
    assert 1 <= recipe.batch_size <= 128
    assert recipe.epochs >= 1
    assert recipe.optimizer.learning_rate > 0
    milestones = recipe.optimizer.milestones
    assert list(milestones) == sorted(milestones)
    assert all(0 < milestone < 1 for milestone in milestones)


def test_every_preset_has_a_size_and_a_recipe():
    """No preset of the command line is forgotten."""
    assert set(SIZES) == set(RECIPES) == set(PRESETS)


def test_paper_recipe_is_the_published_one():
    """SGD 0.1 with momentum 0.9, batch 128, drops at 60, 100 and 140 of 160 epochs, random crops."""
    recipe = Mnist().recipe("odenet", "paper")
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.1, 0.9)
    assert (recipe.batch_size, recipe.epochs, recipe.steps_per_epoch) == (128, 160, None)
    assert [milestone * recipe.epochs for milestone in optimizer.milestones] == [60, 100, 140]
    assert recipe.augment is random_crop


def test_unknown_model_is_refused_with_the_near_ones():
    """A mistyped model is answered with what was meant."""
    with pytest.raises(UnknownNameError, match="resnet-12"):
        Mnist().recipe("resnet-13", "quick")


def batch_of(n):
    images = np.random.default_rng(0).random((n, 1, 28, 28), dtype=np.float32)
    return {"images": images, "labels": np.arange(n) % 10}


def test_random_crop_is_determined_by_its_generator():
    """The same generator state gives the same crops, another gives others."""
    batch = batch_of(16)
    first = random_crop(batch, np.random.default_rng(3))
    again = random_crop(batch, np.random.default_rng(3))
    other = random_crop(batch, np.random.default_rng(4))
    np.testing.assert_array_equal(first["images"], again["images"])
    assert not np.array_equal(first["images"], other["images"])


def test_random_crop_shifts_by_at_most_four_pixels_and_fills_with_zeros():
    """Each crop is the image at one of the 81 shifts, and the 81 shifts all occur."""
    batch = {"images": np.zeros((2000, 1, 28, 28), np.float32), "labels": np.zeros(2000, np.int64)}
    batch["images"][:, 0, 14, 14] = 1
    cropped = random_crop(batch, np.random.default_rng(0))["images"]
    _, _, y, x = np.nonzero(cropped)
    assert len(y) == 2000
    assert {(int(a), int(b)) for a, b in zip(y, x, strict=True)} == {
        (a, b) for a in range(10, 19) for b in range(10, 19)
    }


def test_random_crop_leaves_labels_and_the_original_alone():
    """The batch that came in is not written to."""
    batch = batch_of(8)
    before = batch["images"].copy()
    cropped = random_crop(batch, np.random.default_rng(0))
    np.testing.assert_array_equal(batch["images"], before)
    np.testing.assert_array_equal(cropped["labels"], batch["labels"])
    assert cropped["images"].dtype == np.float32


def test_weights_depend_on_the_seed_alone():
    """A seed gives the same weights again, another seed others."""
    first, again, other = (Mnist().weights("odenet", seed)["field.conv1.weight"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_weights_fill_the_interval_of_torch_defaults():
    """Uniform within 1 / sqrt(fan-in): the 65 x 9 inputs of the field's convolution bound its weights and bias."""
    weights = Mnist().weights("odenet", 0)
    bound = 1 / np.sqrt(65 * 9)
    drawn = weights["field.conv1.weight"]
    assert 0.999 * bound < np.abs(drawn).max() <= bound
    assert drawn.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert np.abs(weights["field.conv1.bias"]).max() <= bound
    assert weights["field.norm1.weight"].tolist() == [1.0] * 64


def test_problem_takes_the_first_training_images():
    """The fixed batch is the start of the training data, at the weights of the seed."""
    task = Mnist(dataset="digits")
    inputs = task.problem("odenet", 5, 8)
    train = task.data("quick", 0).train
    np.testing.assert_array_equal(inputs.batch["images"], train["images"][:8])
    np.testing.assert_array_equal(inputs.batch["labels"], train["labels"][:8])
    np.testing.assert_array_equal(inputs.weights["head.4.weight"], task.weights("odenet", 5)["head.4.weight"])


@pytest.mark.parametrize("batch_size", [0, 1398])
def test_problem_refuses_a_batch_that_the_data_cannot_fill(batch_size):
    """The error names the number of images that there are."""
    with pytest.raises(UserError, match="1397"):
        Mnist(dataset="digits").problem("odenet", 0, batch_size)
