"""Every check of `nodebench check task ./mine.py:Mine`, each a test."""

from pathlib import Path

import pytest

from nodebench import Check, task_checks

CHECKS = task_checks(f"{Path(__file__).with_name('mine.py')}:Mine")


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_mine_conforms(check: Check) -> None:
    """It does what every task must."""
    check()
