"""A connection to a Ray cluster, or to a Ray of this machine alone."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from nodebench.bench.machine import available_cores
from nodebench.errors import UserError

CONNECT_S = 5.0
"""How long the head of a cluster may take to answer at all."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Room for objects in a Ray of our own: figures are small."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster.

    Args:
        address: `HOST:PORT` of the cluster's head, or `auto` for the one that this machine belongs to; None starts a
            Ray on this machine, which ends with the connection.

    Raises:
        UserError: If there is no cluster at the address, it has another version of Ray or Python, or this machine does
            not belong to it.
    """
    try:
        if address is None:
            _start()
        else:
            _join(address)
        yield
    finally:
        ray.shutdown()


def _start() -> None:
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15, and timed cells would wait for all others
    # `local`, lest RAY_ADDRESS name another cluster.
    ray.init(
        address="local",
        num_cpus=len(available_cores()),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _join(address: str) -> None:
    if address != "auto":
        _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise UserError(f"the Ray cluster at {address} cannot be joined: {' '.join(str(error).split())}") from error


def _check_address(address: str) -> None:
    """Ray itself waits for minutes for a head that is not there."""
    if "://" in address:
        raise UserError(
            f"`--ray-address {address}` is not taken: give HOST:PORT of the cluster's head (or `auto`), and start the "
            "command on a machine of the cluster."
        )
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise UserError(f"`--ray-address` must be HOST:PORT or `auto`; got {address!r}.")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"there is no Ray cluster at {address}: {error}. `ray start --head` starts one; `ray status` on its "
            "machine shows it."
        ) from error
