"""The nodes of the cluster this process is connected to, and whether they can do the work of a plan."""

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nodebench.bench.checkpoints import check_folder, open_filesystem
from nodebench.bench.executors.ray.inspection import INSPECTION_S, NodeInspection, Requirements, inspect_here
from nodebench.errors import UserError
from nodebench.results.machine import Fingerprint, differences, fingerprint, software

ANSWER_S = 120.0
"""How long a node may take to read and write a file that it shares."""

Answer = TypeVar("Answer")


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


@dataclass(frozen=True)
class ClusterInspection:
    """The nodes of a cluster and what they have.

    Attributes:
        nodes: The nodes that take work.
        inspections: What each has, by its id.
        expected: The software of this process.
    """

    nodes: tuple[Node, ...]
    inspections: Mapping[str, NodeInspection]
    expected: Fingerprint

    @classmethod
    def of(cls, requirements: Requirements) -> "ClusterInspection":
        """Inspect all nodes of the cluster this process is connected to, at once."""
        nodes = alive_nodes()
        return cls(nodes, inspect(nodes, requirements), software(fingerprint()))

    @property
    def unfit(self) -> dict[str, str]:
        """Why nodes cannot do the work, by their ids."""
        found = {node.node_id: "; ".join(self.inspections[node.node_id].problems) for node in self.nodes}
        return {node_id: problems for node_id, problems in found.items() if problems}

    @property
    def fit(self) -> tuple[Node, ...]:
        """The nodes that can do the work."""
        unfit = self.unfit
        return tuple(node for node in self.nodes if node.node_id not in unfit)

    @property
    def data(self) -> dict[str, str]:
        """The data set that each task has on the nodes."""
        return {task: name for node in self.fit for task, name in self.inspections[node.node_id].data.items()}

    @property
    def differences(self) -> list[str]:
        """What is not as it is here: nodes that lack something or have other versions, and unlike data sets."""
        unfit = self.unfit
        found = [f"node {node.name}: {unfit[node.node_id]}" for node in self.nodes if node.node_id in unfit]
        data_sets: dict[str, set[str]] = {}
        for node in self.fit:
            inspection = self.inspections[node.node_id]
            unlike = unlike_software(self.expected, inspection.environment)
            if unlike:
                found.append(f"node {node.name}: {', '.join(unlike)}")
            for task, name in inspection.data.items():
                data_sets.setdefault(task, set()).add(name)
        several = {task: names for task, names in data_sets.items() if len(names) > 1}
        return found + [f"task `{task}` has {' and '.join(sorted(names))}" for task, names in several.items()]


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


def inspect(nodes: Sequence[Node], requirements: Requirements) -> dict[str, NodeInspection]:
    """Have each node inspected.

    Returns:
        What each has, by its id. A node that cannot answer has that as its problem, and an empty fingerprint.
    """
    answers = _call_on(nodes, INSPECTION_S, inspect_here, requirements)
    return {
        node_id: NodeInspection({}, (f"it cannot be inspected: {first_line(found)}",))
        if isinstance(found, Exception)
        else found
        for node_id, found in answers.items()
    }


def unlike_software(expected: Fingerprint, environment: Fingerprint) -> list[str]:
    """In what the versions of a node differ from those of this process, a few words each."""
    return [text.replace(" against ", " here, ") + " there" for text in differences(expected, software(environment))]


def check_resources(nodes: Sequence[Node], cpus: int, gpus: int) -> None:
    """Check that some node has what one piece of the work takes.

    Raises:
        UserError: If none has.
    """
    if not nodes:
        raise UserError("the Ray cluster has no node that takes work: each has 0 CPUs.")
    listed = ", ".join(f"{node.name}: {node.cpus} CPUs, {node.gpus} GPUs" for node in nodes)
    if gpus and not any(node.gpus >= gpus for node in nodes):
        raise UserError(
            f"`--device cuda` needs a GPU, and no node of the cluster has one ({listed}); Ray counts those it "
            "finds when a node is started, or as told by `ray start --num-gpus`."
        )
    if not any(node.cpus >= cpus and node.gpus >= gpus for node in nodes):
        beside = " beside a GPU" if gpus else ""
        raise UserError(f"no node of the cluster has {cpus} CPUs{beside} ({listed}).")


def check_shared(url: str, nodes: Sequence[Node]) -> None:
    """Check that all nodes share a folder: each reads what this process wrote, and this process what each wrote.

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
    found: list[str] = []
    try:
        answers = _call_on(nodes, ANSWER_S, _use_shared, url, token)
        files.invalidate_cache()  # others have written into it
        for node in nodes:
            answer = answers[node.node_id]
            problem = first_line(answer) if isinstance(answer, Exception) else answer
            if not problem and not files.exists(f"{folder}/{token}-{node.node_id}"):
                problem = "what it writes there is not found here"
            if problem:
                found.append(f"node {node.name}: {problem}")
    finally:
        files.rm([path for path in files.ls(folder, detail=False) if token in path.rpartition("/")[2]])
    if found:
        raise UserError(
            f"the nodes do not share `--checkpoint-dir {url}`: {'; '.join(found)}. Name a folder of a shared file "
            "system or of an object store."
        )


def first_line(error: Exception) -> str:
    """What Ray says of an error, without what it adds to it; of an exception within a task, the exception."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
    return text.strip().partition("\n")[0].partition(" This can happen")[0]


def _name(node: Mapping[str, Any]) -> str:
    # Ray's own name of a node that was given none is its address, which says less than its host's name.
    named = node["NodeName"]
    return str(node["NodeManagerHostname"] if named == node["NodeManagerAddress"] else named)


def _call_on(
    nodes: Sequence[Node], timeout_s: float, function: Callable[..., Answer], *arguments: object
) -> dict[str, Answer | Exception]:
    """Call a function on all nodes at once; by the node's id what it returned, or Ray's exception."""
    remote: Any = ray.remote(function)
    refs = {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        options = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=where)
        refs[node.node_id] = options.remote(*arguments)
    answers: dict[str, Answer | Exception] = {}
    for node_id, ref in refs.items():
        try:
            answers[node_id] = ray.get(ref, timeout=timeout_s)
        except ray.exceptions.RayError as error:
            answers[node_id] = error
    return answers


def _use_shared(url: str, token: str) -> str:
    """Read and write in a folder, on a node; what goes wrong, or nothing."""
    try:
        files, folder = open_filesystem(url)
        if files.cat_file(f"{folder}/{token}") != token.encode():
            return "it reads something else there"
        files.pipe_file(f"{folder}/{token}-{ray.get_runtime_context().get_node_id()}", b"")
    except FileNotFoundError:
        return "what this process wrote there is not found"
    except Exception as error:  # noqa: BLE001  each storage has its own; told by `check_shared`
        return f"{type(error).__name__}: {error}"
    return ""
