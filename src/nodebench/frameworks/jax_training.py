"""Training in JAX with Optax."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.frameworks.base import AbstractTrainer, Batch, Optimizer
from nodebench.problem import Array, Problem

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
    rules = {"sgd": _sgd, "adam": _adam, "rmsprop": _rmsprop}
    if optimizer.name not in rules:
        raise UserError(f"`name` of an optimiser must be one of {', '.join(rules)}; got {optimizer.name!r}.")
    clip = [] if optimizer.clip_norm is None else [optax.clip_by_global_norm(optimizer.clip_norm)]
    learning_rate = schedule(optimizer, total_steps)
    return optax.chain(*clip, *rules[optimizer.name](optimizer), optax.scale_by_learning_rate(learning_rate))


def _decay(optimizer: Optimizer) -> list[optax.GradientTransformation]:
    return [optax.add_decayed_weights(optimizer.weight_decay)] if optimizer.weight_decay else []


def _momentum(optimizer: Optimizer) -> list[optax.GradientTransformation]:
    return [optax.trace(optimizer.momentum)] if optimizer.momentum else []


def _sgd(optimizer: Optimizer) -> list[optax.GradientTransformation]:
    return [*_decay(optimizer), *_momentum(optimizer)]


def _adam(optimizer: Optimizer) -> list[optax.GradientTransformation]:
    return [optax.scale_by_adam(), *_decay(optimizer)]


def _rmsprop(optimizer: Optimizer) -> list[optax.GradientTransformation]:
    if optimizer.weight_decay:
        raise UserError("`rmsprop` takes no weight decay; use sgd or adam.")
    # `optax.rmsprop` scales by the learning rate before the momentum and adds epsilon under the root, unlike torch.
    return [optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False), *_momentum(optimizer)]


def _loss(model: Any, batch: Mapping[str, Array]) -> Array:
    return model.loss(batch)


_loss_and_gradient: Callable[..., tuple[Array, Any]] = eqx.filter_value_and_grad(_loss)


@eqx.filter_jit
def _update(
    model: Any, state: Any, batch: Mapping[str, Array], rule: optax.GradientTransformation
) -> tuple[Any, Any, Array]:
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
        self._model = model
        self._arrays = arrays
        self._rule = transformation(optimizer, total_steps)
        self._state = self._rule.init(eqx.filter(model, eqx.is_inexact_array))

    @override
    def step(self, batch: Batch) -> float:
        """One optimiser step; returns the loss before it, when the device has finished."""
        self._model, self._state, loss = _update(self._model, self._state, self._arrays(batch), self._rule)
        return float(loss)

    @override
    def metric(self, batch: Batch) -> np.ndarray:
        return np.asarray(_metric(self._model, self._arrays(batch)), np.float64)

    @override
    def view(self, method: str, batch: Batch) -> Mapping[str, np.ndarray]:
        """What a method of the model returns; compiled anew for each shape of a batch."""
        found: Mapping[str, Array] = _view(self._model, method, self._arrays(batch))
        return {name: np.asarray(value, np.float64) for name, value in found.items()}

    @override
    def problem(self, batch: Batch) -> Problem:
        problem: Problem = self._model.problem(self._arrays(batch))
        return problem

    @override
    def save(self, path: Path) -> None:
        """Write weights and optimiser state, the step count of the schedule among it; bit-exact.

        The file appears whole or not at all.
        """
        unfinished = path.with_name(f"{path.name}.unfinished")
        with unfinished.open("wb") as file:
            eqx.tree_serialise_leaves(file, (self._model, self._state))
        unfinished.replace(path)

    @override
    def restore(self, path: Path) -> None:
        with path.open("rb") as file:
            self._model, self._state = eqx.tree_deserialise_leaves(file, (self._model, self._state))
