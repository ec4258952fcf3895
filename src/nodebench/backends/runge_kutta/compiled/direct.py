"""Backpropagation through compiled steps: each step and its transposed derivative are one program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.runge_kutta.compiled.loop import AbstractCompiledMethod, Entry, StepPrograms, pull
from nodebench.backends.runge_kutta.compiled.programs import (
    AbstractPair,
    CompiledField,
    Differentiated,
    Program,
    reason_not_compiled,
    reason_unsupported,
)
from nodebench.backends.runge_kutta.solve import AbstractRungeKutta, SolveSetup, Step, SteppedSolve, solve_through
from nodebench.backends.runge_kutta.steps import Span, check_beginning
from nodebench.backends.runge_kutta.transpose import LossGradient
from nodebench.backends.solvers import IMPLICIT, Tableau, tableau
from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch.derivative import first_derivative_alone
from nodebench.frameworks.torch.field import from_one_vector, output_times, parameters, real_sizes
from nodebench.problem import Problem, SolverSpec, State


def weighted(base: Tensor, h: Tensor, weights: Sequence[float], rows: Sequence[Tensor]) -> Tensor:
    """Add h Σ w_i k_i to `base`, without the terms of weight zero."""
    terms = [w * k for w, k in zip(weights, rows, strict=False) if w]
    return base + h * sum(terms[1:], start=terms[0]) if terms else base


def step_scalars(method: Tableau, spec: SolverSpec, like: Tensor, span: Span) -> Tensor:
    """Length of a step, both tolerances, and the times of the stages; the very end where c = 1."""
    start, end = span
    times = [end if c == 1.0 else start + c * (end - start) for c in method.c]
    # By way of an array: a tensor takes three times as long to make from a list.
    array = np.array([end - start, spec.rtol, spec.atol, *times], np.float32 if like.dtype is torch.float32 else None)
    return torch.from_numpy(array).to(like.device, like.dtype)


class StepFunctions:
    """One step, and the evaluation before the first one, as functions of tensors.

    Their arguments are the parameters, the field's constants, and what is named; `scalars` holds the length of the
    step, the two tolerances, and the times of the stages.

    Args:
        field: The field.
        method: The tableau.
        n_params: How many parameters there are.
    """

    def __init__(self, field: CompiledField, method: Tableau, n_params: int) -> None:
        self.field, self.method, self.n_params = field, method, n_params
        self._n_fixed = n_params + len(field.constants)

    def first(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """(y, scalars) -> the derivative at the beginning of a step."""
        (y, scalars), rate = self._split(arguments)
        return (rate(scalars[3], y),)

    def step(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """(y, first derivative, scalars) -> end, last stage derivative, all of them, relative error.

        The last one by itself, since the next step, which begins with it, feeds back into it alone. A method whose last
        stage is not the first of the next step is not handed a first derivative.
        """
        (y, *known, scalars), rate = self._split(arguments)
        method, h, rows = self.method, scalars[0], list(known)
        if not rows:
            rows.append(rate(scalars[3], y))
        for i in range(1, method.n_own):
            rows.append(rate(scalars[3 + i], weighted(y, h, method.a[i], rows)))
        end = weighted(y, h, method.b, rows)
        if method.fsal:
            rows.append(rate(scalars[3 + method.n_own], end))
        return end, rows[-1], torch.stack(rows), self._ratio(y, end, h, rows, scalars)

    def _ratio(self, y: Tensor, end: Tensor, h: Tensor, rows: Sequence[Tensor], scalars: Tensor) -> Tensor:
        if self.method.b_error is None:
            return torch.zeros_like(h)
        y, end, rows = y.detach(), end.detach(), [row.detach() for row in rows]
        scale = scalars[2] + scalars[1] * torch.maximum(y.abs(), end.abs())
        error = weighted(torch.zeros_like(y), h.detach(), self.method.b_error, rows)
        return (error / scale).square().mean().sqrt()

    def _split(self, arguments: Sequence[Tensor]) -> tuple[Sequence[Tensor], Callable[[Tensor, Tensor], Tensor]]:
        params, constants = arguments[: self.n_params], arguments[self.n_params : self._n_fixed]
        return arguments[self._n_fixed :], partial(self.field.rate, params, constants)

    def differentiated_first(self) -> Differentiated:
        """`first`, by the parameters and the state."""
        n = self._n_fixed
        return Differentiated(self.first, n + 2, n, self.n_params, n_states=1, n_results=1)

    def differentiated_step(self) -> Differentiated:
        """`step`, its end and derivatives by the parameters, the state and the first derivative."""
        n, n_states = self._n_fixed, 2 if self.method.fsal else 1
        return Differentiated(self.step, n + n_states + 1, n, self.n_params, n_states, n_results=3)


def step_programs(
    method: Tableau, fixed: Sequence[Tensor], first: Entry | None, step: Entry | None
) -> StepPrograms | None:
    """The programs of `StepFunctions` for a loop in C++, or None where they are not in C++."""
    return StepPrograms.of(first, step, fixed, n_evaluated=1 if method.fsal else 0, ratio_at=3)


class CompiledMethod(AbstractCompiledMethod):
    """Steps by compiled programs, which keep nothing.

    Args:
        setup: Field, layout and solver spec.
        params: Parameters of the field.
        y: Flat initial state.

    Attributes:
        rows: Stage derivatives of the last step.
        fixed: The inputs that all programs have first: parameters and constants of the field.
    """

    def __init__(self, setup: SolveSetup, params: Sequence[Tensor], y: Tensor) -> None:
        self.tableau = tableau(setup.spec.solver)
        self._spec = setup.spec
        self.rows = y[None]  # until there has been a step
        field = CompiledField(setup, y)
        self.fixed = [p.detach() for p in params] + field.constants
        functions = StepFunctions(field, self.tableau, len(params))
        self._compile(field, functions, lambda *states: [*self.fixed, *states, self._scalars(y, (0.0, 1.0))])
        self._k: Tensor | None = None
        self._last = y  # the last stage derivative of the last step

    def _compile(self, field: CompiledField, functions: StepFunctions, inputs: Callable[..., list[Tensor]]) -> None:
        """Compile a step and the evaluation before the first one; `inputs` makes examples of inputs from states."""
        states = self._example()
        self._step_program = field.function("step", functions.step, lambda: inputs(*states))
        self._first_program = None
        if self.tableau.fsal:
            self._first_program = field.function("first", functions.first, lambda: inputs(states[0]))

    def _example(self) -> Sequence[Tensor]:
        """States like those that a step begins with: of the derivative only where it is that of the step before."""
        y = self.rows[0]
        return (y, y) if self.tableau.fsal else (y,)

    def _first(self, *inputs: Tensor) -> Sequence[Tensor]:
        assert self._first_program is not None, "only a method whose steps do not evaluate their first stage asks"
        return self._first_program(*inputs)

    def _step(self, *inputs: Tensor) -> Sequence[Tensor]:
        return self._step_program(*inputs)

    @override
    def derivative(self, t: float, y: Tensor) -> Tensor:
        if self._k is None:
            (self._k,) = self._first(*self.fixed, y, self._scalars(y, (t, t)))
        return self._k

    @override
    def step(self, y0: Tensor, span: Span) -> Tensor:
        return self._run(y0, span)[0]

    @override
    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        end, error = self._run(y0, span)
        ratio: float = error.item()
        check_beginning(ratio, y0, self.rows[0], span)
        return end, ratio

    def _run(self, y0: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        known = [self.derivative(span[0], y0)] if self.tableau.fsal else []
        end, self._last, self.rows, error = self._step(*self.fixed, y0, *known, self._scalars(y0, span))
        return end, error

    def _scalars(self, y: Tensor, span: Span) -> Tensor:
        return step_scalars(self.tableau, self._spec, y, span)

    @override
    def carry(self) -> None:
        self._k = self._last

    @override
    def forget(self) -> None:
        self._k = None

    @override
    def programs(self) -> StepPrograms | None:
        first, step = (
            program.entry() if isinstance(program, Program) else None
            for program in (self._first_program, self._step_program)
        )
        return step_programs(self.tableau, self.fixed, first, step)

    @override
    def states(self, y: Tensor) -> list[Tensor | None]:
        return [y, self._k] if self.tableau.fsal else [y]

    @override
    def resume(self, states: Sequence[Tensor | None], before: Sequence[Tensor] | None) -> None:
        if self.tableau.fsal:
            self._k = states[1]

    @override
    def accepted(self, kept: Sequence[Tensor], before: Sequence[Tensor] | None) -> None:
        self.rows = kept[-1]


@dataclass(frozen=True)
class _TapedStep:
    """What an accepted step keeps: what its pair saved, and that of the evaluation before it, None without one."""

    saved: Sequence[Tensor]
    first: Sequence[Tensor] | None


class TapedMethod(CompiledMethod):
    """The same, keeping what the transposed derivative of a step needs.

    Attributes:
        first: The evaluation before the first step and its derivative; None where steps have one of their own.
        pair: A step and its derivative.
    """

    first: AbstractPair | None
    pair: AbstractPair

    @override
    def _compile(self, field: CompiledField, functions: StepFunctions, inputs: Callable[..., list[Tensor]]) -> None:
        states = self._example()
        self.pair = field.pair("step", functions.differentiated_step(), lambda: inputs(*states))
        self.first = None
        if self.tableau.fsal:
            self.first = field.pair("first", functions.differentiated_first(), lambda: inputs(states[0]))
        self._before: Sequence[Tensor] | None = None
        self._saved: Sequence[Tensor] = ()

    def take(self) -> _TapedStep:
        """Hand over what the step that was just accepted keeps."""
        taken, self._before = _TapedStep(self._saved, self._before), None
        return taken

    @override
    def programs(self) -> StepPrograms | None:
        first = None if self.first is None else self.first.forward_entry()
        return step_programs(self.tableau, self.fixed, first, self.pair.forward_entry())

    @override
    def resume(self, states: Sequence[Tensor | None], before: Sequence[Tensor] | None) -> None:
        super().resume(states, before)
        self._before = self._before if before is None else before

    @override
    def accepted(self, kept: Sequence[Tensor], before: Sequence[Tensor] | None) -> None:
        entry = self.pair.forward_entry()
        assert entry is not None, "only a program in C++ has taken the step"
        inputs, results = kept[: len(entry.kept)], kept[len(entry.kept) :]
        if not self.tableau.fsal:
            results = results[1:]  # the last stage derivative by itself
        self.rows, *packs = results
        self._saved = [*inputs, *packs]
        self._before = self._before if before is None else before

    @override
    def _first(self, *inputs: Tensor) -> Sequence[Tensor]:
        assert self.first is not None, "only a method whose steps do not evaluate their first stage asks"
        results, self._before = self.first.forward(*inputs)
        return results

    @override
    def _step(self, *inputs: Tensor) -> Sequence[Tensor]:
        results, self._saved = self.pair.forward(*inputs)
        return results


class AbstractCompilable(AbstractRungeKutta):
    """A gradient method whose steps can be compiled.

    Attributes:
        compile: Whether they are; an option of each final subclass.
    """

    compile: bool

    @override
    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        reason = super().unsupported(problem, spec)
        if reason is not None or not self.compile:
            return reason
        if spec.solver in IMPLICIT:
            return f"steps of the implicit `{spec.solver}` are not compiled; leave `compile` out."
        return reason_unsupported(problem)

    @property
    @override
    def compiles(self) -> bool:
        return self.compile


def solve_through_compiled(
    function: type[torch.autograd.Function], setup: SolveSetup, y0: State, times: Tensor
) -> State:
    """Solve by an autograd function of (setup, flat y0, times, *params), or by compiled steps without a graph.

    Raises:
        UnsupportedError: If the field cannot be compiled, or the times are to be differentiated.
    """
    reason = reason_not_compiled(setup.field, timed=times.requires_grad)
    if reason is not None:
        raise UnsupportedError(reason)
    if torch.is_grad_enabled():
        return solve_through(function, setup, y0, times)
    with torch.no_grad():
        return setup.layout.state(solve_compiled(setup, setup.layout.flatten(y0).detach(), times))


def solve_compiled(setup: SolveSetup, y: Tensor, times: Tensor) -> Tensor:
    """States at the output times by compiled steps, without a graph, shape `(n_times, n)`."""
    y = y.contiguous()  # a program is compiled for one layout in memory
    solve = SteppedSolve(CompiledMethod(setup, parameters(setup.field), y), setup, y, output_times(times))
    for _ in solve.steps():
        pass
    return solve.ys


class CompiledDirectSolve(torch.autograd.Function):
    """A solve by compiled steps; a function of (setup, flat y0, times, *params)."""

    @staticmethod
    @override
    def forward(ctx: Any, setup: SolveSetup, y0: Tensor, times: Tensor, *params: Tensor) -> Tensor:
        """Solve, and keep what the transposed steps need."""
        y = y0.detach().contiguous()
        method = TapedMethod(setup, params, y)
        solve = SteppedSolve(method, setup, y, output_times(times))
        steps, tape = [], []
        for step, _ in solve.steps():
            steps.append(step)
            tape.append(method.take())
        ctx.steps, ctx.method, ctx.dense, ctx.n_params = steps, method, solve.dense, len(params)
        ctx.sizes = [(len(taken.saved), None if taken.first is None else len(taken.first)) for taken in tape]
        kept = [tensor for taken in tape for tensor in (*taken.saved, *(taken.first or ()))]
        # All that is fixed, so that torch sees what is changed in place before the backward pass.
        ctx.save_for_backward(*params, *method.fixed[len(params) :], *kept)
        return solve.ys

    @staticmethod
    @first_derivative_alone
    @override
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        """Pull the derivative back through the steps, last one first."""
        saved = list(ctx.saved_tensors)
        params, kept = saved[: ctx.n_params], saved[len(ctx.method.fixed) :]
        back = _CompiledPullback(ctx.method, sum(real_sizes(params)), grad_ys[0])
        loss = LossGradient(ctx.steps, grad_ys, ctx.dense, ctx.method.tableau)
        tape = []
        for n_saved, n_first in ctx.sizes:
            end = n_saved + (n_first or 0)
            tape.append(_TapedStep(kept[:n_saved], None if n_first is None else kept[n_saved:end]))
            del kept[:end]
        i = len(tape)
        while i > 0:
            end, i = i, _run_begins(i, ctx.steps, loss, tape)
            at_end = loss.at_end(end - 1)
            if at_end is not None:
                back.by_y = back.by_y + at_end
            back.pull(tape[i:end], loss.inside(end - 1))
            del tape[i:]
            if ctx.steps[i].thetas:
                back.by_y = back.by_y + grad_ys[ctx.steps[i].inside].sum(0)
        return None, back.by_y + grad_ys[0], None, *from_one_vector(back.by_params, params)


def _run_begins(end: int, steps: Sequence[Step], loss: LossGradient, tape: Sequence[_TapedStep]) -> int:
    """The first of the steps before `end` that are gone back through with nothing fed in between."""
    i = end - 1
    while (
        i > 0
        and not steps[i].thetas
        and tape[i].first is None
        and not steps[i - 1].thetas
        and loss.at_end(i - 1) is None
    ):
        i -= 1
    return i


class _CompiledPullback:
    """The derivative of the loss on its way back.

    Attributes:
        by_y: With respect to the present state.
        by_params: With respect to the parameters, so far, in one vector.
    """

    def __init__(self, method: TapedMethod, n_params: int, like: Tensor) -> None:
        self._method = method
        self._zero, self._nothing = torch.zeros_like(like), like.new_zeros(method.tableau.n_stages, like.numel())
        self.by_y = self._zero
        self.by_params = like.new_zeros(n_params)
        self._by_last = self._zero  # with respect to the last derivative of the step before

    def pull(self, run: Sequence[_TapedStep], inside: Tensor | None) -> None:
        """Go back through steps; `inside` is fed into the stages of the last one, shape `(stages, n)`."""
        covectors = [self.by_y, self._by_last, self._nothing if inside is None else inside]
        backward, tape = self._method.pair.backward_entry(), [taken.saved for taken in reversed(run)]
        if backward is not None:
            entry, places = backward
            fixed = [self._method.fixed[i] for i in places]
            self.by_params, *found = pull(entry, fixed, tape, [*covectors, self._nothing, self.by_params])
            self._set(*found)
        else:
            for saved in tape:
                self._set(*self._added(self._method.pair, saved, covectors))
                covectors = [self.by_y, self._by_last, self._nothing]
        if run[0].first is not None:
            assert self._method.first is not None, "it has kept what it needs"
            (by_y,) = self._added(self._method.first, run[0].first, [self._by_last])
            self.by_y = self.by_y + by_y

    def _set(self, by_y: Tensor, by_last: Tensor | None = None) -> None:
        """The second one only of a step that begins with the last derivative of the step before."""
        self.by_y = by_y
        if by_last is not None:
            self._by_last = by_last

    def _added(self, pair: AbstractPair, saved: Sequence[Tensor], covectors: Sequence[Tensor]) -> list[Tensor]:
        """Add the parameters' shares; returns the others, zeros where there is nothing."""
        total, *others = pair.backward(self._method.fixed, saved, covectors, self.by_params)
        if total is not None:
            self.by_params = total
        return [self._zero if g is None else g for g in others]
