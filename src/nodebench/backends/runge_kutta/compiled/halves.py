"""A joint graph of a function and its transposed derivative, cut into a forward and a backward half.

The forward half returns, beside its results, what the backward half needs of what it has computed, packed into one
tensor: a step of a small ODE takes less time than it takes to hand over twenty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from nodebench.backends.runge_kutta.compiled.operations import LARGE

_ATEN = torch.ops.aten

_ARITHMETIC = frozenset((_ATEN.add, _ATEN.sub, _ATEN.rsub, _ATEN.mul, _ATEN.div, _ATEN.neg, _ATEN.square))
"""What takes less time to compute again, as part of a loop that reads its arguments anyway, than to keep."""


@dataclass(frozen=True)
class Halves:
    """The two halves of a joint graph, and the places of the inputs that the backward half needs, which come first."""

    forward: fx.GraphModule
    backward: fx.GraphModule
    inputs: Sequence[int]


def cut(graph: fx.GraphModule, n_inputs: int, n_results: int) -> Halves:
    """Cut a joint graph; its inputs are those of the forward half and then others, its outputs likewise."""
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    inputs, others = places[:n_inputs], places[n_inputs:]
    outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    behind = set(others)
    for node in graph.graph.nodes:
        if any(source in behind for source in node.all_input_nodes):
            behind.add(node)
    needed: dict[fx.Node, None] = {}
    for node in graph.graph.nodes:
        if node in behind and node.op != "output":
            for source in node.all_input_nodes:
                _need(source, behind, needed)
    for node in outputs[n_results:]:
        if node is not None:
            _need(node, behind, needed)
    _compute_again(needed)
    own = [i for i, node in enumerate(inputs) if node in needed]
    computed = [node for node in needed if node.op != "placeholder"]
    packs = _packs(computed)
    return Halves(
        _forward_half(graph, inputs, outputs[:n_results], packs),
        _backward_half(graph, [inputs[i] for i in own], packs, others, outputs[n_results:]),
        own,
    )


def _need(node: fx.Node, behind: set[fx.Node], needed: dict[fx.Node, None]) -> None:
    """Enter what the backward half needs of the forward half; instead of a view, what it is a view of."""
    if node in behind or node.op == "get_attr":
        return
    if isinstance(node.target, torch._ops.OpOverload) and node.target.is_view:  # noqa: SLF001  torch's only name of it
        for source in node.all_input_nodes:
            _need(source, behind, needed)
        return
    needed[node] = None


def _compute_again(needed: dict[fx.Node, None]) -> None:
    """Drop what follows by one operation of arithmetic from all else that is needed, such as the square of a tanh."""
    relied_on: dict[fx.Node, None] = {}
    for node in list(needed):
        if getattr(node.target, "overloadpacket", None) not in _ARITHMETIC or node in relied_on:
            continue
        sources: dict[fx.Node, None] = {}
        for source in node.all_input_nodes:
            _need(source, set(), sources)
        if sources.keys() <= needed.keys():
            del needed[node]
            relied_on |= sources


def _packs(nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """What is handed over as one tensor: small tensors of one dtype together, a large one by itself."""
    together: dict[torch.dtype, list[fx.Node]] = {}
    alone = []
    for node in nodes:
        value = node.meta["val"]
        if value.numel() > LARGE:
            alone.append([node])
        else:
            together.setdefault(value.dtype, []).append(node)
    return [*together.values(), *alone]


def _forward_half(
    graph: fx.GraphModule, inputs: Sequence[fx.Node], results: Sequence[fx.Node], packs: Sequence[Sequence[fx.Node]]
) -> fx.GraphModule:
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in inputs:
        copies[node] = part.placeholder(node.name)
    _copy(graph, part, copies, [*results, *(node for pack in packs for node in pack)])
    packed = []
    for pack in packs:
        flat = [part.call_function(_ATEN.reshape.default, (copies[node], [-1])) for node in pack]
        packed.append(copies[pack[0]] if len(pack) == 1 else part.call_function(_ATEN.cat.default, (flat,)))
    part.output((*(copies[node] for node in results), *packed))
    return _module(graph, part)


def _backward_half(
    graph: fx.GraphModule,
    inputs: Sequence[fx.Node],
    packs: Sequence[Sequence[fx.Node]],
    others: Sequence[fx.Node],
    results: Sequence[fx.Node | None],
) -> fx.GraphModule:
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in inputs:
        copies[node] = part.placeholder(node.name)
    packed = [part.placeholder(f"packed_{i}") for i in range(len(packs))]
    for node in others:
        copies[node] = part.placeholder(node.name)
    for place, pack in zip(packed, packs, strict=True):
        if len(pack) == 1:
            copies[pack[0]] = place
            continue
        begin = 0
        for node in pack:
            shape = list(node.meta["val"].shape)
            end = begin + node.meta["val"].numel()
            piece = part.call_function(_ATEN.slice.Tensor, (place, 0, begin, end))
            copies[node], begin = part.call_function(_ATEN.reshape.default, (piece, shape)), end
    _copy(graph, part, copies, [node for node in results if node is not None])
    part.output(tuple(None if node is None else copies[node] for node in results))
    return _module(graph, part)


def _copy(graph: fx.GraphModule, part: fx.Graph, copies: dict[fx.Node, fx.Node], wanted: Sequence[fx.Node]) -> None:
    """Copy what leads from the nodes that have been copied to those that are wanted."""
    needed = set(wanted)
    for node in reversed(graph.graph.nodes):
        if node in needed and node not in copies:
            needed.update(node.all_input_nodes)
    for node in graph.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = part.node_copy(node, copies.__getitem__)


def _module(graph: fx.GraphModule, part: fx.Graph) -> fx.GraphModule:
    forget_shapes(part)
    return fx.GraphModule(graph, part)


def forget_shapes(graph: fx.Graph) -> None:
    """Drop what tracing noted of each value: it belongs to that trace, and Inductor makes its own."""
    for node in graph.nodes:
        node.meta.clear()
