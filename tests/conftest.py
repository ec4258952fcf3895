"""What every test has in common: the environment of a worker, and JAX as it was found."""

import os
import sys
from pathlib import Path

import pytest
from browser import chromium

# As in a worker process, and before Equinox is imported: without diffrax's checks its programs compile twice as fast.
os.environ.setdefault("EQX_ON_ERROR", "off")

# What XLA has compiled in an earlier run need not be compiled again; workers keep the programs that they are timed with
# in folders of their own.
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodebench-tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_addoption(parser):
    """The device of the tests that are marked `cuda`."""
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help="Device of the tests marked `cuda`.")


def pytest_collection_modifyitems(config, items):
    """Skip what needs a GPU where there is none, unless a CPU is to stand in for it."""
    if config.getoption("--device") == "cuda" and not list(Path("/dev").glob("nvidia[0-9]*")):
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU here"))


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
