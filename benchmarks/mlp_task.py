"""A model of one's own: all that nodebench needs to compare gradient methods on it.

`nodebench run -b all -t benchmarks/mlp_task.py:Mlp --measure gradient`. This file is NumPy only; the model stands in a
file for each framework, `mlp_torch.py` and `mlp_jax.py`, so that no process imports both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import expm

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

LAYERS: Mapping[str, tuple[int, int]] = {"hidden1": (4, 20), "hidden2": (20, 20), "output": (20, 4)}
"""Inputs and outputs of each layer of the field."""

TIMES = (0.0, 2.0)
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Mlp(AbstractTask):
    """dy/dt = MLP(y), 4-20-20-4 with tanh, fitted to where a damped rotation carries its initial states."""

    metric: ClassVar[Metric] = Metric("RMSE", "1", "lower", "root-mean-square")
    default_model: ClassVar[str] = "mlp"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-5, atol=1e-5)
    models: ClassVar[Mapping[str, ModelEntry]] = {
        "mlp": ModelEntry(
            {"torch": f"{FOLDER / 'mlp_torch.py'}:MlpODE", "jax": f"{FOLDER / 'mlp_jax.py'}:MlpODE"},
            summary="Two hidden layers of 20 units.",
        )
    }

    def data_source(self) -> str:
        """Nothing is fetched."""
        return "computed from the seed"

    def data(self, preset: Preset, seed: int) -> Splits:  # noqa: ARG002  the same data under every preset
        """Standard normal initial states and where they end, exactly."""
        rng = np.random.default_rng((seed, 1))
        draw = rng.standard_normal((4, 4))
        y0 = rng.standard_normal((2048, 4))
        begin, end = TIMES
        ends = y0 @ expm(((draw - draw.T) / 2 - 0.1 * np.eye(4)) * (end - begin)).T
        parts = np.split(np.arange(len(y0)), [1024, 1536])
        train, validation, test = ({"y0": y0[part], "end": ends[part]} for part in parts)
        return Splits("rotations", train, validation, test)

    def recipe(self, model: str, preset: Preset) -> Recipe:  # noqa: ARG002  one model, one recipe
        """Adam."""
        return Recipe(Optimizer("adam", 1e-2, schedule="cosine"), batch_size=128, epochs=2 if preset == "smoke" else 20)

    def model_options(self, model: str) -> Mapping[str, Any]:  # noqa: ARG002  one model
        """Keyword arguments of the model's class."""
        return {"layers": dict(LAYERS), "times": TIMES}

    def weights(self, model: str, seed: int) -> Weights:  # noqa: ARG002  one model
        """Uniform within the square root of 3 over the number of inputs, so that unit variance stays about unit."""
        rng = np.random.default_rng((seed, 0))
        drawn = {}
        for name, (n_in, n_out) in LAYERS.items():
            bound = sqrt(3 / n_in)
            drawn[f"field.{name}.weight"] = rng.uniform(-bound, bound, (n_out, n_in))
            drawn[f"field.{name}.bias"] = rng.uniform(-0.1, 0.1, n_out)
        return drawn

    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights drawn from the seed, and the first training examples."""
        splits = self.data("quick", seed)
        batch = {name: array[:batch_size] for name, array in splits.train.items()}
        return GradientInputs(self.weights(model, seed), batch, dataset=splits.name)
