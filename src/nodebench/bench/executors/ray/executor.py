"""Hands the work of a run to a Ray cluster and takes the results; Ray decides what is done where and when."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

import ray
from typing_extensions import override

from nodebench.bench.executors.local import AbstractExecutor, ResultHandler
from nodebench.bench.executors.ray.connection import connected
from nodebench.bench.executors.ray.inspection import Requirements
from nodebench.bench.executors.ray.nodes import (
    ClusterInspection,
    alive_nodes,
    check_resources,
    check_shared,
    first_line,
)
from nodebench.bench.executors.ray.remote import NodeResult, RunSpec, run_work
from nodebench.bench.executors.ray.tracking import POLL_S, InFlight, Tracker, notice_queue
from nodebench.bench.messages import Event, Failure
from nodebench.bench.plan import Plan
from nodebench.bench.request import ExecutorOptions, Settings
from nodebench.bench.work import AbstractWork, GroupWork, MachineContext, TrainingWork, WorkResult
from nodebench.errors import Status, UserError
from nodebench.results.machine import Fingerprint

# Made once: what `ray.remote` gives is to Ray a new function each time, which is sent to all nodes and asks for
# processes of its own.
RUN_WORK: Any = ray.remote(run_work)

RETRIES = 3
"""How often work is done again whose node was lost, unless told otherwise."""

IDLE_S = 15.0
"""After so long without any work at a node it is seen whether there is a node for it."""

OUT_OF_MEMORY = "Ray ended its process because the node ran out of memory"


@dataclass(frozen=True)
class RayExecutor(AbstractExecutor):
    """Does work on the nodes of the cluster this process is connected to.

    Attributes:
        spec: What is the same for all work.
        cluster: The nodes of the beginning, and what they have.
        group_cpus: CPUs that cells timed in turns have to themselves, no fewer than any of them has threads.
        retries: How often work is done again whose node was lost.
        shares_checkpoints: Whether all nodes have the folder of checkpoints.
        unfit: Ids of nodes that get no work.
    """

    spec: RunSpec
    cluster: ClusterInspection
    group_cpus: int
    retries: int
    shares_checkpoints: bool
    unfit: frozenset[str] = frozenset()

    @property
    def environment(self) -> Fingerprint:
        """What must be the same for the whole run, as `Runner.run` takes it."""
        return {**self.cluster.expected, "executor": f"ray {ray.__version__}"}

    @override
    def carry_out(self, work: Iterable[AbstractWork], machine: MachineContext, on_result: ResultHandler) -> None:
        """As `AbstractExecutor`. An exception in the midst of it ends all work that is under way."""
        spec = replace(self.spec, checkpoints=machine.checkpoints if self.shares_checkpoints else None)
        with notice_queue() as notices:
            tracker = Tracker(notices, self.cluster)
            _Dispatcher(self, machine, on_result, tracker, ray.put(spec), set(self.unfit)).run(work)


@contextmanager
def ray_executor(options: ExecutorOptions, plan: Plan, settings: Settings, data: str | None) -> Iterator[RayExecutor]:
    """Be connected to a cluster that can do the work of a plan: whatever can be wrong is found before it begins.

    Args:
        options: Which cluster, and how it is used.
        plan: What is to be measured.
        settings: How it is measured.
        data: Folder of data sets that the command was given, or None.

    Raises:
        UserError: If there is no cluster, it lacks CPUs or GPUs, its nodes differ and may not, or they do not share the
            folder of checkpoints.
    """
    requirements = Requirements.of(plan, data)
    threads = max(cell.threads for cell in plan.cells)
    gpus = int(any(cell.device == "cuda" for cell in plan.cells))
    with connected(options.ray_address):
        # Once before the nodes are inspected, which takes seconds, and once for those that can do the work.
        check_resources(alive_nodes(), max(threads, options.group_cpus or 1), gpus)
        cluster = ClusterInspection.of(requirements)
        if cluster.differences and not options.allow_mixed:
            raise UserError(
                f"the nodes of the cluster are not alike: {'; '.join(cluster.differences)}. Make them alike, or use "
                "--allow-mixed: nodes that lack something then get no work, and each record tells its node's versions."
            )
        if not cluster.fit:
            raise UserError(f"no node can do the work: {'; '.join(cluster.differences)}.")
        # By default the CPUs of the smallest node, or those that fall to one of its GPUs.
        shares = [node.cpus // (node.gpus if gpus else 1) for node in cluster.fit if node.gpus >= gpus]
        group_cpus = max(threads, options.group_cpus or min(shares, default=1))
        check_resources(cluster.fit, group_cpus, gpus)
        if options.checkpoint_dir is not None:
            check_shared(options.checkpoint_dir, cluster.fit)
        yield RayExecutor(
            RunSpec(
                settings,
                requirements,
                expected=None if options.allow_mixed else cluster.expected,
                expected_data=None if options.allow_mixed else cluster.data,
                inspected=frozenset(node.node_id for node in cluster.fit),
            ),
            cluster,
            group_cpus,
            RETRIES if options.retries is None else options.retries,
            shares_checkpoints=options.checkpoint_dir is not None or options.ray_address is None,
            unfit=frozenset(cluster.unfit),
        )


@dataclass
class _Dispatcher:
    """Hands out the work of one run and takes the results."""

    executor: RayExecutor
    machine: MachineContext
    on_result: ResultHandler
    tracker: Tracker
    spec: Any
    unfit: set[str]
    ended: SimpleQueue[int] = field(default_factory=SimpleQueue, init=False)
    n_sent: int = field(default=0, init=False)

    def run(self, work: Iterable[AbstractWork]) -> None:
        """Do work, and what follows from it."""
        try:
            for each in work:
                self._send(each)
            while self.tracker.in_flight:
                with suppress(Empty):
                    self._settle(self.ended.get(timeout=POLL_S))
                    while True:
                        self._settle(self.ended.get_nowait())
                self.tracker.poll(self.machine.notify)
                if self.tracker.idle(IDLE_S):
                    self._warn_if_stuck()
        except ray.exceptions.RayError as error:
            raise UserError(
                f"the Ray cluster was lost: {first_line(error)} Continue with the same command, and --resume if it is "
                "`run` or `scale`."
            ) from error
        finally:
            for sent in self.tracker.in_flight.values():
                with suppress(ray.exceptions.RayError):  # of a cluster that is gone there is nothing to cancel
                    ray.cancel(sent.ref, force=True)

    def _send(self, work: AbstractWork, lost_on: tuple[str, ...] = ()) -> None:
        work_id = self.n_sent = self.n_sent + 1
        cpus, gpus = needs(work, self.executor.group_cpus)
        unfit = {"ray.io/node-id": f"!in({','.join(sorted(self.unfit))})"} if self.unfit else None
        remote = RUN_WORK.options(
            num_cpus=cpus, num_gpus=gpus, max_retries=0, name=work.cell.label, label_selector=unfit,
            scheduling_strategy="SPREAD",
        )  # fmt: skip
        ref = remote.remote(work, self.spec, work_id, cpus, self.tracker.notices)
        self.tracker.in_flight[work_id] = InFlight(work, ref, lost_on)
        ref.future().add_done_callback(lambda _: self.ended.put(work_id))

    def _send_again(self, work_id: int, lost_on: tuple[str, ...]) -> None:
        self._send(self.tracker.in_flight.pop(work_id).work, lost_on)

    def _warn_if_stuck(self) -> None:
        """Say that a node is waited for, where the last one that could do the work is gone: another may join."""
        nodes = [node for node in alive_nodes() if node.node_id not in self.unfit]
        wanted = {needs(sent.work, self.executor.group_cpus) for sent in self.tracker.in_flight.values()}
        if not any(node.cpus >= cpus and node.gpus >= gpus for node in nodes for cpus, gpus in wanted):
            self.machine.notify(Event("waiting", "no node of the cluster can do what is left; waiting for one to join"))

    def _settle(self, work_id: int) -> None:
        """Take a result, or decide what becomes of work that has none."""
        sent = self.tracker.in_flight.get(work_id)
        if sent is None:
            return  # it was called back
        try:
            result: NodeResult = ray.get(sent.ref)
        except ray.exceptions.OutOfMemoryError as error:
            self._fail(work_id, sent, "oom", OUT_OF_MEMORY, error)
        except ray.exceptions.RayTaskError as error:
            self._fail(work_id, sent, "failed", first_line(error), error)
        except ray.exceptions.LocalRayletDiedError:
            raise  # it is this machine that has lost the cluster
        except ray.exceptions.RayError as error:
            self._retry(work_id, sent, error)
        else:
            self._take(work_id, sent, result)

    def _take(self, work_id: int, sent: InFlight, result: NodeResult) -> None:
        name = self.tracker.name(result.node_id)
        if result.unfit:
            self._send_again(work_id, sent.lost_on)
            self._refuse(result.node_id, f"{name} gets no work: {result.unfit}")
            return
        outcomes = result.outcomes
        if sent.lost_on:
            goes_on = isinstance(sent.work, TrainingWork) and self.executor.shares_checkpoints
            how = "went on from its checkpoint" if goes_on else "was measured anew"
            note = f"it {how} after {' and '.join(sent.lost_on)} had been lost at work on it"
            outcomes = tuple(outcome.noted(note) for outcome in outcomes)
        self._deliver(work_id, WorkResult(sent.work, outcomes, name, result.environment))

    def _refuse(self, node_id: str, text: str) -> None:
        """Give a node no more work, and call back what waits and may still be placed there."""
        if node_id in self.unfit:
            return
        self.unfit.add(node_id)
        self.machine.notify(Event("waiting", text))
        self.tracker.read()
        for work_id, sent in list(self.tracker.in_flight.items()):
            if not sent.node_id:
                ray.cancel(sent.ref, force=True)
                self._send_again(work_id, sent.lost_on)

    def _retry(self, work_id: int, sent: InFlight, error: Exception) -> None:
        """Do lost work again elsewhere, or give it up."""
        name = self.tracker.name(self.tracker.node_of(sent, error))
        # Ray's process may die, and its node live on.
        process = isinstance(error, ray.exceptions.WorkerCrashedError)
        lost_on = (*sent.lost_on, f"a process on {name}" if process else name)
        if len(lost_on) > self.executor.retries:
            reason = f"it was lost in each of {len(lost_on)} attempts, with {', '.join(lost_on)}"
            self._fail(work_id, sent, "failed", reason, error)
            return
        text = f"{lost_on[-1]} was lost; retry {len(lost_on)} of {self.executor.retries}"
        self.machine.notify(Event("lost", text, sent.work.cell, node=name))
        self._send_again(work_id, lost_on)

    def _fail(self, work_id: int, sent: InFlight, status: Status, reason: str, error: Exception) -> None:
        node_id = self.tracker.node_of(sent, error)
        name = self.tracker.name(node_id)
        failure = Failure(status, f"on node {name}: {reason}.", str(error))
        outcomes = tuple(outcome.failed(failure) for outcome in sent.work.outcomes)
        environment = self.tracker.environments.get(node_id, self.machine.environment)
        self._deliver(work_id, WorkResult(sent.work, outcomes, name, environment))

    def _deliver(self, work_id: int, result: WorkResult) -> None:
        following = list(self.on_result(result))
        del self.tracker.in_flight[work_id]
        failed = sum(not outcome.found.ok for outcome in result.outcomes)
        self.tracker.count(result.node, len(result.outcomes) - len(following), failed)
        for each in following:
            self._send(each)


def needs(work: AbstractWork, group_cpus: int) -> tuple[int, int]:
    """CPUs and GPUs that work has to itself."""
    cell = work.cell
    timed = isinstance(work, GroupWork) and work.timed
    return group_cpus if timed else cell.threads, int(cell.device == "cuda")
