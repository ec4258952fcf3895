"""A task: data, a model, a metric and a recipe. `nodebench run -b all -t ./mine.py:Mine --preset smoke`.

As it stands it works: a network learns where a damped rotation carries points of the plane. This file is NumPy only;
the model stands in `mine_torch.py`. Put your own in their place and keep `nodebench check task ./mine.py:Mine` content.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import ClassVar

import numpy as np

from nodebench import (
    AbstractTask,
    GradientInputs,
    Metric,
    ModelEntry,
    Optimizer,
    Preset,
    Recipe,
    SolverSpec,
    Splits,
    Weights,
)


@dataclass(frozen=True)
class Mine(AbstractTask):
    """Where a damped rotation carries points of the plane.

    The first line is what `nodebench list` shows, and must be a sentence.

    Attributes:
        hidden: Each field of the class is an option, `./mine.py:Mine[hidden=64]`. This one is the size of the network.
    """

    metric: ClassVar[Metric] = Metric("RMSE", "1", "lower", "root-mean-square")
    default_model: ClassVar[str] = "network"
    # Solver settings where the command line names none.
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-5, atol=1e-5)
    # Where the class of each model lives in each framework, as plain strings: this file imports no framework. Write the
    # model in a second framework, add it here, and the checks will hold the two to the same gradients.
    models: ClassVar[Mapping[str, ModelEntry]] = {
        "network": ModelEntry(
            {"torch": f"{Path(__file__).with_name('mine_torch.py')}:MineODE"}, summary="One hidden layer."
        )
    }
    hidden: int = 32

    def data_source(self) -> str:
        """Where the data come from, in a few words and without fetching any."""
        return "computed from the seed"

    def data(self, preset: Preset, seed: int) -> Splits:
        """Arrays by name, whose first axis is the example; the three parts have no example in common."""
        n = 256 if preset == "smoke" else 4096
        start = np.random.default_rng((seed, 1)).standard_normal((n, 2))
        turned = np.exp(-0.2) * start @ np.array([[np.cos(2.0), np.sin(2.0)], [-np.sin(2.0), np.cos(2.0)]])
        parts = np.split(np.arange(n), [n // 2, 3 * n // 4])
        train, validation, test = ({"start": start[part], "end": turned[part]} for part in parts)
        return Splits("rotations", train, validation, test)

    def recipe(self, model: str, preset: Preset) -> Recipe:
        """How a model is trained under a preset."""
        del model
        epochs = {"smoke": 2, "quick": 20}.get(preset, 100)
        return Recipe(Optimizer("adam", 1e-2, schedule="cosine"), batch_size=64, epochs=epochs)

    def model_options(self, model: str) -> Mapping[str, object]:
        """Keyword arguments of the model's class, the same in every framework."""
        del model
        return {"hidden": self.hidden}

    def weights(self, model: str, seed: int) -> Weights:
        """Initial weights in float64 by the names of the model's parameters, the same in every framework."""
        del model
        rng = np.random.default_rng((seed, 0))
        sizes = {"field.inner": (2, self.hidden), "field.outer": (self.hidden, 2)}
        drawn = {}
        for name, (n_in, n_out) in sizes.items():
            drawn[f"{name}.weight"] = rng.uniform(-1, 1, (n_out, n_in)) / sqrt(n_in)
            drawn[f"{name}.bias"] = rng.uniform(-1, 1, n_out) / sqrt(n_in)
        return drawn

    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """The fixed weights and batch of the gradient measurement."""
        splits = self.data("quick", seed)
        batch = {name: array[:batch_size] for name, array in splits.train.items()}
        return GradientInputs(self.weights(model, seed), batch, dataset=splits.name)
