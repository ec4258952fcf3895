"""A vector field of your own in torch, and all gradient methods compared on it.

nodebench run -b all -t ./examples/torch_field.py:MyTask --measure gradient --preset smoke
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from nodebench import AbstractFieldTask


class Pendulum(nn.Module):
    """A pendulum and the friction that a network learns: dy/dt of states `(n, 2)`, angle and velocity."""

    def __init__(self):
        super().__init__()
        self.friction = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, t, y):
        """`t` is a scalar tensor; the rate has the shape of `y`."""
        angle, velocity = y[:, :1], y[:, 1:]
        return torch.cat([velocity, -torch.sin(angle) + self.friction(y)], dim=1)


@dataclass(frozen=True)
class MyTask(AbstractFieldTask):
    """A pendulum with a learnt friction, to be at rest after five seconds."""

    fields: ClassVar = {"torch": f"{__file__}:Pendulum"}
    times: ClassVar = (0.0, 5.0)

    def initial_states(self, n, rng):
        """The angle and the velocity that each pendulum begins with."""
        return rng.standard_normal((n, 2))
