"""The tables and figures of the paper that can be measured again, and claims of others, each with plans and page.

"Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and Duvenaud, 2018,
https://arxiv.org/abs/1806.07366.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from nodebench.bench.request import Request
from nodebench.errors import UnknownNameError
from nodebench.paper import claims
from nodebench.paper.parts import Part
from nodebench.tasks.mnist.task import BLOCKS

if TYPE_CHECKING:
    from nodebench.paper.pages import Source
    from nodebench.reports.document import Document


@dataclass(frozen=True)
class Reproduction:
    """A table or figure of the paper.

    Attributes:
        name: What it is called on the command line.
        title: What it shows.
        page: Which function makes its page, as `module.function` of this package.
        parts: What is measured for it.
    """

    name: str
    title: str
    page: str
    parts: tuple[Part, ...]


CLASSIFIERS = Part(
    "training",
    (
        Request(
            tasks=("mnist",),
            models=("mlp", "resnet", "resnet-2", "resnet-1", "resnet-0", "odenet"),
            backends=("direct", "adjoint"),
            measure="training",
        ),
    ),
)

TRAINING_STEPS = Part(
    "training steps",
    (
        Request(
            tasks=("mnist",),
            models=("mlp", *BLOCKS, "odenet"),
            backends=("direct", "adjoint"),
            measure="training-step",
        ),
    ),
)
"""Memory and time of all networks in turns, at the batch that they are trained with."""

STEPS = Part(
    "steps",
    (Request(tasks=("mnist",), models=("odenet",), backends=("direct", "adjoint"), measure="gradient"),),
    over=("steps", (4, 6, 9, 13, 20)),
)
"""Few enough for minutes: a step of `rk4` is four evaluations forward and as many backward."""

TRAINED_ODE_NET = Part("training", (Request(tasks=("mnist",), backends=("adjoint",), measure="training"),))

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)

EVALUATIONS = Part(
    "counts",
    tuple(
        Request(tasks=("mnist",), backends=backends, solvers=solvers, rtols=TOLERANCES, max_steps=512, measure="counts")
        for backends, solvers in (
            (("adjoint", "torchdiffeq-adjoint"), ("dopri5", "bosh3", "dopri8")),
            (("adjoint",), ("tsit5",)),
            (("scipy",), ("vode-adams",)),
        )
    ),
)
"""LSODA is left out: it sets aside a dense Jacobian, which is too large for this state."""

SIZES = (2, 8, 32)
TARGETS = ("u1", "u2", "u3")
SAMPLED = ("circles", "moons")
OBSERVATIONS = (30, 50, 100)

DENSITIES = Part(
    "training",
    (
        Request(
            tasks=tuple(f"cnf[dataset={target},hidden={size}]" for target in TARGETS for size in SIZES),
            models=("cnf",),
            backends=("adjoint",),
            measure="training",
        ),
        Request(
            tasks=tuple(f"cnf[dataset={target},layers={size}]" for target in TARGETS for size in SIZES),
            models=("planar",),
            measure="training",
        ),
    ),
)

LIKELIHOOD = Part(
    "training",
    (
        Request(
            tasks=tuple(f"cnf[dataset={data}]" for data in SAMPLED),
            models=("cnf", "planar"),
            backends=("adjoint",),
            measure="training",
        ),
    ),
)

SPIRALS = Part(
    "training",
    (
        Request(
            tasks=tuple(f"spiral[observations={n}]" for n in OBSERVATIONS),
            models=("latent-ode", "rnn"),
            backends=("adjoint",),
            measure="training",
        ),
    ),
)

REPRODUCTIONS: Mapping[str, Reproduction] = {
    found.name: found
    for found in (
        Reproduction(
            "table1",
            "Classification of digits: error, parameters, memory and time",
            "classification.tables",
            (CLASSIFIERS, TRAINING_STEPS, STEPS),
        ),
        Reproduction(
            "table3",
            "The same with smaller residual networks",
            "classification.tables",
            (CLASSIFIERS, TRAINING_STEPS, STEPS),
        ),
        Reproduction(
            "figure3", "Evaluations of a trained ODE-Net", "evaluations.figure", (TRAINED_ODE_NET, EVALUATIONS)
        ),
        Reproduction("figure4", "Density matching: continuous against planar flows", "flows.matching", (DENSITIES,)),
        Reproduction("figure5", "Maximum likelihood: flows between noise and data", "flows.likelihood", (LIKELIHOOD,)),
        Reproduction("table2", "Spirals continued: latent ODE against recurrent network", "spirals.table", (SPIRALS,)),
        Reproduction("figure8", "Spirals reconstructed, and their latent space", "spirals.figure", (SPIRALS,)),
        Reproduction("claims", "Claims of papers and libraries, put to the test", "claims.page", claims.PARTS),
    )
}


def named(names: Iterable[str]) -> list[Reproduction]:
    """Reproductions by name, each once; `all` stands for all.

    Raises:
        UnknownNameError: If there is none of a name.
    """
    known = [*REPRODUCTIONS, "all"]
    chosen: dict[str, Reproduction] = {}
    for name in names:
        if name not in known:
            raise UnknownNameError("reproduction", name, known)
        chosen |= REPRODUCTIONS if name == "all" else {name: REPRODUCTIONS[name]}
    return list(chosen.values())


def page_of(source: "Source") -> "Document":
    """The page of a reproduction."""
    module, _, function = REPRODUCTIONS[source.name].page.partition(".")
    # Pages draw charts, which an extra brings, and plans are made without it.
    page: Document = getattr(import_module(f"nodebench.paper.{module}"), function)(source)
    return page
