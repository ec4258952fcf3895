"""Baselines: figures of cells as a small JSON file to commit, sorted, one block per cell.

Schema history:
1  first release.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from nodebench import __version__
from nodebench.errors import UserError
from nodebench.results.environment import environment_of
from nodebench.results.record import Record, Status

BASELINE_SCHEMA = 1

DIGITS: Mapping[str, int] = {
    "field_value": 9,
    "field_derivative": 9,
    "grad_error_params": 3,
    "grad_error_y0": 3,
    "method_error_params": 3,
    "method_error_y0": 3,
    "step_s": 3,
    "ratio": 4,
    "ratio_low": 4,
    "ratio_high": 4,
}
"""Significant digits that are kept. All that is gated in bands of per cents loses nothing by it, and a line of the file
changes only where the figure has."""

USUAL: Mapping[str, Any] = {
    "controller": "integral",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "seed": 0,
    "horizon": 1.0,
}
"""Settings that a cell's name mentions only where they are others."""

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class CellFigures:
    """What is kept of a cell; the fields are those of `nodebench.results.record.Record`, which describes them.

    Attributes:
        environment: Key of the fingerprint of the machine that the newest of the figures is from.
        test: The test that measured it, where several of one file measured the same cell.
        paired: Whether `ratio` is the time of a step relative to the same cell of the version it is compared with,
            taken in turns; else it is relative to that of `control` in its own run.
    """

    # NaN is no larger than any figure, and would pass for an improvement.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    task: str
    model: str
    backend: str | None = None
    framework: str | None = None
    solver: str | None = None
    controller: str | None = None
    rtol: float | None = None
    atol: float | None = None
    first_step: float | None = None
    max_steps: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    batch_size: int | None = None
    seed: int = 0
    preset: str = ""
    horizon: float = 1.0
    dataset: str | None = None
    cell_id: str
    environment: str = ""
    status: Status = "ok"
    reason: str | None = None
    n_params: int | None = None
    field_value: float | None = None
    field_derivative: float | None = None
    nfe_forward: int | None = None
    nfe_backward: int | None = None
    n_vjps: int | None = None
    n_accepted: int | None = None
    n_rejected: int | None = None
    saved_bytes: int | None = None
    peak_memory_bytes: int | None = None
    unreleased_bytes: int | None = None
    grad_error_params: float | None = None
    grad_error_y0: float | None = None
    method_error_params: float | None = None
    method_error_y0: float | None = None
    step_s: float | None = None
    ratio: Positive | None = None
    ratio_low: Positive | None = None
    ratio_high: Positive | None = None
    n_starts: int | None = None
    control: str | None = None
    test: str | None = None
    paired: bool = False

    @classmethod
    def from_record(cls, record: Record, *, paired: bool = False) -> "CellFigures":
        """What is kept of a record."""
        kept = record.to_dict()
        figures = {f.name: rounded(f.name, kept[f.name]) for f in fields(cls) if f.name in kept}
        return cls(**figures, paired=paired)

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong with it."""
        return self.status == "ok"

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
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}


@dataclass(frozen=True)
class Baseline:
    """Figures of cells, from a file or from a run.

    Attributes:
        name: What a person calls it.
        cells: The cells by id.
        environments: Fingerprints of the machines they are from, by key.
    """

    name: str
    cells: Mapping[str, CellFigures]
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
            paired: As `CellFigures` has it.

        Raises:
            StoreError: If the fingerprint of a record is not among them.
        """
        measured = list(records)
        cells = {record.cell_id: CellFigures.from_record(record, paired=paired) for record in measured}
        used = {str(record.environment): environment_of(record, environments) for record in measured}
        return cls(name, cells, used)

    def joined(self, other: "Baseline") -> "Baseline":
        """This one and the cells of another, which replace what is there."""
        return Baseline(self.name, {**self.cells, **other.cells}, {**self.environments, **other.environments})

    def dumps(self) -> str:
        """The text of the file."""
        cells = sorted(self.cells.values(), key=lambda cell: cell.order)
        used = {cell.environment for cell in cells}
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
        cells = TypeAdapter(list[CellFigures]).validate_python(content["cells"])
        environments = TypeAdapter(dict[str, dict[str, Any]]).validate_python(content.get("environments", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the baseline `{name}` is damaged at `{where}`: {first['msg']}.") from error
    return Baseline(name, by_id(name, cells), environments)


def by_id(name: str, cells: Iterable[CellFigures]) -> dict[str, CellFigures]:
    """Cells of a file by their ids.

    Raises:
        UserError: If two have the same: what became of one of them would not be seen.
    """
    found: dict[str, CellFigures] = {}
    for cell in cells:
        if found.setdefault(cell.cell_id, cell) is not cell:
            raise UserError(f"`{name}` has the cell {cell.cell_id}, {cell.label}, more than once.")
    return found


def rounded(name: str, value: Any) -> Any:
    """A figure to the digits that are kept."""
    return float(f"{value:.{DIGITS[name]}g}") if name in DIGITS and value is not None else value
