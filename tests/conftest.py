"""What every test has in common: the environment of a worker, and JAX as it was found."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import chromium
from commands import own_imports

# Tests of two processes share the cores: threads of NumPy's and torch's, neither of which has been imported by now,
# would spin in each other's way.
for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

# As in a worker process, and before Equinox is imported: without diffrax's checks its programs compile twice as fast.
os.environ.setdefault("EQX_ON_ERROR", "off")

# Most programs of tests run once, so that optimising them takes longer than it saves.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# What XLA has compiled in an earlier run need not be compiled again; workers keep the programs that they are timed with
# in folders of their own.
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodebench-tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_addoption(parser):
    """The device of the tests that are marked `cuda`."""
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help="Device of the tests marked `cuda`.")


NEEDS = {
    "ray": ("cluster", "cluster_docs", "cluster_model"),
    "jax": ("check_up_jax", "compiled", "jax_backends", "jax_framework", "jax_odeint", "jax_torch_parity",
            "jax_training", "cnf_models", "spiral_models", "equal_steps", "sweep"),
    "worker": (
        "api", "check_up", "cli", "comparing", "conformance", "examples", "failures", "floor", "gate_versions",
        "gpu_bench", "interleaving", "jobs", "launcher", "new", "notebooks", "pytest_plugin", "recommending",
        "references", "registry", "reproduction", "runner", "selftest", "site", "tracking", "users_fields",
        "users_files", "workflows",
    ),
    "packaging": ("wheel", "torchode_plugin"),
}  # fmt: skip
"""Modules of tests by what most of them need: Ray, a compiler, new interpreters and workers, a build or an install."""

SLOW = ("worker", "jax", "ray", "packaging", "browser", "quiet", "cuda")
"""Marks of tests that may start another Python, be it a worker's or a compiler's."""


def pytest_collection_modifyitems(config, items):
    """Mark tests by what they need, and skip those of a GPU where there is none, unless a CPU is to stand in for it."""
    has_gpu = bool(list(Path("/dev").glob("nvidia[0-9]*")))
    for item in items:
        for mark, modules in NEEDS.items():
            if _module(item) in modules:
                item.add_marker(mark)
        if "browser" in item.fixturenames:
            item.add_marker("browser")
        if "jax" in item.name or "diffrax" in item.name:
            item.add_marker("jax")
        if item.get_closest_marker("cuda") and config.getoption("--device") == "cuda" and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="there is no GPU here"))
    # The long modules first, which several processes must share.
    order = {module: at for at, modules in enumerate(NEEDS.values()) for module in modules}
    items.sort(key=lambda item: order.get(_module(item), len(NEEDS)))


def _module(item):
    return item.path.stem.removeprefix("test_")


@pytest.fixture(autouse=True)
def _quick_tests_start_no_interpreter(request, monkeypatch):
    """A test that starts one is marked: the quick ones are those that do not, and must not become slow unseen."""
    if not any(map(request.node.get_closest_marker, SLOW)):
        begin = subprocess.Popen.__init__

        def watched(self, command, *args, **kwargs):
            starts = isinstance(command, list) and command[0] == sys.executable
            assert not starts, f"this test starts an interpreter: mark it `worker` ({command})"
            begin(self, command, *args, **kwargs)

        monkeypatch.setattr(subprocess.Popen, "__init__", watched)


@pytest.fixture(autouse=True)
def _nothing_old_is_collected():
    """As in a worker: what is traced lies between two collections, which need not go through all that tests import."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _users_modules_are_forgotten():
    """No test finds the modules of another's folder."""
    with own_imports():
        yield


@pytest.fixture(autouse=True)
def jax_as_it_was():
    """JAX computes in 32 bits in every test that does not ask for 64, whatever the test before it asked for."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_x64", False)  # noqa: FBT003  the signature is JAX's


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; closed after each module, since its event loop would be in the way of others."""
    with chromium() as opened:
        yield opened
