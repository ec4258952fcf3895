"""JAX with Equinox, Diffrax and Optax: everything true of the framework, once.

What a model's author has to know:

- A model is an `equinox.Module`. Every leaf that `equinox.is_inexact_array` accepts is a parameter; whatever is not to
  be trained is a static field or made where it is used.
- The loss of a `Problem` carries its arrays: `jax.tree_util.Partial(function, *arrays)` with a function at module
  level, or an `equinox.Module` with `__call__`. A closure over arrays would be correct too, but its arrays would become
  constants of the compiled program, so that every new batch or weight would be compiled anew.
- A field is an `equinox.Module`, called as `field(t, y)`, and gives the same value for the same time and state.

What the process must have in its environment before JAX is used: the number of XLA's threads on a CPU and memory
preallocation on a GPU; and before it is imported, `EQX_ON_ERROR=off`. Without the last, diffrax's checks of its
arguments leave calls back to the host in the compiled program, which take half of its compilation.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from nodebench.errors import FieldError, UserError
from nodebench.frameworks.base import (
    AbstractFramework,
    AbstractTrainer,
    Batch,
    GradientStep,
    Optimizer,
    Solve,
    Weights,
    field_name,
)
from nodebench.frameworks.jax.parameters import named_parameters, whole_state, with_arrays, with_weights
from nodebench.frameworks.jax.step import JaxGradientStep
from nodebench.problem import Array, Field, Gradients, Problem, SolverSpec, State
from nodebench.registry import load_class


@eqx.filter_jit
def _vjp(field: Field, t: Array, y: State, along: State) -> tuple[Field, State]:
    trained, others = eqx.partition(field, eqx.is_inexact_array)
    _, pull_back = jax.vjp(lambda trained, y: eqx.combine(trained, others)(t, y), trained, y)
    found: tuple[Field, State] = pull_back(along)
    return found


def _stopped(program: Any) -> set[object]:
    """The inputs of a traced program that it uses, or a program within it does, to stop their gradient."""
    found: set[object] = set()
    for equation in program.eqns:
        if equation.primitive.name == "stop_gradient":
            found.update(equation.invars)
        for inner in (value for value in equation.params.values() if hasattr(value, "jaxpr")):
            within = _stopped(inner.jaxpr)
            outer = zip(inner.jaxpr.invars, equation.invars, strict=False)
            found.update(variable for own, variable in outer if own in within and not hasattr(variable, "val"))
    return found & set(program.invars)


def _time(problem: Problem, t: float) -> Array:
    return jnp.asarray(t, jax.tree.leaves(problem.y0)[0].dtype)


def _state(problem: Problem, flat: np.ndarray) -> State:
    """The state of a problem from its numbers."""
    leaves, structure = jax.tree.flatten(problem.y0)
    parts = np.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
    arrays = [jnp.asarray(part, leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def _shapes(state: State) -> State:
    return jax.tree.map(jnp.shape, state)


class Jax(AbstractFramework):
    """JAX, configured for one process.

    Args:
        device: `"cpu"` or `"cuda"`.
        dtype: `"float32"` or `"float64"`; the second switches JAX to 64 bits, for the whole process.
        threads: Ignored here; XLA reads its number of threads from the environment when it is first used.

    Raises:
        UserError: If the device is not there.
    """

    name: ClassVar[str] = "jax"
    reference_backend: ClassVar[str | None] = "diffrax"
    compiles: ClassVar[bool] = True

    def __init__(self, device: str, dtype: str, threads: int) -> None:
        self._threads = threads
        self._wide = dtype == "float64"
        self.settle()
        try:
            self._device = jax.devices(device)[0]
        except RuntimeError as error:
            raise UserError(f"JAX finds no device '{device}' here: {error}") from error
        jax.config.update("jax_default_device", self._device)
        self._dtype = jnp.dtype(dtype)

    @classmethod
    @override
    def keep_programs(cls, folder: Path) -> None:
        """All of them, however small and quickly compiled."""
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    @override
    def arrays(self, batch: Batch) -> Mapping[str, Array]:
        """Move a batch to the device: floating-point arrays in the configured dtype.

        That includes `times`: JAX knows float64 only where all of it is switched to 64 bits.
        """
        return {name: self._array(value) for name, value in batch.items()}

    def _array(self, value: np.ndarray) -> Array:
        return jnp.asarray(value, self._dtype if np.issubdtype(value.dtype, np.floating) else None)

    @override
    def build(
        self, target: str, options: Mapping[str, Any], weights: Weights, solve: Callable[..., State] | None
    ) -> eqx.Module:
        cls = load_class(target)
        model: eqx.Module = cls(**options) if solve is None else cls(solve=solve, **options)
        self.settle()
        return with_weights(model, weights, self._dtype)

    @override
    def state(self, model: eqx.Module) -> Weights:
        return whole_state(model)

    @override
    def with_constants(self, model: eqx.Module, constants: Weights) -> eqx.Module:
        trained = named_parameters(model)
        return with_arrays(model, {name: jnp.asarray(a) for name, a in constants.items() if name not in trained})

    @override
    def n_params(self, model: eqx.Module) -> int:
        return sum(leaf.size for leaf in named_parameters(model).values())

    @override
    def parameters(self, field: Field) -> Mapping[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in named_parameters(field).items()}

    @override
    def placement(self, problem: Problem) -> Mapping[str, str]:
        """XLA does not tell its threads: they are those that its environment allows it."""
        first = jax.tree.leaves(problem.y0)[0]
        (device,) = first.devices()
        kind = {"gpu": "cuda"}.get(device.platform, device.platform)
        return {"dtype": str(first.dtype), "device": kind, "threads": str(self._threads)}

    @override
    def evaluate(self, problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
        """The problem's field on flat NumPy states, in the state's own dtype and not compiled: what it draws is new."""

        def field(t: float, y: np.ndarray) -> np.ndarray:
            return self.flat_state(problem.field(_time(problem, t), _state(problem, y)))

        return field

    @override
    def inspect(self, problem: Problem) -> None:
        """The field is evaluated as it is, not compiled, so that what it draws is drawn anew."""
        parts = jax.tree.leaves(problem.y0)
        for part in parts:
            if not jnp.issubdtype(part.dtype, jnp.floating):
                raise FieldError(f"the initial state is {part.dtype}; a state is made of real floating-point numbers.")
        if not parts or not all(part.size for part in parts):
            raise FieldError(f"the initial state has the shape {_shapes(problem.y0)}, and no number in it.")
        rate = problem.field(_time(problem, float(problem.times[0])), problem.y0)
        kind = field_name(problem.field)
        structures: list[object] = [jax.tree.structure(state) for state in (rate, problem.y0)]
        if structures[0] != structures[1] or _shapes(rate) != _shapes(problem.y0):
            raise FieldError(
                f"the field `{kind}` returned the shape {_shapes(rate)} for a state of shape {_shapes(problem.y0)}; a "
                "rate has the structure and shape of its state."
            )
        for part, own in zip(jax.tree.leaves(rate), parts, strict=True):
            if jnp.result_type(part) != own.dtype:
                raise FieldError(
                    f"the field `{kind}` returned {jnp.result_type(part)} for a state in {own.dtype}; make what it "
                    "creates like the state: `jnp.zeros_like(y)`, or `dtype=y.dtype`."
                )

    @override
    def vjp(self, problem: Problem, t: float, y: np.ndarray, covector: np.ndarray) -> tuple[np.ndarray, Weights]:
        state, along = _state(problem, y), _state(problem, covector)
        by_field, by_state = _vjp(problem.field, _time(problem, t), state, along)
        return self.flat_state(by_state), self.parameters(by_field)

    @override
    def loss(self, problem: Problem, states: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        leaves, structure = jax.tree.flatten(problem.y0)
        parts = np.split(states, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
        arrays = [
            jnp.asarray(part, leaf.dtype).reshape(len(states), *leaf.shape)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        ys = jax.tree.unflatten(structure, arrays)
        value, pull_back = jax.vjp(problem.loss, ys)
        if np.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return np.asarray(value), None
        slopes = jax.tree.leaves(pull_back(jnp.ones_like(value))[0])
        return np.asarray(value), np.concatenate([np.reshape(each, (len(states), -1)) for each in slopes], axis=1)

    @contextmanager
    @override
    def moved(self, problem: Problem, y0: np.ndarray, params: Weights) -> Iterator[Problem]:
        given = {**self.parameters(problem.field), **params}
        field = with_weights(problem.field, given, self._dtype)
        yield replace(problem, field=field, y0=_state(problem, y0))

    @override
    def frozen(self, problem: Problem) -> frozenset[str]:
        """Those that the field hands to `jax.lax.stop_gradient`, as users of Equinox freeze a parameter."""
        trained, others = eqx.partition(problem.field, eqx.is_inexact_array)
        leaves, structure = jax.tree.flatten(trained)
        t = _time(problem, float(problem.times[0]))

        def rate(leaves: list[Array]) -> State:
            return eqx.combine(jax.tree.unflatten(structure, leaves), others)(t, problem.y0)

        program = jax.make_jaxpr(rate)(leaves).jaxpr
        stopped = _stopped(program)
        names = zip(named_parameters(problem.field), program.invars, strict=True)
        return frozenset(name for name, variable in names if variable in stopped)

    @override
    def settle(self) -> list[str]:
        """64 bits where they were asked for alone, and whole products.

        Tensor cores round to ten bits of mantissa unless told otherwise, which alone can raise the number of steps.
        """
        found = []
        for name, value in (("jax_enable_x64", self._wide), ("jax_default_matmul_precision", "highest")):
            if (given := getattr(jax.config, name)) != value:
                found.append(f"jax.config.update('{name}', {given!r})")
                jax.config.update(name, value)
        return found

    @override
    def flat_state(self, state: State) -> np.ndarray:
        """A state as one flat float64 NumPy array, the leaves of a tuple one after another."""
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(state)])

    @override
    def gradient_step(self, solve: Solve, problem: Problem, spec: SolverSpec) -> GradientStep:
        """Prepare one gradient step; the first call of `step` compiles, unless an equal program has been compiled.

        `solve` must be hashable: a method of a frozen dataclass is.
        """
        work = JaxGradientStep(solve, problem, spec)
        return GradientStep(
            step=work.step,
            forward=work.forward,
            backward=work.backward,
            solution=work.solution,
            forward_evaluations=work.forward_evaluations,
            evaluations=work.evaluations,
            saved_bytes=work.saved_bytes,
            field_calls=work.field_calls,
        )

    @override
    def trainer(self, model: eqx.Module, optimizer: Optimizer, total_steps: int) -> AbstractTrainer:
        return JaxTrainer(model, optimizer, total_steps, self.arrays)

    @override
    def to_numpy(self, gradients: Gradients) -> Gradients:
        return Gradients(
            loss=np.asarray(gradients.loss),
            y0=jax.tree.map(np.asarray, gradients.y0),
            params={name: np.asarray(value) for name, value in gradients.params.items()},
            times=None if gradients.times is None else np.asarray(gradients.times),
        )

    @override
    def peak_device_bytes(self, call: Callable[[], object]) -> int | None:
        """Peak of the device allocator above what is held before the call; None on a CPU.

        JAX cannot reset the peak, so it is the peak of the process so far: measure before anything larger has run.
        """
        before = self._device.memory_stats()
        jax.block_until_ready(call())
        after = self._device.memory_stats()
        if before is None or after is None:
            return None
        return int(after["peak_bytes_in_use"] - before["bytes_in_use"])


Schedule = Callable[[Array], Array]


def schedule(optimizer: Optimizer, total_steps: int) -> Schedule:
    """Learning rate by step, the same numbers as torch's schedulers give.

    Raises:
        UserError: If there is no such schedule.
    """
    peak = optimizer.learning_rate
    schedules: Mapping[str, Callable[[], Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, total_steps),
        "one-cycle": lambda: _one_cycle(peak, total_steps),
        "piecewise": lambda: optax.piecewise_constant_schedule(
            peak, {round(milestone * total_steps): 0.1 for milestone in optimizer.milestones}
        ),
    }
    if optimizer.schedule not in schedules:
        raise UserError(f"`schedule` must be one of {', '.join(schedules)}; got {optimizer.schedule!r}.")
    return schedules[optimizer.schedule]()


def _one_cycle(peak: float, total_steps: int) -> Schedule:
    """The one-cycle policy as `torch.optim.lr_scheduler.OneCycleLR` has it for one step more than are taken.

    Optax's own has its turning point at another step.
    """
    start, end = peak / 25.0, peak / 25.0 / 1e4
    turn = 0.3 * (total_steps + 1) - 1.0

    def learning_rate(step: Array) -> Array:
        rising = jnp.clip(step / turn if turn > 0 else 1.0, 0.0, 1.0)
        falling = jnp.clip((step - turn) / (total_steps - turn), 0.0, 1.0)
        return jnp.where(step <= turn, _anneal(start, peak, rising), _anneal(peak, end, falling))

    return learning_rate


def _anneal(start: float, end: float, fraction: Array) -> Array:
    return end + (start - end) * (1.0 + jnp.cos(jnp.pi * fraction)) / 2.0


def transformation(optimizer: Optimizer, total_steps: int) -> optax.GradientTransformation:
    """The Optax transformation of an optimiser, with the update rules and constants of `torch.optim`.

    Raises:
        UserError: If there is no such optimiser or schedule.
    """
    decay = [optax.add_decayed_weights(optimizer.weight_decay)] if optimizer.weight_decay else []
    momentum = [optax.trace(optimizer.momentum)] if optimizer.momentum else []
    rules = {
        "sgd": [*decay, *momentum],
        "adam": [optax.scale_by_adam(), *decay],
        # `optax.rmsprop` scales by the learning rate before the momentum and adds epsilon under the root, unlike torch.
        "rmsprop": [optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False), *momentum],
    }
    if optimizer.name not in rules:
        raise UserError(f"`name` of an optimiser must be one of {', '.join(rules)}; got {optimizer.name!r}.")
    if optimizer.name == "rmsprop" and decay:
        raise UserError("`rmsprop` takes no weight decay; use sgd or adam.")
    clip = [] if optimizer.clip_norm is None else [optax.clip_by_global_norm(optimizer.clip_norm)]
    learning_rate = schedule(optimizer, total_steps)
    return optax.chain(*clip, *rules[optimizer.name], optax.scale_by_learning_rate(learning_rate))


def _loss(model: Any, batch: Mapping[str, Array]) -> Array:
    return model.loss(batch)


_loss_and_gradient: Callable[..., tuple[Array, Any]] = eqx.filter_value_and_grad(_loss)


@eqx.filter_jit
def _update(
    model: Any, state: optax.OptState, batch: Mapping[str, Array], rule: optax.GradientTransformation
) -> tuple[Any, optax.OptState, Array]:
    loss, gradient = _loss_and_gradient(model, batch)
    updates, state = rule.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, loss


@eqx.filter_jit
def _metric(model: Any, batch: Mapping[str, Array]) -> Array:
    return model.metric(batch)


@eqx.filter_jit
def _view(model: Any, method: str, batch: Mapping[str, Array]) -> Mapping[str, Array]:
    found: Mapping[str, Array] = getattr(model, method)(batch)
    return found


class JaxTrainer(AbstractTrainer):
    """A model in training with Optax.

    Args:
        model: The model, an Equinox module.
        optimizer: Optimiser and schedule.
        total_steps: Steps of the schedule.
        arrays: `AbstractFramework.arrays`.
    """

    def __init__(
        self, model: Any, optimizer: Optimizer, total_steps: int, arrays: Callable[[Batch], Mapping[str, Array]]
    ) -> None:
        self.model = model
        self._arrays = arrays
        self._rule = transformation(optimizer, total_steps)
        self._state = self._rule.init(eqx.filter(model, eqx.is_inexact_array))

    @override
    def step(self, batch: Batch) -> float:
        """One optimiser step; returns the loss before it, when the device has finished."""
        self.model, self._state, loss = _update(self.model, self._state, self._arrays(batch), self._rule)
        return float(loss)

    @override
    def metric(self, batch: Batch) -> np.ndarray:
        return np.asarray(_metric(self.model, self._arrays(batch)), np.float64)

    @override
    def view(self, method: str, batch: Batch) -> Mapping[str, np.ndarray]:
        """What a method of the model returns; compiled anew for each shape of a batch."""
        found: Mapping[str, Array] = _view(self.model, method, self._arrays(batch))
        return {name: np.asarray(value, np.float64) for name, value in found.items()}

    @override
    def problem(self, batch: Batch) -> Problem:
        problem: Problem = self.model.problem(self._arrays(batch))
        return problem

    @override
    def save(self, path: Path) -> None:
        """Write weights and optimiser state, the step count of the schedule among it; bit-exact.

        The file appears whole or not at all.
        """
        unfinished = path.with_name(f"{path.name}.unfinished")
        with unfinished.open("wb") as file:
            eqx.tree_serialise_leaves(file, (self.model, self._state))
        unfinished.replace(path)

    @override
    def restore(self, path: Path) -> None:
        with path.open("rb") as file:
            self.model, self._state = eqx.tree_deserialise_leaves(file, (self.model, self._state))
