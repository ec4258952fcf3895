"""Ray clusters of several nodes on this machine, for tests."""

import os
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from nodebench.cluster.simulation import pretend

OBJECTS = 80 * 2**20

# As a node is told to be started; Ray's processes take it from what starts them.
os.environ.setdefault("RAY_worker_niceness", "0")


@contextmanager
def cluster_of(*names, cpus=2, head_cpus=0, **options):
    """A head and a node of each name; nodes take their options by `add`."""
    head = {"num_cpus": head_cpus, "include_dashboard": False, "node_name": "head", "object_store_memory": OBJECTS}
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


def clocked(work, site):
    """Pretend to do work, and note when it was done, on the clock that all nodes of this machine share."""
    began = time.monotonic()
    outcomes = pretend(work, site)
    note = f"{began} {time.monotonic()}"
    return tuple(replace(outcome, figures={**outcome.figures, "notes": [note]}) for outcome in outcomes)


def most_at_once(records):
    """How many of some clocked records were at work on one node at the same moment."""
    most = 0
    for node in {record.node for record in records}:
        spans = [tuple(map(float, record.notes[0].split())) for record in records if record.node == node]
        most = max([most, *(sum(began <= at < ended for began, ended in spans) for at, _ in spans)])
    return most


# Nodes do not have this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
