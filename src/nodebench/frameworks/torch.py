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
from nodebench.frameworks.base import AbstractFramework, Batch, Optimizer, Solve, Weights, seed_globally
from nodebench.frameworks.torch_field import like_state, named_parameters, state_parts, to_array
from nodebench.frameworks.torch_inspection import inspect, remembered, unsteady_layer
from nodebench.frameworks.torch_state import cast, load_constants, load_weights, refuse_complex, whole_state
from nodebench.frameworks.torch_step import GradientStep
from nodebench.frameworks.torch_training import Trainer
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
        # TF32 rounds the factors of float32 products to 10 bits: an error that tolerances below 1e-3 can see.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
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
        problem: Problem = model.problem(self.arrays(batch))
        return problem

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
        """Threads and default dtype as they were."""
        found = []
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
        return GradientStep(solve, problem, spec)

    @override
    def seed(self, seed: int) -> None:
        """Seed torch's generators, those of its devices too, and all that are global."""
        seed_globally(seed)
        torch.manual_seed(seed)

    @override
    def trainer(self, model: nn.Module, optimizer: Optimizer, total_steps: int) -> Trainer:
        return Trainer(self.arrays, model, optimizer, total_steps)

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
