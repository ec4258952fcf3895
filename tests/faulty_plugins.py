"""Backends and tasks with one fault each, for the conformance checks to find."""

import os
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.testing import FakeTask


def direct():
    return registry.load("backend", "direct", AbstractBackend)


@dataclass(frozen=True)
class Faultless(AbstractBackend):
    """What `direct` does."""

    framework: ClassVar[str] = "torch"
    exact_counterpart = "direct"

    def unsupported(self, problem, spec):
        return direct().unsupported(problem, spec)

    def solve(self, field, y0, times, spec):
        return direct().solve(field, y0, times, spec)

    def grid(self, field, y0, times, spec):
        return direct().grid(field, y0, times, spec)


@dataclass(frozen=True)
class Wordy(Faultless):
    """Its law of memory is a word."""

    framework: ClassVar[str] = "torch"
    memory_exponent = "linear"


@dataclass(frozen=True)
class Claiming(Faultless):
    """It says that its solves are on the tape, and differentiates them by hand."""

    framework: ClassVar[str] = "torch"
    on_tape = True


@dataclass(frozen=True)
class WrongSign(Faultless):
    """Its gradients have the wrong sign."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        ys = direct().solve(field, y0, times, spec)
        return torch.stack([2 * y.detach() - y for y in ys]) if isinstance(ys, torch.Tensor) else ys


@dataclass(frozen=True)
class Coarse(Faultless):
    """It solves at a loose tolerance, whatever was asked for."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        return direct().solve(field, y0, times, replace(spec, rtol=1e-3, atol=1e-3))


@dataclass(frozen=True)
class Timeless(Faultless):
    """It evaluates the field as if it were always the beginning."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        return direct().solve(_Frozen(field, times[0]), y0, times, spec)


class _Frozen(torch.nn.Module):
    def __init__(self, field, t):
        super().__init__()
        self.field, self.t = field, t

    def forward(self, t, y):
        del t
        return self.field(self.t, y)


@dataclass(frozen=True)
class OneShape(Faultless):
    """It returns the last state alone."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        return direct().solve(field, y0, times, spec)[-1:]


@dataclass(frozen=True)
class Mutating(Faultless):
    """It leaves another initial state behind."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        ys = direct().solve(field, y0, times, spec)
        (y0[0] if isinstance(y0, tuple) else y0).data.mul_(0.9)
        return ys


@dataclass(frozen=True)
class Raising(Faultless):
    """It has never been tried."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        return direct().slove(field, y0, times, spec)


@dataclass(frozen=True)
class Halving(Faultless):
    """Its states are half of what they should be."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        ys = direct().solve(field, y0, times, spec)
        return torch.cat([ys[:1], 0.5 * ys[1:]]) if isinstance(ys, torch.Tensor) else ys


CALLS = []


@dataclass(frozen=True)
class Remembering(Faultless):
    """Its answer depends on how often it has been asked."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        CALLS.append(None)
        return direct().solve(field, y0 * (1 + 1e-9 * len(CALLS)), times, spec)


@dataclass(frozen=True)
class Hiding(Faultless):
    """It evaluates a copy of the field."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        return direct().solve(deepcopy(field), y0, times, spec)


@dataclass(frozen=True)
class Promoting(Faultless):
    """It answers in float64."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        return direct().solve(field, y0, times, spec).double()


@dataclass(frozen=True)
class Whitewashing(Faultless):
    """It makes zeros of NaN, and zeros of a solve that failed."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        try:
            return direct().solve(field, y0, times, spec)
        except Exception:  # noqa: BLE001  that is its fault
            return torch.zeros(len(times), *y0.shape, dtype=y0.dtype) + 0 * torch.nan_to_num(y0)


@dataclass(frozen=True)
class Endless(Faultless):
    """It makes a step smaller until its error is, even that of NaN."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        while not torch.isfinite(field(times[0], y0)).all():
            pass
        return direct().solve(field, y0, times, spec)


@dataclass(frozen=True)
class Crashing(Faultless):
    """It ends the process where times decrease."""

    framework: ClassVar[str] = "torch"

    def solve(self, field, y0, times, spec):
        if times[-1] < times[0]:
            os._exit(7)
        return direct().solve(field, y0, times, spec)


@dataclass(frozen=True)
class Drifting(FakeTask):
    """Its data are never the same."""

    def data(self, preset, seed):
        return super().data(preset, seed + int(np.random.default_rng().integers(1, 1000)))


@dataclass(frozen=True)
class Leaking(FakeTask):
    """It tests on what it trains on."""

    def data(self, preset, seed):
        splits = super().data(preset, seed)
        return replace(splits, test=splits.train)


@dataclass(frozen=True)
class Constant(FakeTask):
    """Its weights are the same for every seed."""

    def weights(self, model, seed):
        del model, seed
        return {"rate": np.array(0.5)}


@dataclass(frozen=True)
class OtherWeights(FakeTask):
    """Its gradient problem is at other weights than its own."""

    def problem(self, model, seed, batch_size):
        return super().problem(model, seed + 1, batch_size)


@dataclass(frozen=True)
class Greedy(FakeTask):
    """Its batch is larger than its data."""

    def recipe(self, model, preset):
        return replace(super().recipe(model, preset), batch_size=41)


@dataclass(frozen=True)
class WrongForm(FakeTask):
    """Its closed form is that of another problem."""

    def problem(self, model, seed, batch_size):
        inputs = super().problem(model, seed, batch_size)
        other = super().problem(model, seed + 1, batch_size)
        return replace(inputs, closed_form=other.closed_form)
