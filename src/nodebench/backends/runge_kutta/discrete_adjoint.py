"""The exact discrete gradient from kept states: each step redone, then differentiated by its transpose.

The two backends differ in which states are kept and in how many graphs of the field are alive at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.runge_kutta.implicit import ImplicitRungeKutta, Visit
from nodebench.backends.runge_kutta.solve import (
    AbstractRungeKutta,
    FieldRows,
    PlainSolve,
    SolveSetup,
    Step,
    own_method,
    solve_through,
)
from nodebench.backends.runge_kutta.steps import Scheme
from nodebench.backends.runge_kutta.transpose import Graphs, LossGradient, Recorder, StageGraph, Transpose, pull_through
from nodebench.backends.solvers import tableau
from nodebench.errors import UserError
from nodebench.frameworks.torch.derivative import first_derivative_alone
from nodebench.frameworks.torch.field import layout, output_times
from nodebench.problem import Array, Field, SolverSpec, State

Kept = TypeVar("Kept")
"""A state, as the schedule of checkpoints sees it."""


@dataclass(frozen=True, kw_only=True)
class DiscreteSetup(SolveSetup):
    """What is solved, and how its steps are redone.

    Attributes:
        n_kept: How many states are kept, the initial one included; None for the state before each step.
        one_graph: Whether the graph of one stage at a time is built, the step having been redone without graphs before,
            instead of those of a whole step at once.
    """

    n_kept: int | None = None
    one_graph: bool = False


class DiscreteAdjointSolve(torch.autograd.Function):
    """A solve that keeps states instead of graphs; a function of (setup, flat y0, times, *params)."""

    @staticmethod
    @override
    def forward(ctx: Any, setup: DiscreteSetup, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        """Solve, and keep the steps and their states."""
        solve = PlainSolve(setup, y0.detach(), output_times(times))
        steps: list[Step] = []
        kept = [y0]
        for step, y in solve.steps():
            if setup.n_kept is None and steps:
                kept.append(torch.cat([y, solve.scheme.rows[0]]) if solve.scheme.tableau.hands_on else y)
            steps.append(step)
        ctx.setup, ctx.steps, ctx.dense, ctx.n_params = setup, steps, solve.dense, len(params)
        ctx.save_for_backward(times, *params, *kept)
        return solve.ys

    @staticmethod
    @first_derivative_alone
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        """Redo the steps, last one first, and pull the derivative through them."""
        times, *saved = ctx.saved_tensors
        params, kept = saved[: ctx.n_params], saved[ctx.n_params :]
        timed = ctx.needs_input_grad[2]
        rerun = _Rerun(ctx.setup, ctx.steps, kept, timed=timed)
        transpose = Transpose(rerun.scheme.tableau, kept[0], ctx.setup.layout, params, timed=timed)
        by_times = torch.zeros_like(times) if timed else None
        loss = LossGradient(ctx.steps, grad_ys, ctx.dense, rerun.scheme.tableau)
        by_y0 = pull_through(transpose, loss, rerun.graphs(), by_times)
        return None, by_y0, by_times, *transpose.params


class _Rerun:
    """Redoes steps of a known grid, without a graph to reach a state and with graphs to differentiate a step.

    The state of an implicit method whose last stage begins the next step is followed by that derivative, which cannot
    be found again from the state alone; but for the first, from which it is evaluated.
    """

    def __init__(self, setup: DiscreteSetup, steps: list[Step], kept: list[Tensor], *, timed: bool) -> None:
        self.scheme = Scheme(tableau(setup.spec.solver), kept[0])
        self._setup, self._steps, self._kept = setup, steps, [y.detach() for y in kept]
        self._plain = FieldRows(setup.field, setup.layout, self.scheme.rows)
        self._recorder = Recorder(setup.field, setup.layout, self.scheme.rows, timed=timed)

    def graphs(self) -> Iterator[tuple[int, Graphs]]:
        """The graphs of each step, last step first."""
        graphs = self._one_by_one if self._setup.one_graph else self._whole_step
        return ((i, graphs(i, y)) for i, y in self._states())

    def _states(self) -> Iterator[tuple[int, Tensor]]:
        if self._setup.n_kept is None:
            return ((i, self._kept[i]) for i in reversed(range(len(self._steps))))
        return backwards(len(self._steps), self._setup.n_kept, self._kept[0], self._advance)

    def _advance(self, i: int, y: Tensor) -> Tensor:
        y1 = self._redone(i, y, self._plain)
        return torch.cat([y1, self.scheme.rows[-1]]) if self.scheme.tableau.hands_on else y1

    def _redone(self, i: int, y: Tensor, visit: Visit) -> Tensor:
        """The state at the end of a step, whose stages `visit` evaluates, or is told of by an implicit method."""
        span, n = self._steps[i].span, self.scheme.rows.shape[1]
        if not self.scheme.tableau.implicit:
            return self.scheme.stages(visit, y, span, first_known=False)
        method = own_method(self._setup, self.scheme, None if visit is self._plain else visit)
        assert isinstance(method, ImplicitRungeKutta), "the tableau is implicit"
        if len(y) > n:
            method.begin(y[n:])
        return method.step(y[:n], span)

    def _needs_closing(self, i: int) -> bool:
        """Whether the loss depends on a closing stage that no later step begins with."""
        return i + 1 == len(self._steps) and bool(self._steps[i].thetas) and self.scheme.tableau.closes

    def _whole_step(self, i: int, y: Tensor) -> Graphs:
        span, method = self._steps[i].span, self.scheme.tableau
        with torch.enable_grad():
            y1 = self._redone(i, y, self._recorder)
            if self._needs_closing(i):
                self._recorder(method.n_stages - 1, span[1], y1)
        graphs = self._recorder.take(method)
        return graphs + self._recorder.closing() if self._needs_closing(i) else graphs

    def _one_by_one(self, i: int, y: Tensor) -> Graphs:
        span = self._steps[i].span
        n_own = self.scheme.tableau.n_own
        # The last stage's derivative leads to no other stage, only to the end of the step.
        n_evaluated = n_own if self._needs_closing(i) else n_own - 1
        visited = _StageStates(self._plain, 0 if self.scheme.tableau.implicit else n_evaluated)
        y1 = self._redone(i, y, visited)
        if self._needs_closing(i):
            visited.places.append((span[1], y1))
        handed_on = self.scheme.rows[0].clone() if len(visited.places) < n_own else None
        return _GraphsOnDemand(self._recorder, visited.places, handed_on)


class _StageStates:
    """Evaluates the first stages of a step, and keeps where all of them are."""

    def __init__(self, plain: FieldRows, n_evaluated: int) -> None:
        self._plain, self._n_evaluated = plain, n_evaluated
        self.places: list[tuple[float, Tensor]] = []

    def __call__(self, stage: int, t: float, y: Tensor) -> None:
        self.places.append((t, y))
        if stage < self._n_evaluated:
            self._plain(stage, t, y)


@dataclass(frozen=True)
class _GraphsOnDemand:
    """Graphs of a step's stages, each built when it is asked for, so that one is alive at a time."""

    recorder: Recorder
    places: list[tuple[float, Tensor]]
    handed_on: Tensor | None

    def __len__(self) -> int:
        return len(self.places) + (self.handed_on is not None)

    def pop(self) -> StageGraph:
        if not self.places:
            return StageGraph((), (), self.handed_on)
        t, y = self.places.pop()
        with torch.enable_grad():
            return self.recorder.single(t, y)


def backwards(
    n_steps: int, n_kept: int, first: Kept, advance: Callable[[int, Kept], Kept]
) -> Iterator[tuple[int, Kept]]:
    """The state before each step, last step first, with the fewest steps redone that `n_kept` states allow.

    Args:
        n_steps: Number of steps.
        n_kept: States that may be held at once, `first` among them and the one just handed out not, at least 1.
        first: State before step 0.
        advance: `advance(i, y)` redoes step i from the state before it and returns the state after it.

    Yields:
        Index of the step and the state before it.

    References:
        Algorithm 799: revolve: an implementation of checkpointing for the reverse or adjoint mode of computational
        differentiation (Griewank, Walther, 2000), https://doi.org/10.1145/347837.347846
    """
    return _sweep((0, n_steps), n_kept, first, advance)


def _sweep(
    steps: tuple[int, int], n_kept: int, first: Kept, advance: Callable[[int, Kept], Kept]
) -> Iterator[tuple[int, Kept]]:
    low, high = steps
    while high - low > n_kept + 1:
        middle, y = low + split(high - low, n_kept), first
        if n_kept == 1:
            middle = high - 1
        for i in range(low, middle):
            y = advance(i, y)
        if n_kept == 1:
            yield middle, y
        else:
            yield from _sweep((middle, high), n_kept - 1, y, advance)
        high = middle
    states = [first]
    for i in range(low, high - 1):
        states.append(advance(i, states[-1]))
    for i in range(high - 1, low - 1, -1):
        yield i, states.pop()


def split(n_steps: int, n_kept: int) -> int:
    """After how many of `n_steps` steps the next state is best kept, given more steps than `n_kept` + 1."""
    repeats = 1
    while comb(n_kept + repeats, n_kept) < n_steps:
        repeats += 1
    longest_before = comb(n_kept + repeats - 1, n_kept)
    shortest_after = comb(n_kept + repeats - 2, n_kept - 1)
    return min(longest_before, n_steps - shortest_after)


@dataclass(frozen=True)
class Checkpoint(AbstractRungeKutta):
    """The gradient of `direct`, its graphs rebuilt one step at a time from kept states: exact, memory of one step.

    The forward solve keeps its steps and states and no graph. The backward pass redoes each step with a graph and
    differentiates it, so that the field is evaluated once more. Lengths of steps count as constants, as in `direct`.

    With n steps of s stages, memory is n states and s graphs, the cost n s evaluations and n s VJPs beside the forward
    solve; with C checkpoints C states instead of n, and some steps redone several times. Do not use it where all graphs
    fit, which `direct` is faster with, nor where those of one step do not (`symplectic`).

    Attributes:
        checkpoints: `all` keeps the state before each step. A number keeps only as many, the initial one included, and
            recomputes the others along the binomial schedule.
        land: Step onto every output time; see `direct`.
        max_step: Longest step; None for no limit. Other steps than those of `direct`, and the exact gradient of them.

    Raises:
        UserError: If `checkpoints` or `max_step` is not positive.

    References:
        Adaptive checkpoint adjoint method for gradient estimation in neural ODE (Zhuang et al., 2020),
        https://arxiv.org/abs/2006.02493
        Algorithm 799: revolve (Griewank, Walther, 2000), https://doi.org/10.1145/347837.347846
    """

    framework: ClassVar[str] = "torch"
    checkpoints: Literal["all"] | int = "all"
    land: bool = False
    max_step: float | None = None

    def __post_init__(self) -> None:
        if self.checkpoints != "all" and self.checkpoints < 1:
            raise UserError(f"`checkpoints` must be 'all' or at least 1; got {self.checkpoints}.")
        if self.max_step is not None and not self.max_step > 0:
            raise UserError(f"`max_step` must be positive; got {self.max_step}.")

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        return solve_through(DiscreteAdjointSolve, self.setup(field, y0, spec), y0, times)

    @property
    @override
    def memory_exponent(self) -> float:
        """O(n), a state for each step; O(1) with a fixed number of checkpoints."""
        return 1.0 if self.checkpoints == "all" else 0.0

    @property
    @override
    def exact_counterpart(self) -> str | None:
        """`direct`, which takes the same steps; itself where the longest step is limited."""
        if self.max_step is None:
            return super().exact_counterpart
        return f"checkpoint[max_step={self.max_step!r},land={str(self.land).lower()}]"

    @override
    def differences(self, spec: SolverSpec) -> tuple[str, ...]:
        longest = () if self.max_step is None else (f"no step of it is longer than {self.max_step:g}.",)
        return (*super().differences(spec), *longest)

    @override
    def setup(self, field: Field, y0: State, spec: SolverSpec) -> DiscreteSetup:
        n_kept = None if self.checkpoints == "all" else self.checkpoints
        return DiscreteSetup(
            field=field, layout=layout(y0), spec=spec, land=self.land, max_step=self.max_step, n_kept=n_kept
        )


@dataclass(frozen=True)
class Symplectic(AbstractRungeKutta):
    """The gradient of `direct` with the graph of one evaluation at a time: exact, in little more than its states.

    The adjoint is integrated by the Runge-Kutta method that is conjugate to the forward one, which conserves the
    bilinear form of adjoint and variation and therefore gives the exact gradient of the discretisation: it is the
    transposed step, `nodebench.backends.runge_kutta.transpose`, in which a weight b_i of zero needs no case of its own.

    Memory is a state for each step, one for each of the s stages of a step, and one graph: n |y| + s |y| + L. Backwards
    a step costs 2 s - 1 evaluations and s VJPs, nearly twice the evaluations of `checkpoint`, which has the graphs of a
    whole step alive. Prefer `checkpoint` unless these graphs are what does not fit; prefer neither to
    `checkpoint[checkpoints=C]` where the states of all steps do not fit.

    Attributes:
        land: Step onto every output time; see `direct`.

    References:
        Symplectic adjoint method for exact gradient of neural ODE with minimal memory (Matsubara, Miyatake, Yaguchi,
        2021), https://arxiv.org/abs/2102.09750
    """

    framework: ClassVar[str] = "torch"
    memory_exponent = 1.0  # a state for each step
    land: bool = False

    @override
    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        return solve_through(DiscreteAdjointSolve, self.setup(field, y0, spec), y0, times)

    @override
    def setup(self, field: Field, y0: State, spec: SolverSpec) -> DiscreteSetup:
        return DiscreteSetup(field=field, layout=layout(y0), spec=spec, land=self.land, one_graph=True)
