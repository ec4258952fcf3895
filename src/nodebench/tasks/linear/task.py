"""A linear ODE, whose gradients are known in closed form: the task on which a gradient method is proven right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import scipy  # whose submodules load on first use: `nodebench list` imports this module
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.problem import Gradients, SolverSpec
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits

Loss = Literal["end", "path"]
"""Squared norm of the last state, or the sum of those at all output times after the first."""

SIZES: Mapping[Preset, tuple[int, int]] = {
    "smoke": (64, 32),
    "quick": (512, 256),
    "standard": (2048, 512),
    "paper": (2048, 512),
}
"""Trajectories to train on, and as many to validate as to test on."""

RECIPES: Mapping[Preset, Recipe] = {
    "smoke": Recipe(Optimizer("adam", 3e-2), batch_size=16, epochs=2, steps_per_epoch=4),
    "quick": Recipe(Optimizer("adam", 3e-2, schedule="cosine"), batch_size=64, epochs=10, steps_per_epoch=40),
    "standard": Recipe(Optimizer("adam", 3e-2, schedule="cosine"), batch_size=64, epochs=20, steps_per_epoch=80),
    "paper": Recipe(Optimizer("adam", 3e-2, schedule="cosine"), batch_size=64, epochs=20, steps_per_epoch=80),
}


@dataclass(frozen=True)
class Linear(AbstractTask):
    """dy/dt = A y, with exact gradients from the matrix exponential; trained on trajectories of a hidden A.

    Attributes:
        dimension: Components of the state.
        horizon: Last output time; the first is 0.
        n_times: Output times, equally spaced, the first one included.
        loss: Loss of the gradient measurement, summed over the batch: `end`, the squared norm of the last state, or
            `path`, the sum over all output times after the first.
        differentiate_times: Whether the gradient measurement differentiates with respect to the output times as well.

    Raises:
        UserError: If a number is too small.
    """

    dimension: int = 4
    horizon: float = 2.0
    n_times: int = 5
    loss: Loss = "end"
    differentiate_times: bool = False

    varied: ClassVar[Mapping[str, str]] = {"parameters": "dimension", "horizon": "horizon"}
    metric: ClassVar[Metric] = Metric("RMSE", "1", "lower", "root-mean-square")
    default_model: ClassVar[str] = "linear"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-6, atol=1e-6)
    models: ClassVar[Mapping[str, ModelEntry]] = {
        "linear": ModelEntry(
            {
                "torch": "nodebench.tasks.linear.torch:LinearODE",
                "jax": "nodebench.tasks.linear.jax:LinearODE",
            },
            summary="One matrix.",
        )
    }

    def __post_init__(self) -> None:
        if self.dimension < 1 or self.n_times < 2 or not self.horizon > 0:
            raise UserError(
                "`dimension` must be at least 1, `n_times` at least 2 and `horizon` positive; got "
                f"{self.dimension}, {self.n_times} and {self.horizon}."
            )

    @override
    def data_source(self) -> str:
        return "computed from the seed"

    @override
    def data(self, preset: Preset, seed: int) -> Splits:
        """Exact trajectories of a hidden matrix, from standard normal initial states."""
        n_train, n_held_out = SIZES[preset]
        rng = np.random.default_rng((seed, 1))
        hidden = _rotation_with_damping(rng, self.dimension)
        y0 = rng.standard_normal((n_train + 2 * n_held_out, self.dimension))
        observed = np.moveaxis(states(hidden, y0, self._times()), 0, 1)
        parts = np.split(np.arange(len(y0)), [n_train, n_train + n_held_out])
        train, validation, test = ({"y0": y0[part], "observed": observed[part]} for part in parts)
        return Splits("linear-trajectories", train, validation, test)

    @override
    def recipe(self, model: str, preset: Preset) -> Recipe:
        """Adam, with a cosine schedule but for `smoke`."""
        self._check_model(model)
        return RECIPES[preset]

    @override
    def model_options(self, model: str) -> Mapping[str, object]:
        self._check_model(model)
        return {
            "dimension": self.dimension,
            "times": tuple(float(t) for t in self._times()),
            "loss": self.loss,
            "differentiate_times": self.differentiate_times,
        }

    @override
    def weights(self, model: str, seed: int) -> Weights:
        """A rotation with some damping, drawn from the seed."""
        self._check_model(model)
        return {"field.A": _rotation_with_damping(np.random.default_rng((seed, 0)), self.dimension)}

    @override
    def gradient_examples(self, seed: int) -> int | None:
        del seed
        return None

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights and standard normal initial states drawn from the seed, and the closed form of their gradients."""
        weights = self.weights(model, seed)
        batch: Batch = {"y0": np.random.default_rng((seed, 2)).standard_normal((batch_size, self.dimension))}

        def closed_form() -> Gradients:
            return gradients(weights["field.A"], batch["y0"], self._times(), self.loss)

        return GradientInputs(weights, batch, closed_form, dataset="linear-trajectories")

    def _times(self) -> np.ndarray:
        return np.linspace(0.0, self.horizon, self.n_times)


def _rotation_with_damping(rng: np.random.Generator, dimension: int) -> np.ndarray:
    """A skew-symmetric matrix less a tenth of the identity: trajectories that neither explode nor vanish."""
    draw = rng.standard_normal((dimension, dimension))
    skew: np.ndarray = (draw - draw.T) / 2
    return skew - 0.1 * np.eye(dimension)


def states(matrix: np.ndarray, y0: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The solution of dy/dt = y Aᵀ at each time, shape `(n, batch, d)`, from states `(batch, d)` at `times[0]`."""
    return np.stack([y0 @ scipy.linalg.expm(matrix * (t - times[0])).T for t in times])


def gradients(matrix: np.ndarray, y0: np.ndarray, times: np.ndarray, loss: Loss) -> Gradients:
    """Exact gradients of the loss, summed over the batch.

    With E = exp(A τ), the derivative of <G, E> with respect to A is τ L(Aᵀ τ, G), L being the Fréchet derivative of the
    exponential.

    Args:
        matrix: A, shape `(d, d)`.
        y0: Initial states, shape `(batch, d)`.
        times: Output times, shape `(n,)`.
        loss: Which states the loss looks at.

    Returns:
        Loss and gradients in float64; that of A under the name `A`.

    References:
        Computing the Fréchet derivative of the matrix exponential (Al-Mohy, Higham, 2009),
        https://doi.org/10.1137/080716426
    """
    solution = states(matrix, y0, times)
    by_y0, by_matrix, by_times = np.zeros_like(y0), np.zeros_like(matrix), np.zeros(len(times))
    value = 0.0
    for k in range(1, len(times)) if loss == "path" else [len(times) - 1]:
        span, y = times[k] - times[0], solution[k]
        value += float(np.sum(y**2))
        by_y0 += 2 * y @ scipy.linalg.expm(matrix * span)
        by_matrix += span * scipy.linalg.expm_frechet(matrix.T * span, 2 * y.T @ y0, compute_expm=False)
        by_times[k] = 2 * np.sum(y * (y @ matrix.T))
    # Moving the first time alone shifts every other one against it.
    by_times[0] = -np.sum(by_times[1:])
    return Gradients(np.array(value), by_y0, {"A": by_matrix}, by_times)
