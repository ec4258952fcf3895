"""MNIST digits: an ODE in the place of a ResNet's residual blocks, beside the networks that it is judged against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.plots import Plot, View
from nodebench.problem import SolverSpec
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits, layer_weights
from nodebench.tasks.mnist.data import load, where

_TORCH = "nodebench.tasks.mnist.torch"

CHANNELS = 64
CLASSES = 10
PIXELS = 784
HIDDEN = 300

BLOCKS: Mapping[str, int] = {"resnet": 6, **{f"resnet-{n}": n for n in (0, 1, 2, 3, 4, 8, 12)}}
"""Residual blocks of the networks without an ODE; the paper's has six. Two make about as many parameters as the ODE."""


@dataclass(frozen=True)
class DataPortion:
    """How much of the data a preset uses: the last training images validate, the first ones train; None is all."""

    train: int | None
    validation: int
    test: int | None


SIZES: Mapping[Preset, DataPortion] = {
    "smoke": DataPortion(train=512, validation=128, test=256),
    "quick": DataPortion(train=None, validation=1000, test=None),
    "standard": DataPortion(train=None, validation=5000, test=None),
    "paper": DataPortion(train=None, validation=5000, test=None),
}

_ONE_CYCLE = Optimizer(name="adam", learning_rate=1e-2, schedule="one-cycle")


def random_crop(batch: Batch, generator: np.random.Generator) -> Batch:
    """Shift each image by up to four pixels either way, with zeros moving in: a random crop of the padded image."""
    images = batch["images"]
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    crops = sliding_window_view(padded[:, 0], images.shape[2:], axis=(1, 2))
    rows, columns = generator.integers(0, 9, (2, len(images)))
    return {**batch, "images": crops[np.arange(len(images)), rows, columns][:, None]}


# Batches of 100 are evaluated in half the time of batches of 500: the first feature maps then stay in a CPU's cache.
RECIPES: Mapping[Preset, Recipe] = {
    "smoke": Recipe(_ONE_CYCLE, batch_size=32, epochs=2, steps_per_epoch=4, evaluation_batch=64),
    "quick": Recipe(_ONE_CYCLE, batch_size=32, epochs=4, steps_per_epoch=100, evaluation_batch=100),
    "standard": Recipe(_ONE_CYCLE, batch_size=64, epochs=6, evaluation_batch=100),
    "paper": Recipe(
        Optimizer("sgd", 0.1, momentum=0.9, schedule="piecewise", milestones=(60 / 160, 100 / 160, 140 / 160)),
        batch_size=128,
        epochs=160,
        evaluation_batch=1000,
        augment=random_crop,
    ),
}
"""One for all networks of a preset, so that nothing but the network differs; `paper` is the published one."""


@dataclass(frozen=True)
class Mnist(AbstractTask):
    """Handwritten digits, classified (section 3 and table 1 of the paper).

    "Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and Duvenaud, 2018,
    https://arxiv.org/abs/1806.07366. Architecture and recipe are those of the authors' published example.

    Attributes:
        dataset: `"mnist"`; `"digits"`, a stand-in of 1,797 images; or `"auto"`, MNIST where it is to be had.
        downsampling: What makes feature maps of the image: `"conv"`, or `"res"` for two strided residual blocks.
    """

    dataset: Literal["auto", "mnist", "digits"] = "auto"
    downsampling: Literal["conv", "res"] = "conv"

    metric: ClassVar[Metric] = Metric("test error", "%", "lower")
    default_model: ClassVar[str] = "odenet"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-3, atol=1e-3, max_steps=64)
    # ReLU has a kink wherever a unit switches on its way: the gradient converges with the first power of the step only.
    # What counts is how evenly a step's weights are spread over its stages: the 3/8 rule errs as little with four
    # evaluations as the midpoint rule with six.
    reference: ClassVar[SolverSpec] = SolverSpec(solver="rk38", first_step=1 / 480, max_steps=100_000, dtype="float64")
    models: ClassVar[Mapping[str, ModelEntry]] = {
        "odenet": ModelEntry(
            {"torch": f"{_TORCH}:ODENet", "jax": "nodebench.tasks.mnist.jax:ODENet"},
            summary="An ODE over feature maps between downsampling and head.",
        ),
        **{
            name: ModelEntry(
                {"torch": f"{_TORCH}:ResNet"},
                uses_backend=False,
                summary=f"{n or 'No'} residual block{'' if n == 1 else 's'} between downsampling and head.",
            )
            for name, n in BLOCKS.items()
        },
        "mlp": ModelEntry({"torch": f"{_TORCH}:MLP"}, uses_backend=False, summary="One hidden layer of 300 units."),
    }

    @override
    def data_source(self) -> str:
        """Where the images would come from on this machine, without fetching any."""
        return where(self.dataset)

    @override
    def data(self, preset: Preset, seed: int) -> Splits:
        """Training, validation (the last images of the training data) and test images, in [0, 1].

        Raises:
            DataError: If MNIST was asked for and is missing, or one of its files is cut short or altered.
        """
        size = SIZES[preset]
        train, test = load(self.dataset, "train"), load(self.dataset, "test")
        # The stand-in is too small to spare as much for validation as MNIST is.
        n_validation = min(size.validation, len(train.labels) // 5)
        split = len(train.labels) - n_validation
        n_train, n_test = min(size.train or split, split), min(size.test or len(test.labels), len(test.labels))
        note = train.note
        if size.train is not None:
            note = f"{note} Only {n_train} training and {n_test} test images: these test errors say little.".strip()
        return Splits(
            train.name,
            train=_batch(train.images[:n_train], train.labels[:n_train]),
            validation=_batch(train.images[split:], train.labels[split:]),
            test=_batch(test.images[:n_test], test.labels[:n_test]),
            note=note,
        )

    @override
    def recipe(self, model: str, preset: Preset) -> Recipe:
        """The recipe of a preset, one for all networks."""
        self._check_model(model)
        return RECIPES[preset]

    @override
    def model_options(self, model: str) -> Mapping[str, object]:
        self._check_model(model)
        if model == "mlp":
            return {}
        options: dict[str, object] = {"downsampling": self.downsampling}
        return options | {"blocks": BLOCKS[model]} if model in BLOCKS else options

    @override
    def weights(self, model: str, seed: int) -> Weights:
        """Initial weights with the distributions of `torch.nn`, drawn from the seed, float64."""
        self._check_model(model)
        draw = WeightDraw(seed)
        if model == "mlp":
            draw.mlp()
            return draw.weights
        draw.downsampling(self.downsampling)
        if model == "odenet":
            draw.field()
        for index in range(BLOCKS.get(model, 0)):
            draw.res_block(f"blocks.{index}")
        draw.head()
        return draw.weights

    @override
    def gradient_examples(self, seed: int) -> int | None:
        """All training images, whatever the preset trains on."""
        del seed
        return len(load(self.dataset, "train").labels)

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights drawn from the seed and the first training images.

        Raises:
            UserError: If the batch is larger than the data.
            DataError: As in `data`.
        """
        train = load(self.dataset, "train")
        if not 1 <= batch_size <= len(train.labels):
            raise UserError(
                f"a batch of {batch_size} is more than the {len(train.labels)} training images of {train.name}."
            )
        batch = _batch(train.images[:batch_size], train.labels[:batch_size])
        return GradientInputs(self.weights(model, seed), batch, dataset=train.name, note=train.note)

    @override
    def plots(self, model: str, splits: Splits, view: View) -> Sequence[Plot]:
        """Misread test images; none where the model makes no mistake."""
        from nodebench.tasks.mnist.plots import misread_digits  # noqa: PLC0415  imports matplotlib

        self._check_model(model)
        return misread_digits(splits.test, view)


def _batch(images: np.ndarray, labels: np.ndarray) -> Batch:
    scaled = images.astype(np.float32)[:, None]
    scaled /= 255
    return {"images": scaled, "labels": labels}


class WeightDraw:
    """Draws the initial weights of the networks, layer after layer from one generator.

    In NumPy, so that every framework starts from the same. The distributions are those of `torch.nn`: uniform within
    1 / sqrt(fan-in) for convolutions and linear layers, weights and biases alike; ones and zeros for normalisations.
    Names are those of `state_dict` in torch.

    Attributes:
        weights: What has been drawn, float64, by dotted name.
    """

    def __init__(self, seed: int) -> None:
        self.weights: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(seed)

    def mlp(self) -> None:
        """The two layers of the multilayer perceptron."""
        self._layer("hidden", (HIDDEN, PIXELS))
        self._layer("output", (CLASSES, HIDDEN))

    def downsampling(self, kind: str) -> None:
        """The layers from the image to the feature maps."""
        self._layer("downsampling.0", (CHANNELS, 1, 3, 3))
        if kind == "res":
            self.res_block("downsampling.1", strided=True)
            self.res_block("downsampling.2", strided=True)
            return
        self._norm("downsampling.1")
        self._layer("downsampling.3", (CHANNELS, CHANNELS, 4, 4))
        self._norm("downsampling.4")
        self._layer("downsampling.6", (CHANNELS, CHANNELS, 4, 4))

    def res_block(self, name: str, *, strided: bool = False) -> None:
        """A residual block; a strided one has a convolution in its shortcut."""
        self._norm(f"{name}.norm1")
        self._layer(f"{name}.conv1", (CHANNELS, CHANNELS, 3, 3), bias=False)
        self._norm(f"{name}.norm2")
        self._layer(f"{name}.conv2", (CHANNELS, CHANNELS, 3, 3), bias=False)
        if strided:
            self._layer(f"{name}.shortcut", (CHANNELS, CHANNELS, 1, 1), bias=False)

    def field(self) -> None:
        """The ODE's vector field; the first input channel of its convolutions is the time."""
        self._norm("field.norm1")
        self._layer("field.conv1", (CHANNELS, CHANNELS + 1, 3, 3))
        self._norm("field.norm2")
        self._layer("field.conv2", (CHANNELS, CHANNELS + 1, 3, 3))
        self._norm("field.norm3")

    def head(self) -> None:
        """The layers from the feature maps to the logits."""
        self._norm("head.0")
        self._layer("head.4", (CLASSES, CHANNELS))

    def _norm(self, name: str) -> None:
        self.weights[f"{name}.weight"] = np.ones(CHANNELS)
        self.weights[f"{name}.bias"] = np.zeros(CHANNELS)

    def _layer(self, name: str, shape: tuple[int, ...], *, bias: bool = True) -> None:
        self.weights |= layer_weights(name, shape, self._rng, bias=bias)
