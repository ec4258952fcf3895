"""torchdiffeq: one solve, and the two ways in which it is differentiated."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torchdiffeq
from torch import Tensor
from typing_extensions import override

from nodebench.backends.base import AbstractBackend
from nodebench.backends.step_size import equal_steps
from nodebench.errors import DivergedError, StepLimitError
from nodebench.frameworks.base import IN_BACKWARD_SOLVE, AbstractFramework, GradientStep
from nodebench.frameworks.torch.derivative import refuse_second_derivative
from nodebench.frameworks.torch.field import layout, parameters, state_parts
from nodebench.problem import Array, Field, Problem, SolverSpec, State, StepGrid

METHODS: Mapping[str, str] = {
    "euler": "euler",
    "midpoint": "midpoint",
    "rk38": "rk4",
    "bosh3": "bosh3",
    "dopri5": "dopri5",
    "dopri8": "dopri8",
}
"""Our names of solvers to torchdiffeq's."""

NAMESAKES: Mapping[str, str] = {
    "rk4": "torchdiffeq's `rk4` is the 3/8 rule, another method than the classical one: ask for `rk38`.",
    "heun": (
        "torchdiffeq's `adaptive_heun` is another method: it begins each step with the derivative at the end that "
        "Euler's method predicted for the last one, not at the end itself."
    ),
}
"""Why methods of a like name are not ours."""

FIXED = ("euler", "midpoint", "rk38")


def options(y0: State, times: Tensor, spec: SolverSpec, *, land: bool) -> dict[str, Any]:
    """Torchdiffeq's options for a solve, the same forward and backward.

    Args:
        y0: Initial state.
        times: Output times.
        spec: First step and limit.
        land: Whether to step onto every output time instead of interpolating to it; equal steps do so in any case.

    Raises:
        UserError: If the state is none that our own solvers take.
    """
    layout(y0)
    if spec.solver in FIXED:
        return {"grid_constructor": _equal_steps(spec)}
    chosen: dict[str, Any] = {"max_num_steps": spec.max_steps}
    if spec.first_step is not None:
        chosen["first_step"] = spec.first_step
    if land:
        chosen["step_t"] = times.detach()
    if isinstance(y0, tuple):
        # Its own norm of a tuple is the largest of the parts' norms; a comparison holds the norm equal for all.
        chosen["norm"] = _rms
    return chosen


def _rms(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts]).pow(2).mean().sqrt()


def _equal_steps(spec: SolverSpec) -> Callable[..., Tensor]:
    """A grid of equal steps in every output interval, as our own solver takes; torchdiffeq itself has no limit there.

    Raises, when it is called:
        StepLimitError: If they are more than `spec.max_steps`.
    """

    def grid(func: object, y0: object, times: Tensor) -> Tensor:
        del func, y0
        assert spec.first_step is not None, "without one, the spec is unsupported"
        marks = times.tolist()
        counts = [equal_steps(end - begin, spec.first_step) for begin, end in pairwise(marks)]
        if sum(counts) > spec.max_steps:
            raise StepLimitError(
                f"torchdiffeq: it is {sum(counts)} steps from t = {marks[0]:.6g} to t = {marks[-1]:.6g}, and "
                f"{spec.max_steps} are allowed; raise `max_steps` or take longer ones."
            )
        pieces = [times[:1]]
        for n, begin, end in zip(counts, times[:-1], times[1:], strict=True):
            fractions = torch.arange(1, n, dtype=times.dtype, device=times.device) / n
            pieces += [begin + (end - begin) * fractions, end.reshape(1)]
        return torch.cat(pieces)

    return grid


@contextmanager
def named_errors(where: str = "") -> Iterator[None]:
    """Turn torchdiffeq's assertions into errors of ours, which begin with `where`.

    Raises:
        StepLimitError: For its limit of steps.
        DivergedError: For a step that underflows or a state that is not finite.
    """
    try:
        yield
    except AssertionError as error:
        text = str(error).partition(": tensor(")[0]  # without all the numbers of the state
        if text.startswith("max_num_steps exceeded"):
            raise StepLimitError(f"{where}torchdiffeq: {text}; raise `max_steps` or loosen the tolerances.") from error
        if text.startswith(("underflow in dt", "non-finite values")):
            raise DivergedError(f"{where}torchdiffeq: {text}.") from error
        raise


class _ReportingField:
    """A field that tells torchdiffeq where to report its steps."""

    def __init__(self, field: Field, times: Tensor, *, adaptive: bool) -> None:
        self._field = field
        # torchdiffeq runs decreasing times mirrored: it reports where a step begins as it is, and its length mirrored.
        self._sign = 1.0 if times[-1] > times[0] else -1.0
        self.boundaries = [times[0].item()]
        self.n_rejected = 0
        if adaptive:  # a method of fixed steps warns of callbacks that it does not know
            self.callback_accept_step = self._accept
            self.callback_reject_step = self._reject
        else:
            self.callback_step = self._accept

    def __call__(self, t: Tensor, y: State) -> State:
        return self._field(t, y)

    def _accept(self, t0: Tensor, y0: State, dt: Tensor) -> None:
        del y0
        self.boundaries.append((t0 + self._sign * dt).item())

    def _reject(self, t0: Tensor, y0: State, dt: Tensor) -> None:
        del t0, y0, dt
        self.n_rejected += 1


class AbstractTorchdiffeq(AbstractBackend):
    """A backend of torchdiffeq, which takes the forward steps of `torchdiffeq`.

    Attributes:
        land: Whether every output time is stepped onto; an option of each final subclass.
    """

    framework: ClassVar[str] = "torch"
    land: bool

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        del problem
        if spec.solver in NAMESAKES:
            return NAMESAKES[spec.solver]
        if spec.solver not in METHODS:
            return f"torchdiffeq has no `{spec.solver}`; of ours it has {', '.join(METHODS)}."
        if spec.solver in FIXED and spec.first_step is None:
            return f"`{spec.solver}` has no error estimate, so that it needs `first_step`."
        if spec.controller != "integral" and spec.solver not in FIXED:
            return f"torchdiffeq has the integral controller of the step size alone, not `{spec.controller}`."
        return None

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        if spec.solver in FIXED:
            return ()
        inside = "it reaches output times by interpolating inside a step (its `land` option changes that)."
        return (*(() if self.land else (inside,)), "its step limit counts anew from each output time.")

    @property
    @override
    def exact_counterpart(self) -> str | None:
        return f"torchdiffeq[land={str(self.land).lower()}]"

    @override
    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid:
        """The steps of the forward solve; without `land` the last one reaches past the last output time."""
        times = times.detach()
        watched = _ReportingField(field, times, adaptive=spec.solver not in FIXED)
        chosen = options(y0, times, spec, land=self.land)
        with torch.no_grad(), named_errors():
            torchdiffeq.odeint(
                watched, y0, times, rtol=spec.rtol, atol=spec.atol, method=METHODS[spec.solver], options=chosen
            )
        return StepGrid(tuple(watched.boundaries), watched.n_rejected)


@dataclass(frozen=True)
class Torchdiffeq(AbstractTorchdiffeq):
    """torchdiffeq's `odeint`: backpropagation through everything its solver does.

    It reaches an output time by interpolating inside a step. Its step limit counts anew from each output time.

    Attributes:
        land: Step onto every output time instead, through its options `step_t` and `grid_constructor`.

    References:
        torchdiffeq (Chen, 2018), https://github.com/rtqichen/torchdiffeq
    """

    framework: ClassVar[str] = "torch"
    memory_exponent = 1.0  # the tape of all steps, rejected ones included
    on_tape = True
    land: bool = False

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        chosen = options(y0, times, spec, land=self.land)
        with named_errors():
            ys: State = torchdiffeq.odeint(
                field, y0, times, rtol=spec.rtol, atol=spec.atol, method=METHODS[spec.solver], options=chosen
            )
        return ys


@dataclass(frozen=True)
class TorchdiffeqAdjoint(AbstractTorchdiffeq):
    """torchdiffeq's `odeint_adjoint`: the continuous adjoint, started anew at every output time.

    The backward solve has the tolerances, the first step and the step limit of the forward solve. It gives first
    derivatives alone, which the library itself does not say: a second would lack what comes through the solve.

    Attributes:
        norm: Error norm of the backward solve: `full` or torchdiffeq's `seminorm`.
        land: Step onto every output time instead of interpolating to it, forward and backward.

    References:
        Neural ordinary differential equations (Chen, Rubanova, Bettencourt, Duvenaud, 2018),
        https://arxiv.org/abs/1806.07366
    """

    framework: ClassVar[str] = "torch"
    memory_exponent = 0.0
    norm: Literal["full", "seminorm"] = "full"
    land: bool = False

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        if any(p.is_complex() for p in parameters(problem.field)):
            return (
                "torchdiffeq's adjoint has one vector for state and gradients, which a complex parameter makes complex."
            )
        return super().unsupported(problem, spec)

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        chosen = options(y0, times, spec, land=self.land)
        adjoint_options = {name: value for name, value in chosen.items() if name != "norm"}
        # Methods of fixed steps have no error norm.
        if self.norm == "seminorm" and spec.solver not in FIXED:
            adjoint_options["norm"] = "seminorm"
        with named_errors():
            ys: State = torchdiffeq.odeint_adjoint(
                field,
                y0,
                times,
                rtol=spec.rtol,
                atol=spec.atol,
                method=METHODS[spec.solver],
                options=chosen,
                adjoint_options=adjoint_options,
                adjoint_params=tuple(parameters(field)),
            )
        for part in state_parts(ys):
            if part.requires_grad:
                part.register_hook(lambda _: refuse_second_derivative())  # type: ignore[no-untyped-call]
        return ys

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        return (
            *super().differences(spec),
            "its backward solve carries the gradient of every parameter as part of the state, in every stage.",
        )

    @override
    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> GradientStep:
        """The common gradient step, its backward errors named: the backward pass solves outside of `solve`."""
        step, named = framework.gradient_step(self.solve, problem, spec), named_errors(IN_BACKWARD_SOLVE)
        return replace(step, step=named(step.step), backward=named(step.backward), evaluations=named(step.evaluations))
