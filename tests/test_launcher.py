"""Workers are forked from a launcher where that is safe, and started as new interpreters where it is not."""

import os
from pathlib import Path

import pytest
from processes import children, ended, within

from nodebench.bench import client, launcher
from nodebench.bench.client import LostError, WorkerError, WorkerProcess
from nodebench.bench.matrix import Request, plan
from nodebench.bench.messages import Assignment, Questions
from nodebench.bench.processes import Forked, Launchers, environment, kept_launchers
from nodebench.bench.request import Interpreter, Settings
from nodebench.bench.runner import Runner
from nodebench.results.store import Store

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
FORKED = pytest.mark.skipif(not client.CAN_FORK, reason="this system does not tell whether a fork is safe")


@pytest.fixture(autouse=True)
def _workers_find_the_fakes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def run(tmp_path, *backends, settings=Settings(rounds=1, timeout_s=60), **changes):  # noqa: B008  frozen
    """Records of a run by backend."""
    request = Request(**{"backends": backends, "tasks": (TASK,), "preset": "smoke", "measure": "gradient", **changes})
    store = Store(tmp_path / "results.db")
    Runner(store, settings, lambda _: None).run(plan(request), "test", {})
    return {record.backend.partition("[")[0]: record for record in store.records()}


def cell(backend=BACKEND):
    return plan(Request(backends=(backend,), tasks=(TASK,), preset="smoke", measure="gradient")).cells[0]


@pytest.fixture
def launchers():
    with Launchers() as made:
        yield made


@pytest.fixture
def started(launchers):
    """Starts workers of a cell, and ends them."""
    alive = []

    def start(backend=BACKEND, where=launchers):
        alive.append(WorkerProcess(Assignment(cell(backend)), Interpreter(), where))
        return alive[-1]

    yield start
    for worker in alive:
        worker.stop()


def site(tmp_path, monkeypatch, text):
    """Have every new interpreter run some lines when it starts, as those of a user's `sitecustomize` are."""
    (tmp_path / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")


@FORKED
def test_cells_of_a_start_are_forked_from_one_process(started):
    """They are children of one launcher, each in a process group of its own, and of different random numbers."""
    workers = [started() for _ in range(3)]
    for worker in workers:
        worker.ready(60)
    assert [worker.start_method for worker in workers] == ["fork"] * 3
    pids = [worker._process.pid for worker in workers]
    assert {os.getpgid(pid) for pid in pids} == set(pids)
    assert len({Path(f"/proc/{pid}/stat").read_text().split()[3] for pid in pids}) == 1


@FORKED
def test_each_start_has_a_launcher_of_its_own(tmp_path, monkeypatch):
    """And what is not timed has one for the whole process, a single start too: a second run starts none."""
    made = []
    make = Launchers.launcher
    monkeypatch.setattr(Launchers, "launcher", lambda self, *args: made.append(make(self, *args)) or made[-1])
    for rounds in (2, 1):
        records = run(tmp_path, BACKEND, f"{BACKEND}[sleep_s=0.001]", settings=Settings(rounds=rounds, timeout_s=60))
    assert records[BACKEND].start_method == "fork"
    kept = [each for each in made if each in kept_launchers()._known.values()]
    assert len({id(each) for each in kept}) == 1
    assert len({id(each) for each in made if each not in kept}) == 2


@FORKED
def test_workers_of_another_environment_have_another_launcher(launchers, monkeypatch):
    """What a process inherits is the same in all workers of a launcher; few are kept, and none that is at work."""

    def one():
        return launchers.launcher(Interpreter(), "", environment(Interpreter(), spin=False))

    first = one()
    with Path(os.devnull).open("rb") as nothing:
        at_work = Forked(first, nothing, nothing)
    assert one() is first
    others = []
    for value in range(5):
        monkeypatch.setenv("SOME", str(value))
        others.append(one())
    assert not first.ended
    assert [other.ended for other in others] == [True, True, False, False, False]
    at_work.release()


@FORKED
def test_a_worker_ends_with_its_launcher_and_is_lost(started):
    """So that its cell can be measured again: it is not the cell that has failed."""
    worker = started(f"{BACKEND}[sleep_s=60.0]")
    worker.ready(60)
    pid = worker._process.pid
    worker._process.launcher.kill()

    def ask():
        worker.send(Questions.warm_up)  # where the end is noticed, if it has come by then
        worker.receive(Questions.warm_up)

    with pytest.raises(LostError, match="the process that imports the framework was killed by SIGKILL"):
        ask()
    assert within(10, lambda: ended(pid))
    again = started()
    again.ready(60)
    assert again.start_method == "fork"


@FORKED
@pytest.mark.parametrize(("command", "rounds"), [("begin", 1), ("check", 1), ("prepare", 1), ("turn", 1), ("turn", 2)])
def test_no_cell_is_lost_to_the_end_of_its_launcher(tmp_path, command, rounds):
    """In the midst of what prepares, of the passes or of a start: what was lost is done again in new interpreters."""
    breaking = f"breaking:Breaking[command={command},error=launcher]"
    task = f"breaking:BreakingTask[command={command},error=launcher]" if command == "begin" else TASK
    records = run(tmp_path, BACKEND, breaking, tasks=(task,), settings=Settings(rounds=rounds, timeout_s=60))
    found = [records[name] for name in (BACKEND, "breaking:Breaking")]
    assert [record.status for record in found] == ["ok", "ok"]
    assert [(record.n_starts, record.n_rounds) for record in found] == [(rounds, rounds)] * 2
    assert found[1].start_method == ("fork" if command == "begin" else "spawn")
    assert ("measured again in a new interpreter: " in " ".join(found[1].notes)) == (command != "begin")


@FORKED
def test_what_ends_itself_is_no_end_of_the_launcher(tmp_path):
    """A worker that exits or is killed is known by its exit code, also where a launcher has it for a child."""
    names = {how: f"{BACKEND}[behaviour={how}]" for how in ("crash", "raise")}
    request = {"backends": (BACKEND, *names.values())}
    planned = plan(Request(**request, tasks=(TASK,), preset="smoke", measure="gradient"))
    store = Store(tmp_path / "results.db")
    Runner(store, Settings(rounds=1, timeout_s=60), lambda _: None).run(planned, "test", {})
    ok, crashed, raised = store.records()
    assert (ok.status, crashed.status, raised.status) == ("ok", "failed", "failed")
    assert "was killed by SIGKILL during prepare" in crashed.reason


THREADS = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
ONLY_LAUNCHER = "import sys\nif 'nodebench.bench.launcher' in sys.orig_argv:\n    "


@FORKED
@pytest.mark.parametrize(
    ("text", "method", "told"),
    [
        ("raise RuntimeError('broken')", "fork", None),
        (THREADS, "spawn", "2 threads run in a process that has imported the framework"),
        (f"{ONLY_LAUNCHER}import os; os._exit(3)", "spawn", "exited with code 3"),
        (f"{ONLY_LAUNCHER}print('no such thing', flush=True); sys.exit(4)", "spawn", "last output: SystemExit: 4"),
    ],
)
def test_a_process_that_must_not_fork_does_not(tmp_path, monkeypatch, text, method, told):
    """Found by looking at it, not by knowing who has been imported; the record says how, and a note why."""
    site(tmp_path, monkeypatch, text)
    record = run(tmp_path, BACKEND, measure="counts")[BACKEND]
    assert (record.status, record.start_method) == ("ok", method)
    notes = [note for note in record.notes if note.startswith("started as a new interpreter")]
    assert len(notes) == (told is not None)
    assert (told or "") in "".join(notes)


def test_an_open_device_forbids_a_fork(monkeypatch, tmp_path):
    """A CUDA context does not survive it."""
    assert launcher.hindrance() == "" or "threads" in launcher.hindrance()
    monkeypatch.setattr(launcher, "DEVICES", str(tmp_path))
    monkeypatch.setattr(launcher, "n_threads", lambda: 1)
    with (tmp_path / "device").open("w"):
        assert "has opened a CUDA device" in launcher.hindrance()


@FORKED
def test_a_launcher_that_hangs_is_a_time_out(tmp_path, monkeypatch, started):
    """Of the cell that waited for it; the next one is a new interpreter."""
    site(tmp_path, monkeypatch, f"{ONLY_LAUNCHER}import time; time.sleep(600)")
    with pytest.raises(WorkerError, match="importing took longer than 1 s") as caught:
        started().ready(1)
    assert caught.value.failure.status == "timeout"
    second = started()
    second.ready(60)
    assert (second.start_method, second.unforked != "") == ("spawn", True)


@FORKED
def test_the_imports_of_a_later_start_are_over_before_a_turn(tmp_path, monkeypatch, launchers):
    """It is waited for, since it would disturb; one that takes too long is ended: its start has new interpreters."""
    imported = tmp_path / "imported"
    site(tmp_path, monkeypatch, f"{ONLY_LAUNCHER}import time; time.sleep(0.5); open({str(imported)!r}, 'w').close()")
    launchers.launcher(Interpreter(), "", environment(Interpreter(), spin=False))
    launchers.settle(60)
    assert imported.exists()
    monkeypatch.setenv("SOME", "other")
    other = launchers.launcher(Interpreter(), "", environment(Interpreter(), spin=False))
    launchers.settle(0.1)
    assert other.ended


STARTING = """
import threading, time
from dataclasses import dataclass
from nodebench.testing import FakeBackend

threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

@dataclass(frozen=True)
class Starting(FakeBackend):
    framework = "nodebench.testing:FakeFramework"
"""


def test_what_a_plugin_does_when_it_is_imported_concerns_its_own_cell_alone(tmp_path):
    """Threads, a hang, the end of the process: nothing of it happens where others are forked from."""
    plugins = {
        "starting": (STARTING, "ok", None),
        "hanging": ("import time\ntime.sleep(600)\n" + STARTING, "timeout", "importing took longer than 4 s"),
        "forking": ("import os\nos.fork()\n" + STARTING, "ok", None),
        "exiting": ("import os\nos._exit(3)\n" + STARTING, "failed", "exited with code 3 during importing"),
    }
    for name, (text, *_) in plugins.items():
        (tmp_path / f"{name}.py").write_text(text)
    names = {name: f"{tmp_path / name}.py:Starting" for name in plugins}
    settings = Settings(rounds=1, timeout_s=4, jobs=len(plugins))
    records = run(tmp_path, BACKEND, *names.values(), settings=settings, measure="counts")
    assert records[BACKEND].status == "ok"
    for name, (_, status, reason) in plugins.items():
        assert records[names[name]].status == status
        assert (reason or "") in (records[names[name]].reason or "")


@pytest.mark.parametrize(
    ("text", "told"),
    [("import time; time.sleep(600)", "took longer than"), ("import os; os._exit(3)", "exited with code 3")],
)
def test_a_task_that_hangs_or_exits_when_it_is_planned_is_broken(tmp_path, text, told):
    """The others are planned."""
    (tmp_path / "mine.py").write_text(f"{text}\nclass Mine:\n    pass\n")
    mine = f"{tmp_path / 'mine.py'}:Mine"
    planned = plan(Request(backends=(BACKEND,), tasks=(mine, TASK), measure="gradient"), timeout_s=2)
    assert [one.task for one in planned.cells] == [TASK]
    assert told in planned.broken[mine]


def test_without_forks_workers_are_new_interpreters(tmp_path, monkeypatch):
    """As on macOS; there, nothing need be said about it in a note."""
    monkeypatch.setattr(client, "CAN_FORK", False)
    record = run(tmp_path, BACKEND)[BACKEND]
    assert (record.status, record.start_method) == ("ok", "spawn")
    assert not [note for note in record.notes if "interpreter" in note]


@FORKED
def test_a_runner_that_lets_go_leaves_no_process(launchers):
    """A worker that is stopped before it was forked is never begun; the launchers end with their owner."""
    worker = WorkerProcess(Assignment(cell()), Interpreter(), launchers)
    worker.stop()
    other = WorkerProcess(Assignment(cell()), Interpreter(), launchers)
    other.ready(60)
    (forked_from,) = launchers._known.values()
    pid = forked_from._process.pid
    assert within(10, lambda: len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) == 1)
    launchers.close()
    assert within(10, lambda: ended(other._process.pid))
    other.stop()
    assert pid not in children(os.getpid(), "launcher")
