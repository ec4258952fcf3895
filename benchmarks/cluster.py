"""What a Ray cluster costs and what it gains: the driver's time per cell, and the wall time of a matrix by nodes.

    python benchmarks/cluster.py driver     # a thousand cells of 10 ms: under a minute
    python benchmarks/cluster.py nodes [S]  # a matrix on 1 to 64 nodes, S seconds each: 12 take six minutes, 60 fifteen

Ray, executor, runner and store are the real ones; the work only passes time. `driver` counts what the thread that
hands out the work does itself: submitting, taking results, building records, writing the store. Waiting is not
counted.

`nodes` takes 7 backends, 3 tasks, 5 tolerances and 5 seeds: 75 groups of 7 cells that take turns, then 525 trainings.
How long each is comes from measured runs, see `Lengths`. Nodes of one CPU are logical CPUs of a single Ray node, of
which the rest is reserved. Nodes of four CPUs are Ray nodes of their own, eight at most; beyond, and for the preset
`paper`, there is only the model `modelled`, whose figures stand beside the measured ones.
"""

import logging
import pkgutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps
from heapq import heappop, heappush
from pathlib import Path
from unittest import mock

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from nodebench import registry
from nodebench.bench.executors.ray.executor import RayExecutor, ray_executor
from nodebench.bench.executors.ray.inspection import NodeInspection, Requirements
from nodebench.bench.executors.ray.nodes import ClusterInspection, alive_nodes
from nodebench.bench.executors.ray.remote import RunSpec
from nodebench.bench.matrix import Request, plan
from nodebench.bench.plan import Cell, Plan
from nodebench.bench.request import BUDGETS_S, ExecutorOptions, Settings
from nodebench.bench.runner import Runner
from nodebench.bench.work import AbstractWork, CellResult, GroupWork, MachineContext
from nodebench.results import machine
from nodebench.results.store import Store
from nodebench.tasks.base import AbstractTask

N_CELLS = 1000
SLEEP_S = 0.01

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"

BACKENDS = ("direct", "adjoint", "checkpoint", "symplectic", "interpolated", "torchdiffeq", "torchdiffeq-adjoint")
RTOLS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SEEDS = tuple(range(5))

TRAINED = ("cnf", "mnist", "spiral")
"""The tasks, in the order of `--task all`."""

EVALUATIONS = {
    "cnf": {1e-2: 13, 1e-3: 13, 1e-4: 13, 1e-5: 19, 1e-6: 19},
    "mnist": {1e-2: 25, 1e-3: 31, 1e-4: 43, 1e-5: 73, 1e-6: 145},
    "spiral": {1e-2: 10, 1e-3: 10, 1e-4: 16, 1e-5: 25, 1e-6: 43},
}
"""Forward evaluations by tolerance: `nodebench run -b direct -t cnf,mnist,spiral --rtol ... --measure counts`."""

TIMES_DIRECT = {
    ("mnist", "checkpoint"): 1.33,
    ("mnist", "symplectic"): 1.60,
    ("mnist", "interpolated"): 0.97,
    ("spiral", "checkpoint"): 0.91,
    ("spiral", "symplectic"): 1.09,
    ("spiral", "interpolated"): 13.3,
}
"""Time of a gradient step relative to that of `direct` where the gallery has none. `spiral`: `nodebench run -b
direct,checkpoint,symplectic,interpolated -t spiral --measure gradient --rounds 4`; `mnist`: by the evaluations, counted
likewise, a product with the Jacobian taken for two."""

MNIST_TRAINED_ON = 55_000
"""Examples of an epoch of the preset `paper`, which takes them all but for those that validate."""

NODES = (1, 2, 4, 8, 16, 32, 64)
SEVERAL_CPUS = 4
MOST_RAYLETS = 8

PATIENT = {
    "idle_worker_killing_time_threshold_ms": 3_600_000,
    "worker_register_timeout_seconds": 600,
}
"""How Ray is set: a process that it ends and starts anew takes seconds where many nodes share a few cores."""

WARM_UP_S = 0.5
"""Length of the work of the first run, per worker that it must see started, in seconds."""


def main(part: str, run_s: str = "12") -> None:
    """Print the tables of a part."""
    if part == "driver":
        print_driver()
    else:
        print_nodes(float(run_s))


@contextmanager
def cluster_of(n_nodes: int, cpus: int) -> Iterator[Cluster]:
    """A Ray cluster on this machine, whose head takes no work."""
    memory = {"object_store_memory": 80 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": PATIENT, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for n in range(n_nodes):
            cluster.add_node(num_cpus=cpus, node_name=f"node {n}", **memory)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class Watch:
    """Time that one thread spends in some functions; what they call of each other counts once."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self._depth = 0

    @contextmanager
    def over(self, *names: str) -> Iterator["Watch"]:
        """Watch functions, each named `module:Class.function`."""
        with ExitStack() as patches:
            for name in names:
                watched = self._watched(pkgutil.resolve_name(name))
                patches.enter_context(mock.patch(name.replace(":", "."), watched))
            yield self

    def _watched(self, function: Callable) -> Callable:
        @wraps(function)
        def call(*args, **kwargs):
            self._depth += 1
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.wall_s += time.perf_counter() - wall
                    self.cpu_s += time.thread_time() - cpu

        return call


Chains = Sequence[tuple[float, Sequence[float]]]
"""Length of each group and of the trainings that follow from it."""

DISPATCH = "nodebench.bench.executors.ray.executor:_Dispatcher"
STORE = "nodebench.results.store:Store"
SENDING = (f"{DISPATCH}._send",)
ALL = (*SENDING, f"{DISPATCH}._settle", "nodebench.bench.executors.ray.tracking:Tracker.poll")
RECORDING = ("nodebench.bench.runner:record_of",)
STORING = (f"{STORE}.append", f"{STORE}.save_environment", f"{STORE}.start_run", f"{STORE}.finish_run")


def pass_briefly(work: AbstractWork, machine_context: MachineContext) -> tuple[CellResult, ...]:
    """Work of `driver`: pass a few milliseconds and measure nothing."""
    del machine_context
    time.sleep(SLEEP_S)
    return work.outcomes


def print_driver() -> None:
    """The driver's time per cell, and whether each cell has its row."""
    backend, task = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
    request = Request(backends=(backend,), tasks=(task,), seeds=tuple(range(N_CELLS)), measure="gradient")
    planned, settings = plan(request), Settings()
    with cluster_of(3, cpus=2) as cluster, tempfile.TemporaryDirectory() as folder, ExitStack() as watches:
        store = Store(Path(folder) / "results.db")
        options = ExecutorOptions(executor="ray", ray_address=cluster.address, group_cpus=1)
        ready = watches.enter_context(ray_executor(options, planned, settings, None))
        executor = replace(ready, spec=replace(ready.spec, perform=pass_briefly))
        runner = Runner(store, settings, lambda _: None, executor=executor)
        whole, sending, recording, storing = (
            watches.enter_context(Watch().over(*names)) for names in (ALL, SENDING, RECORDING, STORING)
        )
        wall, cpu, process = time.perf_counter(), time.thread_time(), time.process_time()
        run_id = runner.run(planned, "benchmark", ready.environment)
        wall, cpu, process = time.perf_counter() - wall, time.thread_time() - cpu, time.process_time() - process
        rows = Counter(record.cell_id for record in store.records([run_id], all_attempts=True))
    once = rows == Counter(cell.cell_id for cell in planned.cells)
    print(f"{N_CELLS} cells of {1e3 * SLEEP_S:g} ms in {wall:.1f} s; each in the store exactly once: {once}\n")
    print("| the driver's own thread, per cell | wall ms | CPU ms |\n|---|---|---|")
    for name, watch in (("sending", sending), ("building records", recording), ("store", storing), ("all", whole)):
        print(f"| {name} | {1e3 * watch.wall_s / N_CELLS:.2f} | {1e3 * watch.cpu_s / N_CELLS:.2f} |")
    print(f"| the thread from beginning to end | {1e3 * wall / N_CELLS:.2f} | {1e3 * cpu / N_CELLS:.2f} |")
    print(f"| the process, Ray's threads with it | | {1e3 * process / N_CELLS:.2f} |")


@dataclass(frozen=True)
class Lengths:
    """How long the parts of the matrix take, in seconds.

    Attributes:
        group: A group, by task. Its cells take turns, so that its length is the sum over them: for each cell what a
            cell had of the wall time of its group in the gallery, passes and timing budget included.
        training: A training, by task and backend, at the task's own tolerance.
        tolerance: By what factor a tolerance lengthens it, by task and tolerance.
    """

    group: Mapping[str, float]
    training: Mapping[tuple[str, str], float]
    tolerance: Mapping[tuple[str, float], float]

    def of(self, work: AbstractWork) -> float:
        """Length of work."""
        if isinstance(work, GroupWork):
            return self.group[work.cell.task]
        return self.of_training(work.cell)

    def of_training(self, cell: Cell) -> float:
        """Length of the training of a cell."""
        return self.training[cell.task, cell.backend] * self.tolerance[cell.task, cell.spec.rtol]

    def chains(self, planned: Plan) -> Chains:
        """Length of each group of a plan, and of the trainings that follow from it."""
        return [(self.group[cells[0].task], [self.of_training(cell) for cell in cells]) for cells in planned.groups]


def measured_lengths() -> Lengths:
    """The lengths of the preset `quick`, from the gallery's records."""
    names = ("paper", "gradient-step", "work-precision")
    trained, timed, precise = (Store(GALLERY / f"{name}.db", read_only=True) for name in names)
    train_s = {
        record.task: record.train_s for record in trained.records() if record.backend == "adjoint" and record.train_s
    }
    step_s = {(record.task, record.backend): record.step_s for record in timed.records()}
    cnf = {record.backend: record.step_s for record in precise.records() if record.rtol == 1e-5}
    ratios = {**TIMES_DIRECT, **{("cnf", name): cnf[name] / cnf["direct"] for name in cnf}}
    tasks = {task: registry.load("task", task, AbstractTask) for task in TRAINED}
    training, tolerance = {}, {}
    for task in TRAINED:
        for backend in BACKENDS:
            step = step_s.get((task, backend)) or step_s[task, "direct"] * ratios[task, backend]
            training[task, backend] = train_s[task] * step / step_s[task, "adjoint"]
        for rtol, n in EVALUATIONS[task].items():
            tolerance[task, rtol] = n / EVALUATIONS[task][tasks[task].spec.rtol]
    return Lengths(_group_lengths(timed), training, tolerance)


def _group_lengths(store: Store) -> dict[str, float]:
    """The groups ran one after the other: each lasted from the end of the one before it to its own."""
    run = store.runs()[0]
    records = store.records([run.run_id])
    ends = {record.task: datetime.fromisoformat(record.created_at) for record in records}
    sizes, began, found = Counter(record.task for record in records), datetime.fromisoformat(run.created_at), {}
    for task, end in ends.items():
        found[task] = (end - began).total_seconds() / sizes[task] * len(BACKENDS)
        began = end
    return found


def paper_lengths(lengths: Lengths) -> Lengths:
    """The lengths of the preset `paper`: its timing budget, and a training of as many more examples as it sees."""
    more_s = len(BACKENDS) * (BUDGETS_S["paper"] - BUDGETS_S["quick"])
    factors = {}
    for name in TRAINED:
        task = registry.load("task", name, AbstractTask)
        paper, quick = (_examples(task, preset) for preset in ("paper", "quick"))
        factors[name] = paper / quick
    training = {(task, backend): length * factors[task] for (task, backend), length in lengths.training.items()}
    return replace(lengths, group={task: s + more_s for task, s in lengths.group.items()}, training=training)


def _examples(task: AbstractTask, preset: str) -> int:
    recipe = task.recipe(task.default_model, preset)
    steps = recipe.steps_per_epoch or MNIST_TRAINED_ON // recipe.batch_size
    return recipe.epochs * steps * recipe.batch_size


@dataclass(frozen=True)
class Passing:
    """Work that passes the time that it would take, scaled."""

    lengths: Lengths
    scale: float
    least_s: float = 0.0

    def __call__(self, work: AbstractWork, site: MachineContext) -> tuple[CellResult, ...]:
        """Pass the time."""
        del site
        machine.SAMPLE_S = 0.0  # logical CPUs have no cores among which idle ones were worth looking for
        time.sleep(max(self.least_s, self.lengths.of(work) * self.scale))
        return work.outcomes


def modelled(chains: Chains, n_nodes: int, cpus: int) -> float:
    """Wall time if Ray did what it should and nothing took time but the work, in the unit of the lengths.

    A group takes a whole node, and is begun as soon as there is one, before any training; a training takes a CPU of the
    node with most free ones. Both begin in the order of their coming.
    """
    free, now = [cpus] * n_nodes, 0.0
    groups, trainings = deque(chains), deque()
    running: list[tuple[float, int, int, int, Sequence[float]]] = []
    n_begun = 0
    while groups or trainings or running:
        while True:
            node = max(range(n_nodes), key=free.__getitem__)
            if groups and free[node] == cpus:
                taken, (length, following) = cpus, groups.popleft()
            elif trainings and free[node]:
                taken, length, following = 1, trainings.popleft(), ()
            else:
                break
            free[node] -= taken
            n_begun += 1
            heappush(running, (now + length, n_begun, node, taken, following))
        now, _, node, taken, following = heappop(running)
        free[node] += taken
        trainings.extend(following)
    return now


def ideal(chains: Chains, n_nodes: int, cpus: int) -> float:
    """All work spread evenly over all CPUs, in the unit of the lengths."""
    return sum(cpus * group + sum(trainings) for group, trainings in chains) / (n_nodes * cpus)


def bound(chains: Chains, n_nodes: int, cpus: int) -> float:
    """What no placing undercuts: the ideal, and the longest training after its group, in the unit of the lengths."""
    return max(ideal(chains, n_nodes, cpus), *(group + max(trainings) for group, trainings in chains))


def longest_first(chains: Chains) -> Chains:
    """The groups whose own length and longest training come to most begin first."""
    return sorted(chains, key=lambda chain: -chain[0] - max(chain[1]))


@dataclass(frozen=True)
class Bench:
    """A Ray cluster on which the matrix is run in scaled time.

    Attributes:
        planned: The matrix.
        lengths: Of its parts.
        n_nodes: Nodes it has.
        cpus: CPUs of a node.
    """

    planned: Plan
    lengths: Lengths
    n_nodes: int
    cpus: int

    def warm_up(self) -> None:
        """See all of Ray's processes started: as many trainings at once as there are CPUs."""
        n = self.n_nodes * self.cpus
        self._wall_s(Plan(self.planned.cells[:n], "training"), Passing(self.lengths, 0.0, WARM_UP_S * n))

    def wall_s(self, n_nodes: int, scale: float) -> float:
        """Wall time of the matrix on some of the nodes, in real seconds."""
        with self._reserved(n_nodes):
            return self._wall_s(self.planned, Passing(self.lengths, scale))

    def _wall_s(self, planned: Plan, perform: Passing) -> float:
        nodes, settings = alive_nodes(), Settings()
        spec = RunSpec(
            settings,
            Requirements(str(Path.cwd()), None),
            expected=None,
            expected_data=None,
            inspected=frozenset(node.node_id for node in nodes),
            perform=perform,
        )
        cluster = ClusterInspection(nodes, {node.node_id: NodeInspection({}) for node in nodes}, {})
        executor = RayExecutor(spec, cluster, self.cpus, retries=0, shares_checkpoints=False)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "results.db")
            began = time.perf_counter()
            run_id = Runner(store, settings, lambda _: None, executor=executor).run(planned, "benchmark", {})
            wall_s = time.perf_counter() - began
            statuses = Counter(record.status for record in store.records([run_id]))
        if statuses != {"ok": len(planned.cells)}:
            sys.exit(f"{len(planned.cells)} cells should be ok, but the store has {dict(statuses)}")
        return wall_s

    @contextmanager
    def _reserved(self, n_nodes: int) -> Iterator[None]:
        """Keep the other nodes from taking work."""
        others = self.n_nodes - n_nodes
        if not others:
            yield
            return
        if self.cpus == 1:
            group = placement_group([{"CPU": others}])
        else:
            group = placement_group([{"CPU": self.cpus}] * others, strategy="STRICT_SPREAD")
        ray.get(group.ready())
        try:
            yield
        finally:
            remove_placement_group(group)


def print_nodes(run_s: float) -> None:
    """The wall time of the matrix by nodes, of one CPU and of several."""
    lengths = measured_lengths()
    request = Request(backends=BACKENDS, tasks=TRAINED, rtols=RTOLS, seeds=SEEDS, preset="quick", measure="both")
    planned = plan(request)
    for line in _told(lengths, planned):
        print(line)
    chains = lengths.chains(planned)
    for cpus, most in ((1, max(NODES)), (SEVERAL_CPUS, MOST_RAYLETS)):
        # Nodes of one CPU are the CPUs of one node.
        with cluster_of(*((1, most) if cpus == 1 else (most, cpus))) as cluster:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            bench = Bench(planned, lengths, most, cpus)
            bench.warm_up()
            shortest = ", ".join(f"{bench.wall_s(n, 0.0):.1f} s on {n}" for n in (1, most))
            print(f"\nPreset quick, CPUs of a node: {cpus}. With work of no length: {shortest}\n\n{HEAD}", flush=True)
            for n in NODES:
                print(_row(bench, chains, n, run_s), flush=True)
    print(f"\nPreset paper, nodes of {SEVERAL_CPUS} CPUs, the model alone\n")
    chains = paper_lengths(lengths).chains(planned)
    print(HEAD, *(_figures(chains, n, SEVERAL_CPUS) for n in NODES), sep="\n")


HEAD = """| nodes | measured h | model h | ideal h | bound h | efficiency | model, longest first h | a minute is |
|---|---|---|---|---|---|---|---|"""


def _row(bench: Bench, chains: Chains, n_nodes: int, run_s: float) -> str:
    if n_nodes > bench.n_nodes:
        return _figures(chains, n_nodes, bench.cpus)
    scale = run_s / modelled(chains, n_nodes, bench.cpus)
    return _figures(chains, n_nodes, bench.cpus, bench.wall_s(n_nodes, scale), scale)


def _figures(
    chains: Chains, n_nodes: int, cpus: int, wall_s: float | None = None,
    scale: float = 1.0,
) -> str:  # fmt: skip
    model, least = modelled(chains, n_nodes, cpus), ideal(chains, n_nodes, cpus)
    taken = model if wall_s is None else wall_s / scale
    hours = " | ".join(f"{s / 3600:.2f}" for s in (model, least, bound(chains, n_nodes, cpus)))
    measured, minute = ("", "") if wall_s is None else (f"{taken / 3600:.2f}", f"{6e4 * scale:.1f} ms")
    sorted_h = modelled(longest_first(chains), n_nodes, cpus) / 3600
    return f"| {n_nodes} | {measured} | {hours} | {least / taken:.0%} | {sorted_h:.2f} | {minute} |"


def _told(lengths: Lengths, planned: Plan) -> Iterator[str]:
    """What the lengths are."""
    yield f"{len(planned.groups)} groups, {len(planned.cells)} trainings; lengths in seconds"
    for task in TRAINED:
        trainings = ", ".join(f"{backend} {lengths.training[task, backend]:.0f}" for backend in BACKENDS)
        factors = ", ".join(f"{rtol:g} x{lengths.tolerance[task, rtol]:.2f}" for rtol in RTOLS)
        yield f"{task}: group {lengths.group[task]:.0f}; training {trainings}; by tolerance {factors}"


if __name__ == "__main__":
    main(*sys.argv[1:])
