"""The store keeps every row, refuses what it cannot read, and is safe for several writers."""

import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from nodebench.errors import StoreError, UnknownNameError
from nodebench.pictures import Images, pack
from nodebench.results.environment import environment_of
from nodebench.results.record import SCHEMA_VERSION, Record
from nodebench.results.store import Store, now


def make_record(**changes):
    fields = {
        "run_id": "r1",
        "cell_id": "c1",
        "created_at": now(),
        "nodebench_version": "0",
        "task": "t",
        "model": "m",
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "seed": 0,
        "preset": "smoke",
        "status": "ok",
    }
    return Record(**{**fields, **changes})


def test_record_survives_the_store(tmp_path):
    """What is read equals what was written, lists, mappings and nulls included."""
    record = make_record(
        notes=["a"], history=[{"epoch": 1, "validation": 0.5, "nfe_forward": None}], diagnostics={"x": 1.5}, step_s=0.25
    )
    store = Store(tmp_path / "results.db")
    store.append(record)
    assert store.records() == [record]
    assert store.records(["r1"]) == [record]
    assert store.records(["other"]) == []


def test_unmeasured_is_null(tmp_path):
    """A field that was not measured is null in SQL, never zero."""
    store = Store(tmp_path / "results.db")
    store.append(make_record())
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT step_s, peak_memory_bytes FROM records").fetchone() == (None, None)


def test_what_is_not_finite_is_null(tmp_path):
    """JSON and SQL know no NaN: it becomes null, in columns and within them."""
    store = Store(tmp_path / "results.db")
    store.append(make_record(step_s=float("inf"), history=[{"validation": float("nan")}]))
    assert store.records()[0].step_s is None
    assert store.records()[0].history == [{"validation": None}]


def test_a_cell_has_one_row_in_a_run(tmp_path):
    """A second row for the same cell of a run is refused."""
    store = Store(tmp_path / "results.db")
    store.append(make_record())
    with pytest.raises(StoreError, match="UNIQUE"):
        store.append(make_record())


def test_pictures_are_those_of_the_last_attempt(tmp_path):
    """A cell that was trained again shows its newer model; one that shows nothing has no pictures."""
    store = Store(tmp_path / "results.db")
    store.append(make_record(), pack([Images("a", "first", np.zeros((1, 2, 2), np.uint8), ("x",))]))
    assert [picture.title for picture in store.pictures("r1", "c1")] == ["first"]
    store.append(make_record(attempt=2), pack([Images("a", "second", np.zeros((1, 2, 2), np.uint8), ("x",))]))
    assert [picture.title for picture in store.pictures("r1", "c1")] == ["second"]
    store.append(make_record(attempt=3))
    assert store.pictures("r1", "c1") == store.pictures("r1", "c2") == ()


def test_a_fingerprint_is_kept_once_and_found_by_its_key(tmp_path):
    """Whatever the order of its entries; a record names it, and has the name of its node beside it."""
    store = Store(tmp_path / "results.db")
    assert store.environments() == {}
    first, other = {"cpu": "one", "libraries": {"torch": "2"}}, {"cpu": "two"}
    key = store.save_environment(first)
    assert store.save_environment(dict(reversed(first.items()))) == key
    assert store.save_environment(other) != key
    assert list(store.environments().values()) == [first, other]
    record = make_record(node="here", environment=key)
    store.append(record)
    assert store.records() == [record]
    assert environment_of(record, store.environments()) == first
    with pytest.raises(StoreError, match="cell c1 in run r1 should name a fingerprint of the store, and names `None`"):
        environment_of(make_record(), store.environments())


def test_newer_schema_is_refused(tmp_path):
    """A store of a newer version is named with both schema numbers, and is left alone."""
    path = tmp_path / "results.db"
    Store(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=f"schema {SCHEMA_VERSION + 1}"):
        Store(path)


def test_file_that_is_no_store_is_refused(tmp_path):
    """A file of something else is an error that names it."""
    path = tmp_path / "notes.db"
    path.write_text("not a database, but long enough to be taken for one " * 20)
    with pytest.raises(StoreError, match=r"notes\.db"):
        Store(path)


def test_unwritable_store_is_refused(tmp_path):
    """A path that cannot be made is an error that names it."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        Store(blocker / "results.db")


def test_runs_are_found_by_the_beginning_of_their_id(tmp_path):
    """A run answers to its id, an unambiguous beginning of it, and `latest`."""
    store = Store(tmp_path / "results.db")
    store.start_run("20260101-a", "cmd", "p", {}, 2)
    store.start_run("20260102-b", "cmd", "p", {}, 2)
    assert store.run("20260101").run_id == "20260101-a"
    assert store.run("latest").run_id == "20260102-b"
    with pytest.raises(UnknownNameError, match="20260101-a"):
        store.run("2026")


def test_unfinished_run_of_a_plan_is_found(tmp_path):
    """Only an unfinished run of the very plan can be resumed."""
    store = Store(tmp_path / "results.db")
    store.start_run("r1", "cmd", "plan", {}, 1)
    assert store.newest("plan", unfinished=True) == "r1"
    assert store.newest("other", unfinished=True) is None
    store.finish_run("r1")
    assert store.newest("plan", unfinished=True) is None


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import make_record
from nodebench.results.store import Store
for i in range(50):
    Store(Path({path!r})).append(make_record(run_id=sys.argv[1], cell_id=str(i)))
"""


def test_two_writers_lose_nothing(tmp_path, request):
    """Two processes that write to one new store at once leave every row of both."""
    path = tmp_path / "results.db"
    code = WRITER.format(tests=str(request.path.parent), path=str(path))
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(Store(path).records()) == 100


def test_a_cell_is_found_by_the_beginning_of_its_id(tmp_path):
    """All its attempts, of the newest run that has it or of the run that is named."""
    store = Store(tmp_path / "results.db")
    for run_id in ("old", "new", "newest"):
        store.start_run(run_id, "test", "p", {}, 2)
    for run_id, cell_id, attempt in [("new", "abc", 1), ("old", "abc", 1), ("new", "abc", 2), ("newest", "abd", 1)]:
        store.append(make_record(run_id=run_id, cell_id=cell_id, attempt=attempt))

    def found(*names):
        return [(record.run_id, record.attempt) for record in store.cell_records(*names)]

    assert found("abc") == [("new", 1), ("new", 2)]
    assert found("abc", "old") == [("old", 1)]
    assert found("a", "latest") == [("newest", 1)]
    for names, message in [
        (("ab",), "unknown cell 'ab'.*abc, abd"),
        (("x",), "unknown cell 'x'.*abc, abd"),
        (("abd", "old"), "unknown cell 'abd'.*there are: abc"),
        (("abc", "no"), "unknown run 'no'"),
    ]:
        with pytest.raises(UnknownNameError, match=message):
            store.cell_records(*names)


def test_a_cell_whose_id_begins_anothers_is_found(tmp_path):
    """A whole id is never ambiguous."""
    store = Store(tmp_path / "results.db")
    store.start_run("r1", "test", "p", {}, 2)
    for cell_id in ("ab", "abc"):
        store.append(make_record(cell_id=cell_id))
    assert [record.cell_id for record in store.cell_records("ab")] == ["ab"]
