"""Fingerprints of machines, compared: figures of unlike machines must never be set side by side in silence."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from nodebench.errors import StoreError
from nodebench.results.record import Record


def environment_key(fingerprint: Mapping[str, Any]) -> str:
    """Short hash by which records, and cells of a baseline, name the machine that they are from."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:8]


def environment_of(record: Record, environments: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fingerprint of the machine that a record was measured on.

    Args:
        record: The record.
        environments: Fingerprints by key.

    Raises:
        StoreError: If it is not among them: what is not known to be of one machine must not be compared.
    """
    if record.environment is None or record.environment not in environments:
        raise StoreError(
            f"the record of cell {record.cell_id} in run {record.run_id} should name a fingerprint of the store, and "
            f"names `{record.environment}`; measure the cell again."
        )
    return environments[record.environment]


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, one line per entry, for example `libraries.torch: 2.13.0 against 2.12.0`.

    Args:
        first: Fingerprint as `nodebench.bench.machine.fingerprint` makes it, mappings within mappings.
        second: The other one.
    """
    one, other = dict(_entries(first)), dict(_entries(second))
    names = [*one, *(name for name in other if name not in one)]
    return [f"{name}: {one.get(name)} against {other.get(name)}" for name in names if one.get(name) != other.get(name)]


def _entries(fingerprint: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fingerprint.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
