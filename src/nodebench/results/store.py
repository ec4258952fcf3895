"""The results store: one SQLite file in WAL mode, written a row at a time, safe for several runs at once."""

import json
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nodebench import __version__
from nodebench.errors import StoreError, UnknownNameError, UserError, user_error
from nodebench.plots import RenderedPlot
from nodebench.registry import canonical
from nodebench.results.machine import Fingerprint, environment_key
from nodebench.results.record import SCHEMA_VERSION, Measurement, Record, columns, in_one_spelling

BUSY_TIMEOUT_S = 60.0
"""How long a writer waits for another one."""

LATEST, ITS_COMMAND = "latest", "run"
"""What the newest run is called, and the command whose runs alone are meant: what another measures for an answer of its
own is not what is to be shown, reported or kept as a baseline."""

SHOWN = 3
"""So many runs of other commands are named where there is none of that."""

UNWRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""How SQLite says that it cannot write a file, or make those that it keeps beside it."""

MEANINGS = {
    **dict.fromkeys(UNWRITABLE, "nothing can be written there, name another with --store"),
    sqlite3.SQLITE_CORRUPT: "it is damaged or cut short",
    sqlite3.SQLITE_NOTADB: "it is not a nodebench store",
}
"""What SQLite's errors mean to who named the store."""


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
        made_by: Name of the command that made it; `run` where an older version did, which does not say.
    """

    run_id: str
    created_at: str
    finished_at: str | None
    command: str
    plan: str
    environment: Fingerprint
    n_cells: int
    n_records: int
    made_by: str = ITS_COMMAND


class Store:
    """A results store.

    One that an older version made gets the columns and tables that it lacks, empty.

    Args:
        path: The SQLite file; made, with its folder, when it does not exist.
        read_only: Whether to read a store that exists, as it is at this moment, wherever it lies: nothing is written,
            and what an older version made is brought up to date in memory alone.

    Raises:
        StoreError: If the file cannot be made, read or written, is no store, or has the schema of a newer version.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = path = Path(path)
        self._snapshot: sqlite3.Connection | None = None
        if path.is_dir():
            raise StoreError(f"`{path}` is a folder; name the file of a store.")
        if read_only:
            self._snapshot = self._read()
            return
        with user_error(f"the store `{path}` cannot be made", StoreError):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            if _tables(db) or _version(db):
                self._check(db)
                _bring_up_to_date(db)
            else:
                _create(db)

    def start_run(
        self,
        run_id: str,
        command: str,
        plan: str,
        environment: Fingerprint,
        n_cells: int,
        *,
        made_by: str = ITS_COMMAND,
    ) -> None:
        """Enter a run that has begun; what is given is as `Run` has it."""
        row = {"run_id": run_id, "created_at": now(), "command": command, "plan": plan, "made_by": made_by}
        with self._connection() as db:
            insert(db, "runs", {**row, "environment": json.dumps(environment), "n_cells": n_cells})

    def finish_run(self, run_id: str) -> None:
        """Mark a run as complete and drop what only a resumption would need."""
        with self._connection() as db:
            db.execute("UPDATE runs SET finished_at = ? WHERE run_id = ?", (now(), run_id))
            db.execute("DELETE FROM measurements WHERE run_id = ?", (run_id,))

    def save_environment(self, fingerprint: Fingerprint) -> str:
        """Keep the fingerprint of a machine that records are to name, once however often it is given.

        Args:
            fingerprint: As `nodebench.results.machine.fingerprint` makes it.

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

    def environments(self) -> dict[str, Fingerprint]:
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

    def append(self, record: Record, plots: Sequence[RenderedPlot] = ()) -> None:
        """Write one record, durable when this returns. A cell has one row in a run.

        Args:
            record: The record.
            plots: Plots of its trained model.
        """
        with self._connection() as db:
            insert(db, "records", record.to_row())
            attempt = (record.run_id, record.cell_id, record.attempt)
            db.executemany(
                "INSERT INTO plots VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (*attempt, at, each.name, each.caption, each.alternative, zlib.compress(each.svg))
                    for at, each in enumerate(plots)
                ],
            )

    def plots(self, run_id: str, cell_id: str) -> tuple[RenderedPlot, ...]:
        """Plots of the model that a cell of a run trained in its last attempt, in the order of its task.

        Raises:
            StoreError: If an older version kept them in a form that is no longer read.
        """
        with self._connection() as db:
            rows = db.execute(
                "SELECT name, caption, alternative, svg FROM plots WHERE run_id = :run AND cell_id = :cell AND attempt "
                "= (SELECT MAX(attempt) FROM records WHERE run_id = :run AND cell_id = :cell) ORDER BY position",
                {"run": run_id, "cell": cell_id},
            ).fetchall()
        if any(row["svg"] is None for row in rows):
            raise StoreError("plots of an older version of nodebench, which this one cannot show: train again.")
        return tuple(RenderedPlot(**{**dict(row), "svg": zlib.decompress(row["svg"])}) for row in rows)

    def save_measurement(self, run_id: str, cell_id: str, found: Measurement) -> None:
        """Keep a gradient measurement whose cell still has to train, for a resumption."""
        with self._connection() as db:
            row = {"run_id": run_id, "cell_id": cell_id, "payload": json.dumps(found.known)}
            insert(db, "measurements", row, replace=True)

    def measurements(self, run_id: str) -> dict[str, Measurement]:
        """The kept gradient measurements of a run by cell."""
        with self._connection() as db:
            rows = db.execute("SELECT cell_id, payload FROM measurements WHERE run_id = ?", (run_id,)).fetchall()
        return {row["cell_id"]: Measurement(**json.loads(row["payload"])) for row in rows}

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
            return [Record.from_row(row) for row in db.execute(query, values)]

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
            known = [(row, json.loads(row["environment"]), row["made_by"] or ITS_COMMAND) for row in rows]
            return [Run(**{**dict(row), "environment": where, "made_by": maker}) for row, where, maker in known]

    def run(self, name: str) -> Run:
        """A run by its id, the beginning of it, or `latest`: the newest of `nodebench run`.

        Raises:
            UnknownNameError: If no run, or more than one, answers to the name.
            UserError: If it is `latest`, and only other commands have made runs.
        """
        runs = self.runs()
        if name == LATEST and runs:
            return self._latest(runs)
        by_id = {run.run_id: run for run in runs}
        return by_id[_named("run", name, by_id)]

    def called(self, run_id: str) -> str:
        """What commands call a run: `latest` if it is that, else its id."""
        runs = self.runs()
        is_latest = any(run.made_by == ITS_COMMAND for run in runs) and self._latest(runs).run_id == run_id
        return LATEST if is_latest else run_id

    def _latest(self, runs: Sequence[Run]) -> Run:
        found = next((run for run in reversed(runs) if run.made_by == ITS_COMMAND), None)
        if found is None:
            newest = ", ".join(f"{run.run_id} ({run.made_by})" for run in runs[-SHOWN:])
            raise UserError(
                f"`{LATEST}` is the newest run of `nodebench {ITS_COMMAND}`, and the store `{self.path}` has none; "
                f"name one of another command by its id: {newest}."
            )
        return found

    def save_sources(self, run_id: str, digests: Mapping[str, str]) -> None:
        """Keep which files a run has loaded; a file keeps the digest that it had when the run first loaded it.

        Args:
            run_id: The run.
            digests: Digests of the files' contents by path.
        """
        with self._connection() as db:
            db.executemany(
                "INSERT OR IGNORE INTO sources (run_id, path, digest) VALUES (?, ?, ?)",
                [(run_id, path, digest) for path, digest in digests.items()],
            )

    def sources(self, run_id: str) -> dict[str, str]:
        """Digests of the files that a run has loaded, by path, each as it was at first."""
        with self._connection() as db:
            rows = db.execute("SELECT path, digest FROM sources WHERE run_id = ? ORDER BY rowid", (run_id,)).fetchall()
        return {row["path"]: row["digest"] for row in rows}

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection on which all is written at once, or nothing; nobody else writes meanwhile."""
        with self._connection() as db:
            if self._snapshot is None:
                db.execute("BEGIN IMMEDIATE")
            yield db

    def rows(self, db: sqlite3.Connection) -> Iterator[tuple[tuple[str, tuple[object, ...]], sqlite3.Row]]:
        """Every row of every table, each with its table and its primary key, in the order in which it was written."""
        for table in _schema():
            described = db.execute(f"PRAGMA table_info({table})").fetchall()
            keys = [row["name"] for row in sorted(described, key=lambda row: int(row["pk"])) if row["pk"]]
            for row in db.execute(f"SELECT * FROM {table} ORDER BY rowid"):
                yield (table, tuple(row[key] for key in keys)), row

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._snapshot is not None:
                yield self._snapshot
                return
            # A connection a call: cheap beside a measurement, and nothing to leave open when a run is interrupted.
            with closing(self._open()) as db, db:
                yield db
        except sqlite3.Error as error:
            raise StoreError(f"the store `{self.path}` cannot be used: {_told(error)}.") from error
        except json.JSONDecodeError as error:
            raise StoreError(
                f"the store `{self.path}` is damaged: it has {error.doc[:20]!r} where JSON stood."
            ) from error

    def _open(self) -> sqlite3.Connection:
        # SQLite's own timeout does not cover entering WAL mode: while another process creates the file, or closes the
        # last connection to it, the pragma is refused at once.
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
            try:
                db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.Error as error:
                db.close()
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            db.row_factory = sqlite3.Row
            return db

    def _read(self) -> sqlite3.Connection:
        """The store in memory, as this version has it."""
        db = sqlite3.connect(":memory:")
        try:
            with closing(_reader(self.path)) as source:
                source.backup(db)
            db.row_factory = sqlite3.Row
            self._check(db)
            with db:
                _bring_up_to_date(db)
            db.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise StoreError(f"the store `{self.path}` cannot be read: {_told(error)}.") from error
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        tables, version = _tables(db), _version(db)
        if tables and not {"runs", "records"} <= tables:
            raise StoreError(f"`{self.path}` is not a nodebench store; it has the tables {', '.join(sorted(tables))}.")
        if version == SCHEMA_VERSION and (unknown := _columns_of(db, "records") - columns().keys()):
            raise StoreError(
                f"the store `{self.path}` is of a newer nodebench{_newest_version(db)}: it has "
                f"{', '.join(sorted(unknown))}, which this one, {__version__}, does not know; install the newer one, "
                "or name another with --store."
            )
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the store `{self.path}` is of a newer nodebench: it has schema {version}, this one knows "
                f"{SCHEMA_VERSION}; install the newer one, or name another with --store."
            )
        if not tables:
            raise StoreError(
                f"the store `{self.path}` is empty; where it is a copy, copy `{self.path.name}-wal` with it, if there "
                "is such a file."
            )
        # A last page of which a part is lost reads as one that ends with zeros.
        torn = self.path.stat().st_size % db.execute("PRAGMA page_size").fetchone()[0]
        damage = "it is cut short" if torn else db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StoreError(f"the store `{self.path}` is damaged: {damage}; name another with --store.")


def _newest_version(db: sqlite3.Connection) -> str:
    """The version that wrote the newest record, after a comma."""
    row = db.execute("SELECT nodebench_version FROM records ORDER BY rowid DESC LIMIT 1").fetchone()
    return f", {row[0]}" if row else ""


def _reader(path: Path) -> sqlite3.Connection:
    """A connection to a file that is to be read, wherever it lies."""
    uri, log = path.absolute().as_uri(), Path(f"{path}-wal")
    # An ordinary connection heeds those who write at the same time, and takes the files away that it makes for that.
    db = sqlite3.connect(f"{uri}?mode=rw", timeout=BUSY_TIMEOUT_S, uri=True)
    try:
        db.execute("PRAGMA query_only = ON")
        _tables(db)
    except sqlite3.OperationalError as error:
        db.close()
        if _code(error) not in UNWRITABLE:
            raise
        # Such files cannot be made there. Without a log the file is all there is; else the log is indexed in memory,
        # which SQLite does for whoever shares nothing and locks nothing.
        if not log.exists():
            return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)
        db = sqlite3.connect(f"{uri}?mode=ro&vfs=unix-none", uri=True)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
    return db


def _code(error: sqlite3.Error) -> int:
    """Primary code of an error; 0 where it is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _told(error: sqlite3.Error) -> str:
    meaning = MEANINGS.get(_code(error))
    return f"{meaning} ({error})" if meaning else str(error)


def _tables(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _create(db: sqlite3.Connection) -> None:
    for name, definition in _schema().items():
        db.execute(f"CREATE TABLE {name} ({definition})")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Give a store of an older schema what it lacks: each table is made anew, with the rows it had."""
    if _version(db) == SCHEMA_VERSION and _columns_of(db, "records") == columns().keys():
        return
    old = _tables(db) & _schema().keys()
    for name in old:
        db.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    _create(db)
    for name in old:
        shared = ", ".join(_columns_of(db, name) & _columns_of(db, f"old_{name}"))
        db.execute(f"INSERT INTO {name} ({shared}) SELECT {shared} FROM old_{name} ORDER BY rowid")
        db.execute(f"DROP TABLE old_{name}")
    _fill(db)
    _spell(db)


def _fill(db: sqlite3.Connection) -> None:
    """What older schemas said elsewhere: a cell was tried once, on the one machine of its run."""
    db.execute("UPDATE records SET attempt = 1 WHERE attempt IS NULL")
    unnamed = "SELECT run_id FROM records WHERE environment IS NULL"
    for row in db.execute(f"SELECT run_id, environment FROM runs WHERE run_id IN ({unnamed})").fetchall():
        key = environment_key(json.loads(row["environment"]))
        db.execute("INSERT OR IGNORE INTO environments VALUES (?, ?)", (key, row["environment"]))
        db.execute("UPDATE records SET environment = ? WHERE run_id = ?", (key, row["run_id"]))
    if "pictures" in _tables(db):
        # Schemas 4 to 7 packed arrays that their own reports drew. That there were some is all that is kept of them.
        db.execute(
            "INSERT INTO plots (run_id, cell_id, attempt, position) SELECT run_id, cell_id, attempt, 0 FROM pictures"
        )
        db.execute("DROP TABLE pictures")


def _spell(db: sqlite3.Connection) -> None:
    """Give rows of an older schema the one spelling of tasks, backends and controls, and the ids that go with it.

    A row stays as it is where that of another spelling in its run has the id.
    """
    pairs = {(row["task"], row["backend"]) for row in db.execute("SELECT DISTINCT task, backend FROM records")}
    unlike = {
        (task, backend)
        for task, backend in pairs
        if task != canonical("task", task) or (backend and backend != canonical("backend", backend))
    }
    for row in db.execute("SELECT * FROM records").fetchall():
        record = Record.from_row(row)
        anew = in_one_spelling(record, record.first_step) if (record.task, record.backend) in unlike else {}
        if not anew:
            continue
        assigned = ", ".join(f"{name} = :{name}" for name in anew)
        where = "run_id = :run AND cell_id = :old"
        values = {**anew, "run": record.run_id, "old": record.cell_id}
        changed = db.execute(f"UPDATE OR IGNORE records SET {assigned} WHERE {where}", values).rowcount
        for table in ("plots", "measurements") if changed else ():
            db.execute(f"UPDATE OR IGNORE {table} SET cell_id = :cell_id WHERE {where}", values)
        if changed and "backend" in anew:
            controlled = {"new": anew["backend"], "run": record.run_id, "old": record.backend}
            db.execute("UPDATE records SET control = :new WHERE run_id = :run AND control = :old", controlled)


def _columns_of(db: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in db.execute(f"PRAGMA table_info({table})")}


def insert(db: sqlite3.Connection, table: str, row: Mapping[str, object], *, replace: bool = False) -> None:
    """Write a row, its values by column; in place of the one with its key where it is to replace that."""
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    db.execute(f"INSERT {'OR REPLACE ' if replace else ''}INTO {table} ({names}) VALUES ({marks})", row)


def existing(path: str | Path) -> Store:
    """A store that exists, only to be read, wherever it lies.

    Raises:
        StoreError: If there is none, or it cannot be read.
    """
    if not Path(path).exists():
        raise StoreError(f"there is no store at `{path}`; `nodebench run` makes one, or name another with --store.")
    return Store(Path(path), read_only=True)


def now() -> str:
    """The present moment, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _named(kind: str, name: str, ids: Collection[str]) -> str:
    """The one id that is a name or begins with it."""
    found = [name] if name in ids else [each for each in ids if each.startswith(name)]
    if len(found) > 1:
        raise UserError(f"{len(found)} {kind}s begin with {name!r}: {', '.join(sorted(found))}; give more of the id.")
    if not found:
        raise UnknownNameError(kind, name, ids)
    return found[0]


def _schema() -> dict[str, str]:
    """Columns and keys of the tables."""
    record_columns = ", ".join(f"{name} {kind}" for name, kind in columns().items())
    return {
        "records": f"{record_columns}, PRIMARY KEY (run_id, cell_id, attempt)",
        "runs": "run_id TEXT PRIMARY KEY, created_at TEXT, finished_at TEXT, command TEXT, plan TEXT, "
        "environment TEXT, n_cells INTEGER, made_by TEXT",
        "plots": "run_id TEXT, cell_id TEXT, attempt INTEGER, position INTEGER, name TEXT, caption TEXT, "
        "alternative TEXT, svg BLOB, PRIMARY KEY (run_id, cell_id, attempt, position)",
        "environments": "environment TEXT PRIMARY KEY, fingerprint TEXT",
        "measurements": "run_id TEXT, cell_id TEXT, payload TEXT, PRIMARY KEY (run_id, cell_id)",
        "sources": "run_id TEXT, path TEXT, digest TEXT, PRIMARY KEY (run_id, path)",
    }
