"""Exact solution and gradients of dy/dt = y Aᵀ, from the matrix exponential and its Fréchet derivative."""

from typing import Literal

import numpy as np
import scipy  # whose submodules load on first use: `nodebench list` imports this module

from nodebench.problem import Gradients

Loss = Literal["end", "path"]
"""Squared norm of the last state, or the sum of those at all output times after the first."""


def states(matrix: np.ndarray, y0: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The solution at each time, shape `(n, batch, d)`, of initial states `(batch, d)` at `times[0]`."""
    return np.stack([y0 @ scipy.linalg.expm(matrix * (t - times[0])).T for t in times])


def gradients(matrix: np.ndarray, y0: np.ndarray, times: np.ndarray, loss: Loss) -> Gradients:
    """Exact gradients of the loss, summed over the batch.

    With E = exp(A τ), the derivative of <G, E> with respect to A is τ L(Aᵀ τ, G), L being the Fréchet derivative of the
    exponential.

    Args:
        matrix: A, shape `(d, d)`.
        y0: Initial states, shape `(batch, d)`.
        times: Output times, shape `(n,)`.
        loss: Which states the loss looks at.

    Returns:
        Loss and gradients in float64; that of A under the name `A`.

    References:
        Computing the Fréchet derivative of the matrix exponential (Al-Mohy, Higham, 2009),
        https://doi.org/10.1137/080716426
    """
    solution = states(matrix, y0, times)
    by_y0, by_matrix, by_times = np.zeros_like(y0), np.zeros_like(matrix), np.zeros(len(times))
    value = 0.0
    for k in range(1, len(times)) if loss == "path" else [len(times) - 1]:
        span, y = times[k] - times[0], solution[k]
        value += float(np.sum(y**2))
        by_y0 += 2 * y @ scipy.linalg.expm(matrix * span)
        by_matrix += span * scipy.linalg.expm_frechet(matrix.T * span, 2 * y.T @ y0, compute_expm=False)
        by_times[k] = 2 * np.sum(y * (y @ matrix.T))
    # Moving the first time alone shifts every other one against it.
    by_times[0] = -np.sum(by_times[1:])
    return Gradients(np.array(value), by_y0, {"A": by_matrix}, by_times)
