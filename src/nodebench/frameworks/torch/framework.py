"""torch as a framework: arrays in and out, models with given weights, the prepared gradient step, a trainer."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.fx.experimental.symbolic_shapes  # half a second that torch's first gradient would take, in each worker
from torch import Tensor, nn
from typing_extensions import override

from nodebench.errors import PluginError, UserError
from nodebench.frameworks.base import (
    AbstractFramework,
    AbstractTrainer,
    Batch,
    GradientStep,
    Optimizer,
    Solve,
    Weights,
    seed_globally,
)
from nodebench.frameworks.torch.field import (
    cast,
    layout,
    like_state,
    load_constants,
    load_weights,
    named_parameters,
    refuse_complex,
    state_parts,
    to_array,
    whole_state,
)
from nodebench.frameworks.torch.inspection import inspect, remembered, unsteady_layer
from nodebench.frameworks.torch.step import TorchGradientStep
from nodebench.problem import Field, Gradients, Problem, SolverSpec, State
from nodebench.registry import load_class

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Torch(AbstractFramework):
    """torch, configured for one process.

    Args:
        device: `"cpu"` or `"cuda"`.
        dtype: `"float32"` or `"float64"`.
        threads: Threads of one operator.

    Raises:
        UserError: If the device is not there or the dtype unknown.
    """

    name: ClassVar[str] = "torch"
    reference_backend: ClassVar[str | None] = "checkpoint"

    def __init__(self, device: str, dtype: str, threads: int) -> None:
        if device not in ("cpu", "cuda"):
            raise UserError(f"`device` must be 'cpu' or 'cuda'; got {device!r}.")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("`device` is 'cuda', but torch finds no CUDA device here; use 'cpu'.")
        if dtype not in DTYPES:
            raise UserError(f"`dtype` must be 'float32' or 'float64'; got {dtype!r}.")
        torch.set_num_threads(threads)
        self._threads = threads
        without_tf32()
        self._device, self._dtype = torch.device(device), DTYPES[dtype]

    @classmethod
    @override
    def keep_programs(cls, folder: Path) -> None:
        """Inductor reads its environment when it is imported."""
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = "1"
        os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "1"

    @override
    def arrays(self, batch: Batch) -> Mapping[str, Tensor]:
        return {name: self._array(name, np.asarray(value)) for name, value in batch.items()}

    def _array(self, name: str, value: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.array(value))
        if not tensor.is_floating_point():
            return tensor.to(self._device)
        return tensor.to(self._device, torch.float64 if name == "times" else self._dtype)

    @override
    def build(
        self, target: str, options: Mapping[str, Any], weights: Weights, solve: Callable[..., State] | None
    ) -> nn.Module:
        cls = load_class(target)
        model = cls(**options) if solve is None else cls(solve=solve, **options)
        if not isinstance(model, nn.Module):
            raise PluginError(f"`{target}` must be a `torch.nn.Module`; it made {type(model).__name__}.")
        refuse_complex(model)
        cast(model, self._device, self._dtype)
        load_weights(model, weights)
        self.settle()
        return model

    @override
    def state(self, model: nn.Module) -> Weights:
        return whole_state(model)

    @override
    def with_constants(self, model: nn.Module, constants: Weights) -> nn.Module:
        """In place."""
        load_constants(model, constants)
        return model

    @override
    def n_params(self, model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    @override
    def problem(self, model: Any, batch: Batch) -> Problem:
        return as_asked(super().problem(model, batch))

    @override
    def parameters(self, field: Field) -> Mapping[str, np.ndarray]:
        return {name: to_array(parameter) for name, parameter in named_parameters(field).items()}

    @override
    def inspect(self, problem: Problem) -> None:
        """What the field depends on is read from its graph."""
        inspect(problem)

    @override
    def vjp(self, problem: Problem, t: float, y: np.ndarray, covector: np.ndarray) -> tuple[np.ndarray, Weights]:
        """Zeros for what the field does not depend on."""
        parameters = named_parameters(problem.field)
        leaves = [part.requires_grad_() for part in self._parts(problem, y)]
        with torch.enable_grad():
            rates = state_parts(problem.field(self._time(problem, t), like_state(leaves, problem.y0)))
        taped = [
            (rate, along)
            for rate, along in zip(rates, self._parts(problem, covector), strict=True)
            if rate.requires_grad
        ]
        inputs = (*leaves, *parameters.values())
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if taped:
            outputs, along = zip(*taped, strict=True)
            found = torch.autograd.grad(outputs, inputs, along, allow_unused=True)
        values = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
        by_params = dict(zip(parameters, map(to_array, values[len(leaves) :]), strict=True))
        return self.flat_state(tuple(values[: len(leaves)])), by_params

    @override
    def loss(self, problem: Problem, states: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A tensor of one number is that number, as it is to `backward`."""
        leaf = torch.from_numpy(np.array(states)).to(self._device, state_parts(problem.y0)[0].dtype).requires_grad_()
        with torch.enable_grad():
            loss = problem.loss(layout(problem.y0).state(leaf))
        if not isinstance(loss, Tensor):
            return np.asarray(loss), None
        value = to_array(loss.reshape(()) if loss.numel() == 1 else loss)
        if value.shape or not loss.requires_grad:
            return value, None
        (slope,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        return value, None if slope is None else to_array(slope)

    @contextmanager
    @override
    def moved(self, problem: Problem, y0: np.ndarray, params: Weights) -> Iterator[Problem]:
        """The parameters themselves are changed and set back."""
        parameters = named_parameters(problem.field)
        before = {name: parameters[name].detach().clone() for name in params}
        with torch.no_grad():
            for name, value in params.items():
                parameters[name].copy_(torch.from_numpy(np.array(value)))
        try:
            yield replace(problem, y0=like_state(self._parts(problem, y0), problem.y0))
        finally:
            with torch.no_grad():
                for name, kept in before.items():
                    parameters[name].copy_(kept)

    @override
    def unsteady(self, one: Problem, other: Problem) -> str:
        return unsteady_layer(one, other)

    @override
    def remembered(self, problem: Problem) -> str:
        return remembered(problem)

    @override
    def settle(self) -> list[str]:
        """Threads, default dtype and products as they were."""
        found = ["TF32"] if without_tf32() else []
        if torch.get_num_threads() != self._threads:
            found.append(f"torch.set_num_threads({torch.get_num_threads()})")
            torch.set_num_threads(self._threads)
        if torch.get_default_dtype() != torch.float32:
            found.append(f"torch.set_default_dtype({torch.get_default_dtype()})")
            torch.set_default_dtype(torch.float32)
        return found

    @override
    def placement(self, problem: Problem) -> Mapping[str, str]:
        first = state_parts(problem.y0)[0]
        dtype = str(first.dtype).removeprefix("torch.")
        return {"dtype": dtype, "device": first.device.type, "threads": str(torch.get_num_threads())}

    @override
    def evaluate(self, problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
        def field(t: float, y: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return self.flat_state(
                    problem.field(self._time(problem, t), like_state(self._parts(problem, y), problem.y0))
                )

        return field

    def _time(self, problem: Problem, t: float) -> Tensor:
        return state_parts(problem.y0)[0].new_full((), t)

    def _parts(self, problem: Problem, flat: np.ndarray) -> list[Tensor]:
        """The parts of a state from its numbers, tensors of their own."""
        example = state_parts(problem.y0)
        tensor = torch.from_numpy(np.array(flat)).to(example[0].device, example[0].dtype)
        pieces = torch.split(tensor, [part.numel() for part in example])
        return [piece.view(part.shape).clone() for piece, part in zip(pieces, example, strict=True)]

    @override
    def flat_state(self, state: State) -> np.ndarray:
        flat = torch.cat([part.detach().reshape(-1) for part in state_parts(state)])
        array: np.ndarray = flat.to("cpu", torch.float64).numpy()
        return array

    @override
    def gradient_step(self, solve: Solve, problem: Problem, spec: SolverSpec) -> GradientStep:
        work = TorchGradientStep(solve, problem, spec)
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
    def seed(self, seed: int) -> None:
        """Seed torch's generators, those of its devices too, and all that are global."""
        seed_globally(seed)
        torch.manual_seed(seed)

    @override
    def trainer(self, model: nn.Module, optimizer: Optimizer, total_steps: int) -> AbstractTrainer:
        return TorchTrainer(self.arrays, model, optimizer, total_steps)

    @override
    def to_numpy(self, gradients: Gradients) -> Gradients:
        y0 = tuple(to_array(part) for part in state_parts(gradients.y0))
        return Gradients(
            loss=to_array(gradients.loss),
            y0=y0 if isinstance(gradients.y0, tuple) else y0[0],
            params={name: to_array(value) for name, value in gradients.params.items()},
            times=None if gradients.times is None else to_array(gradients.times),
        )

    @override
    def peak_device_bytes(self, call: Callable[[], object]) -> int | None:
        """Peak of the CUDA allocator above what is held before the call; None on a CPU."""
        if self._device.type == "cpu":
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class TorchTrainer(AbstractTrainer):
    """A torch model in training.

    Args:
        arrays: Moves a batch to the device.
        model: The model.
        optimizer: Optimiser and schedule.
        total_steps: Length of the schedule.
    """

    def __init__(
        self, arrays: Callable[[Batch], Mapping[str, Tensor]], model: nn.Module, optimizer: Optimizer, total_steps: int
    ) -> None:
        self._arrays = arrays
        self.model = model  # `nn.Module` types attributes as tensors or modules, `loss` among them
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(self._params, optimizer)
        self._scheduler = make_schedule(self._optimizer, optimizer, total_steps)
        self._clip_norm = optimizer.clip_norm
        # A model may have layers that it never trains: `train()` would switch them, too.
        self._modes = {module: module.training for module in model.modules()}

    @override
    def step(self, batch: Batch) -> float:
        """One optimiser step; a loss that is not finite is returned and changes nothing."""
        for module, mode in self._modes.items():
            module.training = mode
        self._optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.model.loss(self._arrays(batch))
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
        self.model.eval()
        with torch.no_grad():
            return to_array(self.model.metric(self._arrays(batch)))

    @override
    def view(self, method: str, batch: Batch) -> Mapping[str, np.ndarray]:
        self.model.eval()
        with torch.no_grad():
            return {name: to_array(value) for name, value in getattr(self.model, method)(self._arrays(batch)).items()}

    @override
    def problem(self, batch: Batch) -> Problem:
        return as_asked(self.model.problem(self._arrays(batch)))

    @override
    def save(self, path: Path) -> None:
        """Write weights, optimiser, schedule and random state."""
        state = {
            "model": self.model.state_dict(),
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
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])
        if state["device_random"] is not None:
            torch.cuda.set_rng_state(state["device_random"])


def without_tf32() -> bool:
    """Switch TF32 off, and say whether it was on.

    It rounds the factors of float32 products to 10 bits: an error that tolerances below 1e-3 can see.
    """
    backends: Any = torch.backends
    try:
        was_on = bool(backends.cuda.matmul.allow_tf32 or backends.cudnn.allow_tf32)
    except RuntimeError:
        # By the names that torch has since 2.9, after which it does not tell by the older ones.
        was_on = True
        for part in (backends, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn):
            part.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    return was_on


def as_asked(problem: Problem) -> Problem:
    """A problem that says itself whether its times are differentiated: they are where they require a gradient."""
    if not (isinstance(problem.times, Tensor) and problem.times.requires_grad):
        return problem
    return replace(problem, times=problem.times.detach(), differentiate_times=True)


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
