"""The results store: one SQLite file in WAL mode, written a row at a time, safe for several runs at once."""

import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nodebench.errors import StoreError, UnknownNameError
from nodebench.pictures import Picture, unpack
from nodebench.results.environment import environment_key
from nodebench.results.record import SCHEMA_VERSION, Record, columns

BUSY_TIMEOUT_S = 60.0
"""How long a writer waits for another one."""


@dataclass(frozen=True)
class Run:
    """One invocation.

    Attributes:
        run_id: Its name, made of its start time and a random part.
        created_at: When it began, UTC, ISO 8601.
        finished_at: When it ended; None for a run that was interrupted or still goes on.
        command: The command line.
        plan: Hash of what it set out to measure; `--resume` looks for it.
        environment: Fingerprint of the machine that began it and its software. What a record was measured on stands in
            the record.
        n_cells: Cells it set out to measure.
        n_records: Cells it has measured.
    """

    run_id: str
    created_at: str
    finished_at: str | None
    command: str
    plan: str
    environment: Mapping[str, Any]
    n_cells: int
    n_records: int


class Store:
    """A results store.

    Args:
        path: The SQLite file; made, with its folder, when it does not exist.

    Raises:
        StoreError: If the file cannot be made, read or written, or has the schema of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._connection() as db:
                self._create_or_check(db)
        except OSError as error:
            raise StoreError(f"the store `{path}` cannot be made: {error.strerror or error}.") from error

    def start_run(self, run_id: str, command: str, plan: str, environment: Mapping[str, Any], n_cells: int) -> None:
        """Enter a run that has begun."""
        values = (run_id, now(), command, plan, json.dumps(environment), n_cells)
        with self._connection() as db:
            db.execute(
                "INSERT INTO runs (run_id, created_at, command, plan, environment, n_cells) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

    def finish_run(self, run_id: str) -> None:
        """Mark a run as complete and drop what only a resumption would need."""
        with self._connection() as db:
            db.execute("UPDATE runs SET finished_at = ? WHERE run_id = ?", (now(), run_id))
            db.execute("DELETE FROM measurements WHERE run_id = ?", (run_id,))

    def save_environment(self, fingerprint: Mapping[str, Any]) -> str:
        """Keep the fingerprint of a machine that records are to name, once however often it is given.

        Args:
            fingerprint: As `nodebench.bench.machine.fingerprint` makes it.

        Returns:
            The key by which records name it.
        """
        key = environment_key(fingerprint)
        with self._connection() as db:
            db.execute(
                "INSERT OR IGNORE INTO environments (environment, fingerprint) VALUES (?, ?)",
                (key, json.dumps(fingerprint)),
            )
        return key

    def environments(self) -> dict[str, dict[str, Any]]:
        """The fingerprints of all machines that records may name, by key."""
        with self._connection() as db:
            rows = db.execute("SELECT environment, fingerprint FROM environments ORDER BY rowid").fetchall()
        return {row["environment"]: json.loads(row["fingerprint"]) for row in rows}

    def newest(self, plan: str, *, unfinished: bool = False) -> str | None:
        """The newest run of a plan, or the newest that has not finished; None where there is none."""
        condition = "AND finished_at IS NULL" if unfinished else ""
        with self._connection() as db:
            row = db.execute(
                f"SELECT run_id FROM runs WHERE plan = ? {condition} ORDER BY created_at DESC, rowid DESC", (plan,)
            ).fetchone()
        return None if row is None else str(row["run_id"])

    def append(self, record: Record, pictures: bytes = b"") -> None:
        """Write one record, durable when this returns. A cell has one row in a run.

        Args:
            record: The record.
            pictures: What is to be seen of its trained model, as `nodebench.pictures.pack` makes it; empty for nothing.
        """
        row = record.to_row()
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        with self._connection() as db:
            db.execute(f"INSERT INTO records ({names}) VALUES ({marks})", row)
            if pictures:
                values = (record.run_id, record.cell_id, record.attempt, pictures)
                db.execute("INSERT INTO pictures (run_id, cell_id, attempt, packed) VALUES (?, ?, ?, ?)", values)

    def pictures(self, run_id: str, cell_id: str) -> tuple[Picture, ...]:
        """What is to be seen of the model that a cell of a run trained in its last attempt; empty for nothing."""
        with self._connection() as db:
            row = db.execute(
                "SELECT packed FROM pictures WHERE run_id = :run AND cell_id = :cell AND attempt = "
                "(SELECT MAX(attempt) FROM records WHERE run_id = :run AND cell_id = :cell)",
                {"run": run_id, "cell": cell_id},
            ).fetchone()
        return () if row is None else unpack(row["packed"])

    def save_measurement(self, run_id: str, cell_id: str, payload: Mapping[str, Any]) -> None:
        """Keep a gradient measurement whose cell still has to train, for a resumption."""
        with self._connection() as db:
            db.execute(
                "INSERT OR REPLACE INTO measurements (run_id, cell_id, payload) VALUES (?, ?, ?)",
                (run_id, cell_id, json.dumps(payload)),
            )

    def measurements(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The kept gradient measurements of a run by cell."""
        with self._connection() as db:
            rows = db.execute("SELECT cell_id, payload FROM measurements WHERE run_id = ?", (run_id,)).fetchall()
        return {row["cell_id"]: json.loads(row["payload"]) for row in rows}

    def records(self, run_ids: Sequence[str] | None = None, *, all_attempts: bool = False) -> list[Record]:
        """Records of the named runs, or of all, in the order in which their cells were first measured.

        Args:
            run_ids: The runs; None for all.
            all_attempts: Whether to give every attempt at a cell, rather than its last.
        """
        conditions, values = [], list(run_ids or ())
        if run_ids is not None:
            conditions.append(f"run_id IN ({', '.join('?' * len(values))})")
        same = "SELECT {} FROM records AS other WHERE other.run_id = records.run_id AND other.cell_id = records.cell_id"
        if not all_attempts:
            conditions.append(f"attempt = ({same.format('MAX(attempt)')})")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        with self._connection() as db:
            query = f"SELECT * FROM records {where} ORDER BY ({same.format('MIN(rowid)')}), attempt"
            rows = db.execute(query, values).fetchall()
        return [Record.from_row(row) for row in rows]

    def cell_records(self, cell: str, run: str | None = None) -> list[Record]:
        """All attempts at a cell in one run, the last one last.

        Args:
            cell: The cell's id, or the beginning of it.
            run: The run by its id, the beginning of it or `latest`; None for the newest that has the cell.

        Raises:
            UnknownNameError: If no cell or run, or more than one, answers to the name.
        """
        records = self.records(None if run is None else [self.run(run).run_id], all_attempts=True)
        cell_id = _named("cell", cell, {record.cell_id for record in records})
        by_run: dict[str, list[Record]] = {}
        for record in records:
            if record.cell_id == cell_id:
                by_run.setdefault(record.run_id, []).append(record)
        return next(by_run[run.run_id] for run in reversed(self.runs()) if run.run_id in by_run)

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        with self._connection() as db:
            rows = db.execute(
                "SELECT runs.*, "
                "(SELECT COUNT(DISTINCT cell_id) FROM records WHERE records.run_id = runs.run_id) AS n_records "
                "FROM runs ORDER BY created_at, rowid"
            ).fetchall()
        return [Run(**{**dict(row), "environment": json.loads(row["environment"])}) for row in rows]

    def run(self, name: str) -> Run:
        """A run by its id, the beginning of it, or `latest`.

        Raises:
            UnknownNameError: If no run, or more than one, answers to the name.
        """
        runs = self.runs()
        if name == "latest" and runs:
            return runs[-1]
        by_id = {run.run_id: run for run in runs}
        return by_id[_named("run", name, by_id)]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # A connection a call: cheap beside a measurement, and nothing to leave open when a run is interrupted.
        try:
            with closing(self._open()) as db, db:
                yield db
        except sqlite3.Error as error:
            raise StoreError(f"the store `{self.path}` cannot be used: {error}.") from error

    def _open(self) -> sqlite3.Connection:
        # SQLite's own timeout does not cover entering WAL mode: while another process creates the file, or closes the
        # last connection to it, the pragma is refused at once.
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
            try:
                db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                db.close()
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            db.row_factory = sqlite3.Row
            return db

    def _create_or_check(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise StoreError(
                f"the store `{self.path}` has schema {version}, this nodebench knows {SCHEMA_VERSION}; "
                "use the nodebench that made it, or another store with --store."
            )
        if version == 0:
            for statement in _schema():
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def now() -> str:
    """The present moment, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _named(kind: str, name: str, ids: Collection[str]) -> str:
    """The one id that is a name or begins with it."""
    found = [name] if name in ids else [each for each in ids if each.startswith(name)]
    if len(found) != 1:
        raise UnknownNameError(kind, name, found or ids)
    return found[0]


def _schema() -> Iterator[str]:
    record_columns = ", ".join(f"{name} {kind}" for name, kind in columns().items())
    yield f"CREATE TABLE records ({record_columns}, PRIMARY KEY (run_id, cell_id, attempt))"
    yield (
        "CREATE TABLE runs (run_id TEXT PRIMARY KEY, created_at TEXT, finished_at TEXT, command TEXT, plan TEXT, "
        "environment TEXT, n_cells INTEGER)"
    )
    yield (
        "CREATE TABLE pictures (run_id TEXT, cell_id TEXT, attempt INTEGER, packed BLOB, "
        "PRIMARY KEY (run_id, cell_id, attempt))"
    )
    yield "CREATE TABLE environments (environment TEXT PRIMARY KEY, fingerprint TEXT)"
    yield "CREATE TABLE measurements (run_id TEXT, cell_id TEXT, payload TEXT, PRIMARY KEY (run_id, cell_id))"
