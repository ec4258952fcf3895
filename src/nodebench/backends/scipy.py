"""SciPy's integrators, forward and for the continuous adjoint: what the paper of neural ODEs itself ran."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.integrate import BDF, LSODA, OdeSolver, Radau, ode
from torch import Tensor
from typing_extensions import override

from nodebench.backends.base import AbstractBackend
from nodebench.backends.solvers import MULTISTEP
from nodebench.errors import CellError, DivergedError, StepLimitError, UserError
from nodebench.frameworks.torch.derivative import first_derivative_alone
from nodebench.frameworks.torch.field import (
    Layout,
    from_one_vector,
    layout,
    output_times,
    parameters,
    real_sizes,
    real_view,
    state_parts,
)
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid

LARGEST_JACOBIAN = 2**31
"""LSODA counts the numbers of its work array in 32 bits."""

LARGEST_DIFFERENCED = 2048
"""Numbers of a backward state beyond which no Jacobian of it is found by finite differences."""

SMALLEST_RTOL = 100 * float(np.finfo(np.float64).eps)
"""SciPy raises a smaller one to this by itself, but for VODE."""

_Derivative = Callable[[float, np.ndarray], np.ndarray]
"""Flat float64 state of any length to its derivative."""


@dataclass(frozen=True)
class Scipy(AbstractBackend):
    """SciPy's LSODA, VODE, Radau or BDF, and the continuous adjoint by the same integrator, as in the paper.

    The backward state `[y, a, dL/dparams]` is one flat float64 vector, started anew from the stored state at every
    output time. Multistep methods evaluate once or twice a step where a Runge-Kutta method does six times, and pay for
    it with many short steps of low order at each start: cheap over one long interval, dear over many output times. The
    field is computed in its own dtype on its own device; every evaluation passes through a float64 array of the host.

    LSODA is driven by `scipy.integrate.LSODA`, VODE by `scipy.integrate.ode`: the interfaces that go step by step, so
    that steps can be counted and limited. `solve_ivp` has no VODE, and neither it nor `odeint` limits a whole solve.
    LSODA sets aside a dense Jacobian of the backward state, for the case that it finds the problem stiff. Radau and BDF
    are for stiff problems, and find one by finite differences: as many evaluations as the backward state has numbers.

    Memory is independent of the steps. Prefer `adjoint` unless it is the paper's solver that is in question.

    References:
        Neural ordinary differential equations (Chen, Rubanova, Bettencourt, Duvenaud, 2018), section 3 and appendix B,
        https://arxiv.org/abs/1806.07366
        The integrators: see `nodebench.backends.solvers`.
    """

    framework: ClassVar[str] = "torch"
    exact_counterpart = None  # no backend differentiates a multistep method's steps
    memory_exponent = 0.0

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """Solvers of others, and what LSODA, Radau or BDF cannot hold."""
        if spec.solver not in _INTEGRATORS:
            return _no_such(spec.solver)
        if spec.controller != "integral":
            return f"{spec.solver} chooses its steps by itself; leave `controller` out."
        if spec.rtol < SMALLEST_RTOL and spec.solver != "vode-adams":
            return f"{spec.solver} takes no relative tolerance below {SMALLEST_RTOL:.2g}; got {spec.rtol:g}."
        return None if spec.solver == "vode-adams" else _beyond(problem, spec)

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """Solve, differentiably.

        Raises:
            CellError: Besides the base class's, if the integrator gives up for another reason than its steps.
        """
        setup = _ScipySetup(field, layout(y0), spec)
        flat: Tensor = _ScipyAdjoint.apply(  # type: ignore[no-untyped-call]
            setup, setup.layout.flatten(y0), times, *parameters(field)
        )
        return setup.layout.state(flat)

    @override
    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid:
        """The steps of the forward solve; VODE's last one reaches past the last output time.

        Without a first step VODE tries some before it starts, which count as rejected.
        """
        setup, marks, solver = _ScipySetup(field, layout(y0), spec), output_times(times), _Integration(spec)
        flat = setup.layout.flatten(y0)
        for _ in solver.solve(_Forward(setup, flat), _numbers(flat), marks):
            pass
        return StepGrid((marks[0], *solver.ends), solver.n_tried - len(solver.ends))

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        norm = "the largest entry" if spec.solver == "lsoda" else "the root mean square"
        jacobian = {
            "lsoda": ("it sets aside a dense Jacobian, the square of its state in memory, used or not.",),
            "vode-adams": (),
        }.get(spec.solver, ("it finds a dense Jacobian by finite differences, an evaluation for each number.",))
        kind = "an implicit Runge-Kutta" if spec.solver == "radau" else "a multistep"
        return (
            *jacobian,
            f"it is {kind} method, whose steps follow the problem: not the tableau of any other.",
            f"its error norm is {norm}, backward over state, adjoint and parameters' gradient as one vector.",
            "its state is float64 on the host, whatever dtype and device the field has.",
            "it interpolates to output times forward, and starts anew with the first step at each of them backward.",
        )


def _no_such(solver: str) -> str:
    return f"`{solver}` is none of SciPy's; use {', '.join(f'`{name}`' for name in _INTEGRATORS)}."


def _beyond(problem: Problem, spec: SolverSpec) -> str | None:
    """Why the Jacobian of the backward state is too large, in one sentence, or None."""
    state = sum(part.numel() for part in state_parts(problem.y0))
    size = 2 * state + sum(real_sizes(parameters(problem.field)))
    if size**2 < LARGEST_JACOBIAN and (spec.solver == "lsoda" or size <= LARGEST_DIFFERENCED):
        return None
    has = "sets aside a dense Jacobian" if spec.solver == "lsoda" else "finds a dense Jacobian by finite differences"
    why = "more than it can count" if spec.solver == "lsoda" else "which would take hours"
    return (
        f"{spec.solver} {has}, {size}² numbers for the backward state here, {why}; take the solver `vode-adams`, which "
        "needs none."
    )


@dataclass(frozen=True)
class _ScipySetup:
    field: Field
    layout: Layout
    spec: SolverSpec


class _ScipyAdjoint(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, setup: _ScipySetup, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        states = _Integration(setup.spec).solve(_Forward(setup, y0), _numbers(y0), output_times(times))
        ys = _tensor(np.stack([_numbers(y0), *states]), y0)
        ctx.setup = setup
        ctx.save_for_backward(ys, times, *params)
        return ys

    @staticmethod
    @first_derivative_alone
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        ys, times, *params = ctx.saved_tensors
        timed, augmented = ctx.needs_input_grad[2], _Augmented(ctx.setup, params, ys[0])
        by_y0, by_params, by_marks = _solve_backward(
            augmented, _numbers(ys), _numbers(grad_ys), output_times(times), timed=timed
        )
        by_times = times.new_tensor(by_marks) if timed else None
        found = from_one_vector(torch.tensor(by_params), params)
        shaped = [value.to(p.device, p.dtype) for value, p in zip(found, params, strict=True)]
        return None, _tensor(by_y0, ys), by_times, *shaped


def _solve_backward(
    augmented: "_Augmented", ys: np.ndarray, grad_ys: np.ndarray, marks: Sequence[float], *, timed: bool
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The gradients of the initial state, of the parameters and, where `timed`, of the output times, zero elsewhere."""
    solver, n = _Integration(augmented.spec), ys.shape[1]
    adjoint, by_params, by_times = np.zeros(n), np.zeros(augmented.n_params), [0.0] * len(marks)
    for i in range(len(marks) - 1, 0, -1):
        if timed:
            by_times[i] = grad_ys[i] @ augmented.plain(marks[i], ys[i])
        adjoint = adjoint + grad_ys[i]
        # The stored state, not the one reconstructed backwards, whose error would otherwise go on.
        (end,) = solver.solve(augmented, np.concatenate([ys[i], adjoint, by_params]), (marks[i], marks[i - 1]))
        adjoint, by_params = end[n : 2 * n], end[2 * n :]
    if timed:
        by_times[0] = -adjoint @ augmented.plain(marks[0], ys[0])
    return adjoint + grad_ys[0], by_params, by_times


class _Forward:
    """The field on flat float64 arrays, without a graph.

    Args:
        setup: Field and layout.
        like: A tensor of the dtype and on the device of the field.
    """

    def __init__(self, setup: _ScipySetup, like: Tensor) -> None:
        self._setup, self._like = setup, like

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        shape = self._setup.layout
        with torch.no_grad():
            return _joined(shape.evaluate(self._setup.field, t, shape.parts(_tensor(y, self._like))))


class _Augmented:
    """The dynamics of `[y, a, dL/dparams]`: f, -aᵀ ∂f/∂y and -aᵀ ∂f/∂θ, equations 10 to 12 of the paper.

    Args:
        setup: Field, layout and spec.
        params: Parameters of the field.
        like: A tensor of the dtype and on the device of the field.
    """

    def __init__(self, setup: _ScipySetup, params: Sequence[Tensor], like: Tensor) -> None:
        self._setup, self._params, self._like = setup, tuple(params), like
        self.spec, self.plain = setup.spec, _Forward(setup, like)
        self.n_params = sum(real_sizes(params))

    def __call__(self, t: float, z: np.ndarray) -> np.ndarray:
        """Evaluate the field and one vector-Jacobian product of it."""
        shape, n = self._setup.layout, self._like.numel()
        y, a = shape.parts(_tensor(z[:n], self._like)), shape.parts(_tensor(z[n : 2 * n], self._like))
        leaves = [part.detach().requires_grad_() for part in y]
        with torch.enable_grad():
            parts = shape.evaluate(self._setup.field, t, leaves)
        inputs = (*leaves, *self._params)
        taped = [(part, covector) for part, covector in zip(parts, a, strict=True) if part.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if taped:
            outputs, covectors = zip(*taped, strict=True)
            found = torch.autograd.grad(outputs, inputs, covectors, allow_unused=True)
        products = [real_view(torch.zeros_like(x) if g is None else -g) for x, g in zip(inputs, found, strict=True)]
        return _joined([part.detach() for part in parts] + products)


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    # Always a copy: the integrator goes on writing into the array that it hands out.
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float64).numpy()


def _joined(parts: Sequence[Tensor]) -> np.ndarray:
    return _numbers(torch.cat([part.reshape(-1) for part in parts]))


class _Vode:
    """SciPy's VODE step by step.

    Args:
        derivative: What is solved.
        y0: State at `span[0]`.
        span: Where the solve begins and ends.
        spec: Tolerances and first step.

    Attributes:
        t: Where the last step ended, past the end of the solve at last.
    """

    def __init__(self, derivative: _Derivative, y0: np.ndarray, span: tuple[float, float], spec: SolverSpec) -> None:
        self._end, self.t = span[1], span[0]
        first = np.copysign(_first_step(span, spec) or 0.0, span[1] - span[0])  # zero leaves it the choice
        self._ode = ode(derivative)
        self._ode.set_integrator("vode", method="adams", rtol=spec.rtol, atol=spec.atol, first_step=first)
        self._ode.set_initial_value(y0, span[0])

    def step(self) -> np.ndarray:
        """Take a step and return the state at its end."""
        y: np.ndarray = self._ode.integrate(self._end, step=True)
        self.t = self._ode.t
        return y

    def at(self, t: float) -> np.ndarray:
        """The state at a time within the last step."""
        if t == self.t:  # there VODE may refuse to interpolate
            return np.array(self._ode.y)
        y: np.ndarray = self._ode.integrate(t)  # behind where it is, it interpolates instead of stepping
        return y.copy()


class _Stepping:
    """One of SciPy's integrators that go step by step; it ends a step on the end of the solve.

    Args:
        make: LSODA, Radau or BDF; the others are as of `_Vode`, which also has the attributes.
    """

    def __init__(
        self,
        make: type[OdeSolver],
        derivative: _Derivative,
        y0: np.ndarray,
        span: tuple[float, float],
        spec: SolverSpec,
    ) -> None:
        first = _first_step(span, spec)
        self._solver = make(derivative, span[0], y0, span[1], first_step=first, rtol=spec.rtol, atol=spec.atol)
        self.t = span[0]

    def step(self) -> np.ndarray:
        """Take a step and return the state at its end."""
        with np.errstate(over="ignore", invalid="ignore"):  # of Radau, with the smallest steps of one that fails
            told = self._solver.step()
        if self._solver.status == "failed":
            raise UserWarning(told)  # as what LSODA and VODE say by themselves becomes one
        self.t = self._solver.t
        y: np.ndarray = self._solver.y
        return y

    def at(self, t: float) -> np.ndarray:
        """The state at a time within the last step."""
        y: np.ndarray = self._solver.y if t == self.t else self._solver.dense_output()(t)
        return y


def _first_step(span: tuple[float, float], spec: SolverSpec) -> float | None:
    return None if spec.first_step is None else min(spec.first_step, abs(span[1] - span[0]))


_INTEGRATORS: Mapping[str, Callable[..., _Vode | _Stepping]] = {
    "lsoda": partial(_Stepping, LSODA),
    "vode-adams": _Vode,
    "radau": partial(_Stepping, Radau),
    "bdf": partial(_Stepping, BDF),
}

_TIMES_OF_A_TRY = {"radau": 3}
"""At how many times a try at a step is evaluated, where at more than one."""


class _Integration:
    """Solves with one of SciPy's integrators, any number of times within one limit of steps.

    Args:
        spec: Integrator, tolerances, first step and limit.

    Attributes:
        ends: Where each accepted step ended.
        n_tried: Steps so far, rejected ones included.

    Raises:
        UserError: If SciPy has no such integrator.
    """

    def __init__(self, spec: SolverSpec) -> None:
        if spec.solver not in _INTEGRATORS:
            raise UserError(_no_such(spec.solver))
        self._spec = spec
        self.ends: list[float] = []
        self.n_tried = 0

    def solve(self, derivative: _Derivative, y0: np.ndarray, marks: Sequence[float]) -> Iterator[np.ndarray]:
        """The states at each of `marks` but the first, where the state is `y0`."""
        watched = _WatchedDerivative(derivative, compiled=self._spec.solver in MULTISTEP)
        # A copy: it shares its memory with a tensor of the caller's, and the integrator works in place.
        integrator = _INTEGRATORS[self._spec.solver](watched, y0.copy(), (marks[0], marks[-1]), self._spec)
        direction = np.sign(marks[-1] - marks[0])
        for mark in marks[1:]:
            while direction * (mark - integrator.t) > 0:
                self._step(integrator, watched)
            yield integrator.at(mark)

    def _step(self, integrator: _Vode | _Stepping, watched: "_WatchedDerivative") -> None:
        start = integrator.t
        with _named_errors(self._spec.solver, start, watched):
            y = integrator.step()
        self.ends.append(integrator.t)
        self.n_tried += watched.tries(start, _TIMES_OF_A_TRY.get(self._spec.solver, 1))
        if not np.isfinite(y).all():
            raise DivergedError(f"{self._spec.solver}: the state left the finite numbers after t = {start:.6g}.")
        if self.n_tried > self._spec.max_steps:
            raise StepLimitError(
                f"{self._spec.solver}: the limit of {self._spec.max_steps} steps was reached at t = {start:.6g}; "
                "raise `max_steps` or loosen the tolerances."
            )


class _WatchedDerivative:
    """A derivative that remembers where it was asked for, whether its last value was finite, and what it raised.

    Nothing is raised through SciPy's compiled code: VODE goes on to ask for values while an exception is pending, and
    what the interpreter then looks up may fail. It is handed NaN, with which it gives up, and the error comes after.

    Args:
        derivative: The derivative.
        compiled: Whether compiled code calls it.
    """

    def __init__(self, derivative: _Derivative, *, compiled: bool) -> None:
        self._derivative, self._compiled = derivative, compiled
        self._times: list[float] = []
        self.finite = True
        self.error: BaseException | None = None

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        if self.error is not None:
            return np.full_like(y, np.nan)
        try:
            value = self._derivative(float(t), y)
        except BaseException as error:
            self.error = error
            if not self._compiled:
                raise
            return np.full_like(y, np.nan)
        self._times.append(float(t))
        self.finite = bool(np.isfinite(value).all())
        return value

    def tries(self, start: float, times_each: int) -> int:
        """How many steps were tried from `start` since the last call; no integrator tells what it rejects.

        A try evaluates at as many times, all of its own, however often it corrects: a rejected one is followed by a
        shorter one.
        """
        tried = len({t for t in self._times if t != start})
        self._times.clear()
        return ceil(tried / times_each)


@contextmanager
def _named_errors(solver: str, start: float, watched: _WatchedDerivative) -> Iterator[None]:
    """Raise the field's own error, or turn the warning with which SciPy says that an integrator gave up into ours.

    Raises:
        DivergedError: If the derivative was not finite.
        CellError: If it was.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"(vode|lsoda): ", category=UserWarning)
        try:
            yield
        except (UserWarning, ValueError) as failed:  # linear algebra refuses what is not finite by a `ValueError`
            if watched.error is None:
                if not watched.finite:
                    raise DivergedError(f"{solver}: the derivative is not finite after t = {start:.6g}.") from failed
                if isinstance(failed, ValueError):
                    raise
                raise CellError(f"{solver} gave up after t = {start:.6g}; {failed}") from failed
    if watched.error is not None:
        raise watched.error
