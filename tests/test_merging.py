"""Stores are joined row by row: equal ones once, conflicting ones refused by name, and nothing half."""

import sqlite3
import time
from contextlib import closing
from hashlib import sha256

import pytest
from commands import nodebench
from synthetic import ENVIRONMENT, OTHER, record

from nodebench.errors import StoreError
from nodebench.plots import RenderedPlot
from nodebench.results.machine import environment_key
from nodebench.results.merging import Merged, merge
from nodebench.results.record import SCHEMA_VERSION, Measurement
from nodebench.results.store import Store


def store_of(path, run_id, environment=ENVIRONMENT, *, finished=True, **fields):
    """A store with a run of two cells, of which one has a plot."""
    store = Store(path)
    key = store.save_environment(environment)
    store.start_run(run_id, f"nodebench run {run_id}", "plan", environment, 2)
    common = {"run_id": run_id, "environment": key, **fields}
    store.append(record("direct", **common))
    store.append(record("adjoint", **common), (RenderedPlot("p", "a plot", "words", b"<svg/>"),))
    store.save_sources(run_id, {"/code/mine.py": "0" * 64})
    store.save_measurement(run_id, "later", Measurement(loss=1.0))
    if finished:
        store.finish_run(run_id)
    return path


def contents(path):
    store = Store(path, read_only=True)
    with store.transaction() as db:
        return {key: tuple(row) for key, row in store.rows(db)}


@pytest.fixture
def two(tmp_path):
    """The stores of two machines."""
    return [store_of(tmp_path / "a.db", "run-a"), store_of(tmp_path / "b.db", "run-b", OTHER)]


def test_all_rows_are_in_the_one_store(two, tmp_path):
    """Runs, records, fingerprints, plots and files of both, as they were."""
    target = tmp_path / "all.db"
    assert merge(two, target) == Merged(n_runs=2, n_records=4, n_added=4)
    assert contents(target) == contents(two[0]) | contents(two[1])
    store = Store(target, read_only=True)
    assert [run.run_id for run in store.runs()] == ["run-a", "run-b"]
    assert [each.run_id for each in store.records()] == ["run-a", "run-a", "run-b", "run-b"]
    assert store.environments() == {environment_key(each): each for each in (ENVIRONMENT, OTHER)}
    assert [key[0] for key in contents(target)].count("plots") == 2
    assert store.sources("run-b") == {"/code/mine.py": "0" * 64}


def test_equal_rows_are_there_once(two, tmp_path):
    """However often a store is given, and however often it has been merged before."""
    target = tmp_path / "all.db"
    merge([*two, *two, tmp_path / "." / "a.db"], target)
    before = contents(target)
    assert merge(two, target) == Merged(n_runs=2, n_records=4, n_added=0)
    assert contents(target) == before


def test_the_target_may_be_among_the_sources(two):
    """It keeps what it has."""
    expected = contents(two[0]) | contents(two[1])
    assert merge(two, two[0]) == Merged(n_runs=2, n_records=4, n_added=2)
    assert contents(two[0]) == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "UPDATE records SET step_s = 0.5 WHERE backend = 'adjoint'",
            ["run run-a, cell ", "step_s is ", "None", "0.5"],
        ),
        ("UPDATE runs SET command = 'rm'", ["run run-a: command is ", "'nodebench run run-a'", "'rm'"]),
        ("UPDATE plots SET svg = x'00'", ["run run-a, plot of cell ", "svg is", "1 bytes"]),
        ("UPDATE sources SET digest = 'f'", ["run run-a, file /code/mine.py: digest is ", "'000", "'f'"]),
    ],
    ids=["record", "run", "plot", "file"],
)
@pytest.mark.parametrize("is_target", [False, True])
def test_a_conflict_is_refused_by_name(two, tmp_path, change, named, is_target):
    """The run, the cell, the field and the files are named; no file is changed or made."""
    other = tmp_path / "other.db"
    other.write_bytes(two[0].read_bytes())
    with closing(sqlite3.connect(other)) as db, db:
        db.execute(change)
    sources, target = ([*two], other) if is_target else ([*two, other], tmp_path / "all.db")
    before = contents(other)
    with pytest.raises(StoreError) as raised:
        merge(sources, target)
    message = str(raised.value)
    assert all(part in message for part in [*named, str(two[0]), str(other)])
    assert contents(other) == before
    assert is_target or not target.exists()


def test_many_conflicts_are_counted(tmp_path):
    """Some are named, the others counted."""
    first, second = (
        store_of(tmp_path / f"{name}.db", "run", step_s=at, nfe_forward=at, loss=at, cpu_s=at)
        for at, name in enumerate("ab", start=1)
    )
    with pytest.raises(StoreError, match=r"; and \d+ more\.$"):
        merge([first, second], tmp_path / "all.db")


def test_a_run_that_went_on_is_taken_as_it_ended(tmp_path):
    """A store may have been merged, or copied, while its run was interrupted."""
    shard, target = tmp_path / "a.db", tmp_path / "all.db"
    store_of(shard, "run", finished=False)
    merge([shard], target)
    assert Store(target).run("run").finished_at is None
    assert Store(target).measurements("run") == {"later": Measurement(loss=1.0)}
    store = Store(shard)
    store.append(record("checkpoint", run_id="run", environment=environment_key(ENVIRONMENT)))
    store.finish_run("run")
    assert merge([shard], target) == Merged(n_runs=1, n_records=3, n_added=1)
    assert contents(target) == contents(shard)
    merge([target], shard)
    assert contents(target) == contents(shard)
    time.sleep(0.002)
    store.finish_run("run")  # once more, as `--rerun-failed` does
    merge([target, shard], target)
    assert contents(target) == contents(shard)


def test_an_older_store_gains_what_it_lacks(two):
    """As a source and as the target; the source's file stays as it is."""
    expected = contents(two[0]) | contents(two[1])
    for path in two:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("ALTER TABLE records DROP COLUMN start_method")
            db.execute("PRAGMA user_version = 6")
            db.execute("PRAGMA journal_mode = DELETE")
    digest = sha256(two[1].read_bytes()).hexdigest()
    merge(two, two[0])
    assert contents(two[0]) == expected
    assert sha256(two[1].read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("place", ["source", "target"])
def test_a_newer_store_is_refused(two, tmp_path, place):
    """Both versions are named."""
    with closing(sqlite3.connect(two[1])) as db, db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    sources, target = (two, tmp_path / "all.db") if place == "source" else ([two[0]], two[1])
    with pytest.raises(StoreError, match=f"has schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}"):
        merge(sources, target)
    assert place == "target" or not target.exists()


@pytest.mark.usefixtures("two")
def test_the_command_merges(tmp_path):
    """It says what there is now; what cannot be is a sentence, and exits with 2."""
    done = nodebench("merge", "a.db", "b.db", "-o", "all.db", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "wrote all.db; runs: 2, records: 4, added: 4")
    for arguments, said in (
        (("a.db", "no.db", "-o", "all.db"), "there is no store at `no.db`"),
        (("a.db", "-o", "."), "`.` is a folder"),
        (("a.db",), "--output"),
    ):
        done = nodebench("merge", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
