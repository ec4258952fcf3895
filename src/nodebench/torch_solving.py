"""`nodebench.odeint`: torchdiffeq's call, with any gradient method of torch that nodebench measures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from math import sqrt
from numbers import Real
from typing import Any, NoReturn, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.named import backend
from nodebench.backends.solvers import method as solver_of
from nodebench.backends.step_size import chosen_first_step
from nodebench.errors import UnknownNameError, UnsupportedError, UserError
from nodebench.frameworks.base import field_name
from nodebench.frameworks.torch.field import Layout, layout, output_times, parameters, state_parts
from nodebench.frameworks.torch.inspection import hidden, named
from nodebench.problem import Dtype, Field, Problem, SolverSpec, State

_Function = TypeVar("_Function", bound=Callable[..., Any])

DTYPES: Mapping[torch.dtype, Dtype] = {torch.float32: "float32", torch.float64: "float64"}
"""The types that a state may have."""

MAX_STEPS = 1_000_000
"""Limit of steps where none is given: minutes of the smallest field, and still an end."""

_BACKWARD = "the backward solve has the method, tolerances and options of the forward solve"

COUNTERPARTS: Mapping[str, str] = {
    "adjoint_atol": f"{_BACKWARD}; tighten `atol` for both",
    "adjoint_method": f"{_BACKWARD}; leave it out",
    "adjoint_options": f'{_BACKWARD}; its norm is an option of the backend, gradient="adjoint[norm=seminorm]"',
    "adjoint_params": "every parameter of the field that requires a gradient gets one; make the field an `nn.Module` "
    "with what it is to be differentiated by, and freeze the others by `requires_grad_(False)`",
    "adjoint_rtol": f"{_BACKWARD}; tighten `rtol` for both",
    "event_fn": "a solve ends at the last output time, and no event ends it; find the event with torchdiffeq, and "
    "solve up to it here",
}
"""What stands here for an argument that torchdiffeq has beside those of `odeint`."""


@dataclass(frozen=True)
class SolveOptions:
    """The options of `odeint`, each by the name that torchdiffeq has for it where it means the same there.

    Attributes:
        first_step: Length of the first step of a method that chooses its steps, positive; by default it is chosen from
            the problem, as in a benchmark.
        step_size: Longest step of a method of fixed steps, positive: each interval between two output times is divided
            into equal steps no longer than this. By default each is one step.
        max_steps: Limit of accepted and rejected steps in one solve, forward or backward; torchdiffeq's
            `max_num_steps` counts anew from each output time.
        controller: How a method that chooses its steps does so, `"integral"` or `"pi"`; see `SolverSpec`.
    """

    first_step: float | None = None
    step_size: float | None = None
    max_steps: int = MAX_STEPS
    controller: str = "integral"


def _uncompiled(function: _Function) -> _Function:
    """Have a compiled caller call a function as it is, between two graphs."""
    disabled: _Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return disabled


@_uncompiled
def odeint(  # noqa: PLR0913  it has the arguments that its users know
    field: Field,
    y0: State,
    t: Tensor,
    *,
    gradient: str = "direct",
    method: str = "dopri5",
    rtol: float = 1e-7,
    atol: float = 1e-9,
    options: Mapping[str, Any] | None = None,
    **others: object,
) -> State:
    """Solve dy/dt = field(t, y) from `y0` at `t[0]`, differentiably, by the gradient method that was measured.

    The call is torchdiffeq's `odeint`, and `gradient` names any backend of torch: `nodebench.odeint(field, y0, t,
    gradient="adjoint[norm=seminorm]")`. It is solved as `nodebench run` solves it, with the first step chosen in the
    same way: two evaluations before the first step.

    Gradients are those of the backend: with respect to `y0`, the parameters of a field that is an `nn.Module`, and `t`
    where the backend has it. A field that uses other trainable tensors is refused unless the backend differentiates by
    them (`torchdiffeq`). To find them the field is evaluated with a graph: as one of the two evaluations before the
    first step, or, where the first step is given, once more for each module and for each call of a plain function.
    Without gradients (`torch.no_grad`, `torch.inference_mode`, or nothing that requires one) no graph is kept.

    Args:
        field: The vector field, `field(t, y)`, with `t` a scalar tensor like the state; it returns what is like `y`.
        y0: Initial state, a tensor or a tuple of tensors in float32 or float64.
        t: Output times, shape `(n,)`, n >= 2, strictly increasing or decreasing, in any floating-point type.
        gradient: The gradient method: a backend by its name with options, `module:Class` or `file.py:Class`. It is
            made once for a process.
        method: The solver, one of `nodebench list solvers`.
        rtol: Relative tolerance of the root-mean-square error norm.
        atol: Absolute tolerance of the same norm, in units of the state.
        options: Any of `first_step`, `step_size`, `max_steps` and `controller`; see `SolveOptions`. The limit of steps
            is a million, not the 256 of a benchmark.
        others: None; an argument of torchdiffeq that has no place here is told what stands for it.

    Returns:
        The states at each of `t`, shape `(n, *y0.shape)`, or a tuple of such tensors, in the dtype and on the device of
        `y0`.

    Raises:
        UserError: If an argument is wrong.
        UnsupportedError: If the backend cannot solve or differentiate this, in its own words.
        NotInstalledError: If a library that the backend imports is missing.
        StepLimitError: If the steps do not suffice.
        DivergedError: If the state leaves the finite numbers.
    """
    if others:
        _refuse(others)
    solver = _torch_backend(gradient)
    shape, marks = layout(y0), _marks(t)
    _refuse_transforms(y0)
    spec = _spec(method, rtol, atol, _options(options), shape.dtype, marks)
    graph = torch.is_grad_enabled()
    params = parameters(field) if graph else []
    look = graph and not solver.on_tape
    start = _Start(field, shape, marks[0], y0, gradient)
    if look and (spec.first_step is None or start.is_new()):
        start.refuse_hidden(params)
    spec = replace(spec, first_step=chosen_first_step(spec, marks, start.rate, start.y, _rms))
    problem = Problem(field, y0, t, _no_loss, differentiate_times=graph and t.requires_grad)
    reason = solver.unsupported(problem, spec)
    if reason is not None:
        raise UnsupportedError(f"`{gradient}`: {reason}")
    wanted = solver.on_tape or any(each.requires_grad for each in (*state_parts(y0), t, *params))
    with torch.set_grad_enabled(graph and wanted):
        return solver.solve(field, y0, t.to(start.y.device), spec)


_LOOKED_AT: WeakSet[nn.Module] = WeakSet()
"""Fields that are known to use no trainable tensor besides their parameters."""


class _Start:
    """The field where a solve begins.

    Args:
        field: The field.
        shape: Layout of its state.
        t: The first time.
        y0: The state there.
        gradient: The backend, as it was named.

    Attributes:
        y: The state, flat and without a graph.
    """

    def __init__(self, field: Field, shape: Layout, t: float, y0: State, gradient: str) -> None:
        self._field, self._shape, self._t, self._gradient = field, shape, t, gradient
        self.y = shape.flatten(y0).detach()
        self._found: Tensor | None = None  # the derivative, where it has been evaluated

    def is_new(self) -> bool:
        """Whether this field has not been looked at before."""
        return self._field not in _LOOKED_AT if isinstance(self._field, nn.Module) else True

    def refuse_hidden(self, params: Sequence[Tensor]) -> None:
        """See that the field uses no trainable tensor besides its parameters.

        Raises:
            UnsupportedError: If it does, with their names.
        """
        found = hidden(self._with_graph, params)
        if found:
            raise UnsupportedError(
                f"the field `{field_name(self._field)}` depends on {named(found, self._field)}, which requires a "
                f"gradient and is none of its parameters, and `{self._gradient}` differentiates by y0, t and the "
                "parameters of an `nn.Module` alone; make the field a module with what it is to be differentiated by, "
                'or take gradient="torchdiffeq", which differentiates by all that a field uses.'
            )
        if isinstance(self._field, nn.Module):
            _LOOKED_AT.add(self._field)

    def _with_graph(self) -> Sequence[Tensor]:
        with torch.enable_grad():
            parts = self._shape.evaluate(self._field, self._t, self._shape.parts(self.y))
        self._found = self._flat(parts)
        return parts

    def rate(self, t: float, y: Tensor) -> Tensor:
        """The flat derivative, without a graph; that where the solve begins is evaluated once."""
        if self._found is not None and y is self.y:
            return self._found
        with torch.no_grad():
            return self._flat(self._shape.evaluate(self._field, t, self._shape.parts(y)))

    def _flat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.detach().reshape(-1) for part in parts])


@cache
def _torch_backend(text: str) -> AbstractBackend:
    """The backend of a name.

    Raises:
        UserError: If it is not one of torch, or as `backend`.
    """
    framework = registry.describe("backend", text).framework or backend(text).framework
    if framework != "torch":
        raise UserError(
            f"`{text}` is a gradient method of {framework}, and `odeint` solves in torch; use "
            f'nodebench.backend("{text}").solve(field, y0, times, spec) in {framework}.'
        )
    return backend(text)


def _refuse_transforms(y0: State) -> None:
    """See that no derivative is asked for but that of a backward pass: a solve decides by numbers, and has no other.

    Raises:
        UnsupportedError: Within a transform of `torch.func`, or for a state with a tangent of forward mode.
    """
    transformed = torch._C._are_functorch_transforms_active()  # noqa: SLF001  what `autograd.Function` itself asks
    dual = (unpack_dual(part).tangent for part in state_parts(y0))  # type: ignore[no-untyped-call]
    if transformed or any(tangent is not None for tangent in dual):
        raise UnsupportedError(
            "`odeint` cannot be transformed by `torch.func` (vmap, grad, jvp), and has no forward mode; put the batch "
            "into `y0`, and differentiate by `torch.autograd.grad` or `backward`."
        )


def _marks(t: object) -> list[float]:
    """Output times as Python floats.

    Raises:
        UserError: If they are none, or as `output_times`.
    """
    if not (isinstance(t, Tensor) and t.is_floating_point()):
        raise UserError(f"`t` must be a tensor of floating-point numbers, the output times; got {t!r}.")
    return output_times(t)


def _spec(
    method: str, rtol: float, atol: float, options: SolveOptions, dtype: torch.dtype, marks: Sequence[float]
) -> SolverSpec:
    """The solver spec, without the first step where that is to be chosen.

    Raises:
        UserError: If a setting makes no sense, or an option is one of other methods.
    """
    if dtype not in DTYPES:
        found = str(dtype).removeprefix("torch.")
        raise UserError(f"`y0` is {found}; a state is float32 or float64, give `y0.float()`.")
    _check_number("rtol", rtol)
    _check_number("atol", atol)
    first = options.first_step
    if solver_of(method).adaptive:
        if options.step_size is not None:
            raise UserError(f"`{method}` chooses its steps, so that it takes `first_step`, and no `step_size`.")
    elif first is not None:
        raise UserError(f"`{method}` has fixed steps, so that it takes `step_size`, and no `first_step`.")
    elif options.step_size is None:
        first = max(abs(end - begin) for begin, end in pairwise(marks))
    else:
        first = options.step_size
    return SolverSpec(
        solver=method,
        controller=options.controller,
        rtol=rtol,
        atol=atol,
        first_step=first,
        max_steps=options.max_steps,
        dtype=DTYPES[dtype],
    )


def _options(options: Mapping[str, Any] | None) -> SolveOptions:
    """What was asked for; raises `UserError` for an option that does not exist, or is no number and should be one."""
    known = [each.name for each in fields(SolveOptions)]
    for name, value in (options or {}).items():
        if name not in known:
            raise UnknownNameError("option of odeint", name, known)
        if name != "controller":
            _check_number(name, value)
    return SolveOptions(**(options or {}))


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Real):
        raise UserError(f"`{name}` must be one number, the same for every part of the state; got {value!r}.")


def _refuse(others: Mapping[str, object]) -> NoReturn:
    """Say what stands for an argument that is none."""
    name = next(iter(others))
    if name not in COUNTERPARTS:
        raise UnknownNameError("argument of odeint", name, ["gradient", "method", "rtol", "atol", "options"])
    raise UserError(f"`odeint` has no `{name}`: {COUNTERPARTS[name]}.")


def _rms(y: Tensor) -> float:
    norm: float = torch.linalg.vector_norm(y).item()
    return norm / sqrt(y.numel())


def _no_loss(states: State) -> NoReturn:
    """Stands where a problem is asked whether it can be solved, before there is a loss."""
    del states
    raise AssertionError("a solve has no loss of its own")
