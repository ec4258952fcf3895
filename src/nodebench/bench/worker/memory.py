"""Peak memory of one call above the idle process.

On a CPU memray counts every allocation of Python, torch and XLA alike and repeats to the byte, where the resident set
moves by several per cent and counts pages that the allocator merely keeps.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

REPETITIONS = 3
"""How often a call is traced."""


def traced_bytes(call: Callable[[], object]) -> tuple[int | None, int | None]:
    """What a call allocates: the most at once, and what is left when its result is gone; None without memray.

    Neither counts what was there before. The call must have run once before, so that caches and thread pools are not
    counted. It runs several times, and the least counts: now and then the interpreter fetches an arena of a mebibyte,
    which is not the call's.
    """
    from memray import FileReader, Tracker  # noqa: PLC0415  only a worker that traces needs it

    peaks, unreleased = [], []
    for _ in range(REPETITIONS):
        gc.collect()
        with TemporaryDirectory() as folder:
            file = Path(folder) / "allocations"
            with Tracker(file):
                call()
                gc.collect()
            reader = FileReader(file)
            peaks.append(int(reader.metadata.peak_memory))
            unreleased.append(sum(left.size for left in reader.get_leaked_allocation_records(merge_threads=True)))
    return min(peaks), min(unreleased)


def peak_resident_bytes() -> int | None:
    """Highest resident set of this process since it began, or None where `/proc` does not tell.

    `VmHWM` begins anew with the process; `ru_maxrss` would inherit the parent's.
    """
    return _status_bytes("VmHWM")


def data_bytes() -> int | None:
    """Private writable memory of this process, which `RLIMIT_DATA` limits, or None where `/proc` does not tell."""
    return _status_bytes("VmData")


def _status_bytes(name: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None
