"""A field of one's own in torch."""

import pickle
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from nodebench.errors import PluginError, UserError
from nodebench.frameworks.base import Weights, check_alike, seeded_globally
from nodebench.frameworks.torch.field import refuse_complex, state_parts, whole_state
from nodebench.importing import optional_module
from nodebench.problem import Field, Problem, State
from nodebench.registry import load_class
from nodebench.tasks.field.given import FieldSource, called_with, check_names, existing_file
from nodebench.tasks.field.objects import held_by
from nodebench.tasks.field.task import States, parts_of


class FieldODE(nn.Module):
    """Where a field carries its initial states.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        fields: Where the field's class lives, by framework.
        times: Output times.
        differentiate_times: Whether the gradient problem differentiates with respect to the output times as well.
    """

    def __init__(
        self,
        solve: Callable[..., Tensor],
        fields: Mapping[str, str],
        times: tuple[float, ...],
        *,
        differentiate_times: bool,
    ) -> None:
        super().__init__()
        self.solve, self.times, self.field = solve, times, load_class(fields["torch"])()
        self.differentiate_times = differentiate_times

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared distance of the last states from their targets."""
        problem = self.problem(batch)
        loss: Tensor = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Root-mean-square distance of each example, shape `(n,)`."""
        problem = self.problem(batch)
        ys = self.solve(problem.field, problem.y0, problem.times)
        return distances(parts_of("end", batch), ys).mean(1).sqrt()

    def problem(self, batch: Mapping[str, Tensor]) -> Problem:
        """What the gradient measurement differentiates."""
        y0 = parts_of("y0", batch)
        times = torch.tensor(self.times, dtype=torch.float64, device=state_parts(y0)[0].device)
        return Problem(self.field, y0, times, partial(end_loss, parts_of("end", batch)), self.differentiate_times)


def end_loss(end: State, ys: State) -> Tensor:
    """Mean squared distance of the last of the states at the output times, over all numbers of the state."""
    return distances(end, ys).mean()


def distances(end: State, ys: State) -> Tensor:
    """Squared distances of the last of the states from their targets, shape `(n, numbers of a state)`.

    Raises:
        PluginError: If the shapes of states and targets differ.
    """
    squares = []
    for last, target in zip((part[-1] for part in state_parts(ys)), state_parts(end), strict=True):
        check_alike(last, target)
        squares.append((last - target).pow(2).reshape(len(last), -1))
    return torch.cat(squares, dim=1)


def initial_weights(target: str, seed: int) -> Weights:
    """Weights of a field made after seeding, by their names in the model; all generators are left as they were."""
    field = _seeded(load_class(target), seed)
    if not isinstance(field, nn.Module):
        raise PluginError(f"`{target}` must be a `torch.nn.Module`; it made {type(field).__name__}.")
    return {f"field.{name}": weight for name, weight in _weights(field).items()}


def _seeded(make: Callable[[], Any], seed: int) -> Any:
    """What is made after seeding; all generators are left as they were."""
    with torch.random.fork_rng(devices=[]), seeded_globally(seed):
        torch.manual_seed(seed)
        return make()


def _weights(module: nn.Module) -> Weights:
    refuse_complex(module)
    state = whole_state(module)
    return {name: state[name] for name, _ in module.named_parameters()}


class FunctionField(nn.Module):
    """A function as a field: what it is called with, and the modules and parameters that it closes over, are its own.

    Args:
        function: `function(t, y, *parameters)`, or `function(t, y, parameters)`; see `called_with`.
        parameters: A tensor, a tuple or a mapping of them, each of which becomes a parameter; None for nothing.
    """

    def __init__(self, function: Callable[..., State], parameters: Any = None) -> None:
        super().__init__()
        self.function = function
        self.structure = parameters
        named = dict(_named(parameters))
        self.given = nn.ParameterDict({name: nn.Parameter(value.detach()) for name, value in named.items()})
        held = dict(held_by(function))
        self.modules_held = nn.ModuleDict({name: part for name, part in held.items() if isinstance(part, nn.Module)})
        self.parameters_held = nn.ParameterDict({n: part for n, part in held.items() if isinstance(part, nn.Parameter)})

    @property
    def __name__(self) -> str:
        """That of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @override
    def forward(self, t: Tensor, y: State) -> State:
        """What the function returns."""
        if self.structure is None:
            return self.function(t, y)
        return self.function(t, y, *called_with(self.function, _restored(self.structure, dict(self.given))))


def _named(parameters: Any, name: str = "p") -> list[tuple[str, Tensor]]:
    """The tensors of parameters by name: their places in tuples and keys in mappings."""
    if parameters is None:
        return []
    if isinstance(parameters, Tensor):
        return [(name, parameters)]
    if isinstance(parameters, Mapping):
        return [each for key, value in parameters.items() for each in _named(value, f"{name}_{key}")]
    if isinstance(parameters, tuple | list):
        return [each for at, value in enumerate(parameters) for each in _named(value, f"{name}_{at}")]
    raise PluginError(
        f"the parameters of a function must be tensors, or tuples or mappings of them; got {type(parameters).__name__}."
    )


def _restored(structure: Any, values: Mapping[str, Tensor], name: str = "p") -> Any:
    """Parameters structured as they were given."""
    if isinstance(structure, Tensor):
        return values[name]
    if isinstance(structure, Mapping):
        return {key: _restored(value, values, f"{name}_{key}") for key, value in structure.items()}
    return tuple(_restored(value, values, f"{name}_{at}") for at, value in enumerate(structure))


class GivenODE(nn.Module):
    """A field that is given, from its initial state to the loss.

    Args:
        source: Where the field comes from.
        solve: `solve(field, y0, times)`, differentiable; it is not called here, and None where the field is only read.
    """

    def __init__(self, source: FieldSource, solve: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        del solve
        given = source.given
        self.times, self.differentiate_times = source.times, given is not None and given.differentiate_times
        self.field: Field = _read_field(source) if given is None else _as_field(given.field, given.parameters)
        self.own_loss = None if given is None else given.loss
        # Cast and moved with the model: a loss may hold targets, or a decoder.
        held = dict(held_by(self.own_loss)) if not isinstance(self.own_loss, nn.Module) else {}
        self.held_modules = nn.ModuleDict({name: part for name, part in held.items() if isinstance(part, nn.Module)})
        self.held = {name: part for name, part in held.items() if isinstance(part, Tensor | list | tuple | dict)}

    def problem(self, batch: Mapping[str, Tensor]) -> Problem:
        """What the gradient measurement differentiates."""
        y0 = parts_of("y0", batch)
        times = torch.tensor(self.times, dtype=torch.float64, device=state_parts(y0)[0].device)
        return Problem(self.field, y0, times, self.own_loss or last_mean_square, self.differentiate_times)


def last_mean_square(ys: State) -> Tensor:
    """Mean of the squares of the last of the states at the output times."""
    return torch.cat([part[-1].reshape(-1) for part in state_parts(ys)]).pow(2).mean()


def given_weights(source: FieldSource, seed: int) -> Weights:
    """Weights of a field that is given, by their names in `GivenODE`; all generators are left as they were.

    Raises:
        PluginError: If one is complex.
    """
    return _weights(_seeded(partial(GivenODE, source), seed))


def _as_field(field: Any, parameters: Any) -> Field:
    return field if isinstance(field, nn.Module) and parameters is None else FunctionField(field, parameters)


def _read_field(source: FieldSource) -> Field:
    """The field of a file, with the weights of a file where one is named."""
    found = source.found
    field = source.made() if isinstance(found, type) else deepcopy(found)
    if not isinstance(field, nn.Module):
        field = FunctionField(field)
    if source.weights:
        read = read_weights(source.weights)
        wanted = field.state_dict()
        check_names(source.weights, *({n: tuple(v.shape) for n, v in each.items()} for each in (read, wanted)))
        field.load_state_dict(read)
    made: Field = field
    return made


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors in a file of weights by name.

    Raises:
        UserError: If the file holds objects, which are not unpickled, or no tensors by name.
    """
    file = existing_file("--weights", path)
    if file.suffix == ".safetensors":
        load = optional_module("safetensors.torch").load_file
        try:
            found: Any = load(file)
        except Exception as error:
            raise UserError(f"`{path}` cannot be read as safetensors: {error}.") from error
    elif file.suffix in (".pt", ".pth"):
        found = _tensors(file)
    else:
        raise UserError(f"`--weights` of a torch field must be a file .pt or .safetensors; got `{path}`.")
    if not (isinstance(found, Mapping) and all(isinstance(value, Tensor) for value in found.values())):
        raise UserError(f"`{path}` must hold tensors by name, as `torch.save(field.state_dict(), path)` writes them.")
    return dict(found)


def read_states(file: Path) -> States:
    """The tensor, or the tuple of tensors, in a file.

    Raises:
        UserError: If it holds something else.
    """
    found = _tensors(file)
    parts = found if isinstance(found, tuple | list) else (found,)
    if not all(isinstance(part, Tensor) for part in parts):
        raise UserError(f"`{file}` must hold a tensor or a tuple of tensors; it holds {type(found).__name__}.")
    arrays = tuple(part.detach().cpu().numpy() for part in parts)
    return arrays if isinstance(found, tuple | list) else arrays[0]


def _tensors(file: Path) -> Any:
    """What a file of torch's holds, if that is tensors in lists and mappings: nothing else is unpickled."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"`{file}` holds objects and not tensors alone, and nothing is unpickled that could run code; save "
            "`field.state_dict()` instead."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"`{file}` cannot be read as a file of torch's: {' '.join(str(error).split())[:200]}."
        ) from error
