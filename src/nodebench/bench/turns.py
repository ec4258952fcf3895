"""Cells of this version measured in turns with the same cells of another, in one run."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from nodebench.bench.events import Event
from nodebench.bench.gradient import GradientGroup
from nodebench.bench.machine import fingerprint
from nodebench.bench.measured import Measured
from nodebench.bench.plan import Plan
from nodebench.bench.recording import record_of
from nodebench.bench.runner import Runner, new_run_id
from nodebench.bench.settings import Settings
from nodebench.bench.versions import Version
from nodebench.bench.work import Outcome
from nodebench.results.baseline import Baseline
from nodebench.results.finding import Gate
from nodebench.results.gate import compare
from nodebench.results.store import Store
from nodebench.results.thresholds import Thresholds

THIS_VERSION = "this version"


@dataclass(frozen=True)
class TwoVersions:
    """What two versions were found to do.

    Attributes:
        old: Figures of the other version.
        new: Figures of this one, its times relative to the other's.
        refused: Why the two sides of a cell cannot be compared, by its id.
    """

    old: Baseline
    new: Baseline
    refused: Mapping[str, str]

    def gate(self, thresholds: Thresholds) -> Gate:
        """The comparison of the two."""
        return compare(self.old, self.new, thresholds, self.refused)


@dataclass
class VersionTurns:
    """Measures each cell of a group together with the other version's, which is its control.

    Attributes:
        version: The other version.
        store: Where its records go.
        run_id: The run they belong to.
        environment: Key of the other version's fingerprint of this machine.
        refused: Why the two sides of a cell cannot be compared, by its id.
    """

    version: Version
    store: Store
    run_id: str
    environment: str
    refused: dict[str, str] = field(default_factory=dict, init=False)

    def measure(self, group: GradientGroup) -> None:
        """Pair by pair: what is compared is a cell with itself, and not with others of its group."""
        for measured in group.cells:
            old = self._other(measured, group)
            settings = replace(group.settings, control=None)
            GradientGroup([old, measured], group.comparison, settings, group.notify).measure()
            measured.measured_s += old.measured_s
            self._check_conditions(old, measured)
            if measured.figures.get("control"):
                measured.figures["control"] = f"{measured.cell.backend} of {self.version.interpreter.name}"
            place = {"node": platform.node(), "environment": self.environment}
            record = record_of(Outcome(old.cell, old.figures | place), self.run_id)
            self.store.append(replace(record, nodebench_version=self._version_number))

    @property
    def _version_number(self) -> str:
        return str(self.version.environment["libraries"]["nodebench"])

    def _other(self, measured: Measured, group: GradientGroup) -> Measured:
        settings = replace(group.settings, interpreter=self.version.interpreter)
        old = Measured(measured.cell, settings, companion=True)
        old.figures["first_step"] = group.comparison.first_step
        return old

    def _check_conditions(self, old: Measured, new: Measured) -> None:
        if old.conditions and new.conditions:
            unlike = [name for name in new.conditions if new.conditions[name] != old.conditions.get(name)]
            if unlike:
                told = ", ".join(f"{name} {old.conditions.get(name)} against {new.conditions[name]}" for name in unlike)
                self.refused[new.cell.cell_id] = told


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
    turns = VersionTurns(version, store, new_run_id(), store.save_environment(version.environment))
    store.start_run(
        turns.run_id, f"{command} [{name}]", f"{planned.plan_id} other", version.environment, len(plan.cells)
    )
    run_id = Runner(store, settings, notify, turns.measure).run(planned, command, fingerprint())
    store.finish_run(turns.run_id)
    environments = store.environments()
    old = Baseline.from_records(name, store.records([turns.run_id]), environments)
    new = Baseline.from_records(THIS_VERSION, store.records([run_id]), environments, paired=True)
    return TwoVersions(old, new, turns.refused)
