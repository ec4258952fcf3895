"""`nodebench.compare`: from a field, as a notebook or a script has it, to what each gradient method costs with it."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nodebench.bench.group import GradientGroup
from nodebench.bench.plan import Plan
from nodebench.bench.worker.subject import check_times
from nodebench.errors import UnknownNameError, UserError
from nodebench.frameworks.base import field_name
from nodebench.measuring import Watcher, measure, planned
from nodebench.notebook import watcher
from nodebench.options import RunOptions
from nodebench.problem import Array, State
from nodebench.registry import GIVEN
from nodebench.reports.comparison import has_gradient
from nodebench.results.store import Store
from nodebench.study import Study
from nodebench.tasks.field.given import LIBRARIES, framework_of
from nodebench.tasks.field.objects import GivenProblem
from nodebench.tasks.field.sending import packed
from nodebench.tasks.field.task import check_states

DTYPES = ("float32", "float64")

FURTHER = (
    "threads", "controller", "first_step", "max_steps", "batch_size", "rounds", "precision", "timeout_s",
    "memory_limit_gib", "max_grad_error", "jobs", "ray_address", "group_cpus", "retries", "allow_mixed",
)  # fmt: skip
"""Options of `nodebench.run` that a comparison takes beside those that it names."""

DEVICES: Mapping[str, str] = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda"}
"""Our name of a device by that of torch and of JAX."""


def compare(  # noqa: PLR0913  what one may say of a comparison
    field: Any,
    y0: State,
    t: Array | Sequence[float],
    *,
    loss: Callable[[State], Array] | None = None,
    differentiate_times: bool = False,
    backends: str | Sequence[str] = "all",
    solver: str | Sequence[str] = "dopri5",
    rtol: float | Sequence[float] = 1e-5,
    atol: float | None = None,
    dtype: str | None = None,
    device: str | None = None,
    control: str | None = None,
    budget_s: float = 60.0,
    store: str | Path | None = None,
    executor: str = "local",
    progress: bool = True,
    **more: Any,
) -> Study:
    """Measure what gradient methods cost with a field of one's own, at the weights that it has now.

    The field, the initial state and the loss are sent to processes of their own, in which everything is measured: the
    caller's process is left as it is, and its memory is not counted. What is random in a field's making is over by
    then; a module is measured in the mode that it is in, `train()` or `eval()`.

    Args:
        field: `torch.nn.Module`, `equinox.Module`, or a function, called as `field(t, y)`; or a pair of a function and
            its parameters, called as `function(t, y, *parameters)`, or as `function(t, y, parameters)` where it takes
            a single argument more for several. It may be defined in a notebook.
        y0: Initial state: a tensor or array, or a tuple of such.
        t: Output times, shape `(n,)`, n >= 2, strictly increasing or decreasing.
        loss: Scalar loss of the states at `t`, which have the shape `(n, *y0.shape)` or are a tuple of such; the mean
            of the squares of the last state by default.
        differentiate_times: Whether the gradient with respect to `t` is wanted too; so it is where `t` is a tensor that
            requires a gradient. Its error is in `grad_error_times` of a record.
        backends: Gradient methods by name, or all that there are for the field's framework.
        solver: Solver; several are compared with each other.
        rtol: Relative tolerance; of several the cost at equal error is told too.
        atol: Absolute tolerance, in units of the state; the number of the relative one by default.
        dtype: `"float32"` or `"float64"`; that of the parameters by default, or of `y0` where there are none.
        device: `"cpu"` or `"cuda"`; where `y0` and the parameters are by default.
        control: Backend that ratios of times refer to; by default the library that everyone knows, torchdiffeq or
            diffrax, where it is compared, else the first.
        budget_s: Time for the timing of all cells together, in seconds. What must be measured once (errors,
            evaluations, memory, the first four starts of the timing) is measured whatever it takes.
        store: Store of records to add to, an SQLite file; by default they are kept in the study alone.
        executor: `"local"`, or `"ray"` for a cluster of machines.
        progress: Whether to show what goes on, on a terminal and in a notebook.
        more: Further options of `nodebench.run`, for example `threads`, `max_steps`, `precision` or `batch_size`.

    Returns:
        What was measured: a table on a terminal, a page in a notebook; after Ctrl-C what there is by then.

    Raises:
        UserError: If an argument is wrong, a backend is broken, a part of the field cannot be sent to another process,
            or nothing can be measured of it.
    """
    if isinstance(budget_s, bool) or not isinstance(budget_s, int | float) or not 0 < budget_s < np.inf:
        raise UserError(f"`budget_s` must be a positive number of seconds; got {budget_s!r}.")
    if not isinstance(differentiate_times, bool):
        raise UserError(f"`differentiate_times` must be True or False; got {differentiate_times!r}.")
    for option in more:
        if option not in FURTHER:
            raise UnknownNameError("option of `compare`", option, FURTHER)
    function, parameters = _parts_of(field)
    place = placement([*_arrays_of(function), *_leaves(parameters)], y0, dtype, device)
    asked = differentiate_times or bool(getattr(t, "requires_grad", False))
    given = replace(given_problem(function, parameters, y0, t, loss), differentiate_times=asked)
    check_times(given.times, place.dtype)
    digest, content = packed(given)
    with TemporaryDirectory(prefix="nodebench-") as folder:
        options = RunOptions(
            backends=_several(backends),
            tasks=(f"{GIVEN}[digest={digest},field={_name(given.field)}]",),
            measure="gradient",
            preset="smoke",
            solvers=_several(solver),
            rtols=_several(rtol),
            atol=atol,
            dtype=place.dtype,
            device=place.device,
            control=control,
            store=store or Path(folder) / "results.db",
            executor=executor,
            objects={digest: content},
            **more,
        )
        plan = planned(options)
        if plan.broken:
            Watcher().broken(plan.broken)
        n_timed = len(plan.cells) - len(plan.unsupported)
        return _measured(plan, replace(options, budget_s=budget_s / max(n_timed, 1)), show=progress)


def _measured(plan: Plan, options: RunOptions, *, show: bool) -> Study:
    """What became of a plan; after an interruption what there is by then."""
    interruption = Interruption()
    try:
        measure(plan, options, watcher() if show else None, measure_group=interruption.measure)
    except KeyboardInterrupt:
        interruption.came = True
    store = Store(Path(options.store))
    run = next((run for run in reversed(store.runs()) if run.plan == plan.plan_id), None)
    if run is None:
        raise KeyboardInterrupt  # before anything has begun
    order = {cell.cell_id: at for at, cell in enumerate(plan.cells)}
    records = sorted(store.records([run.run_id]), key=lambda record: order[record.cell_id])
    if not any(map(has_gradient, records)) and not interruption.came:
        raise UserError(" ".join(dict.fromkeys(record.reason for record in records if record.reason)))
    return Study(tuple(records), run, store.environments())


@dataclass
class Interruption:
    """Measures groups until Ctrl-C: of the group that is at work then what it has found is kept, of others nothing.

    Attributes:
        came: Whether it came.
    """

    came: bool = False

    def measure(self, group: GradientGroup) -> None:
        """Measure a group, as far as it comes.

        Raises:
            KeyboardInterrupt: If it came before.
        """
        if self.came:
            raise KeyboardInterrupt
        try:
            group.measure()
        except KeyboardInterrupt:
            self.came = True
            group.conclude()


@dataclass(frozen=True)
class Placement:
    """What the numbers of a problem are, and where they lie.

    Attributes:
        dtype: `float32` or `float64`.
        device: `cpu` or `cuda`.
    """

    dtype: str
    device: str


def _parts_of(field: Any) -> tuple[Any, Any]:
    """A module or function, and the parameters that come with it.

    Raises:
        UserError: If it is none.
    """
    is_pair = isinstance(field, tuple) and len(field) == 2 and callable(field[0])
    function, parameters = field if is_pair else (field, None)
    if isinstance(function, type):
        name = function.__name__
        raise UserError(f"`field` is the class `{name}`; compare an object of it, such as `{name}()`.")
    if not callable(function):
        kind = type(function).__name__
        raise UserError(f"`field` must be a module, a function, or a pair (function, parameters); got {kind}.")
    return function, parameters


def given_problem(
    function: Any, parameters: Any, y0: State, t: Array | Sequence[float], loss: Callable[[State], Array] | None
) -> GivenProblem:
    """The problem that a caller means, its state in NumPy; arguments as `compare` has them.

    Raises:
        UserError: If a part of it is not what it must be, or the framework cannot be told.
    """
    if not (loss is None or callable(loss)):
        raise UserError(f"`loss` must be a function of the states at the output times; got {type(loss).__name__}.")
    states = tuple(_array(part) for part in y0) if isinstance(y0, tuple) else _array(y0)
    check_states("`y0`", states)
    arrays = [*_leaves(parameters), *_leaves(y0), *_arrays_of(function)]
    return GivenProblem(_framework(function, arrays), function, parameters, states, _times(t), loss)


def placement(parameters: Sequence[Array], y0: State, dtype: str | None, device: str | None) -> Placement:
    """What the numbers are that are measured, and where: those of the parameters and the state, unless told otherwise.

    Args:
        parameters: Those of the field.
        y0: The initial state.
        dtype: What is asked for, or None.
        device: What is asked for, or None.

    Raises:
        UserError: If parameters and state differ in it, or it is none that can be measured.
    """
    own = [array for array in parameters if "float" in str(array.dtype)]
    # NumPy's arrays are float64 without a thought, and what is no floating-point number is told elsewhere.
    state = [part for part in _leaves(y0) if not isinstance(part, np.ndarray) and "float" in str(part.dtype)]
    found = Placement(
        _agreed("dtype", [*map(_dtype, own)], [*map(_dtype, state)], dtype) or "float32",
        _agreed("device", [*map(_device, own)], [*map(_device, state)], device) or "cpu",
    )
    if found.dtype not in DTYPES:
        raise UserError(f"`dtype` must be float32 or float64; the field and `y0` are in {found.dtype}.")
    if found.device not in DEVICES:
        raise UserError(f"`device` must be cpu or cuda; the field and `y0` are on {found.device}.")
    return found


def _agreed(what: str, of_field: Sequence[str], of_state: Sequence[str], asked: str | None) -> str | None:
    """What parameters and state have in common, or what was asked for instead; None where there are neither."""
    kinds = [*dict.fromkeys([*of_field, *of_state])]
    if asked is None and len(kinds) > 1:
        where = "on" if what == "device" else "in"
        known = (("parameters of the field", of_field), ("parts of `y0`", of_state))
        told = (f"the {whose} are {where} {' and '.join(dict.fromkeys(own))}" for whose, own in known if own)
        raise UserError(f"{', and '.join(told)}; bring them together, or name the {what}: `{what}=...`.")
    return asked or next(iter(kinds), None)


def _dtype(array: Array) -> str:
    return str(array.dtype).rpartition(".")[2]


def _device(array: Array) -> str:
    """Where an array lies, as we call it; of a GPU without its number."""
    if hasattr(array, "devices"):
        return DEVICES.get(next(iter(array.devices())).platform, "cpu")
    kind = getattr(array.device, "type", "cpu")
    return DEVICES.get(kind, kind)


def _framework(function: Any, arrays: Iterable[Array]) -> str:
    """The framework of a field and of the arrays that come with it."""
    found = {name for array in arrays if (name := LIBRARIES.get(type(array).__module__.partition(".")[0]))}
    if len(found) > 1:
        raise UserError("the field, its parameters and `y0` must be of one framework; there are torch's and JAX's.")
    return found.pop() if found else framework_of(function, "field")


def _arrays_of(function: Any) -> list[Array]:
    """The parameters of a module; of a function nothing is known."""
    torch, equinox = sys.modules.get("torch"), sys.modules.get("equinox")
    if torch is not None and isinstance(function, torch.nn.Module):
        return list(function.parameters())
    if equinox is not None and isinstance(function, equinox.Module):
        return [leaf for leaf in sys.modules["jax"].tree.leaves(function) if equinox.is_array(leaf)]
    return []


def _leaves(value: Any) -> Iterator[Array]:
    """The arrays in a tuple, list or mapping of such."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    elif hasattr(value, "dtype"):
        yield value


def _array(part: Any) -> np.ndarray:
    """A tensor, array or list of numbers in NumPy."""
    if hasattr(part, "detach"):
        part = part.detach().cpu()
        if str(part.dtype) == "torch.bfloat16":
            raise UserError("`dtype` must be float32 or float64; `y0` is in bfloat16.")
    found = np.asarray(part)
    if found.dtype == object:
        raise UserError(f"`y0` must be a tensor or array, or a tuple of such; got {type(part).__name__}.")
    return found


def _times(t: Any) -> tuple[float, ...]:
    values = t.detach().cpu() if hasattr(t, "detach") else t
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"`t` must be numbers, the output times; got {t!r}.") from None
    if found.ndim != 1 or not np.isfinite(found).all():
        raise UserError(f"`t` must be finite output times, of shape (n,); its shape is {found.shape}.")
    return tuple(found.tolist())


def _several(values: Any) -> Any:
    """A list of what may stand alone."""
    return [values] if isinstance(values, str | int | float) else values


def _name(field: Any) -> str:
    """What tables call a field: letters and digits, since options of a task are text."""
    return re.sub(r"\W+", "", field_name(field)) or "field"
