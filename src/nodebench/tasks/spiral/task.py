"""Spirals observed at irregular times, continued: a latent ODE against a recurrent network.

Two families of plane spirals are observed with white noise; their continuation has none.
The experiment is that of section 5.1 of "Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and
Duvenaud, 2018, https://arxiv.org/abs/1806.07366, which does not say what its curves are. These are the two of the
example published with torchdiffeq, at the thousand points that it intends for a curve: at time s in [0, 6 pi],
counter-clockwise the radius 0.3 s about (5, 0) at the angle s; clockwise the radius 15 / (6 pi + 1 - s) about (-5, 0)
at the angle 6 pi + 1 - s. Both grow. A trajectory is a piece of one of them, 200 points long, with its time counted
from its own start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import ClassVar

import numpy as np
from typing_extensions import override

from nodebench.errors import UserError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.plots import Plot, View
from nodebench.problem import SolverSpec
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits, layer_weights

N_POINTS = 100
"""Equally spaced times of the observed span; the observations are drawn from them."""

N_FURTHER = 100
"""Times beyond the observed span, at the same spacing."""

STOP = 6.0 * np.pi
"""Where the curves end."""

SPACING = STOP / 999
"""Time between two points."""

STARTS = (100 * SPACING, 700 * SPACING)
"""Range of the starts: all radii lie between 0.5 and 5.1."""

LATENT = 4
"""Dimensions of the latent state, hence of the noise drawn for each trajectory."""

N_TRAIN = 1000
N_VALIDATION = 250
N_TEST = 500

HIDDEN = 25
"""Units of the recurrent networks."""

UNITS = 20
"""Units in the hidden layer of the dynamics and of the decoder."""

_TORCH = "nodebench.tasks.spiral.torch"
_JAX = "nodebench.tasks.spiral.jax"

_LATENT_ODE = Optimizer("adam", 0.02, schedule="one-cycle", clip_norm=100.0)
_RNN = Optimizer("adam", 0.01, schedule="one-cycle", clip_norm=100.0)
_EXAMPLE = Optimizer("adam", 0.01)

RECIPES: Mapping[str, Mapping[Preset, Recipe]] = {
    "latent-ode": {
        "smoke": Recipe(_LATENT_ODE, batch_size=250, epochs=2, steps_per_epoch=4),
        "quick": Recipe(_LATENT_ODE, batch_size=250, epochs=24, steps_per_epoch=50),
        "standard": Recipe(_LATENT_ODE, batch_size=250, epochs=60, steps_per_epoch=200),
        "paper": Recipe(_EXAMPLE, batch_size=1000, epochs=100, steps_per_epoch=20),
    },
    "rnn": {
        "smoke": Recipe(_RNN, batch_size=250, epochs=2, steps_per_epoch=4),
        "quick": Recipe(_RNN, batch_size=250, epochs=24, steps_per_epoch=250),
        "standard": Recipe(_RNN, batch_size=250, epochs=50, steps_per_epoch=500),
        "paper": Recipe(_EXAMPLE, batch_size=1000, epochs=100, steps_per_epoch=20),
    },
}
"""The network without a solver takes more steps in less time; it needs them.

What the paper trained with is not published. `paper` is the example of torchdiffeq: 2000 full batches.
"""


@dataclass(frozen=True)
class Spiral(AbstractTask):
    """Spirals observed at irregular times, continued beyond them (section 5 and table 2 of the paper).

    "Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and Duvenaud, 2018,
    https://arxiv.org/abs/1806.07366. The data are drawn from the seed; see the module.

    Attributes:
        observations: How many of a trajectory's 100 points are observed; the paper has 30, 50 and 100.
        noise: Standard deviation of the white noise on them, in units of the plane; radii lie between 0.5 and 5.
    """

    observations: int = 50
    noise: float = 0.3

    metric: ClassVar[Metric] = Metric("extrapolation RMSE", "", "lower", "root-mean-square")
    diagnostics: ClassVar[tuple[Metric, ...]] = (Metric("interpolation RMSE", "", "lower", "root-mean-square"),)
    default_model: ClassVar[str] = "latent-ode"
    # Solvers that land on all 100 times take steps so short that third order is exact to 1e-6: a higher one would only
    # evaluate more often. Those that interpolate keep the tolerance. The paper's 1.5e-8 is out of float32's reach.
    spec: ClassVar[SolverSpec] = SolverSpec(solver="bosh3", rtol=1e-4, atol=1e-4, max_steps=512)
    models: ClassVar[Mapping[str, ModelEntry]] = {
        "latent-ode": ModelEntry(
            {"torch": f"{_TORCH}:LatentODE", "jax": f"{_JAX}:LatentODE"},
            summary="A variational autoencoder with an ODE between its recurrent encoder and its decoder.",
        ),
        "rnn": ModelEntry(
            {"torch": f"{_TORCH}:RNN"},
            uses_backend=False,
            summary="A recurrent network with the time to the next observation among its inputs.",
        ),
    }

    def __post_init__(self) -> None:
        if not 2 <= self.observations <= N_POINTS:
            raise UserError(
                f"`observations` must be between 2 and {N_POINTS}, the points of a trajectory; got {self.observations}."
            )
        if not (isfinite(self.noise) and self.noise > 0):
            raise UserError(f"`noise` must be positive and finite: it is the likelihood's too; got {self.noise}.")

    @override
    def data_source(self) -> str:
        return "spirals drawn from the seed"

    @override
    def data(self, preset: Preset, seed: int) -> Splits:
        """1000 training trajectories, 250 for validation and 500 for the test, all drawn from the seed."""
        train, validation, test = np.random.default_rng(seed).spawn(3)
        return Splits(
            "spirals",
            train=draw(N_TRAIN, self.observations, self.noise, train),
            validation=draw(N_VALIDATION, self.observations, self.noise, validation),
            test=draw(N_TEST, self.observations, self.noise, test),
        )

    @override
    def recipe(self, model: str, preset: Preset) -> Recipe:
        """The recipe of a preset; the noise of the latent draw is new in every step."""
        self._check_model(model)
        return replace(RECIPES[model][preset], augment=redraw_noise)

    @override
    def model_options(self, model: str) -> Mapping[str, object]:
        self._check_model(model)
        options = {"noise_std": self.noise}
        return options | {"distinct_times": N_POINTS} if model == "latent-ode" else options

    @override
    def weights(self, model: str, seed: int) -> Weights:
        """Initial weights with the distributions of `torch.nn`, drawn from the seed, float64."""
        self._check_model(model)
        return latent_ode_weights(seed) if model == "latent-ode" else rnn_weights(seed)

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights drawn from the seed and the first training trajectories.

        Raises:
            UserError: If the batch is larger than the training data.
        """
        if not 1 <= batch_size <= N_TRAIN:
            raise UserError(
                f"`batch_size` must be between 1 and the {N_TRAIN} training trajectories; got {batch_size}."
            )
        splits = self.data("quick", seed)
        batch = {name: values[:batch_size] for name, values in splits.train.items()}
        return GradientInputs(self.weights(model, seed), batch, dataset=splits.name)

    @override
    def plots(self, model: str, splits: Splits, view: View) -> Sequence[Plot]:
        """Reconstructed and extrapolated test trajectories, and the latent ones of the latent ODE (figure 8)."""
        from nodebench.tasks.spiral import plots  # noqa: PLC0415  imports matplotlib

        self._check_model(model)
        return plots.plots(splits.test, view)


def span_times() -> np.ndarray:
    """Times of the observed span, from 0 at a trajectory's start, float64 of shape `(100,)`."""
    return SPACING * np.arange(N_POINTS)


def further_times() -> np.ndarray:
    """Times beyond the observed span, float64 of shape `(100,)`."""
    return SPACING * np.arange(N_POINTS, N_POINTS + N_FURTHER)


def curve(times: np.ndarray, clockwise: np.ndarray) -> np.ndarray:
    """Points of the two curves.

    Args:
        times: Times in [0, 6 pi], any shape.
        clockwise: Which curve, booleans that broadcast against `times`.

    Returns:
        Points, shape `(*times.shape, 2)`.
    """
    left = STOP + 1.0 - times
    angle = np.where(clockwise, left, times)
    radius = np.where(clockwise, 15.0 / left, 0.3 * times)
    centre = np.where(clockwise, -5.0, 5.0)
    return np.stack([radius * np.cos(angle) + centre, radius * np.sin(angle)], axis=-1)


def draw(n: int, observations: int, noise: float, rng: np.random.Generator) -> Batch:
    """Draw trajectories, half of them clockwise, each from a start of its own.

    Args:
        n: How many.
        observations: How many of the 100 points of the span are observed, drawn without replacement per trajectory.
        noise: Standard deviation of the white noise on each coordinate of an observation.
        rng: Generator of all draws.

    Returns:
        `times` `(n, observations)`, increasing; `observations` `(n, observations, 2)`, noisy; `inside` `(n, 100, 2)`
        and `beyond` `(n, 100, 2)`, the trajectory without noise within the span and after it; `noise` `(n, 4)`,
        standard normal, for the draw of the latent state.
    """
    starts = rng.uniform(*STARTS, size=n)
    clockwise = rng.permutation(np.arange(n) % 2 == 1)
    grid = np.concatenate([span_times(), further_times()])
    clean = curve(starts[:, None] + grid, clockwise[:, None])
    points = np.tile(np.arange(N_POINTS), (n, 1))
    kept = np.sort(rng.permuted(points, axis=1)[:, :observations], axis=1)
    seen = np.take_along_axis(clean, kept[:, :, None], axis=1)
    return {
        "times": grid[kept],
        "observations": seen + noise * rng.standard_normal(seen.shape),
        "inside": clean[:, :N_POINTS],
        "beyond": clean[:, N_POINTS:],
        "noise": rng.standard_normal((n, LATENT)),
    }


def redraw_noise(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch with fresh noise for the draw of the latent state, so that no two steps share any."""
    return {**batch, "noise": rng.standard_normal(batch["noise"].shape)}


def latent_ode_weights(seed: int) -> dict[str, np.ndarray]:
    """Weights of recognition network, dynamics and decoder, float64.

    As `torch.nn` draws them: uniform within 1 / sqrt(fan-in) for linear layers and within 1 / sqrt(hidden units) for
    recurrent ones. Names are those of `state_dict` in torch.
    """
    rng = np.random.default_rng(seed)
    return {
        **_recurrent("recognition.rnn", rng),
        **layer_weights("recognition.output", (2 * LATENT, HIDDEN), rng),
        **layer_weights("field.hidden", (UNITS, LATENT), rng),
        **layer_weights("field.output", (LATENT, UNITS), rng),
        **layer_weights("decoder.hidden", (UNITS, LATENT), rng),
        **layer_weights("decoder.output", (2, UNITS), rng),
    }


def rnn_weights(seed: int) -> dict[str, np.ndarray]:
    """Weights of the recurrent network that predicts the next observation, float64."""
    rng = np.random.default_rng(seed)
    return {**_recurrent("rnn", rng), **layer_weights("output", (2, HIDDEN), rng)}


def _recurrent(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A recurrent layer that takes a point and a time."""
    bound = 1 / sqrt(HIDDEN)
    shapes = {
        "weight_ih_l0": (HIDDEN, 3),
        "weight_hh_l0": (HIDDEN, HIDDEN),
        "bias_ih_l0": (HIDDEN,),
        "bias_hh_l0": (HIDDEN,),
    }
    return {f"{name}.{key}": rng.uniform(-bound, bound, shape) for key, shape in shapes.items()}
