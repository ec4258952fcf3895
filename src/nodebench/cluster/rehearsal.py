"""Whether a Ray cluster can be joined, and how, found out by a process of its own.

Ray aborts a process on a machine that does not belong to the cluster, waits for minutes for a head that is not there,
and reads when it is imported whether it is to show a token. So this comes first, and imports no Ray.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nodebench.errors import UserError

CONNECT_S = 5.0
"""How long the head of a cluster may take to answer at all."""

REHEARSAL_S = 60.0
"""How long Ray may take to join a cluster."""

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

TOKEN = "If the cluster asks for a token, the head's `~/.ray/auth_token` must be here too."


def rehearse(address: str | None) -> None:
    """See that a cluster can be joined, and let Ray, which must not have been imported, show a token if it must.

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
    _check_address(address)
    told = ""
    for mode in _modes():
        told = _attempt(address, mode)
        if not told:
            os.environ[AUTH_MODE] = mode
            return
        if "Version mismatch" in told:
            break
    raise UserError(f"the Ray cluster at {address} cannot be joined: {told}")


def _modes() -> Iterator[str]:
    given = os.environ.get(AUTH_MODE)
    if given:
        yield given
        return
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named or (Path.home() / ".ray" / "auth_token").is_file():
        yield "token"
    yield "disabled"


def _attempt(address: str, mode: str) -> str:
    """Why a cluster cannot be joined; empty where it can."""
    command, environment = [sys.executable, "-c", PROGRAM, address], {**os.environ, AUTH_MODE: mode}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=REHEARSAL_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"what listens at {address} did not answer for {REHEARSAL_S:g} s as a Ray cluster does; see on its machine "
            "with `ray status` whether it is one."
        ) from error
    if done.returncode == 0:
        return ""
    if done.returncode == 1:
        told = " ".join(str(json.loads(done.stdout.strip().rpartition("\n")[2])).split())
        return told if "Version mismatch" in told else f"{told} {TOKEN}"
    raise UserError(
        f"this machine does not belong to the Ray cluster at {address}: start the command on one that does, or let it "
        "join with `ray start --address`."
    )


def _check_address(address: str) -> None:
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
