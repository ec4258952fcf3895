"""One gradient step in torch, and its counters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from typing_extensions import override

from nodebench.errors import CellError, PluginError
from nodebench.frameworks.base import IN_BACKWARD_SOLVE, FieldCalls, Solve, solve_checked
from nodebench.frameworks.torch.field import named_parameters, state_parts
from nodebench.problem import Evaluations, Field, Gradients, Problem, SolverSpec, State


@dataclass(frozen=True)
class Pending:
    """A loss with its graph, and the leaves it is to be differentiated by."""

    loss: Tensor
    y0: tuple[Tensor, ...]
    times: Tensor


class TorchGradientStep:
    """One gradient step in torch: solve, loss, `torch.autograd.grad`.

    Args:
        solve: A backend's `solve`.
        problem: What is differentiated.
        spec: How it is solved.
    """

    def __init__(self, solve: Solve, problem: Problem, spec: SolverSpec) -> None:
        self._solve, self._problem, self._spec = solve, problem, spec
        self._names = named_parameters(problem.field)
        self._params = tuple(self._names.values())
        self._y0 = tuple(part.detach().clone() for part in state_parts(problem.y0))
        self._times = problem.times.detach().clone()

    def step(self) -> Gradients:
        """Loss and all gradients."""
        return self.backward(self.forward())

    def forward(self, field: Field | None = None) -> Pending:
        """Solve and loss, with the graph that `backward` reads; of the problem's own field unless told otherwise."""
        field = self._problem.field if field is None else field
        y0 = tuple(part.detach().requires_grad_() for part in self._y0)
        times = self._times.detach().requires_grad_(self._problem.differentiate_times)
        state: State = y0 if isinstance(self._problem.y0, tuple) else y0[0]
        pending = Pending(self._problem.loss(solve_checked(self._solve, field, state, times, self._spec)), y0, times)
        self._synchronize()
        return pending

    def backward(self, state: Pending) -> Gradients:
        """Gradients from what `forward` returned; zeros for what the loss does not depend on.

        Raises:
            CellError: That of a solve that the backward pass makes, of the same class and named so.
        """
        inputs: tuple[Tensor, ...] = (*state.y0, *self._params)
        if self._problem.differentiate_times:
            inputs = (*inputs, state.times)
        try:
            found = torch.autograd.grad(state.loss, inputs, allow_unused=True)
        except CellError as error:
            raise type(error)(f"{IN_BACKWARD_SOLVE}{error}") from error
        values = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
        n = len(state.y0)
        y0 = tuple(values[:n])
        gradients = Gradients(
            loss=state.loss.detach(),
            y0=y0 if isinstance(self._problem.y0, tuple) else y0[0],
            params=dict(zip(self._names, values[n : n + len(self._names)], strict=True)),
            times=values[-1] if self._problem.differentiate_times else None,
        )
        self._synchronize()
        return gradients

    def solution(self) -> State:
        """The states at the output times, without a graph."""
        with torch.no_grad():
            ys = solve_checked(self._solve, self._problem.field, self._problem.y0, self._times, self._spec)
        self._synchronize()
        return ys

    def forward_evaluations(self) -> int:
        """Count the evaluations of `solution` on entry to the field."""
        counter = CountingField(self._problem.field)
        with torch.no_grad():
            solve_checked(self._solve, counter, self._problem.y0, self._times, self._spec)
        return counter.n_evaluations

    def evaluations(self) -> Evaluations:
        """Count evaluations on entry to the field and VJPs on return through its outputs.

        Raises:
            PluginError: If the backend changes what it is handed.
        """
        counter = CountingField(self._problem.field)
        with self._unchanged():
            pending = self.forward(counter)
            forward = counter.n_evaluations
            self.backward(pending)
        return Evaluations(forward, counter.n_evaluations - forward, counter.n_vjps)

    def saved_bytes(self) -> int | None:
        """Bytes that stay saved for the backward pass after the forward pass, each storage once, without parameters."""
        held: WeakSet[_Held] = WeakSet()
        own = {p.untyped_storage().data_ptr() for p in self._params}

        def pack(tensor: Tensor) -> _Held:
            owner = tensor if tensor._base is None else tensor._base  # noqa: SLF001  a transposed weight is a view
            saved = _Held(tensor.detach())  # the tensor itself would make a cycle with the graph that saves it
            if not isinstance(owner, nn.Parameter) and tensor.untyped_storage().data_ptr() not in own:
                held.add(saved)
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
            pending = self.forward()
        # Weak references: what a rejected step saved is gone by now.
        storages = {saved.tensor.untyped_storage().data_ptr(): saved.tensor.untyped_storage() for saved in held}
        total = sum(storage.nbytes() for storage in storages.values())
        del pending
        return total

    def field_calls(self) -> FieldCalls | None:
        """The field at the initial state, with and without a graph, and the loss of the solution."""
        t = self._y0[0].new_full((), float(self._times[0]))
        y0 = tuple(part.detach().requires_grad_() for part in self._y0)
        state: State = y0 if isinstance(self._problem.y0, tuple) else y0[0]
        inputs: tuple[Tensor, ...] = (*y0, *self._params)
        draw = torch.Generator().manual_seed(0)
        covectors = [torch.randn(part.shape, generator=draw).to(part) for part in self._y0]
        solution = self.solution()
        leaves = tuple(part.detach().requires_grad_() for part in state_parts(solution))
        ys: State = leaves if isinstance(solution, tuple) else leaves[0]

        def evaluate(n: int) -> None:
            with torch.no_grad():
                for _ in range(n):
                    self._problem.field(t, state)
            self._synchronize()

        def differentiate(n: int) -> None:
            for _ in range(n):
                rates = state_parts(self._problem.field(t, state))
                # A part whose rate is constant has no graph.
                pulled = [(rate, along) for rate, along in zip(rates, covectors, strict=True) if rate.requires_grad]
                if pulled:
                    outputs, along = zip(*pulled, strict=True)
                    torch.autograd.grad(outputs, inputs, along, allow_unused=True)
            self._synchronize()

        def lose(n: int) -> None:
            for _ in range(n):
                torch.autograd.grad(self._problem.loss(ys), leaves, allow_unused=True)
            self._synchronize()

        return FieldCalls(evaluate, differentiate, lose)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """What a solve is handed must be what it was: else the next step is that of another problem."""
        params = {f"parameter `{name}` of its field": value.detach() for name, value in self._names.items()}
        inputs = _named(self._y0, self._times) | params
        # The problem has its own: an earlier step may have changed what this one is handed.
        before = _named(state_parts(self._problem.y0), self._problem.times)
        before |= {name: value.clone() for name, value in params.items()}
        try:
            yield
        finally:  # a solve of what was changed may fail by it
            changed = [name for name, tensor in inputs.items() if not _same(tensor, before[name])]
            if changed:
                raise PluginError(f"`solve` changed {', '.join(changed)}; it must leave what it is handed as it was.")

    def _synchronize(self) -> None:
        if self._times.is_cuda or self._y0[0].is_cuda:
            torch.cuda.synchronize()


def _named(y0: tuple[Tensor, ...], times: Tensor) -> dict[str, Tensor]:
    parts = {f"part {i} of its `y0`" if i else "its `y0`": part.detach() for i, part in enumerate(y0)}
    return {**parts, "its `times`": times.detach()}


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


class _Held:
    """A saved tensor, able to be referred to weakly."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class CountingField(nn.Module):
    """A field that counts its evaluations and their vector-Jacobian products.

    Args:
        field: The field; its parameters are this module's.

    Attributes:
        n_evaluations: Evaluations so far.
        n_vjps: Vector-Jacobian products so far.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.n_evaluations = 0
        self.n_vjps = 0

    @override
    def forward(self, t: Tensor, y: State) -> State:
        self.n_evaluations += 1
        result = self.field(t, y)
        outputs: tuple[Tensor, ...] = _CountVjp.apply(self, *state_parts(result))  # type: ignore[no-untyped-call]
        return outputs if isinstance(result, tuple) else outputs[0]


class _CountVjp(torch.autograd.Function):
    """The identity on all outputs of one evaluation; its backward pass counts."""

    @staticmethod
    @override
    def forward(ctx: Any, counter: CountingField, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.counter = counter
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    @override
    def backward(ctx: Any, *covectors: Tensor) -> tuple[Tensor | None, ...]:
        ctx.counter.n_vjps += 1
        return None, *covectors
