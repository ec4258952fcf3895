"""Which page shows which reproduction."""

from collections.abc import Callable, Mapping

from nodebench.reports.document import Document
from nodebench.reports.paper import classification, evaluations, flows, spirals
from nodebench.reports.paper.source import Source

PAGES: Mapping[str, Callable[[Source], Document]] = {
    "table1": classification.tables,
    "table3": classification.tables,
    "figure3": evaluations.figure,
    "figure4": flows.matching,
    "figure5": flows.likelihood,
    "table2": spirals.table,
    "figure8": spirals.figure,
}
"""By the name on the command line."""


def page_of(source: Source) -> Document:
    """The page of a reproduction."""
    return PAGES[source.name](source)
