"""The machine and the code that figures are from: its fingerprint, its idle cores, the files that were loaded."""

import hashlib
import json
import os
import platform
import shutil
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import psutil

from nodebench.errors import StoreError, last_line
from nodebench.importing import read_files

if TYPE_CHECKING:
    from nodebench.results.record import Record

LIBRARIES = (
    "nodebench", "numpy", "scipy", "torch", "torchdiffeq", "jax", "jaxlib", "diffrax", "equinox", "optax", "memray",
)  # fmt: skip


class Commit(TypedDict):
    """A commit of git, and whether something in its tree has been changed since."""

    commit: str
    dirty: bool


class Fingerprint(TypedDict, total=False):
    """A machine and its software, as far as they are known; a run on many machines has that of its software alone.

    It is a mapping because it is kept as JSON: what an older version wrote has fewer entries, and what another program
    wrote has others.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    gpu: str | None
    system: str
    python: str
    libraries: dict[str, str | None]
    git: Commit | None
    executor: str


SOFTWARE = ("python", "libraries", "git")
"""What of a fingerprint must be the same on all machines of a run."""

ONLINE_CORES = Path("/sys/devices/system/cpu/online")
"""Where Linux has the numbers of the cores that are switched on, such as `0,2-3`."""

CONTROL_GROUPS, OWN_CONTROL_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux has the limits of control groups, and which of them a process is in."""

Cores = tuple[int, ...] | None
"""Cores that a worker is kept to; None for all."""

SAMPLE_S = 0.2
"""How long cores are watched before some are chosen."""

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""What a core does while it is not idle, as psutil names it; macOS has the first three."""

TICK_DIGITS = 2
"""Decimals of a second in which times of cores are counted."""

MEMORY_UNIT = 2**28
"""To what the size of memory is rounded: of machines alike each has some pages more or less."""

DEVICE_QUESTIONS = {
    "torch": "import torch as t; print('cpu', *map(t.cuda.get_device_name, range(t.cuda.device_count())), sep=', ')",
    "jax": "import jax; print(*(f'{d.platform} {d.device_kind}' for d in jax.devices()), sep=', ')",
}
"""Programs that print the devices of a framework."""


CUDA_QUESTIONS = {
    "torch": "import sys, torch; sys.exit(not torch.cuda.is_available())",
    "jax": "import sys, jax; sys.exit(not any(device.platform == 'gpu' for device in jax.devices()))",
}
"""Programs that end with 0 where a framework finds a CUDA device."""


def finds_cuda(framework: str) -> bool:
    """Whether a framework finds a CUDA device on this machine, asked in a process of its own; other frameworks may."""
    code = CUDA_QUESTIONS.get(framework)
    return (
        code is None or subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    )


def fingerprint() -> Fingerprint:
    """CPU, cores, memory, GPU, operating system, Python, libraries, and the git commit of this package's sources."""
    return {
        "cpu": _cpu(),
        "cores": len(available_cores()),
        "memory_bytes": _memory_bytes(),
        "gpu": _gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "git": _git(),
    }


def software(environment: Fingerprint) -> Fingerprint:
    """What of a fingerprint must be the same on all machines of a run."""
    return cast(Fingerprint, {name: environment.get(name) for name in SOFTWARE})


def frameworks() -> dict[str, str]:
    """What each framework says of its devices, each asked in a process of its own; or how to install it."""
    return {name: _framework_state(name, code) for name, code in DEVICE_QUESTIONS.items()}


def available_cores() -> list[int]:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Cores' worth of time that this process may use: its affinity, within the share of its control groups."""
    shares = [_share(folder / "cpu.max") for folder in _control_groups()]
    return max(1, min([len(available_cores()), *(ceil(share) for share in shares if share is not None)]))


def available_memory() -> int:
    """Bytes that new processes may take, within the limits of the control groups."""
    free = [int(psutil.virtual_memory().available)]
    for folder in _control_groups():
        limit, used = (_bytes_in(folder / name) for name in ("memory.max", "memory.current"))
        if limit is not None and used is not None:
            free.append(limit - used)
    return min(free)


def _control_groups() -> list[Path]:
    """The control groups of this process, its own and those that it lies in; none where there is no version 2."""
    lines = OWN_CONTROL_GROUP.read_text().splitlines() if OWN_CONTROL_GROUP.exists() else []
    own = [CONTROL_GROUPS / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    within = [folder for leaf in own for folder in (leaf, *leaf.parents)]
    return [folder for folder in within if folder.is_relative_to(CONTROL_GROUPS) and folder.is_dir()]


def _share(limit: Path) -> float | None:
    """Cores' worth of time that a control group has; None for all."""
    quota, period = limit.read_text().split() if limit.exists() else ("max", "1")
    return None if quota == "max" else int(quota) / int(period)


def _bytes_in(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else "max"
    return None if text == "max" else int(text)


def idle_cores(n: int) -> list[int]:
    """The `n` cores (or as many as there are) that have just been the least busy.

    Two benchmarks on one machine thus keep out of each other's way.
    """
    before = _busy()
    time.sleep(SAMPLE_S)
    after = _busy()
    return sorted(available_cores(), key=lambda core: round(after.get(core, 0) - before.get(core, 0), TICK_DIGITS))[:n]


def _busy() -> dict[int, float]:
    """Seconds that each core has not been idle."""
    found = psutil.cpu_times(percpu=True)
    return {
        core: sum(getattr(times, name, 0.0) for name in BUSY)
        for core, times in zip(_online_cores(len(found)), found, strict=False)
    }


def _online_cores(n: int) -> list[int]:
    """The numbers of the cores that are not switched off, of which there are `n`; where no list agrees, in a row."""
    if not ONLINE_CORES.exists():
        return list(range(n))
    ranges = [part.partition("-") for part in ONLINE_CORES.read_text().strip().split(",")]
    cores = [core for first, _, last in ranges for core in range(int(first), int(last or first) + 1)]
    return cores if len(cores) == n else list(range(n))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return round(int(psutil.virtual_memory().total) / MEMORY_UNIT) * MEMORY_UNIT


def _gpu() -> str | None:
    """Those that there are, and that all of a float32 is used on them: every framework switches TF32 off."""
    found = _output(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    return f"{found}; TF32 off" if found else None


def _git() -> Commit | None:
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


def library_version(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _framework_state(name: str, code: str) -> str:
    installed = library_version(name)
    if installed is None:
        return f"not installed; install with: pip install 'nodebench[{name}]'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        return f"{installed}, broken: {last_line(done.stderr)}"
    return f"{installed}, devices: {done.stdout.strip()}"


Files = Mapping[str, str]
"""Digests of files by path."""


def loaded_files() -> dict[str, str]:
    """The files of all modules of this process that belong to no installed package, with digests of their content.

    Files of data are among them that the measured problem was read from.
    """
    origins = {getattr(module, "__file__", None) for module in list(sys.modules.values())} | read_files
    here = str(Path.cwd())
    # By their text: thousands of modules are installed, and each worker looks at them several times.
    whole = {os.path.join(here, origin) for origin in origins if origin}  # noqa: PTH118
    paths = sorted(Path(path) for path in whole if not path.startswith(_installed_folders()))
    return {str(path): file_digest(path) for path in paths if path.is_file()}


def file_digest(path: Path) -> str:
    """Digest of a file's content; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def changed(files: Files) -> list[str]:
    """The files that are no longer what they were."""
    return [path for path, digest in files.items() if file_digest(Path(path)) != digest]


def code_identity() -> str:
    """What this process's code is known by: versions of what it has loaded, and the content of all not installed."""
    packages = {module.partition(".")[0] for module in list(sys.modules)}
    loaded = sorted({name for package in packages for name in _distributions().get(package, ())})
    versions = {name: library_version(name) for name in loaded}
    content = json.dumps([sys.version, versions, loaded_files()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


_distributions = cache(packages_distributions)
"""The distributions that each package is from; a fifth of a second where there are many."""


@cache
def _installed_folders() -> tuple[str, ...]:
    """Each with the separator at its end."""
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places += [*site.getsitepackages(), site.getusersitepackages()]
    folders = {Path(place).absolute() for place in places} | {Path(place).resolve() for place in places}
    return tuple(f"{folder}{os.sep}" for folder in folders)


def environment_key(fingerprint: Mapping[str, object]) -> str:
    """Short hash by which records, and cells of a baseline, name the machine that they are from."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:8]


def environment_of(record: "Record", environments: Mapping[str, Fingerprint]) -> Fingerprint:
    """The fingerprint of the machine that a record was measured on.

    Args:
        record: The record.
        environments: Fingerprints by key.

    Raises:
        StoreError: If it is not among them: what is not known to be of one machine must not be compared.
    """
    if record.environment is None or record.environment not in environments:
        raise StoreError(
            f"the record of cell {record.cell_id} in run {record.run_id} should name a fingerprint of the store, and "
            f"names `{record.environment}`; measure the cell again."
        )
    return environments[record.environment]


def differences(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """What differs between two fingerprints, one line per entry, for example `libraries.torch: 2.13.0 against 2.12.0`.

    Args:
        first: Fingerprint as `nodebench.results.machine.fingerprint` makes it, mappings within mappings.
        second: The other one.
    """
    one, other = dict(_entries(first)), dict(_entries(second))
    names = [*one, *(name for name in other if name not in one)]
    return [f"{name}: {one.get(name)} against {other.get(name)}" for name in names if one.get(name) != other.get(name)]


def _entries(fingerprint: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in fingerprint.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
