"""Butcher tableaus of the explicit Runge-Kutta methods, in plain Python: listing solvers needs no array library."""

from collections.abc import Mapping
from dataclasses import dataclass

from nodebench.errors import UnknownNameError


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method with s stages.

    Stage i is `k_i = f(t + c_i h, y + h Σ_{j<i} a_ij k_j)`; the step ends at `y + h Σ b_i k_i`.

    Attributes:
        name: Name in `SolverSpec.solver`.
        order: Order of the solution that is kept.
        c: Nodes, length s.
        a: Rows of the strictly lower triangle, row i of length i.
        b: Weights, length s.
        b_error: Weights minus those of the embedded method, length s, or None for a method of fixed steps.
        fsal: Whether the last stage is the derivative at the end of the step, and so the first stage of the next.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...] | None = None
    fsal: bool = False

    @property
    def n_stages(self) -> int:
        """Number of stages s."""
        return len(self.c)

    @property
    def n_own(self) -> int:
        """Stages on which the end of the step depends: all but a last one that only starts the next step."""
        return self.n_stages - self.fsal

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error, and so chooses its steps."""
        return self.b_error is not None


_EULER = Tableau("euler", 1, (0.0,), ((),), (1.0,))

_MIDPOINT = Tableau("midpoint", 2, (0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0))

_RK4 = Tableau(
    "rk4",
    4,
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)

# Kutta's 3/8 rule. torchdiffeq's `rk4` is this one.
_RK38 = Tableau(
    "rk38",
    4,
    (0.0, 1 / 3, 2 / 3, 1.0),
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
)

_BOSH3 = Tableau(
    "bosh3",
    3,
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9, 0.0),
    (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    fsal=True,
)

# The embedded weights are Shampine's (Some Practical Runge-Kutta Formulas, Shampine, 1986,
# https://doi.org/10.2307/2008219), which torchdiffeq and diffrax use as well: Dormand and Prince's own give an estimate
# half as large again, and so other steps.
_DOPRI5 = Tableau(
    "dopri5",
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    (
        35 / 384 - 1951 / 21600,
        0.0,
        500 / 1113 - 22642 / 50085,
        125 / 192 - 451 / 720,
        -2187 / 6784 + 12231 / 42400,
        11 / 84 - 649 / 6300,
        -1 / 60,
    ),
    fsal=True,
)

# Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption, Tsitouras, 2011,
# https://doi.org/10.1016/j.camwa.2011.06.002
_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
_TSIT5_B_HAT = (
    0.09468075576583945,
    0.009183565540343254,
    0.4877705284247616,
    1.234297566930479,
    -2.7077123499835256,
    1.866628418170587,
    1 / 66,
)
_TSIT5 = Tableau(
    "tsit5",
    5,
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        _TSIT5_B,
    ),
    (*_TSIT5_B, 0.0),
    tuple(b - b_hat for b, b_hat in zip((*_TSIT5_B, 0.0), _TSIT5_B_HAT, strict=True)),
    fsal=True,
)

TABLEAUS: Mapping[str, Tableau] = {t.name: t for t in (_EULER, _MIDPOINT, _RK4, _RK38, _BOSH3, _DOPRI5, _TSIT5)}
"""All methods of our own solver by name."""


def tableau(name: str) -> Tableau:
    """Look a method up.

    Raises:
        UnknownNameError: If there is no method of this name.
    """
    if name not in TABLEAUS:
        raise UnknownNameError("solver", name, TABLEAUS)
    return TABLEAUS[name]
