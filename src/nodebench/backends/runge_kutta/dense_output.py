"""Dense output: the state inside a step as a polynomial in the fraction of the step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from nodebench.backends.solvers import OURS, Tableau, tableau
from nodebench.problem import SolverSpec

# Polynomials in θ are lists of the coefficients of θ, θ², ...; all of them vanish at θ = 0.
_H01 = (0.0, 3.0, -2.0)  # Hermite's cubics: for the difference of the two ends,
_H10 = (1.0, -2.0, 1.0)  # for the derivative at the beginning,
_H11 = (0.0, -1.0, 1.0)  # and at the end
_BUMP = (0.0, 16.0, -32.0, 16.0)  # 1 at the middle; it and its derivative vanish at both ends

# Weights of a state in the middle of a step, of order four: "Some Practical Runge-Kutta Formulas", Shampine, 1986,
# https://doi.org/10.2307/2008219
_DOPRI5_MIDDLE = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)

# Factors of b_i(θ) = scale θ^p (θ - r1) ..., a quadratic without real roots as its own factor: Tsitouras, 2011 (see
# `tableau`).
_TSIT5 = (
    (-1.0530884977290216, 1, (-1.3299890189751412, 1.0), (0.7139816917074209, -1.4364028541716351, 1.0)),
    (0.1017, 2, (1.2949852507374631, -2.1966568338249754, 1.0)),
    (2.490627285651252793, 2, (1.57803468208092486, -2.38535645472061657, 1.0)),
    (-16.54810288924490272, 2, (-1.21712927295533244, 1.0), (-0.61620406037800089, 1.0)),
    (47.37952196281928122, 2, (-1.203071208372362603, 1.0), (-0.658047292653547382, 1.0)),
    (-34.87065786149660974, 2, (-1.2, 1.0), (-0.666666666666666667, 1.0)),
    (2.5, 2, (-1.0, 1.0), (-0.6, 1.0)),
)


@dataclass(frozen=True)
class Interpolant:
    """Continuous extension `y(t0 + θ h) = y0 + h Σ_i b_i(θ) k_i` of a method with s stages.

    Attributes:
        order: Its order: the error inside a step of length h goes with h^(order + 1).
        coefficients: For each stage those of θ, θ², ... in b_i(θ), shape `(s, degree)`.
    """

    order: int
    coefficients: tuple[tuple[float, ...], ...]

    def weights(self, theta: float) -> list[float]:
        """b_i(θ) of every stage."""
        powers = [theta ** (p + 1) for p in range(len(self.coefficients[0]))]
        return [sum(c * power for c, power in zip(row, powers, strict=True)) for row in self.coefficients]


@cache
def interpolant(name: str) -> Interpolant | None:
    """The continuous extension of a method, or None where states inside a step would be less exact than its ends.

    `dopri5` and `tsit5` have one of order four, which is what their error estimates hold; methods of lower order whose
    last stage is the derivative at the end of the step have Hermite's cubic. Both ends of a step are met exactly.
    """
    method = tableau(name)
    if name == "dopri5":
        hermite = _hermite(method)
        middle = Interpolant(3, hermite).weights(0.5)
        bumps = [m - at_half for m, at_half in zip(_DOPRI5_MIDDLE, middle, strict=True)]
        return Interpolant(
            4, tuple(_sum((*row, 0.0), _scaled(_BUMP, b)) for row, b in zip(hermite, bumps, strict=True))
        )
    if name == "tsit5":
        return Interpolant(4, tuple(_expanded(*row) for row in _TSIT5))
    if method.adaptive and method.fsal and method.order <= 3:
        return Interpolant(method.order, _hermite(method))
    return None


def _hermite(method: Tableau) -> tuple[tuple[float, ...], ...]:
    rows = [_scaled(_H01, b) for b in method.b]
    rows[0] = _sum(rows[0], _H10)
    rows[-1] = _sum(rows[-1], _H11)
    return tuple(rows)


def _scaled(polynomial: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(factor * c for c in polynomial)


def _sum(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _expanded(scale: float, power: int, *factors: Sequence[float]) -> tuple[float, ...]:
    """Coefficients of θ to θ⁴ of a product of polynomials, each given from its constant term on."""
    product = [scale]
    for factor in factors:
        longer = [0.0] * (len(product) + len(factor) - 1)
        for i, a in enumerate(product):
            for j, b in enumerate(factor):
                longer[i + j] += a * b
        product = longer
    return tuple([0.0] * (power - 1) + product)


class DenseOutput:
    """States inside a step, from the stage derivatives that the step has left in the scheme's buffer.

    Args:
        continuous: The continuous extension.
        like: A tensor of the dtype and on the device of the states.
    """

    def __init__(self, continuous: Interpolant, like: Tensor) -> None:
        self._coefficients = like.new_tensor(continuous.coefficients)
        self._exponents = range(1, self._coefficients.shape[1] + 1)

    def weights(self, thetas: Sequence[float]) -> Tensor:
        """b_i(θ) of every stage, shape `(n_thetas, stages)`."""
        return self.powers(thetas) @ self._coefficients.t()

    def powers(self, thetas: Sequence[float]) -> Tensor:
        """θ, θ², ... of each place, shape `(n_thetas, degree)`."""
        # By way of an array: a hundred output times are many for a list of lists.
        return torch.from_numpy(np.power.outer(thetas, self._exponents)).to(self._coefficients)

    def polynomial(self, rows: Tensor) -> Tensor:
        """Coefficients of θ, θ², ... in (y - y0) / h, shape `(degree, n)`, of a step with these stage derivatives."""
        return self._coefficients.t() @ rows

    def states(self, y0: Tensor, rows: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """The states at places inside a step of length `h` that began at `y0`, shape `(n_thetas, n)`."""
        return torch.addmm(y0, self.weights(thetas), rows, alpha=h)


def dense_output(method: Tableau, like: Tensor, marks: Sequence[float], *, land: bool) -> DenseOutput | None:
    """Dense output of a method; None where every output time is to be stepped onto, or the method has none."""
    return None if land or len(marks) == 2 else _dense_output(method.name, like.dtype, like.device)


@cache
def _dense_output(name: str, dtype: torch.dtype, device: torch.device) -> DenseOutput | None:
    continuous = interpolant(name)
    return None if continuous is None else DenseOutput(continuous, torch.empty(0, dtype=dtype, device=device))


def differences(spec: SolverSpec, *, land: bool) -> tuple[str, ...]:
    """What sets a solve apart from one that steps onto every output time, a sentence each."""
    if land or spec.solver not in OURS or interpolant(spec.solver) is None:
        return ()
    return ("it steps onto the last output time and interpolates to those before (its `land` option changes that).",)
