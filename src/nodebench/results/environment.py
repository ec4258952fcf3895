"""Fingerprints of machines, compared: figures of unlike machines must never be set side by side in silence."""

from collections.abc import Iterator, Mapping
from typing import Any


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
