"""Who does what on the cluster, as the board tells it."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ray

from nodebench.bench.messages import ClusterState, Event, NodeState
from nodebench.bench.work import AbstractWork
from nodebench.cluster.board import Notice
from nodebench.cluster.nodes import Node, alive_nodes

LOOK_S = 0.5
"""How often the board is read and the state of the cluster is shown."""

COUNT_S = 5.0
"""How often it is seen which nodes there are."""


class Watch:
    """What is known of the work that is under way.

    Args:
        board: The actor to which work tells of itself.
        nodes: The nodes of the beginning.
        environments: Their fingerprints, by id.
    """

    def __init__(self, board: Any, nodes: Sequence[Node], environments: Mapping[str, Mapping[str, Any]]) -> None:
        self.board = board
        self.environments = dict(environments)
        self._names = {node.node_id: node.name for node in nodes}
        self._alive = list(self._names)
        self._counted = time.monotonic()
        self._labels: dict[int, str] = {}
        self._places: dict[int, str] = {}
        self._phases: dict[int, str] = {}
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._reading: Any = None
        self._looked = 0.0
        self._busy = time.monotonic()

    def sent(self, ticket: int, work: AbstractWork) -> None:
        """Work is on its way."""
        more = f" and {len(work.outcomes) - 1} more" if len(work.outcomes) > 1 else ""
        self._labels[ticket] = f"{work.cell.label}{more}"

    def over(self, ticket: int) -> None:
        """Work is no longer under way."""
        for known in (self._labels, self._places, self._phases):
            known.pop(ticket, None)

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
        """Read all that has been told, what is on its way from the board included."""
        if self._reading is not None:
            self._note(ray.get(self._reading))
            self._reading = None
        self._note(ray.get(self.board.read.remote()))

    def begun(self, ticket: int) -> bool:
        """Whether work has begun, as far as has been read."""
        return ticket in self._places

    def place(self, ticket: int, error: Exception) -> str:
        """Id of the node on which work was begun, or that Ray's error names; empty where neither is known."""
        self.read()
        if ticket in self._places:
            return self._places[ticket]
        self._names = {node.node_id: node.name for node in alive_nodes()} | self._names
        return next((node_id for node_id in self._names if node_id in str(error)), "")

    def look(self, notify: Callable[[Event], None]) -> None:
        """Now and then, read the board and tell who does what."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        if self._reading is None:
            self._reading = self.board.read.remote()
        elif ray.wait([self._reading], timeout=0)[0]:
            self._note(ray.get(self._reading))
            self._reading = None
        if time.monotonic() - self._counted > COUNT_S:
            self._counted = time.monotonic()
            nodes = alive_nodes()
            self._names |= {node.node_id: node.name for node in nodes}
            self._alive = [node.node_id for node in nodes]
        if self._places:
            self._busy = time.monotonic()
        notify(Event("cluster", "", cluster=self._state()))

    def idle(self, seconds: float) -> bool:
        """Whether nothing has been at work for so long, since it was last asked and so."""
        idle = time.monotonic() - self._busy > seconds
        if idle:
            self._busy = time.monotonic()
        return idle

    def _note(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            if notice.environment is not None:
                self.environments[notice.node_id] = notice.environment
            if notice.ticket not in self._labels:
                continue  # told before the work ended, read after
            self._places[notice.ticket] = notice.node_id
            if notice.event is not None:
                self._phases[notice.ticket] = _phase(notice.event)

    def _state(self) -> ClusterState:
        running: dict[str, list[str]] = {self._names[node_id]: [] for node_id in self._alive}
        for ticket, node_id in self._places.items():
            at_work = f"{self._labels[ticket]}: {self._phases.get(ticket, 'starting')}"
            running.setdefault(self.name(node_id), []).append(at_work)
        nodes = (NodeState(name, tuple(now), self._done[name], self._failed[name]) for name, now in running.items())
        return ClusterState(tuple(nodes), len(self._labels) - len(self._places), sum(self._failed.values()))


def _phase(event: Event) -> str:
    return event.text if event.total is None else f"{event.text}, {event.done} of {event.total}"
