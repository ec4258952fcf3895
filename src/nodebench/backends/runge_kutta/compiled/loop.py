"""Steps by programs in C++ without a return to Python between them: the loops are those of `loop.cpp`.

A step of a small ODE takes some hundred microseconds, and what Python does between two of them a third of that. Where
programs are not in C++ (on a GPU), or calls are counted, the loops in Python do the same.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from nodebench.backends.runge_kutta.steps import AbstractMethod, AcceptedStep, Stepper
from nodebench.backends.step_size import LARGEST, SAFETY, SMALLEST, equal_steps
from nodebench.problem import SolverSpec

_AT_ONCE = 64
"""Most steps between two returns to Python, so that a long solve can be interrupted."""

_HELD = 2**20
"""Most numbers of stage derivatives that steps hold until then, beside those of one step."""


class Entry(NamedTuple):
    """A program as C++ calls it; `loop.cpp` reads the tuple.

    Attributes:
        address: That of its function.
        n_results: How many results it has.
        kept: Places of the inputs that are kept of a call.
    """

    address: int
    n_results: int
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class StepPrograms:
    """The programs of a method.

    Attributes:
        first: (fixed inputs, state, scalars) -> the other states that are evaluated, and what is kept. None where a
            step begins with an evaluation of its own.
        step: (fixed inputs, states, scalars) -> states at the end, the error's ratio among what is kept behind them.
        fixed: The fixed inputs.
        n_evaluated: How many states `first` computes, from the second one on.
        ratio_at: Place of the ratio among the results of `step`.
    """

    first: Entry | None
    step: Entry
    fixed: Sequence[Tensor]
    n_evaluated: int
    ratio_at: int

    @classmethod
    def of(
        cls, first: Entry | None, step: Entry | None, fixed: Sequence[Tensor], *, n_evaluated: int, ratio_at: int
    ) -> "StepPrograms | None":
        """The same, or None where a program that is needed is not in C++."""
        if step is None or (first is None and n_evaluated > 0):
            return None
        return cls(first, step, fixed, n_evaluated, ratio_at)


class AbstractCompiledMethod(AbstractMethod):
    """A method whose steps are programs; its states are the flat state and what is evaluated or summed beside it."""

    @override
    def stepper(self, spec: SolverSpec, y: Tensor, times: tuple[float, float], longest: float | None = None) -> Stepper:
        in_cpp = y.device.type == "cpu" and y.dtype in (torch.float32, torch.float64)
        return (CompiledStepper if in_cpp else Stepper)(self, spec, y, times, longest)

    @abstractmethod
    def programs(self) -> StepPrograms | None:
        """The programs, or None where they are not in C++."""

    @abstractmethod
    def states(self, y: Tensor) -> list[Tensor | None]:
        """The states before the next step, which begins at `y`; None for what is not known."""

    @abstractmethod
    def resume(self, states: Sequence[Tensor | None], before: Sequence[Tensor] | None) -> None:
        """Go on from these states; `before` is kept of the evaluation before the next step, if there was one."""

    @abstractmethod
    def accepted(self, kept: Sequence[Tensor], before: Sequence[Tensor] | None) -> None:
        """Hold what is kept of an accepted step, and of the evaluation before it, if there was one."""


class CompiledStepper(Stepper):
    """A stepper whose loop is in C++; whatever is not an ordinary step is left to the loop in Python.

    A step is told of when others may have been taken after it.
    """

    _method: AbstractCompiledMethod

    @override
    def _adaptive(self, target: float) -> Iterator[AcceptedStep]:
        begin, programs = self.t, self._method.programs()
        while self.t != target:
            if programs is None or (yield from self._ordinary(programs, begin, target)):
                step = self._attempt(begin, target)
                if step is not None:
                    yield step
                    self._method.carry()

    @override
    def _fixed(self, target: float) -> Iterator[AcceptedStep]:
        begin, length, programs = self.t, target - self.t, self._method.programs()
        if programs is None:
            yield from super()._fixed(target)
            return
        n = equal_steps(length, min(self._h, self._longest))
        ends = [*(begin + length * (i / n) for i in range(1, n)), target]
        while ends:
            self._count()
            n_before = self.n_accepted
            yield from self._ordinary(programs, begin, target, ends)
            del ends[: self.n_accepted - n_before]
        self._check_end(n, length / n)

    def _ordinary(
        self, programs: StepPrograms, begin: float, target: float, ends: Sequence[float] = ()
    ) -> Generator[AcceptedStep, None, bool]:
        """Take steps up to `target` or `_AT_ONCE`; returns whether an attempt is left for Python to judge.

        Args:
            programs: The programs.
            begin: Where the way to `target` has begun.
            target: Where it ends.
            ends: Ends of steps that are not to be judged; none for steps under the controller.
        """
        method, spec, controller, length = self._method, self._spec, self._controller, target - begin
        left = spec.max_steps - self.n_accepted - self.n_rejected
        at_once = max(1, min(_AT_ONCE, _HELD // (method.tableau.n_stages * self.y.numel())))
        states = method.states(self.y)
        known = [state for state in states if state is not None]
        handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([*programs.fixed, *known])  # noqa: SLF001
        n_fixed = len(programs.fixed)
        given = iter(handles[n_fixed:])
        (stopped, evaluated, self._h, controller.ratio_before, n_rejected), spans, kept, before, after = (
            _loops().advance(
                programs.first,
                programs.step,
                handles[:n_fixed],
                [None if state is None else next(given) for state in states],
                programs.n_evaluated,
                programs.ratio_at,
                method.tableau.c,
                tuple(ends[: min(at_once, left)]),
                (self.t, target, self._h, self._longest),
                (spec.rtol, spec.atol),
                (SAFETY, SMALLEST, LARGEST, controller.exponent, controller.exponent_before, controller.ratio_before),
                (at_once, left),
            )
        )
        tensors = _tensors([*kept, *before, *after])
        y = tensors[len(kept) + len(before)]
        assert y is not None, "the state itself is always known"
        self.y = y
        self.n_accepted += len(spans)
        self.n_rejected += n_rejected
        if spans:
            self.t = spans[-1][1]
        at = 0
        for start, end, n_kept, n_before in spans:
            own = tensors[at : at + n_kept]
            at += n_kept
            n_own = n_kept - max(n_before, 0)
            method.accepted(own[1:n_own], None if n_before < 0 else own[n_own:])
            yield AcceptedStep(start, end, own[0], ((start - begin) / length, (end - begin) / length))
        n_before = len(before)
        method.resume(tensors[at + n_before :], tensors[at : at + n_before] if evaluated else None)
        return bool(stopped) or left <= 0


def pull(
    program: Entry, fixed: Sequence[Tensor], tape: Sequence[Sequence[Tensor]], covectors: Sequence[Tensor]
) -> list[Tensor]:
    """Go back through steps with nothing fed in between.

    Args:
        program: (fixed inputs, saved, by state, by last derivative, fed into the stages, total) -> total, by state, by
            first derivative; without the last one where a step does not begin with the last derivative of that before.
        fixed: The fixed inputs.
        tape: What is saved of each step, last step first.
        covectors: The other inputs of the last step: by state, by last derivative, what is fed into its stages, what is
            fed into those of the others, total.

    Returns:
        Results of the first step.
    """
    handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(  # noqa: SLF001
        [*fixed, *(tensor for saved in tape for tensor in saved), *covectors]
    )
    at, saved_handles = len(fixed), []
    for saved in tape:
        saved_handles.append(handles[at : at + len(saved)])
        at += len(saved)
    return _tensors(_loops().pull(program, handles[: len(fixed)], saved_handles, *handles[at:]))


def _tensors(handles: Sequence[Any]) -> list[Any]:
    known = iter(
        torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(  # noqa: SLF001
            [handle for handle in handles if handle is not None]
        )
    )
    return [None if handle is None else next(known) for handle in handles]


@cache
def _loops() -> Any:
    """The loops, compiled where they are not in Inductor's cache on disk."""
    # These take seconds to import, and only who compiles needs them.
    from torch._inductor import config  # noqa: PLC0415
    from torch._inductor.codecache import CppCodeCache  # noqa: PLC0415

    with config.patch({"cpp.vec_isa_ok": True}):  # else every set of vector instructions is tried first
        library = CppCodeCache.load(Path(__file__).with_name("loop.cpp").read_text(), device_type="cpu")
    spec = spec_from_file_location("loop", library._name)  # noqa: SLF001  its path
    assert spec is not None and spec.loader is not None, "the path ends as those of extensions do"  # noqa: PT018
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
