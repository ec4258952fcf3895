"""Stores of several machines, or of several shards of one plan, joined into one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodebench.errors import StoreError
from nodebench.results.store import Store, existing, insert

SHOWN = 5
"""So many conflicts are named."""

StoredRow = Mapping[str, object]
Key = tuple[str, tuple[object, ...]]
Rows = Mapping[Key, StoredRow]
"""The rows of a store by table and primary key, in their order."""


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        n_runs: Runs that the target has now.
        n_records: Records that it has now, every attempt counted.
        n_added: Records among them that it did not have before.
    """

    n_runs: int
    n_records: int
    n_added: int


def merge(sources: Sequence[Path], target: Path) -> Merged:
    """Join stores into one: equal rows once, all others beside each other. Nothing is written where that cannot be.

    Of a run that has gone on since it was copied, the target has what it came to.

    Args:
        sources: Files of stores; one that an older version made is read as this version has it.
        target: File of the store that takes their rows. It need not exist, and may be among the sources.

    Raises:
        StoreError: If a store cannot be read or written, has the schema of a newer version, or two stores have one run,
            record or file with different contents; each is named.
    """
    for path in sources:
        if not path.exists():
            raise StoreError(f"there is no store at `{path}`.")
    opened = {path.resolve(): existing(path) for path in sources}
    before = _rows(Store(target, read_only=True)) if target.exists() else {}
    parts = [(path, _rows(store)) for path, store in opened.items() if path != target.resolve()]
    _join([(target, before), *parts])  # refused before a file is made or brought up to date
    store = Store(target)
    with store.transaction() as db:
        # Once more, now that nobody else writes.
        before = {key: dict(row) for key, row in store.rows(db)}
        after = _join([(target, before), *parts])
        for key, row in after.items():
            if row != before.get(key):
                # The row of a run is the only one that changes, and runs are in the order of their beginning.
                insert(db, key[0], row, replace=True)
        db.execute("DELETE FROM measurements WHERE run_id IN (SELECT run_id FROM runs WHERE finished_at IS NOT NULL)")
    counts = [[table for table, _ in rows].count("records") for rows in (before, after)]
    return Merged([table for table, _ in after].count("runs"), counts[1], counts[1] - counts[0])


def _rows(store: Store) -> Rows:
    with store.transaction() as db:
        return {key: dict(row) for key, row in store.rows(db)}


def _join(stores: Sequence[tuple[Path, Rows]]) -> Rows:
    """The rows of all stores, those of the first ones first."""
    joined: dict[Key, StoredRow] = {}
    origins: dict[Key, Path] = {}
    conflicts: list[str] = []
    for path, rows in stores:
        for key, row in rows.items():
            known = joined.setdefault(key, row)
            other = origins.setdefault(key, path)
            joined[key] = _latest(known, row)
            conflicts += [
                f"{_name(key)}: {name} is {_short(known[name])} in `{other}` and {_short(row[name])} in `{path}`"
                for name in _unlike(key[0], known, row)
            ]
    if conflicts:
        more = f"; and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        raise StoreError(f"the stores disagree, and nothing was written: {'; '.join(conflicts[:SHOWN])}{more}.")
    return joined


def _latest(known: StoredRow, row: StoredRow) -> StoredRow:
    """Of two equal runs the one that ended last, one that has not being first; any other row as it was first found."""
    return row if str(row.get("finished_at") or "") > str(known.get("finished_at") or "") else known


def _unlike(table: str, known: StoredRow, row: StoredRow) -> Iterator[str]:
    if table == "environments":
        return  # whose key is a hash of the contents
    for name, value in known.items():
        if value != row[name] and name != "finished_at":
            yield name


def _name(key: Key) -> str:
    """What a message calls a row."""
    table, (run, *rest) = key
    kinds = {"records": ("cell", "attempt"), "plots": ("plot of cell", "attempt", "place"), "sources": ("file",)}
    named = zip(kinds.get(table, ("measurement of cell",)), rest, strict=False)
    return ", ".join([f"run {run}", *(f"{kind} {value}" for kind, value in named)])


def _short(value: object) -> str:
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
