"""Baselines: figures of cells as a small JSON file to commit, sorted, one block per cell; and figures by name.

A name is that of a run in the store, of a baseline, or of the file that pytest-benchmark writes with `--benchmark-json`
or `--benchmark-autosave`. In the latter the times of benchmarks are in `stats`; what is exact, and the ratio to a
control where the benchmark has one, in `extra_info`, under the names of a record's fields. Times without a ratio are
shown and never gated: nothing in that file was timed in turns with anything else.

Schema history:
1  first release.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from nodebench import __version__
from nodebench.errors import UserError, first_error, user_error
from nodebench.results.machine import Fingerprint, environment_key, environment_of
from nodebench.results.quantities import CATALOGUE, kept
from nodebench.results.record import Measurement, Record, SettingsPart, in_one_spelling
from nodebench.results.store import Store, existing

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

MACHINE = ("node", "processor", "machine", "python_version", "system", "release", "cpu")
"""What is kept of the machine that pytest-benchmark describes."""

CPU = ("brand_raw", "count")
"""What is kept of its processor."""


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
        """What is kept of a record, with its notes, which no file has."""
        known = {name: value for name, value in record.to_dict().items() if name in (*KEPT, "notes")}
        return cls(**known, paired=paired).rounded

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
        runs: Ids of the runs they are from; empty where that is not known.
    """

    name: str
    cells: Mapping[str, BaselineCell]
    environments: Mapping[str, Fingerprint] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    @classmethod
    def from_records(
        cls,
        name: str,
        records: Iterable[Record],
        environments: Mapping[str, Fingerprint],
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
        return cls(name, cells, used, tuple(dict.fromkeys(record.run_id for record in measured)))

    def joined(self, other: "Baseline") -> "Baseline":
        """This one and the cells of another, which replace what is there."""
        return self.taking({**self.cells, **other.cells}, other)

    def taking(self, cells: Mapping[str, BaselineCell], other: "Baseline") -> "Baseline":
        """The same with these cells, which are its own and another's."""
        runs = tuple(dict.fromkeys([*self.runs, *other.runs]))
        return Baseline(self.name, cells, {**self.environments, **other.environments}, runs)

    def dumps(self) -> str:
        """The text of the file."""
        cells = sorted(self.cells.values(), key=lambda cell: cell.order)
        used = {cell.environment or "" for cell in cells}
        content = {
            "schema": BASELINE_SCHEMA,
            "nodebench_version": __version__,
            "runs": list(self.runs),
            "environments": {key: self.environments[key] for key in sorted(used) if key in self.environments},
            "cells": [cell.to_dict() for cell in cells],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def save_baseline(runs: Sequence[str], path: Path, store: str | Path) -> Baseline:
    """Write the figures of runs into a baseline file; of a cell in several, the last holds.

    Args:
        runs: Runs by id, the beginning of it, or `latest`.
        path: The file.
        store: Results store.

    Raises:
        UserError: If there is no such run or store, or the file cannot be written, or is there and is no baseline.
    """
    if path.is_file() and path.stat().st_size:
        _check_own(path, "-o names another")
    opened = existing(store)
    first, *others = [of_run(opened, run_id) for run_id in runs]
    for other in others:
        first = first.joined(other)
    write_baseline(first, path)
    return first


def write_baseline(figures: Baseline, path: Path) -> None:
    """Write figures into a baseline file, all at once: who reads it meanwhile has the old figures or the new ones.

    Raises:
        UserError: If it cannot be written.
    """
    with user_error(f"`{path}` cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe, or a folder, which says so
            path.write_text(figures.dumps(), encoding="utf-8")
            return
        target = path.resolve()  # where a link leads
        half = target.with_name(f".{target.name}-{os.getpid()}")
        try:
            with half.open("w", encoding="utf-8") as file:
                file.write(figures.dumps())
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                target.open("r+b").close()  # refused where it must not be written
                shutil.copymode(target, half)
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)


def read_baseline(path: Path) -> Baseline:
    """The figures in a baseline file.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"there is no baseline `{path}`; `nodebench baseline save -o {path}` writes one.")
    return read_file(path)


def own_baseline(path: Path) -> Baseline:
    """The figures in a baseline file that is to be changed, which must be one that nodebench wrote.

    Raises:
        UserError: If there is none, it cannot be read, or it is of another format.
    """
    figures = read_baseline(path)
    _check_own(path, "`nodebench baseline save -o FILE` writes a baseline")
    return figures


def _check_own(path: Path, advice: str) -> None:
    """Refuse to write into a file that nodebench has not written, whatever else it may be."""
    refusal = UserError(f"`{path}` is not a baseline of nodebench, and stays as it is; {advice}.")
    try:
        content = _content(path)
    except UserError as error:
        raise refusal from error
    if not isinstance(content, dict) or not {"schema", "nodebench_version", "cells"} <= content.keys():
        raise refusal


def find(name: str | Path | Baseline, store: str | Path) -> Baseline:
    """The figures that a name stands for.

    Args:
        name: A file, or a run in the store; figures stand for themselves.
        store: Results store, which need not exist where a file is named.

    Raises:
        UserError: If there is no such file or run, or it cannot be read.
    """
    if isinstance(name, Baseline):
        return name
    path = Path(name)
    if path.is_file():
        return read_file(path)
    if path.suffix or path.name != str(name):
        raise UserError(f"there is no file `{name}`; `nodebench baseline save -o {name}` writes one.")
    return of_run(existing(store), str(name))


def of_run(store: Store, name: str) -> Baseline:
    """The figures of a run, by its id, the beginning of it, or `latest`."""
    run = store.run(name)
    return Baseline.from_records(run.run_id, store.records([run.run_id]), store.environments())


def read_file(path: Path) -> Baseline:
    """The figures in a file: a baseline, or what pytest-benchmark wrote.

    Raises:
        UserError: If it cannot be read or is neither.
    """
    content = _content(path)
    if isinstance(content, dict) and isinstance(content.get("machine_info"), dict):
        benchmarks = content.get("benchmarks")
        if isinstance(benchmarks, list) and all(isinstance(benchmark, dict) for benchmark in benchmarks):
            return of_benchmarks(str(path), content)
    return loads(str(path), content)


def _content(path: Path) -> Any:
    try:
        with user_error(f"`{path}` cannot be read"):
            return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"`{path}` is not JSON: {error}.") from error


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
        runs = TypeAdapter(tuple[str, ...]).validate_python(content.get("runs", []))
    except ValidationError as error:
        where, why, _ = first_error(error)
        raise UserError(f"the baseline `{name}` is damaged at `{where}`: {why}.") from error
    return Baseline(name, _by_id(name, _spelled(cells)), cast(dict[str, Fingerprint], environments), runs)


def _spelled(cells: Sequence[BaselineCell]) -> list[BaselineCell]:
    """Cells of an older version with the one spelling of their tasks and backends, but for those that are there so."""
    known = {cell.cell_id for cell in cells}
    anew = [(cell, in_one_spelling(cell, cell.first_step)) for cell in cells]
    spelled = [replace(cell, **new) if new and new["cell_id"] not in known else cell for cell, new in anew]
    controls = {old.backend: new.backend for old, new in zip(cells, spelled, strict=True)}
    return [replace(cell, control=controls.get(cell.control, cell.control)) for cell in spelled]


def of_benchmarks(name: str, content: Mapping[str, Any]) -> Baseline:
    """The figures in the content of pytest-benchmark's file.

    Args:
        name: The file's name.
        content: What it holds, as `json.loads` gives it.

    Raises:
        UserError: If an `extra_info` is no figure of a cell, or two are of the same cell.
    """
    machine = {key: content["machine_info"][key] for key in MACHINE if key in content["machine_info"]}
    if isinstance(machine.get("cpu"), Mapping):
        machine["cpu"] = {key: machine["cpu"][key] for key in CPU if key in machine["cpu"]}
    environment = environment_key(machine)
    found = [_of_benchmark(name, benchmark, environment) for benchmark in content["benchmarks"]]
    tests: dict[str, set[str | None]] = {}
    for cell in found:
        tests.setdefault(cell.cell_id, set()).add(cell.test)
    # Only cells that several tests measured keep the name of their test.
    cells = [
        replace(cell, cell_id=f"{cell.cell_id} in {cell.test}")
        if len(tests[cell.cell_id]) > 1
        else replace(cell, test=None)
        for cell in found
    ]
    return Baseline(name, _by_id(name, cells), {environment: cast(Fingerprint, machine)})


def _of_benchmark(name: str, benchmark: Mapping[str, Any], environment: str) -> BaselineCell:
    full = benchmark.get("fullname", "?")
    usual = {"task": full, "model": "", "cell_id": full, "step_s": benchmark.get("stats", {}).get("median")}
    known = {key: value for key, value in benchmark.get("extra_info", {}).items() if key in KEPT}
    try:
        cell: BaselineCell = TypeAdapter(BaselineCell).validate_python(
            {**usual, **known, "environment": environment, "test": full}
        )
    except ValidationError as error:
        where, why, value = first_error(error)
        raise UserError(f"`{name}`: `extra_info.{where}` of `{full}`: {why}; got {value!r}.") from error
    return cell.rounded


def _by_id(name: str, cells: Iterable[BaselineCell]) -> dict[str, BaselineCell]:
    """Cells by their ids, which must differ: what became of one of two would not be seen."""
    found: dict[str, BaselineCell] = {}
    for cell in cells:
        if found.setdefault(cell.cell_id, cell) is not cell:
            raise UserError(f"`{name}` has the cell {cell.cell_id}, {cell.label}, more than once.")
    return found
