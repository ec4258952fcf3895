"""The networks of the `mnist` task in torch."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from nodebench.problem import Problem, State
from nodebench.tasks.mnist.task import CHANNELS

Downsampling = Literal["conv", "res"]

TorchBatch = Mapping[str, Tensor]
"""`images`, shape `(n, 1, 28, 28)`, in [0, 1], and `labels`, shape `(n,)`, int64."""

TorchSolve = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""


def _norm() -> nn.GroupNorm:
    return nn.GroupNorm(32, CHANNELS)


class ResBlock(nn.Module):
    """Pre-activation residual block ("Identity Mappings in Deep Residual Networks", He et al., 2016).

    Args:
        stride: Stride of the first convolution; above 1 the shortcut is a strided 1x1 convolution.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = _norm()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=stride, padding=1, bias=False)
        self.norm2 = _norm()
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(CHANNELS, CHANNELS, 1, stride=stride, bias=False) if stride > 1 else None

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, 64, h, w)` to `(n, 64, h / stride, w / stride)`."""
        out = torch.relu_(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = torch.relu_(self.norm2(self.conv1(out)))
        result: Tensor = shortcut + self.conv2(out)
        return result


def _downsampling(kind: Downsampling) -> nn.Sequential:
    if kind == "res":
        return nn.Sequential(nn.Conv2d(1, CHANNELS, 3), ResBlock(stride=2), ResBlock(stride=2))
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3),
        _norm(),
        nn.ReLU(inplace=True),
        nn.Conv2d(CHANNELS, CHANNELS, 4, stride=2, padding=1),
        _norm(),
        nn.ReLU(inplace=True),
        nn.Conv2d(CHANNELS, CHANNELS, 4, stride=2, padding=1),
    )


def _head() -> nn.Sequential:
    return nn.Sequential(_norm(), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))


class Classifier(nn.Module):
    """What the networks share: cross-entropy for training, percent of wrong answers for judging."""

    def loss(self, batch: TorchBatch) -> Tensor:
        """Mean cross-entropy in nats."""
        return functional.cross_entropy(self(batch["images"]), batch["labels"])

    def metric(self, batch: TorchBatch) -> Tensor:
        """100 for each example that is classified wrongly, 0 for the others, shape `(n,)`."""
        wrong: Tensor = self(batch["images"]).argmax(dim=1) != batch["labels"]
        return 100.0 * wrong

    def scores(self, batch: TorchBatch) -> dict[str, Tensor]:
        """`logits`, shape `(n, 10)`."""
        return {"logits": self(batch["images"])}


class ODEField(nn.Module):
    """Dynamics of the feature maps: two 3x3 convolutions that see the time as one more channel.

    "Neural Ordinary Differential Equations", Chen et al., 2018, https://arxiv.org/abs/1806.07366
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = _norm()
        self.conv1 = nn.Conv2d(CHANNELS + 1, CHANNELS, 3, padding=1)
        self.norm2 = _norm()
        self.conv2 = nn.Conv2d(CHANNELS + 1, CHANNELS, 3, padding=1)
        self.norm3 = _norm()

    @override
    def forward(self, t: Tensor | float, y: Tensor) -> Tensor:
        """dy/dt at time `t` of states `(n, 64, h, w)`."""
        out = _time_conv(self.conv1, t, torch.relu_(self.norm1(y)))
        out = _time_conv(self.conv2, t, torch.relu_(self.norm2(out)))
        derivative: Tensor = self.norm3(out)
        return derivative


def _time_conv(conv: nn.Conv2d, t: Tensor | float, x: Tensor) -> Tensor:
    """Convolve `x` with a constant channel of value `t` put before its own channels.

    A convolution is linear, so the time's part can be computed on one example and added to all. That saves the copy of
    `x` which a concatenation makes, in time and in what is kept for the backward pass.
    """
    time_channel = x.new_ones(1, 1, *x.shape[2:]) * t
    offset = functional.conv2d(time_channel, conv.weight[:, :1], conv.bias, padding=1)
    return functional.conv2d(x, conv.weight[:, 1:], padding=1).add_(offset)


class ODENet(Classifier):
    """Convolutional downsampling, an ODE over [0, 1] in the place of residual blocks, and a linear head.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        downsampling: `"conv"` (state `(64, 6, 6)`) or `"res"` (state `(64, 7, 7)`).
    """

    def __init__(self, solve: TorchSolve, downsampling: Downsampling = "conv") -> None:
        super().__init__()
        self.solve = solve
        self.downsampling = _downsampling(downsampling)
        self.field = ODEField()
        self.head = _head()

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape `(n, 10)`, of images `(n, 1, 28, 28)`."""
        ys = self.solve(self.field, self.downsampling(images), _times(images))
        logits: Tensor = self.head(ys[-1])
        return logits

    def problem(self, batch: TorchBatch) -> Problem:
        """Gradient of the training loss through the ODE alone: the downsampled images are the fixed initial state."""
        images, labels = batch["images"], batch["labels"]
        y0 = self.downsampling(images).detach()

        def loss(ys: State) -> Tensor:
            return functional.cross_entropy(self.head(ys[-1]), labels)

        return Problem(self.field, y0, _times(images), loss)


def _times(images: Tensor) -> Tensor:
    return torch.tensor([0.0, 1.0], dtype=torch.float64, device=images.device)


class ResNet(Classifier):
    """The network that the ODE replaces: residual blocks between the same downsampling and head.

    Args:
        downsampling: As in `ODENet`.
        blocks: Number of residual blocks; 0 leaves downsampling and head alone.
    """

    def __init__(self, downsampling: Downsampling = "conv", blocks: int = 6) -> None:
        super().__init__()
        self.downsampling = _downsampling(downsampling)
        self.blocks = nn.Sequential(*(ResBlock() for _ in range(blocks)))
        self.head = _head()

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape `(n, 10)`, of images `(n, 1, 28, 28)`."""
        logits: Tensor = self.head(self.blocks(self.downsampling(images)))
        return logits


class MLP(Classifier):
    """One hidden layer of 300 units.

    "Gradient-Based Learning Applied to Document Recognition", LeCun, Bottou, Bengio and Haffner, 1998
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 300)
        self.output = nn.Linear(300, 10)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape `(n, 10)`, of images `(n, 1, 28, 28)`."""
        logits: Tensor = self.output(torch.relu_(self.hidden(images.flatten(1))))
        return logits
