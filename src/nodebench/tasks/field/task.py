"""A vector field of one's own as a task: everything of a task but the field and its initial states."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from typing_extensions import override

from nodebench.errors import PluginError, UnknownNameError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.importing import beside
from nodebench.problem import Array, SolverSpec, State
from nodebench.registry import load_class
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits

MODELS: Mapping[str, str] = {
    "torch": "nodebench.tasks.field.torch:FieldODE",
    "jax": "nodebench.tasks.field.jax:FieldODE",
}

WEIGHTS: Mapping[str, str] = {
    "torch": "nodebench.tasks.field.torch:initial_weights",
    "jax": "nodebench.tasks.field.jax:initial_weights",
}

SIZES: Mapping[Preset, int] = {"smoke": 256, "quick": 2048, "standard": 8192, "paper": 8192}
"""Examples in all: half of them to train on, a quarter to validate and a quarter to test."""


States = np.ndarray | tuple[np.ndarray, ...]
"""Initial states, or where they should end: one array, or a tuple of arrays, whose first axis is the example."""


class AbstractFieldTask(AbstractTask):
    """A vector field of one's own, trained to carry its initial states to their targets.

    A final subclass is a frozen dataclass that names its field and draws its initial states. The field is a
    `torch.nn.Module` made as `Field()`, or an `equinox.Module` made as `Field(key=key)`; its weights are those that it
    is made with after all generators of random numbers have been seeded, and so is whatever else it holds. Given in
    both frameworks, it has the same names and shapes of parameters in both, and the weights of the first.
    """

    fields: ClassVar[Mapping[str, str]]
    """Framework to `module:Class` or `file.py:Class` of the field in it; a path is relative to the file of the task."""

    times: ClassVar[tuple[float, ...]] = (0.0, 1.0)
    """Output times of the solve; the loss looks at the last."""

    differentiate_times: ClassVar[bool] = False
    """Whether the gradient measurement differentiates with respect to the output times as well."""

    metric: ClassVar[Metric] = Metric("RMSE", "1", "lower", "root-mean-square")
    default_model: ClassVar[str] = "field"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-5, atol=1e-5)

    @override
    def __init_subclass__(cls) -> None:
        # `models` is read from the class, like everything that is declared.
        fields = getattr(cls, "fields", {})
        for name in fields:
            if name not in MODELS:
                raise UnknownNameError(f"framework in `fields` of {cls.__name__}", name, MODELS)
        cls.fields = beside(cls, fields)
        cls.models = {"field": ModelEntry({name: MODELS[name] for name in fields}, summary="")}

    @abstractmethod
    def initial_states(self, n: int, rng: np.random.Generator) -> States:
        """Draw n initial states, the first axis of the array, or of each array of a tuple."""

    def targets(self, y0: States) -> States:
        """Where the initial states should end, shaped like them; at zero, where a task does not say otherwise."""
        return tuple(map(np.zeros_like, y0)) if isinstance(y0, tuple) else np.zeros_like(y0)

    @property
    def _fields(self) -> Mapping[str, str]:
        """The fields of this task, where an option decides among several of the same frameworks."""
        return self.fields

    @override
    def data_source(self) -> str:
        return "computed from the seed"

    @override
    def data(self, preset: Preset, seed: int) -> Splits:
        """Initial states and targets.

        Raises:
            PluginError: If they are not floating-point arrays of n examples, of like shapes.
        """
        n = SIZES[preset]
        y0 = self.initial_states(n, np.random.default_rng((seed, 1)))
        check_states(f"`initial_states` of {type(self).__name__}", y0, n)
        end = self.targets(y0)
        _check_targets(type(self).__name__, y0, end)
        arrays = {**by_part("y0", y0), **by_part("end", end)}
        parts = np.split(np.arange(n), [n // 2, 3 * n // 4])
        train, validation, test = ({name: array[part] for name, array in arrays.items()} for part in parts)
        return Splits("initial-states", train, validation, test)

    @override
    def recipe(self, model: str, preset: Preset) -> Recipe:
        del model
        epochs = {"smoke": 2, "quick": 20}.get(preset, 100)
        return Recipe(Optimizer("adam", 1e-2, schedule="cosine"), batch_size=64, epochs=epochs)

    @override
    def model_options(self, model: str) -> Mapping[str, object]:
        del model
        return {"fields": dict(self._fields), "times": self.times, "differentiate_times": self.differentiate_times}

    @override
    def weights(self, model: str, seed: int) -> Weights:
        """Those of a field made after seeding its framework, which is imported for that."""
        framework, target = next(iter(self._fields.items()))
        del model
        drawn: Weights = load_class(WEIGHTS[framework])(target, seed)
        return drawn

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights from the seed, and the first training examples."""
        splits = self.data("quick", seed)
        batch: Batch = {name: array[:batch_size] for name, array in splits.train.items()}
        return GradientInputs(self.weights(model, seed), batch, dataset=splits.name)


def by_part(name: str, states: States) -> Batch:
    """States as arrays of a batch: `y0`, or `y0.0`, `y0.1` ... of a tuple."""
    if isinstance(states, tuple):
        return {f"{name}.{i}": part for i, part in enumerate(states)}
    return {name: states}


def parts_of(name: str, batch: Mapping[str, Array]) -> State:
    """The reverse: one array of a batch, or a tuple of them."""
    if name in batch:
        return batch[name]
    n = sum(key.startswith(f"{name}.") for key in batch)
    return tuple(batch[f"{name}.{i}"] for i in range(n))


def check_states(what: str, states: object, n: int | None = None) -> None:
    """See that initial states are such.

    Args:
        what: A method that has returned them, or what they are, as the beginning of a sentence.
        states: The states.
        n: How many a method must return; None for any number, and for a single one without an axis of examples.

    Raises:
        PluginError: If they are no finite floating-point arrays of as many examples.
    """
    must, are = ("must be", "is") if n is None else ("must return", "returned")
    parts = states if isinstance(states, tuple) else (states,)
    for part in parts:
        if not isinstance(part, np.ndarray):
            raise PluginError(
                f"{what} {must} a NumPy array or a tuple of such; it {are} "
                f"{f'a tuple with a {type(part).__name__}' if isinstance(states, tuple) else type(part).__name__}."
            )
        if not np.issubdtype(part.dtype, np.floating):
            raise PluginError(
                f"{what} {are} {part.dtype}; a state is made of real floating-point numbers: "
                "make integers such by `.astype(float)`, and complex numbers two arrays, `.real` and `.imag`."
            )
        if not part.size or (n is not None and part.shape[:1] != (n,)):
            wanted = "of numbers" if n is None else f"{n} states, the first axis of the array"
            raise PluginError(f"{what} {must} {wanted}; it {are} {'the shape' if n else 'of shape'} {part.shape}.")
        if not np.isfinite(part).all():
            raise PluginError(f"{what} {are if n else 'has'} numbers that are not finite.")
    if not parts:
        raise PluginError(f"{what} {are} an empty tuple.")


def _check_targets(task: str, states: States, targets: object) -> None:
    shapes, wanted = (
        [np.shape(part) for part in (each if isinstance(each, tuple) else (each,))] for each in (targets, states)
    )
    if shapes != wanted or isinstance(states, tuple) != isinstance(targets, tuple):
        raise PluginError(
            f"`targets` of {task} must have the shape of the states, {_listed(wanted)}; it returned {_listed(shapes)}."
        )
    for part in targets if isinstance(targets, tuple) else (targets,):
        if not (isinstance(part, np.ndarray) and np.issubdtype(part.dtype, np.floating)):
            kind = part.dtype if isinstance(part, np.ndarray) else type(part).__name__
            raise PluginError(f"`targets` of {task} must return floating-point NumPy arrays; it returned {kind}.")


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return str(shapes[0]) if len(shapes) == 1 else str(shapes)
