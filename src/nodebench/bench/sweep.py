"""The trained network at other tolerances: numerical error and time against evaluations (the paper's figure 3 a, b).

"Neural Ordinary Differential Equations", Chen et al., 2018, https://arxiv.org/abs/1806.07366
"""

import time
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from nodebench.backends.solvers import method
from nodebench.bench.accuracy import relative_error
from nodebench.bench.subject import Subject
from nodebench.errors import CellError
from nodebench.problem import Problem, SolverSpec

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Relative and absolute tolerance alike; below lies the rounding of float32."""

REFERENCE_TOLERANCE = 1e-7
MAX_STEPS = 4096
N_TIMED = 5

Entry = dict[str, float | int | str | None]
"""Figures at one tolerance."""


def tolerance_sweep(subject: Subject, problem: Problem) -> list[Entry]:
    """Solve a problem at each of `TOLERANCES`.

    Args:
        subject: The cell whose backend and solver are used.
        problem: The problem at the trained weights.

    Returns:
        For each tolerance a mapping of `rtol`, `nfe_forward`, `solution_error` (relative L2 distance of the states at
        the output times from those at `REFERENCE_TOLERANCE`, in the cell's dtype), `forward_s` (median time of a solve
        without gradients) and `reason`, which says why figures are None. Empty for a solver of fixed steps.
    """
    if not method(subject.spec.solver).adaptive:
        return []
    try:
        reference = _solution(subject, problem, REFERENCE_TOLERANCE)
    except CellError as error:
        return [_entry(rtol, reason=f"no reference: {error}") for rtol in TOLERANCES]
    return [_measured(subject, problem, rtol, reference) for rtol in TOLERANCES]


def _measured(subject: Subject, problem: Problem, rtol: float, reference: np.ndarray) -> Entry:
    step = subject.gradient_backend().gradient_step(problem, _spec(subject, rtol), subject.framework)
    try:
        error = relative_error(subject.framework.flat_state(step.solution()), reference)
        evaluations = step.forward_evaluations()
    except CellError as failed:
        return _entry(rtol, reason=str(failed))
    if not np.isfinite(error):
        return _entry(rtol, reason="the solve did not come to its end.")
    seconds = []
    for _ in range(N_TIMED):
        start = time.perf_counter()
        step.solution()
        seconds.append(time.perf_counter() - start)
    return _entry(rtol, nfe_forward=evaluations, solution_error=error, forward_s=median(seconds))


def _solution(subject: Subject, problem: Problem, rtol: float) -> np.ndarray:
    step = subject.gradient_backend().gradient_step(problem, _spec(subject, rtol), subject.framework)
    return subject.framework.flat_state(step.solution())


def _spec(subject: Subject, rtol: float) -> SolverSpec:
    return replace(subject.spec, rtol=rtol, atol=rtol, max_steps=max(MAX_STEPS, subject.spec.max_steps))


def _entry(rtol: float, **figures: Any) -> Entry:
    return {"rtol": rtol, "nfe_forward": None, "solution_error": None, "forward_s": None, "reason": None, **figures}
