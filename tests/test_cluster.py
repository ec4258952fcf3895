"""The same matrix on a Ray cluster: real Ray, several nodes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from clusters import add, clocked, cluster_of, most_at_once  # noqa: E402

from nodebench.bench.machine import available_cores, fingerprint  # noqa: E402
from nodebench.bench.matrix import Request, plan  # noqa: E402
from nodebench.bench.runner import Runner  # noqa: E402
from nodebench.bench.settings import Settings  # noqa: E402
from nodebench.bench.work import GroupWork, TrainingWork  # noqa: E402
from nodebench.cluster import executor  # noqa: E402
from nodebench.cluster import session as session_module  # noqa: E402
from nodebench.cluster.choices import Choices  # noqa: E402
from nodebench.cluster.connection import connected  # noqa: E402
from nodebench.cluster.cores import claimed  # noqa: E402
from nodebench.cluster.errand import Errand, unfitness  # noqa: E402
from nodebench.cluster.executor import needs  # noqa: E402
from nodebench.cluster.inspection import Inspection, Question  # noqa: E402
from nodebench.cluster.nodes import alive_nodes, software  # noqa: E402
from nodebench.cluster.rehearsal import rehearse  # noqa: E402
from nodebench.cluster.session import session  # noqa: E402
from nodebench.cluster.simulation import pretend  # noqa: E402
from nodebench.errors import UserError  # noqa: E402
from nodebench.results.store import Store  # noqa: E402

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
QUICK = Settings(rounds=1, timeout_s=60)
COMMAND = [sys.executable, "-m", "nodebench.cli", "run", "--preset", "smoke", "--rounds", "1", "--executor", "ray"]

pytestmark = [
    # Ray leaves sockets and files of its own to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def three():
    """A cluster of three nodes with two CPUs each, and a head that takes no work."""
    with cluster_of("a", "b", "c") as (cluster, _):
        yield cluster


def request_of(**changes):
    return Request(**{"backends": (BACKEND,), "tasks": (TASK,), "preset": "smoke", **changes})


rehearsed = cache(rehearse)
"""A cluster that could be joined once can be joined again."""

SEEN = {}
"""What nodes were found to have, by their ids."""


def inspected_once(nodes, question, inspect=session_module.inspect):
    """Nodes are looked at by the first test that works on them; another question is answered by what was found then."""
    key = frozenset(node.node_id for node in nodes)
    if key not in SEEN:
        SEEN[key] = inspect(nodes, question)
        return SEEN[key]
    data = {task: "fake" for task, *_ in question.tasks}
    return {node_id: replace(found, data=data) for node_id, found in SEEN[key].items()}


@pytest.fixture(autouse=True)
def _nodes_are_inspected_once(monkeypatch):
    monkeypatch.setattr(session_module, "inspect", inspected_once)


def measure(store, cluster, *, continuation="new", perform=None, notify=None, choices=None, **changes):
    """Run a request on a cluster into a store and return its records."""
    planned = plan(request_of(**changes))
    chosen = Choices(**{"address": cluster.address, **(choices or {})})
    rehearsed(chosen.address)
    with session(chosen, planned, QUICK, None) as ready:
        worker = ready.executor
        if perform is not None:
            worker = replace(worker, errand=replace(worker.errand, perform=perform))
        runner = Runner(store, QUICK, notify or (lambda _: None), executor=worker, checkpoint_dir=chosen.checkpoint_dir)
        run_id = runner.run(planned, "test", ready.environment, continuation)
    return store.records([run_id])


def test_a_matrix_over_three_nodes(tmp_path, three):
    """Groups go to all nodes and are never split; each record carries its node's fingerprint."""
    store, events = Store(tmp_path / "results.db"), []
    slow = f"{BACKEND}[sleep_s=0.01]"
    records = measure(store, three, backends=(BACKEND, slow), rtols=(1e-2, 1e-3, 1e-4), notify=events.append)
    assert [record.status for record in records] == ["ok"] * 6
    assert Counter(record.rtol for record in records) == {1e-2: 2, 1e-3: 2, 1e-4: 2}
    assert all(record.metric_value is not None for record in records)
    known = store.environments()
    for rtol in (1e-2, 1e-3, 1e-4):
        assert len({record.node for record in records if record.rtol == rtol}) == 1
    assert {record.node for record in records} == {"a", "b", "c"}
    assert {record.train_node for record in records} <= {"a", "b", "c"}
    assert {known[record.environment]["cpu"] for record in records} == {fingerprint()["cpu"]}
    states = [event.cluster for event in events if event.kind == "cluster"]
    assert {state.name for state in states[-1].nodes} >= {"a", "b", "c"}
    assert max(sum(bool(node.running) for node in state.nodes) for state in states) == 3
    assert sum(event.kind == "record" for event in events) == 6


def test_timed_cells_have_the_node_to_themselves(tmp_path, three):
    """No two groups are at work on one node; trainings share it."""
    timed = measure(
        Store(tmp_path / "groups.db"),
        three,
        backends=(f"{BACKEND}[sleep_s=0.3]",),
        seeds=tuple(range(6)),
        measure="gradient",
        perform=clocked,
    )
    assert len(timed) == 6
    assert most_at_once(timed) == 1
    trained = measure(
        Store(tmp_path / "trainings.db"),
        three,
        tasks=(f"{TASK}[train_sleep_s=0.5]",),
        models=("constant",),
        backends=(),
        seeds=tuple(range(9)),
        measure="training",
        perform=clocked,
    )
    assert len(trained) == 9
    assert most_at_once(trained) <= 2


def members(weights):
    """Everything in a file of torch's, by its place in it; its serialization id is drawn anew for each file."""
    with zipfile.ZipFile(BytesIO(weights)) as file:
        return [(name, file.read(name)) for name in file.namelist() if "serialization_id" not in name]


class WeightsStore(Store):
    """A store that takes the trained weights from the checkpoints, which are there until a record is."""

    def __init__(self, path):
        super().__init__(path)
        self.weights = {}

    def append(self, record, pictures=b""):
        [path] = self.path.parent.glob(f"checkpoints/*/{record.cell_id}")
        with zipfile.ZipFile(path) as checkpoint:
            self.weights[record.cell_id] = dict(members(checkpoint.read("weights")))
        super().append(record, pictures)


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


def test_no_more_at_work_than_there_are_cpus(tmp_path, three):
    """Work that begins lends its CPU to no other, however short it is and however much is queued."""
    timed = measure(
        Store(tmp_path / "results.db"),
        three,
        backends=(f"{BACKEND}[sleep_s=0.05]",),
        seeds=tuple(range(60)),
        measure="gradient",
        perform=clocked,
        choices={"group_cpus": 1},
    )
    assert len(timed) == 60
    assert most_at_once(timed) == 2


def test_here_and_there_the_same(tmp_path, three):
    """Counters, errors and trained weights of a cell do not depend on where it was measured."""
    pytest.importorskip("torch")
    changes = {"backends": ("direct", "adjoint"), "tasks": ("linear",)}
    local, remote = WeightsStore(tmp_path / "local" / "r.db"), WeightsStore(tmp_path / "remote" / "r.db")
    Runner(local, QUICK, lambda _: None).run(plan(request_of(**changes)), "test", fingerprint())
    measure(remote, three, choices={"checkpoint_dir": str(tmp_path / "remote" / "checkpoints")}, **changes)
    assert local.weights == remote.weights
    assert len(local.weights) == 2
    for here, there in zip(by_backend(local), by_backend(remote), strict=True):
        assert (here.status, there.status) == ("ok", "ok")
        for name in SAME:
            assert getattr(here, name) == getattr(there, name), name
        assert [without_time(entry) for entry in here.history] == [without_time(entry) for entry in there.history]


SAME = (
    "cell_id", "first_step", "loss", "grad_error_params", "grad_error_y0", "method_error_params", "method_error_y0",
    "forward_error", "reference", "nfe_forward", "nfe_backward", "n_vjps", "n_accepted", "n_rejected", "saved_bytes",
    "unreleased_bytes", "peak_memory_bytes", "n_params", "metric_value", "diagnostics", "train_steps", "epochs",
)  # fmt: skip


def by_backend(store):
    return sorted(store.records(), key=lambda record: record.backend)


def without_time(entry):
    return {name: value for name, value in entry.items() if name != "train_s"}


def at_work(event, name):
    """Whether an event shows work on a node."""
    return event.kind == "cluster" and any(node.name == name and node.running for node in event.cluster.nodes)


def progress_in(folder):
    """How far the only training is that has a checkpoint in a folder; None where there is none yet."""
    for path in folder.glob("*/*"):
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as checkpoint:
            return json.loads(checkpoint.read("progress.json"))
    return None


def test_a_training_goes_on_elsewhere(tmp_path):
    """A node killed in the midst of a training costs nothing but time: it goes on from its checkpoint."""
    task, folder = f"{TASK}[train_sleep_s=0.1]", tmp_path / "checkpoints"
    kept, told = [], []
    with cluster_of("first", cpus=1) as (cluster, nodes):

        def notify(event):
            told.append(event)
            progress = progress_in(folder)
            if not kept and progress and progress["epoch"] == 1:
                kept.append(progress)
                cluster.remove_node(nodes["first"], allow_graceful=False)
                add(cluster, "second", cpus=1)

        store, choices = Store(tmp_path / "results.db"), {"checkpoint_dir": str(folder)}
        [record] = measure(store, cluster, tasks=(task,), measure="training", choices=choices, notify=notify)
    assert (record.status, record.node, record.attempt) == ("ok", "second", 1)
    assert "it went on from its checkpoint after first had been lost at work on it" in record.notes
    assert [event.text for event in told if event.kind == "lost"] == ["first was lost; retry 1 of 3"]
    # The first epoch's time is that of the node that is gone: it was not trained again.
    assert record.history[0]["train_s"] == kept[0]["history"][0]["train_s"]
    assert not list(folder.glob("*/*"))
    undisturbed = Store(tmp_path / "undisturbed.db")
    planned = plan(request_of(tasks=(task,), measure="training"))
    Runner(undisturbed, QUICK, lambda _: None).run(planned, "test", fingerprint())
    [fresh] = undisturbed.records()
    assert record.metric_value == fresh.metric_value
    assert [without_time(entry) for entry in record.history] == [without_time(entry) for entry in fresh.history]


def test_a_cell_that_takes_its_node_down_is_given_up(tmp_path):
    """Work is tried anew as often as was said; then its cells have failed, with the names of the nodes."""
    with cluster_of("n0", cpus=1) as (cluster, nodes):

        def notify(event):
            name = f"n{len(nodes) - 1}"
            if at_work(event, name):
                cluster.remove_node(nodes[name], allow_graceful=False)
                following = f"n{len(nodes)}"
                nodes[following] = add(cluster, following, cpus=1)

        hanging = f"{BACKEND}[behaviour=hang]"
        records = measure(
            Store(tmp_path / "results.db"),
            cluster,
            backends=(hanging, BACKEND),
            measure="gradient",
            choices={"retries": 1},
            notify=notify,
        )
    assert [(record.status, record.node) for record in records] == [("failed", "n1")] * 2
    assert {record.reason for record in records} == {"on node n1: it was lost in each of 2 attempts, with n0, n1."}
    assert "the node it was running on is dead" in records[0].stderr
    known = Store(tmp_path / "results.db").environments()
    assert known[records[0].environment]["cpu"] == fingerprint()["cpu"]


def test_the_last_node_is_gone(tmp_path, monkeypatch):
    """A run waits for a node to join and says so, instead of ending or of saying nothing."""
    monkeypatch.setattr(executor, "IDLE_S", 2.0)
    told = []
    with cluster_of("first", cpus=1) as (cluster, nodes):

        def notify(event):
            told.append(event)
            if len(nodes) == 1 and at_work(event, "first"):
                cluster.remove_node(nodes["first"], allow_graceful=False)
                nodes["second"] = None
            if event.kind == "waiting" and nodes["second"] is None:
                nodes["second"] = add(cluster, "second", cpus=1)

        store, slow = Store(tmp_path / "results.db"), f"{BACKEND}[sleep_s=3]"
        [record] = measure(store, cluster, backends=(slow,), measure="gradient", perform=pretend, notify=notify)
    assert (record.status, record.node) == ("ok", "second")
    expected = "no node of the cluster can do what is left; waiting for one to join"
    assert {event.text for event in told if event.kind == "waiting"} == {expected}


def before(folder):
    """The environment of a process that looks for modules in a folder first."""
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


@pytest.fixture
def other_diffrax(tmp_path):
    """The environment of a node that seems to have another version of a library."""
    fake = tmp_path / "site" / "diffrax-9.9.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: diffrax\nVersion: 9.9\n")
    return before(tmp_path / "site")


def start(store, cluster, *arguments, **environment):
    return subprocess.Popen(
        [*COMMAND, "--store", str(store), "--ray-address", cluster.address, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )


def test_a_killed_driver_is_resumed(tmp_path, three):
    """What had ended is in the store; `--resume` does the rest, and nothing twice."""
    path = tmp_path / "results.db"
    task = f"{TASK}[train_sleep_s=0.05]"
    arguments = ["-b", BACKEND, "-t", task, "--seed", ",".join(map(str, range(8))), "--measure", "training"]
    driver = start(path, three, *arguments)
    for line in driver.stdout:
        if line.startswith("[2/8]"):
            break
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    before = Store(path).records()
    assert 2 <= len(before) < 8
    resumed = start(path, three, *arguments, "--resume")
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert f"{len(before)} done already" in output
    after = Store(path).records(all_attempts=True)
    assert len(after) == 8
    assert {record.seed for record in after} == set(range(8))
    assert all(record in after for record in before)
    assert len(Store(path).runs()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_says_how_to_go_on(tmp_path, three, number):
    """Ctrl-C, or a cluster's own SIGTERM, ends the work on the nodes and leaves a store to resume from."""
    driver = start(tmp_path / "results.db", three, "-b", f"{BACKEND}[behaviour=hang]", "-t", TASK)
    for line in driver.stdout:
        if "done already" in line:
            break
    time.sleep(3)
    driver.send_signal(number)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "--resume" in output
    assert Store(tmp_path / "results.db").records() == []


@pytest.mark.usefixtures("three")
def test_the_cluster_of_this_machine_is_found():
    """`auto` stands for the cluster that this machine belongs to; of several for one of them."""
    rehearse("auto")
    with connected("auto"):
        assert alive_nodes()


def test_two_drivers_share_a_cluster(tmp_path, three):
    """Two commands at once, into one store: each has all of its records."""
    path = tmp_path / "results.db"
    drivers = [start(path, three, "-b", BACKEND, "-t", TASK, "--seed", seeds) for seeds in ("0,1", "2,3")]
    outputs = [driver.communicate(timeout=200)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    store = Store(path)
    assert len(store.runs()) == 2
    assert sorted(record.seed for record in store.records()) == [0, 1, 2, 3]
    assert {record.status for record in store.records()} == {"ok"}


def test_a_worker_out_of_memory(tmp_path, three):
    """A refused allocation is `oom`, with what was asked for, as it is on one machine."""
    [record] = measure(
        Store(tmp_path / "results.db"), three, backends=(f"{BACKEND}[behaviour=memory]",), measure="gradient"
    )
    assert (record.status, record.requested_bytes) == ("oom", 2**62)


def test_a_node_out_of_memory(tmp_path):
    """Work that Ray ends for want of memory is `oom` with its node, and is not tried again."""
    # The node takes itself to be full at the first thing that runs on it.
    full = {"env_vars": {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}}
    with cluster_of("roomy", cpus=1) as (cluster, nodes):
        planned = plan(request_of(backends=(f"{BACKEND}[behaviour=hang]",), measure="gradient"))
        store, events = Store(tmp_path / "results.db"), []
        with session(Choices(address=cluster.address), planned, QUICK, None) as ready:
            cluster.remove_node(nodes["roomy"], allow_graceful=False)
            full_node = add(cluster, "full", cpus=1, **full)
            worker = replace(
                ready.executor, errand=replace(ready.executor.errand, inspected=frozenset({full_node.node_id}))
            )
            Runner(store, QUICK, events.append, executor=worker).run(planned, "test", ready.environment)
    [record] = store.records()
    assert (record.status, record.node) == ("oom", "full")
    assert record.reason == "on node full: Ray ended its process because the node ran out of memory."
    assert not [event for event in events if event.kind == "lost"]


@pytest.fixture
def plugin(tmp_path):
    """A folder with a backend that only those have who are given the folder."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    text = """
from nodebench.testing import FakeBackend

class Mine(FakeBackend):
    framework = "nodebench.testing:FakeFramework"
"""
    (folder / "only_some_have_it.py").write_text(text)
    return folder


def test_a_plugin_missing_on_a_node(tmp_path, plugin):
    """Before anything is started: refused with the node's name, or left out with --allow-mixed."""
    with cluster_of() as (cluster, _):
        for name in ("a", "b"):
            add(cluster, name, env_vars=before(plugin))
        add(cluster, "bare")
        path = tmp_path / "results.db"
        arguments = ("-b", "only_some_have_it:Mine", "-t", TASK, "--seed", "0,1,2", "--measure", "gradient")
        refused = start(path, cluster, *arguments, **before(plugin))
        output, _ = refused.communicate(timeout=100)
        assert refused.returncode == 2
        assert "node bare: backend `only_some_have_it:Mine`" in output
        assert "--allow-mixed" in output
        assert Store(path).runs() == []
        mixed = start(path, cluster, *arguments, "--allow-mixed", **before(plugin))
        output, _ = mixed.communicate(timeout=200)
        assert mixed.returncode == 0, output
    assert {record.node for record in Store(path).records()} <= {"a", "b"}
    assert [record.status for record in Store(path).records()] == ["ok"] * 3


def test_a_node_of_another_version(tmp_path, other_diffrax):
    """It is named before anything is started, by `run` and by `doctor`; with --allow-mixed it works along."""
    with cluster_of("new") as (cluster, _):
        add(cluster, "old", env_vars=other_diffrax)
        expected = r"node old: libraries\.diffrax: .* here, 9\.9 there"
        with pytest.raises(UserError, match=expected):
            measure(Store(tmp_path / "results.db"), cluster)
        records = measure(
            Store(tmp_path / "results.db"), cluster, seeds=(0, 1), measure="gradient", choices={"allow_mixed": True}
        )
        doctor = [
            sys.executable,
            "-m",
            "nodebench.cli",
            "doctor",
            "--executor",
            "ray",
            "--ray-address",
            cluster.address,
        ]
        done = subprocess.run([*doctor, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert [node["name"] for node in found["nodes"]] == ["new", "old"]
    assert found["nodes"][1]["environment"]["libraries"]["diffrax"] == "9.9"
    assert [text.partition(":")[0] for text in found["differences"]] == ["node old"]
    known = Store(tmp_path / "results.db").environments()
    versions = {record.node: known[record.environment]["libraries"]["diffrax"] for record in records}
    assert set(versions) == {"new", "old"}
    assert versions["old"] == "9.9"


def test_a_late_node_is_looked_at(tmp_path, other_diffrax):
    """A node that joins after the beginning and has other versions gets no work, and the run ends all the same."""
    told, late = [], []
    with cluster_of("first", cpus=1) as (cluster, _):

        def notify(event):
            told.append(event)
            if not late and at_work(event, "first"):
                late.append(add(cluster, "late", cpus=1, env_vars=other_diffrax))

        store = Store(tmp_path / "results.db")
        measure(store, cluster, seeds=tuple(range(6)), measure="gradient", notify=notify)
    assert {(record.status, record.node) for record in store.records()} == {("ok", "first")}
    assert len(store.records()) == 6
    [reason] = [event.text for event in told if event.kind == "waiting"]
    assert "late gets no work: libraries.diffrax" in reason


def test_a_thousand_cells_each_exactly_once(tmp_path, three):
    """Cells of ten milliseconds: every row is there once, whichever node it came from."""
    backend = f"{BACKEND}[sleep_s=0.01]"
    store = Store(tmp_path / "results.db")
    records = measure(
        store, three, backends=(backend,), seeds=tuple(range(1000)), measure="gradient", perform=pretend,
        choices={"group_cpus": 1},
    )  # fmt: skip
    assert len(records) == 1000
    assert {record.seed for record in records} == set(range(1000))
    assert len(store.records(all_attempts=True)) == 1000
    assert {record.node for record in records} == {"a", "b", "c"}


def test_a_wrong_request_ends_the_run(tmp_path, three):
    """What a worker finds wrong with the request itself is told as it is on one machine."""
    with pytest.raises(UserError, match="larger than the training data"):
        measure(Store(tmp_path / "results.db"), three, batch_size=100, measure="training")


@pytest.mark.parametrize(
    ("choices", "changes", "expected"),
    [
        ({"address": "127.0.0.1:1"}, {}, "there is no Ray cluster at 127.0.0.1:1"),
        ({"address": "ray://127.0.0.1:1"}, {}, "is not taken: give HOST:PORT"),
        ({"address": "nowhere"}, {}, "must be HOST:PORT or `auto`"),
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
    found = Inspection(fingerprint(), data={"mnist": "digits"})
    errand = Errand(QUICK, Question("/", None), software(fingerprint()), {"mnist": "mnist"}, frozenset())
    assert unfitness(found, errand) == "task `mnist` has digits there, mnist elsewhere"
    assert unfitness(found, replace(errand, expected_data=None)) == ""


def test_what_a_node_that_lacks_the_plugin_has_does_not_count(tmp_path, monkeypatch):
    """With --allow-mixed what is asked for must be had by nodes that can do the work."""
    with cluster_of("bare", cpus=4) as (cluster, _):
        add(cluster, "fit", cpus=1)
        real = session_module.inspect

        def inspect(nodes, question):
            found = real(nodes, question)
            bare = next(node.node_id for node in nodes if node.name == "bare")
            return found | {bare: replace(found[bare], problems=("it lacks something",))}

        monkeypatch.setattr(session_module, "inspect", inspect)
        with pytest.raises(UserError, match=r"no node of the cluster has 2 CPUs \(fit: 1 CPUs"):
            measure(Store(tmp_path / "results.db"), cluster, choices={"allow_mixed": True}, threads=2)


def test_a_cluster_of_another_ray(tmp_path):
    """Its version is named beside ours."""
    with cluster_of("a") as (cluster, _):
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        client = ray._private.worker.global_worker.gcs_client
        metadata = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
        other = json.dumps(metadata | {"ray_version": "2.1.0"}).encode()
        client.internal_kv_put(b"CLUSTER_METADATA", other, overwrite=True, namespace=b"cluster")
        ray.shutdown()
        with pytest.raises(UserError, match=rf"Version mismatch.*Ray: 2\.1\.0.*Ray: {ray.__version__}"):
            measure(Store(tmp_path / "results.db"), cluster)


def test_without_an_address_ray_is_our_own(tmp_path):
    """A Ray of this machine, which ends with the command; RAY_ADDRESS names another one and is not asked."""
    driver = subprocess.run(
        [*COMMAND, "--store", str(tmp_path / "results.db"), "-b", BACKEND, "-t", TASK, "--json"],
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
    from nodebench import cluster

    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'nodebench\[cluster\]'"):
        cluster.require_ray()
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
