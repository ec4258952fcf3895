"""Problems in torch that tests of several backends share."""

import torch
from torch import nn

from nodebench.conformance.torch_models import path_loss
from nodebench.problem import Problem


class Net(nn.Module):
    """A small field that depends on time and has a parameter that it does not use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, t, y):
        time = torch.ones_like(y[:, :1]) * t
        return self.second(torch.tanh(self.first(torch.cat([y, time], dim=1))))


class Pair(nn.Module):
    """A field of two parts of different shapes, the second of which takes a gradient within."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Linear(2, 2)

    def forward(self, t, y):
        del t
        z, _ = y
        taped = torch.is_grad_enabled()
        with torch.enable_grad():
            z = z.requires_grad_() if taped else z.detach().requires_grad_()
            dz = torch.tanh(self.net(z))
            trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
        return dz, -trace[:, None]


def make_problem(field=None, times=(0.0, 0.8, 2.0), *, timed=False, dtype=torch.float64):
    """Four states of two numbers, which a `Net` moves unless told otherwise."""
    field = (field or Net()).to(dtype)
    torch.manual_seed(0)
    y0 = torch.randn(4, 2, dtype=dtype)
    if isinstance(field, Pair):
        y0 = (y0, torch.zeros(4, 1, dtype=dtype))
    return Problem(field, y0, torch.tensor(times, dtype=torch.float64), path_loss, timed)


def flat(gradients):
    """All gradients as one vector."""
    y0 = gradients.y0 if isinstance(gradients.y0, tuple) else (gradients.y0,)
    extra = [] if gradients.times is None else [gradients.times]
    return torch.cat([g.reshape(-1) for g in (*y0, *gradients.params.values(), *extra)])
