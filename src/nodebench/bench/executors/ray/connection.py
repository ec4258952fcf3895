"""Joining a Ray cluster, or starting a Ray of this machine alone.

Ray aborts a process on a machine that does not belong to the cluster, waits for minutes for a head that is not there,
and reads when it is imported whether it must show a token. So `probe` comes first: it tries to join in a process of its
own, and this module imports Ray only when `connected` is called.
"""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodebench.errors import UserError
from nodebench.results.machine import available_cores

CONNECT_S = 5.0
"""How long the head of a cluster may take to answer at all."""

PROBE_S = 60.0
"""How long Ray may take to join a cluster."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Room for objects in a Ray of our own: figures are small."""

PROGRAM = """
import json, logging, sys
try:
    import ray
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)

    class Answer:
        def ready(self):
            return True

    # Whoever shows no token where one is asked for, or the reverse, may join, and loses all actors.
    ray.get(ray.remote(Answer).options(num_cpus=0).remote().ready.remote())
except Exception as error:
    print(json.dumps(str(error)))
    sys.exit(1)
"""

AUTH_MODE = "RAY_AUTH_MODE"
"""Whether Ray shows a token; read by Ray."""


def probe(address: str | None) -> None:
    """Check that a cluster can be joined, and let Ray, which must not have been imported, show a token if it must.

    Args:
        address: `HOST:PORT` of the cluster's head, or `auto` for the one that this machine belongs to; None for a Ray
            of our own, for which Ray is told how to start it.

    Raises:
        UserError: If there is no cluster at the address, it has another version of Ray or Python, it asks for a token
            that is not here, or this machine does not belong to it.
    """
    if address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15, and timed cells would wait for all others
        # Else Ray would leave a token in the user's home, and every later cluster would ask for it.
        os.environ.setdefault(AUTH_MODE, "disabled")
        return
    if address != "auto":
        _check_address(address)
    problem = ""
    for mode in _auth_modes():
        problem = _try_to_join(address, mode)
        if not problem:
            os.environ[AUTH_MODE] = mode
            return
        if "Version mismatch" in problem:
            break
    raise UserError(f"the Ray cluster at {address} cannot be joined: {problem}")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster.

    Args:
        address: As `probe` was told; None starts a Ray on this machine, which ends with the connection.

    Raises:
        UserError: If Ray cannot be started, or the cluster cannot be joined after all.
    """
    import ray  # noqa: PLC0415  only after `probe`

    try:
        try:
            if address is None:
                ray.init(
                    address="local",  # lest RAY_ADDRESS name another cluster
                    num_cpus=len(available_cores()),
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = "on this machine cannot be started" if address is None else f"at {address} cannot be joined"
            raise UserError(f"Ray {where}: {' '.join(str(error).split())}") from error
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
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


def _auth_modes() -> Iterator[str]:
    """The values of `RAY_AUTH_MODE` to try, the likeliest first."""
    given = os.environ.get(AUTH_MODE)
    if given:
        yield given
        return
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named or (Path.home() / ".ray" / "auth_token").is_file():
        yield "token"
    yield "disabled"


def _try_to_join(address: str, mode: str) -> str:
    """Why a cluster cannot be joined; empty where it can."""
    command, environment = [sys.executable, "-c", PROGRAM, address], {**os.environ, AUTH_MODE: mode}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"what listens at {address} did not answer for {PROBE_S:g} s as a Ray cluster does; see on its machine "
            "with `ray status` whether it is one."
        ) from error
    if done.returncode == 0:
        return ""
    if done.returncode == 1:
        problem = " ".join(str(json.loads(done.stdout.strip().rpartition("\n")[2])).split())
        token = (
            ""
            if "Version mismatch" in problem
            else (" If the cluster asks for a token, the head's `~/.ray/auth_token` must be here too.")
        )
        return problem + token
    raise UserError(
        f"this machine does not belong to the Ray cluster at {address}: start the command on one that does, or let it "
        "join with `ray start --address`."
    )
