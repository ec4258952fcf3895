"""What a version has of the plugins that cells name.

This module's text is also run as a program by the other version's interpreter, and asks that version's own registry
there: so it imports only what every version has.
"""

import json
import sys
from typing import Any

from nodebench import registry
from nodebench.errors import PluginError, UnknownNameError

ABSENT, BROKEN = "absent", "broken"
"""What is said of a plugin that there is none of, and of one that is there and cannot be loaded."""

Lack = tuple[str, str]
"""One of the two, and the reason in one sentence."""


def lack(kind: registry.Kind, name: str) -> Lack | None:
    """Why there is no such plugin, as its source shows without being imported; None where there is one."""
    try:
        registry.describe(kind, name)
    except UnknownNameError as error:
        return ABSENT, str(error)
    except PluginError as error:
        cause = error.__cause__
        there = cause is not None and not isinstance(cause, FileNotFoundError | ModuleNotFoundError)
        return (BROKEN if there else ABSENT), str(error)
    return None


def cell_lack(cell: dict[str, str]) -> Lack | None:
    """Why a cell cannot be loaded, or None.

    Args:
        cell: Its `task`, `model`, `backend` and `framework`.
    """
    for kind in registry.BASES:
        found = lack(kind, cell[kind])
        if found is not None:
            return found
    try:
        return _import(cell)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a foreign module may raise anything; it is told
        text = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        return BROKEN, " ".join(text.split())


def _import(cell: dict[str, str]) -> Lack | None:
    registry.load("backend", cell["backend"], registry.load_class(registry.BASES["backend"]))
    task: Any = registry.load("task", cell["task"], registry.load_class(registry.BASES["task"]))
    model, framework = cell["model"], cell["framework"]
    if model not in task.models:
        return ABSENT, f"task `{cell['task']}` has no model `{model}`."
    targets = task.models[model].targets
    if framework not in targets:
        return ABSENT, f"model {model} of task `{cell['task']}` is written for {', '.join(targets)}, not {framework}."
    fields = getattr(task, "fields", {})  # what a task of one's own field names beside its model
    for target in filter(None, (targets[framework], fields.get(framework))):
        registry.load_class(target)
    return None


def main() -> None:
    """Answer for the plugins and cells on standard input, and say what plugins are installed."""
    asked = json.load(sys.stdin)
    found = {
        "plugins": [lack(kind, name) for kind, name in asked["plugins"]],
        "cells": [cell_lack(cell) for cell in asked["cells"]],
        "names": {kind: registry.names(kind) for kind in registry.BASES},
    }
    sys.stdout.write("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
