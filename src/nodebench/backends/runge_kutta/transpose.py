"""The exact derivative of a Runge-Kutta step: the field's own graphs, the recurrences between them written out.

A step `k_i = f(t + c_i h, Y_i)`, `Y_i = y0 + h Σ_j a_ij k_j`, `y1 = y0 + h Σ_i b_i k_i` is differentiated backwards by

    dk_i = h (b_i λ1 + Σ_{j>=i} a_ji dY_j),    dY_i = dk_iᵀ ∂f/∂Y,    λ0 = λ1 + Σ_i dY_i,

λ being the derivative of the loss with respect to the state. Only the field is taped, not the sums between its calls.
Where a_ii is not zero, dk_i is the solution of an equation, transposed to that of the stage: its matrix is that of the
Jacobian at the stage itself, whatever Newton's iteration had.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from nodebench.backends.runge_kutta.dense_output import DenseOutput
from nodebench.backends.runge_kutta.implicit import factorised, jacobian
from nodebench.backends.runge_kutta.solve import Step
from nodebench.backends.solvers import Tableau, tableau
from nodebench.errors import DivergedError
from nodebench.frameworks.torch.field import Layout
from nodebench.problem import Field


@dataclass(frozen=True, slots=True)
class StageGraph:
    """The graph of one evaluation of the field.

    Attributes:
        outputs: Where the graph begins, for each part of the state; None for a part that depends on nothing. Empty for
            a first stage that is the last of the step before, whose graph it has.
        inputs: The state, a leaf for each part, followed by the time where its derivative is wanted.
        value: The flat derivative, kept only where the derivative with respect to time is wanted.
    """

    outputs: tuple[GradientEdge | None, ...]
    inputs: tuple[Tensor, ...]
    value: Tensor | None


class Recorder:
    """Evaluates a field and keeps its graph.

    Made to be called with gradients enabled.

    Args:
        field: The field.
        layout: Layout of its state.
        rows: Buffer that it writes.
        timed: Whether derivatives with respect to time are wanted.
        final: Time at which a closing stage only tells the error, since no step begins there and the loss does not
            depend on it: there its graph is not built. None where there is no such time.
    """

    def __init__(self, field: Field, layout: Layout, rows: Tensor, *, timed: bool, final: float | None = None) -> None:
        self._field, self._layout, self._timed, self._final = field, layout, timed, final
        self._flat, self._rows = rows, [layout.parts(row) for row in rows]
        self._graphs: list[StageGraph | None] = [None] * len(rows)

    def __call__(self, stage: int, t: float, y: Tensor) -> None:
        """Write the derivative at `y` into row `stage` and keep its graph in place of the last one."""
        self._graphs[stage] = None  # freed before the next one is built
        if t == self._final and stage + 1 == len(self._graphs):
            with torch.no_grad():
                self._write(stage, self._layout.evaluate(self._field, t, self._layout.parts(y)))
            return
        leaves = [part.detach().requires_grad_() for part in self._layout.parts(y)]
        time: float | Tensor = t
        inputs = tuple(leaves)
        if self._timed:
            leaf = y.new_full((), t).requires_grad_()
            time, inputs = leaf.clone(), (*inputs, leaf)  # a field may write into a clone
        parts = self._layout.evaluate(self._field, time, leaves)
        self._write(stage, parts)
        # An edge instead of the output itself, whose values nobody needs again.
        edges = tuple(get_gradient_edge(part) if part.requires_grad else None for part in parts)
        self._graphs[stage] = StageGraph(edges, inputs, self._flat[stage].clone() if self._timed else None)

    def _write(self, stage: int, parts: Sequence[Tensor]) -> None:
        for row, part in zip(self._rows[stage], parts, strict=True):
            row.copy_(part.detach())

    def take(self, method: Tableau) -> list[StageGraph]:
        """Hand over the graphs of an accepted step; a closing stage becomes the first of the next step."""
        graphs = self._graphs
        if method.hands_on and graphs[0] is None:
            graphs[0] = StageGraph((), (), self._flat[0].clone() if self._timed else None)
        taken = [graph for graph in graphs[: method.n_own] if graph is not None]
        assert len(taken) == method.n_own, "every stage of an accepted step has been recorded"
        self._graphs = [graphs[-1] if method.closes else None, *([None] * (len(graphs) - 1))]
        return taken

    def single(self, t: float, y: Tensor) -> StageGraph:
        """The graph of one evaluation by itself."""
        self(0, t, y)
        return self.closing()[0]

    def closing(self) -> list[StageGraph]:
        """Hand over the graph of the closing stage of the last step that was taken."""
        graph, self._graphs[0] = self._graphs[0], None
        return [] if graph is None else [graph]


class Graphs(Protocol):
    """The graphs of a step's stages, handed out and freed from the last to the first."""

    def __len__(self) -> int:
        """How many are left."""

    def pop(self) -> StageGraph:
        """Hand out the last one."""


@dataclass(frozen=True, slots=True)
class TimeShare:
    """Derivatives of the loss with respect to where a step begins and how long it is, as scalar tensors."""

    start: Tensor
    length: Tensor


@cache
def _weights(name: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """For each stage the weights of the later stages' dY, then that of λ."""
    method = tableau(name)
    stages = range(method.n_own)
    columns = [[*(method.a[j][i] for j in stages if j > i), method.b[i]] for i in stages]
    return [torch.tensor(column, dtype=dtype, device=device) for column in columns]


class Transpose:
    """Pulls the derivative of a loss back through steps, last step first, and gathers the parameters' on the way.

    Args:
        method: The tableau of the steps.
        like: A flat state.
        layout: Layout of the state.
        params: Parameters of the field.
        timed: Whether the graphs know their times.

    Attributes:
        state: Derivative of the loss with respect to the present state, flat; add to it where the loss looks.
        params: Derivatives with respect to the parameters.
    """

    def __init__(self, method: Tableau, like: Tensor, layout: Layout, params: Sequence[Tensor], *, timed: bool) -> None:
        s = method.n_own
        # Rows 0 to s-1 hold dY, row s holds λ, so that dk_i is one product with the rows below i.
        self._buffer = like.new_zeros(s + 1, like.numel())
        self._dk = like.new_empty(like.numel())
        self._dk_parts = layout.parts(self._dk)
        self._parts = [layout.parts(row) for row in self._buffer[:s]]
        self._columns = [self._buffer[i + 1 :].t() for i in range(s)]
        self._weights = _weights(method.name, like.dtype, like.device)
        self._c, self._timed, self._layout = method.c, timed, layout
        self._diagonal = method.diagonal or (0.0,) * s
        # What the step after feeds back into the last stage, which is its first.
        self._handed_back: Tensor | None = None
        self._inputs = tuple(params)
        self.state = self._buffer[s]
        self.params = [torch.zeros_like(p) for p in params]

    def pull(self, h: float, graphs: Graphs, fed: Tensor | None = None) -> TimeShare | None:
        """Go back through one step, freeing its graphs.

        Args:
            h: Its length.
            graphs: Those of the stages on which its end depends; behind them that of its closing stage where the loss
                depends on it and no later step begins with it.
            fed: What else is fed back into the stages, shape `(stages, n)`, or None.

        Returns:
            What the step's place and length contribute, where its graphs know their times.
        """
        if len(graphs) > len(self._columns):
            assert fed is not None, "a closing stage counts only by what is fed back into it"
            self._dk.copy_(fed[-1])
            self._vjp(self._parts[0], graphs.pop())
            self.state.add_(self._buffer[0])
        share = TimeShare(self.state.new_zeros(()), self.state.new_zeros(())) if self._timed else None
        for i in reversed(range(len(graphs))):
            columns, weights = self._columns[i], self._weights[i]
            if fed is None:
                torch.addmv(self._dk, columns, weights, beta=0, alpha=h, out=self._dk)
            else:
                torch.addmv(fed[i], columns, weights, alpha=h, out=self._dk)
            handed_back, self._handed_back = self._handed_back, None
            if handed_back is not None:
                self._dk.add_(handed_back)
            graph = graphs.pop()
            if self._diagonal[i]:
                self._solve_stage(h * self._diagonal[i], graph)
            by_time: Tensor | float = 0.0
            if graph.outputs:
                by_time = self._vjp(self._parts[i], graph)
            else:
                self._handed_back = self._dk.clone()
                self._buffer[i].zero_()
            if share is not None and graph.value is not None:
                # Σ_i <dk_i, k_i> / h is the derivative with respect to the h that is written in the recurrences, which
                # what the step after hands back has nothing of.
                own = self._dk if handed_back is None else self._dk - handed_back
                share.length.add_(torch.dot(own, graph.value) / h + self._c[i] * by_time)
                share.start.add_(by_time)
        self.state.copy_(self._buffer.sum(0))
        return share

    def _solve_stage(self, ha: float, graph: StageGraph) -> None:
        """Solve `(I - h a_ii Jᵀ) dk_i = ...` in place of its right-hand side.

        Raises:
            DivergedError: If the matrix is singular.
        """
        by_y = jacobian(graph.outputs, graph.inputs[: len(self._dk_parts)], self._layout)
        solve = factorised(by_y, ha, transposed=True)
        if solve is None:
            raise DivergedError("the equation of a stage has a singular matrix, so that its derivative is not defined.")
        self._dk.copy_(solve(self._dk))

    def _vjp(self, row: Sequence[Tensor], graph: StageGraph) -> Tensor | float:
        """Write dY into the parts of its row, add the parameters' share and return the time's."""
        n_parts = len(self._dk_parts)
        edges = [edge for edge in graph.outputs if edge is not None]
        if not edges:
            for part in row:
                part.zero_()
            return 0.0
        covectors = [dk for dk, edge in zip(self._dk_parts, graph.outputs, strict=True) if edge is not None]
        found = torch.autograd.grad(edges, (*graph.inputs, *self._inputs), covectors, allow_unused=True)
        for place, part in zip(row, found[:n_parts], strict=True):
            place.zero_() if part is None else place.copy_(part)
        accumulate(self.params, found[len(graph.inputs) :])
        by_time = found[n_parts] if len(graph.inputs) > n_parts else None
        return 0.0 if by_time is None else by_time


def accumulate(totals: list[Tensor], found: Sequence[Tensor | None]) -> None:
    """Add what was found to the totals; a parameter that was not used has None."""
    used = [part for part in found if part is not None]
    if totals and len(used) == len(totals):
        torch._foreach_add_(totals, used)  # one dispatch for all; torch.optim relies on it as well
        return
    for total, part in zip(totals, found, strict=True):
        if part is not None:
            total.add_(part)


@dataclass(frozen=True)
class LossGradient:
    """What the loss feeds back into a solve at its output times.

    Attributes:
        steps: The steps of the solve.
        ys: Derivative of the loss with respect to the states at the output times, shape `(n_times, n)`.
        dense: How the states inside steps were interpolated; None where there are none.
        method: The tableau of the steps.
    """

    steps: Sequence[Step]
    ys: Tensor
    dense: DenseOutput | None
    method: Tableau

    def at_end(self, i: int) -> Tensor | None:
        """What is fed into the state at the end of step i, where that is an output time."""
        step = self.steps[i]
        ends = i + 1 == len(self.steps) or self.steps[i + 1].interval != step.interval
        return self.ys[step.interval[1]] if ends else None

    def stages(self, i: int) -> Tensor | None:
        """What is fed into the stages of step i through the states inside it, shape `(stages, n)`.

        An explicit method's first stage is also the closing stage of the step before.
        """
        own, before = self.inside(i), self.inside(i - 1) if i and self.method.closes else None
        if before is None:
            return own
        fed = torch.zeros_like(before) if own is None else own
        fed[0].add_(before[-1])
        return fed

    def inside(self, i: int) -> Tensor | None:
        """The same with its own closing stage, but without that of the step before."""
        step = self.steps[i]
        if self.dense is None or not step.thetas:
            return None
        return step.h * (self.dense.weights(step.thetas).t() @ self.ys[step.inside])


def pull_through(
    transpose: Transpose, loss: LossGradient, recorded: Iterable[tuple[int, Graphs]], by_times: Tensor | None
) -> Tensor:
    """Pull the derivative of a loss back through a whole solve.

    Args:
        transpose: Pulls through one step; its state is zero.
        loss: What the loss feeds back.
        recorded: Index and graphs of each step, last step first.
        by_times: Where the derivative with respect to the output times is added, or None.

    Returns:
        The derivative with respect to the initial state, flat; those of the parameters are in `transpose`.
    """
    for i, graphs in recorded:
        step, at_end = loss.steps[i], loss.at_end(i)
        if at_end is not None:
            transpose.state.add_(at_end)
        share = transpose.pull(step.h, graphs, loss.stages(i))
        if step.thetas:
            transpose.state.add_(loss.ys[step.inside].sum(0))
        if by_times is not None and share is not None:
            begin, end = step.interval
            time_gradient(share, step.fractions, by_times[begin], by_times[end])
    return transpose.state + loss.ys[0]


def time_gradient(share: TimeShare, fractions: tuple[float, float], begin: Tensor, end: Tensor) -> None:
    """Add a step's share to the derivatives with respect to the two output times between which it was taken.

    Inside an interval [ta, tb] the steps stay at the same fractions: a step begins at ta + s (tb - ta) and is
    d (tb - ta) long. This is the exact derivative of the discretisation whose fractions are frozen.
    """
    s, d = fractions[0], fractions[1] - fractions[0]
    begin += share.start * (1 - s) - share.length * d
    end += share.start * s + share.length * d
