"""The immutable row a cell leaves behind, failures included.

Schema history (the number is kept in the store's `PRAGMA user_version`):
1  first release.
2  judged and undecided comparisons, what a failure left behind, the cost of measuring.
3  share of the floor, cost of compilation, step-size controller.
4  memory of a training step; pictures of trained models in a table of their own.
5  nodes and fingerprints of the machines that each cell was measured and trained on; fingerprints in a table.
6  the problem itself: the field's values and derivatives at fixed points; files that a run's workers had loaded.
7  how processes were started.
8  plots of trained models as SVG; pictures that older schemas packed are dropped.
9  times of training steps; which command made a run; one spelling of a task and a backend, options at defaults left
   out.
10 Jacobians and factorisations of implicit methods.
11 gradient errors along a training.
12 time of the loss, which the share of the floor leaves out since; shares of the floor in JAX.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from math import isfinite
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from nodebench.errors import UserError
from nodebench.problem import SolverSpec
from nodebench.registry import canonical, describe, is_own, load_class
from nodebench.results.quantities import (
    CATALOGUE,
    GradientPart,
    MachinePart,
    OutcomePart,
    TimingPart,
    TrainingPart,
)

SCHEMA_VERSION = 12

PRINTED = "printed before that, the last lines:"
"""The line of `stderr` between a traceback and what the process had printed."""

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class SettingsPart:
    """What was measured: the settings of a cell.

    Attributes:
        cell_id: Hash of the settings; equal settings have equal ids in every run and on every machine.
        task: Task with its options.
        model: Network of the task.
        backend: Gradient method with its options; None for a model that solves no ODE.
        framework: `torch` or `jax`.
        solver: Name of the solver.
        controller: How its steps were chosen: `integral` or `pi`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        max_steps: Limit of steps in one solve; diffrax's memory follows it.
        dtype: Floating-point type.
        device: `cpu` or `cuda`.
        threads: Threads of the worker.
        batch_size: Examples in a step.
        seed: Seed of weights, data order and noise.
        preset: The training budget.
        horizon: Factor on the time span of the gradient problem.
    """

    cell_id: str
    task: str
    model: str
    backend: str | None = None
    framework: str | None = None
    solver: str | None = None
    controller: str | None = None
    rtol: float | None = None
    atol: float | None = None
    max_steps: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    batch_size: int | None = None
    seed: int = 0
    preset: str = ""
    horizon: float = 1.0


def digest(settings: object) -> str:
    """What settings are known by, values as JSON has them: 12 hexadecimal digits, the same on every machine."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def in_one_spelling(found: SettingsPart, first_step: float | None) -> Mapping[str, Any]:
    """How the settings of an older version are spelled by this one: what must be another task, backend and id.

    Empty where nothing must, and where the id is not that of these settings: then something is not known of the cell.

    Args:
        found: The settings, which may name options at their defaults.
        first_step: The first step that was made, which may have been asked for.
    """
    task = canonical("task", found.task)
    backend = None if found.backend is None else canonical("backend", found.backend)
    if (task, backend) == (found.task, found.backend):
        return {}
    try:
        # The code of others is not run to read a file.
        if not is_own("task", task):
            return {}
        usual: SolverSpec = load_class(describe("task", task).target).spec
    except UserError:
        return {}
    names = ("dtype",) if found.solver is None else tuple({f.name for f in fields(SolverSpec)} & vars(found).keys())
    named = replace(usual, **{name: getattr(found, name) for name in names})
    of_cell = ("model", "framework", "device", "threads", "seed", "preset", "batch_size", "horizon")
    rest = {name: getattr(found, name) for name in of_cell}
    for step in (None, first_step):
        cell = {**rest, "spec": asdict(replace(named, first_step=step)), "task": found.task, "backend": found.backend}
        if digest(cell) == found.cell_id:
            anew = {"task": task} | ({} if backend is None else {"backend": backend})
            return {**anew, "cell_id": digest(cell | anew)}
    return {}


@dataclass(frozen=True, kw_only=True)
class Measurement(MachinePart, TrainingPart, TimingPart, GradientPart, OutcomePart):
    """What measuring a cell has found, so far or in all: the parts of a record that are no settings."""

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong with it."""
        return self.status == "ok"

    @property
    def known(self) -> dict[str, Any]:
        """The values of what was measured, by name; another version may have pickled it without some."""
        defaults = ((f.name, f.default if f.default_factory is MISSING else f.default_factory()) for f in _MEASURED)
        return {name: value for name, default in defaults if (value := getattr(self, name, default)) != default}

    def joined(self, other: "Measurement") -> "Measurement":
        """This and what another one knows, which replaces what is known here; notes are collected, each once."""
        known = other.known
        notes = list(dict.fromkeys([*self.notes, *known.get("notes", [])]))
        return replace(self, **{**known, "notes": notes})

    def noted(self, *notes: str) -> "Measurement":
        """The same with what a reader must know of the figures, each note once."""
        return self.joined(Measurement(notes=list(notes)))

    def without(self, *names: str) -> "Measurement":
        """The same without the values of some quantities, which must not be stated."""
        unknown: dict[str, Any] = dict.fromkeys(names)
        return replace(self, **unknown)


_MEASURED = fields(Measurement)


@dataclass(frozen=True, kw_only=True)
class Record(Measurement, SettingsPart):
    """One measured cell. A field that was not measured is None, never zero; units are in the names.

    It consists of parts, whose fields are its own: `settings` says what was measured; `outcome`, `machine`, `gradient`,
    `timing` and `training` say what was found, as `nodebench.results.quantities` describes.

    Attributes:
        run_id: The run it belongs to.
        created_at: When the row was written, UTC, ISO 8601.
        nodebench_version: Version that measured it.
        attempt: 1, and one more each time the cell was measured again after a failure.
    """

    run_id: str
    created_at: str
    nodebench_version: str
    attempt: int = 1

    @property
    def settings(self) -> SettingsPart:
        """What was measured."""
        return self._part(SettingsPart)

    @property
    def outcome(self) -> OutcomePart:
        """How it ended."""
        return self._part(OutcomePart)

    @property
    def machine(self) -> MachinePart:
        """Where it was measured and trained."""
        return self._part(MachinePart)

    @property
    def gradient(self) -> GradientPart:
        """What the gradient measurement found but for times."""
        return self._part(GradientPart)

    @property
    def timing(self) -> TimingPart:
        """What the timing found."""
        return self._part(TimingPart)

    @property
    def training(self) -> TrainingPart:
        """What the training reached and took."""
        return self._part(TrainingPart)

    def _part(self, cls: type[P]) -> P:
        return cls(**{f.name: getattr(self, f.name) for f in fields(cls)})  # type: ignore[arg-type]  # a dataclass

    @property
    def as_trained(self) -> "Record":
        """The record as one of the machine that it was trained on; itself where it was not trained."""
        if self.train_environment is None:
            return self
        return replace(self, node=self.train_node, environment=self.train_environment)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON knows it, which has no NaN and no infinity: they become null."""
        return {name: _finite(value) for name, value in asdict(self).items()}

    def to_row(self) -> dict[str, Any]:
        """The record as SQLite knows it: lists and mappings as JSON text."""
        return {name: json.dumps(value) if name in _STRUCTURED else value for name, value in self.to_dict().items()}

    @property
    def traceback(self) -> str:
        """Where it failed: `stderr` without what a process that lived on had printed before."""
        return (self.stderr or "").partition(f"\n{PRINTED}\n")[0].strip()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """The inverse of `to_row`; what a row of an older version lacks is as in a cell of which it is not known."""
        known = {f.name: row[f.name] for f in fields(cls) if row[f.name] is not None}
        return cls(**{name: json.loads(value) if name in _STRUCTURED else value for name, value in known.items()})


def columns() -> dict[str, str]:
    """Column names of the records table with their SQLite types."""
    return {name: _sql_type(hint) for name, hint in get_type_hints(Record).items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _sql_type(hint: Any) -> str:
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if get_origin(hint) in _UNIONS else [hint]
    return {int: "INTEGER", float: "REAL"}.get(kinds[0], "TEXT")


_UNIONS = (Union, UnionType)

_STRUCTURED = frozenset(f.name for f in _MEASURED if f.default_factory is not MISSING and f.name in CATALOGUE)
"""Fields that are lists or mappings."""
