"""The file that pytest-benchmark writes with `--benchmark-json` or `--benchmark-autosave`, read as figures of cells.

The times of its benchmarks are in `stats`; what is exact, and the ratio to a control where the benchmark has one, in
`extra_info`, under the names of a record's fields. Times without a ratio are shown and never gated: nothing in the file
was timed in turns with anything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nodebench.errors import UserError
from nodebench.results.baseline import KEPT, Baseline, BaselineCell, by_id
from nodebench.results.environment import environment_key

MACHINE = ("node", "processor", "machine", "python_version", "system", "release", "cpu")
"""What is kept of the machine."""

CPU = ("brand_raw", "count")

_NAMES = frozenset(KEPT) - {"environment"}


def is_pytest_benchmark(content: Any) -> bool:
    """Whether the content of a JSON file is of pytest-benchmark."""
    if not isinstance(content, dict) or not isinstance(content.get("machine_info"), dict):
        return False
    benchmarks = content.get("benchmarks")
    return isinstance(benchmarks, list) and all(isinstance(benchmark, dict) for benchmark in benchmarks)


def read_pytest_benchmark(name: str, content: Mapping[str, Any]) -> Baseline:
    """Figures of cells from the content of a file.

    Args:
        name: The file's name.
        content: What it holds, as `json.loads` gives it.

    Raises:
        UserError: If an `extra_info` is no figure of a cell, or two are of the same cell.
    """
    environment = _environment(content["machine_info"])
    key = environment_key(environment)
    found = [_cell(name, benchmark, key) for benchmark in content["benchmarks"]]
    return Baseline(name, by_id(name, _told_apart(found)), {key: environment})


def _told_apart(cells: Sequence[BaselineCell]) -> list[BaselineCell]:
    """The cells, of which only those that several tests measured keep the name of their test."""
    tests: dict[str, set[str | None]] = {}
    for cell in cells:
        tests.setdefault(cell.cell_id, set()).add(cell.test)
    return [
        replace(cell, cell_id=f"{cell.cell_id} in {cell.test}")
        if len(tests[cell.cell_id]) > 1
        else replace(cell, test=None)
        for cell in cells
    ]


def _cell(name: str, benchmark: Mapping[str, Any], key: str) -> BaselineCell:
    full = benchmark.get("fullname", "?")
    known = {field: value for field, value in benchmark.get("extra_info", {}).items() if field in _NAMES}
    median = benchmark.get("stats", {}).get("median")
    figures = {"task": full, "model": "", "cell_id": full, "step_s": median, **known, "environment": key, "test": full}
    try:
        cell: BaselineCell = TypeAdapter(BaselineCell).validate_python(figures)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"`{name}`: `extra_info.{where}` of `{full}`: {first['msg']}; got {first['input']!r}."
        ) from error
    return cell.rounded


def _environment(machine: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: machine[name] for name in MACHINE if name in machine}
    cpu = kept.get("cpu")
    if isinstance(cpu, Mapping):
        kept["cpu"] = {name: cpu[name] for name in CPU if name in cpu}
    return kept
