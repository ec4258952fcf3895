"""A field as a function of tensors alone, and the programs that were compiled of it."""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nodebench.backends.runge_kutta.compiled.inductor import (
    CompiledPair,
    Differentiated,
    Function,
    Pair,
    Program,
    TapedPair,
    compiled_function,
)
from nodebench.backends.runge_kutta.solve import SolveSetup
from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch.step import CountingField
from nodebench.problem import Field, Problem, State

_PROGRAMS: WeakKeyDictionary[nn.Module, dict[object, Any]] = WeakKeyDictionary()
"""Programs by field, then by all else that they were compiled for."""


def reason_unsupported(problem: Problem) -> str | None:
    """Why a problem cannot be solved by compiled steps here, in one sentence, or None."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"`compile` needs a C++ compiler, and {compiler} is not on the path; install it, or set CXX to another."
    return reason_not_compiled(problem.field, timed=problem.differentiate_times)


def reason_not_compiled(field: Field, *, timed: bool) -> str | None:
    """Why a solve of this field cannot be compiled anywhere, in one sentence, or None."""
    if not isinstance(field, nn.Module):
        return "`compile` needs an `nn.Module`: tensors that a function refers to otherwise would be frozen."
    if timed:
        return "`compile` has no gradient with respect to times."
    return None


class CompiledField:
    """A field whose parameters and buffers are arguments.

    Args:
        setup: Field, layout and solver spec.
        like: A flat state.

    Attributes:
        constants: Tensors of the field that are not differentiated by: frozen parameters and buffers.

    Raises:
        UnsupportedError: If the field is not an `nn.Module`.
    """

    def __init__(self, setup: SolveSetup, like: Tensor) -> None:
        reason = reason_not_compiled(setup.field, timed=False)
        if reason is not None or not isinstance(setup.field, nn.Module):
            raise UnsupportedError(str(reason))
        module = self._module = setup.field
        self._layout = setup.layout
        self._programs = _PROGRAMS.setdefault(module, {})
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._names = [name for name, p in tensors.items() if isinstance(p, nn.Parameter) and p.requires_grad]
        self._others = [name for name in tensors if name not in self._names]
        self.constants = [tensors[name].detach() for name in self._others]
        kinds = tuple((name, t.requires_grad, t.shape, t.stride(), t.dtype) for name, t in tensors.items())
        self._key = (setup.layout, setup.spec.solver, like.dtype, like.device, kinds, module.training)

    def rate(self, params: Sequence[Tensor], constants: Sequence[Tensor], t: Tensor, y: Tensor) -> Tensor:
        """The flat derivative at a flat state."""
        tensors = dict(zip((*self._names, *self._others), (*params, *constants), strict=True))

        def field(t: Tensor, y: State) -> State:
            rate: State = torch.func.functional_call(self._module, tensors, (t, y))
            return rate

        return torch.cat([part.reshape(-1) for part in self._layout.evaluate(field, t.clone(), self._layout.parts(y))])

    def pair(self, name: str, what: Callable[[], tuple[Differentiated, Sequence[Tensor]]]) -> Pair:
        """The compiled pair of a function of this field, from an earlier call where there was one.

        Args:
            name: Tells the functions of one field apart.
            what: Makes the function and inputs of the shapes for which it is compiled; only called where needed.
        """
        if isinstance(self._module, CountingField):
            return TapedPair(what()[0])
        pair: Pair = self._kept((name, self._key), lambda: CompiledPair(*what()))
        return pair

    def function(self, name: str, what: Callable[[], tuple[Function, Sequence[Tensor]]]) -> Program:
        """The same for a function that is not differentiated from outside."""
        if isinstance(self._module, CountingField):
            return what()[0]
        program: Program = self._kept((name, self._key), lambda: compiled_function(*what()))
        return program

    def _kept(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self._programs:
            self._check_attributes()
            self._programs[key] = make()
        return self._programs[key]

    def _check_attributes(self) -> None:
        """Refuse tensors that are neither parameters nor buffers: a program would keep their present values."""
        for module in self._module.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    raise UnsupportedError(
                        f"`{name}` of {type(module).__name__} is a tensor that is neither parameter nor buffer, and "
                        "compiled code would keep its present values; register it as a buffer."
                    )
