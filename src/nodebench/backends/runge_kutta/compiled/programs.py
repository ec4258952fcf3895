"""A field as a function of tensors alone, and the programs that torch's Inductor makes of such functions.

A function is traced once, forward and backward as one graph, which is cut in two: the forward half returns, beside its
results, what the backward half needs. Unlike `torch.compile` the programs have no guards and no autograd function
around them: a step of a small ODE takes some hundred microseconds, and both would be a good part of that. The price is
that shapes, and whatever of a function is not among its arguments, are fixed when it is traced.

What Inductor generates is kept on disk (`TORCHINDUCTOR_CACHE_DIR`), and found again by other processes.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from nodebench.backends.runge_kutta.solve import SolveSetup
from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch.step import CountingField
from nodebench.problem import Field, Problem, State

Function = Callable[..., tuple[Tensor, ...]]
"""A function of tensors alone that returns a tuple of tensors."""

Program = Callable[..., Sequence[Any]]

_Made = TypeVar("_Made")

OPTIONS = {"cpp_wrapper": True, "cpp.use_decompose_tanh": True}
"""Inductor's options: the calls of kernels and matrix products are compiled, too, not made from Python; tanh(x) is
1 - 2 / (1 + exp(2 x)), three times as fast, with an error of 2e-7 instead of 3e-8 in float32."""


@dataclass(frozen=True)
class Differentiated:
    """What is differentiated: results by inputs.

    Attributes:
        function: The function.
        n_inputs: How many inputs it has.
        inputs: Places of those by which it is differentiated.
        n_results: How many of its results are, from the first on; the others have no derivative.
    """

    function: Function
    n_inputs: int
    inputs: tuple[int, ...]
    n_results: int


class Pair(Protocol):
    """A function and its transposed derivative."""

    def forward(self, *inputs: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The results, and what `backward` needs."""

    def backward(self, saved: Sequence[Tensor], covectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The derivatives of Σ <covector, result> by each input that is differentiated by; None for 0."""


class TapedPair:
    """The same by autograd, without compilation: for a field that does more than compute, such as count its calls."""

    def __init__(self, what: Differentiated) -> None:
        self._what = what

    def forward(self, *inputs: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """See `Pair`."""
        with torch.enable_grad():
            leaves = _leaves(self._what, inputs)
            results = self._what.function(*leaves)
        return [r.detach() for r in results], [*results, *leaves]

    def backward(self, saved: Sequence[Tensor], covectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """See `Pair`."""
        n = len(saved) - self._what.n_inputs
        return _gradients(self._what, saved[n:], saved[:n], covectors)


class CompiledPair:
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
                leaves = _leaves(what, arguments[: len(inputs)])
                results = what.function(*leaves)
                found = _gradients(what, leaves, results, arguments[len(inputs) :])
            return (*(r.detach() for r in results), *found)

        with torch.no_grad():
            results = what.function(*inputs)
            covectors = [torch.zeros_like(r) for r in results[: what.n_results]]
        graph = _traced(joint, [*inputs, *covectors])
        halves = _cut(graph, len(inputs), len(results))
        self._n_results = len(results)
        self._forward = compiled(halves.forward, inputs)
        self._backward_graph: fx.GraphModule | None = halves.backward
        self._backward: Program | None = None

    def forward(self, *inputs: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """See `Pair`."""
        found = self._forward(*inputs)
        return found[: self._n_results], found[self._n_results :]

    def backward(self, saved: Sequence[Tensor], covectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """See `Pair`."""
        if self._backward is None:
            assert self._backward_graph is not None, "it is kept until it has been compiled"
            self._backward = compiled(self._backward_graph, [*saved, *covectors])
            self._backward_graph = None
        return self._backward(*saved, *covectors)


def compiled_function(function: Function, inputs: Sequence[Tensor]) -> Program:
    """A function compiled for inputs like these; it may differentiate within.

    Raises:
        UnsupportedError: As for `CompiledPair`.
    """
    graph = _traced(function, inputs)
    _forget_shapes(graph.graph)
    return compiled(graph, inputs)


def compiled(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Program:
    """A graph of operations compiled for inputs like these."""
    with torch.no_grad():
        # The compiler behind `torch.compile`, without its guards.
        program: Program = torch._inductor.compile(graph, list(inputs), options=OPTIONS)  # noqa: SLF001
    return program


def _traced(function: Callable[..., tuple[Tensor | None, ...]], inputs: Sequence[Tensor]) -> fx.GraphModule:
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
    for i in what.inputs:
        leaves[i].requires_grad_()
    return leaves


def _gradients(
    what: Differentiated, leaves: Sequence[Tensor], results: Sequence[Tensor], covectors: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    taped = [(r, v) for r, v in zip(results, covectors, strict=False) if r.requires_grad]
    by = [leaves[i] for i in what.inputs]
    if not taped:
        return [None] * len(by)
    outputs, seeds = zip(*taped, strict=True)
    return torch.autograd.grad(outputs, by, seeds, allow_unused=True)


@dataclass(frozen=True)
class _Halves:
    forward: fx.GraphModule
    backward: fx.GraphModule


def _cut(graph: fx.GraphModule, n_inputs: int, n_results: int) -> _Halves:
    """Cut a joint graph; its inputs are those of the forward half and then the covectors, its outputs likewise."""
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    inputs, covectors = places[:n_inputs], places[n_inputs:]
    outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    behind = set(covectors)
    for node in graph.graph.nodes:
        if any(source in behind for source in node.all_input_nodes):
            behind.add(node)
    saved: dict[fx.Node, None] = {}
    for node in graph.graph.nodes:
        if node in behind and node.op != "output":
            for source in node.all_input_nodes:
                _save(source, behind, saved)
    for node in outputs[n_results:]:
        if node is not None:
            _save(node, behind, saved)
    return _Halves(
        _subgraph(graph, inputs, [*outputs[:n_results], *saved]),
        _subgraph(graph, [*saved, *covectors], outputs[n_results:]),
    )


def _save(node: fx.Node, behind: set[fx.Node], saved: dict[fx.Node, None]) -> None:
    """Enter what the backward half needs of the forward half; instead of a view, what it is a view of."""
    if node in behind or node.op == "get_attr":
        return
    if isinstance(node.target, torch._ops.OpOverload) and node.target.is_view:  # noqa: SLF001  torch's only name of it
        for source in node.all_input_nodes:
            _save(source, behind, saved)
        return
    saved[node] = None


def _subgraph(graph: fx.GraphModule, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node | None]) -> fx.GraphModule:
    """The part of a graph that leads from some nodes to others."""
    wanted = {node for node in outputs if node is not None}
    needed = set(wanted)
    for node in reversed(graph.graph.nodes):
        if node in needed and node not in inputs:
            needed.update(node.all_input_nodes)
    part = fx.Graph()
    copies = {node: part.placeholder(node.name) for node in inputs}
    for node in graph.graph.nodes:
        if node in needed and node not in copies and node.op != "output":
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(tuple(None if node is None else copies[node] for node in outputs))
    _forget_shapes(part)
    return fx.GraphModule(graph, part)


def _forget_shapes(graph: fx.Graph) -> None:
    # What tracing noted of each value belongs to that trace; Inductor makes its own.
    for node in graph.nodes:
        node.meta.clear()


_PROGRAMS: WeakKeyDictionary[nn.Module, dict[object, Any]] = WeakKeyDictionary()
"""Programs by field, then by all else that they were compiled for."""


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
        return self._kept((name, self._key), lambda: CompiledPair(*what()))

    def function(self, name: str, what: Callable[[], tuple[Function, Sequence[Tensor]]]) -> Program:
        """The same for a function that is not differentiated from outside."""
        if isinstance(self._module, CountingField):
            return what()[0]
        return self._kept((name, self._key), lambda: compiled_function(*what()))

    def _kept(self, key: object, make: Callable[[], _Made]) -> _Made:
        if key not in self._programs:
            self._check_attributes()
            self._programs[key] = make()
        made: _Made = self._programs[key]
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
