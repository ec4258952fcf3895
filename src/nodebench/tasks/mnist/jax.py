"""The ODE network of the `mnist` task in JAX.

Arrays are laid out as in torch, `(n, channels, height, width)`, wherever this module meets others: images, weights, and
the state of the ODE, so that the gradient with respect to it can be compared between frameworks number by number.
Within the field the channels come last.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import Partial

from nodebench.problem import Array, Problem
from nodebench.tasks.mnist.task import CHANNELS, CLASSES

Downsampling = Literal["conv", "res"]

JaxBatch = Mapping[str, jax.Array]
"""`images`, shape `(n, 1, 28, 28)`, in [0, 1], and `labels`, shape `(n,)`, integers."""

JaxSolve = Callable[[eqx.Module, jax.Array, np.ndarray], jax.Array]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""

GROUPS = 32
EPSILON = 1e-5


class GroupNorm(eqx.Module):
    """Normalisation over 32 groups of the 64 channels ("Group Normalization", Wu and He, 2018).

    Args:
        channel_axis: Axis of the channels: 1 or -1.
    """

    weight: jax.Array
    bias: jax.Array
    channel_axis: int = eqx.field(static=True)

    def __init__(self, channel_axis: int = 1) -> None:
        self.weight, self.bias = jnp.ones(CHANNELS), jnp.zeros(CHANNELS)
        self.channel_axis = channel_axis

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise `(n, 64, h, w)`, or `(n, h, w, 64)` for the channel axis -1."""
        if self.channel_axis == 1:
            grouped = x.reshape(len(x), GROUPS, -1)
            centred = grouped - grouped.mean(2, keepdims=True)
            normal = centred * lax.rsqrt((centred**2).mean(2, keepdims=True) + EPSILON)
            return normal.reshape(x.shape) * self.weight[:, None, None] + self.bias[:, None, None]
        centred = x - _group_mean(x)
        return centred * (lax.rsqrt(_group_mean(centred**2) + EPSILON) * self.weight) + self.bias


def _group_mean(x: jax.Array) -> jax.Array:
    """Mean of `(n, h, w, 64)` over the pixels and the channels of a group, shape `(n, 1, 1, 64)`.

    The sum over the pixels runs along whole rows of channels, and a product with a matrix of ones and zeros adds what
    belongs to a group. XLA on a CPU takes longer for a sum over two of four axes, the last of which has two elements:
    with it an evaluation of the field takes 1.8 times as long.
    """
    same_group = np.kron(np.eye(GROUPS), np.ones((CHANNELS // GROUPS, CHANNELS // GROUPS)))
    n_pixels = x.shape[1] * x.shape[2]
    return x.sum((1, 2), keepdims=True) @ jnp.asarray(same_group / (n_pixels * CHANNELS / GROUPS), x.dtype)


class Conv(eqx.Module):
    """A convolution outside of any loop, with torch's layouts.

    Args:
        shape: Output channels, input channels, height and width of the kernel.
        stride: Stride.
        padding: Zeros put around the image.
        use_bias: Whether it has a bias.
    """

    weight: jax.Array
    bias: jax.Array | None
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(self, shape: tuple[int, ...], stride: int = 1, padding: int = 0, *, use_bias: bool = True) -> None:
        self.weight = jnp.zeros(shape)
        self.bias = jnp.zeros(shape[0]) if use_bias else None
        self.stride, self.padding = stride, padding

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve `(n, channels, h, w)`."""
        around = [(self.padding, self.padding)] * 2
        out: jax.Array = lax.conv_general_dilated(x, self.weight, [self.stride] * 2, around)
        return out if self.bias is None else out + self.bias[:, None, None]


class ResBlock(eqx.Module):
    """Pre-activation residual block of stride 2 ("Identity Mappings in Deep Residual Networks", He et al., 2016)."""

    norm1: GroupNorm
    conv1: Conv
    norm2: GroupNorm
    conv2: Conv
    shortcut: Conv

    def __init__(self) -> None:
        self.norm1, self.norm2 = GroupNorm(), GroupNorm()
        self.conv1 = Conv((CHANNELS, CHANNELS, 3, 3), stride=2, padding=1, use_bias=False)
        self.conv2 = Conv((CHANNELS, CHANNELS, 3, 3), padding=1, use_bias=False)
        self.shortcut = Conv((CHANNELS, CHANNELS, 1, 1), stride=2, use_bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(n, 64, h, w)` to `(n, 64, h / 2, w / 2)`."""
        out = jax.nn.relu(self.norm1(x))
        return self.shortcut(out) + self.conv2(jax.nn.relu(self.norm2(self.conv1(out))))


class LinearLayer(eqx.Module):
    """An affine map of feature vectors `(n, 64)` to logits `(n, 10)`."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self) -> None:
        self.weight, self.bias = jnp.zeros((CLASSES, CHANNELS)), jnp.zeros(CLASSES)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        return x @ self.weight.T + self.bias


def _pool(x: jax.Array) -> jax.Array:
    return x.mean((2, 3))


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


# Tuples of layers count their indices as a `torch.nn.Sequential` does, functions included.
def _downsampling(kind: Downsampling) -> tuple[Callable[[jax.Array], jax.Array], ...]:
    first = Conv((CHANNELS, 1, 3, 3))
    if kind == "res":
        return (first, ResBlock(), ResBlock())
    halve = (CHANNELS, CHANNELS, 4, 4)
    relu = jax.nn.relu
    return (first, GroupNorm(), relu, Conv(halve, 2, 1), GroupNorm(), relu, Conv(halve, 2, 1))


def _head() -> tuple[Callable[[jax.Array], jax.Array], ...]:
    return (GroupNorm(), jax.nn.relu, _pool, _flatten, LinearLayer())


def _apply(layers: tuple[Callable[[jax.Array], jax.Array], ...], x: jax.Array) -> jax.Array:
    for layer in layers:
        x = layer(x)
    return x


class TimeConv(eqx.Module):
    """3x3 convolution of `(n, h, w, 64)` with a constant channel of the time before the others.

    XLA on a CPU runs a convolution inside a loop, such as a solver's, about fifty times slower than outside (jax issue
    12868). As one product with a matrix of neighbourhoods, built from nine shifted slices, it is about as fast as
    torch's, and so is its derivative; channels come last because the matrix then needs no transposition.

    The time's part is the same for all examples, so that it is computed once and added, as in the torch model.
    """

    weight: jax.Array
    bias: jax.Array

    def __init__(self) -> None:
        self.weight, self.bias = jnp.zeros((CHANNELS, CHANNELS + 1, 3, 3)), jnp.zeros(CHANNELS)

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        """Convolve `x` at time `t`."""
        kernel = self.weight.transpose(2, 3, 1, 0)  # as the neighbourhoods: row, column, input channel
        ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        offset = t * (_neighbourhoods(ones) @ kernel[:, :, :1].reshape(9, CHANNELS)) + self.bias
        return _neighbourhoods(x) @ kernel[:, :, 1:].reshape(9 * CHANNELS, CHANNELS) + offset


def _neighbourhoods(x: jax.Array) -> jax.Array:
    """For each pixel of `(n, h, w, c)` the 3x3 pixels around it, zero outside, shape `(n, h, w, 9 c)`."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)


class ODEField(eqx.Module):
    """Dynamics of the feature maps: two 3x3 convolutions that see the time as one more channel.

    "Neural Ordinary Differential Equations", Chen et al., 2018, https://arxiv.org/abs/1806.07366
    """

    norm1: GroupNorm
    conv1: TimeConv
    norm2: GroupNorm
    conv2: TimeConv
    norm3: GroupNorm

    def __init__(self) -> None:
        self.norm1, self.norm2, self.norm3 = GroupNorm(-1), GroupNorm(-1), GroupNorm(-1)
        self.conv1, self.conv2 = TimeConv(), TimeConv()

    def __call__(self, t: jax.Array, y: Array) -> jax.Array:
        """dy/dt at time `t` of states `(n, 64, h, w)`."""
        out = self.conv1(t, jax.nn.relu(self.norm1(jnp.moveaxis(y, 1, -1))))
        out = self.conv2(t, jax.nn.relu(self.norm2(out)))
        return jnp.moveaxis(self.norm3(out), -1, 1)


class ODENet(eqx.Module):
    """Convolutional downsampling, an ODE over [0, 1] in the place of residual blocks, and a linear head.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        downsampling: `"conv"` (state `(64, 6, 6)`) or `"res"` (state `(64, 7, 7)`).
    """

    downsampling: tuple[Any, ...]
    field: ODEField
    head: tuple[Any, ...]
    solve: JaxSolve = eqx.field(static=True)

    def __init__(self, solve: JaxSolve, downsampling: Downsampling = "conv") -> None:
        self.downsampling = _downsampling(downsampling)
        self.field = ODEField()
        self.head = _head()
        self.solve = solve

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, shape `(n, 10)`, of images `(n, 1, 28, 28)`."""
        ys = self.solve(self.field, _apply(self.downsampling, images), _times())
        return _apply(self.head, ys[-1])

    def loss(self, batch: JaxBatch) -> jax.Array:
        """Mean cross-entropy in nats."""
        return _cross_entropy(self(batch["images"]), batch["labels"])

    def metric(self, batch: JaxBatch) -> jax.Array:
        """100 for each example that is classified wrongly, 0 for the others, shape `(n,)`."""
        return 100.0 * (self(batch["images"]).argmax(1) != batch["labels"])

    def scores(self, batch: JaxBatch) -> dict[str, jax.Array]:
        """`logits`, shape `(n, 10)`."""
        return {"logits": self(batch["images"])}

    def problem(self, batch: JaxBatch) -> Problem:
        """Gradient of the training loss through the ODE alone: the downsampled images are the fixed initial state."""
        y0 = _downsampled(self.downsampling, batch["images"])
        return Problem(self.field, y0, _times(), Partial(_head_loss, Partial(_apply, self.head), batch["labels"]))


# Compiled as a whole: one layer after another would each be a program of its own.
_downsampled = eqx.filter_jit(_apply)


def _head_loss(head: Callable[[jax.Array], jax.Array], labels: jax.Array, ys: jax.Array) -> jax.Array:
    return _cross_entropy(head(ys[-1]), labels)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss


def _times() -> np.ndarray:
    return np.array([0.0, 1.0])
