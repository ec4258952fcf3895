"""What is measured is checked before anything is."""

import pytest

from nodebench.bench.subject import check_times
from nodebench.errors import UserError


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.5, 2.0], [1.0, 0.5, -2.0]])
def test_monotone_times_pass(times):
    """Times may go either way."""
    check_times(times)


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.5], [0.0, float("nan")]])
def test_other_times_are_refused(times):
    """Times that repeat, turn back or are no numbers are an error that shows them."""
    with pytest.raises(UserError, match="strictly increasing or strictly decreasing"):
        check_times(times)
