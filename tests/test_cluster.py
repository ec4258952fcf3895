"""The same matrix on a Ray cluster: real Ray, several nodes on this machine.

Where nodes come and go in the midst of work that need not be real, `fake_ray` stands in for Ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from clusters import add, at_once, clocked, cluster_of, pretend  # noqa: E402
from commands import nodebench  # noqa: E402
from fake_ray import FakeRay  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from nodebench import api  # noqa: E402
from nodebench.bench.executors.ray import connection, executor, inspection, nodes, remote, tracking  # noqa: E402
from nodebench.bench.executors.ray.connection import AUTH_MODE, connected, probe  # noqa: E402
from nodebench.bench.executors.ray.executor import needs, ray_executor  # noqa: E402
from nodebench.bench.executors.ray.inspection import NodeInspection, Requirements  # noqa: E402
from nodebench.bench.executors.ray.nodes import alive_nodes, inspect  # noqa: E402
from nodebench.bench.executors.ray.remote import RunSpec, claimed, unfitness  # noqa: E402
from nodebench.bench.matrix import Request, plan  # noqa: E402
from nodebench.bench.request import ExecutorOptions, Settings  # noqa: E402
from nodebench.bench.runner import Runner  # noqa: E402
from nodebench.bench.work import GroupWork, TrainingWork  # noqa: E402
from nodebench.cli import app  # noqa: E402
from nodebench.errors import UserError  # noqa: E402
from nodebench.options import RecommendOptions, ReproduceOptions  # noqa: E402
from nodebench.paper import plans, reproductions  # noqa: E402
from nodebench.paper.plans import Part, Reproduction  # noqa: E402
from nodebench.reports.document import Document  # noqa: E402
from nodebench.results.machine import available_cores, fingerprint, software  # noqa: E402
from nodebench.results.store import Store  # noqa: E402

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
QUICK = Settings(rounds=1, timeout_s=60)
COMMAND = ["run", "--preset", "smoke", "--rounds", "1", "--executor", "ray"]

JOINED = """
import sys
from nodebench.bench.executors.ray import connection
connection.probe = lambda address: None
from nodebench.cli import main
sys.argv[0] = "nodebench"
main()
"""
"""The command line of a process that need not find out whether it can join a cluster: these tests have joined it."""

# Ray would have processes ready for the first work; here there is often none for them.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

pytestmark = [
    # Ray leaves sockets and files of its own to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A folder with a backend that only those have who are given the folder."""
    folder = tmp_path_factory.mktemp("plugins")
    text = """
from nodebench.testing import FakeBackend

class Mine(FakeBackend):
    framework = "nodebench.testing:FakeFramework"
"""
    (folder / "only_some_have_it.py").write_text(text)
    return folder


def before(*folders):
    """The environment of a process that looks for modules in some folders first."""
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def one(plugin):
    """A cluster of a node with two CPUs, and a head that takes no work; three as soon as a test has asked for three."""
    with cluster_of() as (cluster, _):
        join(cluster, "a", env_vars=before(plugin))
        os.environ[AUTH_MODE] = "disabled"  # as the probe would find
        yield cluster


def join(cluster, name, **options):
    """One more node, of whose processes nobody reads what they print."""
    return add(cluster, name, include_log_monitor=False, **options)


@pytest.fixture(scope="module")
def three(one, plugin):
    """That cluster with three such nodes."""
    for name in ("b", "c"):
        join(one, name, env_vars=before(plugin))
    return one


def wait_until(condition, *, timeout_s=60):
    """Until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.05)


@contextmanager
def more(cluster, **nodes):
    """Nodes that a cluster has for a while, with their options; those that are still there in the end leave it."""
    added = {name: join(cluster, name, **options) for name, options in nodes.items()}
    try:
        yield added
    finally:
        for node in added.values():
            if node in cluster.worker_nodes:
                cluster.remove_node(node)
        wait_until(lambda: not ids(*added))


def request_of(**changes):
    return Request(**{"backends": (BACKEND,), "tasks": (TASK,), "preset": "smoke", **changes})


@contextmanager
def connected_once(address):
    """One connection for all tests of a cluster: Ray keeps its processes on the nodes as long as there is one."""
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    yield


SEEN = {}
"""What nodes were found to have, by their ids."""


def inspected_once(nodes, requirements):
    """Nodes are looked at by the first test that works on them; others are answered by what was found then."""
    SEEN.update(inspect([node for node in nodes if node.node_id not in SEEN], requirements))
    data = {task: "fake" for task, *_ in requirements.tasks}
    return {node.node_id: replace(SEEN[node.node_id], data=data) for node in nodes}


@pytest.fixture(autouse=True)
def _nodes_are_joined_and_inspected_once(monkeypatch):
    for module in (connection, executor):
        monkeypatch.setattr(module, "connected", connected_once)
    monkeypatch.setattr(nodes, "inspect", inspected_once)


def ids(*names):
    """The ids of nodes."""
    return frozenset(node.node_id for node in alive_nodes() if node.name in names)


def on_ray(cluster, **choices):
    """A cluster as it is chosen by options."""
    return ExecutorOptions(**{"executor": "ray", "ray_address": cluster.address, **choices})


def measure(store, cluster, *, perform=None, notify=None, choices=None, without=(), **changes):
    """Run a request on a cluster into a store and return its records; some nodes may have to do without work."""
    planned = plan(request_of(**changes))
    chosen = on_ray(cluster, **(choices or {}))
    with ray_executor(chosen, planned, QUICK, None) as ready:
        worker = replace(ready, unfit=ready.unfit | ids(*without))
        if perform is not None:
            worker = replace(worker, spec=replace(worker.spec, perform=perform))
        runner = Runner(store, QUICK, notify or (lambda _: None), executor=worker, checkpoint_dir=chosen.checkpoint_dir)
        run_id = runner.run(planned, "test", ready.environment)
    return store.records([run_id])


def start(store, cluster, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", JOINED, *COMMAND, "--store", str(store), "--ray-address", cluster.address, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.usefixtures("one")
def test_the_cluster_of_this_machine_is_found(monkeypatch):
    """`auto` stands for the cluster that this machine belongs to; of several for one of them."""
    ray.shutdown()  # the connection of other tests
    monkeypatch.delenv(AUTH_MODE)
    probe("auto")
    assert os.environ[AUTH_MODE] == "disabled"
    for _ in range(2):
        with connected("auto"):
            assert alive_nodes()
        assert not ray.is_initialized()


def test_a_killed_driver_is_resumed(tmp_path, one, monkeypatch):
    """What had ended is in the store; `--resume` does the rest, and nothing twice. Another driver is not disturbed."""
    path, task = tmp_path / "results.db", f"{TASK}[train_sleep_s=0.05]"
    arguments = ["-t", task, "--model", "constant", "--measure", "training", "--seed", "0,1,2"]
    driver = start(path, one, *arguments)
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(measure, Store(path), one, seeds=(3,))
        for line in driver.stdout:
            if line.startswith("[1/3]"):
                break
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        before = [record for record in Store(path).records() if record.seed < 3]
        assert 1 <= len(before) < 3
        assert [record.status for record in beside.result()] == ["ok"]
    monkeypatch.setattr(connection, "probe", lambda _: None)
    command = [*COMMAND, "--store", path, "--ray-address", one.address, *arguments, "--resume"]
    resumed = nodebench(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{len(before)} done already" in resumed.stdout + resumed.stderr
    after = Store(path).records(all_attempts=True)
    assert Counter(record.seed for record in after) == Counter(range(4))
    assert {record.status for record in after} == {"ok"}
    assert all(record in after for record in before)
    assert len(Store(path).runs()) == 2


def at_work_on(text):
    """Whether a process of Ray is at work on something of which a text tells, by the title that it has then."""
    titles = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            titles.append(path.read_bytes())
    return any(title.startswith(b"ray::") and text.encode() in title for title in titles)


def test_an_interrupted_driver_says_how_to_go_on(tmp_path, one):
    """Ctrl-C, or a cluster's own SIGTERM, ends the work on the nodes and leaves a store to resume from."""
    hanging, drivers = f"{BACKEND}[behaviour=hang]", {}
    for number in (signal.SIGINT, signal.SIGTERM):
        path, seed = tmp_path / f"{number}.db", 1000 * os.getpid() + number
        driver = start(path, one, "-b", hanging, "-t", TASK, "--seed", str(seed), "--group-cpus", "1")
        drivers[number] = path, f"{hanging} rtol 0.001 seed {seed}", driver
    for number, (path, label, driver) in drivers.items():
        wait_until(lambda label=label, driver=driver: at_work_on(label) or driver.poll() is not None)
        driver.send_signal(number)
        output, _ = driver.communicate(timeout=60)
        assert driver.returncode == 130, output
        assert "--resume" in output
        assert Store(path).records() == []
        wait_until(lambda label=label: not at_work_on(label))


@pytest.fixture
def other_diffrax(tmp_path):
    """A folder that makes a process which looks there first seem to have another version of a library."""
    fake = tmp_path / "site" / "diffrax-9.9.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: diffrax\nVersion: 9.9\n")
    return fake.parent


def test_nodes_that_are_not_alike(tmp_path, one, plugin, other_diffrax, monkeypatch):
    """They are named before anything is started, by `run` and by `doctor`; with --allow-mixed those work that can."""
    monkeypatch.syspath_prepend(str(plugin))
    # Their devices, which nothing here depends on, would take as long as all else.
    anew = cache(lambda nodes, requirements: inspect(nodes, replace(requirements, devices=False)))
    monkeypatch.setattr(nodes, "inspect", anew)
    store = Store(tmp_path / "results.db")
    changes = {"backends": ("only_some_have_it:Mine",), "seeds": (0, 1), "measure": "gradient"}
    with more(one, bare={}, old={"env_vars": before(other_diffrax, plugin)}):
        lacking, version = (
            r"node bare: backend `only_some_have_it:Mine`",
            r"node old: libraries\.diffrax: .* here, 9\.9",
        )
        with pytest.raises(UserError, match=rf"not alike: {lacking}.*; {version} there\. .*--allow-mixed"):
            measure(store, one, **changes)
        assert store.runs() == []
        records = measure(store, one, choices={"allow_mixed": True}, **changes)
        command = ["doctor", "--executor", "ray", "--ray-address", one.address, "--json"]
        done = CliRunner().invoke(app, command)
    assert [record.status for record in records] == ["ok"] * 2
    known = store.environments()
    versions = {record.node: known[record.environment]["libraries"]["diffrax"] for record in records}
    assert set(versions) == {"a", "old"}
    assert versions["old"] == "9.9"
    assert versions["a"] == fingerprint()["libraries"]["diffrax"]
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert [node["name"] for node in found["nodes"]] == ["a", "bare", "old"]
    assert found["nodes"][2]["environment"]["libraries"]["diffrax"] == "9.9"
    assert [text.partition(":")[0] for text in found["differences"]] == ["node old"]


def test_a_matrix_over_three_nodes(tmp_path, three):
    """Groups go to all nodes and are never split; each record carries its node's fingerprint.

    A refused allocation is `oom`, with what was asked for, as it is on one machine.
    """
    store, events = Store(tmp_path / "results.db"), []
    huge = f"{BACKEND}[behaviour=memory]"
    # Two threads: a training takes a node, as a group does, and the process that is there already.
    everything = measure(
        store, three, backends=(BACKEND, huge), rtols=(1e-2, 1e-3, 1e-4), threads=2, notify=events.append
    )
    refused = [record for record in everything if record.backend == huge]
    assert [(record.status, record.requested_bytes) for record in refused] == [("oom", 2**62)] * 3
    records = [record for record in everything if record.backend != huge]
    assert [record.status for record in records] == ["ok"] * 3
    assert Counter(record.rtol for record in everything) == {1e-2: 2, 1e-3: 2, 1e-4: 2}
    assert all(record.metric_value is not None for record in records)
    known = store.environments()
    for rtol in (1e-2, 1e-3, 1e-4):
        assert len({record.node for record in everything if record.rtol == rtol}) == 1
    assert {record.node for record in records} == {"a", "b", "c"}
    assert {record.train_node for record in records} <= {"a", "b", "c"}
    assert {known[record.environment]["cpu"] for record in records} == {fingerprint()["cpu"]}
    states = [event.cluster for event in events if event.kind == "cluster"]
    assert {state.name for state in states[-1].nodes} >= {"a", "b", "c"}
    assert max(sum(bool(node.running) for node in state.nodes) for state in states) == 3
    assert sum(event.kind == "record" for event in events) == 6


def test_timed_cells_have_the_node_to_themselves(tmp_path, three):
    """Nothing else is at work on a node with a group; trainings share it."""
    records = measure(
        Store(tmp_path / "results.db"),
        three,
        backends=(f"{BACKEND}[sleep_s=0.2]",),
        tasks=(f"{TASK}[train_sleep_s=0.3]",),
        seeds=tuple(range(6)),
        perform=clocked,
    )
    moments = at_once(records)
    assert len(records) == 6
    kinds = Counter(note.split()[0] for record in records for note in record.notes)
    assert kinds == {"GroupWork": 6, "TrainingWork": 6}
    assert all(moment == ["GroupWork"] for moment in moments if "GroupWork" in moment)
    assert max(map(len, moments)) <= 2


def test_a_hundred_short_cells_each_exactly_once(tmp_path, three):
    """Every row is there once, whichever node it came from, and work that begins lends its CPU to no other."""
    store = Store(tmp_path / "results.db")
    records = measure(
        store, three, backends=(f"{BACKEND}[sleep_s=0.02]",), seeds=tuple(range(100)), measure="gradient",
        perform=clocked, choices={"group_cpus": 1},
    )  # fmt: skip
    assert Counter(record.seed for record in store.records(all_attempts=True)) == Counter(range(100))
    assert len(records) == 100
    assert {record.node for record in records} == {"a", "b", "c"}
    assert max(map(len, at_once(records))) == 2


def members(weights):
    """Everything in a file of torch's, by its place in it; its serialization id is drawn anew for each file."""
    with zipfile.ZipFile(BytesIO(weights)) as file:
        return [(name, file.read(name)) for name in file.namelist() if "serialization_id" not in name]


class WeightsStore(Store):
    """A store that takes the trained weights from the checkpoints, which are there until a record is."""

    def __init__(self, path):
        super().__init__(path)
        self.weights = {}

    def append(self, record, plots=()):
        [path] = self.path.parent.glob(f"checkpoints/*/{record.cell_id}.checkpoint")
        with zipfile.ZipFile(path) as checkpoint:
            self.weights[record.cell_id] = dict(members(checkpoint.read("weights")))
        super().append(record, plots)


@pytest.mark.parametrize(
    ("measure", "device", "expected"),
    [("gradient", "cpu", (8, 0)), ("both", "cuda", (8, 1)), ("counts", "cpu", (2, 0)), ("training", "cuda", (2, 1))],
)
def test_what_work_takes(measure, device, expected):
    """Cells timed in turns take a node's CPUs, or a GPU's share of them; all else the threads of a cell."""
    cells = plan(request_of(measure=measure, device=device, threads=2)).cells
    group = GroupWork(cells, cells, measure)
    assert needs(group, group_cpus=8) == expected
    assert needs(TrainingWork(group.outcomes[0]), group_cpus=8) == (2, expected[1])


def test_here_and_there_the_same(tmp_path, three):
    """Counters, errors and trained weights of a cell do not depend on where it was measured."""
    pytest.importorskip("torch")
    changes = {"backends": ("adjoint",), "tasks": ("linear",)}
    local, remote = WeightsStore(tmp_path / "local" / "r.db"), WeightsStore(tmp_path / "remote" / "r.db")
    runner = Runner(local, QUICK, lambda _: None)
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(runner.run, plan(request_of(**changes)), "test", fingerprint())
        choices = {"checkpoint_dir": str(tmp_path / "remote" / "checkpoints")}
        measure(remote, three, choices=choices, without=("b", "c"), **changes)  # on one node: a second starts more
        here.result()
    assert local.weights == remote.weights
    [[here], [there]] = local.records(), remote.records()
    assert list(local.weights) == [here.cell_id]
    assert (here.status, there.status) == ("ok", "ok")
    for name in SAME:
        assert getattr(here, name) == getattr(there, name), name
    assert [without_time(entry) for entry in here.history] == [without_time(entry) for entry in there.history]


SAME = (
    "cell_id", "first_step", "loss", "grad_error_params", "grad_error_y0", "method_error_params", "method_error_y0",
    "forward_error", "reference", "nfe_forward", "nfe_backward", "n_vjps", "n_accepted", "n_rejected", "saved_bytes",
    "unreleased_bytes", "peak_memory_bytes", "n_params", "metric_value", "diagnostics", "train_steps", "epochs",
)  # fmt: skip


def without_time(entry):
    return {name: value for name, value in entry.items() if name != "train_s"}


def at_work(event, name):
    """Whether an event shows work on a node."""
    return event.kind == "cluster" and any(node.name == name and node.running for node in event.cluster.nodes)


def progress_in(folder):
    """How far the only training is that has a checkpoint in a folder; None where there is none yet."""
    for path in folder.glob("*/*"):
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as checkpoint:
            return json.loads(checkpoint.read("progress.json"))["progress"]
    return None


def test_a_training_goes_on_elsewhere(tmp_path, three):
    """A node killed in the midst of a training costs nothing but time: it goes on from its checkpoint."""
    task, folder = f"{TASK}[train_sleep_s=0.1]", tmp_path / "checkpoints"
    kept, told = [], []
    with more(three, first={"cpus": 1}) as members:

        def notify(event):
            told.append(event)
            progress = progress_in(folder)
            if not kept and progress and progress["epoch"] == 1:
                kept.append(progress)
                three.remove_node(members["first"], allow_graceful=False)
                members["second"] = join(three, "second", cpus=1)

        store, choices = Store(tmp_path / "results.db"), {"checkpoint_dir": str(folder)}
        [record] = measure(
            store, three, tasks=(task,), measure="training", choices=choices, notify=notify, without=("a", "b", "c")
        )
    assert (record.status, record.node, record.attempt) == ("ok", "second", 1)
    assert "it went on from its checkpoint after first had been lost at work on it" in record.notes
    assert [event.text for event in told if event.kind == "lost"] == ["first was lost; retry 1 of 3"]
    # The first epoch's time is that of the node that is gone: it was not trained again.
    assert record.history[0]["train_s"] == kept[0]["history"][0]["train_s"]
    assert not list(folder.glob("*/*"))
    undisturbed = Store(tmp_path / "undisturbed.db")
    planned = plan(request_of(measure="training"))
    Runner(undisturbed, QUICK, lambda _: None).run(planned, "test", fingerprint())
    [fresh] = undisturbed.records()
    assert record.metric_value == fresh.metric_value
    assert [without_time(entry) for entry in record.history] == [without_time(entry) for entry in fresh.history]


@pytest.fixture
def fake(monkeypatch):
    """A cluster in this process, of nodes that have all that is asked for and look like this machine."""
    stand_in = FakeRay()
    for module in (executor, nodes, remote, tracking):
        monkeypatch.setattr(module, "ray", stand_in)
    for module in (executor, tracking):
        monkeypatch.setattr(module, "POLL_S", 0.02)
    monkeypatch.setattr(executor, "RUN_WORK", stand_in.remote(remote.run_work))
    monkeypatch.setattr(executor, "connected", lambda _: nullcontext())
    fit = NodeInspection(fingerprint())
    monkeypatch.setattr(nodes, "inspect", lambda nodes, _: {node.node_id: fit for node in nodes})
    monkeypatch.setattr(remote, "_inspected", lambda _: fit)
    yield stand_in
    for name in stand_in.members:
        stand_in.lose(name)


def until_its_node_is_lost(work, machine):
    """Work that no fake node ever ends."""
    del machine
    remote.ray.node_here().lost.wait()
    return work.outcomes


def test_a_cell_that_takes_its_node_down_is_given_up(tmp_path, fake):
    """Work is tried anew as often as was said; then its cells have failed, with the names of the nodes."""
    fake.add("n0")

    def notify(event):
        last = len(fake.members) - 1
        if at_work(event, f"n{last}"):
            fake.lose(f"n{last}")
            fake.add(f"n{last + 1}")

    store = Store(tmp_path / "results.db")
    records = measure(
        store, fake, backends=(BACKEND, f"{BACKEND}[sleep_s=1]"), measure="gradient", choices={"retries": 1},
        notify=notify, perform=until_its_node_is_lost,
    )  # fmt: skip
    assert [(record.status, record.node) for record in records] == [("failed", "n1")] * 2
    assert {record.reason for record in records} == {"on node n1: it was lost in each of 2 attempts, with n0, n1."}
    assert "the node it was running on is dead" in records[0].stderr
    assert store.environments()[records[0].environment]["cpu"] == fingerprint()["cpu"]


def until_the_first_node_is_lost(work, machine):
    """Work that ends on no fake node that is called the first."""
    node = remote.ray.node_here()
    return until_its_node_is_lost(work, machine) if node.name == "first" else pretend(work, machine)


def test_the_last_node_is_gone(tmp_path, monkeypatch, fake):
    """A run waits for a node to join and says so, instead of ending or of saying nothing."""
    monkeypatch.setattr(executor, "IDLE_S", 0.2)
    fake.add("first")
    told = []

    def notify(event):
        told.append(event)
        if at_work(event, "first"):
            fake.lose("first")
        if event.kind == "waiting":
            fake.add("second")

    store = Store(tmp_path / "results.db")
    [record] = measure(store, fake, measure="gradient", perform=until_the_first_node_is_lost, notify=notify)
    assert (record.status, record.node) == ("ok", "second")
    assert [event.text for event in told if event.kind == "lost"] == ["first was lost; retry 1 of 3"]
    expected = "no node of the cluster can do what is left; waiting for one to join"
    assert [event.text for event in told if event.kind == "waiting"] == [expected]


def test_a_late_node_is_looked_at(tmp_path, monkeypatch, fake):
    """A node that joins after the beginning and has other versions gets no work, and the run ends all the same."""
    here, told, left = fingerprint(), [], []
    other = NodeInspection(here | {"libraries": here["libraries"] | {"diffrax": "9.9"}})
    monkeypatch.setattr(remote, "_inspected", lambda _: other)
    fake.add("first")

    def notify(event):
        told.append(event)
        if "late" not in fake.members and at_work(event, "first"):
            fake.add("late")
        if event.kind == "cluster" and any(other.kind == "waiting" for other in told):
            left.extend(fake.waiting)

    store, slow = Store(tmp_path / "results.db"), f"{BACKEND}[sleep_s=0.2]"
    measure(
        store, fake, backends=(slow,), seeds=tuple(range(6)), measure="gradient", perform=pretend, notify=notify,
    )  # fmt: skip
    assert {(record.status, record.node) for record in store.records()} == {("ok", "first")}
    assert len(store.records()) == 6
    [reason] = [event.text for event in told if event.kind == "waiting"]
    assert "late gets no work: libraries.diffrax" in reason
    assert left
    assert all(fake.members["late"].node_id in task.selector for task in left)


def test_an_exception_ends_all_work_that_is_under_way(tmp_path, fake):
    """Whatever ends a command, nothing of it stays on the nodes or waits for one."""
    fake.add("first")

    def notify(event):
        if at_work(event, "first"):
            assert (len(fake.members["first"].tasks), len(fake.waiting)) == (1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(
            Store(tmp_path / "results.db"), fake, seeds=(0, 1, 2), measure="gradient", notify=notify,
            perform=until_its_node_is_lost,
        )  # fmt: skip
    assert (fake.members["first"].tasks, fake.waiting) == ([], [])


@pytest.fixture
def joined(fake, monkeypatch):
    """A fake cluster that commands can join, and their options for it.

    It has one node that does one thing at a time: launchers of workers are a process's, and fake nodes share one.
    """
    monkeypatch.setattr(connection, "probe", lambda _: None)
    fake.add("n0")
    return {"executor": "ray", "ray_address": fake.address}


def invoked(*arguments):
    """A command in this process, on the fake cluster."""
    return CliRunner().invoke(app, [*arguments, "--executor", "ray", "--ray-address", FakeRay.address])


def test_a_scaling_on_nodes(tmp_path, joined):
    """`scale` has its places measured on nodes, from the command line and from Python, and fits the same laws."""
    asked = {"backends": BACKEND, "tasks": TASK, "over": "batch", "values": [4, 8, 16], "rounds": 1}
    records, laws = api.scale(**asked, **joined, store=tmp_path / "there.db")
    assert {(record.status, record.node) for record in records} == {("ok", "n0")}
    _, here = api.scale(**asked, store=tmp_path / "here.db")
    assert [law.law for law in laws if law.quantity == "nfe"] == [law.law for law in here if law.quantity == "nfe"]
    given = ["-b", BACKEND, "-t", TASK, "--over", "batch", "--values", "4,8,16", "--rounds", "1", "--json"]
    done = invoked("scale", *given, "--store", str(tmp_path / "command.db"))
    assert done.exit_code == 0, done.output
    assert Store(tmp_path / "command.db").runs()[0].environment["executor"] == f"ray {ray.__version__}"


@pytest.mark.usefixtures("joined")
def test_a_reproduction_on_nodes(tmp_path, monkeypatch):
    """`reproduce` has its cells measured on nodes; what any node with this software has measured counts afterwards."""
    part = Part("training", (Request(tasks=(TASK,), models=("all",), backends=(BACKEND,), measure="training"),))
    monkeypatch.setattr(plans, "REPRODUCTIONS", {"fake": Reproduction("fake", "Fakes", "none.none", (part,))})
    told = []

    def page(source):
        told.append(source)
        return Document("a page", (), (), ())

    monkeypatch.setattr(reproductions, "page_of", page)
    given = ("reproduce", "fake", "--preset", "smoke", "--retries", "2", "-o", str(tmp_path / "page.md"))
    stored = ("--store", str(tmp_path / "r.db"))
    for _ in range(2):
        done = invoked(*given, *stored)
        assert done.exit_code == 0, done.output
    store = Store(tmp_path / "r.db")
    assert [(run.n_cells, run.environment["executor"]) for run in store.runs()] == [(2, f"ray {ray.__version__}")]
    assert {record.node for record in store.records()} == {"n0"}
    assert f"--executor ray --ray-address {FakeRay.address} --retries 2" in told[0].measuring
    # What another machine with this software has measured counts for a cluster, and not for this machine.
    key = store.save_environment({**fingerprint(), "cpu": "abacus"})
    for record in store.records():
        with store.transaction() as db:
            db.execute("UPDATE records SET environment = ? WHERE cell_id = ?", (key, record.cell_id))
    assert "0 of 2 cells to be measured" in invoked(*given, *stored, "--dry-run").output
    here = CliRunner().invoke(app, [*given[:4], *stored, "--dry-run"])
    assert "2 of 2 cells to be measured" in here.output


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: api.scale(backends=BACKEND, tasks=TASK, checkpoint_dir="here"), "a scaling trains nothing"),
        (lambda: api.scale(backends=BACKEND, tasks=TASK, retries=1), "`--retries` belongs to `--executor ray`"),
        (lambda: invoke("reproduce", "table2", "--retries", "1"), "`--retries` belongs to `--executor ray`"),
        (lambda: invoke("reproduce", "table2", "--executor", "slurm"), "unknown executor 'slurm'"),
        (lambda: invoke("reproduce", "table2", "--executor", "ray", "--no-run"), "`--no-run` measures nothing"),
        (lambda: ReproduceOptions(executor="ray", allow_mixed=True), "figures of one version of everything"),
        (lambda: RecommendOptions(run="latest", executor="ray"), "in turns on this machine"),
    ],
)
def test_what_an_executor_cannot_do_is_a_sentence(call, expected):
    """Each is refused before anything is joined or started."""
    with pytest.raises(UserError, match=expected):
        call()


def invoke(*arguments):
    CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_node_out_of_memory(tmp_path, three):
    """Work that Ray ends for want of memory is `oom` with its node, and is not tried again."""
    # The node takes itself to be full at the first thing that runs on it.
    full = {"env_vars": {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}}
    planned = plan(request_of(backends=(f"{BACKEND}[behaviour=hang]",), measure="gradient"))
    store, events = Store(tmp_path / "results.db"), []
    with ray_executor(on_ray(three), planned, QUICK, None) as ready, more(three, full=full):
        trusted = replace(ready.spec, inspected=ids("full"))
        worker = replace(ready, spec=trusted, unfit=ids("a", "b", "c"))
        Runner(store, QUICK, events.append, executor=worker).run(planned, "test", ready.environment)
    [record] = store.records()
    assert (record.status, record.node) == ("oom", "full")
    assert record.reason == "on node full: Ray ended its process because the node ran out of memory."
    assert not [event for event in events if event.kind == "lost"]


def test_a_node_says_what_it_has(capsys, monkeypatch):
    """The program that looks at a node answers in one line, of its devices only where it is asked for them."""
    monkeypatch.setattr(inspection, "frameworks", lambda: {"torch": "2.0, cpu"})
    for devices, expected in ((True, {"torch": "2.0, cpu"}), (False, {})):
        requirements = Requirements("/", None, ("nosuch:Backend",), ((TASK, "smoke", 0),), devices=devices)
        inspection.main(json.dumps(asdict(requirements)))
        found = json.loads(capsys.readouterr().out)
        assert found["frameworks"] == expected
        assert found["data"] == {TASK: "fake"}
        assert [problem.partition(":")[0] for problem in found["problems"]] == ["backend `nosuch"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", "there is no Ray cluster at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", "is not taken: give HOST:PORT"),
        ("nowhere", "must be HOST:PORT or `auto`"),
    ],
)
def test_an_address_without_a_cluster(address, expected):
    """Each is an error in one sentence, and no Ray has been asked."""
    with pytest.raises(UserError, match=expected):
        probe(address)


@pytest.mark.parametrize(
    ("choices", "changes", "expected"),
    [
        ({}, {"device": "cuda"}, "no node of the cluster has one"),
        ({}, {"threads": 64}, "no node of the cluster has 64 CPUs"),
        ({"group_cpus": 3}, {}, "no node of the cluster has 3 CPUs"),
        ({"checkpoint_dir": "memory://here"}, {}, "the nodes do not share `--checkpoint-dir memory://here`: node a: "),
        ({"checkpoint_dir": "nosuch://x"}, {}, "`--checkpoint-dir nosuch://x` cannot be used"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_started(tmp_path, three, choices, changes, expected):
    """Each is an error in one sentence, and leaves no run behind."""
    store = Store(tmp_path / "results.db")
    with pytest.raises(UserError, match=expected):
        measure(store, three, choices=choices, **changes)
    assert store.runs() == []


def test_a_late_node_with_other_data_is_unfit():
    """Software alone does not make a node fit: one run is never of two data sets."""
    found = NodeInspection(fingerprint(), data={"mnist": "digits"})
    spec = RunSpec(QUICK, Requirements("/", None), software(fingerprint()), {"mnist": "mnist"}, frozenset())
    assert unfitness(found, spec) == "task `mnist` has digits there, mnist elsewhere"
    assert unfitness(found, replace(spec, expected_data=None)) == ""


def test_what_a_node_that_lacks_the_plugin_has_does_not_count(tmp_path, monkeypatch, fake):
    """With --allow-mixed what is asked for must be had by nodes that can do the work."""
    fake.add("bare", cpus=4)
    fake.add("fit", cpus=1)
    lacking = {"bare": NodeInspection(fingerprint(), ("it lacks something",)), "fit": NodeInspection(fingerprint())}
    monkeypatch.setattr(nodes, "inspect", lambda nodes, _: {node.node_id: lacking[node.name] for node in nodes})
    with pytest.raises(UserError, match=r"no node of the cluster has 2 CPUs \(fit: 1 CPUs"):
        measure(Store(tmp_path / "results.db"), fake, choices={"allow_mixed": True}, threads=2)


def test_a_cluster_of_another_ray(three):
    """Its version is named beside ours."""
    with connected_once(three.address):
        client = ray._private.worker.global_worker.gcs_client
    kept = client.internal_kv_get(b"CLUSTER_METADATA", b"cluster")
    other = json.dumps(json.loads(kept) | {"ray_version": "2.1.0"}).encode()
    client.internal_kv_put(b"CLUSTER_METADATA", other, overwrite=True, namespace=b"cluster")
    try:
        with pytest.raises(UserError, match=rf"Version mismatch.*Ray: 2\.1\.0.*Ray: {ray.__version__}"):
            probe(three.address)
    finally:
        client.internal_kv_put(b"CLUSTER_METADATA", kept, overwrite=True, namespace=b"cluster")


def test_without_an_address_ray_is_our_own(tmp_path):
    """A Ray of this machine, which ends with the command; RAY_ADDRESS names another one and is not asked."""
    arguments = [*COMMAND, "--store", str(tmp_path / "results.db"), "-b", BACKEND, "-t", TASK, "--json"]
    driver = subprocess.run(
        [sys.executable, "-m", "nodebench", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        check=False,
        timeout=200,
    )
    assert driver.returncode == 0, driver.stderr
    [record] = json.loads(driver.stdout)
    assert record["status"] == "ok"
    assert record["metric_value"] is not None
    assert Path(tmp_path / "checkpoints").exists() is False or not list((tmp_path / "checkpoints").glob("*/*"))


def test_ray_is_an_extra(monkeypatch):
    """Without it the command says how to install it, and nothing else needs it."""
    from nodebench.bench.executors import ray as ray_folder

    monkeypatch.setattr(ray_folder, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'nodebench\[cluster\]'"):
        ray_folder.require_ray()
    code = "import sys, nodebench.cli, nodebench.bench.runner, nodebench.progress; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cores_are_lent_to_one_at_a_time():
    """Work of one node has cores of its own; who asks for more than there are keeps to none."""
    everything = available_cores()
    node = f"test-{os.getpid()}"
    with claimed(node, 1) as first:
        assert available_cores() == list(first)
    assert available_cores() == everything
    with claimed(node, len(everything)) as all_of_them:
        assert list(all_of_them) == everything
        with claimed(node, 1) as none:
            assert none is None
        with claimed(f"{node}-other", 1) as other:
            assert len(other) == 1
    with claimed(node, len(everything) + 1) as too_many:
        assert too_many is None
