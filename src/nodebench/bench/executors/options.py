"""Which executor does the work of a run, and how it uses a cluster."""

from dataclasses import dataclass

from nodebench.errors import UnknownNameError, UserError

EXECUTORS = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """Where the work is done.

    Attributes:
        executor: Where to measure: local, or ray for a cluster of machines.
        ray_address: HOST:PORT of the cluster's head, or `auto`; a Ray of this machine by default.
        checkpoint_dir: Folder of training checkpoints, a path or fsspec URL (default: beside the store, on a cluster
            none). All nodes of a cluster must share it.
        group_cpus: With ray: CPUs reserved for each timed group (default: those of the smallest node). With a GPU: its
            share of them.
        retries: With ray: retries of a cell after its node is lost (default: 3).
        allow_mixed: With ray: continue when nodes have other versions or lack something. Nodes that cannot do the work
            are then left out.

    Raises:
        UserError: If there is no such executor, a number is out of its range, or an option belongs to the other one.
    """

    executor: str = "local"
    ray_address: str | None = None
    checkpoint_dir: str | None = None
    group_cpus: int | None = None
    retries: int | None = None
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UnknownNameError("executor", self.executor, EXECUTORS)
        for_ray = {
            "--ray-address": self.ray_address is not None,
            "--group-cpus": self.group_cpus is not None,
            "--retries": self.retries is not None,
            "--allow-mixed": self.allow_mixed,
        }
        given = [option for option, is_given in for_ray.items() if is_given]
        if given and self.executor != "ray":
            raise UserError(f"`{given[0]}` belongs to `--executor ray`.")
        if self.retries is not None and self.retries < 0:
            raise UserError(f"`--retries` must not be negative; got {self.retries}.")
        if self.group_cpus is not None and self.group_cpus < 1:
            raise UserError(f"`--group-cpus` must be at least 1; got {self.group_cpus}.")
