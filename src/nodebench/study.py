"""A study: what was measured with a field, as a table, a page, and an answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodebench.results.machine import Fingerprint
from nodebench.results.record import Record
from nodebench.results.store import Run, now

if TYPE_CHECKING:
    from nodebench.reports.document import Document
    from nodebench.reports.recommendation import Recommendation
    from nodebench.reports.writers.files import Written


@dataclass(frozen=True, repr=False)
class Study:
    """What was measured: it prints as a table, and shows as a page in a notebook.

    Attributes:
        records: What was measured of each cell, failures included, in the order in which they were asked for.
        run: The run that they belong to.
        environments: Fingerprints of the machines that they were measured on, by key.
    """

    records: tuple[Record, ...]
    run: Run
    environments: Mapping[str, Fingerprint]

    def __repr__(self) -> str:
        """The table of a terminal."""
        from nodebench.printing import records_text

        return records_text(self.records)

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the first screen of the report; the table where what makes it is not installed."""
        from nodebench.importing import missing

        if missing("report"):
            return None
        from nodebench.reports.writers.html import first_screen

        return first_screen(self._page())

    def recommend(
        self, *, error: float | None = None, memory: str | float | None = None, time: str | float | None = None
    ) -> "Recommendation":
        """Which method to use, what it costs, and why the others lost.

        Args:
            error: Relative error of the gradient that is allowed; of several tolerances there is one to choose.
            memory: Peak memory of a gradient step that is allowed, such as `"200 MiB"`, or bytes.
            time: Time of a gradient step that is allowed, such as `"10 ms"`, or seconds.

        Raises:
            UserError: If a wish is no positive number, or nothing was measured.
        """
        from nodebench.reports.comparison import Machines
        from nodebench.reports.recommendation import Wishes, recommendation

        records = Machines.of(self.records, self.environments).with_times_of_one(self.records)
        return recommendation(records, Wishes.of(error, memory, time))

    def to_dict(self) -> dict[str, Any]:
        """The records and the machines as JSON knows them."""
        return {
            "run": self.run.run_id,
            "records": [record.to_dict() for record in self.records],
            "environments": dict(self.environments),
        }

    def to_pandas(self) -> Any:
        """The records as a data frame of pandas, one row for each.

        Raises:
            NotInstalledError: If pandas is not installed.
        """
        return _frame("pandas", self.records)

    def to_polars(self) -> Any:
        """The records as a data frame of polars, one row for each.

        Raises:
            NotInstalledError: If polars is not installed.
        """
        return _frame("polars", self.records)

    def report(self, path: str | Path, *, charts: str | None = None) -> "list[Written]":
        """Write a report: the answer first, then every figure it rests on.

        Args:
            path: File to write: .html, .md, .tex, .csv, .json or .parquet.
            charts: Also write each chart to an svg, pdf or png file, which .md and .tex include.

        Returns:
            The files that were written.

        Raises:
            UserError: If a file cannot be written.
        """
        from nodebench.reports.writers.files import DATA, check_outputs, write_data, write_page

        paths = [Path(path)]
        check_outputs(paths, charts)
        if paths[0].suffix in DATA:
            return [write_data(list(self.records), paths[0])]
        return write_page(self._page(), paths, charts)

    def _page(self) -> "Document":
        from nodebench.reports.comparison import Machines
        from nodebench.reports.report import report

        machines = Machines.of(self.records, self.environments)
        return report(list(self.records), [self.run], machines, lambda _: (), self.run.command, now())


def _frame(library: str, records: tuple[Record, ...]) -> Any:
    from nodebench.importing import optional_module

    return optional_module(library).DataFrame([record.to_dict() for record in records])
