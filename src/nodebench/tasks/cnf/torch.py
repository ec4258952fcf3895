"""The flows of the `cnf` task in torch."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from nodebench.problem import Field, Problem
from nodebench.tasks.cnf.data import Objective, objective
from nodebench.tasks.cnf.task import HYPER_WIDTH, PLANE, TABULAR, field_sizes

TorchBatch = Mapping[str, Tensor]
"""`data` or `base`, shape `(n, dim)`; for Hutchinson's estimate of the trace also `noise`, likewise, of int8."""

Densities = tuple[Tensor, Tensor]
"""Points, shape `(n, dim)`, with a log-density, shape `(n,)`."""

TorchSolve = Callable[[Field, Densities, Tensor], Densities]
"""`solve(field, y0, times)`: the states at `times`, shapes `(n_times, n, dim)` and `(n_times, n)`."""


class GatedPlanarField(nn.Module):
    """Sum of M gated planar functions of the state with weights from a hypernetwork of time, and its exact trace.

    dz/dt = f(z, t) = sum_n sigmoid(g_n) u_n tanh(w_n . z + b_n) and d log p/dt = -tr(df/dz), with u, w, b and g
    functions of t ("Neural Ordinary Differential Equations", Chen et al., 2018, section 4,
    https://arxiv.org/abs/1806.07366). The trace of a sum is the sum of the traces sigmoid(g_n) u_n . w_n (1 - tanh^2):
    exact, at a cost linear in M.

    Args:
        hidden: Number M of planar functions.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = nn.Linear(1, HYPER_WIDTH)
        self.middle = nn.Linear(HYPER_WIDTH, HYPER_WIDTH)
        self.output = nn.Linear(HYPER_WIDTH, 6 * hidden)

    def at(self, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Directions w, shape `(2, M)`, gated u, shape `(M, 2)`, and offsets b, shape `(M,)`, at time `t`."""
        size = self.hidden
        features = torch.tanh(self.input.weight[:, 0] * t + self.input.bias)
        features = torch.tanh(torch.addmv(self.middle.bias, self.middle.weight, features))
        out = torch.addmv(self.output.bias, self.output.weight, features)
        w, u, gate, b = torch.split_with_sizes(out, [2 * size, 2 * size, size, size])
        return w.view(2, size), u.view(size, 2) * torch.sigmoid(gate)[:, None], b

    @override
    def forward(self, t: Tensor | float, state: Densities) -> Densities:
        """Rates of the points and of the log-density at time `t`."""
        w, u, b = self.at(t)
        activation = torch.tanh(torch.addmm(b, state[0], w))
        slopes = (w.t() * u).sum(1)
        return activation @ u, (activation * activation) @ slopes - slopes.sum()

    def estimate(self, t: Tensor | float, state: Densities, noise: Tensor) -> Densities:
        """The same rates with Hutchinson's estimate of the trace, by noise of shape `(n, 2)`.

        For planar functions it costs more than the exact trace: it is here to show what it does to the gradient.
        """
        z = state[0]
        w, u, b = self.at(t)
        activation = torch.tanh(torch.addmm(b, z, w))
        projected = (noise @ w) * (noise @ u.t())
        return activation @ u, (projected * (activation * activation - 1)).sum(1)


class SquashedLayer(nn.Module):
    """An affine layer that time gates and shifts: (W z + b) * sigmoid(g t + c) + s t, FFJORD's `concatsquash`.

    Args:
        n: Numbers that come in.
        m: Numbers that go out.
    """

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n, m)
        self.gate = nn.Linear(1, m)
        self.shift = nn.Linear(1, m, bias=False)

    @override
    def forward(self, t: Tensor | float, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Map points `(n, d)`, and `directions` `(k, n, d)` by the derivative."""
        gate = torch.sigmoid(self.gate.weight[:, 0] * t + self.gate.bias)
        return self.linear(z) * gate + self.shift.weight[:, 0] * t, directions @ self.linear.weight.t() * gate


class SquashedField(nn.Module):
    """A multilayer perceptron gated by time, the field of one of FFJORD's flows on tabular data, and its trace.

    "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models", Grathwohl et al., 2019,
    https://arxiv.org/abs/1810.01367. Directions are carried forwards beside the points, so that nothing is
    differentiated inside a solve: all d of them for the exact trace, one for an estimate.

    Args:
        dim: Dimension of the points, one of `TABULAR`.
        hidden: Units in each hidden layer.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SquashedLayer(n, m) for n, m in pairwise(field_sizes(dim, hidden)))
        self._smooth = TABULAR[dim].activation == "softplus"

    @override
    def forward(self, t: Tensor | float, state: Densities) -> Densities:
        """Rates of the points and of the log-density at time `t`."""
        z = state[0]
        return self._rates(t, z, torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None])

    def estimate(self, t: Tensor | float, state: Densities, noise: Tensor) -> Densities:
        """The same rates with Hutchinson's estimate of the trace, by noise of shape `(n, dim)`."""
        return self._rates(t, state[0], noise[None])

    def _rates(self, t: Tensor | float, z: Tensor, directions: Tensor) -> Densities:
        """Rates, the trace being the sum of e . (df/dz) e over directions e of shape `(k, n, dim)` or `(k, 1, dim)`."""
        motion, carried = self.layers[0](t, z, directions)
        for layer in self.layers[1:]:
            if self._smooth:
                activation, slope = functional.softplus(motion), torch.sigmoid(motion)
            else:
                activation = torch.tanh(motion)
                slope = 1 - activation * activation
            motion, carried = layer(t, activation, carried * slope)
        return motion, -(directions * carried).sum((0, 2))


class HutchinsonField(nn.Module):
    """The same dynamics with Hutchinson's estimate e . (df/dz) e of the trace; the noise e is fixed through a solve.

    Args:
        dynamics: The field.
        noise: Plus and minus ones, shape `(n, dim)`. Integers, since it is no parameter.
    """

    noise: Tensor

    def __init__(self, dynamics: GatedPlanarField | SquashedField, noise: Tensor) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.register_buffer("noise", noise)

    @override
    def forward(self, t: Tensor | float, state: Densities) -> Densities:
        """Rates of the points and of the log-density at time `t`."""
        return self.dynamics.estimate(t, state, self.noise.to(state[0].dtype))


class Cnf(nn.Module):
    """Continuous normalising flow from the base at time 0 to the data at time 1.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        dataset: What is fitted.
        hidden: Number M of gated planar functions; units in each hidden layer of a field that is not in the plane.
        trace: `"exact"`, or `"hutchinson"` for an unbiased estimate in the loss; the metric is exact under both.
        dim: Dimension of the points.
    """

    def __init__(
        self, solve: TorchSolve, dataset: str, hidden: int, trace: Literal["exact", "hutchinson"], dim: int
    ) -> None:
        super().__init__()
        self.solve = solve
        self.objective: Objective = objective(dataset, torch)
        self.trace = trace
        self.field = GatedPlanarField(hidden) if dim == PLANE else SquashedField(dim, hidden)

    def problem(self, batch: TorchBatch) -> Problem:
        """Gradient of the training loss through the flow."""
        y0 = self.objective.start(batch)
        field = self.field if self.trace == "exact" else HutchinsonField(self.field, batch["noise"])
        return Problem(field, y0, _times(y0[0], from_base=self.objective.from_base), partial(_loss, self.objective))

    def loss(self, batch: TorchBatch) -> Tensor:
        """Mean loss of a batch in nats."""
        problem = self.problem(batch)
        loss: Tensor = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: TorchBatch) -> Tensor:
        """The objective's metric for each example in nats, shape `(n,)`, by the exact trace."""
        end = self._flow(self.objective.start(batch), from_base=self.objective.from_base)
        metric: Tensor = self.objective.metric(*end)
        return metric

    def diagnostics(self, batch: TorchBatch) -> dict[str, Tensor]:
        """Further figures of the objective for each example, each of shape `(n,)`."""
        end = self._flow(self.objective.start(batch), from_base=self.objective.from_base)
        return self.objective.diagnostics(*end)

    def carry(self, batch: TorchBatch) -> dict[str, Tensor]:
        """The batch's `points` along its `times`, shape `(n, n_times, dim)`, and the `change` of their log-density."""
        start = batch["points"]
        z, change = self.solve(self.field, (start, torch.zeros_like(start[:, 0])), batch["times"])
        return {"points": z.transpose(0, 1), "change": change.t()}

    def push(self, z: Tensor, log_p: Tensor) -> Densities:
        """Carry points and their log-density from the base to the data: samples with their log-density."""
        return self._flow((z, log_p), from_base=True)

    def pull(self, z: Tensor, log_p: Tensor) -> Densities:
        """Carry points and their log-density from the data back to the base."""
        return self._flow((z, log_p), from_base=False)

    def _flow(self, start: Densities, *, from_base: bool) -> Densities:
        z, log_p = self.solve(self.field, start, _times(start[0], from_base=from_base))
        return z[-1], log_p[-1]


class Planar(nn.Module):
    """Normalising flow of K planar layers z + u tanh(w . z + b).

    "Variational Inference with Normalizing Flows", Rezende and Mohamed, 2015, https://arxiv.org/abs/1505.05770, with u
    changed as in its appendix so that w . u > -1 and each layer is invertible. For maximum likelihood the layers map
    data to the base, since their inverse has no closed form.

    Args:
        dataset: What is fitted.
        layers: Number K of layers.
        dim: Dimension of the points.
    """

    def __init__(self, dataset: str, layers: int, dim: int) -> None:
        super().__init__()
        self.objective: Objective = objective(dataset, torch)
        self.u = nn.Parameter(torch.empty(layers, dim))
        self.w = nn.Parameter(torch.empty(layers, dim))
        self.b = nn.Parameter(torch.empty(layers))

    @override
    def forward(self, z: Tensor, log_p: Tensor) -> Densities:
        """Points, shape `(n, dim)`, and their log-density, shape `(n,)`, behind all layers."""
        states, falls = self._through(z, slice(None))
        return states[-1], log_p - falls.sum(1)

    def carry(self, batch: TorchBatch) -> dict[str, Tensor]:
        """The batch's `points` behind each layer from the first to before the last of its `layers`.

        Returns:
            `points`, shape `(n, m + 1, dim)` for m layers, the given ones first, and the `change` of their log-density,
            shape `(n, m + 1)`.
        """
        states, falls = self._through(batch["points"], slice(*batch["layers"].tolist()))
        change = functional.pad(-falls.cumsum(1), (1, 0))
        return {"points": torch.stack([batch["points"], *states], dim=1), "change": change}

    def _through(self, z: Tensor, layers: slice) -> tuple[list[Tensor], Tensor]:
        """Points behind each of these layers, and by how much each lowers the log-density, shape `(n, m)`."""
        product = (self.w * self.u).sum(1)
        inner = functional.softplus(product) - 1
        u_hat = self.u + ((inner - product) / (self.w * self.w).sum(1))[:, None] * self.w
        states, activations = [], []
        for u, w, b in zip(u_hat[layers].unbind(), self.w[layers].unbind(), self.b[layers].unbind(), strict=True):
            activation = torch.tanh(z @ w + b)
            z = torch.addr(z, activation, u)
            states.append(z)
            activations.append(activation)
        # All determinants at once: 64 layers of small operations are bound by their number.
        slopes = 1 - torch.stack(activations, dim=1).square()
        return states, torch.log1p(slopes * inner[layers])

    def loss(self, batch: TorchBatch) -> Tensor:
        """Mean loss of a batch in nats."""
        return self.metric(batch).mean()

    def metric(self, batch: TorchBatch) -> Tensor:
        """The objective's metric for each example in nats, shape `(n,)`."""
        metric: Tensor = self.objective.metric(*self(*self.objective.start(batch)))
        return metric

    def diagnostics(self, batch: TorchBatch) -> dict[str, Tensor]:
        """Further figures of the objective for each example, each of shape `(n,)`."""
        return self.objective.diagnostics(*self(*self.objective.start(batch)))


def _loss(target: Objective, states: Densities) -> Tensor:
    loss: Tensor = target.metric(states[0][-1], states[1][-1]).mean()
    return loss


def _times(z: Tensor, *, from_base: bool) -> Tensor:
    return torch.tensor([0.0, 1.0] if from_base else [1.0, 0.0], dtype=torch.float64, device=z.device)
