"""Training of torch models: step, optimiser, schedule, and a continuation to the bit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.frameworks.base import AbstractTrainer, Batch, Optimizer
from nodebench.frameworks.torch_field import to_array
from nodebench.problem import Problem


class Trainer(AbstractTrainer):
    """A torch model in training.

    Args:
        arrays: Moves a batch to the device.
        model: The model.
        optimizer: Optimiser and schedule.
        total_steps: Length of the schedule.
    """

    def __init__(
        self, arrays: Callable[[Batch], Any], model: nn.Module, optimizer: Optimizer, total_steps: int
    ) -> None:
        self._arrays, self._model = arrays, model
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(self._params, optimizer)
        self._scheduler = make_schedule(self._optimizer, optimizer, total_steps)
        self._clip_norm = optimizer.clip_norm
        # A model may have layers that it never trains: `train()` would switch them, too.
        self._modes = {module: module.training for module in model.modules()}

    @override
    def step(self, batch: Batch) -> float:
        """One optimiser step; a loss that is not finite is returned and changes nothing."""
        model: Any = self._model
        for module, mode in self._modes.items():
            module.training = mode
        self._optimizer.zero_grad(set_to_none=True)
        loss: Tensor = model.loss(self._arrays(batch))
        value = float(loss.item())
        if not np.isfinite(value):
            return value
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self._clip_norm)
        self._optimizer.step()
        self._scheduler.step()
        return value

    @override
    def metric(self, batch: Batch) -> np.ndarray:
        model: Any = self._model
        model.eval()
        with torch.no_grad():
            return to_array(model.metric(self._arrays(batch)))

    @override
    def view(self, method: str, batch: Batch) -> Mapping[str, np.ndarray]:
        model: Any = self._model
        model.eval()
        with torch.no_grad():
            return {name: to_array(value) for name, value in getattr(model, method)(self._arrays(batch)).items()}

    @override
    def problem(self, batch: Batch) -> Problem:
        model: Any = self._model
        problem: Problem = model.problem(self._arrays(batch))
        return problem

    @override
    def save(self, path: Path) -> None:
        """Write weights, optimiser, schedule and random state."""
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        torch.save(state, path)

    @override
    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote, to the bit."""
        state = torch.load(path, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])
        if state["device_random"] is not None:
            torch.cuda.set_rng_state(state["device_random"])


def make_optimizer(params: list[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """The torch optimiser of these settings.

    Raises:
        UserError: If it has no such name, or no such setting.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(params, lr=rate, momentum=settings.momentum, weight_decay=decay)
    if settings.name == "adam" and decay:
        return torch.optim.AdamW(params, lr=rate, weight_decay=decay)
    if settings.name == "adam":
        return torch.optim.Adam(params, lr=rate)
    if settings.name == "rmsprop" and not decay:
        return torch.optim.RMSprop(params, lr=rate, momentum=settings.momentum)
    raise UserError(f"there is no optimiser {settings.name!r} with weight decay {decay}; use sgd, adam or rmsprop.")


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: Optimizer, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The torch schedule of these settings, stepped once per optimiser step.

    Raises:
        UserError: If it has no such name.
    """
    schedules = torch.optim.lr_scheduler
    if settings.schedule == "constant":
        return schedules.ConstantLR(optimizer, factor=1.0, total_iters=0)
    if settings.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=total_steps)
    if settings.schedule == "one-cycle":
        # One step more than are taken, since the schedule is also stepped after the last one.
        return schedules.OneCycleLR(
            optimizer, settings.learning_rate, total_steps + 1, pct_start=0.3, div_factor=25, cycle_momentum=False
        )
    if settings.schedule == "piecewise":
        milestones = [round(fraction * total_steps) for fraction in settings.milestones]
        return schedules.MultiStepLR(optimizer, milestones)
    raise UserError(f"there is no schedule {settings.schedule!r}; use constant, cosine, one-cycle or piecewise.")
