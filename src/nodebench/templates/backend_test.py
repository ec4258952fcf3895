"""Every check of `nodebench check backend ./mine.py:Mine`, each a test."""

from pathlib import Path

import pytest

from nodebench import Check, backend_checks

CHECKS = backend_checks(f"{Path(__file__).with_name('mine.py')}:Mine")


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_mine_conforms(check: Check) -> None:
    """It does what every backend must."""
    check()
