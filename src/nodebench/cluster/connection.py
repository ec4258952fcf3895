"""A connection to a Ray cluster, or to a Ray of this machine alone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from nodebench.bench.machine import available_cores
from nodebench.errors import UserError

OBJECT_STORE_BYTES = 128 * 2**20
"""Room for objects in a Ray of our own: figures are small."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster.

    Args:
        address: As `nodebench.cluster.rehearsal.rehearse` has been told; None starts a Ray on this machine, which ends
            with the connection.

    Raises:
        UserError: If Ray cannot be started, or the cluster cannot be joined after all.
    """
    try:
        try:
            _start() if address is None else _join(address)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = "on this machine cannot be started" if address is None else f"at {address} cannot be joined"
            raise UserError(f"Ray {where}: {' '.join(str(error).split())}") from error
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def _start() -> None:
    # `local`, lest RAY_ADDRESS name another cluster.
    ray.init(
        address="local",
        num_cpus=len(available_cores()),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
