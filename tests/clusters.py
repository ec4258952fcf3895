"""Ray clusters of several nodes on this machine, for tests."""

import os
import sys
import time
from contextlib import contextmanager

import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from nodebench import registry
from nodebench.bench.work import TrainingWork

OBJECTS = 80 * 2**20

HEALTH_CHECK_MS = 300
"""How often the head sees whether a node is alive; after five times in vain it is not."""

# As a node is told to be started; Ray's processes take it from what starts them.
os.environ.setdefault("RAY_worker_niceness", "0")


@contextmanager
def cluster_of(*names, cpus=2, head_cpus=0, **options):
    """A head and a node of each name; nodes take their options by `add`."""
    head = {
        "num_cpus": head_cpus,
        "include_dashboard": False,
        "node_name": "head",
        "object_store_memory": OBJECTS,
        "_system_config": {"health_check_period_ms": HEALTH_CHECK_MS, "health_check_initial_delay_ms": 0},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = {name: add(cluster, name, cpus=cpus, **options) for name in names}
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def add(cluster, name, cpus=2, **options):
    """One more node."""
    return cluster.add_node(num_cpus=cpus, node_name=name, object_store_memory=OBJECTS, **options)


def pretend(work, machine):
    """Take as long as work would, and measure nothing.

    A group takes the sum of its backends' option `sleep_s`, a training the option `train_sleep_s` of its task, in
    seconds, as those of `nodebench.testing`.
    """
    del machine
    cells = [outcome.cell for outcome in work.outcomes]
    names = [cell.task if isinstance(work, TrainingWork) else cell.backend or "" for cell in cells]
    option = "train_sleep_s" if isinstance(work, TrainingWork) else "sleep_s"
    time.sleep(sum(float(registry.parse(name)[1].get(option, 0.0)) for name in names))
    return work.outcomes


def clocked(work, machine):
    """Pretend to do work, and note when and where, on the clock that all nodes of this machine share."""
    began = time.monotonic()
    outcomes = pretend(work, machine)
    note = f"{type(work).__name__} {machine.node} {began} {time.monotonic()}"
    return tuple(outcome.noted(note) for outcome in outcomes)


def at_once(records):
    """For each beginning of clocked work, the kinds of what was then at work on its node."""
    spans = {tuple(note.split()) for record in records for note in record.notes}

    def kinds(node, at):
        at_work = (span for span in spans if span[1] == node and float(span[2]) <= at < float(span[3]))
        return [kind for kind, *_ in at_work]

    return [kinds(node, float(began)) for _, node, began, _ in spans]


# Nodes do not have this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
