"""A field of one's own in JAX."""

import inspect
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nodebench.errors import PluginError, UserError
from nodebench.frameworks.base import Weights, check_alike, seeded_globally
from nodebench.frameworks.jax.parameters import named_parameters, refuse_complex, whole_state, with_arrays
from nodebench.importing import optional_module
from nodebench.problem import Field, Problem, State
from nodebench.registry import load_class
from nodebench.tasks.field.given import FieldSource, called_with, check_names, existing_file
from nodebench.tasks.field.objects import held_by
from nodebench.tasks.field.task import parts_of


class FieldODE(eqx.Module):
    """Where a field carries its initial states.

    Args:
        solve: `solve(field, y0, times)`, differentiable: the gradient method under test.
        fields: Where the field's class lives, by framework.
        times: Output times.
        differentiate_times: Whether the gradient problem differentiates with respect to the output times as well.
    """

    field: Any
    solve: Callable[..., jax.Array] = eqx.field(static=True)
    times: tuple[float, ...] = eqx.field(static=True)
    differentiate_times: bool = eqx.field(static=True)

    def __init__(
        self,
        solve: Callable[..., jax.Array],
        fields: Mapping[str, str],
        times: tuple[float, ...],
        *,
        differentiate_times: bool,
    ) -> None:
        self.solve, self.times, self.differentiate_times = solve, times, differentiate_times
        # With weights that are replaced, and whatever else it draws from the seed.
        self.field = _made(fields["jax"], random.getrandbits(31))

    def loss(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Mean squared distance of the last states from their targets."""
        problem = self.problem(batch)
        loss: jax.Array = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Root-mean-square distance of each example, shape `(n,)`."""
        problem = self.problem(batch)
        ys = self.solve(problem.field, problem.y0, problem.times)
        return jnp.sqrt(jnp.mean(distances(parts_of("end", batch), ys), axis=1))

    def problem(self, batch: Mapping[str, jax.Array]) -> Problem:
        """What the gradient measurement differentiates; its loss carries its arrays."""
        loss = Partial(end_loss, parts_of("end", batch))
        return Problem(self.field, parts_of("y0", batch), np.asarray(self.times), loss, self.differentiate_times)


def end_loss(end: State, ys: State) -> jax.Array:
    """Mean squared distance of the last of the states at the output times, over all numbers of the state."""
    return jnp.mean(distances(end, ys))


def distances(end: State, ys: State) -> jax.Array:
    """Squared distances of the last of the states from their targets, shape `(n, numbers of a state)`.

    Raises:
        PluginError: If the shapes of states and targets differ.
    """
    squares = []
    for states, target in zip(jax.tree.leaves(ys), jax.tree.leaves(end), strict=True):
        last = states[-1]
        check_alike(last, target)
        squares.append(((last - target) ** 2).reshape(len(last), -1))
    return jnp.concatenate(squares, axis=1)


def initial_weights(target: str, seed: int) -> Weights:
    """Weights of a field made from a key of the seed, by their names in the model."""
    with seeded_globally(seed):
        field = _made(target, seed)
    return {f"field.{name}": weight for name, weight in _weights(field).items()}


def _weights(module: object) -> Weights:
    refuse_complex(module)
    state = whole_state(module)
    return {name: state[name] for name in named_parameters(module)}


def _made(target: str, seed: int) -> Any:
    # Drawn in 32 bits in any process: JAX draws other numbers in 64, and a reference must have those of its cell.
    cls = load_class(target)
    with jax.enable_x64(False):  # noqa: FBT003  the signature is JAX's
        return cls(key=jax.random.key(seed))


class FunctionField(eqx.Module):
    """A function as a field.

    Args:
        function: `function(t, y, *parameters)`, or `function(t, y, parameters)`; see `called_with`.
        parameters: What it is called with, arrays in any structure; None for nothing.

    Raises:
        PluginError: If the function closes over a module, which cannot be differentiated by then.
    """

    function: Callable[..., State] = eqx.field(static=True)
    given: Any

    def __init__(self, function: Callable[..., State], parameters: Any = None) -> None:
        for name, part in held_by(function):
            if isinstance(part, eqx.Module) and named_parameters(part):
                raise PluginError(
                    f"the function closes over `{name}`, whose parameters nothing is differentiated by then; compare "
                    f"`{name}` itself, or a function together with its parameters, `(function, ({name},))`."
                )
        self.function, self.given = function, parameters

    @property
    def __name__(self) -> str:
        """That of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, t: jax.Array, y: State) -> State:
        """What the function returns."""
        if self.given is None:
            return self.function(t, y)
        return self.function(t, y, *called_with(self.function, self.given))


class GivenODE(eqx.Module):
    """A field that is given, from its initial state to the loss.

    Args:
        source: Where the field comes from.
        solve: `solve(field, y0, times)`, differentiable; it is not called here, and None where the field is only read.
    """

    field: Any
    loss: Any
    times: tuple[float, ...] = eqx.field(static=True)
    differentiate_times: bool = eqx.field(static=True)

    def __init__(self, source: FieldSource, solve: Callable[..., jax.Array] | None = None) -> None:
        del solve
        given = source.given
        self.times, self.differentiate_times = source.times, given is not None and given.differentiate_times
        self.field = _read_field(source) if given is None else _as_field(given.field, given.parameters)
        self.loss = last_mean_square if given is None or given.loss is None else given.loss

    def problem(self, batch: Mapping[str, jax.Array]) -> Problem:
        """What the gradient measurement differentiates."""
        return Problem(self.field, parts_of("y0", batch), np.asarray(self.times), self.loss, self.differentiate_times)


def last_mean_square(ys: State) -> jax.Array:
    """Mean of the squares of the last of the states at the output times."""
    return jnp.mean(jnp.concatenate([part[-1].reshape(-1) for part in jax.tree.leaves(ys)]) ** 2)


def given_weights(source: FieldSource, seed: int) -> Weights:
    """Weights of a field that is given, by their names in `GivenODE`.

    Raises:
        PluginError: If one is complex.
    """
    with seeded_globally(seed):
        return _weights(GivenODE(source))


def module_class(make: Callable[..., type], arguments: Sequence[Any], held: Mapping[str, bool]) -> type:
    """The class of a module that has been sent, made with its fields; what else it has is filled in after that.

    Args:
        make: Makes an empty class, as cloudpickle does.
        arguments: What it is called with: metaclass, name, bases, what the class is made with, and what else there is.
        held: Names of the class's own fields, and whether each is static.
    """
    metaclass, name, bases, namespace, *others = arguments
    own = {each: eqx.field(static=is_static) for each, is_static in held.items()}
    namespace = {**namespace, "__annotations__": dict.fromkeys(held, Any), **own}
    return make(metaclass, name, bases, namespace, *others)


def _as_field(field: Any, parameters: Any) -> Field:
    given: Any = field if isinstance(field, eqx.Module) and parameters is None else FunctionField(field, parameters)
    return given  # type: ignore[no-any-return]  # modules are called


def _read_field(source: FieldSource) -> Field:
    """The field of a file, with the weights of a file where one is named."""
    found = source.found
    if isinstance(found, type):
        more = {"key": jax.random.key(random.getrandbits(31))} if _takes_key(found) else {}
        with jax.enable_x64(False):  # noqa: FBT003  as `_made`
            found = source.made(**more)
    field = _as_field(found, None)
    return _with_weights(field, source.weights) if source.weights else field


def _takes_key(cls: type) -> bool:
    parameters = inspect.signature(cls).parameters
    return "key" in parameters or any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _with_weights(field: Any, path: str) -> Any:
    """The field with the weights in a file.

    Raises:
        UserError: If they are not those of the field, or the file is of another kind.
    """
    file = existing_file("--weights", path)
    if file.suffix == ".safetensors":
        load = optional_module("safetensors.numpy").load_file
        try:
            read = load(file)
        except Exception as error:
            raise UserError(f"`{path}` cannot be read as safetensors: {error}.") from error
        wanted = whole_state(field)
        check_names(path, *({name: np.shape(value) for name, value in each.items()} for each in (read, wanted)))
        return with_arrays(field, {name: jnp.asarray(value) for name, value in read.items()})
    if file.suffix != ".eqx":
        raise UserError(f"`--weights` of a JAX field must be a file .eqx or .safetensors; got `{path}`.")
    try:
        return eqx.tree_deserialise_leaves(file, field)
    except (RuntimeError, ValueError, EOFError) as error:
        raise UserError(_misfit(path, " ".join(str(error).split()))) from error


def _misfit(path: str, text: str) -> str:
    """What Equinox says of a file that is not of a field, with the weight called as everywhere here."""
    name = ".".join(re.findall(r"Key\((?:name|idx|key)='?(\w+)'?\)", text))
    shapes = re.search(r"changed shape from (\(.*?\)) in `like` to (\(.*?\)) on disk", text)
    if name and shapes:
        return f"the weights file `{path}` has `{name}` of shape {shapes[2]}, the field has it of shape {shapes[1]}."
    return f"the weights file `{path}` is not of this field{f', at `{name}`' if name else ''}: {text}"
