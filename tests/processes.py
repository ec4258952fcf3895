"""Processes of a runner, as the system tells of them; what several test modules share."""

import subprocess
import time
from pathlib import Path


def children(pid, module):
    """Live children of a process that run a module of the harness."""
    return _ids("-P", str(pid), "-f", f"nodebench.bench.{module}")


def workers(pid):
    """Live workers of a runner, whichever way they were started."""
    forked = [worker for launcher in children(pid, "launcher") for worker in _ids("-P", str(launcher))]
    return [worker for worker in (*children(pid, "worker"), *forked) if not ended(worker)]


def _ids(*wanted):
    found = subprocess.run(["pgrep", *wanted], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def ended(pid):
    """Whether a process is no more, or waits only to be told of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def within(seconds, true):
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
