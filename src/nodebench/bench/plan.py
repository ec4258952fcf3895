"""Cells, their stable ids, and the groups in which they are compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from nodebench.errors import PluginError, UnknownNameError, UserError
from nodebench.problem import SolverSpec
from nodebench.registry import GIVEN, parse
from nodebench.results.record import digest

if TYPE_CHECKING:
    from nodebench.tasks.base import AbstractTask, Preset


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: task x model x backend x solver spec x device x seed.

    Attributes:
        task: Task in its canonical spelling, options included.
        model: Network of the task.
        backend: Gradient method in its canonical spelling; None for a model that solves no ODE.
        framework: Framework the cell runs in.
        spec: Solver spec; its `first_step` is None where the harness chooses it.
        device: `cpu` or `cuda`.
        threads: Threads of the worker.
        seed: Seed of weights, data order and noise.
        preset: Training budget.
        batch_size: Examples in a step.
        horizon: Factor on the time span of the gradient problem; 1 is the task's own.
    """

    task: str
    model: str
    backend: str | None
    framework: str
    spec: SolverSpec
    device: str
    threads: int
    seed: int
    preset: "Preset"
    batch_size: int
    horizon: float = 1.0

    @property
    def cell_id(self) -> str:
        """Hash of the settings, 12 hexadecimal digits; the same on every machine."""
        return digest(asdict(self))

    @property
    def label(self) -> str:
        """What a person calls it: task/model/backend, with the tolerance, and the seed where it is not 0."""
        name = "/".join([self.task, self.model, self.backend or "no backend"])
        tolerance = f" rtol {self.spec.rtol:g}" if self.backend else ""
        return f"{name}{tolerance}" + (f" seed {self.seed}" if self.seed else "")

    @property
    def comparison(self) -> str:
        """Key of the group it is compared in: all that must be equal for a comparison to mean something."""
        settings = asdict(self)
        del settings["backend"], settings["framework"]
        return digest(settings)

    @property
    def trained_alike(self) -> str:
        """Key of the group whose training steps are compared: networks and solvers may differ."""
        settings = asdict(self)
        del settings["backend"], settings["framework"], settings["model"]
        return digest({**settings, "spec": self.spec.dtype})


@dataclass(frozen=True)
class Plan:
    """What a run sets out to measure.

    Attributes:
        cells: The cells in the order in which they are measured.
        measure: One of `nodebench.bench.matrix.MEASURES`.
        against: The other version that the cells take turns with, or None.
        broken: Plugins that were asked for and cannot be used, by name, with the reason in a sentence.
        unsupported: Cells that no process need be started for, by id, with the reason in a sentence.
        empty: Why there are no cells; empty where there are.
    """

    cells: tuple[Cell, ...]
    measure: str
    against: str | None = None
    broken: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    empty: str = ""

    @property
    def plan_id(self) -> str:
        """Hash by which `--resume` finds an interrupted run of the same plan, in whatever order it was asked for."""
        against = [] if self.against is None else [self.against]
        return digest([self.measure, sorted(cell.cell_id for cell in self.cells), *against])

    def ordered_as(self, known: Iterable[str]) -> "Plan":
        """The same plan with the cells that a run has measured first, in their order, which decides on controls."""
        places = {cell_id: place for place, cell_id in enumerate(known)}
        cells = sorted(self.cells, key=lambda cell: places.get(cell.cell_id, len(places)))
        return replace(self, cells=tuple(cells))

    def shard(self, number: int, n_shards: int) -> "Plan":
        """The share of the plan that one of several jobs measures: every `n_shards`-th group, from the `number`-th on.

        Args:
            number: Which share, from 1 to `n_shards`; together the shares are the plan, and no cell is in two of them.
            n_shards: How many there are.
        """
        cells = tuple(cell for members in self.groups[number - 1 :: n_shards] for cell in members)
        ids = {cell.cell_id for cell in cells}
        refused = {cell_id: reason for cell_id, reason in self.unsupported.items() if cell_id in ids}
        reason = f"shard {number}/{n_shards}: the plan has {len(self.groups)} group{'s' * (len(self.groups) > 1)}"
        return replace(self, cells=cells, unsupported=refused, empty="" if cells else reason)

    def check_control(self, control: str | None) -> None:
        """See that the control is among the cells.

        Raises:
            PluginError: If it is broken.
            UnknownNameError: If no cell has that backend.
        """
        if control is not None and control in self.broken:
            raise PluginError(self.broken[control])
        backends = {cell.backend for cell in self.cells if cell.backend is not None}
        if control is not None and control not in backends:
            raise UnknownNameError("control among the backends of this run", control, backends)

    @property
    def groups(self) -> list[tuple[Cell, ...]]:
        """The cells that are compared with each other, in order."""
        return group(self.cells, training_steps=self.measure == "training-step")


def group(cells: Iterable[Cell], *, training_steps: bool = False) -> list[tuple[Cell, ...]]:
    """Collect cells that differ in nothing but the gradient method, keeping their order.

    Args:
        cells: The cells.
        training_steps: Whether what is compared are training steps, of whole networks.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.trained_alike if training_steps else cell.comparison, []).append(cell)
    return [tuple(members) for members in groups.values()]


def parse_shard(text: str) -> tuple[int, int]:
    """The two numbers of `I/N`: which share of a plan, and of how many.

    Raises:
        UserError: If they are no whole numbers, or not 1 <= I <= N.
    """
    number, slash, n_shards = text.partition("/")
    if not (slash and number.isdecimal() and n_shards.isdecimal() and 1 <= int(number) <= int(n_shards)):
        raise UserError(f"`--shard` must be I/N with I from 1 to N, for example 2/8; got {text!r}.")
    return int(number), int(n_shards)


def joined(plans: Sequence[Plan]) -> Plan:
    """One plan of several that measure the same."""
    cells = unique([cell for each in plans for cell in each.cells])
    broken = {name: reason for each in plans for name, reason in each.broken.items()}
    unsupported = {cell: reason for each in plans for cell, reason in each.unsupported.items()}
    return Plan(cells, plans[0].measure, broken=broken, unsupported=unsupported)


def unique(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Cells without repetitions, in order."""
    return tuple({cell.cell_id: cell for cell in cells}.values())


def unwritten(task: "AbstractTask", cell: Cell) -> str:
    """Why a cell cannot be measured, where its model is not written for its framework; empty where it is."""
    targets = task.models[cell.model].targets
    if cell.framework in targets:
        return ""
    written = " and ".join({"jax": "JAX"}.get(name, name) for name in targets)
    if parse(cell.task)[0] == GIVEN:
        return f"the field is written for {written}."
    return f"model {cell.model} of task {cell.task} is written for {written}, not for {cell.framework}."
