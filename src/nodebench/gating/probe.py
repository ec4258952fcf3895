"""What a version is, and what it has of the plugins that are asked for.

This module's text is also run as a program by another version's interpreter, and describes that version there: so it
imports only what every version has. It answers in JSON on the last line of its output.

A runner and a worker of two versions must agree on what they say to each other. Messages are pickled instances of
classes that both sides have, and a pickle does not notice that a field is missing until somebody reads it. So the
fields themselves are compared, and the questions with their parameters.
"""

import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NamedTuple, get_type_hints

from nodebench import registry
from nodebench.bench import messages
from nodebench.bench.launcher import HANDED
from nodebench.bench.plan import Cell
from nodebench.bench.request import Request
from nodebench.errors import PluginError, UnknownNameError
from nodebench.problem import SolverSpec
from nodebench.results.machine import fingerprint
from nodebench.results.record import Measurement


class Defect(NamedTuple):
    """Why a plugin or a cell cannot be used.

    Attributes:
        kind: Whether there is no such thing, or it is there and cannot be loaded.
        reason: The same in one sentence.
    """

    kind: Literal["absent", "broken"]
    reason: str


def protocol() -> dict[str, list[str]]:
    """Everything that is said, by name: fields of the messages, parameters of the questions, Python's version.

    The version of Python belongs to it because pickles of the standard library's own classes are not readable by all.
    """
    questions = [
        call for name, call in vars(messages.Questions).items() if inspect.isfunction(call) and not name.startswith("_")
    ]
    names = {"Request": Request}  # which `messages` imports for type checkers alone
    said: list[type] = [kind for question in questions for kind in get_type_hints(question, localns=names).values()]
    # What was found may have one quantity more or less: of what the other does not know, nothing is said.
    spoken = {kind for kind in said if is_dataclass(kind)} - {Measurement, Request}
    spoken |= {messages.Assignment, messages.Failure, messages.TrainingProgress, Cell, SolverSpec}
    described = {kind.__name__: [f.name for f in fields(kind)] for kind in spoken}
    described |= {f"question {call.__name__}": list(inspect.signature(call).parameters)[1:] for call in questions}
    return described | {"launcher": list(HANDED), "Python": [f"{sys.version_info.major}.{sys.version_info.minor}"]}


def plugin_defect(kind: registry.Kind, name: str) -> Defect | None:
    """Why a plugin cannot be used, as its source shows without being imported; None where it can."""
    try:
        registry.describe(kind, name)
    except UnknownNameError as error:
        return Defect("absent", str(error))
    except PluginError as error:
        cause = error.__cause__
        there = cause is not None and not isinstance(cause, FileNotFoundError | ModuleNotFoundError)
        return Defect("broken" if there else "absent", str(error))
    return None


def cell_defect(cell: Mapping[str, str]) -> Defect | None:
    """Why a cell cannot be loaded, whose plugins are imported for it; None where it can.

    Args:
        cell: Its `task`, `model`, `backend` and `framework`.
    """
    for kind in registry.BASES:
        found = plugin_defect(kind, cell[kind])
        if found is not None:
            return found
    try:
        return _import(cell)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a foreign module may raise anything; it is told
        text = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        return Defect("broken", " ".join(text.split()))


def _import(cell: Mapping[str, str]) -> Defect | None:
    registry.load("backend", cell["backend"], registry.load_class(registry.BASES["backend"]))
    task: Any = registry.load("task", cell["task"], registry.load_class(registry.BASES["task"]))
    model, framework = cell["model"], cell["framework"]
    if model not in task.models:
        return Defect("absent", f"task `{cell['task']}` has no model `{model}`.")
    targets = task.models[model].targets
    if framework not in targets:
        written = f"model {model} of task `{cell['task']}` is written for {', '.join(targets)}"
        return Defect("absent", f"{written}, not {framework}.")
    fields_of_task = getattr(task, "fields", {})  # what a task of one's own field names beside its model
    for target in filter(None, (targets[framework], fields_of_task.get(framework))):
        registry.load_class(target)
    return None


def main() -> None:
    """Answer for the plugins and cells on standard input; where it is empty, say what this version is."""
    asked = sys.stdin.read()
    found: dict[str, Any]
    if asked:
        wanted = json.loads(asked)
        found = {
            "plugins": [plugin_defect(kind, name) for kind, name in wanted["plugins"]],
            "cells": [cell_defect(cell) for cell in wanted["cells"]],
            "names": {kind: registry.names(kind) for kind in registry.BASES},
        }
    else:
        found = {"file": messages.__file__, "protocol": protocol(), "environment": fingerprint()}
    sys.stdout.write("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
