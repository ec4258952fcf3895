"""How states lie in flat vectors, and what output times must be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from nodebench.errors import UserError
from nodebench.problem import State


@dataclass(frozen=True)
class Layout:
    """How a state, one tensor or a tuple of them, lies in one flat vector.

    Attributes:
        shapes: Shapes of the parts.
        is_tuple: Whether the state is a tuple.
    """

    shapes: tuple[torch.Size, ...]
    is_tuple: bool
    _sizes: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sizes", tuple(shape.numel() for shape in self.shapes))

    def flatten(self, state: State) -> Tensor:
        """The state as one vector, differentiable."""
        if not self.is_tuple:
            flat: Tensor = state.reshape(-1)  # type: ignore[union-attr]
            return flat
        return torch.cat([part.reshape(-1) for part in state])

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor `(*leading, n)`, each of shape `(*leading, *shape)`."""
        lead = flat.shape[:-1]
        if not self.is_tuple:
            return [flat.view(lead + self.shapes[0])]
        pieces = torch.split_with_sizes(flat, self._sizes, dim=-1)
        return [piece.reshape(lead + shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def state(self, flat: Tensor) -> State:
        """The state that lies in a flat tensor."""
        parts = self.parts(flat)
        return tuple(parts) if self.is_tuple else parts[0]

    def flatten_outputs(self, states: State) -> Tensor:
        """States at n times, as one tensor `(n, size of the state)`; the reverse of `state`."""
        if not self.is_tuple:
            flat: Tensor = states.reshape(len(states), -1)  # type: ignore[union-attr]
            return flat
        return torch.cat([part.reshape(len(part), -1) for part in states], dim=-1)

    def derivative(self, result: Any) -> Sequence[Tensor]:
        """The parts of what a field returned.

        Raises:
            UserError: If its structure or shapes are not those of the state; copying would broadcast silently.
        """
        parts = tuple(result) if self.is_tuple else (result,)
        shapes = tuple(part.shape for part in parts)
        if shapes != self.shapes:
            raise UserError(f"the field must return the shapes of the state, {self.shapes}; it returned {shapes}.")
        return parts


def layout(y0: State) -> Layout:
    """The layout of states like `y0`.

    Raises:
        UserError: If `y0` is empty, holds no floating-point tensors, or its parts differ in dtype or device.
    """
    parts = tuple(y0) if isinstance(y0, tuple) else (y0,)
    if not parts or not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
        raise UserError("`y0` must be a floating-point tensor or a tuple of such.")
    if len({(part.dtype, part.device) for part in parts}) > 1:
        raise UserError("the parts of `y0` must have one dtype and lie on one device.")
    return Layout(tuple(part.shape for part in parts), isinstance(y0, tuple))


def output_times(times: Tensor) -> list[float]:
    """Output times as Python floats.

    Raises:
        UserError: If they are not one-dimensional, at least two, finite, and strictly increasing or decreasing.
    """
    values = [float(t) for t in times.tolist()] if times.dim() == 1 else []
    rising = [b > a for a, b in pairwise(values)]
    falling = [b < a for a, b in pairwise(values)]
    if not rising or not all(map(isfinite, values)) or not (all(rising) or all(falling)):
        raise UserError(f"`times` must be two or more finite times, strictly increasing or decreasing; got {times}.")
    return values
