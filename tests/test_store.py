"""The store keeps every row, refuses what it cannot read, and is safe for several writers."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from nodebench.bench.matrix import Request, plan
from nodebench.bench.runner import settings_of
from nodebench.errors import StoreError, UserError
from nodebench.installed import runs
from nodebench.options import GateOptions, RecommendOptions, ReproduceOptions, RunOptions, ScaleOptions
from nodebench.plots import RenderedPlot
from nodebench.results.machine import environment_key, environment_of
from nodebench.results.merging import merge
from nodebench.results.record import SCHEMA_VERSION, Measurement, Record
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


def test_plots_are_those_of_the_last_attempt(tmp_path):
    """A cell that was trained again shows its newer model, all plots in order; one that shows nothing has none."""
    first, *others = (RenderedPlot(name, "A plot", "x; y", b"<svg/>") for name in "abb")
    store = Store(tmp_path / "results.db")
    store.append(make_record(), [first])
    assert store.plots("r1", "c1") == (first,)
    store.append(make_record(attempt=2), others)
    assert store.plots("r1", "c1") == tuple(others)
    store.append(make_record(attempt=3))
    assert store.plots("r1", "c1") == store.plots("r1", "c2") == ()


@pytest.mark.parametrize("old_store", [5], indirect=True)
@pytest.mark.parametrize("read_only", [False, True])
def test_pictures_of_an_older_version_are_told_of(old_store, read_only):
    """They cannot be shown any more; whoever asks for them learns why, and a cell without any has none."""
    with sqlite3.connect(old_store) as db:
        db.execute("INSERT INTO pictures VALUES ('r1', 'c1', 1, x'00')")
    db.close()
    store = Store(old_store, read_only=read_only)
    with pytest.raises(StoreError, match="plots of an older version of nodebench"):
        store.plots("r1", "c1")
    assert store.plots("r1", "c2") == ()
    store = Store(old_store)
    store.append(make_record(attempt=2), [RenderedPlot("a", "A plot", "x", b"<svg/>")])
    assert [plot.name for plot in store.plots("r1", "c1")] == ["a"]


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
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=f"schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}"):
            Store(path, read_only=read_only)
    assert path.read_bytes() == before


def test_file_that_is_no_store_is_refused(tmp_path):
    """Something else, another program's database, a store that is cut short, a folder: an error that names it."""
    (tmp_path / "notes.db").write_text("not a database, but long enough to be taken for one " * 20)
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE places (name TEXT)")
        db.execute("PRAGMA user_version = 99")
    (tmp_path / "folder.db").mkdir()
    store = Store(tmp_path / "results.db")
    for number in range(20):
        store.append(make_record(cell_id=str(number)))
    whole = store.path.read_bytes()
    for size in (100, 5000, len(whole) // 2, len(whole) - 1000):
        (tmp_path / f"cut{size}.db").write_bytes(whole[:size])
    store.path.unlink()
    for path in tmp_path.glob("*.db"):
        for read_only in (False, True):
            with pytest.raises(StoreError, match=path.name):
                Store(path, read_only=read_only)
    with sqlite3.connect(tmp_path / "other.db") as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("places",)]


def test_an_empty_file_becomes_a_store_where_it_is_to_be_written(tmp_path):
    """Whoever wants to read it is told that there is nothing in it."""
    path = tmp_path / "results.db"
    path.touch()
    with pytest.raises(StoreError, match="is empty"):
        Store(path, read_only=True)
    assert Store(path).runs() == []


OLD_SCHEMAS = {
    1: """
        CREATE TABLE records (run_id TEXT, cell_id TEXT, created_at TEXT, nodebench_version TEXT, task TEXT, model TEXT,
            backend TEXT, dtype TEXT, device TEXT, threads INTEGER, seed INTEGER, preset TEXT, status TEXT, notes TEXT,
            step_s REAL, diagnostics TEXT, history TEXT, PRIMARY KEY (run_id, cell_id));
        CREATE TABLE runs (run_id TEXT PRIMARY KEY, created_at TEXT, finished_at TEXT, command TEXT, plan TEXT,
            environment TEXT, n_cells INTEGER);
        CREATE TABLE measurements (run_id TEXT, cell_id TEXT, payload TEXT, PRIMARY KEY (run_id, cell_id));
    """,
    5: """
        CREATE TABLE records (run_id TEXT, cell_id TEXT, created_at TEXT, nodebench_version TEXT, task TEXT, model TEXT,
            backend TEXT, dtype TEXT, device TEXT, threads INTEGER, seed INTEGER, preset TEXT, horizon REAL,
            attempt INTEGER DEFAULT 1, node TEXT, environment TEXT, status TEXT, notes TEXT, step_s REAL,
            diagnostics TEXT, history TEXT, PRIMARY KEY (run_id, cell_id, attempt));
        CREATE TABLE runs (run_id TEXT PRIMARY KEY, created_at TEXT, finished_at TEXT, command TEXT, plan TEXT,
            environment TEXT, n_cells INTEGER);
        CREATE TABLE pictures (run_id TEXT, cell_id TEXT, attempt INTEGER, packed BLOB,
            PRIMARY KEY (run_id, cell_id, attempt));
        CREATE TABLE environments (environment TEXT PRIMARY KEY, fingerprint TEXT);
        CREATE TABLE measurements (run_id TEXT, cell_id TEXT, payload TEXT, PRIMARY KEY (run_id, cell_id));
    """,
}
"""Tables as older versions made them, with some of their columns."""


@pytest.fixture(params=OLD_SCHEMAS)
def old_store(request, tmp_path):
    """The file of a store that an older version made: two cells of one machine, the second one measured first."""
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(OLD_SCHEMAS[request.param])
        db.execute(f"PRAGMA user_version = {request.param}")
        db.execute("INSERT INTO runs VALUES ('r1', 'then', 'then', 'cmd', 'p', '{\"cpu\": \"one\"}', 2)")
        for cell_id in ("c2", "c1"):
            values = ("r1", cell_id, "then", "0", "t", "m", "float32", "cpu", 1, 0, "smoke", "ok", '["a"]', 0.25)
            names = (
                "run_id, cell_id, created_at, nodebench_version, task, model, dtype, device, threads, seed, preset, "
                "status, notes, step_s"
            )
            db.execute(f"INSERT INTO records ({names}) VALUES ({', '.join('?' * len(values))})", values)
        if request.param >= 5:
            key = environment_key({"cpu": "one"})
            db.execute("INSERT INTO environments VALUES (?, ?)", (key, '{"cpu": "one"}'))
            db.execute("UPDATE records SET environment = ?", (key,))
    db.close()
    return path


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_of_an_older_version_is_read(old_store, read_only):
    """What its rows lack is null, its one machine is that of its records; only a writer brings the file up to date."""
    before = old_store.read_bytes()
    store = Store(old_store, read_only=read_only)
    records = store.records()
    assert [record.cell_id for record in records] == ["c2", "c1"]
    known = (records[0].notes, records[0].step_s, records[0].attempt, records[0].horizon)
    assert known == (["a"], 0.25, 1, 1.0)
    assert (records[0].field_value, records[0].differences, store.sources("r1")) == (None, [], {})
    assert environment_of(records[0], store.environments()) == {"cpu": "one"}
    assert (store.run("latest").n_records, store.plots("r1", "c1")) == (2, ())
    assert (old_store.read_bytes() == before) == read_only
    assert [path.name for path in old_store.parent.iterdir()] == [old_store.name]


def test_a_store_of_an_older_version_is_gone_on_with(old_store):
    """A cell of it is measured again, beside what was there."""
    Store(old_store)
    store = Store(old_store)
    store.append(make_record(attempt=2, field_value=0.5, environment=environment_key({"cpu": "one"})))
    store.save_sources("r1", {"a.py": "1"})
    found = [(r.cell_id, r.attempt, r.field_value) for r in Store(old_store).records(all_attempts=True)]
    assert found == [("c2", 1, None), ("c1", 1, None), ("c1", 2, 0.5)]


def spelled_out(**options):
    """Cells of an older version, which kept options at their defaults in names, and those of this one, in pairs."""
    found = plan(Request(backends=("adjoint",), tasks=("linear", "cnf"), models=("all",), **options)).cells
    named = {"linear": "linear[horizon=2.0,loss=end]", "cnf": "cnf[dataset=moons]"}
    backend = {"adjoint": "adjoint[norm=full]", None: None}
    return [(replace(cell, task=named[cell.task], backend=backend[cell.backend]), cell) for cell in found]


@pytest.mark.parametrize("options", [{}, {"first_step": 0.125}, {"rtols": (1e-5,), "max_steps": 99, "seeds": (3,)}])
@pytest.mark.parametrize("read_only", [True, False])
def test_cells_of_an_older_version_are_those_of_this_one(tmp_path, read_only, options):
    """Their names have one spelling, and ids go with it, of plots and unfinished measurements too."""
    store = Store(tmp_path / "results.db")
    pairs = spelled_out(**options)
    plot = RenderedPlot("p", "caption", "alternative", b"<svg/>")
    for old, _ in pairs:
        settings = vars(settings_of(old))
        store.append(make_record(**settings, first_step=0.125, control="adjoint[norm=full]"), [plot])
        store.save_measurement("r1", old.cell_id, Measurement(loss=1.0))
    foreign = make_record(run_id="r2", cell_id="other", task="linear[loss=end]", backend="adjoint")
    store.append(foreign)  # of a cell of which something is not known
    make_older(store)
    again = Store(store.path, read_only=read_only)
    found = again.records(["r1"])
    assert [vars(record.settings) for record in found] == [vars(settings_of(new)) for _, new in pairs]
    assert {record.control for record in found} == {"adjoint"}
    assert {new.cell_id for _, new in pairs} == again.measurements("r1").keys()
    assert all(again.plots("r1", new.cell_id) == (plot,) for _, new in pairs)
    assert again.records(["r2"]) == [foreign]


def make_older(store):
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("PRAGMA user_version = 8")


def test_an_older_copy_of_a_store_is_joined_with_it(tmp_path):
    """The one has been brought up to date and the other has not: their rows are the same."""
    store, copy = Store(tmp_path / "results.db"), tmp_path / "copy.db"
    pairs = spelled_out()
    store.start_run("r1", "command", "plan", {}, len(pairs))
    for old, _ in pairs:
        store.append(make_record(**vars(settings_of(old)), environment="e"))
    make_older(store)
    shutil.copy(store.path, copy)
    Store(copy)
    done = merge([store.path, copy], tmp_path / "joined.db")
    assert (done.n_runs, done.n_records) == (1, len(pairs))


def test_a_cell_that_an_older_version_measured_twice_is_kept_twice(tmp_path):
    """Where a run has both spellings, none is lost."""
    store = Store(tmp_path / "results.db")
    pair = spelled_out()[0]
    for cell in pair:
        store.append(make_record(**vars(settings_of(cell))))
    make_older(store)
    assert [record.cell_id for record in Store(store.path).records()] == [cell.cell_id for cell in pair]


def test_a_file_keeps_the_digest_of_its_first_loading(tmp_path):
    """What a run has loaded later is added; another digest of the same file is not taken."""
    store = Store(tmp_path / "results.db")
    store.save_sources("r1", {"a.py": "1", "b.py": "2"})
    store.save_sources("r1", {"b.py": "3", "c.py": "4"})
    store.save_sources("r2", {"b.py": "3"})
    assert store.sources("r1") == {"a.py": "1", "b.py": "2", "c.py": "4"}
    assert store.sources("none") == {}


def test_what_is_only_read_is_not_written(tmp_path):
    """Neither by what writes, nor by opening it; a live writer goes on, whose later rows a new reading has."""
    store = Store(tmp_path / "a b%3F?#.db")
    store.append(make_record())
    before = store.path.read_bytes()
    opened = Store(store.path, read_only=True)
    with pytest.raises(StoreError, match="nothing can be written"):
        opened.append(make_record(cell_id="c2"))
    assert opened.records() == store.records()
    assert store.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [store.path.name]
    with store._connection() as db:
        db.execute("BEGIN IMMEDIATE")
        assert len(Store(store.path, read_only=True).records()) == 1
    store.append(make_record(cell_id="c2"))
    assert (len(opened.records()), len(Store(store.path, read_only=True).records())) == (1, 2)


READER = """
import sys
from pathlib import Path
from nodebench.results.store import Store
for path in sys.argv[1:]:
    print(*(record.cell_id for record in Store(Path(path), read_only=True).records()))
try:
    Store(Path(path))
except Exception as error:
    print(error)
"""


def unwritable(folder):
    """What to put before a command so that it can write nothing in a folder."""
    folder.chmod(0o555)
    if os.geteuid() != 0:
        return []
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    if subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, folder, "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("root writes everywhere, and may mount nothing here")
    return ["unshare", "-m", "sh", "-c", mount, folder]


def test_a_store_is_read_where_nothing_can_be_written(tmp_path):
    """Whole, with what stands in its write-ahead log, with and without SQLite's index of it; not a byte changes."""
    store = Store(tmp_path / "live/results.db")
    store.append(make_record())
    folder = tmp_path / "kept"
    for name, parts in {"alone": [""], "log": ["", "-wal"], "index": ["", "-wal", "-shm"]}.items():
        (folder / name).mkdir(parents=True)
        with store._connection():  # which keeps the log from being taken into the file
            if name == "log":
                store.append(make_record(cell_id="c2"))
            for part in parts:
                shutil.copy(f"{store.path}{part}", folder / name)

    def contents():
        return {path: sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}

    before = contents()
    paths = [str(folder / name / "results.db") for name in ("log", "index", "alone")]
    command = [*unwritable(folder), sys.executable, "-c", READER, *paths]
    for path in folder.iterdir():
        path.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *read, refused = done.stdout.splitlines()
    assert read == ["c1 c2", "c1 c2", "c1"]
    assert "nothing can be written there" in refused
    assert contents() == before


def test_the_stores_of_the_gallery_are_read_as_they_are():
    """Whichever version made them."""
    for path in (Path(__file__).parent.parent / "docs/gallery").glob("*.db"):
        before = path.read_bytes()
        store = Store(path, read_only=True)
        records = store.records()
        assert len(records) == sum(run.n_records for run in store.runs()) > 0
        assert all(environment_of(record, store.environments()) for record in records)
        assert path.read_bytes() == before


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
    with pytest.raises(UserError, match=r"2 runs begin with .2026.: 20260101-a, 20260102-b"):
        store.run("2026")


def test_latest_is_the_newest_run_of_the_command_run(tmp_path):
    """Not of those that measure for an answer of their own; a row that does not say is one of `run`."""
    path = tmp_path / "results.db"
    store = Store(path)
    store.start_run("r1", "nodebench scale", "p", {}, 2, made_by="scale")
    with pytest.raises(UserError, match=r"of `nodebench run`, and the store .* has none; name one .*: r1 \(scale\)\."):
        store.run("latest")
    assert (store.called("r1"), store.run("r1").made_by) == ("r1", "scale")
    store.start_run("r2", "nodebench run", "p", {}, 2)
    for number, name in enumerate(("scale", "recommend", "reproduce", "compare"), start=3):
        store.start_run(f"r{number}", f"nodebench {name}", "p", {}, 2, made_by=name)
    for opened in (store, Store(path, read_only=True)):
        assert (opened.run("latest").run_id, opened.called("r2"), opened.called("r3")) == ("r2", "latest", "r3")
    assert [row["made by"] for row in runs(path)] == ["scale", "run", "scale", "recommend", "reproduce", "compare"]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE runs SET made_by = NULL")
    assert store.run("latest").run_id == "r6"
    assert {run.made_by for run in store.runs()} == {"run"}


def test_each_command_names_itself():
    """Whatever makes runs has a name of its own, by which the store tells them apart."""
    makers = (RunOptions, ScaleOptions, RecommendOptions, ReproduceOptions, GateOptions)
    assert [each.made_by for each in makers] == ["run", "scale", "recommend", "reproduce", "compare"]


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


@pytest.mark.worker
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
        (("ab",), "2 cells begin with 'ab': abc, abd; give more of the id"),
        (("x",), "unknown cell 'x'.*abc, abd"),
        (("abd", "old"), "unknown cell 'abd'.*there are: abc"),
        (("abc", "no"), "unknown run 'no'"),
    ]:
        with pytest.raises(UserError, match=message):
            store.cell_records(*names)


def test_a_cell_whose_id_begins_anothers_is_found(tmp_path):
    """A whole id is never ambiguous."""
    store = Store(tmp_path / "results.db")
    store.start_run("r1", "test", "p", {}, 2)
    for cell_id in ("ab", "abc"):
        store.append(make_record(cell_id=cell_id))
    assert [record.cell_id for record in store.cell_records("ab")] == ["ab"]


@pytest.mark.parametrize(
    ("table", "column"), [("runs", "environment"), ("environments", "fingerprint"), ("records", "notes")]
)
def test_what_is_no_json_is_damage(tmp_path, table, column):
    """It is said with the store's name, whatever is read; the path may be text."""
    path = tmp_path / "results.db"
    store = Store(str(path))
    store.start_run("r1", "test", "p", {}, 1)
    store.save_environment({})
    store.append(make_record())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE {table} SET {column} = 'garbage{{'")
    with pytest.raises(StoreError, match=r"results.db` is damaged: it has 'garbage\{' where JSON stood"):
        _ = store.runs(), store.environments(), store.records()
