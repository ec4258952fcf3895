"""A field as a function of tensors alone, and the programs that were compiled of it."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch_field import named_parameters
from nodebench.frameworks.torch_step import CountingField
from nodebench.problem import Field
from nodebench.solvers.forward import Job
from nodebench.solvers.inductor import (
    CompiledPair,
    Differentiated,
    Function,
    Pair,
    Program,
    TapedPair,
    compiled_function,
)

_PROGRAMS: WeakKeyDictionary[nn.Module, dict[object, Any]] = WeakKeyDictionary()
"""Programs by field, then by all else that they were compiled for."""


def reason_not_compiled(field: Field, *, timed: bool) -> str | None:
    """Why a solve of this field cannot be compiled, in one sentence, or None."""
    if not isinstance(field, nn.Module):
        return "`compile` needs an `nn.Module`: tensors that a function refers to otherwise would be frozen."
    if timed:
        return "`compile` has no gradient with respect to times."
    return None


class CompiledField:
    """A field whose parameters and buffers are arguments.

    Args:
        job: Field, layout and solver spec.
        like: A flat state.

    Attributes:
        constants: Tensors of the field that are not differentiated by: frozen parameters and buffers.

    Raises:
        UnsupportedError: If the field is not an `nn.Module`.
    """

    def __init__(self, job: Job, like: Tensor) -> None:
        reason = reason_not_compiled(job.field, timed=False)
        if reason is not None or not isinstance(job.field, nn.Module):
            raise UnsupportedError(str(reason))
        self._module, self._layout = job.field, job.layout
        self._names = list(named_parameters(job.field))
        others = {**dict(job.field.named_parameters()), **dict(job.field.named_buffers())}
        self._others = {name: tensor for name, tensor in others.items() if name not in self._names}
        self.constants = [tensor.detach() for tensor in self._others.values()]
        self._key = (job.layout, job.spec.solver, like.dtype, like.device)

    def rate(self, params: Sequence[Tensor], constants: Sequence[Tensor], t: Tensor, y: Tensor) -> Tensor:
        """The flat derivative at a flat state."""
        tensors = dict(zip((*self._names, *self._others), (*params, *constants), strict=True))
        result = torch.func.functional_call(self._module, tensors, (t, self._layout.state(y)))
        return torch.cat([part.reshape(-1) for part in self._layout.derivative(result)])

    def pair(self, name: str, what: Differentiated, inputs: Sequence[Tensor]) -> Pair:
        """The compiled pair of a function of this field, from an earlier call where there was one."""
        if isinstance(self._module, CountingField):
            return TapedPair(what)
        pair: Pair = self._kept(name, lambda: CompiledPair(what, inputs))
        return pair

    def function(self, name: str, function: Function, inputs: Sequence[Tensor]) -> Program:
        """The same for a function that is not differentiated from outside."""
        if isinstance(self._module, CountingField):
            return function
        program: Program = self._kept(name, lambda: compiled_function(function, inputs))
        return program

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        programs = _PROGRAMS.setdefault(self._module, {})
        key = (name, self._key, tuple(p.shape for p in self.constants))
        if key not in programs:
            programs[key] = make()
        return programs[key]
