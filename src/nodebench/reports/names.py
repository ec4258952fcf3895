"""Names of users' files as people read them: without their folders, where that says which file is meant."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

from nodebench.errors import UserError
from nodebench.registry import parse
from nodebench.reports.document import Table


@dataclass(frozen=True)
class ShortNames:
    """The names of the files in some tasks and backends, such as `./mine.py:Mine` or `field[field=../model.py:Field]`.

    Attributes:
        files: The last part of each path by the path.
    """

    files: Mapping[str, str]

    @classmethod
    def of(cls, names: Iterable[str | None]) -> "ShortNames":
        """Those of all tasks and backends that are shown together: two files of one name keep their folders.

        Args:
            names: The tasks and backends, options included; None is left out.
        """
        paths = {path for name in names if name for path in _paths(name)}
        places: dict[str, set[PurePath]] = {}
        for path in paths:
            places.setdefault(PurePath(path).name, set()).add(PurePath(path))
        longest_first = sorted(paths, key=len, reverse=True)
        return cls({path: name for path in longest_first if len(places[name := PurePath(path).name]) == 1})

    def __call__(self, text: str) -> str:
        """A text with its paths shortened."""
        for path, name in self.files.items():
            # Not where it is the end of a longer path, which says itself which file is meant.
            text = name.join(re.split(rf"(?<![\w/.-]){re.escape(path)}", text))
        return text

    def table(self, table: Table) -> Table:
        """A table with the paths in its texts shortened."""
        rows = tuple(
            tuple(replace(entry, text=self(entry.text), reason=entry.reason and self(entry.reason)) for entry in row)
            for row in table.rows
        )
        return replace(table, caption=self(table.caption), rows=rows)


def _paths(name: str) -> Iterator[str]:
    """The paths of files that a task or backend is named by, those in a folder."""
    try:
        target, options = parse(name)
    except UserError:  # a file with a comma in its path that has gone since: its name stays as it is
        return
    for text in (target, *options.values()):
        if found := re.match(r"(.*/[^/]+\.py):", text, re.DOTALL):
            yield found[1]
