"""From what was asked for to a plan: every name is checked before anything is started."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import isfinite
from typing import Any, get_args

from nodebench import registry
from nodebench.backends.solvers import METHODS
from nodebench.bench.client import WorkerError, WorkerProcess, with_launchers
from nodebench.bench.messages import Assignment, Planned, Questions
from nodebench.bench.plan import Cell, Plan, joined, unique, unwritten
from nodebench.bench.processes import Launchers
from nodebench.bench.request import Interpreter, Request
from nodebench.errors import NotInstalledError, PluginError, UnknownNameError, UserError
from nodebench.importing import require_system, users_code
from nodebench.problem import SolverSpec
from nodebench.results.scaling import Axis
from nodebench.stats import MIN_POINTS
from nodebench.tasks.base import AbstractTask, Preset
from nodebench.tasks.field.objects import Objects

MEASURES = ("gradient", "untimed", "counts", "training", "training-step", "both")
"""What there is to measure: `untimed` is the gradient measurement without times, `counts` its evaluations and steps;
`training-step` is memory and time of a training step of each whole network, `both` are `gradient` and `training`."""

DEVICES = ("cpu", "cuda")


CONTROLS = ("torchdiffeq", "diffrax")
"""The libraries that everybody knows: of `all` they come first, so that one is the control where it is measurable."""

PLANNING_S = 60.0
"""How long a task of a user's may take to be planned, in seconds, unless told otherwise."""


Along = tuple[str, float]
"""An axis on which a task lies, and its place there: of `horizon` a factor, else the value of an option."""


def plan(
    request: Request, timeout_s: float | None = None, objects: Objects | None = None, along: Along | None = None
) -> Plan:
    """Check a request and expand it into cells; what is broken among its plugins is told beside them.

    Args:
        request: What is asked for.
        timeout_s: How long a task of a user's may take to be planned; None for `PLANNING_S`.
        objects: Objects of the caller's process that tasks are made of, pickled, by digest.
        along: Where on an axis of tasks they are measured.

    Raises:
        UserError: If a name, option or number in it is wrong, nothing is left to measure, or workers do not run here.
    """
    require_system()
    _check_choices(request)
    broken: dict[str, str] = {}
    backends = _backends(request, broken)
    cells: list[Cell] = []
    unsupported: dict[str, str] = {}
    for name in _expand("task", request.tasks):
        named = _with_dataset(name, request.dataset)
        try:
            # A field that is given is a user's code, though its task is ours.
            ours = registry.is_own("task", named) and registry.parse(named)[0] != registry.GIVEN
            planned = (
                task_cells(named, request, backends, along)
                if ours
                else _planned(named, request, backends, timeout_s, objects or {}, along)
            )
        except (PluginError, NotInstalledError) as error:
            broken[named] = str(error)
        else:
            cells += planned.cells
            unsupported |= planned.unsupported
    if request.measure in ("gradient", "untimed", "counts"):
        cells = [cell for cell in cells if cell.backend is not None]
    if not cells and broken:
        raise PluginError(" ".join(dict.fromkeys(broken.values())))
    if not cells:
        raise UserError(
            "nothing to measure: a model without an ODE has no gradient method to compare; train it instead."
        )
    return Plan(unique(cells), request.measure, broken=broken, unsupported=unsupported)


def _check_choices(request: Request) -> None:
    for kind, value, known in (
        ("preset", request.preset, get_args(Preset)),
        ("measure", request.measure, MEASURES),
        ("device", request.device, DEVICES),
        *(("solver", solver, METHODS) for solver in request.solvers),
    ):
        if value not in known:
            raise UnknownNameError(kind, value, known)
    for name, number in (("--threads", request.threads), ("--batch-size", request.batch_size)):
        if number is not None and number < 1:
            raise UserError(f"`{name}` must be at least 1; got {number}.")
    if any(seed < 0 for seed in request.seeds):
        raise UserError(f"`--seed` must not be negative; got {min(request.seeds)}.")
    if not request.tasks:
        raise UserError("name a task with --task, or `--task all`; see `nodebench list tasks`.")


def _expand(kind: registry.Kind, names: Sequence[str]) -> list[str]:
    expanded = []
    for name in names:
        # `all` is all that works; `nodebench list` shows what does not, and why.
        expanded += _all(kind) if name == "all" else [registry.canonical(kind, name)]
    return expanded


def _all(kind: registry.Kind) -> list[str]:
    """All that works, sorted but for the backends that are to be controls, in whose order the control is sought."""
    found = registry.working(kind)
    first = [name for name in CONTROLS if kind == "backend" and name in found]
    return [*first, *(name for name in found if name not in first)]


def _with_dataset(name: str, dataset: str | None) -> str:
    if dataset is None:
        return name
    base, options = registry.parse(name)
    return registry.canonical("task", registry.spelled(base, {**options, "dataset": dataset}))


def _planned(
    name: str,
    request: Request,
    backends: Sequence[tuple[str, str]],
    timeout_s: float | None,
    objects: Objects,
    along: Along | None,
) -> Planned:
    """What `task_cells` gives of a task of a user's, found by a worker: its file may hang, or end the process."""
    registry.describe("task", name)
    ahead = next((framework for _, framework in backends), "")

    def ask(launchers: Launchers | None) -> Planned:
        worker = WorkerProcess(Assignment(None, ahead=ahead, objects=objects), Interpreter(), launchers)
        try:
            worker.ready(timeout_s or PLANNING_S)
            worker.send(Questions.plan, name, request, backends, along)
            return worker.receive(Questions.plan, timeout_s=timeout_s or PLANNING_S)
        finally:
            sys.stderr.write(worker.printed())  # what a user's file prints is for its user to see
            worker.stop()

    try:
        found = with_launchers(ask)
    except WorkerError as error:
        raise PluginError(f"task `{name}` cannot be imported and planned: {error.failure.reason}") from error
    if found.reason:
        raise (PluginError if found.is_plugins else UserError)(found.reason)
    return found


def task_cells(name: str, request: Request, backends: Sequence[tuple[str, str]], along: Along | None = None) -> Planned:
    """The cells of a task with each of some backends, which come with the frameworks they run in.

    Args:
        name: The task.
        request: What is asked for.
        backends: The backends, each with its framework.
        along: Where on an axis it is measured.

    Raises:
        UserError: If it has not what is asked for, or is broken.
        NotInstalledError: If a library that it imports is missing.
    """
    with users_code(f"task `{name}` cannot be planned"):
        name, horizon = (name, 1.0) if along is None else _moved(name, *along)
        return _task_cells(name, request, backends, horizon)


def _moved(name: str, axis: str, value: float) -> tuple[str, float]:
    """A task at a place on an axis, and the factor on its time span, for a task that has no option of its own for it.

    Raises:
        UserError: If it says of no option that this axis varies it.
    """
    task: AbstractTask = _task(name)
    option = task.varied.get(axis)
    if option is None:
        if axis == "horizon":
            return name, value
        raise UserError(
            f"nothing is known to vary the {axis} of task `{name}`; an option of the task that does is named in its "
            f"class, as `varied = {{{axis!r}: OPTION}}`."
        )
    base, options = registry.parse(name)
    number = value * getattr(task, option) if axis == "horizon" else value
    return registry.canonical("task", registry.spelled(base, {**options, option: f"{number:.12g}"})), 1.0


def _task(name: str) -> AbstractTask:
    registry.describe("task", name)
    task: AbstractTask = registry.load("task", name, AbstractTask)
    return task


def _task_cells(name: str, request: Request, backends: Sequence[tuple[str, str]], horizon: float) -> Planned:
    task = _task(name)
    models = _models(name, task, request.models)
    with_ode = [model for model in models if task.models[model].uses_backend]
    _check_backends_wanted(name, models, with_ode, request)
    if request.batch_size is not None:
        _check_batch(name, task, request, differentiated=bool(with_ode))
    specs = _specs(task, request)
    cells: list[Cell] = []
    for model, seed in product(models, request.seeds):
        batch_size = request.batch_size or task.recipe(model, request.preset).batch_size
        common: dict[str, Any] = {
            "task": name,
            "model": model,
            "device": request.device,
            "threads": request.threads,
            "seed": seed,
            "preset": request.preset,
            "batch_size": batch_size,
            "horizon": horizon,
        }
        if model in with_ode:
            cells += [
                Cell(**common, backend=backend, framework=framework, spec=spec)
                for spec, (backend, framework) in product(specs, backends)
            ]
        else:
            framework = next(iter(task.models[model].targets))
            cells.append(
                Cell(
                    **common,
                    backend=None,
                    framework=framework,
                    spec=replace(task.spec, dtype=request.dtype or task.spec.dtype),
                )
            )
    refused = {cell.cell_id: unwritten(task, cell) for cell in cells}
    return Planned(tuple(cells), {cell_id: reason for cell_id, reason in refused.items() if reason})


def _models(task_name: str, task: AbstractTask, wanted: Sequence[str]) -> list[str]:
    if "all" in wanted:
        return list(task.models)
    for model in wanted:
        if model not in task.models:
            raise UnknownNameError(f"model of task '{task_name}'", model, task.models)
    return list(wanted) or [task.default_model]


def _check_backends_wanted(name: str, models: list[str], with_ode: list[str], request: Request) -> None:
    if request.backends and not with_ode:
        raise UserError(
            f"{', '.join(models)} of task `{name}` solves no ODE and takes no backend; leave --backend out."
        )
    if with_ode and not request.backends:
        raise UserError(
            f"{', '.join(with_ode)} of task `{name}` needs a gradient method: --backend NAME, or `--backend all`; "
            "see `nodebench list backends`."
        )


def _check_batch(name: str, task: AbstractTask, request: Request, *, differentiated: bool) -> None:
    """See that the batch that was asked for can be had; of the first seed, since sizes do not depend on it."""
    seed, limits = request.seeds[0], []
    if request.measure not in ("training", "training-step") and differentiated:
        limits.append(task.gradient_examples(seed))
    if request.measure in ("training", "training-step", "both"):
        limits.append(task.training_examples(request.preset, seed))
    for limit in limits:
        if limit is not None and request.batch_size is not None and request.batch_size > limit:
            raise UserError(
                f"a batch of {request.batch_size} is larger than the training data, {limit} examples, of task "
                f"`{name}`; ask for fewer."
            )


def _backends(request: Request, broken: dict[str, str]) -> list[tuple[str, str]]:
    """The backends with their frameworks; why one is broken is added to what is."""
    found = []
    for name in _expand("backend", request.backends):
        try:
            found.append((name, _framework(name)))
        except PluginError as error:
            broken[name] = str(error)
    return found


def _framework(backend: str) -> str:
    info = registry.describe("backend", backend)
    if info.framework is None:
        raise PluginError(f"backend `{backend}` does not declare its `framework` as a plain string in its class body.")
    return info.framework


def _specs(task: AbstractTask, request: Request) -> list[SolverSpec]:
    specs = []
    for solver, rtol in product(request.solvers or (task.spec.solver,), request.rtols or (task.spec.rtol,)):
        default_atol = rtol if request.rtols else task.spec.atol
        spec = replace(
            task.spec,
            solver=solver,
            controller=request.controller,
            rtol=rtol,
            atol=default_atol if request.atol is None else request.atol,
            first_step=request.first_step,
            max_steps=task.spec.max_steps if request.max_steps is None else request.max_steps,
            dtype=request.dtype or task.spec.dtype,
        )
        specs.append(spec)
    return specs


VALUES: dict[Axis, tuple[float, ...]] = {
    "steps": (10, 20, 40, 80, 160),
    "tolerance": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    "batch": (8, 16, 32, 64, 128),
    "horizon": (1.0, 2.0, 4.0, 8.0),
    "stiffness": (1, 3, 10, 30, 100),
    "parameters": (2, 3, 4, 6, 8),
}
"""Where each axis is measured unless told otherwise."""

FIXED_STEP_SOLVER = "rk4"


def scaling_plan(request: Request, axis: str, values: Sequence[float]) -> Plan:
    """Cells along an axis; those at one place of it are compared with each other.

    Args:
        request: What is measured, but for the axis.
        axis: One of `Axis`.
        values: Places along it; empty for `VALUES`. Of stiffness and parameters they are values of the option that the
            task varies, of the horizon factors on the time span.

    Raises:
        UserError: If axis, a value or the request is wrong, or fewer than three values are given.
    """
    if axis not in get_args(Axis):
        raise UnknownNameError("axis for --over", axis, get_args(Axis))
    for of, option, chosen in (
        ("tolerance", "--rtol", request.rtols),
        ("tolerance", "--atol", request.atol),
        ("batch", "--batch-size", request.batch_size),
        ("steps", "--first-step", request.first_step),
    ):
        if axis == of and chosen not in ((), None):
            raise UserError(f"`--over {axis}` sets `{option}` itself; leave it out, and name `--values`.")
    places = tuple(dict.fromkeys(values or VALUES[axis]))  # type: ignore[index]  # checked above
    if len(places) < MIN_POINTS:
        raise UserError(f"`--values` must be at least {MIN_POINTS} different ones for an interval; got {len(places)}.")
    whole = axis in ("steps", "batch", "parameters")
    for value in places:
        if not (value > 0 and isfinite(value)) or (whole and value != int(value)):
            raise UserError(f"`--values` must be positive{' whole' if whole else ''} numbers; got {value:g}.")
    measure = request.measure if request.measure in ("untimed", "counts") else "gradient"
    return joined([_plan_at(replace(request, measure=measure), axis, value) for value in places])


def _plan_at(request: Request, axis: str, value: float) -> Plan:
    if axis == "tolerance":
        return plan(replace(request, rtols=(value,), atol=None))
    if axis == "batch":
        return plan(replace(request, batch_size=int(value)))
    if axis != "steps":
        return plan(request, along=(axis, value))
    steps = int(value)
    solvers = request.solvers or (FIXED_STEP_SOLVER,)
    for solver in solvers:
        if solver in METHODS and METHODS[solver].adaptive:
            raise UserError(f"`--over steps` needs a solver of fixed steps; {solver} chooses its own.")
    # In proportion, since memory of some methods follows the limit; with room for steps that end on output times.
    limit = steps + steps // 2 + 5
    planned = plan(replace(request, solvers=solvers, max_steps=limit))
    fixed = (replace(cell, spec=replace(cell.spec, n_steps=steps, first_step=None)) for cell in planned.cells)
    return replace(planned, cells=tuple(fixed))
