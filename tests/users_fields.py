"""Files as users write them: a field and the task around it, in torch or in JAX, made of a few lines each."""

from textwrap import indent

TORCH = '''
import math
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from torch.nn import functional as Fn
from nodebench.tasks.field.task import AbstractFieldTask
{top}

class F(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
{init}

    def forward(self, t, y):
{forward}

@dataclass(frozen=True)
class T(AbstractFieldTask):
    """A task."""
    fields: ClassVar = {{"torch": f"{{__file__}}:F"}}
    times: ClassVar = {times}
    def initial_states(self, n, rng):
        return {states}
{task}
'''

JAX = '''
from dataclasses import dataclass
from typing import ClassVar
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from nodebench.tasks.field.task import AbstractFieldTask
{top}

class F(eqx.Module):
    net: eqx.nn.MLP
{attributes}

    def __init__(self, *, key):
        self.net = eqx.nn.MLP(2, 2, 16, 1, activation=jnp.tanh, key=key)
{init}

    def __call__(self, t, y):
{forward}

@dataclass(frozen=True)
class T(AbstractFieldTask):
    """A task."""
    fields: ClassVar = {{"jax": f"{{__file__}}:F"}}
    times: ClassVar = {times}
    def initial_states(self, n, rng):
        return {states}
{task}
'''

STATES = "rng.standard_normal((n, 2))"


def torch_file(folder, forward="return self.net(y)", init="", *, top="", task="", times=(0.0, 1.0), states=STATES):
    """Write `bad.py` into a folder; returns the name of its task."""
    text = TORCH.format(
        top=top,
        init=indent(init, " " * 8),
        forward=indent(forward, " " * 8),
        task=indent(task, " " * 4),
        times=times,
        states=states,
    )
    return _written(folder, text)


def jax_file(
    folder,
    forward="return jax.vmap(self.net)(y)",
    init="",
    *,
    attributes="",
    top="",
    task="",
    times=(0.0, 1.0),
    states=STATES,
):
    """The same in JAX."""
    text = JAX.format(
        top=top,
        init=indent(init, " " * 8),
        attributes=indent(attributes, " " * 4),
        forward=indent(forward, " " * 8),
        task=indent(task, " " * 4),
        times=times,
        states=states,
    )
    return _written(folder, text)


def _written(folder, text):
    (folder / "bad.py").write_text(text)
    return f"{folder / 'bad.py'}:T"
