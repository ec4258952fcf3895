"""Systems of equations in torch."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from typing_extensions import override

from nodebench.problem import Problem, State
from nodebench.tasks.systems.task import AbstractSystem

TorchBatch = Mapping[str, Tensor]
"""`y0`, shape `(n, d)`, and `observed` and `scale`, shape `(n, n_times, d)`."""

TorchSolve = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`solve(field, y0, times)`: the states at `times`, shape `(n_times, *y0.shape)`."""


class Equations(nn.Module):
    """The equations of a system, with parameters to be fitted.

    Args:
        system: The system.
    """

    def __init__(self, system: AbstractSystem) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(len(system.truth)))
        self._system = system

    @override
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The derivative of states `(n, d)`."""
        theta = self.theta.exp() if self._system.positive else self.theta
        derivative: Tensor = self._system.derivative(torch, t, y, theta)
        return derivative


class Network(nn.Module):
    """A multilayer perceptron with tanh between its layers, as a field that does not depend on time.

    Args:
        sizes: Widths of its layers, from the state on.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(sizes))

    @override
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Map states `(n, sizes[0])` to `(n, sizes[-1])`."""
        del t
        for layer in self.layers[:-1]:
            y = torch.tanh(layer(y))
        out: Tensor = self.layers[-1](y)
        return out


class SmallMlp(Network):
    """The network of `small-mlp`, 4-32-4."""

    def __init__(self) -> None:
        super().__init__((4, 32, 4))


class Line(Network):
    """The network of `minus-x` in one dimension, 1-16-16-1."""

    def __init__(self) -> None:
        super().__init__((1, 16, 16, 1))


class Plane(Network):
    """The network of `annuli`, and of `minus-x` with a dimension more, 2-16-16-2."""

    def __init__(self) -> None:
        super().__init__((2, 16, 16, 2))


class Space(Network):
    """The network of `annuli` with a dimension more, 3-16-16-3."""

    def __init__(self) -> None:
        super().__init__((3, 16, 16, 3))


class Hamiltonian(nn.Module):
    """(dq/dt, dp/dt) = (∂H/∂p, -∂H/∂q) of a learnt energy H, a network 2-32-1."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = Network((2, 32, 1))

    @override
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The derivative of states `(n, 2)`."""
        taped = torch.is_grad_enabled()
        with torch.enable_grad():
            state = y if taped and y.requires_grad else y.detach().requires_grad_()
            (by_state,) = torch.autograd.grad(self.energy(t, state).sum(), state, create_graph=taped)
        return torch.cat([by_state[:, 1:], -by_state[:, :1]], dim=1)


class SystemODE(nn.Module):
    """Trajectories of a system from their starts.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        system: The system.
        neural: Whether a network is in the place of its equations.
    """

    def __init__(self, solve: TorchSolve, system: AbstractSystem, *, neural: bool) -> None:
        super().__init__()
        self.solve = solve
        self.field = Network(system.sizes) if neural else Equations(system)
        self._times = system.times

    def loss(self, batch: TorchBatch) -> Tensor:
        """Mean square of the misfit, relative to the largest value of each component."""
        mean: Tensor = self._misfit(batch).pow(2).mean()
        return mean

    def metric(self, batch: TorchBatch) -> Tensor:
        """Root mean square of the misfit of each trajectory, shape `(n,)`."""
        error: Tensor = self._misfit(batch).pow(2).mean(dim=(1, 2)).sqrt()
        return error

    def problem(self, batch: TorchBatch) -> Problem:
        """The gradient of the training loss."""

        def loss(ys: State) -> Tensor:
            mean: Tensor = ((ys.transpose(0, 1) - batch["observed"]) / batch["scale"]).pow(2).mean()  # type: ignore[union-attr]
            return mean

        return Problem(self.field, batch["y0"], self._time_tensor(batch["y0"]), loss)

    def _misfit(self, batch: TorchBatch) -> Tensor:
        ys = self.solve(self.field, batch["y0"], self._time_tensor(batch["y0"])).transpose(0, 1)
        return (ys - batch["observed"]) / batch["scale"]

    def _time_tensor(self, y0: Tensor) -> Tensor:
        return torch.tensor(self._times, dtype=torch.float64, device=y0.device)
