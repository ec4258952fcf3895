"""The command line: exit codes, JSON, error texts; through its real entry point where that is what is asked for."""

import json
import platform
import sqlite3
import subprocess
import sys

import pytest
from commands import nodebench, script

from nodebench.results.store import Store

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
FAKE = ("run", "-b", BACKEND, "-t", TASK, "--preset", "smoke", "--rounds", "1", "--measure", "gradient")
COUNTS = (*FAKE[:-1], "counts")
"""Where no figure matters, only what becomes of a cell."""


def test_help_and_list_import_no_framework():
    """Neither torch nor JAX is imported for `--help` and `list`."""
    code = (
        "import sys\nfrom nodebench import cli\nfor argv in (['--help'], ['list']):\n"
        "    sys.argv[1:] = argv\n    try: cli.main()\n    except SystemExit: pass\n"
        "print(sorted({'torch', 'jax', 'sklearn', 'scipy.linalg'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_imports_not_even_numpy(arguments):
    """Options are made from dataclasses that need nothing to be imported: help answers at once."""
    code = (
        f"import sys\nfrom nodebench import cli\nsys.argv[1:] = {arguments}\ntry: cli.main()\nexcept SystemExit:\n"
        "    print(sorted({'numpy', 'nodebench.api', 'nodebench.bench.executors.ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_prints_a_table_and_exits_with_0(tmp_path):
    """All cells ok: the table has backend, error, evaluations, memory and time; with `--wide` or later all else."""
    store = str(tmp_path / "r.db")
    done = script(*FAKE, "--store", store)
    assert done.returncode == 0, done.stderr
    for text in (BACKEND, "error", "7+5", "MiB", " ms", f"report: nodebench report latest --open --store {store}"):
        assert text in done.stdout
    assert "err dy0" not in done.stdout
    shown = nodebench("show", "--wide", "--store", store).stdout
    for text in ("ok", "err dy0", "VJPs", "floor", "CPU"):
        assert text in shown
    notes = nodebench("show", "--notes", "--store", store).stdout
    assert done.stdout.count("\nnote") == 0
    assert f"{len(notes.splitlines())} note" in done.stdout or notes == "no cell left a note\n"


def test_json_is_one_array_on_stdout(tmp_path):
    """With --json stdout is records and nothing else; the same records are shown later."""
    store = str(tmp_path / "r.db")
    done = script(*FAKE, "--store", store, "--json")
    records = json.loads(done.stdout)
    assert [record["status"] for record in records] == ["ok"]
    assert BACKEND in done.stderr
    shown = nodebench("show", "latest", "--json", NODEBENCH_STORE=store)
    assert json.loads(shown.stdout) == records
    runs = json.loads(nodebench("list", "runs", "--json", "--store", store).stdout)
    assert runs[0]["records"] == "1 of 1"


def test_a_failed_cell_exits_with_1(tmp_path):
    """One cell that is not ok makes the exit code 1, and its reason is in the table."""
    done = nodebench(*COUNTS, "-b", f"{BACKEND}[behaviour=raise]", "--store", str(tmp_path / "r.db"))
    assert done.returncode == 1
    assert "the fake raises as told" in done.stdout


def test_logs_of_a_cell(tmp_path):
    """What a failed cell left behind is found by the beginning of its id, attempt by attempt, as it was printed."""
    flag, store = tmp_path / "[red]mended", str(tmp_path / "r.db")
    command = (*COUNTS, "-b", f"{BACKEND}[behaviour=until,path={flag}]", "--store", store)
    done = nodebench(*command)
    assert done.returncode == 1
    well, failed = json.loads(nodebench("show", "--json", "--store", store).stdout)
    shown = nodebench("show", "--store", store).stdout
    assert f"(nodebench logs {failed['cell_id']})" in done.stdout
    assert f"(nodebench logs {failed['cell_id']})" in shown
    told = nodebench("logs", failed["cell_id"][:6], "--store", store)
    assert told.returncode == 0, told.stderr
    assert failed["stderr"] in told.stdout
    assert (
        f"run {failed['run_id']}, attempt 1, {failed['created_at']} on {failed['node']}: failed\n{failed['reason']}\n"
        in told.stdout
    )
    flag.touch()
    nodebench(*command, "--rerun-failed")
    both = nodebench("logs", failed["cell_id"], "--run", failed["run_id"][:-1], "--store", store).stdout
    assert both.startswith(told.stdout)
    assert "attempt 2" in both
    assert both.endswith("ok\nit ended well, and nothing was kept of what it printed\n")
    records = json.loads(nodebench("logs", failed["cell_id"], "--json", "--store", store).stdout)
    assert [(record["cell_id"], record["status"]) for record in records] == [
        (failed["cell_id"], "failed"),
        (failed["cell_id"], "ok"),
    ]
    assert nodebench("logs", well["cell_id"], "--store", store).returncode == 0
    unknown = nodebench("logs", "zzz", "--store", store)
    assert unknown.returncode == 2
    assert "unknown cell 'zzz'" in unknown.stderr


def test_what_a_backend_does_not_support_is_no_failure_of_the_others(tmp_path):
    """Beside a cell that is ok an `unsupported` one leaves the exit code 0; alone it does not."""
    refusing = f"{BACKEND}[behaviour=unsupported]"
    both = nodebench(*COUNTS, "-b", refusing, "--store", str(tmp_path / "both.db"))
    assert both.returncode == 0, both.stderr
    assert "this fake supports nothing" in both.stdout
    alone = nodebench("run", "-b", refusing, *COUNTS[3:], "--store", str(tmp_path / "alone.db"))
    assert alone.returncode == 1


def test_failures_are_measured_again_on_demand(tmp_path):
    """`--rerun-failed` goes on in the same run, and `show` tells the last attempt."""
    flag, store = tmp_path / "mended", str(tmp_path / "r.db")
    command = (*COUNTS, "-b", f"{BACKEND}[behaviour=until,path={flag}]", "--store", store)
    assert nodebench(*command).returncode == 1
    flag.touch()
    done = nodebench(*command, "--rerun-failed")
    assert done.returncode == 0, done.stderr
    shown = json.loads(nodebench("show", "--json", "--store", store).stdout)
    assert [(record["status"], record["attempt"]) for record in shown] == [("ok", 1), ("ok", 2)]


def test_ratios_of_two_runs_side_by_side(tmp_path):
    """`show` of two runs sets the ratios of their common cells beside each other, and says in what the runs differ."""
    store = str(tmp_path / "r.db")
    command = (*FAKE, "-b", f"{BACKEND}[sleep_s=0.003]", "--store", store)
    assert [nodebench(*command).returncode for _ in range(2)] == [0, 0]
    with sqlite3.connect(store) as db:
        first, second = (row[0] for row in db.execute("SELECT run_id FROM runs ORDER BY rowid"))
    shown = nodebench("show", first, second, "--store", store)
    assert "ratio of time to the control" in shown.stdout
    assert "not alike" not in shown.stdout
    with sqlite3.connect(store) as db:
        db.execute(
            "INSERT INTO environments SELECT 'other', json_set(fingerprint, '$.cpu', 'abacus') FROM environments"
        )
        db.execute("UPDATE records SET environment = 'other' WHERE run_id = ?", (second,))
    assert "against abacus" in nodebench("show", first, second, "--store", store).stdout


def test_a_run_on_several_nodes_says_so(tmp_path):
    """`show` names each node with its cells and machine; a run on one does not, unless it is not the run's own."""
    store = Store(tmp_path / "r.db")
    assert nodebench(*COUNTS, "-b", f"{BACKEND}[sleep_s=0.003]", "--store", store.path).returncode == 0
    (key,) = store.environments()
    records = store.records()
    assert {(record.node, record.environment) for record in records} == {(platform.node(), key)}
    assert store.environments()[key] == store.runs()[0].environment
    assert "measured on" not in nodebench("show", "--store", store.path).stdout
    other = store.save_environment(store.environments()[key] | {"cpu": "abacus", "cores": 7})
    moved = "UPDATE records SET node = 'node-2', environment = ? WHERE cell_id = ?"
    with sqlite3.connect(store.path) as db:
        db.execute(moved, (other, records[0].cell_id))
    shown = nodebench("show", "--store", store.path).stdout
    assert "measured on 2 nodes, whose times are not compared with each other:" in shown
    assert "- node-2, 1 cell: abacus, 7 cores" in shown
    with sqlite3.connect(store.path) as db:
        db.execute(moved, (other, records[1].cell_id))
        db.execute("UPDATE runs SET environment = json_remove(environment, '$.cpu', '$.cores', '$.system', '$.gpu')")
    shown = nodebench("show", "--store", store.path).stdout
    assert "measured on 1 node:" in shown
    assert "- node-2, 2 cells: abacus, 7 cores" in shown


def test_a_run_on_two_machines_shows_the_times_of_one(tmp_path):
    """`show` says how to have those of the other; who names none that is there learns which there are."""
    store = Store(tmp_path / "r.db")
    assert nodebench(*COUNTS, "-b", f"{BACKEND}[sleep_s=0.003]", "--store", store.path).returncode == 0
    [key], records = store.environments(), store.records()
    other = store.save_environment(store.environments()[key] | {"cpu": "abacus", "cores": 7})
    with sqlite3.connect(store.path) as db:
        values = (other, records[1].cell_id)
        db.execute("UPDATE records SET node = 'node-2', environment = ? WHERE cell_id = ?", values)
    assert "--machine" not in nodebench("show", "--store", store.path).stdout  # nothing was timed
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE records SET step_s = 0.004321")
    own = nodebench("show", "--store", store.path).stdout
    assert f"nodebench show {records[0].run_id} --store {store.path} --machine node-2" in own
    shown = nodebench("show", "--machine", "node-2", "--store", store.path).stdout
    assert f"--machine {platform.node()}" in shown
    assert own.count("4.32") + shown.count("4.32") == len(records)
    for command in ("show", "report"):
        unknown = nodebench(command, "--machine", "node-9", "--store", store.path)
        assert unknown.returncode == 2
        assert "unknown machine 'node-9'; there are:" in unknown.stderr
        assert "node-2 (abacus, 7 cores" in unknown.stderr


def test_exponents_of_memory(tmp_path):
    """The adjoint is flat to the byte and direct grows with the steps, as `nodebench scale` prints it."""
    pytest.importorskip("torch")
    over = ("scale", "-b", "adjoint,direct", "-t", "linear", "--over", "steps", "--values", "10,20,40")
    done = nodebench(*over, "--preset", "smoke", "--rounds", "1", "--json", "--store", str(tmp_path / "r.db"))
    assert done.returncode == 0, done.stderr
    laws = {(law["backend"], law["quantity"]): law for law in json.loads(done.stdout)}
    assert laws["adjoint", "saved"]["law"]["exponent"] == pytest.approx(0, abs=1e-9)
    assert laws["direct", "saved"]["law"]["exponent"] == pytest.approx(1, abs=0.06)
    assert laws["direct", "nfe"]["law"]["exponent"] == pytest.approx(1, abs=1e-9)
    assert laws["direct", "memory"]["theory"] == 1
    (run,) = Store(tmp_path / "r.db").runs()
    again = nodebench(*over, "--preset", "smoke", "--rounds", "1", "--store", str(tmp_path / "r.db"))
    *_, newest = Store(tmp_path / "r.db").runs()
    assert (run.made_by, newest.made_by) == ("scale", "scale")
    assert f"report: nodebench report {newest.run_id} --open" in again.stdout
    assert "name one of another command by its id" in nodebench("show", "--store", str(tmp_path / "r.db")).stderr


def test_dry_run_starts_nothing(tmp_path):
    """--dry-run shows the cells and makes no store."""
    done = nodebench(*FAKE, "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 1
    assert list(tmp_path.iterdir()) == []


def test_dry_run_watches_no_cores_and_loads_no_cluster(tmp_path):
    """What is only needed to measure is not waited for, and Ray's settings are set for Ray alone."""
    code = (
        "import sys\nfrom nodebench import cli\nfrom nodebench.results import machine\nmachine.idle_cores = None\n"
        f"sys.argv = {['nodebench', *FAKE, '--dry-run']}\n"
        "try: cli.main()\nexcept SystemExit as ended: print(ended.code, 'nodebench.bench.executors.ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "-b", "adjont", "-t", "mnist"), "did you mean 'adjoint'"),
        (("run", "-b", "adjoint", "-t", "mnits"), "did you mean 'mnist'"),
        (("run", "-b", "adjoint", "-t", "mnist", "--model", "odnet"), "did you mean 'odenet'"),
        (("run", "-b", "adjoint", "-t", "mnist", "--solver", "dopri55"), "did you mean 'dopri5'"),
        (("run", "-b", "adjoint", "-t", "mnist", "--controller", "pid"), "must be 'integral' or 'pi'; got 'pid'"),
        (("scale", "-b", "adjoint", "-t", "linear", "--controller", "p"), "must be 'integral' or 'pi'; got 'p'"),
        (("run", "-b", "adjoint[nrm=full]", "-t", "mnist"), "did you mean 'norm'"),
        (("run", "-b", "adjoint", "-t", "mnist", "--preset", "quik"), "did you mean 'quick'"),
        (("run", "-b", "adjoint", "-t", "mnist", "--rtol", "-1"), "`rtol` must be positive"),
        (("run", "-b", "adjoint", "-t", "mnist", "--rtol", "0"), "`rtol` must be positive"),
        (("run", "-b", "adjoint", "-t", "mnist", "--rtol", "small"), "`--rtol` must be a number"),
        (("run", "-b", "adjoint", "-t", "mnist", "--rounds", "0"), "`--rounds` must be positive"),
        (("run", "-b", "adjoint", "-t", "mnist", "--model", "resnet"), "takes no backend"),
        (("run", "-t", "mnist"), "needs a gradient method"),
        (("run", "-b", "adjoint"), "--task"),
        (("run", "-b", "adjoint,direct", "-t", "mnist", "--control", "checkpoint"), "there are: adjoint, direct"),
        (("run", "-b", "adjoint", "-t", "mnist", "--resume", "--rerun-failed"), "leave `--resume` out"),
        (("scale", "-b", "adjoint", "-t", "linear", "--over", "step"), "did you mean 'steps'"),
        (("scale", "-b", "adjoint", "-t", "linear", "--values", "10,20"), "at least 3 different ones"),
        (("scale", "-b", "adjoint", "-t", "linear", "--solver", "dopri5"), "dopri5 chooses its own"),
        (("run", "--nosuchoption"), "No such option"),
        (("list", "backend"), "did you mean 'backends'"),
        (("show", "--store", "nosuchstore.db"), "there is no store"),
        (("run", "-b", BACKEND, "-t", TASK, "--store", "/dev/null/r.db"), "cannot be made"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, arguments, message):
    """Wrong usage is one clear message on stderr, exit code 2, and nothing is started."""
    done = nodebench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_newer_store_is_left_alone(tmp_path):
    """A store of a newer schema is an error that says what to do."""
    path = tmp_path / "r.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    done = nodebench(*FAKE, "--store", str(path))
    assert done.returncode == 2
    assert "schema 99" in done.stderr


def test_batch_larger_than_the_data(tmp_path):
    """A worker that finds the request itself to be wrong ends the run with exit code 2."""
    arguments = ("run", "-t", TASK, "--model", "constant", "--preset", "smoke", "--batch-size", "1000")
    done = nodebench(*arguments, "--store", str(tmp_path / "r.db"))
    assert done.returncode == 2
    assert "larger than the training data, 40 examples" in " ".join(done.stderr.split())


def test_missing_cuda_is_wrong_usage(tmp_path):
    """`--device cuda` where there is none is an error, not a run on the CPU."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = nodebench("run", "-b", "direct", "-t", "linear", "--device", "cuda", "--store", str(tmp_path / "r.db"))
    assert done.returncode == 2
    assert "cuda" in done.stderr.lower()


WITHOUT_JAX = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in ("jax", "diffrax") else find(name, *more)
"""


def test_a_missing_framework_is_a_status(tmp_path):
    """Where JAX is not installed its cells say so, with the command that installs it; torch's are measured."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_JAX)
    arguments = ("-b", "diffrax,direct", "-t", "linear", "--preset", "smoke", "--measure", "counts", "--json")
    done = script("run", *arguments, "--store", str(tmp_path / "r.db"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    records = {record["backend"]: record for record in json.loads(done.stdout)}
    assert records["direct"]["status"] == "ok"
    assert records["diffrax"]["status"] == "not_installed"
    assert "pip install 'nodebench[jax]'" in records["diffrax"]["reason"]


def test_doctor_tells_versions_devices_and_data(tmp_path):
    """`doctor` names the machine, libraries, devices of frameworks and where MNIST would come from, not who asks."""
    home, data = str(tmp_path), str(tmp_path / "data")
    said = nodebench("doctor", "--json", cwd=tmp_path, HOME=home, XDG_CACHE_HOME="", NODEBENCH_DATA=data).stdout
    found = json.loads(said)
    assert found["environment"]["cores"] >= 1
    assert found["environment"]["libraries"]["numpy"]
    assert set(found["frameworks"]) == {"torch", "jax"}
    assert "~/data" in found["data"]["mnist"]
    assert home not in said


def test_version():
    """--version prints the version and nothing else."""
    done = script("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("nodebench ")


def test_a_dry_run_shows_options_in_brackets(tmp_path):
    """The table of cells shows a backend as it is written, its options included."""
    done = nodebench("run", "-b", "direct[land=true]", "-t", "linear", "--dry-run", cwd=tmp_path)
    assert "direct[land=true]" in done.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A store with one run, of a cell at each of two tolerances."""
    path = tmp_path_factory.mktemp("store") / "r.db"
    done = nodebench(*FAKE, "--rtol", "1e-3,1e-5", "--store", str(path))
    assert done.returncode == 0, done.stderr
    return path


def test_a_report_in_every_format(tmp_path, measured):
    """Every file that was asked for is written and named with its size; the page names backend and command."""
    names = [f"r.{suffix}" for suffix in ("html", "md", "tex", "csv", "json", "parquet")]
    outputs = [part for name in names for part in ("-o", name)]
    done = nodebench("report", *outputs, "--store", str(measured), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("wrote ")]
    assert sorted(line.split()[1].strip(",") for line in lines) == sorted(names)
    for name in names[:3]:
        assert BACKEND in (tmp_path / name).read_text()
    shown = json.loads(nodebench("show", "--json", "--store", str(measured)).stdout)
    assert len(shown) == 2
    assert json.loads((tmp_path / "r.json").read_text()) == shown


def test_a_report_is_a_page_by_default(tmp_path, measured):
    """Without -o it is report.html, here."""
    done = nodebench("report", "latest", "--store", str(measured), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("browser", ["/bin/echo", ""])
def test_a_report_is_opened_where_there_is_a_browser(tmp_path, measured, browser):
    """Where there is none, or no display, a sentence says where the page is; both are no failure."""
    page = tmp_path / "page.html"
    done = script("report", "--store", measured, "-o", str(page), "--open", BROWSER=browser, DISPLAY="",
                  WAYLAND_DISPLAY="")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert page.as_uri() in done.stdout
    assert ("no browser can be opened here; the page is at" in done.stdout) == (not browser)


def test_what_is_no_page_is_not_opened(tmp_path, measured):
    """`--open` wants a page."""
    done = nodebench("report", "--store", measured, "-o", str(tmp_path / "page.md"), "--open")
    assert done.returncode == 2
    assert "name one that ends in .html" in done.stderr


def test_charts_are_written_beside_a_report(tmp_path):
    """Two methods make a picture, a file of its own that the Markdown refers to."""
    store = str(tmp_path / "r.db")
    assert nodebench(*FAKE, "-b", f"{BACKEND}[sleep_s=0.003]", "--store", store).returncode == 0
    done = nodebench("report", "-o", "r.md", "--charts", "svg", "--store", store, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = [f"r-charts/{path.name}" for path in (tmp_path / "r-charts").iterdir()]
    assert len(files) > 0
    text = (tmp_path / "r.md").read_text()
    assert [file for file in files if file not in text] == []


def test_a_report_of_an_empty_store_says_so(tmp_path):
    """A store without runs is no error."""
    Store(tmp_path / "r.db")
    done = nodebench("report", "-o", "r.md", "--store", "r.db", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nothing has been measured" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "r.pdf"), ".html, .md, .tex, .csv, .json, .parquet"),
        (("-o", "."), "has no format"),
        (("-o", "folder.html"), "is a folder"),
        (("-o", "nowhere/r.html"), "there is no folder `nowhere`"),
        (("-o", "r.md", "--charts", "jpg"), "unknown format of charts 'jpg'"),
        (("-o", "r.tex", "--charts", "svg"), "use `--charts pdf`"),
        (("nosuchrun",), "unknown run 'nosuchrun'"),
        (("--store", "nosuchstore.db"), "there is no store"),
    ],
)
def test_a_report_that_cannot_be_written(tmp_path, measured, arguments, message):
    """One clear message, exit code 2, and no file."""
    (tmp_path / "folder.html").mkdir()
    done = nodebench("report", *arguments, cwd=tmp_path, NODEBENCH_STORE=str(measured))
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


def test_measuring_imports_no_charts():
    """Neither Altair nor matplotlib is imported by what `nodebench run` needs."""
    code = (
        "import sys\nfrom nodebench import cli\nimport nodebench.bench.runner, nodebench.reports.tables\n"
        "print(sorted({'altair', 'matplotlib', 'pyarrow', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
