"""Tables 1 and 3: networks for MNIST, their error, parameters, memory and time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from nodebench.paper.pages import MNIST, UNLIKE, Place, Sample, Source, measured, page, published, sample, stand_ins
from nodebench.paper.plans import STEPS, TRAINING_STEPS
from nodebench.paper.verdicts import exponent_text, growth_claim, seen
from nodebench.reports.document import ABSENT, Column, Document, Entry, Section, Table, number
from nodebench.results.record import Record
from nodebench.results.scaling import scalings
from nodebench.stats import PowerLaw, fit_power_law
from nodebench.tasks.mnist.task import BLOCKS

Row = tuple[str, str | None]
"""Model and backend."""


@dataclass(frozen=True)
class PublishedClassifier:
    """A row of a published table: a network for MNIST.

    Attributes:
        name: What it is called there.
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


TABLE_1: Mapping[Row, PublishedClassifier] = {
    ("mlp", None): PublishedClassifier("1-layer MLP", 1.60, 0.24e6),
    ("resnet", None): PublishedClassifier("ResNet", 0.41, 0.60e6, "O(L)", "O(L)"),
    ("odenet", "direct"): PublishedClassifier("RK-Net", 0.47, 0.22e6, "O(L~)", "O(L~)"),
    ("odenet", "adjoint"): PublishedClassifier("ODE-Net", 0.42, 0.22e6, "O(1)", "O(L~)"),
}
"""Table 1 of the paper, by model and backend."""

TABLE_3: Mapping[Row, PublishedClassifier] = {
    ("resnet-2", None): PublishedClassifier("ResNet(2)", 0.42, 0.28e6, "O(L)", "O(L)"),
    ("odenet", "direct"): TABLE_1["odenet", "direct"],
    ("odenet", "adjoint"): TABLE_1["odenet", "adjoint"],
}
"""Table 3 of a replication note on the paper, "honest MNIST": a residual network of about as many parameters."""

MEMORY_EXPONENTS: Mapping[Row, float] = {
    ("resnet", None): 1.0,
    ("odenet", "direct"): 1.0,
    ("odenet", "adjoint"): 0.0,
}
"""The laws of table 1 as numbers; that of time is 1 for all three."""

TEST_IMAGES = 10_000


@dataclass(frozen=True)
class _Page:
    """What sets the page of one table apart.

    Attributes:
        published: The figures that ours stand beside.
        ours: Networks that the table does not have.
        by: Whose figures the published ones are.
        told: What its authors did.
    """

    published: Mapping[Row, PublishedClassifier]
    ours: Sequence[Row]
    by: str
    told: str

    @property
    def rows(self) -> tuple[Row, ...]:
        """All networks, the published ones last."""
        return (*self.ours, *self.published)

    @property
    def no_row(self) -> str:
        """Why a network has no published figure."""
        return f"the {self.by} has no such network."


PAGES: Mapping[str, _Page] = {
    "table1": _Page(
        TABLE_1,
        (),
        "paper",
        "The paper trains a residual network of six blocks, an ODE in their place whose gradient is taken by the "
        "adjoint method (ODE-Net) or through the integrator (RK-Net), and quotes a multilayer perceptron.",
    ),
    "table3": _Page(
        TABLE_3,
        (("mlp", None), ("resnet", None), ("resnet-0", None), ("resnet-1", None)),
        "note",
        "A replication note on the paper sets its ODE networks beside a residual network of two blocks, which has "
        "about as many parameters: comparing them with a perceptron, or with three times the parameters, is not fair.",
    ),
}


def _columns(by: str) -> tuple[Column, ...]:
    return (
        Column("network", "Model, and the gradient method where it solves an ODE.", numeric=False),
        Column(f"{by}'s name", numeric=False),
        Column("test error %"),
        Column(f"{by} %", f"Test error in the table of the {by}."),
        Column("parameters", "Trainable parameters, in millions."),
        Column(f"{by} M", f"Parameters in the table of the {by}, in millions."),
        Column(
            "memory MiB", "Peak of one training step of the whole network at initial weights, above the idle process."
        ),
        Column("memory grows", "Measured exponent with its 95 % interval, over blocks L or steps (L~ evaluations)."),
        Column(f"{by}, memory", f"The law that the {by} states.", numeric=False),
        Column("step ms", "Time of such a step, in turns with those of the other networks."),
        Column("time grows", "Measured exponent with its 95 % interval, over blocks L or steps (L~ evaluations)."),
        Column(f"{by}, time", f"The law that the {by} states.", numeric=False),
    )


def tables(source: Source) -> Document:
    """The page of `table1` or `table3`."""
    about = PAGES[source.name]
    laws = {quantity: growth(source, about.rows, quantity) for quantity in ("memory", "time")}
    caption = f"Networks for MNIST, ours beside the {about.by}'s figures."
    rows = tuple(_row(source, row, laws) for row in about.rows)
    return page(
        source,
        f"Table {source.name.removeprefix('table')}: networks for MNIST",
        about.told,
        [*_level_claims(source), *_growth_claims(laws)],
        [Section(f"Ours beside the {about.by}'s", (Table(source.name, caption, _columns(about.by), rows),))],
        _deviations(source),
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
    return record.train_step_s


def _steps(source: Source, model: str, backend: str | None = None) -> list[Place]:
    """The training step of a network that was measured."""
    return source.of(TRAINING_STEPS.name, MNIST, model, backend)


def _over_blocks(source: Source, figure: Callable[[Record], float | None]) -> PowerLaw | str:
    """How what blocks add to the network without any grows with their number: y(L) - y(0) ~ L^p."""
    places = {n: _steps(source, model) for model, n in BLOCKS.items()}
    if figure is step_s and not source.of_one_machine([place for each in places.values() for place in each]):
        return UNLIKE
    blocks = {n: sample(source, of, figure) for n, of in sorted(places.items())}
    reason = next((one.reason for one in blocks.values() if one.mean is None), None)
    if reason is not None:
        return f"it takes {_blocks()} blocks; {reason}"
    added = {n: one.mean - blocks[0].mean for n, one in blocks.items() if n and one.mean and blocks[0].mean}
    law = fit_power_law(list(added), list(added.values()))
    return law or "a network with blocks took no more than the one without."


def _blocks() -> str:
    """The numbers of blocks, in words."""
    *numbers, last = sorted(BLOCKS.values())
    return f"{', '.join(map(str, numbers))} and {last}"


def _over_steps(source: Source, backend: str | None, quantity: str) -> PowerLaw | str:
    places = [place for place in source.places[STEPS.name] if place.cell.backend == backend]
    records = measured(places)
    if not records:
        return source.why(places)
    if quantity == "time" and not source.of_one_machine(places):
        return UNLIKE
    scaling = next(each for each in scalings(records, "steps") if each.quantity == quantity)
    return scaling.law or f"{scaling.reason}."


def _row(source: Source, row: Row, laws: Mapping[str, Mapping[Row, PowerLaw | str]]) -> tuple[Entry, ...]:
    (model, backend), about = row, PAGES[source.name]
    trained, stepped, theirs = (
        source.trainings(MNIST, model, backend),
        _steps(source, model, backend),
        about.published.get(row),
    )
    parameters = sample(source, stepped, lambda r: None if r.n_params is None else r.n_params / 1e6)
    peak = sample(source, stepped, lambda r: None if r.train_memory_bytes is None else r.train_memory_bytes / 2**20)
    step = sample(source, stepped, lambda r: None if r.train_step_s is None else 1000 * r.train_step_s)
    if step.values and not source.of_one_machine(source.places[TRAINING_STEPS.name]):
        step = Sample((), UNLIKE)
    return (
        Entry(f"{model} `{backend}`" if backend else model, f"{model} {backend or ''}"),
        Entry(theirs.name) if theirs else Entry(ABSENT, reason=about.no_row),
        _error(source, trained).entry(),
        published(theirs.error if theirs else None, 2, about.no_row),
        parameters.entry(),
        published(theirs.n_params / 1e6 if theirs else None, 2, about.no_row),
        peak.entry(),
        _law_entry(laws["memory"].get(row)),
        _stated(theirs, "memory"),
        step.entry(),
        _law_entry(laws["time"].get(row)),
        _stated(theirs, "time"),
    )


def _stated(theirs: PublishedClassifier | None, quantity: str) -> Entry:
    law = "" if theirs is None else theirs.memory if quantity == "memory" else theirs.time
    return Entry(law, law) if law else Entry(ABSENT, reason="none is stated.")


def _law_entry(law: PowerLaw | str | None) -> Entry:
    if law is None:
        return Entry(ABSENT, reason="it has neither blocks nor steps to vary, or its blocks are those of `resnet`.")
    if isinstance(law, str):
        return Entry(ABSENT, reason=law)
    return Entry(exponent_text(law), law.exponent)


def _error(source: Source, places: Sequence[Place]) -> Sample:
    return sample(source, places, lambda r: r.metric_value)


def _chance(*errors: float) -> float:
    """How far apart two test errors in per cent may be by chance of the test images alone, at 95 %."""
    return 2 * sqrt(sum(error * (100 - error) for error in errors) / TEST_IMAGES)


def _level_claims(source: Source) -> list[str]:
    """Whether each network reaches the published error, and whether the ODE and the residual network err alike."""
    about = PAGES[source.name]
    errors = {row: _error(source, source.trainings(MNIST, *row)).mean for row in about.published}
    found = {row: error for row, error in errors.items() if error is not None}
    few = bool(stand_ins(source)) or source.preset == "smoke"
    sentences = []
    for row, ours in found.items():
        theirs = about.published[row]
        chance = _chance(ours, theirs.error)
        told = f"{theirs.name} errs {theirs.error:.2f} % in the {about.by}, {number(ours)} % here"
        if few:
            sentences.append(f"{told}, on too few images to say.")
            continue
        reached = "is" if ours <= theirs.error + chance else "is not"
        sentences.append(
            f"{told}: this level {reached} reached, where {number(chance, 2)} may be chance of the test images alone."
        )
    residual, ode = next(row for row in about.published if row[0].startswith("resnet")), ("odenet", "adjoint")
    if few or residual not in found or ode not in found:
        return sentences
    chance = _chance(found[residual], found[ode])
    alike = seen(holds=abs(found[residual] - found[ode]) <= chance).text
    return [
        *sentences,
        f"ODE-Net errs about as often as {about.published[residual].name}, as in the {about.by}: this {alike} here, "
        f"{number(found[ode])} against {number(found[residual])} %, where {number(chance, 2)} may be chance.",
    ]


def _growth_claims(laws: Mapping[str, Mapping[Row, PowerLaw | str]]) -> list[str]:
    claims = []
    for quantity, found in laws.items():
        for row, law in found.items():
            if isinstance(law, PowerLaw):
                paper = TABLE_1[row]
                text, stated = (paper.memory, MEMORY_EXPONENTS[row]) if quantity == "memory" else (paper.time, 1.0)
                peak = "; below stands what the peak has of them" if quantity == "memory" else ""
                note = "" if row[1] else f" ({_blocks()} blocks, each less the network without any{peak})"
                claim = f"{quantity.capitalize()} of {paper.name}, {text} in the paper,"
                claims.append(growth_claim(claim, law, stated, note))
    return claims


def _deviations(source: Source) -> list[str]:
    about = PAGES[source.name]
    parameters = [
        f"{theirs.name} {record.n_params / 1e6:.3f} M here, {theirs.n_params / 1e6:.2f} M there"
        for row, theirs in about.published.items()
        for record in measured(_steps(source, *row))[:1]
        if record.n_params is not None
    ]
    solvers = sorted({f"{r.solver} at rtol {number(r.rtol)}" for r in source.records if r.solver and r.train_s})
    return [
        *(
            [f"Parameters: {'; '.join(parameters)}. The architecture is the authors' published example."]
            if parameters
            else []
        ),
        *([f"Solver: {', '.join(solvers)}; the paper's ODE-Net has SciPy's implicit Adams method."] if solvers else []),
        "The paper names neither optimiser, learning rate nor epochs of its table, nor the integrator of RK-Net; here "
        "all networks have one recipe, batch and schedule.",
        *(
            ["The paper quotes the perceptron's error from LeCun et al. 1998; here it is trained."]
            if source.name == "table1"
            else [
                "`resnet-0` and `resnet-1` are controls of ours, after issues 25 and 32 of torchdiffeq, which ask what "
                "the ODE adds; `mlp` and `resnet` are the paper's."
            ]
        ),
        "Exponents over L~ are of one gradient step of the ODE alone over fixed steps of `rk4`; those over L of "
        "training steps of whole networks, less the network without blocks. The paper states its laws and measures "
        "none.",
        *_peak(source),
    ]


def _peak(source: Source) -> list[str]:
    """What the peak of a training step has of the blocks."""
    resnet, without = (next(iter(measured(_steps(source, model))), None) for model in ("resnet", "resnet-0"))
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
