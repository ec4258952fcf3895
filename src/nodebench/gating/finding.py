"""What a comparison says of one figure."""

from dataclasses import dataclass
from typing import Literal

from nodebench.gating.baseline import BaselineCell

FindingVerdict = Literal[
    "regression", "incomparable", "missing", "undecided", "traded", "improvement", "changed", "new", "same"
]
"""`incomparable`: a figure on both sides that cannot be compared. `missing`: one that only the baseline has. `traded`:
a lower cost with a less exact gradient. `changed`: another failure than before. `new`: one that only the candidate has.
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is to be said of one figure of one cell.

    Attributes:
        cell: The cell, as the candidate has it where it does.
        metric: Name of the figure; `status`, or `cell` for the whole of it.
        verdict: How it compares.
        reason: One sentence; empty where there is nothing to say.
        old: The baseline's figure.
        new: The candidate's.
        low: Of a slowdown, the lower end of its interval.
        high: The upper end.
        unit: Unit of the figures.
        measured: Whether the candidate has the cell.
        derived: Whether it is of no single cell, but worked out from those of several tolerances; `cell` is the first.
    """

    cell: BaselineCell
    metric: str
    verdict: FindingVerdict
    reason: str = ""
    old: float | str | None = None
    new: float | str | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    measured: bool = True
    derived: bool = False
