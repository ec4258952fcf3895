"""What a user chooses of a cluster; imports no Ray, so that what is wrong is told before anything is started."""

from dataclasses import dataclass

from nodebench.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user chooses of a cluster.

    Attributes:
        address: Its address, as `nodebench.cluster.connection.connected` takes it; None for a Ray of this machine.
        checkpoint_dir: Folder of training checkpoints that all nodes share, a path or URL as fsspec knows it. None for
            one beside the store where all work is done on this machine, and for none otherwise.
        group_cpus: CPUs that cells timed in turns have to themselves; None for as many as the smallest node has, or a
            GPU's share of them.
        retries: How often work is done again whose node was lost.
        allow_mixed: Whether nodes may have other versions; nodes that cannot do the work are then left out.

    Raises:
        UserError: If a number is out of its range.
    """

    address: str | None = None
    checkpoint_dir: str | None = None
    group_cpus: int | None = None
    retries: int = 3
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise UserError(f"`--retries` must not be negative; got {self.retries}.")
        if self.group_cpus is not None and self.group_cpus < 1:
            raise UserError(f"`--group-cpus` must be at least 1; got {self.group_cpus}.")
