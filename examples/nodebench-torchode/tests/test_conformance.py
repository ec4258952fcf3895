"""Every check of nodebench, of both backends."""

import pytest

from nodebench import backend_checks

CHECKS = [(name, check) for name in ("torchode", "torchode-backsolve") for check in backend_checks(name)]


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[f"{name}-{check}" for name, check in CHECKS])
def test_it_conforms(name, check):
    """It does what every backend must."""
    assert name
    check()
