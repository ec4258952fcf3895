"""Figures as text, the same in every table, page and sentence."""

ABSENT = "-"
"""What stands where a figure was not measured."""


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, whole from `10 ** digits` on, or `ABSENT`."""
    if value is None:
        return ABSENT
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """A whole number, or `ABSENT`."""
    return ABSENT if value is None else str(value)


def mebibytes(value: int | None) -> str:
    """Bytes as MiB, or `ABSENT`."""
    return number(None if value is None else value / 2**20, 4)


def milliseconds(value: float | None) -> str:
    """Seconds as ms, or `ABSENT`."""
    return number(None if value is None else 1000 * value, 4)


def interval(low: float | None, high: float | None, scale: float = 1.0) -> str:
    """The ends of an interval, or nothing."""
    return "" if low is None or high is None else f"{number(scale * low)}..{number(scale * high)}"
