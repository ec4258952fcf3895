"""torch as a framework: arrays in and out, models with given weights, the prepared gradient step, a trainer."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nodebench.errors import PluginError, UnsupportedError, UserError
from nodebench.frameworks.base import AbstractFramework, Batch, Optimizer, Solve, Weights
from nodebench.frameworks.torch_field import impure_reason, named_parameters, state_parts, to_array
from nodebench.frameworks.torch_step import GradientStep
from nodebench.frameworks.torch_training import Trainer
from nodebench.problem import Field, Gradients, Problem, SolverSpec, State
from nodebench.registry import load_class

DTYPES = {"float32": torch.float32, "float64": torch.float64}


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
    reference_backend: ClassVar[str | None] = "checkpoint"

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

    def parameters(self, field: Field) -> Mapping[str, np.ndarray]:
        """The field's parameters by dotted name."""
        return {name: to_array(parameter) for name, parameter in named_parameters(field).items()}

    def placement(self, problem: Problem) -> Mapping[str, str]:
        """See `AbstractFramework.placement`."""
        first = state_parts(problem.y0)[0]
        dtype = str(first.dtype).removeprefix("torch.")
        return {"dtype": dtype, "device": first.device.type, "threads": str(torch.get_num_threads())}

    def evaluate(self, problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
        """The problem's field on flat NumPy states."""
        example = state_parts(problem.y0)
        sizes = [part.numel() for part in example]

        def field(t: float, y: np.ndarray) -> np.ndarray:
            flat = torch.from_numpy(np.array(y)).to(example[0].device, example[0].dtype)
            parts = tuple(p.view(e.shape) for p, e in zip(torch.split(flat, sizes), example, strict=True))
            with torch.no_grad():
                time = example[0].new_full((), t)
                return self.flat_state(problem.field(time, parts if isinstance(problem.y0, tuple) else parts[0]))

        return field

    def flat_state(self, state: State) -> np.ndarray:
        """A state as one flat float64 NumPy array."""
        flat = torch.cat([part.detach().reshape(-1) for part in state_parts(state)])
        array: np.ndarray = flat.to("cpu", torch.float64).numpy()
        return array

    def gradient_step(self, solve: Solve, problem: Problem, spec: SolverSpec) -> GradientStep:
        """Prepare one gradient step.

        Raises:
            UnsupportedError: If the field contains batch normalisation or dropout.
        """
        reason = impure_reason(problem.field)
        if reason is not None:
            raise UnsupportedError(reason)
        return GradientStep(solve, problem, spec)

    def seed(self, seed: int) -> None:
        """Seed torch's generators, those of its devices too."""
        torch.manual_seed(seed)

    def trainer(self, model: nn.Module, optimizer: Optimizer, total_steps: int) -> Trainer:
        """A trainer of the model's `loss(arrays)`."""
        return Trainer(self.arrays, model, optimizer, total_steps)

    def to_numpy(self, gradients: Gradients) -> Gradients:
        """The same gradients as NumPy arrays."""
        y0 = tuple(to_array(part) for part in state_parts(gradients.y0))
        return Gradients(
            loss=to_array(gradients.loss),
            y0=y0 if isinstance(gradients.y0, tuple) else y0[0],
            params={name: to_array(value) for name, value in gradients.params.items()},
            times=None if gradients.times is None else to_array(gradients.times),
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
