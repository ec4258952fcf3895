"""What there is to choose from, as rows of text: backends, tasks, models, solvers and runs. Imports no framework."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from nodebench import registry
from nodebench.backends.solvers import IMPLICIT, LIBRARY, MULTISTEP, TABLEAUS
from nodebench.errors import NodebenchError
from nodebench.importing import users_code
from nodebench.registry import Kind, PluginInfo
from nodebench.results.store import existing
from nodebench.tasks.base import AbstractTask, ModelEntry

Row = dict[str, str]
"""Text by column name."""


def backends() -> list[Row]:
    """All installed backends."""
    return [
        {
            "name": info.name,
            "framework": info.framework or "-",
            "state": info.error or _installed(info.framework),
            "options": _options(info),
            "summary": info.summary,
        }
        for info in _known("backend")
    ]


def _options(info: PluginInfo) -> str:
    return " ".join(f"{key}={value}" for key, value in info.options.items())


def _known(kind: Kind) -> list[PluginInfo]:
    """All plugins of a kind by name, those refused after the one that has the name."""
    probed = [registry.probe(kind, name) for name in registry.names(kind)]
    return sorted([*probed, *registry.refused(kind)], key=lambda info: info.name)


def _installed(framework: str | None) -> str:
    if framework not in ("torch", "jax"):
        return "ready"
    return "ready" if find_spec(framework) else f"not installed: pip install 'nodebench[{framework}]'"


def _loaded_tasks() -> Iterator[tuple[PluginInfo, AbstractTask | None]]:
    for info in _known("task"):
        try:
            yield info, None if info.error or info.required else registry.load("task", info.name, AbstractTask)
        except NodebenchError as error:
            yield replace(info, error=str(error)), None


def tasks() -> list[Row]:
    """All installed tasks."""
    rows = []
    for info, task in _loaded_tasks():
        row = {"name": info.name, "state": info.error or "ready", "options": _options(info)}
        if task is not None:
            try:
                with users_code("it cannot describe itself"):
                    row |= _told(task)
            except NodebenchError as error:  # it is the task's state, and no other's
                row["state"] = str(error)
        rows.append({**row, "summary": info.summary})
    return rows


def _told(task: AbstractTask) -> Row:
    return {
        "default model": task.default_model,
        "metric": f"{task.metric.name}{'' if task.metric.unit in ('', '1') else f' [{task.metric.unit}]'}",
        "data": task.data_source(),
    }


def models() -> list[Row]:
    """All models of the installed tasks."""
    return [
        {
            "name": model,
            "task": info.name,
            "frameworks": ", ".join(entry.targets),
            "backend": "needs one" if entry.uses_backend else "takes none",
            "summary": entry.summary,
        }
        for info, task in _loaded_tasks()
        if task is not None and isinstance(task.models, Mapping)
        for model, entry in task.models.items()
        if isinstance(entry, ModelEntry)
    ]


def data_sources() -> Row:
    """Where the data of each task would come from, with `~` for the user's home: what is told is posted with a bug."""
    return {row["name"]: row["data"].replace(f"{Path.home()}/", "~/") for row in tasks() if "data" in row}


def runs(store: str | Path) -> list[Row]:
    """The runs in a store.

    Raises:
        UserError: If there is no such store.
    """
    return [
        {
            "name": found.run_id,
            "made by": found.made_by,
            "began": found.created_at,
            "state": "finished" if found.finished_at else "interrupted or running",
            "records": f"{found.n_records} of {found.n_cells}",
            "command": found.command,
        }
        for found in existing(store).runs()
    ]


def solvers() -> list[Row]:
    """The Runge-Kutta methods of our own solver, SciPy's multistep methods, and what single libraries have."""
    runge_kutta = [
        {
            "name": method.name,
            "order": str(method.order),
            "stages": str(method.n_stages),
            "steps": "adaptive" if method.adaptive else "fixed",
            "stages are": "equations, for stiff problems" if method.implicit else "explicit",
        }
        for method in (*TABLEAUS.values(), *IMPLICIT.values())
    ]
    multistep = [
        {
            "name": method.name,
            "order": f"1 to {method.max_order}",
            "stages": "-",
            "steps": "adaptive",
            "stages are": "-",
        }
        for method in MULTISTEP.values()
    ]
    of_libraries = [
        {
            "name": method.name,
            "order": "chosen" if method.order is None else str(method.order),
            "stages": "-",
            "steps": "adaptive",
            "stages are": "equations, for stiff problems",
        }
        for method in LIBRARY.values()
    ]
    return runge_kutta + multistep + of_libraries
