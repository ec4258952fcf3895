"""The 25 nonstiff problems of DETEST, one description each for NumPy and torch.

"Comparing Numerical Methods for Ordinary Differential Equations", Hull, Enright, Fellen and Sedgwick, 1972,
https://doi.org/10.1137/0709052: A single equations, B small systems, C moderate systems, D orbits by their
eccentricity, E equations of second order as systems of first order. All are solved from t = 0 to 20.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from nodebench.problem import Array

END = 20.0
"""Last time of every problem."""

Rates = Callable[[Any, Array, Array], Array]
"""`rates(xp, t, y)`: the derivative of states `(..., n)` in float64, `xp` being `numpy` or `torch`."""


@dataclass(frozen=True)
class DetestProblem:
    """One problem.

    Attributes:
        rates: Its derivative.
        y0: The state at t = 0, n numbers.
    """

    rates: Rates
    y0: tuple[float, ...]


def _components(derivatives: Callable[..., tuple[Array, ...]]) -> Rates:
    """A system by its components: `derivatives(xp, t, *components)`."""
    return lambda xp, t, y: xp.stack(derivatives(xp, t, *(y[..., i] for i in range(y.shape[-1]))), -1)


def _second_order(acceleration: Callable[[Any, Array, Array, Array], Array]) -> Rates:
    """The system of y'' = g(t, y, y'), where `acceleration(xp, t, y, v)` is g."""
    return _components(lambda xp, t, y, v: (v, acceleration(xp, t, y, v)))


def _linear(matrix: np.ndarray) -> Rates:
    """The system y' = A y."""
    return lambda xp, t, y: y @ xp.asarray(matrix.T)


def _decays(rates: np.ndarray) -> np.ndarray:
    """The matrix of substances of which each decays into the next, the last one not."""
    outflow = np.diag([*rates, 0.0])
    return np.roll(outflow, 1, axis=0) - outflow


def _second_differences(n: int) -> np.ndarray:
    """The matrix of the second differences of n values between two zeros."""
    return np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1)


def _torus(xp: Any, t: Array, a: Array, b: Array, c: Array) -> tuple[Array, ...]:
    del t
    r = xp.sqrt(a**2 + b**2)
    return -b - a * c / r, a - b * c / r, a / r


def _orbit(xp: Any, t: Array, x: Array, y: Array, v: Array, w: Array) -> tuple[Array, ...]:
    del xp, t
    cube = (x**2 + y**2) ** 1.5
    return v, w, -x / cube, -y / cube


def _orbit_of(eccentricity: float) -> DetestProblem:
    """One body around another, from the place where they are nearest."""
    speed = sqrt((1 + eccentricity) / (1 - eccentricity))
    return DetestProblem(_components(_orbit), (1 - eccentricity, 0.0, 0.0, speed))


# Masses relative to the sun's and the constant of gravitation, of the sun with the inner planets and of the five outer
# planets; their places in astronomical units, and their speeds in such units in a hundred days.
_GRAVITY, _SUN = 2.95912208286, 1.00000597682
_MASSES = np.array([0.954786104043e-3, 0.285583733151e-3, 0.437273164546e-4, 0.517759138449e-4, 0.277777777778e-5])
_PLACES = (
    (3.42947415189, 3.35386959711, 1.35494901715),
    (6.64145542550, 5.97156957878, 2.18231499728),
    (11.2630437207, 14.6952576794, 6.27960525067),
    (-30.1552268759, 1.65699966404, 1.43785752721),
    (-21.1238353380, 28.4465098142, 15.3882659679),
)
_SPEEDS = (
    (-0.557160570446, 0.505696783289, 0.230578543901),
    (-0.415570776342, 0.365682722812, 0.169143213293),
    (-0.325325669158, 0.189706021964, 0.0877265322780),
    (-0.0240476254170, -0.287659532608, -0.117219543175),
    (-0.176860753121, -0.216393453025, -0.0148647893090),
)


def _planets(xp: Any, t: Array, y: Array) -> Array:
    """Five bodies around the sun, which moves with them."""
    del t
    masses, unit = xp.asarray(_MASSES)[:, None], xp.asarray(np.eye(5))
    places, speeds = y[..., :15].reshape(*y.shape[:-1], 5, 3), y[..., 15:]
    to_sun = -places / ((places**2).sum(-1) ** 1.5)[..., None]
    apart = places[..., None, :, :] - places[..., :, None, :]  # from the row's body to the column's
    pull = apart / (((apart**2).sum(-1) + unit) ** 1.5)[..., None]
    # The sun is pulled as well, and with it the place that places are relative to.
    others = ((pull + to_sun[..., None, :, :]) * masses).sum(-2) - to_sun * masses
    pulled = _GRAVITY * (others + (_SUN + masses) * to_sun)
    return xp.concatenate([speeds, pulled.reshape(*y.shape[:-1], 15)], -1)


PROBLEMS: Mapping[str, DetestProblem] = {
    "A1": DetestProblem(lambda xp, t, y: -y, (1.0,)),
    "A2": DetestProblem(lambda xp, t, y: -(y**3) / 2, (1.0,)),
    "A3": DetestProblem(lambda xp, t, y: y * xp.cos(t), (1.0,)),
    "A4": DetestProblem(lambda xp, t, y: y / 4 * (1 - y / 20), (1.0,)),
    "A5": DetestProblem(lambda xp, t, y: (y - t) / (y + t), (4.0,)),
    # The growth of two populations in conflict.
    "B1": DetestProblem(_components(lambda xp, t, a, b: (2 * (a - a * b), -(b - a * b))), (1.0, 3.0)),
    # A linear chemical reaction, and one that is not linear.
    "B2": DetestProblem(_linear(np.array([[-1.0, 1, 0], [1, -2, 1], [0, 1, -1]])), (2.0, 0.0, 1.0)),
    "B3": DetestProblem(_components(lambda xp, t, a, b, c: (-a, a - b**2, b**2)), (1.0, 0.0, 0.0)),
    # The integral surface of a torus, and a rigid body without external forces.
    "B4": DetestProblem(_components(_torus), (3.0, 0.0, 0.0)),
    "B5": DetestProblem(_components(lambda xp, t, a, b, c: (b * c, -a * c, -0.51 * a * b)), (0.0, 1.0, 1.0)),
    "C1": DetestProblem(_linear(_decays(np.ones(9))), (1.0, *[0.0] * 9)),
    "C2": DetestProblem(_linear(_decays(np.arange(1.0, 10.0))), (1.0, *[0.0] * 9)),
    "C3": DetestProblem(_linear(_second_differences(10)), (1.0, *[0.0] * 9)),
    "C4": DetestProblem(_linear(_second_differences(51)), (1.0, *[0.0] * 50)),
    "C5": DetestProblem(_planets, tuple(x for rows in (_PLACES, _SPEEDS) for row in rows for x in row)),
    **{f"D{i}": _orbit_of(0.2 * i - 0.1) for i in range(1, 6)},
    # Bessel's equation of order 1/2 from t + 1 = 1 on, van der Pol's, Duffing's, a falling body, a pursuit.
    "E1": DetestProblem(
        _second_order(lambda xp, t, y, v: -(v / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y)),
        (0.6713967071418030, 0.09540051444747446),
    ),
    "E2": DetestProblem(_second_order(lambda xp, t, y, v: (1 - y**2) * v - y), (2.0, 0.0)),
    "E3": DetestProblem(_second_order(lambda xp, t, y, v: y**3 / 6 - y + 2 * xp.sin(2.78535 * t)), (0.0, 0.0)),
    "E4": DetestProblem(_second_order(lambda xp, t, y, v: 0.032 - 0.4 * v**2), (30.0, 0.0)),
    "E5": DetestProblem(_second_order(lambda xp, t, y, v: xp.sqrt(1 + v**2) / (25 - t)), (0.0, 0.0)),
}
"""The problems by their names."""
