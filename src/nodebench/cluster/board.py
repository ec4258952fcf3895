"""Where work tells of its progress, and the command that waits for it reads it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nodebench.bench.messages import Event

TELL_S = 1.0
"""How often progress within a phase is told; phases themselves always are."""


class Notice(NamedTuple):
    """What work tells.

    Attributes:
        ticket: Number of the work.
        node_id: Where it is done.
        event: What happened; None for its beginning.
        environment: Fingerprint of the node, told at the beginning.
    """

    ticket: int
    node_id: str
    event: Event | None
    environment: Mapping[str, Any] | None = None


class Board:
    """Keeps notices until they are read; an actor of Ray."""

    def __init__(self) -> None:
        self._notices: list[Notice] = []

    def tell(self, notice: Notice) -> None:
        """Keep a notice."""
        self._notices.append(notice)

    def read(self) -> list[Notice]:
        """The notices since the last time."""
        notices, self._notices = self._notices, []
        return notices


@contextmanager
def board() -> Iterator[Any]:
    """A board in a process of its own beside this one, which takes no CPU from the work."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # A board that Ray has to end for want of memory costs what it held, and not the run.
    options = {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    actor: Any = ray.remote(Board).options(num_cpus=0, **options).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)


def teller(tell: Callable[[Notice], Any], ticket: int, node_id: str) -> Callable[[Event], None]:
    """What work hands its events to."""
    told = 0.0

    def notify(event: Event) -> None:
        nonlocal told
        now = time.monotonic()
        if event.kind == "cell" or now - told > TELL_S:
            told = now
            tell(Notice(ticket, node_id, event))

    return notify
