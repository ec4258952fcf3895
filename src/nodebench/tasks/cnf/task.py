"""Flows on densities, in the plane or at the sizes of tables: a continuous one, beside a stack of planar layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from nodebench.errors import UnknownNameError, UserError
from nodebench.frameworks.base import Batch, Optimizer, Weights
from nodebench.plots import Plot, View
from nodebench.problem import SolverSpec
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits, layer_weights
from nodebench.tasks.cnf.data import (
    IMPROPER,
    KL,
    KL_WITHOUT_WALL,
    MASS_OUTSIDE,
    MIXTURE,
    NLL,
    POTENTIALS,
    SAMPLERS,
    mixture,
)

PLANE = 2


@dataclass(frozen=True)
class SplitSizes:
    """Numbers of examples in the three parts of the data."""

    train: int
    validation: int
    test: int


SMOKE = SplitSizes(train=2_048, validation=256, test=512)
FULL = SplitSizes(train=50_000, validation=2_000, test=10_000)

STREAMS: Mapping[str, int] = {"train": 0, "validation": 1, "test": 2}
"""Each part has a random stream of its own, so that its examples do not depend on the size of another."""

HYPER_WIDTH = 32
"""Units in each of the two hidden layers of the hypernetwork."""


@dataclass(frozen=True)
class TabularFlow:
    """The size of one of FFJORD's flows on tabular data.

    Attributes:
        data: The data set.
        layers: Hidden layers of the field.
        factor: Units in each of them, relative to the dimension of the data.
        activation: What is between its layers.
        flows: How many such flows follow each other there; here is one.
    """

    data: str
    layers: int
    factor: int
    activation: Literal["tanh", "softplus"]
    flows: int


TABULAR: Mapping[int, TabularFlow] = {
    6: TabularFlow("POWER", 3, 10, "tanh", 5),
    8: TabularFlow("GAS", 3, 20, "tanh", 5),
    21: TabularFlow("HEPMASS", 2, 10, "softplus", 10),
    43: TabularFlow("MINIBOONE", 2, 20, "softplus", 1),
    63: TabularFlow("BSDS300", 3, 20, "softplus", 2),
}
"""By dimension, as the appendix of "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models",
Grathwohl et al., 2019, https://arxiv.org/abs/1810.01367, has them."""

_ONE_CYCLE = Optimizer("adam", 2e-2, schedule="one-cycle")
_PAPER_PLANAR = Optimizer("rmsprop", 1e-5, momentum=0.9)

_MATCHING = Optimizer("adam", 5e-3, schedule="one-cycle")
"""The continuous flow matches a density at a smaller rate, outside the paper's preset: at 2e-2 it may drop one of the
lobes of `u1`, from which KL(q || p) never recovers. The planar flow keeps the larger rate: of 1e-3, 5e-3 and 2e-2 only
the last found both lobes."""

_TABULAR = Optimizer("adam", 1e-3, schedule="one-cycle")
"""Of the continuous flow on a mixture, whose field has a hundred times as many weights: Adam at FFJORD's rate."""

CNF_RECIPES: Mapping[Preset, Recipe] = {
    "smoke": Recipe(_ONE_CYCLE, batch_size=64, epochs=2, steps_per_epoch=4),
    "quick": Recipe(_ONE_CYCLE, batch_size=512, epochs=10, steps_per_epoch=140),
    "standard": Recipe(_ONE_CYCLE, batch_size=512, epochs=20, steps_per_epoch=200),
    "paper": Recipe(Optimizer("adam", 1e-3), batch_size=512, epochs=20, steps_per_epoch=500),
}
"""The paper names Adam and 10,000 iterations for density matching and nothing else; batch and learning rate are those
of the authors' published example, and the same serves maximum likelihood."""

PLANAR_RECIPES: Mapping[Preset, Recipe] = {
    "smoke": Recipe(_ONE_CYCLE, batch_size=64, epochs=2, steps_per_epoch=4),
    "quick": Recipe(_ONE_CYCLE, batch_size=512, epochs=10, steps_per_epoch=1_000),
    "standard": Recipe(_ONE_CYCLE, batch_size=512, epochs=20, steps_per_epoch=2_500),
    "paper": Recipe(_PAPER_PLANAR, batch_size=100, epochs=50, steps_per_epoch=10_000),
}
"""The paper names RMSprop and 500,000 iterations for density matching; rate, momentum and batch are those of Rezende
and Mohamed (2015), and the same serves maximum likelihood."""


@dataclass(frozen=True)
class Cnf(AbstractTask):
    """Normalising flows on two-dimensional densities (section 4 of the paper), or at the sizes of FFJORD's tables.

    "Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and Duvenaud, 2018,
    https://arxiv.org/abs/1806.07366. A flow is matched to an unnormalised target `u1` to `u4` by its own samples, or
    fitted to the samples of a data set by maximum likelihood. The base is the standard normal.

    With `dim` the continuous flow has the field of one of FFJORD's flows on tabular data: layers that time gates and
    shifts, as wide and as many as published, and their activation. The data are points of a mixture of normals, not the
    tables; a batch has 512 of them, where the paper has 1,000 or 10,000; and there is one flow, where the paper has up
    to ten in a row. `trace=hutchinson` is the paper's loss; the exact trace costs a product for each dimension.

    Attributes:
        dataset: A target density, `"u1"` to `"u4"`, or a data set: `"moons"`, `"circles"`, `"pinwheel"`,
            `"checkerboard"`, `"8gaussians"`. All are in the plane.
        hidden: Number M of gated planar functions in the continuous flow; None is 32 for a target, 64 for a data set.
            With `dim` the units in each hidden layer of its field; None is FFJORD's number.
        layers: Number K of layers of the planar flow; None is 32 for a target, 64 for other data.
        trace: How the continuous flow's loss gets the trace of the Jacobian; the metric always takes the exact one.
        dim: Dimension of the data: 2, or that of one of FFJORD's data sets: 6 (POWER), 8 (GAS), 21 (HEPMASS),
            43 (MINIBOONE), 63 (BSDS300).

    Raises:
        UnknownNameError: If there is no such data set or trace.
        UserError: If `hidden` or `layers` is below 1, `dim` is another number, or a data set of the plane is to have
            another dimension.
    """

    dataset: str = "moons"
    hidden: int | None = None
    layers: int | None = None
    trace: Literal["exact", "hutchinson"] = "exact"
    dim: int = PLANE

    varied: ClassVar[Mapping[str, str]] = {"parameters": "hidden"}
    default_model: ClassVar[str] = "cnf"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-5, atol=1e-5, max_steps=256)
    models: ClassVar[Mapping[str, ModelEntry]] = {
        "cnf": ModelEntry(
            {"torch": "nodebench.tasks.cnf.torch:Cnf", "jax": "nodebench.tasks.cnf.jax:Cnf"},
            summary="An ODE whose field is a sum of gated planar functions with weights from a hypernetwork of time, "
            "or, with `dim`, a multilayer perceptron gated by time.",
        ),
        "planar": ModelEntry(
            {"torch": "nodebench.tasks.cnf.torch:Planar"},
            uses_backend=False,
            summary="A stack of planar layers.",
        ),
    }

    def __post_init__(self) -> None:
        known = (*SAMPLERS, *POTENTIALS)
        if self.dataset not in known:
            raise UnknownNameError("data set of task 'cnf'", self.dataset, known)
        if self.trace not in ("exact", "hutchinson"):
            raise UnknownNameError("trace of task 'cnf'", self.trace, ("exact", "hutchinson"))
        for name, meaning, value in (("hidden", "M", self.hidden), ("layers", "K", self.layers)):
            if value is not None and value < 1:
                raise UserError(f"`{name}` ({meaning}) must be at least 1; got {value}.")
        if self.dim not in (PLANE, *TABULAR):
            sizes = ", ".join(f"{dim} ({flow.data})" for dim, flow in TABULAR.items())
            raise UserError(f"`dim` must be 2, or that of one of FFJORD's data sets: {sizes}; got {self.dim}.")
        if self.dim != PLANE and self.dataset != "moons":
            raise UserError(
                f"`dataset={self.dataset}` is in the plane, and `dim={self.dim}` has data of its own; give one of them."
            )

    @property
    def matches_target(self) -> bool:
        """Whether a target density is matched rather than a data set fitted."""
        return self.dataset in POTENTIALS

    @property
    @override
    def metric(self) -> Metric:
        """KL(q || p) to a target, negative log-likelihood of a data set."""
        return KL if self.matches_target else NLL

    @property
    @override
    def diagnostics(self) -> tuple[Metric, ...]:
        """For a target, the flow's mass outside the window and the divergence as the literature has it."""
        return (MASS_OUTSIDE, KL_WITHOUT_WALL) if self.matches_target else ()

    @override
    def data_source(self) -> str:
        """Where the data come from."""
        return "drawn from the seed"

    @override
    def data(self, preset: Preset, seed: int) -> Splits:
        """Samples of the data set, or of the base for a target, drawn from the seed."""
        size = SMOKE if preset == "smoke" else FULL
        return Splits(
            self._data_name,
            train=self._draw("train", size.train, seed),
            validation=self._draw("validation", self._held_out(size.validation), seed),
            test=self._draw("test", self._held_out(size.test), seed),
            note=self._note,
        )

    @override
    def recipe(self, model: str, preset: Preset) -> Recipe:
        """The recipe of a preset; base samples and trace noise are drawn afresh in every step."""
        self._check_model(model)
        recipe = (CNF_RECIPES if model == "cnf" else PLANAR_RECIPES)[preset]
        if model == "cnf" and preset != "paper":
            own = _MATCHING if self.matches_target else recipe.optimizer if self.dim == PLANE else _TABULAR
            recipe = replace(recipe, optimizer=own)
        redraws = self.matches_target or self.trace == "hutchinson"
        return replace(recipe, evaluation_batch=self._held_out(2_000), augment=self._redraw if redraws else None)

    @override
    def model_options(self, model: str) -> Mapping[str, object]:
        self._check_model(model)
        if model == "planar":
            return {"dataset": self.dataset, "layers": self._layers, "dim": self.dim}
        return {"dataset": self.dataset, "hidden": self._hidden, "trace": self.trace, "dim": self.dim}

    @override
    def weights(self, model: str, seed: int) -> Weights:
        """Initial weights drawn from the seed, float64."""
        self._check_model(model)
        if model == "planar":
            return planar_weights(self._layers, self.dim, seed)
        if self.dim == PLANE:
            return cnf_weights(self._hidden, seed)
        return squashed_weights(field_sizes(self.dim, self._hidden), seed)

    @override
    def gradient_examples(self, seed: int) -> int | None:
        del seed
        return None

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Weights drawn from the seed and a batch of training examples."""
        batch = self._draw("train", batch_size, seed)
        return GradientInputs(self.weights(model, seed), batch, dataset=self._data_name, note=self._note)

    @override
    def plots(self, model: str, splits: Splits, view: View) -> Sequence[Plot]:
        """In the plane, true and learned density, and the flow between base and data (figures 4 and 5 of the paper)."""
        from nodebench.tasks.cnf import plots  # noqa: PLC0415  imports matplotlib

        del splits
        self._check_model(model)
        if self.dim != PLANE:
            return ()
        if model == "planar":
            return plots.planar(self.dataset, self._layers, view)
        return plots.continuous(self.dataset, view)

    @property
    def _note(self) -> str:
        if self.dataset not in IMPROPER:
            return ""
        return "The target ends at the window [-4, 4]^2 in a steep skirt, without which its mass would be infinite."

    @property
    def _data_name(self) -> str:
        return self.dataset if self.dim == PLANE else MIXTURE

    @property
    def _hidden(self) -> int:
        if self.hidden is not None:
            return self.hidden
        return self._default_size if self.dim == PLANE else self.dim * TABULAR[self.dim].factor

    @property
    def _layers(self) -> int:
        return self._default_size if self.layers is None else self.layers

    @property
    def _default_size(self) -> int:
        return 32 if self.matches_target else 64

    def _held_out(self, n: int) -> int:
        """Examples that cost as much as n in the plane by the exact trace, which takes a product for each dimension."""
        return n * PLANE // self.dim

    def _draw(self, part: str, n: int, seed: int) -> Batch:
        rng = np.random.default_rng([seed, STREAMS[part]])
        if self.matches_target:
            return self._redraw({"base": np.empty((n, PLANE))}, rng)
        data = SAMPLERS[self.dataset](n, rng) if self.dim == PLANE else mixture(n, self.dim, rng)
        return self._redraw({"data": data}, rng)

    def _redraw(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch with all that is random in an evaluation of its loss drawn afresh: base samples and trace noise."""
        new = dict(batch)
        if self.matches_target:
            new["base"] = rng.standard_normal(batch["base"].shape)
        if self.trace == "hutchinson":
            shape = next(iter(batch.values())).shape
            new["noise"] = rng.choice(np.array([-1, 1], dtype=np.int8), shape)
        return new


def cnf_weights(hidden: int, seed: int) -> dict[str, np.ndarray]:
    """Weights of the hypernetwork of a sum of gated planar functions, float64.

    Hidden layers are drawn as `torch.nn.Linear` draws them. The output layer starts near functions that do not depend
    on time: directions w standard normal, offsets b uniform over where the data lie, gates one half, and u of order
    1 / M, so that the sum starts equally gentle whatever the number M of functions.

    Args:
        hidden: Number M of gated planar functions.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for name, fan_in in (("input", 1), ("middle", HYPER_WIDTH)):
        weights |= layer_weights(f"field.{name}", (HYPER_WIDTH, fan_in), rng)
    scale = np.repeat([1.0, 1.0 / hidden, 1.0, 1.0], [2 * hidden, 2 * hidden, hidden, hidden])
    bound = 1 / sqrt(HYPER_WIDTH)
    weights["field.output.weight"] = scale[:, None] * rng.uniform(-bound, bound, (6 * hidden, HYPER_WIDTH))
    weights["field.output.bias"] = np.concatenate(
        [
            rng.normal(0, 1, 2 * hidden),
            rng.normal(0, 1 / hidden, 2 * hidden),
            np.zeros(hidden),
            rng.uniform(-2, 2, hidden),
        ]
    )
    return weights


def field_sizes(dim: int, hidden: int) -> tuple[int, ...]:
    """Widths of the layers of the field of one of FFJORD's flows, from the state and back to it.

    Args:
        dim: Dimension of the data, one of `TABULAR`.
        hidden: Units in each hidden layer.
    """
    return (dim, *[hidden] * TABULAR[dim].layers, dim)


def squashed_weights(sizes: Sequence[int], seed: int) -> dict[str, np.ndarray]:
    """Weights of layers that time gates and shifts, drawn as `torch.nn.Linear` draws them, float64.

    Args:
        sizes: Widths, from the state on.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for i, (n, m) in enumerate(pairwise(sizes)):
        weights |= layer_weights(f"field.layers.{i}.linear", (m, n), rng)
        weights |= layer_weights(f"field.layers.{i}.gate", (m, 1), rng)
        weights |= layer_weights(f"field.layers.{i}.shift", (m, 1), rng, bias=False)
    return weights


def planar_weights(layers: int, dim: int, seed: int) -> dict[str, np.ndarray]:
    """Weights of a stack of planar layers that starts near the identity, float64.

    Args:
        layers: Number K of layers.
        dim: Dimension of the data.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(0, 0.1, (layers, dim)),
        "w": rng.normal(0, 1, (layers, dim)),
        "b": rng.uniform(-2, 2, layers),
    }
