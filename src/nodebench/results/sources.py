"""Figures by the name that a person gives: a file, or a run in the store."""

import json
from collections.abc import Callable
from pathlib import Path

from nodebench.errors import UserError
from nodebench.results.baseline import Baseline, loads
from nodebench.results.pytest_benchmark import is_pytest_benchmark, read_pytest_benchmark
from nodebench.results.store import Store


def read_baseline_file(path: Path) -> Baseline:
    """The figures in a file: a baseline, or what pytest-benchmark wrote.

    Raises:
        UserError: If it cannot be read or is neither.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"`{path}` cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"`{path}` is not JSON: {error}.") from error
    if is_pytest_benchmark(content):
        return read_pytest_benchmark(str(path), content)
    return loads(str(path), content)


def read_run(store: Store, name: str) -> Baseline:
    """The figures of a run, by its id, the beginning of it, or `latest`."""
    run = store.run(name)
    return Baseline.from_records(run.run_id, store.records([run.run_id]), store.environments())


def find(name: str, store: Callable[[], Store]) -> Baseline:
    """What a name stands for.

    Args:
        name: A file, or a run in the store.
        store: Opens the store, which need not exist where only files are named.

    Raises:
        UserError: If there is no such file or run, or it cannot be read.
    """
    path = Path(name)
    if path.is_file():
        return read_baseline_file(path)
    if path.suffix or path.name != name:
        raise UserError(f"there is no file `{name}`; `nodebench baseline save -o {name}` writes one.")
    return read_run(store(), name)
