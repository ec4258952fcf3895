"""Initial weights of the `mnist` networks, drawn in NumPy so that every framework starts from the same.

The distributions are those of `torch.nn`: uniform within 1 / sqrt(fan-in) for convolutions and linear layers, weights
and biases alike; ones and zeros for normalisations. Names are those of `state_dict` in torch.
"""

from math import prod, sqrt

import numpy as np

CHANNELS = 64
CLASSES = 10
PIXELS = 784
HIDDEN = 300


class WeightDraw:
    """Draws layer after layer from one generator.

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
        bound = 1 / sqrt(prod(shape[1:]))
        self.weights[f"{name}.weight"] = self._rng.uniform(-bound, bound, shape)
        if bias:
            self.weights[f"{name}.bias"] = self._rng.uniform(-bound, bound, shape[0])
