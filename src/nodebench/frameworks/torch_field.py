"""What torch needs to know of a field and its state."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from nodebench.problem import Field, State


def parameters(field: Field) -> list[nn.Parameter]:
    """Parameters of a field that require a gradient; a plain callable has none."""
    return list(named_parameters(field).values())


def named_parameters(field: Field) -> dict[str, nn.Parameter]:
    """The same by dotted name."""
    if not isinstance(field, nn.Module):
        return {}
    return {name: p for name, p in field.named_parameters() if p.requires_grad}


def state_parts(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state."""
    return tuple(state) if isinstance(state, tuple) else (state,)


def like_state(parts: Sequence[Tensor], state: State) -> State:
    """Parts as a state of the same structure as another."""
    return tuple(parts) if isinstance(state, tuple) else parts[0]


def to_array(tensor: Tensor) -> np.ndarray:
    """A tensor as a NumPy array."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
