"""The gate: runs, baseline files or two versions compared, and a baseline file kept up to date.

Cells of this version are measured in turns with the same cells of another, in one run.
"""

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from nodebench import registry
from nodebench.bench.cell_run import CellRun, probe_run
from nodebench.bench.group import GradientGroup
from nodebench.bench.matrix import plan
from nodebench.bench.messages import Event
from nodebench.bench.plan import Plan
from nodebench.bench.request import Request, Settings
from nodebench.bench.runner import Runner, new_run_id, record_of
from nodebench.bench.work import CellResult, begin
from nodebench.errors import UserError
from nodebench.gating.baseline import Baseline, BaselineCell, find, own_baseline, write_baseline
from nodebench.gating.compare import BaselineUpdate, GateResult, compare, update
from nodebench.gating.probe import Defect, plugin_defect
from nodebench.gating.thresholds import Thresholds, read_thresholds
from nodebench.gating.versions import Version, ask_available, version_of_python, version_of_ref, version_of_wheel
from nodebench.measuring import Watcher, run_settings
from nodebench.options import GateOptions, part_of
from nodebench.results.machine import fingerprint
from nodebench.results.record import Measurement
from nodebench.results.store import Store, existing

THIS_VERSION = "this version"


def compared(options: GateOptions, watcher: Watcher | None = None) -> GateResult:
    """As `nodebench.api.gate`, with what is told of it."""
    slowdown = None if options.max_slowdown is None else str(options.max_slowdown)
    thresholds = read_thresholds(None if options.config is None else Path(options.config), slowdown)
    if options.old is None:
        return _measured(options, thresholds, watcher or Watcher())
    old, new = find(options.old, options.store), find(options.new, options.store)
    _check_two(options, old, new)
    return compare(old, new, thresholds)


def _check_two(options: GateOptions, old: Baseline, new: Baseline) -> None:
    """Refuse to compare a run or a file with itself, of which nothing can have become worse."""
    named = [Path(each) for each in (options.old, options.new) if isinstance(each, str | Path)]
    files = [path for path in named if path.is_file()]
    if len(files) == len(named) == 2 and files[0].samefile(files[1]):
        raise UserError(f"BASELINE and CANDIDATE are the same file, `{files[0]}`; name another as one of them.")
    if len(named) == 2 and not files and old.name == new.name:
        store = existing(options.store)
        maker = store.run(old.name).made_by
        alike = [run.run_id for run in store.runs() if run.made_by == maker]
        before = alike[: alike.index(old.name)][-1:]
        advice = f", such as {before[0]}, the run before it" if before else ""
        raise UserError(
            f"BASELINE and CANDIDATE, which is `latest` where none is named, are the same run, {old.name}; name "
            f"another run or a baseline file as BASELINE{advice}."
        )


def _measured(options: GateOptions, thresholds: Thresholds, watcher: Watcher) -> GateResult:
    """Measure a request in turns with another version, and compare the two."""
    request = part_of(Request, options)
    known = available(request)
    found = plan(known) if known == request else None  # so that what is wrong is told before anything is built
    # Absolute: workers of the other version may run in another folder.
    store = Store(Path(options.store).resolve())
    with _other_version(options) as version:
        removed = only_there(request, version)
        if not known.tasks or not (known.backends or not request.backends):
            return compare(removed, Baseline(THIS_VERSION, {}), thresholds)
        found = found or plan(known)
        if found.broken:
            watcher.broken(found.broken)
        with watcher.progress(len(found.cells)) as notify:
            settings = run_settings(options, here=True)
            both = measure_versions(found, version, store, settings, notify, watcher.command)
        return compare(both.old.joined(removed), both.new, thresholds, both.refused, both.unloadable)


def _other_version(options: GateOptions) -> AbstractContextManager[Version]:
    if options.against_ref is not None:
        return version_of_ref(options.against_ref)
    if options.against_wheel is not None:
        return version_of_wheel(Path(options.against_wheel))
    return version_of_python(str(options.against_python))


def update_baseline(
    path: Path,
    candidate: str,
    *,
    accept_regressions: bool,
    max_slowdown: str | None,
    config: Path | None,
    store: Path,
) -> BaselineUpdate:
    """Take over into a baseline file what has become better and what is new.

    Args:
        path: The file.
        candidate: A run, or a file.
        accept_regressions: Whether to take over what has become worse, too.
        max_slowdown: As for `compared`.
        config: As for `compared`.
        store: Results store.

    Raises:
        UserError: If there is no such file or run, or the file is no baseline or cannot be written.
    """
    thresholds = read_thresholds(config, max_slowdown)
    old, new = own_baseline(path), find(candidate, store)
    found = update(old, new, compare(old, new, thresholds), accept_regressions=accept_regressions)
    if found.taken:
        write_baseline(found.baseline, path)
    return found


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
    refused: Mapping[str, str]
    unloadable: Mapping[str, str]


@dataclass
class VersionTurns:
    """Measures each cell of a group together with the other version's, which is its control.

    Attributes:
        version: The other version.
        store: Where its records go.
        run_id: The run they belong to.
        environment: Key of the other version's fingerprint of this machine.
        defects: Why the other version cannot load a cell, by its id.
        refused: Why the two sides of a cell are not one problem, by its id.
        unloadable: What is told of a cell whose other side could not be loaded, by its id.
    """

    version: Version
    store: Store
    run_id: str
    environment: str
    defects: Mapping[str, Defect]
    refused: dict[str, str] = field(default_factory=dict, init=False)
    unloadable: dict[str, str] = field(default_factory=dict, init=False)

    def measure(self, group: GradientGroup) -> None:
        """Pair by pair: what is compared is a cell with itself, and not with others of its group."""
        other = self.version.interpreter.name
        for measured in group.cells:
            cell_id = measured.cell.cell_id
            defect = self.defects.get(cell_id)
            if defect is not None and defect.kind == "absent":
                self.unloadable[cell_id] = f"{other} does not have it: {defect.reason}"
                replace(group, cells=[measured]).measure()
                continue
            with TemporaryDirectory() as folder:
                old = self._other(measured, group, Path(folder) / "inputs.npz")
                settings = replace(group.settings, control=None)
                both = [measured] if old.failed else [old, measured]
                replace(group, cells=both, settings=settings).measure()
            unlike = unlike_conditions(old.conditions, measured.conditions)
            if unlike:
                self.refused[cell_id] = ", ".join(unlike)
            if defect is not None and measured.ok:  # what fails here too is compared by its status
                self.unloadable[cell_id] = f"cannot compare with {other}: {defect.reason}"
            if measured.found.control:
                measured.enter(Measurement(control=f"{measured.cell.backend} of {other}"))
            old.enter(Measurement(node=platform.node(), environment=self.environment))
            record = record_of(CellResult(old.cell, old.found), self.run_id)
            number = str(self.version.environment["libraries"]["nodebench"])
            self.store.append(replace(record, nodebench_version=number))

    def _other(self, measured: CellRun, group: GradientGroup, inputs: Path) -> CellRun:
        """The other version's side, with a model and a batch that it has made itself; failed where it cannot."""
        settings = replace(group.settings, interpreter=self.version.interpreter)
        old = CellRun(measured.cell, settings, inputs=inputs, clock=measured.clock)
        old.enter(Measurement(first_step=group.first_step))
        worker = probe_run(measured.cell, settings, measured.clock)
        with old.failures():
            begin(worker, inputs)
        worker.dismiss()
        return old


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


def available(request: Request) -> Request:
    """A request without the plugins that this version does not have."""
    backends, tasks = (
        tuple(name for name in names if name == "all" or not _is_absent(plugin_defect(kind, name)))
        for kind, names in _plugins(request).items()
    )
    return replace(request, backends=backends, tasks=tasks)


def only_there(request: Request, version: Version) -> Baseline:
    """What a request names that the other version has and this one does not, as cells without figures.

    Raises:
        UserError: If neither has a plugin.
    """
    here = _plugins(available(request))
    gone = {kind: [name for name in names if name not in here[kind]] for kind, names in _plugins(request).items()}
    found = ask_available(version, [(kind, name) for kind, names in gone.items() for name in names])
    for (kind, name), defect in found.plugins.items():
        if _is_absent(defect):
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
    return Baseline(version.interpreter.name, {cell.cell_id: cell for cell in cells})


def _plugins(request: Request) -> dict[registry.Kind, tuple[str, ...]]:
    return {"backend": tuple(request.backends), "task": tuple(request.tasks)}


def _is_absent(defect: Defect | None) -> bool:
    return defect is not None and defect.kind == "absent"


def measure_versions(
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
    name, other = version.interpreter.name, new_run_id()
    planned = replace(plan, against=name)
    defects = ask_available(version, cells=planned.cells).cells
    turns = VersionTurns(version, store, other, store.save_environment(version.environment), defects)
    made_by, told, plan_id = GateOptions.made_by, f"{command} [{name}]", f"{planned.plan_id} other"
    store.start_run(other, told, plan_id, version.environment, len(plan.cells), made_by=made_by)
    runner = Runner(store, settings, notify, turns.measure, made_by=made_by)
    run_id = runner.run(planned, command, fingerprint())
    store.finish_run(other)
    environments = store.environments()
    old = Baseline.from_records(name, store.records([other]), environments)
    new = Baseline.from_records(THIS_VERSION, store.records([run_id]), environments, paired=True)
    return TwoVersions(old, new, turns.refused, turns.unloadable)
