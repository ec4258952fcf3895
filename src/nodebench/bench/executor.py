"""Where the work of a run is done: on this machine, one part after the other, or elsewhere by a subclass."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable

from nodebench.bench.work import AbstractWork, MachineContext, WorkResult

Arrival = Callable[[WorkResult], Iterable[AbstractWork]]
"""Told of each part the moment it is done; gives the work that follows from it."""


class AbstractExecutor(ABC):
    """Does the work of a run, and returns when none is left."""

    @abstractmethod
    def carry_out(self, work: Iterable[AbstractWork], site: MachineContext, arrived: Arrival) -> None:
        """Do work, and what follows from it.

        Args:
            work: The parts, in the order in which they should begin.
            site: This machine.
            arrived: Called in this process with each part that is done, exactly once.
        """


class LocalExecutor(AbstractExecutor):
    """Does one part after the other on this machine."""

    def carry_out(self, work: Iterable[AbstractWork], site: MachineContext, arrived: Arrival) -> None:
        """As `AbstractExecutor`; what follows from a part is done before the next begins."""
        queue = deque(work)
        while queue:
            queue.extendleft(reversed(list(arrived(queue.popleft().perform(site)))))
