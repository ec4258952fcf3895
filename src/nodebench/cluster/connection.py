"""A connection to a Ray cluster, or to a Ray of this machine alone."""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from nodebench.bench.machine import available_cores
from nodebench.errors import UserError

CONNECT_S = 5.0
"""How long the head of a cluster may take to answer at all."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Room for objects in a Ray of our own: figures are small."""


REHEARSAL_S = 60.0
"""How long Ray may take to join a cluster."""

REHEARSAL = """
import json, logging, sys
try:
    import ray
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except Exception as error:
    print(json.dumps(str(error)))
    sys.exit(1)
"""
"""Joins a cluster and says why it cannot. Ray aborts the process on a machine that does not belong to the cluster."""

TOKEN = "If it asks for a token: `export RAY_AUTH_MODE=token`, with the head's `~/.ray/auth_token`."


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster.

    Args:
        address: `HOST:PORT` of the cluster's head, or `auto` for the one that this machine belongs to; None starts a
            Ray on this machine, which ends with the connection.

    Raises:
        UserError: If there is no cluster at the address, it has another version of Ray or Python, it asks for a token,
            or this machine does not belong to it.
    """
    try:
        if address is None:
            _start()
        else:
            _check_address(address)
            _rehearse(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()


def _start() -> None:
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15, and timed cells would wait for all others
    # Else it would leave a token in the user's home, and every later cluster would ask for it.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        # `local`, lest RAY_ADDRESS name another cluster.
        ray.init(
            address="local",
            num_cpus=len(available_cores()),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray cannot be started on this machine: {' '.join(str(error).split())}") from error


def _rehearse(address: str) -> None:
    """See in a process of its own whether the cluster can be joined."""
    command = [sys.executable, "-c", REHEARSAL, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=REHEARSAL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the Ray cluster at {address} did not answer for {REHEARSAL_S:g} s. {TOKEN}") from error
    if done.returncode == 1:
        told = " ".join(str(json.loads(done.stdout.strip().rpartition("\n")[2])).split())
        more = "" if address == "auto" or "Version mismatch" in told else f" {TOKEN}"
        raise UserError(f"the Ray cluster at {address} cannot be joined: {told}{more}")
    if done.returncode != 0:
        raise UserError(
            f"this machine does not belong to the Ray cluster at {address}: start the command on one that does, or let "
            "it join with `ray start --address`."
        )


def _check_address(address: str) -> None:
    """Ray itself waits for minutes for a head that is not there."""
    if address == "auto":
        return
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
