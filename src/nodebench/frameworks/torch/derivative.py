"""What an autograd function whose derivative is written by hand refuses: to be differentiated twice."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from nodebench.errors import UnsupportedError

Backward = Callable[..., tuple[Tensor | None, ...]]
"""`backward` of an autograd function."""


def first_derivative_alone(backward: Backward) -> Backward:
    """Have `backward` refuse a backward pass with `create_graph=True`.

    Torch's own `once_differentiable` refuses only where the derivative of the loss has a graph of its own. Elsewhere
    the second derivative would lack, without a word, what comes through the solve.
    """

    @wraps(backward)
    def refusing(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        return backward(ctx, *grads)

    return refusing


def refuse_second_derivative() -> None:
    """Within a backward pass, see that it is not to be differentiated in turn.

    Raises:
        UnsupportedError: If it was called with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise UnsupportedError(
            "this gradient method has first derivatives alone, and `create_graph=True` asks for a gradient that can be "
            "differentiated again; `torchdiffeq` has one."
        )
