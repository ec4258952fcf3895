"""Records as a file for other programs: CSV, JSON or Parquet, with the field names of the store."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nodebench.errors import UserError
from nodebench.results.record import Record, columns


def write(records: Sequence[Record], path: Path) -> None:
    """Write records in the format that the name of the file says.

    In CSV and Parquet lists and mappings are JSON text, as they are in the store. What was not measured is empty in CSV
    and null in the others, as is what is not finite.

    Args:
        records: The records, a row each.
        path: The file: `.csv`, `.json` or `.parquet`.

    Raises:
        UserError: If the name says another format, or none.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"`{path}`: records are written as {', '.join(_WRITERS)}, not as `{path.suffix or path.name}`.")
    _WRITERS[path.suffix](records, path)


def _write_csv(records: Sequence[Record], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns()))
        writer.writeheader()
        writer.writerows(record.to_row() for record in records)


def _write_json(records: Sequence[Record], path: Path) -> None:
    path.write_text(json.dumps([record.to_dict() for record in records], indent=1) + "\n", encoding="utf-8")


def _write_parquet(records: Sequence[Record], path: Path) -> None:
    # Of all formats only this one wants it, and it takes a while to import.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    types: Mapping[str, Any] = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
    schema = pa.schema([(name, types[sql]) for name, sql in columns().items()])
    parquet.write_table(pa.Table.from_pylist([record.to_row() for record in records], schema=schema), path)


_WRITERS: Mapping[str, Callable[[Sequence[Record], Path], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".parquet": _write_parquet,
}
