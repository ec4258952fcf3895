"""Ray clusters of several nodes on this machine, for tests."""

from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

OBJECTS = 80 * 2**20


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
