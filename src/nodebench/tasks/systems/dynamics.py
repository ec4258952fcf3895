"""How stiff a system is along a solution, and how disturbances of its start end."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # whose submodules load on first use: `nodebench list` imports this module

from nodebench.tasks.base import Dynamics

MAX_STATES = 8
"""States up to which the variational equation, whose size is their square, is solved too."""

MAX_EIGENVALUES = 512
"""States up to which the eigenvalues of the Jacobian are computed."""

RTOL, ATOL = 1e-10, 1e-14

MAX_STEPS = 50_000
"""Steps beyond which a solution is given up."""

RESOLVED = 1e-8, 1e4 * ATOL
"""Part of the largest singular value, and size, below which a singular value is not resolved."""

IMAGINARY = 1e-30
"""Step of a complex-step derivative, which rounds nothing off however short it is: Squire and Trapp, 1998,
https://doi.org/10.1137/S003614459631241X."""


def dynamics(rates: Callable[[float, np.ndarray], np.ndarray], y0: np.ndarray, times: Sequence[float]) -> Dynamics:
    """What is known of the solution of y' = rates(t, y).

    Args:
        rates: The derivative of states `(..., d)`, analytic in them.
        y0: The start, shape `(d,)`.
        times: The output times; stiffness is looked at there.
    """
    d = len(y0)

    def jacobian(t: float, y: np.ndarray) -> np.ndarray:
        rows: np.ndarray = rates(t, y + IMAGINARY * 1j * np.eye(d)).imag / IMAGINARY
        return rows.T

    def variational(t: float, z: np.ndarray) -> np.ndarray:
        y, disturbed = z[:d], z[d:].reshape(d, d)
        return np.concatenate([rates(t, y), (jacobian(t, y) @ disturbed).ravel()])

    if d > MAX_EIGENVALUES:
        return Dynamics(note=f"no stiffness and sensitivity: the system has more than {MAX_EIGENVALUES} states")
    small = d <= MAX_STATES
    states = _solved(variational if small else rates, times, np.concatenate([y0, np.eye(d).ravel()]) if small else y0)
    if len(states) < len(times):
        reached = f"t = {times[len(states)]:g} of {times[-1]:g}"
        return Dynamics(note=f"no stiffness and sensitivity: SciPy's LSODA does not come to {reached}")
    values = [np.linalg.eigvals(jacobian(t, state[:d])).real.min() for t, state in zip(times, states, strict=True)]
    stiffness = float(min(0.0, *values)) * abs(times[-1] - times[0])
    if not small:
        return Dynamics(stiffness)
    singular = np.linalg.svd(states[-1][d:].reshape(d, d), compute_uv=False)
    part, size = RESOLVED
    known = [float(value) if value > max(part * singular[0], size) else None for value in singular]
    return Dynamics(stiffness, known[0], known[-1])


def _solved(
    rates: Callable[[float, np.ndarray], np.ndarray], times: Sequence[float], start: np.ndarray
) -> list[np.ndarray]:
    """The states at the output times, as far as they can be followed."""
    found = [start]
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # by which LSODA says why it gives up
        solver = scipy.integrate.LSODA(rates, times[0], start, times[-1], rtol=RTOL, atol=ATOL)
        for _ in range(MAX_STEPS):
            solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                break
            between = solver.dense_output()
            forward = solver.direction
            while len(found) < len(times) and forward * times[len(found)] <= forward * solver.t:
                found.append(between(times[len(found)]))
            if solver.status == "finished":
                break
    return found
