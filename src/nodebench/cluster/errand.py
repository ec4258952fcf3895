"""What is sent to a node with the work that it is to do, and what is done there."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import platformdirs
import ray

from nodebench.bench.machine import fingerprint, idle_cores
from nodebench.bench.request import Settings
from nodebench.bench.work import AbstractWork, CellResult, MachineContext
from nodebench.cluster.board import Notice, teller
from nodebench.cluster.cores import claimed
from nodebench.cluster.inspection import Inspection, Question, data_folder, inspect_here
from nodebench.cluster.nodes import unlike_software


def measured(work: AbstractWork, site: MachineContext) -> tuple[CellResult, ...]:
    """Do work as it is meant to be done."""
    return work.measured(site)


@dataclass(frozen=True)
class Errand:
    """What is the same for all work of a run.

    Attributes:
        settings: How cells are measured; cores and interpreter are the node's.
        question: What a node must have.
        expected: The software that a node must have; None for any.
        expected_data: The data set that each task must have there; None for any.
        inspected: Ids of the nodes that have been found fit. Others have joined since, and are inspected first.
        checkpoints: Folder of the run's checkpoints that all nodes share; None where there is none: then a training
            that loses its node begins anew.
        perform: Does the work; a simulation has another.
    """

    settings: Settings
    question: Question
    expected: Mapping[str, Any] | None
    expected_data: Mapping[str, str] | None
    inspected: frozenset[str]
    checkpoints: str | None = None
    perform: Callable[[AbstractWork, MachineContext], tuple[CellResult, ...]] = measured


@dataclass(frozen=True)
class Report:
    """What comes back from a node.

    Attributes:
        node_id: The node.
        environment: Its fingerprint.
        outcomes: What became of the cells; empty where the work was not done.
        unfit: Why the node cannot do this work, or empty.
    """

    node_id: str
    environment: Mapping[str, Any]
    outcomes: tuple[CellResult, ...] = ()
    unfit: str = ""


def run_errand(work: AbstractWork, errand: Errand, ticket: int, n_cores: int, board: Any) -> Report:
    """Do work on the node that Ray has chosen; runs there, in a process of Ray's."""
    node_id = ray.get_runtime_context().get_node_id()
    environment = _fingerprint()
    # Waited for: who is lost with its node must have been known to be there. Not by `ray.get`: meanwhile Ray gives the
    # CPUs of the one that waits to other work, which is still there when the wait is over.
    board.tell.remote(Notice(ticket, node_id, None, environment)).future().result()
    if node_id not in errand.inspected:
        reason = unfitness(_inspected(errand.question), errand)
        if reason:
            return Report(node_id, environment, unfit=reason)
    notify = teller(board.tell.remote, ticket, node_id)
    with TemporaryDirectory() as own, data_folder(errand.question.data), claimed(node_id, n_cores) as cores:
        interpreter = errand.question.interpreter()
        wanted = tuple(idle_cores(work.cell.threads)) if cores is None else cores[: work.cell.threads]
        site = MachineContext(
            node_id,
            environment,
            replace(errand.settings, cores=wanted, interpreter=interpreter),
            references=platformdirs.user_cache_path("nodebench") / "references",
            checkpoints=errand.checkpoints or own,
            notify=notify,
        )
        outcomes = errand.perform(work, site)
    return Report(node_id, environment, tuple(_with_niceness(outcome) for outcome in outcomes))


def unfitness(found: Inspection, errand: Errand) -> str:
    """Why a node cannot do the work of an errand; empty where it can."""
    software = [] if errand.expected is None else unlike_software(errand.expected, found.environment)
    expected = errand.expected_data or {}
    data = [
        f"task `{task}` has {name} there, {expected[task]} elsewhere"
        for task, name in found.data.items()
        if expected.get(task, name) != name
    ]
    return "; ".join([*found.problems, *software, *data])


def _with_niceness(outcome: CellResult) -> CellResult:
    """Say where others on the machine went before it; a process of less niceness takes its core from it."""
    niceness = os.nice(0)
    note = f"measured with niceness {niceness}, as Ray gives it; start Ray's nodes with RAY_worker_niceness=0"
    return outcome.noted(note) if niceness else outcome


# Ray keeps its processes for more work of the same command.
_fingerprint = cache(fingerprint)
_inspected = cache(inspect_here)
