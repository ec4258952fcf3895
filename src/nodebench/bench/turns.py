"""Cells of this version measured in turns with the same cells of another, in one run."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from nodebench import registry
from nodebench.bench.cell_run import CellRun, probe_run
from nodebench.bench.group import GradientGroup
from nodebench.bench.machine import fingerprint
from nodebench.bench.messages import Event
from nodebench.bench.plan import Plan
from nodebench.bench.presence import ABSENT, BROKEN, Lack, lack
from nodebench.bench.request import Request, Settings
from nodebench.bench.runner import Runner, new_run_id, record_of
from nodebench.bench.versions import Version, ask_presence
from nodebench.bench.work import CellResult, begin
from nodebench.results.baseline import Baseline, BaselineCell
from nodebench.results.finding import Gate
from nodebench.results.gate import compare
from nodebench.results.record import Measurement
from nodebench.results.store import Store
from nodebench.results.thresholds import Thresholds

THIS_VERSION = "this version"


@dataclass(frozen=True)
class TwoVersions:
    """What two versions were found to do.

    Attributes:
        old: Figures of the other version.
        new: Figures of this one, its times relative to the other's.
        refused: Why the two sides of a cell are not one problem, by its id.
        unloadable: Why the other version cannot load a cell, by its id.
    """

    old: Baseline
    new: Baseline
    refused: Mapping[str, str] = field(default_factory=dict)
    unloadable: Mapping[str, str] = field(default_factory=dict)

    def gate(self, thresholds: Thresholds) -> Gate:
        """The comparison of the two."""
        return compare(self.old, self.new, thresholds, self.refused, self.unloadable)


@dataclass
class VersionTurns:
    """Measures each cell of a group together with the other version's, which is its control.

    Attributes:
        version: The other version.
        store: Where its records go.
        run_id: The run they belong to.
        environment: Key of the other version's fingerprint of this machine.
        lacks: What the other version lacks of cells, by their ids.
        refused: Why the two sides of a cell are not one problem, by its id.
        unloadable: Why the other version cannot load a cell, by its id.
    """

    version: Version
    store: Store
    run_id: str
    environment: str
    lacks: Mapping[str, Lack]
    refused: dict[str, str] = field(default_factory=dict, init=False)
    unloadable: dict[str, str] = field(default_factory=dict, init=False)

    def measure(self, group: GradientGroup) -> None:
        """Pair by pair: what is compared is a cell with itself, and not with others of its group."""
        for measured in group.cells:
            what, why = self.lacks.get(measured.cell.cell_id, (None, ""))
            if what == ABSENT:
                self._unloadable(measured, "does not have it", why)
                replace(group, cells=[measured]).measure()
                continue
            with TemporaryDirectory() as folder:
                old = self._other(measured, group, Path(folder) / "inputs.npz")
                settings = replace(group.settings, control=None)
                both = [measured] if old.failed else [old, measured]
                replace(group, cells=both, settings=settings).measure()
            self._check_conditions(old, measured)
            if what == BROKEN and measured.ok:  # what fails here too is compared by its status
                self._unloadable(measured, "cannot be compared with", why)
            if measured.found.control:
                measured.enter(Measurement(control=f"{measured.cell.backend} of {self.version.interpreter.name}"))
            old.enter(Measurement(node=platform.node(), environment=self.environment))
            record = record_of(CellResult(old.cell, old.found), self.run_id)
            self.store.append(replace(record, nodebench_version=self._version_number))

    @property
    def _version_number(self) -> str:
        return str(self.version.environment["libraries"]["nodebench"])

    def _other(self, measured: CellRun, group: GradientGroup, inputs: Path) -> CellRun:
        """The other version's side, with a model and a batch that it has made itself; failed where it cannot."""
        settings = replace(group.settings, interpreter=self.version.interpreter)
        old = CellRun(measured.cell, settings, companion=True, inputs=inputs, clock=measured.clock)
        old.enter(Measurement(first_step=group.first_step))
        worker = probe_run(measured.cell, settings, measured.clock)
        with old.failures():
            begin(worker, inputs)
        worker.dismiss()
        return old

    def _unloadable(self, measured: CellRun, what: str, why: str) -> None:
        self.unloadable[measured.cell.cell_id] = f"{self.version.interpreter.name} {what}: {why}"

    def _check_conditions(self, old: CellRun, new: CellRun) -> None:
        unlike = unlike_conditions(old.conditions, new.conditions)
        if unlike:
            self.refused[new.cell.cell_id] = ", ".join(unlike)


def unlike_conditions(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """In what the conditions of two versions differ, a few words each.

    A name of several words, such as `parameter net.weight`, is of the kind that its first word says. A kind of which
    one version has no name at all may be unknown to it, and says nothing.
    """
    kinds = {name.partition(" ")[0] for name in old} & {name.partition(" ")[0] for name in new}
    return [
        f"{name} {old.get(name, 'none')} against {new.get(name, 'none')}"
        for name in dict.fromkeys([*old, *new])
        if name.partition(" ")[0] in kinds and old.get(name) != new.get(name)
    ]


def present(request: Request) -> Request:
    """A request without the plugins that this version does not have."""
    backends, tasks = (
        tuple(name for name in names if name == "all" or not _is_absent(lack(kind, name)))
        for kind, names in _plugins(request).items()
    )
    return replace(request, backends=backends, tasks=tasks)


def only_there(request: Request, version: Version) -> Baseline:
    """What a request names that the other version has and this one does not, as cells without figures.

    Raises:
        UserError: If neither has a plugin.
    """
    here = _plugins(present(request))
    gone = {kind: [name for name in names if name not in here[kind]] for kind, names in _plugins(request).items()}
    found = ask_presence(version, [(kind, name) for kind, names in gone.items() for name in names])
    for (kind, name), there in found.plugins.items():
        if _is_absent(there):
            registry.describe(cast(registry.Kind, kind), name)  # raises what it lacks here
    for kind, names in gone.items():
        if "all" in here[kind]:
            names += [name for name in found.names[kind] if name not in registry.names(kind)]
    backends: list[str | None] = [*here["backend"], *gone["backend"]]
    cells = [
        BaselineCell(cell_id=f"{task}/{backend}", task=task, model="", backend=backend)
        for task, backend in product([*here["task"], *gone["task"]], backends or [None])
        if task in gone["task"] or backend in gone["backend"]
    ]
    return Baseline(version.interpreter.name, {cell.cell_id: cell for cell in cells}, {})


def _plugins(request: Request) -> dict[registry.Kind, tuple[str, ...]]:
    return {"backend": tuple(request.backends), "task": tuple(request.tasks)}


def _is_absent(found: Lack | None) -> bool:
    return found is not None and found[0] == ABSENT


def compare_versions(
    plan: Plan, version: Version, store: Store, settings: Settings, notify: Callable[[Event], None], command: str
) -> TwoVersions:
    """Measure the gradient steps of a plan with this version and another, whose workers take turns.

    Args:
        plan: What to measure.
        version: The other version.
        store: Where records go: those of the other version are a run of its own. Its path is absolute, since workers of
            the other version may run in another folder.
        settings: How the plan is measured.
        notify: Told what happens.
        command: The command line, for the store.
    """
    name = version.interpreter.name
    planned = replace(plan, against=name)
    lacks = ask_presence(version, cells=planned.cells).cells
    turns = VersionTurns(version, store, new_run_id(), store.save_environment(version.environment), lacks)
    store.start_run(
        turns.run_id, f"{command} [{name}]", f"{planned.plan_id} other", version.environment, len(plan.cells)
    )
    run_id = Runner(store, settings, notify, turns.measure).run(planned, command, fingerprint())
    store.finish_run(turns.run_id)
    environments = store.environments()
    old = Baseline.from_records(name, store.records([turns.run_id]), environments)
    new = Baseline.from_records(THIS_VERSION, store.records([run_id]), environments, paired=True)
    return TwoVersions(old, new, turns.refused, turns.unloadable)
