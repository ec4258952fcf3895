"""What every test has in common: the environment of a worker, and JAX as it was found."""

import os
import sys

import pytest
from browser import chromium

# As in a worker process, and before Equinox is imported: without diffrax's checks its programs compile twice as fast.
os.environ.setdefault("EQX_ON_ERROR", "off")


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
