"""Hands the work of a run to a Ray cluster and takes the results; Ray decides what is done where and when."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

import ray

from nodebench.bench.executor import AbstractExecutor, Arrival
from nodebench.bench.messages import Event, Failure
from nodebench.bench.work import AbstractWork, GroupWork, MachineContext, TrainingWork, WorkResult
from nodebench.cluster.board import board
from nodebench.cluster.errand import Errand, Report, run_errand
from nodebench.cluster.nodes import Node, alive_nodes, first_line
from nodebench.cluster.watch import LOOK_S, Watch
from nodebench.errors import Status, UserError

# Made once: what `ray.remote` gives is to Ray a new function each time, which is sent to all nodes and asks for
# processes of its own.
RUN_ERRAND: Any = ray.remote(run_errand)

IDLE_S = 15.0
"""After so long without any work under way it is seen whether there is a node for it."""

OUT_OF_MEMORY = "Ray ended its process because the node ran out of memory"


@dataclass(frozen=True)
class RayExecutor(AbstractExecutor):
    """Does work on the nodes of the cluster this process is connected to.

    Attributes:
        errand: What is the same for all work.
        nodes: The nodes that were found fit.
        environments: Fingerprints of the nodes, by id.
        group_cpus: CPUs that cells timed in turns have to themselves, no fewer than any of them has threads.
        retries: How often work is done again whose node was lost.
        shares_checkpoints: Whether all nodes have the folder of checkpoints.
        unfit: Ids of nodes that get no work.
    """

    errand: Errand
    nodes: tuple[Node, ...]
    environments: Mapping[str, Mapping[str, Any]]
    group_cpus: int
    retries: int
    shares_checkpoints: bool
    unfit: frozenset[str] = frozenset()

    def carry_out(self, work: Iterable[AbstractWork], site: MachineContext, arrived: Arrival) -> None:
        """As `AbstractExecutor`. An exception in the midst of it ends all work that is under way."""
        errand = replace(self.errand, checkpoints=site.checkpoints if self.shares_checkpoints else None)
        with board() as opened:
            watch = Watch(opened, self.nodes, self.environments)
            _Dispatch(self, site, arrived, watch, ray.put(errand), set(self.unfit)).run(work)


@dataclass(frozen=True)
class _Trip:
    """Work on its way.

    Attributes:
        work: The work.
        ref: Ray's promise of its result.
        lost_on: The nodes, or processes on them, that were lost while they did it.
    """

    work: AbstractWork
    ref: Any
    lost_on: tuple[str, ...]


@dataclass
class _Dispatch:
    """Hands out the work of one run and takes the results."""

    executor: RayExecutor
    site: MachineContext
    arrived: Arrival
    watch: Watch
    errand: Any
    unfit: set[str]
    trips: dict[int, _Trip] = field(default_factory=dict, init=False)
    ended: SimpleQueue[int] = field(default_factory=SimpleQueue, init=False)
    n_tickets: int = field(default=0, init=False)

    def run(self, work: Iterable[AbstractWork]) -> None:
        """Do work, and what follows from it."""
        try:
            for part in work:
                self._send(part)
            while self.trips:
                with suppress(Empty):
                    self._settle(self.ended.get(timeout=LOOK_S))
                    while True:
                        self._settle(self.ended.get_nowait())
                self.watch.look(self.site.notify)
                if self.watch.idle(IDLE_S):
                    self._say_if_stuck()
        except ray.exceptions.RayError as error:
            raise UserError(
                f"the Ray cluster was lost: {first_line(error)} Continue with the same command and --resume."
            ) from error
        finally:
            for trip in self.trips.values():
                with suppress(ray.exceptions.RayError):  # of a cluster that is gone there is nothing to cancel
                    ray.cancel(trip.ref, force=True)

    def _send(self, work: AbstractWork, lost_on: tuple[str, ...] = ()) -> None:
        ticket = self.n_tickets = self.n_tickets + 1
        cpus, gpus = needs(work, self.executor.group_cpus)
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "name": work.cell.label}
        if self.unfit:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self.unfit))})"}
        remote = RUN_ERRAND.options(scheduling_strategy="SPREAD", **options)
        ref = remote.remote(work, self.errand, ticket, cpus, self.watch.board)
        self.trips[ticket] = _Trip(work, ref, lost_on)
        self.watch.sent(ticket, work)
        ref.future().add_done_callback(lambda _: self.ended.put(ticket))

    def _say_if_stuck(self) -> None:
        """The last node that could do the work may be gone. Another may join: it is waited for, and that is said."""
        nodes = [node for node in alive_nodes() if node.node_id not in self.unfit]
        wanted = {needs(trip.work, self.executor.group_cpus) for trip in self.trips.values()}
        if not any(node.cpus >= cpus and node.gpus >= gpus for node in nodes for cpus, gpus in wanted):
            self.site.notify(Event("waiting", "no node of the cluster can do what is left; waiting for one to join"))

    def _settle(self, ticket: int) -> None:
        """Take a result, or see what is to become of work that has none."""
        trip = self.trips.pop(ticket, None)
        if trip is None:
            return  # it was called back
        try:
            report: Report = ray.get(trip.ref)
        except ray.exceptions.OutOfMemoryError as error:
            self._fail(ticket, trip, "oom", OUT_OF_MEMORY, error)
        except ray.exceptions.RayTaskError as error:
            self._fail(ticket, trip, "failed", first_line(error), error)
        except ray.exceptions.LocalRayletDiedError:
            raise  # it is this machine that has lost the cluster
        except ray.exceptions.RayError as error:
            self._lost(ticket, trip, error)
        else:
            self._take(ticket, trip, report)

    def _take(self, ticket: int, trip: _Trip, report: Report) -> None:
        name = self.watch.name(report.node_id)
        if report.unfit:
            self._again(ticket, trip.work, trip.lost_on)
            self._refused(report.node_id, f"{name} gets no work: {report.unfit}")
            return
        outcomes = report.outcomes
        if trip.lost_on:
            goes_on = isinstance(trip.work, TrainingWork) and self.executor.shares_checkpoints
            how = "went on from its checkpoint" if goes_on else "was measured anew"
            note = f"it {how} after {' and '.join(trip.lost_on)} had been lost at work on it"
            outcomes = tuple(outcome.noted(note) for outcome in outcomes)
        self._arrive(ticket, WorkResult(trip.work, outcomes, name, report.environment))

    def _refused(self, node_id: str, told: str) -> None:
        """Give a node no work, and call back what waits and may still be placed there."""
        if node_id in self.unfit:
            return
        self.unfit.add(node_id)
        self.site.notify(Event("waiting", told))
        self.watch.read()
        for ticket in [ticket for ticket in self.trips if not self.watch.begun(ticket)]:
            trip = self.trips.pop(ticket)
            ray.cancel(trip.ref, force=True)
            self._again(ticket, trip.work, trip.lost_on)

    def _lost(self, ticket: int, trip: _Trip, error: Exception) -> None:
        """Do it again elsewhere, or give it up."""
        name = self.watch.name(self.watch.place(ticket, error))
        # Ray's process may die, and its node live on.
        process = isinstance(error, ray.exceptions.WorkerCrashedError)
        lost_on = (*trip.lost_on, f"a process on {name}" if process else name)
        if len(lost_on) > self.executor.retries:
            told = f"it was lost in each of {len(lost_on)} attempts, with {', '.join(lost_on)}"
            self._fail(ticket, trip, "failed", told, error, lost=True)
            return
        told = f"{lost_on[-1]} was lost; retry {len(lost_on)} of {self.executor.retries}"
        self.site.notify(Event("lost", told, trip.work.cell, node=name))
        self._again(ticket, trip.work, lost_on)

    def _again(self, ticket: int, work: AbstractWork, lost_on: tuple[str, ...]) -> None:
        self.watch.over(ticket)
        self._send(work, lost_on)

    def _fail(
        self, ticket: int, trip: _Trip, status: Status, reason: str, error: Exception, *, lost: bool = False
    ) -> None:
        node_id = self.watch.place(ticket, error)
        name = self.watch.name(node_id)
        failure = Failure(status, f"on node {name}: {reason}.", str(error))
        outcomes = tuple(replace(outcome.failed(failure), lost=lost) for outcome in trip.work.outcomes)
        environment = self.watch.environments.get(node_id, self.site.environment)
        self._arrive(ticket, WorkResult(trip.work, outcomes, name, environment))

    def _arrive(self, ticket: int, done: WorkResult) -> None:
        following = list(self.arrived(done))
        self.watch.over(ticket)
        failed = sum(not outcome.found.ok for outcome in done.outcomes)
        self.watch.count(done.node, len(done.outcomes) - len(following), failed)
        for part in following:
            self._send(part)


def needs(work: AbstractWork, group_cpus: int) -> tuple[int, int]:
    """CPUs and GPUs that work has to itself."""
    cell = work.cell
    timed = isinstance(work, GroupWork) and work.timed
    return group_cpus if timed else cell.threads, int(cell.device == "cuda")
