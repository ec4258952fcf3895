"""What is done on a node: the work that Ray has placed there, on cores of its own."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
import ray
from filelock import FileLock, Timeout

from nodebench.bench.executors.ray.inspection import NodeInspection, Requirements, data_folder, inspect_here
from nodebench.bench.executors.ray.nodes import unlike_software
from nodebench.bench.executors.ray.tracking import Notice
from nodebench.bench.messages import Event
from nodebench.bench.request import Settings
from nodebench.bench.work import AbstractWork, CellResult, MachineContext, results_of
from nodebench.results.machine import Fingerprint, available_cores, fingerprint, idle_cores

NOTICE_S = 1.0
"""How often progress within a phase is sent; phases themselves always are."""


@dataclass(frozen=True)
class RunSpec:
    """What is the same for all work of a run.

    Attributes:
        settings: How cells are measured; cores and interpreter are the node's.
        requirements: What a node must have.
        expected: The software that a node must have; None for any.
        expected_data: The data set that each task must have there; None for any.
        inspected: Ids of the nodes that were found fit. Those that join later are inspected first.
        checkpoints: Folder of checkpoints that all nodes share; None where there is none: then a training that loses
            its node begins anew.
        perform: Does the work; benchmarks have another, which only passes time.
    """

    settings: Settings
    requirements: Requirements
    expected: Fingerprint | None
    expected_data: Mapping[str, str] | None
    inspected: frozenset[str]
    checkpoints: str | None = None
    perform: Callable[[AbstractWork, MachineContext], tuple[CellResult, ...]] = results_of


@dataclass(frozen=True)
class NodeResult:
    """What comes back from a node.

    Attributes:
        node_id: The node.
        environment: Its fingerprint.
        outcomes: What became of the cells; empty where the work was not done.
        unfit: Why the node cannot do this work, or empty.
    """

    node_id: str
    environment: Fingerprint
    outcomes: tuple[CellResult, ...] = ()
    unfit: str = ""


def run_work(work: AbstractWork, spec: RunSpec, work_id: int, n_cores: int, notices: Any) -> NodeResult:
    """Do work on the node that Ray has chosen; runs there, in a process of Ray's."""
    node_id = ray.get_runtime_context().get_node_id()
    environment = _fingerprint()
    # Waited for: who is lost with its node must have been known to be there. Not by `ray.get`: meanwhile Ray gives the
    # CPUs of the one that waits to other work, which is still there when the wait is over.
    notices.put.remote(Notice(work_id, node_id, None, environment)).future().result()
    if node_id not in spec.inspected:
        reason = unfitness(_inspected(spec.requirements), spec)
        if reason:
            return NodeResult(node_id, environment, unfit=reason)
    with (
        tempfile.TemporaryDirectory() as own,
        data_folder(spec.requirements.data),
        claimed(node_id, n_cores) as cores,
    ):
        chosen = tuple(idle_cores(work.cell.threads)) if cores is None else cores[: work.cell.threads]
        machine = MachineContext(
            node_id,
            environment,
            replace(spec.settings, cores=chosen, interpreter=spec.requirements.interpreter()),
            references=platformdirs.user_cache_path("nodebench") / "references",
            checkpoints=spec.checkpoints or own,
            notify=_notifier(notices.put.remote, work_id, node_id),
        )
        outcomes = spec.perform(work, machine)
    niceness = os.nice(0)
    if niceness:  # a process of less niceness takes its core from it
        note = f"measured with niceness {niceness}, as Ray gives it; start Ray's nodes with RAY_worker_niceness=0"
        outcomes = tuple(outcome.noted(note) for outcome in outcomes)
    return NodeResult(node_id, environment, outcomes)


def unfitness(found: NodeInspection, spec: RunSpec) -> str:
    """Why a node cannot do the work of a run; empty where it can."""
    versions = [] if spec.expected is None else unlike_software(spec.expected, found.environment)
    expected = spec.expected_data or {}
    data = [
        f"task `{task}` has {name} there, {expected[task]} elsewhere"
        for task, name in found.data.items()
        if expected.get(task, name) != name
    ]
    return "; ".join([*found.problems, *versions, *data])


@contextmanager
def claimed(node_id: str, n: int) -> Iterator[tuple[int, ...] | None]:
    """Keep this thread, and all that it starts, to `n` cores that no other work of the node has.

    Ray counts CPUs, but lets every process use all. A core is locked until its holder ends, however it ends.

    Args:
        node_id: The node, as Ray knows it.
        n: How many cores.

    Yields:
        The cores; None where the node has not so many free ones, since it was told to have more CPUs than it has, or
        where processes cannot be kept to cores. Then nothing is changed.
    """
    if not hasattr(os, "sched_setaffinity"):  # Linux only
        yield None
        return
    folder = Path(tempfile.gettempdir()) / f"nodebench-cores-{os.getuid()}" / node_id
    folder.mkdir(parents=True, exist_ok=True)
    before = available_cores()
    cores: list[int] = []
    with ExitStack() as locks:
        for core in before:
            if len(cores) == n:
                break
            try:
                locks.enter_context(FileLock(folder / f"{core}.lock", timeout=0))
            except Timeout:
                continue
            cores.append(core)
        if len(cores) < n:
            locks.close()
            yield None
            return
        os.sched_setaffinity(0, cores)
        try:
            yield tuple(cores)
        finally:
            os.sched_setaffinity(0, before)


def _notifier(put: Callable[[Notice], Any], work_id: int, node_id: str) -> Callable[[Event], None]:
    """What sends the events of work to the queue."""
    last = 0.0

    def notify(event: Event) -> None:
        nonlocal last
        now = time.monotonic()
        if event.kind == "cell" or now - last > NOTICE_S:
            last = now
            put(Notice(work_id, node_id, event))

    return notify


# Ray keeps its processes for more work of the same command.
_fingerprint = cache(fingerprint)
_inspected = cache(inspect_here)
