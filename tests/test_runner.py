"""The runner leaves a row for every cell, whatever becomes of its worker. Needs no torch and no JAX."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection

import pytest
from processes import children, ended, within, workers

from nodebench.bench.client import WorkerProcess
from nodebench.bench.matrix import Request, plan
from nodebench.bench.messages import Assignment
from nodebench.bench.reference import continuous_errors
from nodebench.bench.request import Interpreter, Settings
from nodebench.bench.runner import Runner
from nodebench.bench.saved import Reference
from nodebench.bench.worker.main import Worker, _failure
from nodebench.errors import UserError
from nodebench.registry import canonical
from nodebench.results.machine import fingerprint
from nodebench.results.record import PRINTED
from nodebench.results.store import Store

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
QUICK = Settings(rounds=1, timeout_s=60)


def measure(tmp_path, settings=QUICK, continuation="new", **changes):
    """Run a request into a store and return its records by backend."""
    request = Request(**{"backends": (BACKEND,), "tasks": (TASK,), "preset": "smoke", **changes})
    events = []
    store = Store(tmp_path / "results.db")
    run_id = Runner(store, settings, events.append).run(plan(request), "test", fingerprint(), continuation)
    return {record.backend: record for record in store.records([run_id])}


def test_a_cell_is_measured_whole(tmp_path):
    """A cell that works has every figure of the gradient measurement and of the training."""
    record = measure(tmp_path, Settings(rounds=5, timeout_s=60))[BACKEND]
    assert record.status == "ok"
    assert (record.nfe_forward, record.nfe_backward, record.n_vjps) == (7, 5, 3)
    assert (record.n_accepted, record.n_rejected, record.saved_bytes) == (1, 0, 64)
    assert record.grad_error_params < 1e-6
    assert record.grad_error_y0 < 1e-6
    assert record.method_error_params < 1e-6
    assert record.method_error_y0 < 1e-6
    assert record.reference == "closed form"
    assert record.dataset == "fake"
    assert record.step_s_low <= record.step_s <= record.step_s_high
    assert (record.n_rounds, record.n_starts) == (5, 4)
    assert record.stopped_by == "rounds"
    assert record.peak_memory_bytes > 0
    assert record.unreleased_bytes < 2**16
    assert record.forward_error < 1e-3
    assert (record.reference_error_params, record.reference_error_y0) == (0, 0)
    assert record.overhead_s > 0
    assert record.verdict is None
    assert (record.metric_name, record.metric_unit, record.metric_direction) == ("distance", "1", "lower")
    assert record.metric_value < 0.2
    assert record.diagnostics["value"] == pytest.approx(0.7, abs=0.1)
    assert (record.epochs, record.train_steps) == (3, 30)
    assert [entry["epoch"] for entry in record.history] == [1, 2, 3]
    assert record.train_memory_bytes > 0


def test_a_trained_model_is_seen(tmp_path):
    """Its plots are kept beside its record, and belong to no other."""
    record = measure(tmp_path, tasks=(f"{TASK}[viewed=diagnostics]",), measure="training")[BACKEND]
    [plot] = Store(tmp_path / "results.db").plots(record.run_id, record.cell_id)
    assert (plot.name, plot.caption, plot.alternative) == ("examples", "Test examples", "ten numbers")
    assert plot.svg.count(b"<use") >= 10


def test_the_first_seed_alone_leaves_plots(tmp_path):
    """Those of further seeds show the same again, and a store would be made of nothing else."""
    measure(tmp_path, tasks=(f"{TASK}[viewed=diagnostics]",), measure="training", seeds=(3, 4))
    store = Store(tmp_path / "results.db")
    kept = {record.seed: len(store.plots(record.run_id, record.cell_id)) for record in store.records()}
    assert kept == {3: 1, 4: 0}


def test_training_steps_of_all_models_are_measured(tmp_path):
    """Memory and time of each, with no gradient and no training."""
    changes = {"models": ("growth", "constant"), "measure": "training-step"}
    records = measure(tmp_path, Settings(rounds=5, timeout_s=60), **changes)
    for record in (records[BACKEND], records[None]):
        assert record.status == "ok"
        assert 0 < record.train_step_s_low <= record.train_step_s <= record.train_step_s_high
        assert record.train_memory_bytes > 0
        assert (record.n_params, record.dataset) == (1, "fake")
        assert (record.step_s, record.nfe_forward, record.metric_value) == (None, None, None)
    assert records[BACKEND].first_step is not None
    assert records[None].first_step is None


def test_a_training_step_that_fails_is_a_row(tmp_path):
    """A loss that is not finite has neither memory nor time, and the reason."""
    record = measure(tmp_path, tasks=(f"{TASK}[diverges=true]",), measure="training-step")[BACKEND]
    assert (record.status, record.train_step_s, record.train_memory_bytes) == ("diverged", None, None)
    assert record.reason == "the loss of the first training step is inf."


def test_a_training_step_that_is_measured_moves_no_weights():
    """However often it is made, its loss is the same."""
    pytest.importorskip("torch")
    request = Request(tasks=("cnf",), models=("planar",), preset="smoke", measure="training-step")
    (cell,) = plan(request).cells
    worker = Worker(Assignment(cell), None)
    assert worker.prepare_training_step(None).n_params > 0
    assert len({worker.timed_step() for _ in range(3)}) == 1


def test_plots_that_fail_cost_nothing_else(tmp_path):
    """A model that cannot be viewed keeps its metric, and a note says why there is nothing to see."""
    record = measure(tmp_path, tasks=(f"{TASK}[viewed=nothing]",), measure="training")[BACKEND]
    assert (record.status, record.metric_value < 0.2) == ("ok", True)
    assert "no plots: AttributeError: no method 'nothing'" in record.notes
    assert Store(tmp_path / "results.db").plots(record.run_id, record.cell_id) == ()


def test_every_failure_is_a_row(tmp_path):
    """Crash, exception, memory, NaN, missing library, unsupported, wrong gradient: each a status with its reason."""
    expected = {
        "ok": ("ok", None),
        "raise": ("failed", "ValueError: the fake raises as told"),
        "shifted": ("incomparable", "its solution is"),
        "crash": ("failed", "killed by SIGKILL during prepare"),
        "memory": ("oom", "Unable to allocate"),
        "nan": ("diverged", "t = 0.5, in step 3"),
        "missing": ("not_installed", "pip install nosuchlibrary"),
        "unsupported": ("unsupported", "supports nothing"),
        "wrong": ("wrong_gradient", "above the limit"),
    }
    names = {behaviour: canonical("backend", f"{BACKEND}[behaviour={behaviour}]") for behaviour in expected}
    records = measure(tmp_path, backends=tuple(names.values()), measure="gradient")
    for behaviour, (status, reason) in expected.items():
        record = records[names[behaviour]]
        assert record.status == status
        assert record.reason is None if reason is None else reason in record.reason
        assert record.ratio is None
    assert "ValueError: the fake raises as told" in records[names["raise"]].stderr
    assert "_misbehave" in records[names["raise"]].stderr
    assert records[names["memory"]].requested_bytes == 2**62
    assert records[names["ok"]].stderr is None
    assert records[names["wrong"]].step_s is not None
    assert records[names["shifted"]].step_s is not None


def test_a_hanging_worker_is_killed(tmp_path):
    """A worker that hangs past the time-out is killed; its row says so and the next cell is measured."""
    hanging = f"{BACKEND}[behaviour=hang]"
    start = time.monotonic()
    records = measure(tmp_path, Settings(rounds=1, timeout_s=3), backends=(hanging, BACKEND), measure="gradient")
    assert records[hanging].status == "timeout"
    assert "prepare took longer than 3 s" in records[hanging].reason
    assert records[BACKEND].status == "ok"
    assert time.monotonic() - start < 50


def test_memory_limit_ends_a_cell(tmp_path):
    """A worker that asks for more than its limit is `oom`, and the reason names the limit."""
    big = "nodebench.testing:FakeBackend[behaviour=memory]"
    records = measure(tmp_path, Settings(rounds=1, memory_limit_gib=0.25), backends=(big,), measure="gradient")
    assert records[big].status == "oom"
    assert records[big].reason.endswith("; `--memory-limit-gib 0.25` is in force.")


@pytest.mark.parametrize(
    "ending", ["OSError: x.so: cannot map zero-fill pages", "libgomp: Thread creation failed: Resource unavailable"]
)
def test_a_limit_is_named_however_it_is_met(ending):
    """A library that cannot be loaded and a thread that cannot be had are the limit's, where there is one."""
    cell = plan(Request(backends=(BACKEND,), tasks=(TASK,))).cells[0]
    for limit, status in ((2**20, "oom"), (None, "oom" if "map" in ending else "failed")):
        worker = WorkerProcess(Assignment(cell, memory_limit_bytes=limit), Interpreter(), None)
        failure = worker._limited(_failure(ImportError(ending)))
        worker.stop()
        assert (failure.status, "--memory-limit-gib" in failure.reason) == (status, limit is not None)


def test_a_diverging_training_says_where(tmp_path):
    """A loss that is not finite ends the cell as `diverged`, with the step; its gradient figures stay."""
    record = measure(tmp_path, tasks=(f"{TASK}[diverges=true]",))[BACKEND]
    assert record.status == "diverged"
    assert "training step 1 of 30" in record.reason
    assert record.nfe_forward == 7
    assert record.metric_value is None


def test_a_model_without_an_ode_trains(tmp_path):
    """A baseline has a metric and no gradient figures."""
    record = measure(tmp_path, backends=(), models=("constant",))[None]
    assert record.status == "ok"
    assert record.metric_value is not None
    assert record.nfe_forward is None
    assert record.rtol is None


def test_a_broken_backend_takes_no_other_down(tmp_path):
    """A plugin that cannot be imported is one failed row, wherever it stands in the group."""
    (tmp_path / "broken.py").write_text('raise RuntimeError("no luck")\nclass B:\n    framework = "FRAMEWORK"\n')
    text = (tmp_path / "broken.py").read_text().replace("FRAMEWORK", "nodebench.testing:FakeFramework")
    (tmp_path / "broken.py").write_text(text)
    broken = f"{tmp_path / 'broken.py'}:B"
    records = measure(tmp_path, backends=(broken, BACKEND), measure="gradient")
    assert records[BACKEND].status == "ok"
    assert records[broken].status == "failed"
    assert "no luck" in records[broken].reason


def test_references_of_two_problems_are_two(tmp_path):
    """Options of a task that change nothing but its loss change the reference, which each gradient agrees with."""
    pytest.importorskip("torch")
    request = Request(
        backends=("direct",), tasks=("linear[loss=end]", "linear[loss=path]"), preset="smoke", measure="gradient"
    )
    kept = set()
    for at, cell in enumerate(plan(request).cells):
        # The commands of the workers, in this process.
        inputs, gradients = tmp_path / f"{at}-inputs.npz", tmp_path / f"{at}.npz"
        preparing = Worker(Assignment(replace(cell, backend=None)), None)
        first_step = preparing.begin(inputs).first_step
        reference = preparing.reference(first_step, inputs, tmp_path / "references", 1)
        worker = Worker(Assignment(cell), None)
        worker.prepare(first_step, inputs)
        worker.gradients(gradients)
        found = continuous_errors(Reference.load(gradients), Reference.load(reference.path), cell.spec)
        assert found.grad_error_params < 1e-3
        kept.add(reference.path)
    assert len(kept) == 2


def test_last_words_of_a_crash_are_kept(tmp_path):
    """What a process printed before it died is in its row."""
    dying = f"{BACKEND}[behaviour=die]"
    record = measure(tmp_path, backends=(dying,), measure="gradient")[dying]
    assert record.status == "failed"
    assert "exited with code 3" in record.reason
    assert "last words" in record.stderr


TALKING = """
import os
from dataclasses import dataclass
from typing import ClassVar
from nodebench.testing import FakeBackend

@dataclass(frozen=True)
class Talking(FakeBackend):
    framework: ClassVar[str] = "nodebench.testing:FakeFramework"
    dies: bool = False

    def solve(self, field, y0, times, spec):
        for number in range(300):
            print("line", number)
        if self.dies:
            os._exit(3)
        raise ValueError("no more")
"""


def test_what_a_process_printed_is_kept(tmp_path):
    """The last 200 lines: alone of a process that died, below the traceback of a command that failed."""
    (tmp_path / "talking.py").write_text(TALKING)
    failed = f"{tmp_path / 'talking.py'}:Talking"
    died = f"{failed}[dies=true]"
    records = measure(tmp_path, backends=(died, failed), measure="gradient")
    lines = [f"line {number}" for number in range(100, 300)]
    assert records[died].stderr.splitlines() == records[died].traceback.splitlines() == lines
    assert "last output: line 299" in records[died].reason
    where, _, printed = records[failed].stderr.partition(f"\n\n{PRINTED}\n")
    assert printed.splitlines() == lines
    assert where == records[failed].traceback
    assert where.splitlines()[0] == "Traceback (most recent call last):"
    assert where.splitlines()[-1] == "ValueError: no more"


def test_failures_are_measured_again_only_on_demand(tmp_path):
    """`--rerun-failed` measures what failed, beside the control, and leaves the other records as they are."""
    flag = tmp_path / "mended"
    flaky = f"{BACKEND}[behaviour=until,path={flag}]"
    backends = {"backends": (BACKEND, flaky), "measure": "gradient"}
    first = measure(tmp_path, **backends)
    assert first[flaky].status == "failed"
    flag.touch()
    again = measure(tmp_path, continuation="rerun-failed", **backends)
    assert again[BACKEND] == first[BACKEND]
    assert (again[flaky].status, again[flaky].attempt) == ("ok", 2)
    assert (again[flaky].control, again[flaky].run_id) == (BACKEND, first[flaky].run_id)
    store = Store(tmp_path / "results.db")
    assert [record.status for record in store.records(all_attempts=True)] == ["ok", "failed", "ok"]
    assert len(store.runs()) == 1


def test_a_run_is_not_continued_on_another_machine(tmp_path):
    """One run never mixes figures of two machines or versions: going on is refused, and says what differs."""
    store, planned = Store(tmp_path / "results.db"), plan(Request(backends=(BACKEND,), tasks=(TASK,)))
    store.start_run("r1", "test", planned.plan_id, {"cpu": "one", "libraries": {"torch": "1"}}, 1)
    environment = {"cpu": "one", "libraries": {"torch": "2"}}
    for continuation in ("resume", "rerun-failed"):
        with pytest.raises(UserError, match=r"libraries\.torch: 1 against 2"):
            Runner(store, QUICK, lambda _: None).run(planned, "test", environment, continuation)


@pytest.mark.quiet
def test_the_control_is_the_one_asked_for(tmp_path):
    """`--control` names the backend to which the others are related; where it fails the next one stands in."""
    one, two = f"{BACKEND}[sleep_s=0.01]", f"{BACKEND}[sleep_s=0.012]"
    settings = Settings(rounds=1, timeout_s=60, control=two)
    records = measure(tmp_path, settings, backends=(one, two), measure="gradient")
    assert (records[one].control, records[two].control) == (two, None)
    assert records[one].ratio == pytest.approx(1 / 1.2, rel=0.15)
    broken = f"{BACKEND}[behaviour=raise]"
    settings = Settings(rounds=1, timeout_s=60, control=broken)
    records = measure(tmp_path, settings, backends=(one, two, broken), measure="gradient")
    assert records[two].control == one
    assert any(f"since {broken} cannot be ranked" in note for note in records[one].notes)


@pytest.mark.quiet
def test_cells_of_a_group_are_compared_with_the_first(tmp_path):
    """The slower of two cells has a ratio above 1 to the control, with an interval that excludes 1."""
    slow = f"{BACKEND}[sleep_s=0.02]"
    control = f"{BACKEND}[sleep_s=0.01]"
    settings = Settings(rounds=5, timeout_s=60)
    records = measure(tmp_path, settings, backends=(control, slow), measure="gradient")
    assert records[control].ratio is None
    assert records[slow].control == control
    assert 1.0 < records[slow].ratio_low < records[slow].ratio < records[slow].ratio_high


COMMAND = [sys.executable, "-m", "nodebench", "run", "-b", BACKEND, "--preset", "smoke"]


def interrupted(tmp_path, task, wanted, number):
    """Start a run, interrupt it when a line holds `wanted`, and return its exit code and output."""
    # A job in the background of a shell ignores interruptions, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, "-t", task, "--rounds", "1", "--store", str(tmp_path / "results.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    signal.signal(signal.SIGINT, before)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if wanted in line:
            time.sleep(0.6)  # into the training, which takes more than a second
            process.send_signal(number)
            break
    seen += process.stdout.readlines()
    process.stdout.close()
    return process.wait(30), "".join(seen)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on(tmp_path, number):
    """A run that is interrupted or killed in its training goes on with --resume to the very same result."""
    task = f"{TASK}[train_sleep_s=0.05]"
    code, output = interrupted(tmp_path, task, "training, 0 of 1", number)
    if number == signal.SIGINT:
        assert code == 130
        assert "--resume" in output
    store = Store(tmp_path / "results.db")
    assert store.records() == []
    resumed = measure(tmp_path, continuation="resume", tasks=(task,))[BACKEND]
    assert len(store.runs()) == 1
    assert store.runs()[0].finished_at is not None
    fresh = measure(tmp_path / "fresh")[BACKEND]
    assert resumed.metric_value == fresh.metric_value
    assert [e["train_loss"] for e in resumed.history] == [e["train_loss"] for e in fresh.history]
    assert resumed.step_s is not None


def left(tmp_path):
    """The checkpoints that there are."""
    return list((tmp_path / "checkpoints").glob("*/*"))


@pytest.mark.parametrize("continuation", ["rerun-failed", "new"])
def test_a_training_whose_time_was_over_goes_on(tmp_path, continuation):
    """Measured again, in its run or in another one, it ends as an undisturbed one, and its record says so."""
    tracked = replace(QUICK, track_error=3)
    for limit in (1.2, 6.0, 30.0):  # the first in which a worker starts and an epoch passes, however busy the machine
        slow = {
            "tasks": (f"{TASK}[train_sleep_s={limit / 24}]",),
            "measure": "training",
        }  # of three epochs of ten steps
        found = [measure(tmp_path, replace(tracked, timeout_s=limit), **slow)[BACKEND]]
        if left(tmp_path):
            break
    assert (found[0].status, len(left(tmp_path))) == ("timeout", 1)
    found.append(measure(tmp_path, tracked, continuation=continuation, **slow)[BACKEND])
    assert (found[1].status, found[1].attempt) == ("ok", 2 if continuation == "rerun-failed" else 1)
    assert left(tmp_path) == []
    fresh = measure(tmp_path / "fresh", tracked, measure="training")[BACKEND]
    assert found[1].metric_value == fresh.metric_value
    assert [e["train_loss"] for e in found[1].history] == [e["train_loss"] for e in fresh.history]
    assert found[1].tracked_errors == fresh.tracked_errors
    assert [entry["epoch"] for entry in fresh.tracked_errors] == [0, 1, 2, 3]
    [note] = [note for note in found[1].notes if "went on from its checkpoint" in note]
    assert re.search(r"after step [12]0 of 30; its time is that of all its parts", note)
    assert found[1].train_s > 30 * limit / 24
    assert not [note for note in fresh.notes if "checkpoint" in note]


def test_a_training_whose_worker_died_goes_on(tmp_path):
    """With the code as it was; where that has changed, it begins anew."""
    plugin = tmp_path / "mortal.py"
    dying = f"{plugin}:Mortal[until={tmp_path / 'mended'}]"
    plugin.write_text(MORTAL)
    asked = {"tasks": (dying,), "models": ("constant",), "backends": (), "measure": "training"}
    died = measure(tmp_path, **asked)[None]
    assert died.status == "failed"
    assert "died" in died.reason or "exit" in died.reason
    assert len(left(tmp_path)) == 1
    kept = left(tmp_path)[0].read_bytes()
    (tmp_path / "mended").touch()
    again = measure(tmp_path, **asked)[None]
    assert (again.status, left(tmp_path)) == ("ok", [])
    assert any("after step 20 of 30" in note for note in again.notes)
    plugin.write_text(MORTAL + "\n# another program\n")
    [folder] = (tmp_path / "checkpoints").iterdir()
    (folder / f"{died.cell_id}.checkpoint").write_bytes(kept)
    anew = measure(tmp_path, **asked)[None]
    assert anew.status == "ok"
    assert not any("checkpoint" in note for note in anew.notes)
    assert anew.metric_value == again.metric_value
    assert left(tmp_path) == []


MORTAL = """
import os
from dataclasses import dataclass, replace
from pathlib import Path
from nodebench.testing import FakeTask

@dataclass(frozen=True)
class Mortal(FakeTask):
    until: str = ""

    def recipe(self, model, preset):
        def augment(batch, rng):
            seen.append(0)
            if len(seen) == 25 and not Path(self.until).exists():
                os._exit(3)
            return batch
        return replace(super().recipe(model, preset), augment=augment)

seen = []
"""


def test_a_training_that_diverged_leaves_no_checkpoint(tmp_path):
    """It would diverge again."""
    record = measure(tmp_path, tasks=(f"{TASK}[diverges=true]",), measure="training")[BACKEND]
    assert (record.status, left(tmp_path)) == ("diverged", [])


def test_resume_measures_only_what_is_missing(tmp_path):
    """A finished run is not resumed: the same request is measured anew."""
    measure(tmp_path, measure="gradient")
    measure(tmp_path, measure="gradient", continuation="resume")
    assert len(Store(tmp_path / "results.db").runs()) == 2


def test_two_runs_into_one_store_lose_nothing(tmp_path):
    """Two runs at once leave all records of both."""
    command = [*COMMAND, "-t", TASK, "--rounds", "1", "--measure", "gradient", "--store", str(tmp_path / "results.db")]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(100) for process in both] == [0, 0]
    store = Store(tmp_path / "results.db")
    assert len(store.runs()) == 2
    assert [record.status for record in store.records()] == ["ok", "ok"]


linux = pytest.mark.skipif(sys.platform != "linux", reason="the system cannot be asked to kill a child with its parent")


@linux
def test_a_worker_does_not_outlive_its_runner(tmp_path):
    """A worker that hangs in a command dies with the runner, and its launcher too, though neither was told."""
    hanging = ["-b", f"{BACKEND}[behaviour=hang]", "-t", TASK, "--measure", "gradient"]
    runner = subprocess.Popen(
        [*COMMAND[:4], *hanging, "--preset", "smoke", "--store", str(tmp_path / "results.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert any(line.endswith(": prepare\n") for line in runner.stdout)
    time.sleep(0.3)  # into the solve that hangs
    (worker,), (launcher,) = workers(runner.pid), children(runner.pid, "launcher")
    runner.kill()
    runner.communicate()
    assert within(10, lambda: ended(worker) and ended(launcher))


SLOW = """
import time

time.sleep(3600)

class Slow:
    framework = "nodebench.testing:FakeFramework"
"""


@linux
def test_a_worker_whose_runner_is_gone_begins_nothing(tmp_path):
    """A runner may die before its worker can ask to die with it: then nothing is imported, which may take for ever."""
    (tmp_path / "slow.py").write_text(SLOW)
    (cell,) = plan(Request(backends=(f"{tmp_path / 'slow.py'}:Slow",), tasks=(TASK,), preset="smoke")).cells
    ours, theirs = socket.socketpair()
    Connection(ours.detach()).send(Assignment(cell))
    with theirs:
        command = [sys.executable, "-m", "nodebench.bench.worker.main", str(theirs.fileno())]
        worker = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
        try:
            assert worker.communicate(timeout=30) == (None, "the runner is gone\n")
        finally:
            worker.kill()
            worker.communicate()
