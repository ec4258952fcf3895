"""The whole state of a torch model by dotted name: parameters, buffers, and tensors that are plain attributes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nodebench.errors import PluginError
from nodebench.frameworks.base import Weights

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
"""The complex type of each real one."""

OWN_ATTRIBUTES = frozenset(vars(nn.Module()))
"""What every module holds: torch's own dictionaries of parameters, buffers, submodules and hooks."""


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module and its submodules hold in plain attributes, by dotted name; lists and mappings by their items."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in OWN_ATTRIBUTES:
                yield from items(f"{prefix}.{name}" if prefix else name, value)


def items(name: str, value: Any, depth: int = 4) -> Iterator[tuple[str, Any]]:
    """A value by its name, or the items of a list, tuple or mapping by theirs."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, list | tuple):
        pairs = enumerate(value)
    elif isinstance(value, Mapping):
        pairs = value.items()
    else:
        yield name, value
        return
    for key, item in pairs if depth else ():
        yield from items(f"{name}.{key}", item, depth - 1)


def constants(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a module that is no parameter by dotted name, each once: buffers and plain attributes.

    A tensor in an attribute that is to be trained is none: it should have been a parameter, which the check-up tells.
    """
    seen = {id(tensor) for tensor in module.parameters()}
    found: dict[str, Tensor] = {}
    for name, value in (*module.named_buffers(), *attributes(module)):
        if isinstance(value, Tensor) and not value.requires_grad and id(value) not in seen:
            seen.add(id(value))
            found[name] = value
    return found


def whole_state(module: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and constants by dotted name, as NumPy arrays of their own, in the widest type of their kind."""
    tensors = {**dict(module.named_parameters()), **constants(module)}
    return {name: _widest(tensor).cpu().numpy().copy() for name, tensor in tensors.items()}


def _widest(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor


def cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move all of a module's state to a device, what is floating-point in a dtype, and what is complex in its like."""

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device, COMPLEX[dtype])
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    # `Module.to` would cast complex tensors to real ones.
    module._apply(converted)  # type: ignore[no-untyped-call]  # noqa: SLF001  what `Module.to` itself calls
    buffers = {id(buffer) for buffer in module.buffers()}
    for tensor in constants(module).values():
        if id(tensor) not in buffers:
            tensor.data = converted(tensor.data)  # in place: other attributes may name the same tensor


def refuse_complex(module: nn.Module) -> None:
    """Refuse complex parameters: optimisers, norms and references here are those of real ones.

    Raises:
        PluginError: If there is one, with its name.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_complex():
            raise PluginError(
                f"parameter `{name}` of `{type(module).__name__}` is complex ({parameter.dtype}), and only real ones "
                "are measured; hold its real and imaginary parts in a real parameter, and join them with "
                "`torch.view_as_complex` where it is used."
            )


def load_weights(module: nn.Module, weights: Weights) -> None:
    """Give every parameter its weight.

    Raises:
        PluginError: If names or shapes are not those of the module.
    """
    named = dict(module.named_parameters())
    if named.keys() != weights.keys():
        missing, surplus = sorted(named.keys() - weights.keys()), sorted(weights.keys() - named.keys())
        raise PluginError(f"weights of `{type(module).__name__}`: missing {missing}, unknown {surplus}.")
    for name, parameter in named.items():
        _load(name, parameter, np.asarray(weights[name]))


def load_constants(module: nn.Module, values: Weights) -> None:
    """Give the constants of a module that it has by these names their values; raises as `load_weights` for shapes."""
    for name, tensor in constants(module).items():
        if name in values:
            _load(name, tensor, np.asarray(values[name]))


def _load(name: str, tensor: Tensor, value: np.ndarray) -> None:
    if tuple(tensor.shape) != value.shape:
        raise PluginError(f"weight `{name}` must have shape {tuple(tensor.shape)}; got {value.shape}.")
    with torch.no_grad():
        # A copy, which is contiguous and writable, and keeps a single number one.
        tensor.copy_(torch.from_numpy(np.array(value)))
