"""Baselines: figures of cells as a small JSON file to commit, sorted, one block per cell.

Schema history:
1  first release.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from nodebench import __version__
from nodebench.errors import UserError
from nodebench.results.environment import environment_of
from nodebench.results.quantities import CATALOGUE, kept
from nodebench.results.record import Measurement, Record, SettingsPart

BASELINE_SCHEMA = 1

KEPT = (*(f.name for f in fields(SettingsPart)), *kept())
"""Fields of a record that a baseline keeps."""

USUAL: Mapping[str, Any] = {
    "controller": "integral",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "seed": 0,
    "horizon": 1.0,
}
"""Settings that a cell's name mentions only where they are others."""


@dataclass(frozen=True, kw_only=True)
class BaselineCell(Measurement, SettingsPart):
    """What is kept of a record: its settings and the quantities that the catalogue says a baseline keeps.

    Attributes:
        test: The test that measured it, where several of one file measured the same cell.
        paired: Whether `ratio` is the time of a step relative to the same cell of the version it is compared with,
            taken in turns; else it is relative to that of `control` in its own run.
    """

    # NaN is no larger than any figure, and would pass for an improvement.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    test: str | None = None
    paired: bool = False

    @classmethod
    def from_record(cls, record: Record, *, paired: bool = False) -> "BaselineCell":
        """What is kept of a record."""
        return cls(**{name: value for name, value in record.to_dict().items() if name in KEPT}, paired=paired).rounded

    @property
    def rounded(self) -> "BaselineCell":
        """The same with the digits that are kept.

        All that is gated in bands of per cents loses nothing by it, and a line of the file changes only where the
        figure has.
        """
        return replace(self, **{name: said.rounded(getattr(self, name)) for name, said in CATALOGUE.items()})

    @property
    def label(self) -> str:
        """What a person calls it: task/model/backend with solver, tolerance and what is not as usual."""
        where = "/".join(filter(None, (self.task, self.model, self.backend)))
        settings = [self.solver or "", "" if self.rtol is None else f"rtol {self.rtol:g}"]
        settings += [
            f"{name} {getattr(self, name)}" for name, usual in USUAL.items() if getattr(self, name) not in (usual, None)
        ]
        return " ".join(filter(None, (where, *settings, self.test and f"in {self.test}")))

    @property
    def order(self) -> tuple[str, ...]:
        """By what cells are sorted in a file."""
        return (self.task, self.model, self.backend or "", self.label, self.cell_id)

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON knows it, without what was not measured."""
        own = {name: getattr(self, name) for name in (*KEPT, "test", "paired")}
        return {name: value for name, value in own.items() if value is not None and value is not False}


@dataclass(frozen=True)
class Baseline:
    """Figures of cells, from a file or from a run.

    Attributes:
        name: What a person calls it.
        cells: The cells by id.
        environments: Fingerprints of the machines they are from, by key.
    """

    name: str
    cells: Mapping[str, BaselineCell]
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_records(
        cls,
        name: str,
        records: Iterable[Record],
        environments: Mapping[str, Mapping[str, Any]],
        *,
        paired: bool = False,
    ) -> "Baseline":
        """The figures of a run.

        Args:
            name: What a person calls it.
            records: Its records, of as many machines as one likes.
            environments: Fingerprints by key, those of the records among them.
            paired: As `BaselineCell` has it.

        Raises:
            StoreError: If the fingerprint of a record is not among them.
        """
        measured = list(records)
        cells = {record.cell_id: BaselineCell.from_record(record, paired=paired) for record in measured}
        used = {str(record.environment): environment_of(record, environments) for record in measured}
        return cls(name, cells, used)

    def joined(self, other: "Baseline") -> "Baseline":
        """This one and the cells of another, which replace what is there."""
        return Baseline(self.name, {**self.cells, **other.cells}, {**self.environments, **other.environments})

    def dumps(self) -> str:
        """The text of the file."""
        cells = sorted(self.cells.values(), key=lambda cell: cell.order)
        used = {cell.environment or "" for cell in cells}
        content = {
            "schema": BASELINE_SCHEMA,
            "nodebench_version": __version__,
            "environments": {key: self.environments[key] for key in sorted(used) if key in self.environments},
            "cells": [cell.to_dict() for cell in cells],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def loads(name: str, content: Any) -> Baseline:
    """The baseline in the content of a file.

    Args:
        name: The file's name.
        content: What it holds, as `json.loads` gives it.

    Raises:
        UserError: If it is no baseline, or one of another schema.
    """
    if not isinstance(content, dict) or not {"schema", "cells"} <= content.keys():
        raise UserError(f"`{name}` is not a baseline: `nodebench baseline save -o FILE` writes one.")
    if content["schema"] != BASELINE_SCHEMA:
        raise UserError(
            f"the baseline `{name}` has schema {content['schema']}, this nodebench knows {BASELINE_SCHEMA}; "
            "write it anew with `nodebench baseline save`."
        )
    try:
        cells = TypeAdapter(list[BaselineCell]).validate_python(content["cells"])
        environments = TypeAdapter(dict[str, dict[str, Any]]).validate_python(content.get("environments", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the baseline `{name}` is damaged at `{where}`: {first['msg']}.") from error
    return Baseline(name, by_id(name, cells), environments)


def by_id(name: str, cells: Iterable[BaselineCell]) -> dict[str, BaselineCell]:
    """Cells of a file by their ids.

    Raises:
        UserError: If two have the same: what became of one of them would not be seen.
    """
    found: dict[str, BaselineCell] = {}
    for cell in cells:
        if found.setdefault(cell.cell_id, cell) is not cell:
            raise UserError(f"`{name}` has the cell {cell.cell_id}, {cell.label}, more than once.")
    return found
