"""Whether all nodes share a folder: each must read what this process wrote, and this process what each wrote."""

import secrets
from collections.abc import Sequence

import ray

from nodebench.bench.checkpoints import check_folder, open_filesystem
from nodebench.cluster.nodes import Node, ask, first_line
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
    check_folder(url)
    token = secrets.token_hex(8)
    files, folder = open_filesystem(url)
    files.pipe_file(f"{folder}/{token}", token.encode())
    try:
        answers = ask(nodes, ANSWER_S, _answer, url, token)
        files.invalidate_cache()  # others have written into it
        problems = {node.name: _problem(answers[node.node_id]) for node in nodes}
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


def _answer(url: str, token: str) -> str:
    """Read and write in the folder, on a node; what goes wrong, or nothing."""
    try:
        files, folder = open_filesystem(url)
        if files.cat_file(f"{folder}/{token}") != token.encode():
            return "it reads something else there"
        files.pipe_file(f"{folder}/{token}-{ray.get_runtime_context().get_node_id()}", b"")
    except FileNotFoundError:
        return "what this process wrote there is not found"
    except Exception as error:  # noqa: BLE001  each storage has its own; told by the one who asked
        return f"{type(error).__name__}: {error}"
    return ""


def _problem(answer: str | Exception) -> str:
    return first_line(answer) if isinstance(answer, Exception) else answer
