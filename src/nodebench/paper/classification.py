"""Tables 1 and 3: networks for MNIST, their error, parameters, memory and time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from nodebench.paper.pages import MNIST, UNLIKE, Place, Sample, Source, measured, page, published, sample, stand_ins
from nodebench.paper.verdicts import exponent_text, growth_claim, seen
from nodebench.reports.document import ABSENT, Column, Document, Entry, Section, Table, number
from nodebench.results.record import Record
from nodebench.results.scaling import scalings
from nodebench.stats import PowerLaw, fit_power_law


@dataclass(frozen=True)
class PublishedClassifier:
    """A row of table 1 (section 3): a network for MNIST.

    Attributes:
        name: What the paper calls it.
        error: Test error, in per cent.
        n_params: Trainable parameters.
        memory: How memory grows, in L residual blocks or L~ evaluations; empty where the table has none.
        time: How time grows.
    """

    name: str
    error: float
    n_params: float
    memory: str = ""
    time: str = ""


TABLE_1: Mapping[tuple[str, str | None], PublishedClassifier] = {
    ("mlp", None): PublishedClassifier("1-layer MLP", 1.60, 0.24e6),
    ("resnet", None): PublishedClassifier("ResNet", 0.41, 0.60e6, "O(L)", "O(L)"),
    ("odenet", "direct"): PublishedClassifier("RK-Net", 0.47, 0.22e6, "O(L~)", "O(L~)"),
    ("odenet", "adjoint"): PublishedClassifier("ODE-Net", 0.42, 0.22e6, "O(1)", "O(L~)"),
}
"""By model and backend."""

MEMORY_EXPONENTS: Mapping[tuple[str, str | None], float] = {
    ("resnet", None): 1.0,
    ("odenet", "direct"): 1.0,
    ("odenet", "adjoint"): 0.0,
}
"""The same laws as numbers; that of time is 1 for all three."""

Row = tuple[str, str | None]
"""Model and backend."""

ROWS: Mapping[str, Sequence[Row]] = {
    "table1": (("mlp", None), ("resnet", None), ("odenet", "direct"), ("odenet", "adjoint")),
    "table3": (
        ("mlp", None), ("no-block", None), ("one-block", None), ("resnet-small", None), ("resnet", None),
        ("odenet", "direct"), ("odenet", "adjoint"),
    ),
}  # fmt: skip

BLOCKS: Mapping[str, int] = {"one-block": 1, "resnet-small": 2, "resnet": 6}
"""Residual blocks L of the networks from which the growth over L is taken, beside `no-block`."""

TEST_IMAGES = 10_000

NO_ROW = "table 1 of the paper has no such row."

COLUMNS = (
    Column("network", "Model, and the gradient method where it solves an ODE.", numeric=False),
    Column("paper's name", numeric=False),
    Column("test error %"),
    Column("paper %", "Table 1 of the paper."),
    Column("parameters", "Trainable parameters, in millions."),
    Column("paper M", "Table 1 of the paper, in millions."),
    Column("memory MiB", "Peak of one training step of the whole network at initial weights, above the idle process."),
    Column("memory grows", "Measured exponent with its 95 % interval, over blocks L or steps (L~ evaluations)."),
    Column("paper, memory", "Table 1 of the paper.", numeric=False),
    Column("step ms", "Training time over training steps."),
    Column("time grows", "Measured exponent with its 95 % interval, over blocks L or steps (L~ evaluations)."),
    Column("paper, time", "Table 1 of the paper.", numeric=False),
)


def tables(source: Source) -> Document:
    """The page of `table1` or `table3`."""
    rows = ROWS[source.name]
    laws = {"memory": growth(source, rows, "memory"), "time": growth(source, rows, "time")}
    table = Table(
        source.name,
        "Networks for MNIST, ours beside the paper's figures.",
        COLUMNS,
        tuple(_row(source, row, laws) for row in rows),
    )
    number_of_table = source.name.removeprefix("table")
    small = "" if source.name == "table1" else ", beside a smaller residual network"
    return page(
        source,
        f"Table {number_of_table}: networks for MNIST",
        "The paper trains a residual network of six blocks, an ODE in their place whose gradient is taken by the "
        f"adjoint method (ODE-Net) or through the integrator (RK-Net), and quotes a multilayer perceptron{small}.",
        [*_error_claims(source), *_growth_claims(laws)],
        [Section("Ours beside the paper's", (table,))],
        _deviations(source, rows),
    )


def growth(source: Source, rows: Sequence[Row], quantity: str) -> dict[Row, PowerLaw | str]:
    """The measured power law of memory or time of each network, or why there is none."""
    found: dict[Row, PowerLaw | str] = {row: _over_steps(source, row[1], quantity) for row in rows if row[1]}
    if ("resnet", None) in rows:
        found["resnet", None] = _over_blocks(source, memory if quantity == "memory" else step_s)
    return found


def memory(record: Record) -> float | None:
    """Peak of a training step, in bytes."""
    return record.train_memory_bytes


def step_s(record: Record) -> float | None:
    """Time of a training step, in seconds."""
    return record.train_s / record.train_steps if record.train_s and record.train_steps else None


def _over_blocks(source: Source, figure: Callable[[Record], float | None]) -> PowerLaw | str:
    """How what blocks add to the network without any grows with their number: y(L) - y(0) ~ L^p."""
    places = [place for model in ("no-block", *BLOCKS) for place in source.trainings(MNIST, model)]
    if figure is step_s and not source.of_one_machine(places):
        return UNLIKE
    without = sample(source, source.trainings(MNIST, "no-block"), figure)
    blocks = {n: sample(source, source.trainings(MNIST, model), figure) for model, n in BLOCKS.items()}
    reason = next((one.reason for one in (without, *blocks.values()) if one.mean is None), None)
    if reason is not None or without.mean is None:
        return f"it takes 0, 1, 2 and 6 blocks; {reason}"
    added = {n: one.mean - without.mean for n, one in blocks.items() if one.mean is not None}
    law = fit_power_law(list(added), list(added.values()))
    return law or "a network with blocks took no more than the one without."


def _over_steps(source: Source, backend: str | None, quantity: str) -> PowerLaw | str:
    places = [place for place in source.places["steps"] if place.cell.backend == backend]
    records = measured(places)
    if not records:
        return source.why(places)
    if quantity == "time" and not source.of_one_machine(places):
        return UNLIKE
    scaling = next(each for each in scalings(records, "steps") if each.quantity == quantity)
    return scaling.law or f"{scaling.reason}."


def _row(source: Source, row: Row, laws: Mapping[str, Mapping[Row, PowerLaw | str]]) -> tuple[Entry, ...]:
    model, backend = row
    places, paper = source.trainings(MNIST, model, backend), TABLE_1.get(row)
    parameters = sample(source, places, lambda r: None if r.n_params is None else r.n_params / 1e6)
    peak = sample(source, places, lambda r: None if r.train_memory_bytes is None else r.train_memory_bytes / 2**20)
    step = sample(source, places, lambda r: None if (s := step_s(r)) is None else 1000 * s)
    if step.values and not source.of_one_machine(source.places["training"]):
        step = Sample((), UNLIKE)
    return (
        Entry(f"{model} `{backend}`" if backend else model, f"{model} {backend or ''}"),
        Entry(paper.name) if paper else Entry(ABSENT, reason=NO_ROW),
        _error(source, places).entry(),
        published(paper.error if paper else None, 2, NO_ROW),
        parameters.entry(),
        published(paper.n_params / 1e6 if paper else None, 2, NO_ROW),
        peak.entry(),
        _law_entry(laws["memory"].get(row)),
        _stated(paper, "memory"),
        step.entry(),
        _law_entry(laws["time"].get(row)),
        _stated(paper, "time"),
    )


def _stated(paper: PublishedClassifier | None, quantity: str) -> Entry:
    law = "" if paper is None else paper.memory if quantity == "memory" else paper.time
    return Entry(law, law) if law else Entry(ABSENT, reason="the paper states none.")


def _law_entry(law: PowerLaw | str | None) -> Entry:
    if law is None:
        return Entry(ABSENT, reason="it has neither blocks nor steps to vary.")
    if isinstance(law, str):
        return Entry(ABSENT, reason=law)
    return Entry(exponent_text(law), law.exponent)


def _error(source: Source, places: Sequence[Place]) -> Sample:
    return sample(source, places, lambda r: r.metric_value)


def _error_claims(source: Source) -> list[str]:
    """Whether the ODE-Net errs about as often as the residual network."""
    ode_net, resnet = (
        _error(source, source.trainings(MNIST, *row)).mean for row in (("odenet", "adjoint"), ("resnet", None))
    )
    if ode_net is None or resnet is None:
        return []
    theirs, of_resnet = TABLE_1["odenet", "adjoint"], TABLE_1["resnet", None]
    paper = (
        f"The paper's ODE-Net errs about as often as its ResNet ({theirs.error} against {of_resnet.error} %, with "
        f"{theirs.n_params / 1e6:.2f} M against {of_resnet.n_params / 1e6:.2f} M parameters)"
    )
    figures = f"{number(ode_net)} against {number(resnet)} %"
    if stand_ins(source) or source.preset == "smoke":
        return [f"{paper}; ours err {figures}, on too few images to say."]
    chance = 2 * sqrt(sum(error * (100 - error) for error in (ode_net, resnet)) / TEST_IMAGES)
    found = seen(holds=abs(ode_net - resnet) <= chance).text
    return [f"{paper}. This {found} here: {figures}, where {number(chance, 2)} may be chance of the test images alone."]


def _growth_claims(laws: Mapping[str, Mapping[Row, PowerLaw | str]]) -> list[str]:
    claims = []
    for quantity, found in laws.items():
        for row, law in found.items():
            if isinstance(law, PowerLaw):
                paper = TABLE_1[row]
                text, stated = (paper.memory, MEMORY_EXPONENTS[row]) if quantity == "memory" else (paper.time, 1.0)
                peak = "; below stands what the peak has of them" if quantity == "memory" else ""
                note = "" if row[1] else f" (1, 2 and 6 blocks, each less the network without any{peak})"
                claim = f"{quantity.capitalize()} of {paper.name}, {text} in the paper,"
                claims.append(growth_claim(claim, law, stated, note))
    return claims


def _deviations(source: Source, rows: Sequence[Row]) -> list[str]:
    parameters = [
        f"{TABLE_1[row].name} {record.n_params / 1e6:.3f} M here, {TABLE_1[row].n_params / 1e6:.2f} M there"
        for row in rows
        if row in TABLE_1
        for record in measured(source.trainings(MNIST, *row))[:1]
        if record.n_params is not None
    ]
    in_first = source.name == "table1"
    solvers = sorted({f"{r.solver} at rtol {number(r.rtol)}" for r in source.records if r.solver and r.train_s})
    return [
        *(
            [f"Parameters: {'; '.join(parameters)}. The architecture is the authors' published example."]
            if parameters
            else []
        ),
        *([f"Solver: {', '.join(solvers)}; the paper's ODE-Net has SciPy's implicit Adams method."] if solvers else []),
        "The paper names neither optimiser, learning rate nor epochs of this table, nor the integrator of RK-Net.",
        "The paper quotes the perceptron's error from LeCun et al. 1998; here it is trained.",
        "`one-block` and `no-block` are controls of ours, not the paper's, after issues 25 and 32 of torchdiffeq, "
        "which ask what the ODE adds.",
        *(
            ["The paper's columns are those of its table 1; the figures of its table 3 are not quoted."]
            * (not in_first)
        ),
        "Exponents over L~ are of one gradient step of the ODE alone over fixed steps of `rk4`; those over L of "
        "training steps of whole networks, less the network without blocks. The paper states its laws and measures "
        "none.",
        *_peak(source),
    ]


def _peak(source: Source) -> list[str]:
    """What the peak of a training step has of the blocks."""
    resnet, without = (next(iter(measured(source.trainings(MNIST, model))), None) for model in ("resnet", "no-block"))
    if resnet is None or without is None or not (resnet.train_memory_bytes and without.train_memory_bytes):
        return []
    added = (resnet.train_memory_bytes - without.train_memory_bytes) / 2**20
    gradients = np.dtype(resnet.dtype).itemsize * ((resnet.n_params or 0) - (without.n_params or 0)) / 2**20
    return [
        "Memory over L is that of the peak of a step, which the downsampling may reach by itself, in its backward "
        "pass, when the blocks have given back what they kept: of the peak of ResNet, "
        f"{number(resnet.train_memory_bytes / 2**20)} MiB, its six blocks are {number(added)} MiB, and the gradients "
        f"of their parameters alone take {number(gradients)} MiB."
    ]
