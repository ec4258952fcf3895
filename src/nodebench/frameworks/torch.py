"""Everything true of torch, once: arrays, models, the prepared gradient step, its counters, and training."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from nodebench.errors import DivergedError, PluginError, UnsupportedError, UserError
from nodebench.frameworks.base import (
    AbstractFramework,
    AbstractGradientStep,
    AbstractTrainer,
    Batch,
    Optimizer,
    Solve,
    Weights,
)
from nodebench.problem import Array, Evaluations, Field, Gradients, Problem, SolverSpec, State
from nodebench.registry import load_class

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def parameters(field: Field) -> list[nn.Parameter]:
    """Parameters of a field that require a gradient; a plain callable has none."""
    return list(named_parameters(field).values())


def named_parameters(field: Field) -> dict[str, nn.Parameter]:
    """The same by dotted name."""
    if not isinstance(field, nn.Module):
        return {}
    return {name: p for name, p in field.named_parameters() if p.requires_grad}


def impure_reason(field: Field) -> str | None:
    """Why a field cannot be differentiated rightly, in one sentence, or None.

    Batch normalisation changes its running statistics at every evaluation, dropout draws anew: a solver evaluates the
    field as often as it likes, and the backward pass would see another field than the forward pass.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # noqa: SLF001  the only common bases
    modules = field.modules() if isinstance(field, nn.Module) else ()
    for module in modules:
        if isinstance(module, kinds):
            return (
                f"the field contains {type(module).__name__}, which differs from one evaluation to the next, so that "
                "its solution and gradient mean nothing; use a layer without such a state, for example GroupNorm."
            )
    return None


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Give every parameter its weight.

    Raises:
        PluginError: If names or shapes are not those of the model.
    """
    own = dict(model.named_parameters())
    if own.keys() != weights.keys():
        missing, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
        raise PluginError(f"weights of `{type(model).__name__}`: missing {missing}, unknown {surplus}.")
    for name, parameter in own.items():
        value = np.asarray(weights[name])
        if tuple(parameter.shape) != value.shape:
            raise PluginError(f"weight `{name}` must have shape {tuple(parameter.shape)}; got {value.shape}.")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


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

    def __init__(self, device: str, dtype: str, threads: int) -> None:
        if device not in ("cpu", "cuda"):
            raise UserError(f"`device` must be 'cpu' or 'cuda'; got {device!r}.")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("`device` is 'cuda', but torch finds no CUDA device here; use 'cpu'.")
        if dtype not in DTYPES:
            raise UserError(f"`dtype` must be 'float32' or 'float64'; got {dtype!r}.")
        torch.set_num_threads(threads)
        # TF32 rounds the factors of float32 products to 10 bits: an error that tolerances below 1e-3 can see.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._device, self._dtype = torch.device(device), DTYPES[dtype]

    def arrays(self, batch: Batch) -> Mapping[str, Tensor]:
        """Move a batch to the device; see `AbstractFramework.arrays`."""
        return {name: self._array(name, np.asarray(value)) for name, value in batch.items()}

    def _array(self, name: str, value: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.array(value))
        if not tensor.is_floating_point():
            return tensor.to(self._device)
        return tensor.to(self._device, torch.float64 if name == "times" else self._dtype)

    def build(
        self, target: str, options: Mapping[str, Any], weights: Weights, solve: Callable[..., State] | None
    ) -> nn.Module:
        """Make a model with these weights; see `AbstractFramework.build`."""
        cls = load_class(target)
        model = cls(**options) if solve is None else cls(solve=solve, **options)
        if not isinstance(model, nn.Module):
            raise PluginError(f"`{target}` must be a `torch.nn.Module`; it made {type(model).__name__}.")
        model.to(self._device, self._dtype)
        load_weights(model, weights)
        return model

    def n_params(self, model: nn.Module) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    def problem(self, model: Any, batch: Batch) -> Problem:
        """The model's gradient problem on a batch."""
        problem: Problem = model.problem(self.arrays(batch))
        return problem

    def evaluate(self, problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
        """The problem's field on flat NumPy states."""
        example = _parts(problem.y0)
        sizes = [part.numel() for part in example]

        def field(t: float, y: np.ndarray) -> np.ndarray:
            flat = torch.from_numpy(np.array(y)).to(example[0].device, example[0].dtype)
            parts = tuple(p.view(e.shape) for p, e in zip(flat.split(sizes), example, strict=True))
            with torch.no_grad():
                return self.flat_state(problem.field(t, parts if isinstance(problem.y0, tuple) else parts[0]))

        return field

    def flat_state(self, state: State) -> np.ndarray:
        """A state as one flat float64 NumPy array."""
        flat = torch.cat([part.detach().reshape(-1) for part in _parts(state)])
        array: np.ndarray = flat.to("cpu", torch.float64).numpy()
        return array

    def gradient_step(self, solve: Solve, problem: Problem, spec: SolverSpec) -> "GradientStep":
        """Prepare one gradient step.

        Raises:
            UnsupportedError: If the field contains batch normalisation or dropout.
        """
        reason = impure_reason(problem.field)
        if reason is not None:
            raise UnsupportedError(reason)
        return GradientStep(solve, problem, spec)

    def trainer(self, model: nn.Module, optimizer: Optimizer, total_steps: int) -> "Trainer":
        """A trainer of the model's `loss(arrays)`."""
        return Trainer(self, model, optimizer, total_steps)

    def to_numpy(self, gradients: Gradients) -> Gradients:
        """The same gradients as NumPy arrays."""
        y0 = tuple(_numpy(part) for part in _parts(gradients.y0))
        return Gradients(
            loss=_numpy(gradients.loss),
            y0=y0 if isinstance(gradients.y0, tuple) else y0[0],
            params={name: _numpy(value) for name, value in gradients.params.items()},
            times=None if gradients.times is None else _numpy(gradients.times),
        )

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


def _parts(state: State) -> tuple[Tensor, ...]:
    return tuple(state) if isinstance(state, tuple) else (state,)


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


@dataclass(frozen=True)
class Pending:
    """A loss with its graph, and the leaves it is to be differentiated by."""

    loss: Tensor
    y0: tuple[Tensor, ...]
    times: Tensor


class GradientStep(AbstractGradientStep):
    """One gradient step in torch: solve, loss, `torch.autograd.grad`.

    Args:
        solve: A backend's `solve`.
        problem: What is differentiated.
        spec: How it is solved.
    """

    def __init__(self, solve: Solve, problem: Problem, spec: SolverSpec) -> None:
        self._solve, self._problem, self._spec = solve, problem, spec
        self._names = named_parameters(problem.field)
        self._params = tuple(self._names.values())
        self._y0 = tuple(part.detach().clone() for part in _parts(problem.y0))
        self._times = problem.times.detach().clone()

    def step(self) -> Gradients:
        """Loss and all gradients."""
        return self.backward(self.forward())

    def forward(self) -> Pending:
        """Solve and loss, with the graph that `backward` reads."""
        return self._forward(self._problem.field)

    def _forward(self, field: Field) -> Pending:
        y0 = tuple(part.detach().requires_grad_() for part in self._y0)
        times = self._times.detach().requires_grad_(self._problem.differentiate_times)
        state: State = y0 if isinstance(self._problem.y0, tuple) else y0[0]
        pending = Pending(self._problem.loss(self._solve(field, state, times, self._spec)), y0, times)
        self._synchronize()
        return pending

    def backward(self, state: Pending) -> Gradients:
        """Gradients from what `forward` returned; zeros for what the loss does not depend on."""
        inputs: tuple[Tensor, ...] = (*state.y0, *self._params)
        if self._problem.differentiate_times:
            inputs = (*inputs, state.times)
        found = torch.autograd.grad(state.loss, inputs, allow_unused=True)
        values = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
        n = len(state.y0)
        y0 = tuple(values[:n])
        gradients = Gradients(
            loss=state.loss.detach(),
            y0=y0 if isinstance(self._problem.y0, tuple) else y0[0],
            params=dict(zip(self._names, values[n : n + len(self._names)], strict=True)),
            times=values[-1] if self._problem.differentiate_times else None,
        )
        self._synchronize()
        return gradients

    def evaluations(self) -> Evaluations:
        """Count evaluations on entry to the field and VJPs on return through its outputs."""
        counter = CountingField(self._problem.field)
        pending = self._forward(counter)
        forward = counter.n_evaluations
        self.backward(pending)
        return Evaluations(forward, counter.n_evaluations - forward, counter.n_vjps)

    def saved_bytes(self) -> int | None:
        """Bytes that stay saved for the backward pass after the forward pass, each storage once, without parameters."""
        held: WeakSet[_Held] = WeakSet()
        own = {p.untyped_storage().data_ptr() for p in self._params}

        def pack(tensor: Tensor) -> _Held:
            owner = tensor if tensor._base is None else tensor._base  # noqa: SLF001  a transposed weight is a view
            saved = _Held(tensor.detach())  # the tensor itself would make a cycle with the graph that saves it
            if not isinstance(owner, nn.Parameter) and tensor.untyped_storage().data_ptr() not in own:
                held.add(saved)
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
            pending = self.forward()
        # Weak references: what a rejected step saved is gone by now.
        storages = {saved.tensor.untyped_storage().data_ptr(): saved.tensor.untyped_storage() for saved in held}
        total = sum(storage.nbytes() for storage in storages.values())
        del pending
        return total

    def _synchronize(self) -> None:
        if self._times.is_cuda or self._y0[0].is_cuda:
            torch.cuda.synchronize()


class _Held:
    """A saved tensor, able to be referred to weakly."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class CountingField(nn.Module):
    """A field that counts its evaluations and their vector-Jacobian products.

    Args:
        field: The field; its parameters are this module's.

    Attributes:
        n_evaluations: Evaluations so far.
        n_vjps: Vector-Jacobian products so far.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.n_evaluations = 0
        self.n_vjps = 0

    def forward(self, t: Any, y: State) -> State:
        """Evaluate the field."""
        self.n_evaluations += 1
        result = self.field(t, y)
        outputs: tuple[Tensor, ...] = _CountVjp.apply(self, *_parts(result))
        return outputs if isinstance(result, tuple) else outputs[0]


class _CountVjp(torch.autograd.Function):
    """The identity on all outputs of one evaluation; its backward pass counts."""

    @staticmethod
    def forward(ctx: Any, counter: CountingField, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.counter = counter
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *covectors: Tensor) -> Any:
        ctx.counter.n_vjps += 1
        return None, *covectors


class Trainer(AbstractTrainer):
    """A torch model in training.

    Args:
        framework: Moves batches.
        model: The model.
        optimizer: Optimiser and schedule.
        total_steps: Length of the schedule.
    """

    def __init__(self, framework: Torch, model: nn.Module, optimizer: Optimizer, total_steps: int) -> None:
        self._framework, self._model = framework, model
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(self._params, optimizer)
        self._scheduler = make_schedule(self._optimizer, optimizer, total_steps)
        self._clip_norm = optimizer.clip_norm

    def step(self, batch: Batch) -> float:
        """One optimiser step; a loss that is not finite is returned and changes nothing."""
        model: Any = self._model
        model.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss: Tensor = model.loss(self._framework.arrays(batch))
        value = float(loss.item())
        if not np.isfinite(value):
            return value
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self._clip_norm)
        self._optimizer.step()
        self._scheduler.step()
        return value

    def metric(self, batch: Batch) -> np.ndarray:
        """The metric of each example, without gradients."""
        model: Any = self._model
        model.eval()
        with torch.no_grad():
            return _numpy(model.metric(self._framework.arrays(batch)))

    def problem(self, batch: Batch) -> Problem:
        """The gradient problem at the present weights."""
        return self._framework.problem(self._model, batch)

    def save(self, path: Path) -> None:
        """Write weights, optimiser, schedule and random state."""
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, path)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote, to the bit."""
        state = torch.load(path, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])


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
