"""The interface of an array framework.

A framework knows how arrays go in and out, how a model of a task is built, how one gradient step is prepared, counted
and awaited, and how a model is trained. It knows no gradient method: it is handed a backend's `solve`.
"""

import importlib
import importlib.util
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nodebench.errors import NotInstalledError, PluginError, UnknownNameError
from nodebench.problem import Array, Evaluations, Field, Gradients, Problem, SolverSpec, State

Batch = Mapping[str, np.ndarray]
"""Named NumPy arrays. In the splits of a task the first axis of each is the example."""

Weights = Mapping[str, np.ndarray]
"""NumPy weights by dotted name, the same names in every framework."""

Solve = Callable[[Field, State, Array, SolverSpec], State]
"""`AbstractBackend.solve`."""

FRAMEWORKS: Mapping[str, str] = {
    "torch": "nodebench.frameworks.torch.framework:Torch",
    "jax": "nodebench.frameworks.jax.framework:Jax",
}
"""Where each framework lives. A backend may also name one of its own as `module:Class`."""


IN_BACKWARD_SOLVE = "in the backward solve: "
"""How the errors of a solve begin that a backward pass makes."""


@dataclass(frozen=True)
class Optimizer:
    """An optimiser and its schedule, mapped onto `torch.optim` and `optax`.

    Attributes:
        name: `"sgd"`, `"adam"` or `"rmsprop"`.
        learning_rate: Peak learning rate.
        momentum: Momentum of `sgd` and `rmsprop`.
        weight_decay: Decoupled weight decay of `adam` (then AdamW); L2 penalty of `sgd`.
        schedule: `"constant"`, `"cosine"` (to zero over all steps), `"one-cycle"` (warm-up over the first 30 % from a
            25th of the peak, then cosine to a 10,000th of the start) or `"piecewise"` (times 0.1 at each milestone).
        milestones: Fractions of the training at which `"piecewise"` drops.
        clip_norm: Largest global gradient norm, or None.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    milestones: tuple[float, ...] = ()
    clip_norm: float | None = None


@dataclass(frozen=True)
class FieldCalls:
    """The calls that a gradient step cannot do without, two of its field and one of its loss, prepared for timing.

    Each makes so many calls, one after the other, and returns when the device has finished. The field is called at the
    initial state and the first time. What a framework compiles is compiled by the first call of each, whatever the
    number of calls, and runs them all in one program, as a solver of that framework does.

    Attributes:
        evaluation: Evaluate the field, not to be differentiated.
        evaluation_with_vjp: Evaluate it, and pull a fixed covector back to the state and the parameters.
        loss: Evaluate the loss of the states at the output times, and its gradient by these states.
    """

    evaluation: Callable[[int], None]
    evaluation_with_vjp: Callable[[int], None]
    loss: Callable[[int], None]


@dataclass(frozen=True)
class GradientStep:
    """One gradient step of a problem, moved, built and compiled: the calls that a worker makes.

    `step` is the timed call: the work and nothing else. `forward` and `backward` are the same work in two calls, for
    the split of the time between them; a framework that fuses the two may be slower here than in `step`. A backend that
    has something to add replaces a call, by `dataclasses.replace`.

    Attributes:
        step: Loss and all gradients; returns when the device has finished.
        forward: Solve and loss, with all that `backward` needs; returns when the device has finished.
        backward: Gradients from what `forward` returned; returns when the device has finished.
        solution: The states at the output times, without gradients; returns when the device has finished.
        forward_evaluations: Count the evaluations of `solution`, in an instrumented run of its own.
        evaluations: Count evaluations in an instrumented run of forward and backward; never part of a timed pass.
        saved_bytes: Bytes kept for the backward pass: torch's saved tensors, or XLA's temporary and output buffers; or
            None.
        field_calls: The calls that make up the floor of a step, and that of its loss; None where a step does not
            consist of calls of the field. Solves once.
    """

    step: Callable[[], Gradients]
    forward: Callable[[], Any]
    backward: Callable[[Any], Gradients]
    solution: Callable[[], State]
    forward_evaluations: Callable[[], int]
    evaluations: Callable[[], Evaluations]
    saved_bytes: Callable[[], int | None]
    field_calls: Callable[[], FieldCalls | None]


class AbstractTrainer(ABC):
    """A model in training: its weights, optimiser state and step count.

    Attributes:
        model: The model at its present weights.
    """

    model: Any

    @abstractmethod
    def step(self, batch: Batch) -> float:
        """One optimiser step on a batch; returns the loss before the step."""

    @abstractmethod
    def metric(self, batch: Batch) -> np.ndarray:
        """The model's metric for each example of a batch, shape `(n,)`, without gradients."""

    @abstractmethod
    def view(self, method: str, batch: Batch) -> Mapping[str, np.ndarray]:
        """What a method of the model returns for a batch, arrays by name, without gradients."""

    @abstractmethod
    def problem(self, batch: Batch) -> Problem:
        """The gradient problem at the present weights."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write everything that training needs to go on."""

    @abstractmethod
    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote."""


class AbstractFramework(ABC):
    """An array framework, configured for one process.

    Args of every implementation: `device` (`"cpu"` or `"cuda"`), `dtype` (`"float32"` or `"float64"`) and `threads`.
    """

    name: ClassVar[str]

    reference_backend: ClassVar[str | None] = None
    """The backend that computes reference gradients, in float64; None where there is none. Its option `max_step`, where
    it has one, bounds its steps, so that what a longer one passes over is found out."""

    compiles: ClassVar[bool] = False
    """Whether every gradient step is compiled by its first call."""

    @abstractmethod
    def __init__(self, device: str, dtype: str, threads: int) -> None:
        """Configure the process; raises `UserError` for a device that is not there."""

    @abstractmethod
    def arrays(self, batch: Batch) -> Mapping[str, Array]:
        """Move a batch to the device: floating-point arrays in the configured dtype, but `times` in float64."""

    @abstractmethod
    def build(
        self, target: str, options: Mapping[str, Any], weights: Weights, solve: Callable[..., State] | None
    ) -> Any:
        """Make the model `module:Class(**options)` with these weights.

        What the model's code has set for the whole process meanwhile (threads, default dtype) is set back.

        Args:
            target: Where the model's class lives.
            options: Keyword arguments of the class.
            weights: Every parameter by dotted name.
            solve: `solve(field, y0, times)`, or None for a model that solves no ODE.

        Raises:
            PluginError: If names or shapes of the weights are not those of the model, or a parameter is complex.
        """

    @abstractmethod
    def state(self, model: Any) -> Weights:
        """The whole state of a model by dotted name: parameters of any rank, buffers, arrays that are attributes."""

    def with_constants(self, model: Any, constants: Weights) -> Any:
        """The model with these values of what of its state is no parameter, as far as it has it by these names.

        What one framework holds in an array, a model in another may have in its code.

        Raises:
            PluginError: If a shape is another.
        """
        del constants
        return model

    @abstractmethod
    def n_params(self, model: Any) -> int:
        """Number of trainable parameters."""

    def problem(self, model: Any, batch: Batch) -> Problem:
        """The model's gradient problem on a batch: `model.problem(arrays)`."""
        problem: Problem = model.problem(self.arrays(batch))
        return problem

    @abstractmethod
    def parameters(self, field: Field) -> Mapping[str, np.ndarray]:
        """The field's trainable parameters by dotted name, as they are in the framework."""

    @abstractmethod
    def inspect(self, problem: Problem) -> None:
        """Evaluate the field once at the start, and see that it is a function of time, state and parameters.

        Raises:
            FieldError: If the result has not the structure, shapes and dtype of the state, the field changes what it is
                handed, or it depends on something to be trained that is none of its parameters.
        """

    @abstractmethod
    def vjp(self, problem: Problem, t: float, y: np.ndarray, covector: np.ndarray) -> tuple[np.ndarray, Weights]:
        """The field's vector-Jacobian product at a flat NumPy state: by the state, flat, and by each parameter."""

    @abstractmethod
    def loss(self, problem: Problem, states: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The problem's loss, as the array that it is, and its derivative by the states at the output times.

        Args:
            problem: The problem.
            states: Flat states, shape `(n_times, size)`.

        Returns:
            The derivative is shaped like the states; None where the loss is no single number that depends on them.
        """

    @abstractmethod
    def moved(self, problem: Problem, y0: np.ndarray, params: Weights) -> AbstractContextManager[Problem]:
        """The problem at another flat initial state and other parameters of its field, while the context lasts."""

    def frozen(self, problem: Problem) -> frozenset[str]:
        """Parameters of the field that its code says are not to be differentiated by; none where that is no way."""
        del problem
        return frozenset()

    def unsteady(self, one: Problem, other: Problem) -> str:
        """The layer in which two fields that should be the same differ at the start; empty where it is not known."""
        del one, other
        return ""

    def remembered(self, problem: Problem) -> str:
        """What each evaluation changes of a field so that it is another when it is not trained; empty for nothing.

        Batch normalisation gives the same value twice, and keeps statistics of all that a solver has shown it.
        """
        del problem
        return ""

    def settle(self) -> list[str]:
        """Set back what foreign code has set for the whole process; returns what that was, a sentence each."""
        return []

    @abstractmethod
    def placement(self, problem: Problem) -> Mapping[str, str]:
        """`dtype`, `device` and `threads` as the problem's own arrays and the framework show them."""

    @abstractmethod
    def evaluate(self, problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
        """The problem's field on flat NumPy states, for what is decided outside any framework."""

    @abstractmethod
    def flat_state(self, state: State) -> np.ndarray:
        """A state as one flat float64 NumPy array."""

    @abstractmethod
    def gradient_step(self, solve: Solve, problem: Problem, spec: SolverSpec) -> GradientStep:
        """Prepare one gradient step. May compile; the first call of `step` may still do so."""

    @classmethod
    def keep_programs(cls, folder: Path) -> None:
        """Keep compiled programs in a folder, and find there what another process has compiled; if it compiles.

        Called before the framework has compiled anything.
        """
        del folder

    def seed(self, seed: int) -> None:
        """Seed all random numbers that are global: Python's, NumPy's and, by a subclass, the framework's own."""
        seed_globally(seed)

    @abstractmethod
    def trainer(self, model: Any, optimizer: Optimizer, total_steps: int) -> AbstractTrainer:
        """A trainer of the model's `loss(arrays)` for a schedule of `total_steps` steps."""

    @abstractmethod
    def to_numpy(self, gradients: Gradients) -> Gradients:
        """The same gradients as NumPy arrays."""

    @abstractmethod
    def peak_device_bytes(self, call: Callable[[], object]) -> int | None:
        """Peak of the device allocator above what is held before the call; None on a CPU."""


def field_name(field: Field) -> str:
    """What a person calls a field: the name of its function or class."""
    return getattr(field, "__name__", "") or type(field).__name__


def seed_globally(seed: int) -> None:
    """Seed the global generators of Python and NumPy."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  a model of a user's may draw from it


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """The same while the context lasts; the generators are then as they were."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  see above
    seed_globally(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002  see above


def check_alike(states: Array, targets: Array) -> None:
    """See that states and their targets have one shape: else their difference would broadcast without a word.

    Raises:
        PluginError: If they have not, with both shapes.
    """
    found, wanted = tuple(states.shape), tuple(targets.shape)
    if found != wanted:
        raise PluginError(
            f"the states at the last output time and their targets differ in shape: {found} and {wanted}."
        )


def solve_checked(solve: Solve, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
    """Solve, and hold the backend to the shape of its answer.

    Raises:
        PluginError: If the states are not one for each time, shaped as the initial one.
    """
    ys = solve(field, y0, times, spec)
    wanted = _shapes(y0, (len(times),))
    if _shapes(ys) != wanted:
        raise PluginError(f"`solve` must return states of shape {wanted}, the output times first; got {_shapes(ys)}.")
    return ys


def _shapes(state: State, leading: tuple[int, ...] = ()) -> tuple[object, ...] | str:
    """Shape of an array, or those of a tuple's parts; what is neither is told by its type."""
    if isinstance(state, tuple):
        return tuple(_shapes(part, leading) for part in state)
    return (*leading, *state.shape) if hasattr(state, "shape") else type(state).__name__


def load_framework(name: str) -> type[AbstractFramework]:
    """Import a framework's class.

    Raises:
        NotInstalledError: If the framework itself is not installed, with the command that installs it.
        UnknownNameError: If there is no such framework.
    """
    target = FRAMEWORKS.get(name, name)
    if ":" not in target:
        raise UnknownNameError("framework", name, FRAMEWORKS)
    if name in FRAMEWORKS and importlib.util.find_spec(name) is None:
        raise NotInstalledError(f"{name} is not installed; install with: pip install 'nodebench[{name}]'")
    module_name, _, attribute = target.partition(":")
    cls: type[AbstractFramework] = vars(importlib.import_module(module_name))[attribute]
    return cls
