"""What every backend must do where a solve cannot succeed: say so, and hand out no figures as if it had."""

from dataclasses import replace

import numpy as np

from nodebench.conformance.check import require
from nodebench.conformance.known import BackendSubject, Known
from nodebench.errors import CellError, DivergedError
from nodebench.problem import Gradients, Problem, SolverSpec

FEW_STEPS = 3


def nan_ends_cleanly(subject: BackendSubject) -> None:
    """A field of NaN is a `DivergedError`; compiled code, which cannot raise, gives NaN for loss and gradients."""
    problem, spec = subject.problem(Known(scale=float("nan"))), subject.spec()
    raised = _failure(subject, problem, spec)
    clean = raised is None or isinstance(raised, DivergedError)
    require(clean, f"a field of NaN must raise `DivergedError`; it raises {_told(raised)}.")


def the_step_limit_is_kept(subject: BackendSubject) -> None:
    """Out of steps it raises `StepLimitError` or gives NaN, at the latest where its evaluations are counted."""
    spec = replace(subject.spec(2), max_steps=FEW_STEPS)
    problem = subject.problem(Known(times=(0.0, 2.0)))
    raised = _failure(subject, problem, spec)
    require(
        raised is None or isinstance(raised, CellError),
        f"out of steps it must raise `StepLimitError`; it raises {_told(raised)}.",
    )


BACKEND_LIMITS = (nan_ends_cleanly, the_step_limit_is_kept)


def _failure(subject: BackendSubject, problem: Problem, spec: SolverSpec) -> Exception | None:
    """What a gradient that cannot succeed raises; None for NaN in loss and gradients, where that is all it can do.

    Raises:
        CheckFailedError: If it is handed out as if it had succeeded.
    """
    framework = subject.framework(spec.dtype)
    try:
        step = subject.backend.gradient_step(problem, spec, framework)
        found = framework.to_numpy(step.step())
        if not _is_nan(found):
            step.evaluations()
    except Exception as error:  # noqa: BLE001  what it raises is what is asked for
        return error
    require(_is_nan(found), f"it answers with the loss {found.loss:.3g} and gradients, as if it had succeeded.")
    require(framework.compiles, "it returns NaN for loss and gradients, where it must raise an error.")
    return None


def _is_nan(found: Gradients) -> bool:
    parts = found.y0 if isinstance(found.y0, tuple) else (found.y0,)
    return all(np.isnan(value).all() for value in (found.loss, *parts, *found.params.values()))


def _told(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"
