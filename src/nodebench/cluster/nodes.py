"""The nodes of the cluster this process is connected to, and whether they may do the work of a plan."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nodebench.cluster.inspection import INSPECTION_S, Inspection, Question, inspect_here
from nodebench.errors import UserError
from nodebench.results.environment import differences

SOFTWARE = ("python", "libraries", "git")
"""What of a fingerprint must be the same on all nodes of a run."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        node_id: Ray's id of it.
        name: The name it was started with, else its host's; with the beginning of its id where another has that name.
        cpus: CPUs that Ray may give to work.
        gpus: GPUs likewise.
    """

    node_id: str
    name: str
    cpus: int
    gpus: int


def alive_nodes() -> tuple[Node, ...]:
    """The nodes that are alive and take work, by name."""
    found = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    names = Counter(map(_name, found))
    nodes = (
        Node(
            node_id=node["NodeID"],
            name=_name(node) if names[_name(node)] == 1 else f"{_name(node)} ({node['NodeID'][:6]})",
            cpus=int(node["Resources"]["CPU"]),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in found
    )
    return tuple(sorted(nodes, key=lambda node: node.name))


def ask(nodes: Sequence[Node], timeout_s: float, question: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    """Call a function on each node, on all at once.

    Returns:
        What it returned, by the node's id; Ray's exception where a node does not answer.
    """
    refs = {node.node_id: _on(node, question).remote(*arguments) for node in nodes}
    return {node_id: _answer(ref, timeout_s) for node_id, ref in refs.items()}


def inspect(nodes: Sequence[Node], question: Question) -> dict[str, Inspection]:
    """Have each node inspected.

    Returns:
        What each has, by its id. A node that cannot answer has that as its problem, and an empty fingerprint.
    """
    answers = ask(nodes, INSPECTION_S, inspect_here, question)
    return {
        node_id: _uninspected(found) if isinstance(found, Exception) else found for node_id, found in answers.items()
    }


def _uninspected(error: Exception) -> Inspection:
    return Inspection({}, (f"it cannot be inspected: {first_line(error)}",))


def software(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of a fingerprint must be the same on all nodes of a run."""
    return {name: environment.get(name) for name in SOFTWARE}


def unlike_software(expected: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """In what the versions of a node differ from those of this process, a few words each."""
    return [text.replace(" against ", " here, ") + " there" for text in differences(expected, software(environment))]


def unlike_data(inspections: Iterable[Inspection]) -> list[str]:
    """Tasks whose data sets are not the same on all nodes."""
    sets: dict[str, set[str]] = {}
    for inspection in inspections:
        for task, name in inspection.data.items():
            sets.setdefault(task, set()).add(name)
    return [f"task `{task}` has {' and '.join(sorted(names))}" for task, names in sets.items() if len(names) > 1]


def check_resources(nodes: Sequence[Node], cpus: int, gpus: int) -> None:
    """See that some node has what one part of the plan takes.

    Raises:
        UserError: If none has.
    """
    if not nodes:
        raise UserError("the Ray cluster has no node that takes work: each has 0 CPUs.")
    if gpus and not any(node.gpus >= gpus for node in nodes):
        raise UserError(
            f"`--device cuda` needs a GPU, and no node of the cluster has one ({_listed(nodes)}); Ray counts those it "
            "finds when a node is started, or as told by `ray start --num-gpus`."
        )
    if not any(node.cpus >= cpus and node.gpus >= gpus for node in nodes):
        beside = " beside a GPU" if gpus else ""
        raise UserError(f"no node of the cluster has {cpus} CPUs{beside} ({_listed(nodes)}).")


def _listed(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.name}: {node.cpus} CPUs, {node.gpus} GPUs" for node in nodes)


def _name(node: Mapping[str, Any]) -> str:
    # Ray's own name of a node that was given none is its address, which says less than its host's name.
    named = node["NodeName"]
    return str(node["NodeManagerHostname"] if named == node["NodeManagerAddress"] else named)


def _on(node: Node, question: Callable[..., Any]) -> Any:
    where = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return ray.remote(question).options(num_cpus=0, max_retries=0, scheduling_strategy=where)


def _answer(ref: Any, timeout_s: float) -> Any:
    try:
        return ray.get(ref, timeout=timeout_s)
    except ray.exceptions.RayError as error:
        return error


def first_line(error: Exception) -> str:
    """What Ray says of an error, without what it adds to it; of an exception within a task, the exception."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
    return text.strip().partition("\n")[0].partition(" This can happen")[0]
