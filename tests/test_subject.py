"""What is measured is checked before anything is."""

import pytest

from nodebench import registry
from nodebench.bench.subject import check_times, source_digest
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


def test_edited_code_is_another_problem(tmp_path):
    """A reference gradient of yesterday's code is not found for today's."""
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    rate = 1\n")
    mine = registry.load_class(f"{file}:Mine")
    before = source_digest(mine)
    assert source_digest(mine) == before
    file.write_text("class Mine:\n    rate = 2\n")
    assert source_digest(mine) != before
