"""From what a user chooses to an executor: whatever can be wrong is found before anything is started."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from nodebench.bench.machine import fingerprint
from nodebench.bench.plan import Plan
from nodebench.bench.request import Settings
from nodebench.cluster.connection import connected
from nodebench.cluster.errand import Errand
from nodebench.cluster.executor import RayExecutor
from nodebench.cluster.inspection import Inspection, Question
from nodebench.cluster.nodes import (
    Node,
    alive_nodes,
    check_resources,
    inspect,
    software,
    unlike_data,
    unlike_software,
)
from nodebench.cluster.sharing import check_shared
from nodebench.errors import UserError
from nodebench.options import ExecutorOptions

RETRIES = 3
"""How often work is done again whose node was lost, unless told otherwise."""


@dataclass(frozen=True)
class Survey:
    """The nodes of a cluster and what they have.

    Attributes:
        nodes: The nodes that take work.
        inspections: What each has, by its id.
        expected: The software of this process.
    """

    nodes: tuple[Node, ...]
    inspections: Mapping[str, Inspection]
    expected: Mapping[str, Any]

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
        lacking = [f"node {node.name}: {unfit[node.node_id]}" for node in self.nodes if node.node_id in unfit]
        versions = [
            f"node {node.name}: {', '.join(unlike)}"
            for node in self.fit
            if (unlike := unlike_software(self.expected, self.inspections[node.node_id].environment))
        ]
        return lacking + versions + unlike_data(self.inspections[node.node_id] for node in self.fit)


@dataclass(frozen=True)
class Session:
    """A cluster that is ready for a plan.

    Attributes:
        executor: Does the work there.
        environment: What must be the same for the whole run, as `Runner.run` takes it.
        survey: The nodes.
    """

    executor: RayExecutor
    environment: Mapping[str, Any]
    survey: Survey


@contextmanager
def surveyed(address: str | None, question: Question) -> Iterator[Survey]:
    """Be connected to a cluster and know its nodes; raises as `connected`."""
    with connected(address):
        yield _survey(alive_nodes(), question)


@contextmanager
def session(options: ExecutorOptions, plan: Plan, settings: Settings, data: str | None) -> Iterator[Session]:
    """Be connected to a cluster that can do the work of a plan.

    Args:
        options: Which cluster, and how it is used.
        plan: What is to be measured.
        settings: How it is measured.
        data: Folder of data sets that the command was given, or None.

    Raises:
        UserError: If there is no cluster, it lacks CPUs or GPUs, its nodes differ and may not, or they do not share the
            folder of checkpoints.
    """
    question = question_of(plan, data)
    with connected(options.ray_address):
        nodes = alive_nodes()
        threads = max(cell.threads for cell in plan.cells)
        gpus = int(any(cell.device == "cuda" for cell in plan.cells))
        # Once before the nodes are asked, which takes seconds, and once for those that can do the work.
        check_resources(nodes, max(threads, options.group_cpus or 1), gpus)
        survey = _survey(nodes, question)
        _admit(survey, allow_mixed=options.allow_mixed)
        group_cpus = max(threads, options.group_cpus or _share(survey.fit, gpus))
        check_resources(survey.fit, group_cpus, gpus)
        if options.checkpoint_dir is not None:
            check_shared(options.checkpoint_dir, survey.fit)
        executor = RayExecutor(
            Errand(
                settings,
                question,
                expected=None if options.allow_mixed else survey.expected,
                expected_data=None if options.allow_mixed else survey.data,
                inspected=frozenset(node.node_id for node in survey.fit),
            ),
            survey.fit,
            {node_id: found.environment for node_id, found in survey.inspections.items()},
            group_cpus,
            RETRIES if options.retries is None else options.retries,
            shares_checkpoints=options.checkpoint_dir is not None or options.ray_address is None,
            unfit=frozenset(survey.unfit),
        )
        yield Session(executor, {**survey.expected, "executor": f"ray {ray.__version__}"}, survey)


def question_of(plan: Plan, data: str | None) -> Question:
    """What nodes must have for a plan."""
    tasks = {cell.task: (cell.task, cell.preset, cell.seed) for cell in reversed(plan.cells)}
    backends = dict.fromkeys(cell.backend for cell in plan.cells if cell.backend is not None)
    return Question(str(Path.cwd()), data, tuple(backends), tuple(tasks.values()))


def _survey(nodes: tuple[Node, ...], question: Question) -> Survey:
    return Survey(nodes, inspect(nodes, question), software(fingerprint()))


def _share(nodes: tuple[Node, ...], gpus: int) -> int:
    """CPUs of the smallest node, or that fall to one of its GPUs."""
    shares = [node.cpus // (node.gpus if gpus else 1) for node in nodes if node.gpus >= gpus]
    return max(1, min(shares, default=1))


def _admit(survey: Survey, *, allow_mixed: bool) -> None:
    if survey.differences and not allow_mixed:
        raise UserError(
            f"the nodes of the cluster are not alike: {'; '.join(survey.differences)}. Make them alike, or use "
            "--allow-mixed: nodes that lack something then get no work, and each record tells its node's versions."
        )
    if not survey.fit:
        raise UserError(f"no node can do the work: {'; '.join(survey.differences)}.")
