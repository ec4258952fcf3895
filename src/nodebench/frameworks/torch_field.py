"""What torch needs to know of a field: its parameters, and the layers that must not be in it."""

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


def impure_reason(field: Field) -> str | None:
    """Why a field cannot be differentiated rightly, in one sentence, or None.

    Batch normalisation changes its running statistics at every evaluation, dropout draws anew: a solver evaluates the
    field as often as it likes, and the backward pass would see another field than the forward pass.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # noqa: SLF001  the only common bases
    modules = field.modules() if isinstance(field, nn.Module) else ()
    for module in modules:
        if isinstance(module, kinds):
            return (
                f"the field contains {type(module).__name__}, which differs from one evaluation to the next, so that "
                "its solution and gradient mean nothing; use a layer without such a state, for example GroupNorm."
            )
    return None


def state_parts(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state."""
    return tuple(state) if isinstance(state, tuple) else (state,)


def to_array(tensor: Tensor) -> np.ndarray:
    """A tensor as a NumPy array."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
