"""A field as a function of tensors alone, and the programs that torch's Inductor makes of such functions.

A function is traced once, forward and backward as one graph, which is cut in two (`halves`). Unlike `torch.compile` the
programs have no guards and no autograd function around them: a step of a small ODE takes some hundred microseconds, and
both would be a good part of that. The price is that shapes, and whatever of a function is not among its arguments, are
fixed when it is traced.

What Inductor generates is kept on disk (`TORCHINDUCTOR_CACHE_DIR`), and found again by other processes.
"""

import ctypes
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from typing_extensions import override

from nodebench.backends.runge_kutta.compiled import loop
from nodebench.backends.runge_kutta.compiled.halves import cut, forget_shapes
from nodebench.backends.runge_kutta.compiled.operations import WRITTEN_OUT
from nodebench.backends.runge_kutta.solve import SolveSetup
from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch.field import in_one_vector, parameters_and_buffers, places, real_sizes
from nodebench.frameworks.torch.step import CountingField
from nodebench.problem import Field, Problem, State

Function = Callable[..., Sequence[Tensor]]
"""A function of tensors alone that returns several."""

_Made = TypeVar("_Made")

OPTIONS = {
    "cpp_wrapper": True,
    "cpp_wrapper_build_separate": True,
    "cpp.use_decompose_tanh": True,
    "cpp.vec_isa_ok": True,
    "pattern_matcher": False,
}
"""Inductor's options on a CPU, of which a version of torch takes those that it has.

The calls of kernels and matrix products are compiled, too, not made from Python, but apart from the kernels and with
little optimisation, which halves the time of a compilation. tanh(x) is 1 - 2 / (1 + exp(2 x)), three times as fast,
with an error of 2e-7 instead of 3e-8 in float32. What the processor says of its vector instructions is believed: to try
each set takes four compilations. Patterns are left as they are: the bias of a matrix product would be put back into it
(`operations`).
"""


@dataclass(frozen=True)
class Differentiated:
    """What is differentiated: results by inputs.

    Attributes:
        function: The function.
        n_inputs: How many inputs it has.
        n_fixed: How many of them, from the first on, are the same tensors in every call of a solve.
        n_params: How many of these are parameters, by which it is differentiated, from the first on.
        n_states: By how many of the inputs after the fixed ones it is differentiated as well.
        n_results: How many of its results are differentiated, from the first on.
    """

    function: Function
    n_inputs: int
    n_fixed: int
    n_params: int
    n_states: int
    n_results: int

    @property
    def variables(self) -> tuple[int, ...]:
        """Places of the inputs by which it is differentiated."""
        return (*range(self.n_params), *range(self.n_fixed, self.n_fixed + self.n_states))


class Program:
    """A compiled function of tensors.

    Args:
        call: What Inductor made: a function of a list of tensors, which it empties.
        n_results: How many results it has.
        closed: Whether its inputs are all that it reads; else `call` hands it constants as well, such as a matrix that
            the function makes.
    """

    def __init__(self, call: Callable[[list[Tensor]], Sequence[Any]], n_results: int, *, closed: bool) -> None:
        self._call = call
        self._address, self._n_results = _address(call) if closed else None, n_results

    def __call__(self, *inputs: Tensor) -> Sequence[Any]:
        """The results."""
        return self._call(list(inputs))

    def entry(self, kept: Sequence[int] = ()) -> loop.Entry | None:
        """The program as C++ calls it, or None where it cannot; `kept` are the places of inputs to keep."""
        return None if self._address is None else loop.Entry(self._address, self._n_results, tuple(kept))


def _address(call: Callable[..., Any]) -> int | None:
    """Address of the C++ function that a program calls, in the library that Inductor has built."""
    entry = getattr(call, "__globals__", {}).get("inductor_entry")
    path = getattr(getattr(entry, "__self__", None), "__file__", None)
    if path is None:
        return None
    function = getattr(ctypes.PyDLL(path), "_Z19inductor_entry_implPP16AtenTensorOpaqueS1_", None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


class AbstractPair(ABC):
    """A function and its transposed derivative."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The results, and what `backward` needs beside the fixed inputs."""

    @abstractmethod
    def backward(
        self, fixed: Sequence[Tensor], saved: Sequence[Tensor], covectors: Sequence[Tensor], total: Tensor
    ) -> Sequence[Tensor | None]:
        """Derivatives of Σ <covector, result>.

        Args:
            fixed: The fixed inputs.
            saved: What `forward` has returned to be saved.
            covectors: One for each result that is differentiated.
            total: What the derivatives by the parameters are added to, all of them in one vector.

        Returns:
            The new total, None where it stays as it is, and the derivatives by the states, None for 0.
        """

    def forward_entry(self) -> loop.Entry | None:
        """`forward` as C++ calls it: what is kept of a call, and its results from the first not differentiated on."""
        return None

    def backward_entry(self) -> tuple[loop.Entry, Sequence[int]] | None:
        """`backward` as C++ calls it and the places of the fixed inputs it takes; None where a result may be None."""
        return None


class TapedPair(AbstractPair):
    """The same by autograd, without compilation: for a field that does more than compute, such as count its calls."""

    def __init__(self, what: Differentiated) -> None:
        self._what = what

    @override
    def forward(self, *inputs: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        with torch.enable_grad():
            leaves = _leaves(self._what, inputs)
            results = self._what.function(*leaves)
        return [r.detach() for r in results], [*leaves, *results]

    @override
    def backward(
        self, fixed: Sequence[Tensor], saved: Sequence[Tensor], covectors: Sequence[Tensor], total: Tensor
    ) -> Sequence[Tensor | None]:
        del fixed
        leaves, results = saved[: self._what.n_inputs], saved[self._what.n_inputs :]
        return _pulled_back(self._what, leaves, results, covectors, total)


class CompiledPair(AbstractPair):
    """The same compiled; the backward half when it is first needed.

    Args:
        what: What is differentiated.
        inputs: Inputs of the shapes, dtype and device for which it is compiled.

    Raises:
        UnsupportedError: If the function cannot be traced, since what it does depends on the values of its inputs.
    """

    def __init__(self, what: Differentiated, inputs: Sequence[Tensor]) -> None:
        def joint(*arguments: Tensor) -> tuple[Tensor | None, ...]:
            with torch.enable_grad():
                leaves = _leaves(what, arguments[: what.n_inputs])
                results = what.function(*leaves)
                found = _pulled_back(what, leaves, results, arguments[what.n_inputs : -1], arguments[-1])
            return (*(r.detach() for r in results), *found)

        with torch.no_grad():
            results = what.function(*inputs)
            total = inputs[-1].new_zeros(sum(real_sizes(inputs[: what.n_params])))
            others = [*(torch.zeros_like(result) for result in results[: what.n_results]), total]
        halves = cut(_traced(joint, [*inputs, *others]), what.n_inputs, len(results))
        self._n_results = len(results)
        self._fixed = [i for i in halves.inputs if i < what.n_fixed]
        self._own = [i for i in halves.inputs if i >= what.n_fixed]
        self._forward = compiled(halves.forward, inputs)
        self._whole = None not in _results(halves.backward)
        self._backward_graph: fx.GraphModule | None = halves.backward
        self._backward: Program | None = None

    @override
    def forward(self, *inputs: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        found = self._forward(*inputs)
        return found[: self._n_results], [*(inputs[i] for i in self._own), *found[self._n_results :]]

    @override
    def backward(
        self, fixed: Sequence[Tensor], saved: Sequence[Tensor], covectors: Sequence[Tensor], total: Tensor
    ) -> Sequence[Tensor | None]:
        inputs = (*(fixed[i] for i in self._fixed), *saved, *covectors, total)
        if self._backward is None:
            assert self._backward_graph is not None, "it is kept until it has been compiled"
            self._backward = compiled(self._backward_graph, inputs)
            self._backward_graph = None
        return self._backward(*inputs)

    @override
    def forward_entry(self) -> loop.Entry | None:
        return self._forward.entry(self._own)

    @override
    def backward_entry(self) -> tuple[loop.Entry, Sequence[int]] | None:
        entry = self._backward.entry() if self._backward is not None and self._whole else None
        return None if entry is None else (entry, self._fixed)


def compiled_function(function: Function, inputs: Sequence[Tensor]) -> Program:
    """A function compiled for inputs like these; it may differentiate within.

    Raises:
        UnsupportedError: As for `CompiledPair`.
    """
    graph = _traced(function, inputs)
    forget_shapes(graph.graph)
    return compiled(graph, inputs)


def compiled(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Program:
    """A graph of operations compiled for inputs like these.

    `torch._inductor.compile` would wrap the program in five functions, each of which takes as long as a kernel of a
    small ODE, so that the compiler within them is called. It finds on disk what it has compiled before only where
    shapes have an environment, though all of them are fixed.
    """
    # These take seconds to import, and only who compiles needs them.
    from torch._functorch.compile_utils import fx_graph_cse  # noqa: PLC0415
    from torch._inductor import config, list_options  # noqa: PLC0415
    from torch._inductor.compile_fx import compile_fx_inner  # noqa: PLC0415
    from torch._inductor.decomposition import select_decomp_table  # noqa: PLC0415
    from torch._inductor.output_code import CompiledFxGraph  # noqa: PLC0415

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), static_shapes=True)
    # On a GPU a wrapper in C++ would need CUDA's headers, where Triton's kernels need none.
    on_cpu = all(tensor.device.type == "cpu" for tensor in inputs)
    known = list_options() if on_cpu else ()
    options = {name: value for name, value in OPTIONS.items() if name in known}
    with torch.no_grad(), config.patch(options), tracing(TracingContext(mode)):
        like = [mode.from_tensor(tensor.clone()) for tensor in inputs]  # one tensor in two places would be one
        with mode:
            table = {**select_decomp_table(), **(WRITTEN_OUT if on_cpu else {})}
            operations = make_fx(graph, decomposition_table=table)(*like)
        operations.graph = fx_graph_cse(operations.graph)
        found = compile_fx_inner(operations, like, cpp_wrapper=on_cpu)
    assert isinstance(found, CompiledFxGraph) and found.current_callable is not None, "it has just been compiled"  # noqa: PT018
    return Program(found.current_callable, len(_results(graph)), closed=not found.constants)


def _results(graph: fx.GraphModule) -> Sequence[fx.Node | None]:
    results: Sequence[fx.Node | None] = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    return results


def _traced(function: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Tensor]) -> fx.GraphModule:
    # Of their own: two inputs that are one tensor would be traced as one.
    inputs = [tensor.clone() for tensor in inputs]
    try:
        with torch.no_grad():
            # Twice, since a function that differentiates within cannot be made free of in-place operations at once.
            graph: fx.GraphModule = make_fx(functionalize(make_fx(function)(*inputs)))(*inputs)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedError(
            f"the field cannot be traced for compilation, as when what it does depends on values: {reason}; leave "
            "`compile` out."
        ) from error
    return graph


def _leaves(what: Differentiated, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach() for tensor in inputs]
    for i in what.variables:
        leaves[i].requires_grad_()
    return leaves


def _pulled_back(
    what: Differentiated,
    leaves: Sequence[Tensor],
    results: Sequence[Tensor],
    covectors: Sequence[Tensor],
    total: Tensor,
) -> Sequence[Tensor | None]:
    """What `AbstractPair.backward` returns, from the leaves of a graph and the results at its end."""
    by = [leaves[i] for i in what.variables]
    seeded = [(r, v) for r, v in zip(results, covectors, strict=False) if r.requires_grad]
    if not seeded:
        return [None] * (1 + what.n_states)
    outputs, seeds = zip(*seeded, strict=True)
    found = torch.autograd.grad(outputs, by, seeds, allow_unused=True)
    shares = found[: what.n_params]
    used = any(share is not None for share in shares)
    return [total + in_one_vector(shares, by[: what.n_params], total) if used else None, *found[what.n_params :]]


_PROGRAMS: WeakKeyDictionary[nn.Module, dict[object, dict[str, Any]]] = WeakKeyDictionary()
"""Programs by field, then by all else that they were compiled for, then by name."""


def reason_unsupported(problem: Problem) -> str | None:
    """Why a problem cannot be solved by compiled steps here, in one sentence, or None."""
    compiler = os.environ.get("CXX", "g++")
    if not _is_found(compiler, os.environ.get("PATH")):
        return f"`compile` needs a C++ compiler, and {compiler} is not on the path; install it, or set CXX to another."
    return reason_not_compiled(problem.field, timed=problem.differentiate_times)


@cache  # every solve of a training loop asks, and looking through the path takes longer than a step
def _is_found(program: str, path: str | None) -> bool:
    return shutil.which(program, path=path) is not None


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
        tensors = self._tensors = parameters_and_buffers(module)
        self._names = [name for name, p in tensors.items() if isinstance(p, nn.Parameter) and p.requires_grad]
        self._others = [name for name in tensors if name not in self._names]
        self.constants = [tensors[name].detach() for name in self._others]
        kinds = tuple((name, t.requires_grad, t.shape, t.stride(), t.dtype) for name, t in tensors.items())
        key = (setup.layout, setup.spec.solver, like.dtype, like.device, kinds, module.training)
        self._programs = _PROGRAMS.setdefault(module, {}).setdefault(key, {})

    def rate(self, params: Sequence[Tensor], constants: Sequence[Tensor], t: Tensor, y: Tensor) -> Tensor:
        """The flat derivative at a flat state."""
        given = dict(zip((*self._names, *self._others), (*params, *constants), strict=True))
        named = places(self._module, {id(tensor): given[name] for name, tensor in self._tensors.items()})

        def field(t: Tensor, y: State) -> State:
            # Torch's own way with tied tensors leaves them swapped in a submodule that has two names.
            rate: State = torch.func.functional_call(self._module, named, (t, y), tie_weights=False)
            return rate

        return torch.cat([part.reshape(-1) for part in self._layout.evaluate(field, t.clone(), self._layout.parts(y))])

    def pair(self, name: str, what: Differentiated, inputs: Callable[[], Sequence[Tensor]]) -> AbstractPair:
        """The compiled pair of a function of this field, from an earlier call where there was one.

        Args:
            name: Tells the functions of one field apart.
            what: The function, and by what it is differentiated.
            inputs: Makes inputs of the shapes for which it is compiled; only called where needed.
        """
        if isinstance(self._module, CountingField):
            return TapedPair(what)
        return self._kept(name, lambda: CompiledPair(what, inputs()))

    def function(self, name: str, function: Function, inputs: Callable[[], Sequence[Tensor]]) -> Program | Function:
        """The same for a function that is not differentiated from outside."""
        if isinstance(self._module, CountingField):
            return function
        return self._kept(f"{name} alone", lambda: compiled_function(function, inputs()))

    def _kept(self, name: str, make: Callable[[], _Made]) -> _Made:
        if name not in self._programs:
            self._check_attributes()
            self._programs[name] = make()
        made: _Made = self._programs[name]
        return made

    def _check_attributes(self) -> None:
        """Refuse tensors that are neither parameters nor buffers: a program would keep their present values."""
        for module in self._module.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    raise UnsupportedError(
                        f"`{name}` of {type(module).__name__} is a tensor that is neither parameter nor buffer, and "
                        "compiled code would keep its present values; register it as a buffer."
                    )
