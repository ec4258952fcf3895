"""JAX with Equinox, Diffrax and Optax: everything true of the framework, once.

What a model's author has to know:

- A model is an `equinox.Module`. Every leaf that `equinox.is_inexact_array` accepts is a parameter; whatever is not to
  be trained is a static field or made where it is used.
- The loss of a `Problem` carries its arrays: `jax.tree_util.Partial(function, *arrays)` with a function at module
  level, or an `equinox.Module` with `__call__`. A closure over arrays would be correct too, but its arrays would become
  constants of the compiled program, so that every new batch or weight would be compiled anew.
- A field is an `equinox.Module`, called as `field(t, y)`, and holds neither batch normalisation nor dropout.

What the process must have in its environment before JAX is imported, since JAX reads it then: the number of XLA's
threads on a CPU, memory preallocation on a GPU, and `EQX_ON_ERROR=off`. Without the last, diffrax's checks of its
arguments leave calls back to the host in the compiled program, which take half of its compilation.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nodebench.errors import UserError
from nodebench.frameworks.base import AbstractFramework, Batch, Optimizer, Solve, Weights
from nodebench.frameworks.jax_parameters import named_parameters, refuse_layers_with_state, with_weights
from nodebench.frameworks.jax_step import JaxGradientStep
from nodebench.frameworks.jax_training import JaxTrainer
from nodebench.problem import Array, Field, Gradients, Problem, SolverSpec, State
from nodebench.registry import load_class


@eqx.filter_jit
def _evaluate(field: Field, t: Array, y: State) -> State:
    return field(t, y)


class Jax(AbstractFramework):
    """JAX, configured for one process.

    Args:
        device: `"cpu"` or `"cuda"`.
        dtype: `"float32"` or `"float64"`; the second switches JAX to 64 bits, for the whole process.
        threads: Ignored here; XLA reads its number of threads from the environment, before this module is imported.

    Raises:
        UserError: If the device is not there.
    """

    name: ClassVar[str] = "jax"
    reference_backend: ClassVar[str | None] = "diffrax"
    compiles: ClassVar[bool] = True

    def __init__(self, device: str, dtype: str, threads: int) -> None:
        self._threads = threads
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)  # noqa: FBT003  the signature is JAX's
        # Tensor cores round to ten bits of mantissa unless told otherwise, which alone can raise the number of steps.
        jax.config.update("jax_default_matmul_precision", "highest")
        try:
            self._device = jax.devices(device)[0]
        except RuntimeError as error:
            raise UserError(f"JAX finds no device '{device}' here: {error}") from error
        jax.config.update("jax_default_device", self._device)
        self._dtype = jnp.dtype(dtype)

    def arrays(self, batch: Batch) -> Mapping[str, Array]:
        """Move a batch to the device: floating-point arrays in the configured dtype.

        That includes `times`: JAX knows float64 only where all of it is switched to 64 bits.
        """
        return {name: self._array(value) for name, value in batch.items()}

    def _array(self, value: np.ndarray) -> Array:
        return jnp.asarray(value, self._dtype if np.issubdtype(value.dtype, np.floating) else None)

    def build(
        self, target: str, options: Mapping[str, Any], weights: Weights, solve: Callable[..., State] | None
    ) -> Any:
        """Make the model `module:Class(**options)` with these weights; see the base class."""
        cls = load_class(target)
        model = cls(**options) if solve is None else cls(solve=solve, **options)
        return with_weights(model, weights, self._dtype)

    def n_params(self, model: Any) -> int:
        """Number of trainable parameters."""
        return sum(leaf.size for leaf in named_parameters(model).values())

    def problem(self, model: Any, batch: Batch) -> Problem:
        """The model's gradient problem on a batch.

        Raises:
            UnsupportedError: If the field holds batch normalisation or dropout.
        """
        problem: Problem = model.problem(self.arrays(batch))
        refuse_layers_with_state(problem.field)
        return problem

    def parameters(self, field: Field) -> Mapping[str, np.ndarray]:
        """The field's parameters by dotted name."""
        return {name: np.asarray(value) for name, value in named_parameters(field).items()}

    def placement(self, problem: Problem) -> Mapping[str, str]:
        """See the base class. XLA does not tell its threads: they are those that its environment allows it."""
        first = jax.tree.leaves(problem.y0)[0]
        (device,) = first.devices()
        kind = {"gpu": "cuda"}.get(device.platform, device.platform)
        return {"dtype": str(first.dtype), "device": kind, "threads": str(self._threads)}

    def evaluate(self, problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
        """The problem's field on flat NumPy states, computed in the state's own dtype."""
        leaves, structure = jax.tree.flatten(problem.y0)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

        def field(t: float, y: np.ndarray) -> np.ndarray:
            parts = np.split(y, ends)
            arrays = [
                jnp.asarray(part, leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
            ]
            state = jax.tree.unflatten(structure, arrays)
            return self.flat_state(_evaluate(problem.field, jnp.asarray(t, leaves[0].dtype), state))

        return field

    def flat_state(self, state: State) -> np.ndarray:
        """A state as one flat float64 NumPy array, the leaves of a tuple one after another."""
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(state)])

    def gradient_step(self, solve: Solve, problem: Problem, spec: SolverSpec) -> JaxGradientStep:
        """Prepare one gradient step; the first call of `step` compiles, unless an equal program has been compiled.

        `solve` must be hashable: a method of a frozen dataclass is.

        Raises:
            UnsupportedError: If the field holds batch normalisation or dropout.
        """
        refuse_layers_with_state(problem.field)
        return JaxGradientStep(solve, problem, spec)

    def trainer(self, model: Any, optimizer: Optimizer, total_steps: int) -> JaxTrainer:
        """A trainer with Optax; see the base class."""
        return JaxTrainer(model, optimizer, total_steps, self.arrays)

    def to_numpy(self, gradients: Gradients) -> Gradients:
        """The same gradients as NumPy arrays."""
        return Gradients(
            loss=np.asarray(gradients.loss),
            y0=jax.tree.map(np.asarray, gradients.y0),
            params={name: np.asarray(value) for name, value in gradients.params.items()},
            times=None if gradients.times is None else np.asarray(gradients.times),
        )

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
