"""Whether a field in torch is a function of time, state and its parameters, found from one evaluation and its graph."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, MethodType

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from nodebench.errors import FieldError
from nodebench.frameworks.base import field_name
from nodebench.frameworks.torch.field import attributes, constants, items, like_state, state_parts
from nodebench.problem import Field, Problem, State

REGISTER = "make it a parameter: nn.Parameter as an attribute, nn.ModuleList or nn.ParameterList instead of a list"


def check_state(state: State) -> None:
    """See that the state is made of floating-point tensors.

    Raises:
        FieldError: If it is not, with what it is.
    """
    for part in state_parts(state):
        if not (isinstance(part, Tensor) and part.is_floating_point()):
            kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
            how = "its real and imaginary parts as two" if "complex" in str(kind) else "floating-point numbers"
            raise FieldError(f"the initial state is {kind}; a state is made of real numbers, give {how}.")
        if not part.numel():
            raise FieldError(f"the initial state has the shape {tuple(part.shape)}, and no number in it.")


def inspect(problem: Problem) -> None:
    """Evaluate the field at the start, without a graph and with one."""
    check_state(problem.y0)
    kind, function = field_name(problem.field), problem.field
    y0 = tuple(part.detach().clone() for part in state_parts(problem.y0))
    begin = problem.times[0].detach().to(y0[0])
    handed = begin.clone(), like_state(tuple(part.clone() for part in y0), problem.y0)
    try:
        with torch.no_grad():
            rate = function(*handed)
    except RuntimeError as error:
        raise _explained(error, problem) from error
    _check_unchanged(kind, (begin, *y0), (handed[0], *state_parts(handed[1])))
    check_rate(kind, rate, problem.y0)
    own = function.parameters() if isinstance(function, nn.Module) else ()
    found = hidden(lambda: _with_graph(problem), own)
    if found:
        names = named(found, function)
        raise FieldError(
            f"the field `{kind}` depends on {names}, which requires a gradient and is not one of its parameters: it "
            f"would neither be differentiated nor trained; {REGISTER}."
        )


def _constants(function: Field) -> dict[str, Tensor]:
    """Copies of what a field holds beside its parameters."""
    held = constants(function) if isinstance(function, nn.Module) else {}
    return {name: tensor.clone() for name, tensor in held.items()}


def remembered(problem: Problem) -> str:
    """What an evaluation changes of a field so that it is another once it has been trained; see `AbstractFramework`."""
    function, before = problem.field, _constants(problem.field)
    _evaluated(problem)
    now = _constants(function)
    changed = [name for name in before if name in now and not torch.equal(before[name], now[name])]
    if not (changed and isinstance(function, nn.Module)):
        return ""
    modes, held = {module: module.training for module in function.modules()}, constants(function)
    found = []
    try:
        function.eval()
        for values in (now, before):
            for name in changed:
                held[name].copy_(values[name])
            found.append(_evaluated(problem))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return "" if _equal(*found) else ", ".join(changed)


def _evaluated(problem: Problem) -> list[Tensor]:
    """The values of a field at the start, without a graph."""
    y0 = tuple(part.detach().clone() for part in state_parts(problem.y0))
    with torch.no_grad():
        return list(state_parts(problem.field(problem.times[0].detach().to(y0[0]), like_state(y0, problem.y0))))


def _with_graph(problem: Problem) -> Sequence[Tensor]:
    """The values of a field at the start, with a graph that ends in leaves of its own."""
    leaves = tuple(part.detach().clone().requires_grad_() for part in state_parts(problem.y0))
    time = problem.times[0].detach().to(leaves[0])
    with torch.enable_grad():
        return state_parts(problem.field(time, like_state(leaves, problem.y0)))


def hidden(evaluate: Callable[[], Sequence[Tensor]], own: Iterable[Tensor]) -> list[Tensor]:
    """What the graph of a field ends in beside its time, its state and its parameters.

    A tensor that is made within the field is another one in each evaluation; it is what it is differentiated by that
    must be right, which finite differences tell.

    Args:
        evaluate: Evaluates the field with a graph, at a state and a time that are new each time or have none. It is
            called a second time only if the first leaves something to ask.
        own: The parameters; of one that has a graph itself what this ends in.
    """
    known = {id(leaf) for leaf in leaves_of(own)}
    found = [leaf for leaf in leaves_of(evaluate()) if id(leaf) not in known]
    if not found:
        return []
    lasting = {id(leaf) for leaf in leaves_of(evaluate())}
    return [leaf for leaf in found if id(leaf) in lasting]


def named(tensors: Iterable[Tensor], function: Field) -> str:
    """Tensors that a field uses, in words, each once."""
    return ", ".join(dict.fromkeys(_name_of(tensor, function) for tensor in tensors))


def check_rate(kind: str, rate: State, state: State) -> None:
    """See that what a field returned has the structure, shapes and dtype of the state.

    Raises:
        FieldError: If it has not, with both.
    """
    if isinstance(rate, tuple) != isinstance(state, tuple) or not all(
        isinstance(part, Tensor) for part in state_parts(rate)
    ):
        raise FieldError(f"the field `{kind}` returned {_told(rate)} for a state that is {_told(state)}.")
    shapes, wanted = ([tuple(part.shape) for part in state_parts(each)] for each in (rate, state))
    if shapes != wanted:
        raise FieldError(
            f"the field `{kind}` returned the shape {_listed(shapes)} for a state of shape {_listed(wanted)}; a rate "
            "has the shape of its state."
        )
    for part, own in zip(state_parts(rate), state_parts(state), strict=True):
        if part.dtype != own.dtype or part.device != own.device:
            raise FieldError(
                f"the field `{kind}` returned {_kind(part)} for a state in {_kind(own)}; make what it creates like the "
                "state: `torch.zeros_like(y)`, or `dtype=y.dtype, device=y.device`."
            )


def leaves_of(outputs: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that a graph ends in, which are what its outputs are differentiable by."""
    outputs = list(outputs)
    stack: list[Node] = [output.grad_fn for output in outputs if output.grad_fn is not None]
    found, seen = {id(output): output for output in outputs if output.is_leaf and output.requires_grad}, set(stack)
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):  # a leaf's own node
            found[id(node.variable)] = node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return list(found.values())


def unsteady_layer(one: Problem, other: Problem) -> str:
    """The first layer that two fields evaluate to different values from the same inputs; empty where there is none."""
    first, second = (_calls(problem) for problem in (one, other))
    for (name, inputs, outputs), (_, other_inputs, other_outputs) in zip(first, second, strict=False):
        if _equal(inputs, other_inputs) and not _equal(outputs, other_outputs):
            return name
    return ""


def _calls(problem: Problem) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """What every layer of a field was given and gave at the start, in the order in which they returned."""
    if not isinstance(problem.field, nn.Module):
        return []
    calls: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def remember(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _, inputs, outputs: calls.append((name, _tensors(inputs), _tensors(outputs)))

    layers = [(name, layer) for name, layer in problem.field.named_modules() if name]
    hooks = [layer.register_forward_hook(remember(f"`{name}`, a {type(layer).__name__}")) for name, layer in layers]
    try:
        _evaluated(problem)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _tensors(value: object) -> list[Tensor]:
    return [item.detach().clone() for _, item in items("", value) if isinstance(item, Tensor)]


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def _check_unchanged(kind: str, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if not torch.equal(old, new):
            what = "state" if i else "time"
            raise FieldError(
                f"the field `{kind}` changes its {what} in place, which solvers go on with; make its first operation "
                f"one that does not, such as `{'y' if i else 't'} = {'y' if i else 't'}.clone()`."
            )


def _explained(error: RuntimeError, problem: Problem) -> Exception:
    """The error of a field in the words of who can mend it, or as it is."""
    text, kind = " ".join(str(error).split()), field_name(problem.field)
    if "does not require grad" in text:
        return FieldError(
            f"the field `{kind}` takes a gradient inside itself, and solvers evaluate it without a graph as well; do "
            "it within `with torch.enable_grad():`."
        )
    if "dtype" not in text and "scalar type" not in text:
        return error
    found = list(_odd_tensors(problem))
    trained = [each for each in found if each.tensor.requires_grad]
    if trained:
        names = ", ".join(dict.fromkeys(each.name for each in trained))
        return FieldError(f"the field `{kind}` uses {names}, which is not one of its parameters ({text}); {REGISTER}.")
    if found:
        names = ", ".join(f"{each.name}, in {each.tensor.dtype}," for each in found)
        dtype = state_parts(problem.y0)[0].dtype
        return FieldError(
            f"the field `{kind}` was evaluated in {dtype} and uses {names} which does not follow ({text}); register "
            "it as a buffer, `self.register_buffer(name, tensor)`."
        )
    return error


@dataclass(frozen=True)
class _Reachable:
    """A tensor that a field may use, and what a person calls it."""

    name: str
    tensor: Tensor


def _odd_tensors(problem: Problem) -> Iterator[_Reachable]:
    """Tensors within reach of a field that are not of the state's dtype, or are none of its parameters."""
    dtype = state_parts(problem.y0)[0].dtype
    own = set(map(id, problem.field.parameters())) if isinstance(problem.field, nn.Module) else set()
    for each in reachable(problem.field):
        odd = each.tensor.dtype != dtype or each.tensor.requires_grad
        if odd and id(each.tensor) not in own and each.tensor.is_floating_point():
            yield each


def _name_of(leaf: Tensor, function: Field) -> str:
    for each in reachable(function):
        if each.tensor is leaf:
            return each.name
    return f"a tensor of shape {tuple(leaf.shape)}"


def reachable(function: Field) -> list[_Reachable]:
    """Tensors in the attributes of a field and its layers, and in what their code refers to, by name."""
    search = _Search()
    if isinstance(function, nn.Module):
        for name, value in attributes(function):
            search.value(name, type(function).__name__, value)
        for layer in function.modules():
            search.code(type(layer).forward)
    else:
        for name, value in vars(function).items():
            search.value(name, field_name(function), value)
        search.code(function if isinstance(function, FunctionType | MethodType) else type(function).__call__)
    return search.found


@dataclass
class _Search:
    found: list[_Reachable] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def value(self, path: str, owner: str, value: object, kind: str = "") -> None:
        """Tensors in a value: itself, the items of a container, the parameters of a module, what a function names."""
        for name, item in items(path, value):
            if isinstance(item, Tensor):
                self.found.append(_Reachable(f"{kind}`{name}` of {owner}", item))
            elif isinstance(item, nn.Module):
                own = (*item.named_parameters(), *item.named_buffers())
                self.found += [_Reachable(f"{kind}`{name}.{inner}` of {owner}", tensor) for inner, tensor in own]
            elif isinstance(item, FunctionType | MethodType):
                self.code(item)

    def code(self, function: object) -> None:
        """Tensors in the globals and the closure that a function's code names."""
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType) or id(function) in self.seen:
            return
        self.seen.add(id(function))
        if (function.__module__ or "").partition(".")[0] == "torch":
            return
        where = Path(function.__code__.co_filename).name
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a name of the enclosing function that has no value yet
                self.value(name, where, cell.cell_contents)
        for name in _names(function.__code__):
            if name in function.__globals__:
                self.value(name, where, function.__globals__[name], "the global ")


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} ({', '.join(map(_told, value))})"
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"


def _kind(tensor: Tensor) -> str:
    where = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"{str(tensor.dtype).removeprefix('torch.')}{where}"


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return str(shapes[0]) if len(shapes) == 1 else str(shapes)
