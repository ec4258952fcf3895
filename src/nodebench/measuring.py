"""How a plan comes to be measured: where, by which cores, into which store, and who is told of it."""

import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nodebench import registry
from nodebench.bench.checkpoints import check_folder
from nodebench.bench.executors.local import AbstractExecutor, LocalExecutor
from nodebench.bench.group import GradientGroup
from nodebench.bench.matrix import plan as plan_of
from nodebench.bench.matrix import scaling_plan
from nodebench.bench.messages import Event
from nodebench.bench.plan import Plan, parse_shard
from nodebench.bench.request import TRAINED, ExecutorOptions, Request, Settings
from nodebench.bench.runner import Continuation, Runner
from nodebench.errors import PluginError, UserError
from nodebench.options import GateOptions, RunOptions, ScaleOptions, part_of
from nodebench.results.machine import (
    Fingerprint,
    finds_cuda,
    fingerprint,
    idle_cores,
    library_version,
    software,
)
from nodebench.results.record import Record
from nodebench.results.store import Store

if TYPE_CHECKING:
    from nodebench.bench.executors.ray.nodes import ClusterInspection
    from nodebench.bench.selftest import SelfTest

Notify = Callable[[Event], None]


class Watcher:
    """What is told of work that goes on; this one shows nothing, and takes no broken plugin.

    Attributes:
        command: The command line that the work is done for, as the store keeps it.
    """

    def __init__(self, command: str = "") -> None:
        self.command = command or shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])

    def tell(self, line: str) -> None:
        """Told of what is done before anything is measured."""

    def broken(self, plugins: Mapping[str, str]) -> None:
        """Told which plugins cannot be used, by name, before the others are measured.

        Raises:
            PluginError: If nothing is to be measured then.
        """
        raise PluginError(" ".join(dict.fromkeys(plugins.values())))

    def progress(self, n_cells: int) -> AbstractContextManager[Notify]:
        """What is told of each event while so many cells are measured."""
        del n_cells
        return nullcontext(lambda event: None)  # noqa: ARG005  nothing is shown


def planned(options: RunOptions) -> Plan:
    """The cells of a run or a scaling; there are none in a shard beyond the last group.

    Raises:
        UserError: If a name, option or number is wrong, or Ray is wanted and not installed.
    """
    _check_executor(options)
    request = part_of(Request, options)
    if isinstance(options, ScaleOptions):
        found = scaling_plan(request, options.over, options.values)
    else:
        found = plan_of(request, options.timeout_s, options.objects)
        found.check_control(None if options.control is None else registry.canonical("backend", options.control))
    return found if options.shard is None else found.shard(*parse_shard(options.shard))


def measure(
    plan: Plan,
    options: RunOptions,
    watcher: Watcher | None = None,
    *,
    environment: Fingerprint | None = None,
    known: Collection[str] = (),
    measure_group: Callable[[GradientGroup], None] = GradientGroup.measure,
) -> list[Record]:
    """Measure a plan into the store.

    Args:
        plan: What is measured.
        options: How and where; what they ask to be measured is in the plan.
        watcher: Told what happens; None for nobody.
        environment: Fingerprint that the run keeps; None to take it now.
        known: Ids of cells that are left out.
        measure_group: How the gradients of cells that are compared with each other are measured.

    Returns:
        The records of the run, in the order of the plan.

    Raises:
        UserError: If nothing can be measured into that store, or there.
    """
    if not plan.cells:
        return []
    watcher = watcher or Watcher()
    store, folder = Store(Path(options.store)), _absolute(options.checkpoint_dir)
    settings = run_settings(options, here=options.executor == "local")
    continuation: Continuation = "rerun-failed" if options.rerun_failed else "resume" if options.resume else "new"
    with (
        executor_for(plan, options, settings, watcher.tell) as (executor, found),
        watcher.progress(len(plan.cells)) as notify,
    ):
        runner = Runner(store, settings, notify, measure_group, executor, folder, options.made_by)
        run_id = runner.run(plan, watcher.command, environment or found(), continuation, known)
    order = {cell.cell_id: at for at, cell in enumerate(plan.cells)}
    return sorted(store.records([run_id]), key=lambda record: order[record.cell_id])


@contextmanager
def executor_for(
    plan: Plan, options: ExecutorOptions, settings: Settings, tell: Callable[[str], None]
) -> Iterator[tuple[AbstractExecutor, Callable[[], Fingerprint]]]:
    """What does the work of a plan, and what gives the fingerprint of where it is done.

    Raises:
        UserError: If it cannot be done there.
    """
    if options.executor == "local":
        wanted = {cell.framework for cell in plan.cells if cell.device == "cuda"}
        if wanted and not any(map(finds_cuda, sorted(wanted))):
            find = "finds" if len(wanted) == 1 else "find"
            raise UserError(f"`--device` is cuda, and {' and '.join(sorted(wanted))} {find} no CUDA device here.")
        if options.checkpoint_dir is not None:
            check_folder(_absolute(options.checkpoint_dir) or "")
        yield LocalExecutor(), fingerprint
        return
    _join(options.ray_address, tell)
    # Only now: it imports Ray, which must know by then whether it is to show a token.
    from nodebench.bench.executors.ray.executor import ray_executor

    options = replace(options, checkpoint_dir=_absolute(options.checkpoint_dir))
    with ray_executor(options, plan, settings, _data_folder()) as executor:
        nodes = executor.cluster.fit
        n_cpus, n_gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        counted = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, {n_cpus} CPUs, {n_gpus} GPUs"
        own = executor.group_cpus
        tell(f"{counted}; cells timed in turns have {own} CPU{'s' if own > 1 else ''} to themselves")
        for difference in executor.cluster.differences:
            tell(f"unlike: {difference}")
        if plan.measure in TRAINED and not executor.shares_checkpoints:
            tell("no --checkpoint-dir: a training that loses its node begins anew")
        yield executor, lambda: executor.environment


def conditions(options: ExecutorOptions) -> Fingerprint:
    """What must be the same for a whole run: this machine and its software, of a cluster the software alone.

    Raises:
        UserError: If Ray is wanted and not installed.
    """
    _check_executor(options)
    here = fingerprint()
    return here if options.executor == "local" else {**software(here), "executor": f"ray {library_version('ray')}"}


def _check_executor(options: ExecutorOptions) -> None:
    if options.executor == "ray":
        _require_ray()


def _require_ray() -> None:
    from nodebench.bench.executors import ray

    ray.require_ray()


def _join(address: str | None, tell: Callable[[str], None]) -> None:
    """See that a Ray cluster can be joined, or Ray be started."""
    from nodebench.bench.executors.ray.connection import probe

    tell("joining the Ray cluster and looking at its nodes" if address else "starting Ray")
    probe(address)


def inspect_cluster(address: str | None, tell: Callable[[str], None]) -> "ClusterInspection":
    """What the nodes of a cluster have, and in what they differ.

    Raises:
        UserError: If the cluster cannot be joined.
    """
    _require_ray()
    _join(address, tell)
    from nodebench.bench.executors.ray.connection import connected
    from nodebench.bench.executors.ray.inspection import Requirements
    from nodebench.bench.executors.ray.nodes import ClusterInspection

    with connected(address):
        return ClusterInspection.of(Requirements(str(Path.cwd()), _data_folder(), devices=True))


def _data_folder() -> str | None:
    from nodebench.tasks.mnist.data import FOLDER_VARIABLE

    return os.environ.get(FOLDER_VARIABLE)


def selftest(n_comparisons: int, watcher: Watcher | None = None) -> "SelfTest":
    """Measure the harness itself: false alarms, planted faults, the smallest effect that it sees.

    Args:
        n_comparisons: Comparisons of a cell with itself.
        watcher: Told what happens.

    Raises:
        UserError: If there are fewer than one, or a cell cannot be measured at all.
    """
    from nodebench.bench.selftest import expected_s, run_selftest, workload

    watcher, chosen = watcher or Watcher(), workload()
    minutes = expected_s(chosen, n_comparisons) / 60
    watcher.tell(f"selftest: {n_comparisons} comparisons of a cell with itself; about {minutes:.0f} min")
    with watcher.progress(0) as notify:
        return run_selftest(chosen, n_comparisons, notify, tuple(idle_cores(1)))


def run_settings(options: RunOptions | GateOptions, *, here: bool) -> Settings:
    """How cells are measured; on this machine by cores that are idle now, unless some are named."""
    control = None if options.control is None else registry.canonical("backend", options.control)
    settings = replace(part_of(Settings, options), control=control)
    return replace(settings, cores=tuple(idle_cores(options.threads))) if here and settings.cores is None else settings


def _absolute(folder: str | None) -> str | None:
    """A folder as it is called from every working directory; URLs are."""
    return folder if folder is None or "://" in folder else str(Path(folder).absolute())


def ended_well(records: Collection[Record]) -> bool:
    """Whether something was measured and nothing failed; what a backend does not support is no failure."""
    statuses = {record.status for record in records}
    return "ok" in statuses <= {"ok", "unsupported"}
