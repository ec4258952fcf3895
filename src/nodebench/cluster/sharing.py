"""Whether all nodes share a folder: each must read what this process wrote, and this process what each wrote."""

import secrets
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nodebench.bench.checkpoints import open_filesystem
from nodebench.cluster.nodes import Node, first_line
from nodebench.errors import UserError

ANSWER_S = 120.0


def check_shared(url: str, nodes: Sequence[Node]) -> None:
    """See that a folder is the same on all nodes.

    Args:
        url: The folder, a path or URL as fsspec knows it.
        nodes: The nodes that must have it.

    Raises:
        UserError: If it cannot be written here, or is another one, or none, on some node.
    """
    token = secrets.token_hex(8)
    try:
        files, folder = open_filesystem(url)
        files.makedirs(folder, exist_ok=True)
        files.pipe_file(f"{folder}/{token}", token.encode())
    except Exception as error:  # each storage has exceptions of its own, and all mean that it cannot be used
        raise UserError(f"`--checkpoint-dir {url}` cannot be used: {error}") from error
    try:
        problems = {node.name: _problem(answer) for node, answer in _answers(url, token, nodes)}
        files.invalidate_cache()  # others have written into it
        for node in nodes:
            if not problems[node.name] and not files.exists(f"{folder}/{token}-{node.node_id}"):
                problems[node.name] = "what it writes there is not found here"
    finally:
        files.rm([path for path in files.ls(folder, detail=False) if token in path.rpartition("/")[2]])
    told = [f"node {name}: {problem}" for name, problem in problems.items() if problem]
    if told:
        raise UserError(
            f"the nodes do not share `--checkpoint-dir {url}`: {'; '.join(told)}. Name a folder of a shared file "
            "system or of an object store."
        )


def _answers(url: str, token: str, nodes: Sequence[Node]) -> list[tuple[Node, Any]]:
    return [
        (
            node,
            ray.remote(_answer)
            .options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            )
            .remote(url, token, node.node_id),
        )
        for node in nodes
    ]


def _answer(url: str, token: str, node_id: str) -> str:
    """Read and write in the folder, on a node; what goes wrong, or nothing."""
    try:
        files, folder = open_filesystem(url)
        if files.cat_file(f"{folder}/{token}") != token.encode():
            return "it reads something else there"
        files.pipe_file(f"{folder}/{token}-{node_id}", b"")
    except FileNotFoundError:
        return "what this process wrote there is not found"
    except Exception as error:  # noqa: BLE001  as above, and told by the one who asked
        return f"{type(error).__name__}: {error}"
    return ""


def _problem(ref: Any) -> str:
    try:
        return str(ray.get(ref, timeout=ANSWER_S))
    except ray.exceptions.RayError as error:
        return first_line(error)
