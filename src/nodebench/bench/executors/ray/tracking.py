"""Which work is in flight on which node, by the notices that nodes put into a queue."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nodebench.bench.executors.ray.nodes import ClusterInspection, alive_nodes
from nodebench.bench.messages import ClusterState, Event, NodeState
from nodebench.bench.work import AbstractWork
from nodebench.results.machine import Fingerprint

POLL_S = 0.5
"""How often notices are read and the state of the cluster is shown."""

COUNT_S = 5.0
"""How often it is seen which nodes there are."""


@dataclass(frozen=True)
class Notice:
    """What a node says of work.

    Attributes:
        work_id: Number of the work.
        node_id: Where it is done.
        event: What happened; None for its beginning.
        environment: Fingerprint of the node, sent at the beginning.
    """

    work_id: int
    node_id: str
    event: Event | None
    environment: Fingerprint | None = None


class NoticeQueue:
    """Keeps notices until they are read; an actor of Ray."""

    def __init__(self) -> None:
        self._notices: list[Notice] = []

    def put(self, notice: Notice) -> None:
        """Keep a notice."""
        self._notices.append(notice)

    def take(self) -> list[Notice]:
        """The notices since the last time."""
        notices, self._notices = self._notices, []
        return notices


@contextmanager
def notice_queue() -> Iterator[Any]:
    """A queue in a process of its own beside this one, which takes no CPU from the work."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # A queue that Ray has to end for want of memory costs what it held, and not the run.
    options = {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    actor: Any = ray.remote(NoticeQueue).options(num_cpus=0, **options).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)


@dataclass
class InFlight:
    """Work that was handed to Ray.

    Attributes:
        work: The work.
        ref: Ray's promise of its result.
        lost_on: The nodes, or processes on them, that were lost while they did it.
        node_id: Where it has begun; empty before.
        phase: What it does there.
    """

    work: AbstractWork
    ref: Any
    lost_on: tuple[str, ...]
    node_id: str = ""
    phase: str = "starting"

    @property
    def label(self) -> str:
        """What it is called, and what it does."""
        more = f" and {len(self.work.outcomes) - 1} more" if len(self.work.outcomes) > 1 else ""
        return f"{self.work.cell.label}{more}: {self.phase}"


class Tracker:
    """What is known of the work that is in flight.

    Attributes:
        notices: The actor with the queue of notices.
        in_flight: The work by its number, from when it is sent until its result has been taken.
        environments: Fingerprints of nodes, by id.

    Args:
        notices: As the attribute.
        cluster: The nodes of the beginning.
    """

    def __init__(self, notices: Any, cluster: ClusterInspection) -> None:
        self.notices = notices
        self.in_flight: dict[int, InFlight] = {}
        self.environments = {node_id: found.environment for node_id, found in cluster.inspections.items()}
        self._names = {node.node_id: node.name for node in cluster.fit}
        self._alive = list(self._names)
        self._counted_at = time.monotonic()
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._reading: Any = None
        self._polled_at = 0.0
        self._busy_at = time.monotonic()

    def count(self, name: str, done: int, failed: int) -> None:
        """Cells have ended on a node."""
        self._done[name] += done
        self._failed[name] += failed

    def name(self, node_id: str) -> str:
        """What a node is called."""
        if node_id not in self._names:
            self._names = {node.node_id: node.name for node in alive_nodes()} | self._names
        return self._names.get(node_id, node_id[:6] or "unknown")

    def read(self) -> None:
        """Read all notices, those that are on their way from the queue included."""
        if self._reading is not None:
            self._note(ray.get(self._reading))
            self._reading = None
        self._note(ray.get(self.notices.take.remote()))

    def node_of(self, sent: InFlight, error: Exception) -> str:
        """Id of the node on which work has begun, or that Ray's error names; empty where neither is known."""
        self.read()
        if sent.node_id:
            return sent.node_id
        self._names = {node.node_id: node.name for node in alive_nodes()} | self._names
        return next((node_id for node_id in self._names if node_id in str(error)), "")

    def poll(self, notify: Callable[[Event], None]) -> None:
        """Every `POLL_S`, read notices and report what each node does."""
        now = time.monotonic()
        if now - self._polled_at < POLL_S:
            return
        self._polled_at = now
        if self._reading is None:
            self._reading = self.notices.take.remote()
        elif ray.wait([self._reading], timeout=0)[0]:
            self._note(ray.get(self._reading))
            self._reading = None
        if now - self._counted_at > COUNT_S:
            self._counted_at = now
            nodes = alive_nodes()
            self._names |= {node.node_id: node.name for node in nodes}
            self._alive = [node.node_id for node in nodes]
        if any(sent.node_id for sent in self.in_flight.values()):
            self._busy_at = now
        notify(Event("cluster", "", cluster=self._state()))

    def idle(self, seconds: float) -> bool:
        """Whether no work was at a node for so long, since this last was so."""
        idle = time.monotonic() - self._busy_at > seconds
        if idle:
            self._busy_at = time.monotonic()
        return idle

    def _note(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            if notice.environment is not None:
                self.environments[notice.node_id] = notice.environment
            sent = self.in_flight.get(notice.work_id)
            if sent is None:
                continue  # sent before the work ended, read after
            sent.node_id = notice.node_id
            if notice.event is not None:
                event = notice.event
                sent.phase = event.text if event.total is None else f"{event.text}, {event.done} of {event.total}"

    def _state(self) -> ClusterState:
        running: dict[str, list[str]] = {self._names[node_id]: [] for node_id in self._alive}
        begun = [sent for sent in self.in_flight.values() if sent.node_id]
        for sent in begun:
            running.setdefault(self.name(sent.node_id), []).append(sent.label)
        nodes = (NodeState(name, tuple(now), self._done[name], self._failed[name]) for name, now in running.items())
        return ClusterState(tuple(nodes), len(self.in_flight) - len(begun), sum(self._failed.values()))
