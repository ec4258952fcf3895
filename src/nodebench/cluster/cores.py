"""Cores of a node, lent to the work that Ray has placed there: Ray counts CPUs, but lets every process use all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nodebench.bench.machine import available_cores


@contextmanager
def claimed(node_id: str, n: int) -> Iterator[tuple[int, ...] | None]:
    """Keep this thread, and all that it starts, to `n` cores that no other work of the node has.

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
    before = available_cores()
    with ExitStack() as locks:
        cores = _locked(_folder(node_id), before, n, locks)
        if len(cores) < n:
            locks.close()
            yield None
            return
        os.sched_setaffinity(0, cores)
        try:
            yield tuple(cores)
        finally:
            os.sched_setaffinity(0, before)


def _locked(folder: Path, cores: list[int], n: int, locks: ExitStack) -> list[int]:
    """The first `n` cores that nobody has, each locked until its holder ends, however it ends."""
    found: list[int] = []
    for core in cores:
        if len(found) == n:
            break
        try:
            locks.enter_context(FileLock(folder / f"{core}.lock", timeout=0))
        except Timeout:
            continue
        found.append(core)
    return found


def _folder(node_id: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"nodebench-cores-{os.getuid()}" / node_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder
