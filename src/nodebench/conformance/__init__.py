"""What every backend and task must do, as checks: for the author of one, and for our own tests of ours.

In a plugin's own tests, one line runs them all:

    from nodebench import backend_checks

    @pytest.mark.parametrize("check", backend_checks("my_package.mine:Mine"), ids=str)
    def test_mine_conforms(check):
        check()

`task_checks` does the same for a task, and `nodebench check backend|task X` from the command line. A check is skipped
where it does not apply, for the reason that it gives.
"""

from nodebench.conformance.backend import backend_checks
from nodebench.conformance.check import Check, CheckFailedError, CheckOutcome
from nodebench.conformance.task import task_checks

__all__ = ["Check", "CheckFailedError", "CheckOutcome", "backend_checks", "task_checks"]
