"""How far gradients are right along an axis of tasks (stiffness, time span, parameters), and what they cost there."""

from collections.abc import Hashable, Sequence

from nodebench.reports import series
from nodebench.reports.charts import ERROR, NFE, TIME, Figure, against
from nodebench.reports.comparison import base_task, in_common
from nodebench.reports.document import Block
from nodebench.reports.tables import limits_table
from nodebench.results.record import Record
from nodebench.results.scaling import OF_TASK, Axis, limits, place_on, right_records, without_varied

PLACES = {
    "stiffness": Figure("stiffness", series.Axis("stiffness |λT|", log=True), lambda r: place_on("stiffness", r)),
    "horizon": Figure("time span", series.Axis("time span", log=True), lambda r: place_on("horizon", r)),
    "parameters": Figure("parameters", series.Axis("parameters", log=True), lambda r: place_on("parameters", r)),
}


def along_axes(records: Sequence[Record]) -> list[Block]:
    """For each axis of tasks that was gone along: where gradients cease to be right; error, NFE and time until there.

    Args:
        records: Records of one task, one per cell, failures among them, with times of one machine.
    """
    return [block for axis in OF_TASK for block in _along(axis, records)]


def _along(axis: Axis, records: Sequence[Record]) -> list[Block]:
    found = limits(records, axis)
    if not found:
        return []
    names = without_varied((record.task for record in records), axis)

    def common(record: Record) -> Hashable:
        return in_common(axis, record, names)

    right = right_records(records, axis)
    return [
        limits_table(f"{base_task(records[0])}-limits-{axis}", found),
        *(
            chart
            for cost in (ERROR, NFE, TIME)
            for chart in against(right, PLACES[axis], cost, "", fitted=cost is not ERROR, key=common)
        ),
    ]
