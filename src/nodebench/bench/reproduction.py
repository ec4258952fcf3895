"""The tables and figures of the paper that can be measured again, declared as plans, and what of them a store holds.

"Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and Duvenaud, 2018,
https://arxiv.org/abs/1806.07366.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nodebench.bench.matrix import plan, scaling_plan
from nodebench.bench.plan import Plan, joined
from nodebench.bench.request import Request
from nodebench.bench.runner import Continuation
from nodebench.errors import UnknownNameError
from nodebench.results.environment import differences, environment_of
from nodebench.results.record import Record
from nodebench.results.store import Store
from nodebench.tasks.base import Preset


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a user chooses, the same for all parts of a reproduction; see `Request`."""

    preset: Preset = "quick"
    seeds: tuple[int, ...] = (0,)
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Part:
    """A plan of a reproduction, but for the conditions.

    Attributes:
        name: Key among the parts of a reproduction.
        requests: What is measured; all of them measure the same.
        steps: Where a scaling over fixed steps is measured; empty for none.
    """

    name: str
    requests: tuple[Request, ...]
    steps: tuple[int, ...] = ()

    @property
    def measure(self) -> str:
        """What is measured of each cell."""
        return self.requests[0].measure

    def plan(self, conditions: Conditions) -> Plan:
        """The cells under some conditions.

        Raises:
            UserError: If the conditions are wrong.
        """
        # Seeds are for what differs from one training to the next; counts, memory and time are taken at the first.
        seeds = conditions.seeds if self.measure == "training" else conditions.seeds[:1]
        plans = [self._plan(replace(request, seeds=seeds), conditions) for request in self.requests]
        return joined(plans)

    def _plan(self, request: Request, conditions: Conditions) -> Plan:
        request = replace(request, preset=conditions.preset, threads=conditions.threads, device=conditions.device)
        return scaling_plan(request, "steps", self.steps) if self.steps else plan(request)


@dataclass(frozen=True)
class Reproduction:
    """A table or figure of the paper.

    Attributes:
        name: What it is called on the command line.
        title: What it shows.
        parts: What is measured for it.
    """

    name: str
    title: str
    parts: tuple[Part, ...]


CLASSIFIERS = Part(
    "training",
    (
        Request(
            tasks=("mnist",),
            models=("mlp", "resnet", "resnet-small", "one-block", "no-block", "odenet"),
            backends=("direct", "adjoint"),
            measure="training",
        ),
    ),
)

STEPS = Part(
    "steps",
    (Request(tasks=("mnist",), models=("odenet",), backends=("direct", "adjoint"), measure="gradient"),),
    steps=(5, 10, 20),
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
            tasks=("cnf[dataset=circles]", "cnf[dataset=moons]"),
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
            tasks=tuple(f"spiral[observations={n}]" for n in (30, 50, 100)),
            models=("latent-ode", "rnn"),
            backends=("adjoint",),
            measure="training",
        ),
    ),
)

REPRODUCTIONS: Mapping[str, Reproduction] = {
    found.name: found
    for found in (
        Reproduction("table1", "Classification of digits: error, parameters, memory and time", (CLASSIFIERS, STEPS)),
        Reproduction("table3", "The same with smaller residual networks", (CLASSIFIERS, STEPS)),
        Reproduction("figure3", "Evaluations of a trained ODE-Net", (TRAINED_ODE_NET, EVALUATIONS)),
        Reproduction("figure4", "Density matching: continuous against planar flows", (DENSITIES,)),
        Reproduction("figure5", "Maximum likelihood: flows between noise and data", (LIKELIHOOD,)),
        Reproduction("table2", "Spirals continued: latent ODE against recurrent network", (SPIRALS,)),
        Reproduction("figure8", "Spirals reconstructed, and their latent space", (SPIRALS,)),
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


def answers(store: Store, planned: Plan, environment: Mapping[str, Any] | None = None) -> dict[str, Record]:
    """What a store says of a plan: for each of its cells the newest record that has what is measured, by id.

    Where there is none, the newest failure of a run of this very plan: what failed in another may have been another
    measurement. A cell of which nothing is known is absent.

    Args:
        store: The store.
        planned: The plan.
        environment: Fingerprint of the machine to whose records, on the same software, to keep; None for any.

    Raises:
        StoreError: If the store lacks the fingerprint of a record.
    """
    wanted = {cell.cell_id for cell in planned.cells}
    plans = {run.run_id: run.plan for run in store.runs()}
    records = [record for record in store.records() if record.cell_id in wanted]
    if environment is not None:
        taken = store.environments()
        records = [record for record in records if not differences(environment_of(record, taken), environment)]
    failed = [r for r in records if r.status != "ok" and plans[r.run_id] == planned.plan_id]
    settled = [r for r in records if settles(r, planned.measure)]
    newest = {r.cell_id: r for part in (failed, settled) for r in sorted(part, key=lambda r: r.created_at)}
    return {cell.cell_id: newest[cell.cell_id] for cell in planned.cells if cell.cell_id in newest}


def settles(record: Record, measure: str) -> bool:
    """Whether a record has what is measured, so that its cell need not be measured again."""
    needed = {
        "training": (record.metric_value,),
        "gradient": (record.step_s,),
        "counts": (record.nfe_forward,),
        "both": (record.metric_value, record.step_s),
    }[measure]
    return record.status == "ok" and None not in needed


def known(found: Mapping[str, Record], measure: str) -> Collection[str]:
    """Ids of the cells that need not be measured again."""
    return {cell_id for cell_id, record in found.items() if settles(record, measure)}


def continuation(store: Store, planned: Plan, environment: Mapping[str, Any]) -> Continuation:
    """Whether there is an interrupted run of a plan to go on with: the newest, if made under the same conditions."""
    run_id = store.newest(planned.plan_id, unfinished=True)
    alike = run_id is not None and not differences(store.run(run_id).environment, environment)
    return "resume" if alike else "new"
