"""A field or model in torch: what it holds by dotted name, the flat vector of its state, and how it is called."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nodebench.errors import PluginError, UserError
from nodebench.frameworks.base import Weights
from nodebench.problem import Field, State

CHANGES_IN_PLACE = (
    "the field changes its state (or a parameter) in place; write `y = y * 0.5` for `y *= 0.5`, "
    "and leave `inplace` out of its layers."
)


COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
"""The complex type of each real one."""

OWN_ATTRIBUTES = frozenset(vars(nn.Module()))
"""What every module holds: torch's own dictionaries of parameters, buffers, submodules and hooks."""


@dataclass(frozen=True)
class Layout:
    """How a state, one tensor or a tuple of them, lies in one flat vector.

    Attributes:
        shapes: Shapes of the parts.
        is_tuple: Whether the state is a tuple.
        dtype: Type of the numbers of all parts.
    """

    shapes: tuple[torch.Size, ...]
    is_tuple: bool
    dtype: torch.dtype
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

    def evaluate(self, field: Field, t: float | Tensor, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """Call a field the way all solvers do: with the time as a scalar tensor of the state's dtype and device.

        Args:
            field: The field.
            t: The time; a tensor is handed on as it is, and must not be anybody else's: a field may write into it.
            parts: The parts of the state.

        Returns:
            The parts of its derivative.

        Raises:
            UserError: If the field changes its state in place, which would corrupt the solve, or as for `derivative`.
        """
        time = parts[0].new_full((), t) if isinstance(t, float) else t  # filled on its device: nothing waits for it
        # Without a graph the parts lie in one tensor, with one count; with a graph each is a leaf, which torch itself
        # protects.
        version = _version(parts[0])
        try:
            result = field(time, tuple(parts) if self.is_tuple else parts[0])
        except RuntimeError as error:
            if "leaf Variable that requires grad is being used in an in-place" in str(error):
                raise UserError(CHANGES_IN_PLACE) from error
            raise
        if _version(parts[0]) != version:
            raise UserError(CHANGES_IN_PLACE)
        return self.derivative(result)

    def derivative(self, result: object) -> Sequence[Tensor]:
        """The parts of what a field returned.

        Raises:
            UserError: If its structure, shapes or dtype are not those of the state; copying would broadcast and cast
                silently.
        """
        # What is right is known by little, since every evaluation comes by here.
        if (
            not self.is_tuple
            and isinstance(result, Tensor)
            and result.shape == self.shapes[0]
            and result.dtype == self.dtype
        ):
            return (result,)
        parts = result if self.is_tuple else (result,)
        if not isinstance(parts, tuple) or not all(isinstance(part, Tensor) for part in parts):
            wanted = f"a tuple of {len(self.shapes)} tensors" if self.is_tuple else "a tensor"
            raise UserError(f"the field must return {wanted}, as its state is; it returned {_kind(result)}.")
        shapes = tuple(part.shape for part in parts)
        if shapes != self.shapes:
            found, wanted = (
                ", ".join(str(tuple(shape)) for shape in some) or "nothing" for some in (shapes, self.shapes)
            )
            raise UserError(f"the field must return the shapes of the state, {wanted}; it returned {found}.")
        for part in parts:
            if part.dtype != self.dtype:
                found, wanted = (str(dtype).removeprefix("torch.") for dtype in (part.dtype, self.dtype))
                raise UserError(
                    f"the field returned {found} for a {wanted} state; make what it creates with `torch.zeros_like(y)` "
                    "or `dtype=y.dtype`."
                )
        return parts


def _version(part: Tensor) -> int | None:
    """Torch's documented count of in-place changes, which has no public name; None in inference mode, without one."""
    return None if part.is_inference() else part._version  # noqa: SLF001


def layout(y0: State) -> Layout:
    """The layout of states like `y0`.

    Raises:
        UserError: If `y0` or a part of it is empty, is no floating-point tensor, or parts differ in dtype or device.
    """
    parts = tuple(y0) if isinstance(y0, tuple) else (y0,)
    if not parts or not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
        raise UserError("`y0` must be a floating-point tensor or a tuple of such.")
    if not all(part.numel() for part in parts):
        raise UserError(
            f"`y0` must hold numbers; its shapes are {', '.join(str(tuple(part.shape)) for part in parts)}."
        )
    if len({(part.dtype, part.device) for part in parts}) > 1:
        raise UserError("the parts of `y0` must have one dtype and lie on one device.")
    return Layout(tuple(part.shape for part in parts), isinstance(y0, tuple), parts[0].dtype)


def _kind(result: object) -> str:
    """What a field returned, in words."""
    if isinstance(result, tuple):
        return f"({', '.join(type(part).__name__ for part in result)})"
    return type(result).__name__


def output_times(times: Tensor) -> list[float]:
    """Output times as Python floats.

    Raises:
        UserError: If they are not one-dimensional, at least two, finite, and strictly increasing or decreasing.
    """
    values = [float(t) for t in times.tolist()] if times.dim() == 1 else []
    rising = [b > a for a, b in pairwise(values)]
    falling = [b < a for a, b in pairwise(values)]
    if not rising or not all(map(isfinite, values)) or not (all(rising) or all(falling)):
        raise UserError(f"output times must be two or more, finite, strictly increasing or decreasing; got {times}.")
    return values


def parameters(field: Field) -> list[nn.Parameter]:
    """Parameters of a field that require a gradient; a plain callable has none."""
    return list(named_parameters(field).values())


def named_parameters(field: Field) -> dict[str, nn.Parameter]:
    """The same by dotted name."""
    if not isinstance(field, nn.Module):
        return {}
    # What `nn.DataParallel` evaluates on each device: its parameters are copies with a graph, and have a place of their
    # own.
    copies = ("_former_parameters",) if getattr(field, "_is_replica", False) else ()
    return {name: p for name, p in _held(field, "_parameters", *copies).items() if p.requires_grad}


def parameters_and_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by dotted name, each once, parameters first."""
    return _held(module, "_parameters", "_buffers")


def places(module: nn.Module, values: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Values of parameters and buffers by every dotted name that one has, but by one name of each submodule.

    Args:
        module: The module.
        values: By the identity of the parameter or buffer.
    """
    return {
        f"{prefix}.{name}" if prefix else name: values[id(tensor)]
        for prefix, part in module.named_modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())  # noqa: SLF001  each name, unlike torch's
        if tensor is not None
    }


def _held(module: nn.Module, *kinds: str) -> dict[str, Any]:
    """What a module and its submodules hold in their own dictionaries, by dotted name, each once, one kind first.

    Every solve asks, and torch's generators of the same take as long as a kernel of a small ODE.
    """
    found: list[dict[str, Tensor]] = [{} for _ in kinds]
    seen: set[int] = set()
    parts = [("", module)]
    while parts:
        prefix, part = parts.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for kind, named in zip(kinds, found, strict=True):
            for name, tensor in getattr(part, kind).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    named[prefix + name] = tensor
        children = reversed(part._modules.items())  # noqa: SLF001  what torch's own generator reads
        parts += [(f"{prefix}{name}.", child) for name, child in children if child is not None]
    return {name: tensor for named in found for name, tensor in named.items()}


def real_sizes(params: Sequence[Tensor]) -> list[int]:
    """How many real numbers each parameter holds, a complex one two for each of its own."""
    return [p.numel() * (2 if p.is_complex() else 1) for p in params]


def real_view(tensor: Tensor) -> Tensor:
    """A real tensor as it is, and a complex one of shape `shape` as a real one of shape `(*shape, 2)`."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def real_views(vector: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a real vector that belong to each parameter, views of the shape of its `real_view`."""
    parts = torch.split_with_sizes(vector, real_sizes(params)) if params else ()
    return [part.view_as(real_view(p)) for part, p in zip(parts, params, strict=True)]


def in_one_vector(values: Sequence[Tensor | None], params: Sequence[Tensor], like: Tensor) -> Tensor:
    """Values of the parameters' shapes as one real vector of the type of `like`; None stands for zeros."""
    parts = [torch.zeros_like(p) if value is None else value for value, p in zip(values, params, strict=True)]
    return torch.cat([like.new_zeros(0), *(real_view(part).reshape(-1).to(like.dtype) for part in parts)])


def from_one_vector(vector: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Values of the parameters' shapes from a vector like that of `in_one_vector`, in its precision."""
    views = real_views(vector, params)
    return [torch.complex(*view.unbind(-1)) if p.is_complex() else view for view, p in zip(views, params, strict=True)]


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


def attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """What a module and its submodules hold in plain attributes, by dotted name; lists and mappings by their items."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in OWN_ATTRIBUTES:
                yield from items(f"{prefix}.{name}" if prefix else name, value)


def items(name: str, value: object, depth: int = 4) -> Iterator[tuple[str, object]]:
    """A value by its name, or the items of a list, tuple or mapping by theirs."""
    pairs: Iterable[tuple[object, object]] = ()
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
