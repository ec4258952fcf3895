"""The passes of a gradient measurement in the worker, each by itself so that none disturbs another."""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebench.bench import accuracy, memory
from nodebench.bench.messages import Counts, Preparation, Turn
from nodebench.bench.subject import Prepared
from nodebench.errors import DivergedError
from nodebench.frameworks.base import AbstractGradientStep
from nodebench.problem import Gradients, StepGrid

TURN_S = 0.05
"""Shortest turn: a faster step is repeated within it, so that the clock's and the messages' cost vanish."""

MAX_STEPS_PER_TURN = 200


@dataclass
class GradientPasses:
    """The gradient measurement of one prepared subject.

    Attributes:
        prepared: The subject and its problem.
        step: Its gradient step.
        steps_per_turn: Steps in a turn of the timing.
    """

    prepared: Prepared
    step: AbstractGradientStep
    steps_per_turn: int = 1

    @classmethod
    def begin(cls, prepared: Prepared) -> tuple["GradientPasses", Preparation]:
        """Make the first gradient step, compilation and warm-up included.

        Raises:
            DivergedError: If loss or gradient is not finite.
        """
        subject = prepared.subject
        start = time.perf_counter()
        step = subject.gradient_backend().gradient_step(prepared.problem, subject.spec, subject.framework)
        gradients = step.step()
        first_step_s = time.perf_counter() - start
        passes = cls(prepared, step)
        preparation = Preparation(
            first_step_s=first_step_s,
            n_params=subject.framework.n_params(prepared.model),
            loss=passes._finite_loss(gradients),
            dataset=prepared.inputs.dataset,
            notes=[prepared.inputs.note] if prepared.inputs.note else [],
            exact_counterpart=subject.gradient_backend().exact_counterpart(),
        )
        return passes, preparation

    def count(self) -> Counts:
        """Count evaluations and steps, in instrumented runs of their own."""
        evaluations = self.step.evaluations()
        grid = self._grid()
        return Counts(evaluations, (grid.n_accepted, grid.n_rejected) if grid else None)

    def accuracy(self, continuous: Path | None, discrete: Path | None) -> dict[str, Any]:
        """Relative errors against the gradients in the two files, as far as there are any."""
        framework = self.prepared.subject.framework
        gradients = self.step.step()
        found = accuracy.reference_from(framework, gradients, "")
        figures: dict[str, Any] = {}
        for prefix, path in (("grad", continuous), ("method", discrete)):
            if path is not None:
                reference = accuracy.Reference.load(path)
                figures[f"{prefix}_error_params"] = accuracy.relative_error(found.params, reference.params)
                figures[f"{prefix}_error_y0"] = accuracy.relative_error(found.y0, reference.y0)
                figures |= {"reference": reference.description} if prefix == "grad" else {}
        return figures

    def memory(self) -> dict[str, Any]:
        """Peak memory of one warmed gradient step and its exact companion."""
        self.step.step()
        on_device = self.prepared.subject.framework.peak_device_bytes(self.step.step)
        peak = memory.peak_bytes(self.step.step) if on_device is None else on_device
        return {"peak_memory_bytes": peak, "saved_bytes": self.step.saved_bytes()}

    def turn(self, *, warm_up: bool = False) -> Turn:
        """One turn of the timing; a warm-up turn also decides how many steps a turn has."""
        gc.collect()
        gc.disable()
        try:
            if warm_up:
                self.step.step()
                once = _timed(self.step.step, 1)[0]
                self.steps_per_turn = min(MAX_STEPS_PER_TURN, max(1, math.ceil(TURN_S / once)))
            wall, cpu = _timed(self.step.step, self.steps_per_turn)
            forward, backward = _split(self.step)
        finally:
            gc.enable()
        return Turn(wall, cpu, forward, backward)

    def _finite_loss(self, gradients: Gradients) -> float:
        framework = self.prepared.subject.framework
        found = framework.to_numpy(gradients)
        total = sum(float(abs(value).sum()) for value in found.params.values())
        total += float(abs(framework.flat_state(gradients.y0)).sum())
        loss = float(found.loss)
        if not math.isfinite(total + loss):
            # A library that reports a failed solve as NaN tells its steps on demand: that call raises what happened.
            self._grid()
            raise DivergedError(f"the loss is {loss} and its gradient is not finite.")
        return loss

    def _grid(self) -> StepGrid | None:
        subject, problem = self.prepared.subject, self.prepared.problem
        return subject.gradient_backend().grid(problem.field, problem.y0, problem.times, subject.spec)


def _timed(call: Callable[[], object], repetitions: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repetitions):
        call()
    return (time.perf_counter() - wall) / repetitions, (time.process_time() - cpu) / repetitions


def _split(step: AbstractGradientStep) -> tuple[float, float]:
    start = time.perf_counter()
    state = step.forward()
    middle = time.perf_counter()
    step.backward(state)
    return middle - start, time.perf_counter() - middle
