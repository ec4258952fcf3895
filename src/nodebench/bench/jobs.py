"""Work of several cells side by side, and what must be alone because it is timed."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from nodebench.results.machine import Cores

PATIENCE_S = 0.2
"""How often, in seconds, it is looked whether memory allows another job."""


@dataclass
class WorkClock:
    """Measures the time in which measured work is done, however much of it side by side.

    Attributes:
        busy_s: That time, in seconds.
    """

    busy_s: float = field(default=0.0, init=False)
    _n_running: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While measured work is done."""
        with self._lock:
            self._n_running += 1
            if self._n_running == 1:
                self._since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._n_running -= 1
                if not self._n_running:
                    self.busy_s += time.monotonic() - self._since


@dataclass
class Jobs:
    """Jobs that are done side by side; within them, what is timed is alone.

    Attributes:
        slots: The cores of each job: as many jobs as there are slots are at work at once.
    """

    slots: Sequence[Cores]
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _n_beside: int = field(default=0, init=False)
    _n_waiting: int = field(default=0, init=False)
    _is_alone: bool = field(default=False, init=False)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """While nothing is timed that others could disturb."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_alone or self._n_waiting))
            self._n_beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_beside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While all other jobs wait; whoever wants that comes before others that may be side by side."""
        with self._changed:
            self._n_waiting += 1
            self._changed.wait_for(lambda: not (self._is_alone or self._n_beside))
            self._n_waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    def each(
        self, work: Sequence[Callable[[Cores], None]], fits: Callable[[int], bool], abandon: Callable[[], None]
    ) -> None:
        """Do work side by side, begun in its order.

        Args:
            work: The jobs, each told its cores.
            fits: Whether memory allows another job beside so many; a job alone needs no leave.
            abandon: Called, again and again, when this is interrupted: it makes jobs that are at work end soon.
        """
        free, running, rest = list(self.slots), dict[Future[None], Cores](), list(reversed(work))
        with ThreadPoolExecutor(len(self.slots)) as pool:
            try:
                while rest or running:
                    while rest and free and (not running or fits(len(running))):
                        cores = free.pop(0)
                        running[pool.submit(rest.pop(), cores)] = cores
                    done, _ = wait(running, PATIENCE_S if rest and free else None, FIRST_COMPLETED)
                    for future in done:
                        free.append(running.pop(future))
                        future.result()
            except BaseException:
                while wait(running, PATIENCE_S).not_done:
                    abandon()
                raise
