"""A vector field of one's own as a task: everything of a task but the field and its initial states."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from nodebench.errors import UnknownNameError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.importing import beside
from nodebench.problem import SolverSpec
from nodebench.registry import load_class
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits

MODELS: Mapping[str, str] = {
    "torch": "nodebench.tasks.field.torch_models:FieldODE",
    "jax": "nodebench.tasks.field.jax_models:FieldODE",
}

WEIGHTS: Mapping[str, str] = {
    "torch": "nodebench.tasks.field.torch_models:initial_weights",
    "jax": "nodebench.tasks.field.jax_models:initial_weights",
}

SIZES: Mapping[Preset, int] = {"smoke": 256, "quick": 2048, "standard": 8192, "paper": 8192}
"""Examples in all: half of them to train on, a quarter to validate and a quarter to test."""


class AbstractFieldTask(AbstractTask):
    """A vector field of one's own, trained to carry its initial states to their targets.

    A final subclass is a frozen dataclass that names its field and draws its initial states. The field is a
    `torch.nn.Module` made as `Field()`, or an `equinox.Module` made as `Field(key=key)`; its weights are those that it
    is made with after its framework's generator has been seeded. Given in both frameworks, it has the same names and
    shapes of parameters in both, and the weights of the first.
    """

    fields: ClassVar[Mapping[str, str]]
    """Framework to `module:Class` or `file.py:Class` of the field in it; a path is relative to the file of the task."""

    times: ClassVar[tuple[float, ...]] = (0.0, 1.0)
    """Output times of the solve; the loss looks at the last."""

    metric: ClassVar[Metric] = Metric("RMSE", "1", "lower", "root-mean-square")
    default_model: ClassVar[str] = "field"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-5, atol=1e-5)

    def __init_subclass__(cls) -> None:
        # `models` is read from the class, like everything that is declared.
        fields = getattr(cls, "fields", {})
        for name in fields:
            if name not in MODELS:
                raise UnknownNameError(f"framework in `fields` of {cls.__name__}", name, MODELS)
        cls.fields = beside(cls, fields)
        cls.models = {"field": ModelEntry({name: MODELS[name] for name in fields}, summary="")}

    @abstractmethod
    def initial_states(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n initial states, the first axis of the array."""

    def targets(self, y0: np.ndarray) -> np.ndarray:
        """Where the initial states should end; at zero, where a task does not say otherwise."""
        return np.zeros_like(y0)

    def data_source(self) -> str:
        """Nothing is fetched."""
        return "computed from the seed"

    def data(self, preset: Preset, seed: int) -> Splits:
        """Initial states and targets."""
        n = SIZES[preset]
        y0 = self.initial_states(n, np.random.default_rng((seed, 1)))
        end = self.targets(y0)
        parts = np.split(np.arange(n), [n // 2, 3 * n // 4])
        train, validation, test = ({"y0": y0[part], "end": end[part]} for part in parts)
        return Splits("initial-states", train, validation, test)

    def recipe(self, model: str, preset: Preset) -> Recipe:
        """Adam."""
        del model
        epochs = {"smoke": 2, "quick": 20}.get(preset, 100)
        return Recipe(Optimizer("adam", 1e-2, schedule="cosine"), batch_size=64, epochs=epochs)

    def model_options(self, model: str) -> Mapping[str, Any]:
        """Keyword arguments of the model's class."""
        del model
        return {"fields": dict(self.fields), "times": self.times}

    def weights(self, model: str, seed: int) -> Weights:
        """Those of a field made after seeding its framework, which is imported for that."""
        del model
        framework, target = next(iter(self.fields.items()))
        drawn: Weights = load_class(WEIGHTS[framework])(target, seed)
        return drawn

    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights from the seed, and the first training examples."""
        splits = self.data("quick", seed)
        batch: Batch = {name: array[:batch_size] for name, array in splits.train.items()}
        return GradientInputs(self.weights(model, seed), batch, dataset=splits.name)
