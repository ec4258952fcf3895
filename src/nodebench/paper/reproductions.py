"""Reproductions of the paper: what is still to be measured, and the page of what a store holds."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from nodebench.bench.plan import Plan
from nodebench.bench.runner import Continuation
from nodebench.errors import user_error
from nodebench.measuring import Watcher, conditions, measure
from nodebench.options import DEFAULT_STORE, ReproduceOptions
from nodebench.paper.pages import Place, Source
from nodebench.paper.parts import settles
from nodebench.paper.plans import named, page_of
from nodebench.reports.writers.files import PAGES, check_outputs
from nodebench.results.machine import Fingerprint, differences, environment_of
from nodebench.results.record import Record
from nodebench.results.store import Store, now

if TYPE_CHECKING:
    from nodebench.reports.document import Document


@dataclass(frozen=True)
class Reproductions:
    """Reproductions under some conditions, and the store that holds what has been measured for them.

    Attributes:
        options: The conditions, and the store.
        plans: The plans of each reproduction's parts.
        environment: What must be the same for the figures that the pages keep to, as `conditions` has it; None for
            any.
    """

    options: ReproduceOptions
    plans: Mapping[str, Mapping[str, Plan]]
    environment: Fingerprint | None

    @classmethod
    def of(cls, names: Iterable[str], options: ReproduceOptions, *, any_machine: bool) -> "Reproductions":
        """Reproductions by name.

        Args:
            names: Their names; `all` stands for all.
            options: The conditions.
            any_machine: Whether the figures of other machines will do.

        Raises:
            UserError: If there is none of a name, a condition is wrong, or Ray is wanted and not installed.
        """
        plans = {found.name: {part.name: part.plan(options) for part in found.parts} for found in named(names)}
        # Once: whoever changes the software during a long run must not lose what it has measured by then.
        return cls(options, plans, None if any_machine else conditions(options))

    @property
    def path(self) -> Path:
        """The store."""
        return Path(self.options.store)

    @property
    def each(self) -> list[Plan]:
        """The plans of all parts, each once."""
        return list({plan.plan_id: plan for parts in self.plans.values() for plan in parts.values()}.values())

    @property
    def broken(self) -> dict[str, str]:
        """Plugins that cannot be used, by name, with the reason."""
        return {name: reason for plan in self.each for name, reason in plan.broken.items()}

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be measured of any plan."""
        return all(len(self.settled(plan)) == len(plan.cells) for plan in self.each)

    def answers(self, plan: Plan) -> dict[str, Record]:
        """What is known of the cells of a plan, by id."""
        if not self.path.is_file():
            return {}
        return answers(Store(self.path, read_only=True), plan, self.environment)

    def settled(self, plan: Plan) -> dict[str, Record]:
        """The records of cells that need not be measured again, by id."""
        found = self.answers(plan)
        return {cell_id: record for cell_id, record in found.items() if settles(record, plan.measure)}

    def measure(self, plan: Plan, watcher: Watcher) -> None:
        """Measure what the store does not hold of a plan.

        Raises:
            UserError: If it cannot be measured.
        """
        assert self.environment is not None, "what is measured has conditions"
        found = self.settled(plan)
        how = continuation(Store(self.path), plan, self.environment)
        if len(found) < len(plan.cells) or how == "resume":
            options = replace(self.options, resume=how == "resume")
            measure(plan, options, watcher, environment=self.environment, known=found)

    def page(self, name: str, command: str) -> "Document":
        """The page of a reproduction, made by a command."""
        store = Store(self.path, read_only=True)
        places: dict[str, list[Place]] = {}
        for part, plan in self.plans[name].items():
            found = self.answers(plan)
            places[part] = [Place(cell, found.get(cell.cell_id)) for cell in plan.cells]
        source = Source(
            name=name,
            places=places,
            environments=store.environments(),
            plots=lambda record: store.plots(record.run_id, record.cell_id),
            preset=self.options.preset,
            seeds=tuple(self.options.seeds),
            measuring=self._command(name),
            command=command,
            created_at=now(),
        )
        return page_of(source)

    def _command(self, name: str) -> str:
        """The command that measures what is missing; options left at their defaults are left out."""
        usual, chosen = ReproduceOptions(), self.options
        options = {
            "--preset": (chosen.preset, usual.preset),
            "--seed": (",".join(map(str, chosen.seeds)), ",".join(map(str, usual.seeds))),
            "--threads": (str(chosen.threads), str(usual.threads)),
            "--device": (chosen.device, usual.device),
            "--executor": (chosen.executor, usual.executor),
            "--ray-address": (chosen.ray_address, usual.ray_address),
            "--checkpoint-dir": (chosen.checkpoint_dir, usual.checkpoint_dir),
            "--group-cpus": (chosen.group_cpus, usual.group_cpus),
            "--retries": (chosen.retries, usual.retries),
            "--jobs": (chosen.jobs, usual.jobs),
            "--timeout-s": (chosen.timeout_s, usual.timeout_s),
            "--store": (str(self.path), str(DEFAULT_STORE)),
        }
        given = [
            word for option, (value, default) in options.items() if value != default for word in (option, str(value))
        ]
        return shlex.join(["nodebench", "reproduce", name, *given])


def pages_of(names: Sequence[str], output: Sequence[Path], charts: str | None) -> dict[str, list[Path]]:
    """The files of each reproduction, which can be written.

    Args:
        names: The reproductions; `all` stands for all.
        output: The files that were asked for; empty for one of the reproduction's name.
        charts: Format of the charts beside them, or None.

    Raises:
        UserError: If there is no reproduction of a name, or a file cannot be written.
    """
    chosen = [found.name for found in named(names)]
    several = len(chosen) > 1
    found = {
        name: [path.with_stem(path.stem + (f"-{name}" if several else "")) for path in output]
        or [Path(f"reproduction-{name}.html")]
        for name in chosen
    }
    paths = [path for files in found.values() for path in files]
    check_outputs(paths, charts, PAGES)
    for folder in {path.parent for path in paths}:
        # Before hours are spent on what is to stand there. Permissions do not tell: a file system may be read-only.
        with user_error(f"nothing can be written in the folder `{folder}`"), TemporaryFile(dir=folder):
            pass
    return found


def answers(store: Store, planned: Plan, environment: Fingerprint | None = None) -> dict[str, Record]:
    """What a store says of a plan: for each of its cells the newest record that has what is measured, by id.

    Where there is none, the newest failure of a run of this very plan: what failed in another may have been another
    measurement. A cell of which nothing is known is absent.

    Args:
        store: The store.
        planned: The plan.
        environment: What a record must be from, as `conditions` has it: a machine with its software, or any machine
            with that software; None for any.

    Raises:
        StoreError: If the store lacks the fingerprint of a record.
    """
    wanted = {cell.cell_id for cell in planned.cells}
    plans = {run.run_id: run.plan for run in store.runs()}
    records = [record for record in store.records() if record.cell_id in wanted]
    if environment is not None:
        taken = store.environments()
        # A run on a cluster has an executor, which no machine has.
        conditions_met = {name: value for name, value in environment.items() if name != "executor"}

        def is_alike(machine: Fingerprint) -> bool:
            return not differences({name: machine.get(name) for name in conditions_met}, conditions_met)

        records = [record for record in records if is_alike(environment_of(record, taken))]
    failed = [r for r in records if r.status != "ok" and plans[r.run_id] == planned.plan_id]
    settled = [r for r in records if settles(r, planned.measure)]
    newest = {r.cell_id: r for part in (failed, settled) for r in sorted(part, key=lambda r: r.created_at)}
    return {cell.cell_id: newest[cell.cell_id] for cell in planned.cells if cell.cell_id in newest}


def continuation(store: Store, planned: Plan, environment: Fingerprint) -> Continuation:
    """Whether there is an interrupted run of a plan to go on with: the newest, if made under the same conditions."""
    run_id = store.newest(planned.plan_id, unfinished=True)
    alike = run_id is not None and not differences(store.run(run_id).environment, environment)
    return "resume" if alike else "new"
