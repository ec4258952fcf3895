"""The interface of a task: data, models, a metric and a training recipe, all of it without any framework."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod, sqrt
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from nodebench.errors import UnknownNameError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.importing import beside
from nodebench.plots import Plot, View
from nodebench.problem import Gradients, SolverSpec

Preset = Literal["smoke", "quick", "standard", "paper"]


@dataclass(frozen=True)
class Metric:
    """What a trained model is judged by.

    Attributes:
        name: For example `"test error"`.
        unit: For example `"%"` or `"nats"`.
        direction: Which way is better.
        reduction: How the values of the examples become one figure.
    """

    name: str
    unit: str
    direction: Literal["lower", "higher"]
    reduction: Literal["mean", "root-mean-square"] = "mean"


@dataclass(frozen=True)
class ModelEntry:
    """One network of a task.

    Attributes:
        targets: Framework name to `module:Class` or `file.py:Class` of the model in it; the path of a file is relative
            to that of the task.
        uses_backend: Whether the model solves an ODE; only then it takes a backend.
        summary: One sentence.
    """

    targets: Mapping[str, str]
    uses_backend: bool = True
    summary: str = ""


@dataclass(frozen=True)
class Splits:
    """Data of a task, the three parts disjoint.

    Attributes:
        name: The data set that it really is, for example `"mnist"` or `"digits-upsampled"`.
        train: Training examples.
        validation: Examples of the training data held out for the history of a training.
        test: Held-out examples for the metric, looked at once.
        note: What a reader must know of the data, for example that it is a stand-in; empty where there is nothing.
    """

    name: str
    train: Batch
    validation: Batch
    test: Batch
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        optimizer: Optimiser and schedule.
        batch_size: Examples in a step; the gradient measurement takes the same number.
        epochs: Passes, each ending with a validation and an entry in the history.
        steps_per_epoch: Steps in a pass; None for as many full batches as the training data has.
        evaluation_batch: Examples evaluated at once.
        augment: Changes a training batch with a generator of its own, for example by random crops.
    """

    optimizer: Optimizer
    batch_size: int
    epochs: int
    steps_per_epoch: int | None = None
    evaluation_batch: int = 500
    augment: Callable[[Batch, np.random.Generator], Batch] | None = None


@dataclass(frozen=True)
class GradientInputs:
    """What the gradient measurement differentiates, in NumPy: the fixed weights and the fixed batch.

    Attributes:
        weights: Every parameter of the model by dotted name.
        batch: The fixed batch, handed to the model's `problem`.
        closed_form: The exact gradients as float64 NumPy arrays (parameters of the field by their names in it), where
            the problem has such.
        dataset: The data set that the batch is really from, as in `Splits.name`.
        note: What a reader must know of it, as in `Splits.note`.
        constants: The rest of the model's state by dotted name: buffers, arrays that are plain attributes. A task need
            not give it; it is read from the model that was made first, so that all processes have the same.
    """

    weights: Weights
    batch: Batch
    closed_form: Callable[[], Gradients] | None = None
    dataset: str = ""
    note: str = ""
    constants: Weights = field(default_factory=dict)


@dataclass(frozen=True)
class Dynamics:
    """How a solution of a task's equations behaves; what is not known is None.

    Attributes:
        stiffness: The most negative real part of the eigenvalues of the Jacobian along the solution, times the time
            span.
        largest: Largest singular value of dy(end)/dy(start).
        smallest: The smallest.
        note: Why something is not known, in a sentence; empty where nothing is missing.
    """

    stiffness: float | None = None
    largest: float | None = None
    smallest: float | None = None
    note: str = ""


class AbstractTask(ABC):
    """A learning problem. A final subclass is a frozen dataclass whose fields are its options.

    A model's class, named in `models`, is written the way its framework's users write it. It is made with the task's
    `model_options` and, where it uses a backend, `solve(field, y0, times)`, and has

    - `loss(batch)`: the scalar training loss of a batch of arrays;
    - `metric(batch)`: the metric's value for each example, shape `(n,)`;
    - `problem(batch)`: its gradient problem, a `nodebench.problem.Problem` (ODE models only);
    - `diagnostics(batch)`: for each of the task's `diagnostics` by name, its value for each example, shape `(n,)` (only
      where the task has any);
    - whatever other methods from a batch to arrays by name the task's `plots` view it by.
    """

    models: ClassVar[Mapping[str, ModelEntry]]
    default_model: ClassVar[str]
    spec: ClassVar[SolverSpec]
    """Solver settings where the command line names none."""
    reference: ClassVar[SolverSpec] = SolverSpec(rtol=1e-12, atol=1e-12, max_steps=100_000, dtype="float64")
    """How the reference gradient is solved where there is no closed form. A field that is not smooth gains nothing from
    order or tolerance, and is better served by many small steps of a simple method."""

    varied: ClassVar[Mapping[str, str]] = {}
    """Options that `nodebench scale` varies, by axis: `stiffness`, `parameters` (a whole number) or `horizon`."""

    @override
    def __init_subclass__(cls) -> None:
        # Whoever reads the targets may have another working directory than whoever wrote them.
        models = vars(cls).get("models")
        if isinstance(models, Mapping) and all(isinstance(entry, ModelEntry) for entry in models.values()):
            cls.models = {name: replace(entry, targets=beside(cls, entry.targets)) for name, entry in models.items()}

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """What a trained model is judged by; a class attribute where it is the same under every option."""

    @property
    def diagnostics(self) -> tuple[Metric, ...]:
        """Further figures reported beside the metric, each over the held-out examples by its own reduction."""
        return ()

    def plots(self, model: str, splits: Splits, view: View) -> Sequence[Plot]:
        """Plots of a trained model, each under a name of its own, as figures of matplotlib.

        matplotlib need not be installed for a run: import it where the figures are made. Draw what is dense with
        `rasterized=True`.

        Args:
            model: The model.
            splits: The data it was trained on.
            view: Calls a method of the trained model on a batch; the method returns arrays by name.
        """
        del model, splits, view
        return ()

    @abstractmethod
    def data_source(self) -> str:
        """Where the data would come from on this machine, in a few words and without fetching any."""

    @abstractmethod
    def data(self, preset: Preset, seed: int) -> Splits:
        """The data of a preset, as NumPy arrays.

        Raises:
            DataError: If a data set asked for by name is missing, cut short or altered.
        """

    def training_examples(self, preset: Preset, seed: int) -> int:
        """How many examples there are to train on, the most that a batch of the training can have.

        Asked only where a user chose the size of a batch; a task that knows it without its data may say so.

        Raises:
            DataError: As in `data`.
        """
        return len(next(iter(self.data(preset, seed).train.values())))

    def gradient_examples(self, seed: int) -> int | None:
        """The most that the batch of `problem` can have; None where it draws as many as it is asked for.

        Raises:
            DataError: As in `data`.
        """
        return self.training_examples("quick", seed)

    def _check_model(self, model: str) -> None:
        if model not in self.models:
            raise UnknownNameError(f"model of task '{type(self).__name__.lower()}'", model, self.models)

    @abstractmethod
    def recipe(self, model: str, preset: Preset) -> Recipe:
        """How a model is trained under a preset."""

    @abstractmethod
    def model_options(self, model: str) -> Mapping[str, object]:
        """Keyword arguments of the model's class, the same in every framework."""

    @abstractmethod
    def weights(self, model: str, seed: int) -> Weights:
        """Initial weights drawn from the seed, float64, by dotted name."""

    @abstractmethod
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """The fixed weights and batch of the gradient measurement."""

    def dynamics(self, model: str, inputs: GradientInputs, times: Sequence[float]) -> Dynamics:
        """What is known of the exact solution of the gradient measurement; nothing, unless a task says it.

        Args:
            model: The model.
            inputs: Its weights and batch.
            times: The output times.
        """
        del model, inputs, times
        return Dynamics()


def layer_weights(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, *, bias: bool = True
) -> dict[str, np.ndarray]:
    """Initial weights of a linear layer or a convolution, whose first axis is its output, float64.

    As `torch.nn` draws them: weights and biases alike uniform within 1 / sqrt(fan-in).
    """
    bound = 1 / sqrt(prod(shape[1:]))
    weights = {f"{name}.weight": rng.uniform(-bound, bound, shape)}
    return weights | {f"{name}.bias": rng.uniform(-bound, bound, shape[0])} if bias else weights
