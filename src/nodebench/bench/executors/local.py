"""What an executor is, and the one that does the work of a run on this machine."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable

from typing_extensions import override

from nodebench.bench.work import AbstractWork, MachineContext, WorkResult, results_of

ResultHandler = Callable[[WorkResult], Iterable[AbstractWork]]
"""Called with each piece of work the moment it is done; returns the work that follows from it."""


class AbstractExecutor(ABC):
    """Does the work of a run, and returns when none is left."""

    @abstractmethod
    def carry_out(self, work: Iterable[AbstractWork], machine: MachineContext, on_result: ResultHandler) -> None:
        """Do work, and what follows from it.

        Args:
            work: The pieces, in the order in which they should begin.
            machine: This machine.
            on_result: Called in this process with each piece that is done, exactly once.
        """


class LocalExecutor(AbstractExecutor):
    """Does one piece after the other on this machine; what follows from a piece is done before the next begins."""

    @override
    def carry_out(self, work: Iterable[AbstractWork], machine: MachineContext, on_result: ResultHandler) -> None:
        queue = deque(work)
        while queue:
            first = queue.popleft()
            result = WorkResult(first, results_of(first, machine), machine.node, machine.environment)
            queue.extendleft(reversed(list(on_result(result))))
