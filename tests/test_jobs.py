"""Cells side by side: what is timed is alone, memory is respected, and an interruption ends all."""

import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from nodebench.bench import jobs as jobs_module
from nodebench.bench import work as work_module
from nodebench.bench.cell_run import CellRun
from nodebench.bench.group import UNKNOWN_BYTES, GradientGroup
from nodebench.bench.jobs import Jobs, WorkClock
from nodebench.bench.matrix import Request, plan
from nodebench.bench.request import Settings
from nodebench.bench.runner import Runner
from nodebench.bench.timing import MEMORY_SHARE
from nodebench.errors import UserError
from nodebench.results import machine
from nodebench.results.store import Store

FIGURES = (
    "backend", "status", "nfe_forward", "nfe_backward", "n_vjps", "grad_error_params", "method_error_params",
    "peak_memory_bytes",
)  # fmt: skip
BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"


def measured(*options, **settings):
    """Cells of the fake backend, and their records' figures."""
    backends = tuple(f"{BACKEND}[{text}]" if text else BACKEND for text in options)
    planned = plan(Request(backends=backends, tasks=(TASK,), preset="smoke", measure="gradient"))
    return [CellRun(cell, Settings(**settings)) for cell in planned.cells]


def test_what_is_timed_is_alone():
    """However many jobs there are: nobody is beside it, and whoever was before has finished."""
    jobs, log = Jobs([None] * 4), []

    def job(cores):
        del cores
        for n in range(30):
            with jobs.alone() if n % 3 == 0 else jobs.beside():
                log.append(("in", n % 3 == 0))
                log.append(("out", n % 3 == 0))

    jobs.each([job] * 8, lambda _: True, lambda: None)
    assert len(log) == 2 * 8 * 30
    alone = [at for at, entry in enumerate(log) if entry == ("in", True)]
    assert all(log[at + 1] == ("out", True) for at in alone)


def test_as_many_are_side_by_side_as_there_are_slots():
    """Each on cores of its own, which it gives back."""
    barrier, seen = threading.Barrier(3, timeout=30), []

    def job(cores):
        seen.append(cores)
        barrier.wait()

    Jobs([(0,), (1,), (2,)]).each([job] * 6, lambda _: True, lambda: None)
    assert [set(seen[at : at + 3]) for at in (0, 3)] == [{(0,), (1,), (2,)}] * 2


def test_memory_is_waited_for(monkeypatch):
    """A job alone begins whatever memory there is; another waits until there is room, or it is alone."""
    monkeypatch.setattr(jobs_module, "PATIENCE_S", 0.01)
    running, most, asked = [], [], []

    def job(cores):
        running.append(cores)
        most.append(len(running))
        running.pop()

    def fits(n_beside):
        asked.append(n_beside)
        return False

    Jobs([None] * 3).each([job] * 5, fits, lambda: None)
    assert most == [1] * 5
    assert set(asked) <= {1}


def test_an_interruption_ends_the_jobs_that_are_at_work(monkeypatch):
    """What is at work is told until it has ended; what has not begun never begins."""
    monkeypatch.setattr(jobs_module, "PATIENCE_S", 0.01)
    told, begun = threading.Event(), []

    def job(cores):
        del cores
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        assert told.wait(30)

    with pytest.raises(KeyboardInterrupt):
        Jobs([None] * 2).each([job] * 5, lambda _: True, told.set)
    assert len(begun) == 2


def test_an_interrupted_check_up_leaves_no_worker(monkeypatch, tmp_path):
    """It would go on solving beside what is measured next."""
    ended = []
    cell = SimpleNamespace(framework="torch")
    measured = SimpleNamespace(cell=cell, settings=None, clock=None, dismiss=lambda: ended.append(cell))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(work_module, "probe_run", lambda *_: measured)
    monkeypatch.setattr(work_module, "begin", interrupted)
    machine_context = SimpleNamespace(notify=lambda event: None, settings=None)  # noqa: ARG005  nothing is shown
    with pytest.raises(KeyboardInterrupt), work_module._reference_worker([measured], machine_context, tmp_path):
        pass
    assert ended == [cell]


def test_time_in_which_any_work_is_done_counts_once(monkeypatch):
    """Two that overlap count from the begin of the first to the end of the second."""
    now = iter([0.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(jobs_module.time, "monotonic", lambda: next(now))
    clock = WorkClock()
    with ExitStack() as both:
        both.enter_context(clock.running())
        both.enter_context(clock.running())
    with clock.running():
        pass
    assert clock.busy_s == 3 + 4


@pytest.mark.parametrize("jobs", [0, -1, 1001, 10**20])
def test_there_is_at_least_one_job_and_no_absurd_number(jobs):
    """Else nothing would ever be measured."""
    with pytest.raises(UserError, match=f"`--jobs` must be from 1 to 1000; got {jobs}"):
        Settings(jobs=jobs)


def test_jobs_have_cores_of_their_own(monkeypatch):
    """As many as the cores permit; the first has those that are timed, and more than that share."""
    monkeypatch.setattr("nodebench.bench.request.available_cores", lambda: [0, 1, 2, 3, 4])
    monkeypatch.setattr("nodebench.bench.request.usable_cores", lambda: 5)
    assert Settings(cores=(2,)).slots(1) == [(2,), (0,), (1,), (3,), (4,)]
    assert Settings(cores=(3, 4)).slots(2) == [(3, 4), (0, 1)]
    assert Settings(cores=(0,), jobs=7).slots(1) == [(0,), (1,), (2,), (3,), (4,), (0,), (1,)]
    assert Settings().slots(2) == [None, None]
    assert Settings(cores=(0, 1, 2, 3, 4)).slots(5) == [(0, 1, 2, 3, 4)]
    assert Settings(jobs=1, cores=(1,)).slots(1) == [(1,)]


def test_the_share_of_a_container_bounds_the_jobs(tmp_path, monkeypatch):
    """The least of the affinity and of all control groups around this process, rounded up."""
    inner = tmp_path / "cgroup" / "outer" / "inner"
    inner.mkdir(parents=True)
    told = tmp_path / "told"
    told.write_text("5:cpu:/elsewhere\n0::/outer/inner\n")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_CONTROL_GROUP", told)
    monkeypatch.setattr(machine, "available_cores", lambda: list(range(8)))
    assert machine.usable_cores() == 8
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("250000 100000\n")
    assert machine.usable_cores() == 3
    (inner / "cpu.max").write_text("20000 100000\n")
    assert machine.usable_cores() == 1
    (inner.parent / "memory.max").write_text("3000\n")
    (inner.parent / "memory.current").write_text("1000\n")
    assert machine.available_memory() == 2000
    told.write_text("5:cpu:/elsewhere\n")
    assert machine.usable_cores() == 8


def test_cores_that_are_switched_off_have_no_row(monkeypatch, tmp_path):
    """The system lists times of the others alone, without their numbers."""
    (tmp_path / "online").write_text("0,2-3\n")
    monkeypatch.setattr(machine, "ONLINE_CORES", tmp_path / "online")
    assert machine._online_cores(3) == [0, 2, 3]
    assert machine._online_cores(2) == [0, 1]
    monkeypatch.setattr(machine, "ONLINE_CORES", tmp_path / "no such file")
    assert machine._online_cores(3) == [0, 1, 2]


def test_the_least_busy_cores_are_chosen(monkeypatch):
    """Whatever a core waits for is no work; of equally busy ones the first, however their seconds are rounded."""
    first = {0: {"user": 5.0}, 1: {"user": 0.1, "guest": 0.1}, 2: {"user": 7.0}, 3: {"user": 1.0}}
    later = {0: {"user": 5.2}, 1: {"user": 0.3, "guest": 0.3, "idle": 9.0}, 2: {"user": 7.0, "steal": 0.1},
             3: {"user": 1.0, "iowait": 0.2}}  # fmt: skip
    readings = iter([[SimpleNamespace(**core) for core in each.values()] for each in (first, later)])
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda *, percpu: next(readings) if percpu else None)
    monkeypatch.setattr(machine, "available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(machine, "SAMPLE_S", 0)
    assert machine.idle_cores(3) == [3, 2, 0]


def test_another_worker_begins_where_memory_allows_it():
    """As large as the largest so far, and a gibibyte where none has been measured; what is not known allows all."""
    first, second = measured("", "sleep_s=0.001")
    for room, n in ((None, 9), (2.2 * UNKNOWN_BYTES / MEMORY_SHARE, 1), (1.9 * UNKNOWN_BYTES / MEMORY_SHARE, 0)):
        group = GradientGroup([first, second], 0.1, None, None, room, first.settings, print)
        assert [group._fits(n_beside) for n_beside in (n, n + 1)] == [True, room is None]
    first.resident_bytes = 5 * UNKNOWN_BYTES
    room = 8 * UNKNOWN_BYTES
    assert not GradientGroup([first, second], 0.1, None, None, room, first.settings, print)._fits(1)


def test_what_ran_out_of_memory_beside_others_is_measured_again_alone(tmp_path):
    """Its neighbours may be to blame: the memory of a machine may be enough for one."""
    (tmp_path / "greedy.py").write_text(GREEDY.format(folder=str(tmp_path / "alive")))
    (tmp_path / "alive").mkdir()
    names = tuple(f"{tmp_path / 'greedy.py'}:Greedy[n={n}]" for n in range(3))
    planned = plan(Request(backends=names, tasks=(TASK,), preset="smoke", measure="gradient"))
    store = Store(tmp_path / "results.db")
    Runner(store, Settings(rounds=1, timeout_s=60, jobs=3), lambda _: None).run(planned, "test", {})
    assert [record.status for record in store.records()] == ["ok"] * 3
    assert len((tmp_path / "refused").read_text()) >= 1


GREEDY = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from nodebench.testing import FakeBackend

alive = Path({folder!r})
calls = []

@dataclass(frozen=True)
class Greedy(FakeBackend):
    framework = "nodebench.testing:FakeFramework"
    n: int = 0

    def solve(self, field, y0, times, spec):
        begun = alive.parent / f"begun{{self.n}}"
        calls.append(1)
        if len(calls) == 2 and not begun.exists():  # the first is timed, and so alone
            begun.touch()
            own = alive / str(os.getpid())
            own.touch()
            time.sleep(0.5)
            others = [p for p in alive.iterdir() if p != own]
            time.sleep(0.5)
            own.unlink()
            if others:
                with (alive.parent / "refused").open("a") as file:
                    file.write("x")
                raise MemoryError("there is room for one worker")
        return super().solve(field, y0, times, spec)
"""


def test_figures_do_not_depend_on_the_number_of_jobs(tmp_path):
    """Counts, errors and memory are the same, one after the other and side by side; so is the order of the records."""
    found = []
    for jobs in (1, 3):
        backends = tuple(f"{BACKEND}[sleep_s={s}]" for s in (0.0, 0.001, 0.002))
        planned = plan(Request(backends=backends, tasks=(TASK,), preset="smoke", measure="gradient"))
        store = Store(tmp_path / f"{jobs}.db")
        Runner(store, Settings(rounds=1, timeout_s=60, jobs=jobs), lambda _: None).run(planned, "test", {})
        found.append([[getattr(record, name) for name in FIGURES] for record in store.records()])
    assert found[0] == found[1]
