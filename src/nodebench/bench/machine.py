"""Fingerprint of the machine and its software, taken once per run."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "nodebench", "numpy", "scipy", "torch", "torchdiffeq", "jax", "jaxlib", "diffrax", "equinox", "optax", "memray",
)  # fmt: skip

DEVICE_QUESTIONS = {
    "torch": "import torch as t; print('cpu', *map(t.cuda.get_device_name, range(t.cuda.device_count())), sep=', ')",
    "jax": "import jax; print(*(f'{d.platform} {d.device_kind}' for d in jax.devices()), sep=', ')",
}
"""Programs that print the devices of a framework."""


def fingerprint() -> dict[str, Any]:
    """CPU, cores, memory, GPU, operating system, Python, libraries, and the git commit of this package's sources."""
    return {
        "cpu": _cpu(),
        "cores": len(available_cores()),
        "memory_bytes": _memory_bytes(),
        "gpu": _gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "git": _git(),
    }


def frameworks() -> dict[str, str]:
    """What each framework says of its devices, each asked in a process of its own; or how to install it."""
    return {name: _framework_state(name, code) for name, code in DEVICE_QUESTIONS.items()}


def available_cores() -> list[int]:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    names = os.sysconf_names
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu() -> str | None:
    return _output(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])


def _git() -> dict[str, Any] | None:
    here = str(Path(__file__).parent)
    commit = _output(["git", "-C", here, "rev-parse", "HEAD"])
    if commit is None or _output(["git", "-C", here, "ls-files", "--error-unmatch", __file__]) is None:
        return None
    return {"commit": commit, "dirty": bool(_output(["git", "-C", here, "status", "--porcelain"]))}


def _output(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _framework_state(name: str, code: str) -> str:
    installed = _version(name)
    if installed is None:
        return f"not installed; mend it with: pip install 'nodebench[{name}]'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        return f"{installed}, broken: {done.stderr.strip().splitlines()[-1]}"
    return f"{installed}, devices: {done.stdout.strip()}"
