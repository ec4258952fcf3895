"""Butcher tableaus of the Runge-Kutta methods, in plain Python: listing solvers needs no array library."""

from collections.abc import Mapping
from dataclasses import dataclass

from nodebench.errors import UnknownNameError


@dataclass(frozen=True)
class Tableau:
    """An explicit or diagonally implicit Runge-Kutta method with s stages.

    Stage i is `k_i = f(t + c_i h, y + h Σ_{j<=i} a_ij k_j)`; the step ends at `y + h Σ b_i k_i`.

    Attributes:
        name: Name in `SolverSpec.solver`.
        order: Order of the solution that is kept.
        c: Nodes, length s.
        a: Rows of the strictly lower triangle, row i of length i.
        b: Weights, length s.
        b_error: Weights minus those of the embedded method, length s, or None for a method of fixed steps.
        fsal: Whether the last stage is the derivative at the end of the step, and so the first stage of the next.
        diagonal: a_ii of each stage, all that are not zero alike; empty for an explicit method.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...] | None = None
    fsal: bool = False
    diagonal: tuple[float, ...] = ()

    @property
    def implicit(self) -> bool:
        """Whether stages are equations, to be solved."""
        return bool(self.diagonal)

    @property
    def n_stages(self) -> int:
        """Number of stages s."""
        return len(self.c)

    @property
    def n_own(self) -> int:
        """Stages on which the end of the step depends: all but a last one that only starts the next step."""
        return self.n_stages - self.closes

    @property
    def closes(self) -> bool:
        """Whether the last stage only starts the next step, its end not depending on it, as in an explicit method."""
        return self.fsal and not self.implicit

    @property
    def hands_on(self) -> bool:
        """Whether the last stage, on which the end of the step depends, is the first of the next step as well."""
        return self.fsal and self.implicit

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

# Heun's second-order method with Euler's, of order 1, embedded in it. The closing stage has no part in either: it is
# the first stage of the next step, evaluated early, so that a solve costs one evaluation more than diffrax's, which
# evaluates two stages in every step.
_HEUN = Tableau(
    "heun",
    2,
    (0.0, 1.0, 1.0),
    ((), (1.0,), (1 / 2, 1 / 2)),
    (1 / 2, 1 / 2, 0.0),
    (1 / 2 - 1.0, 1 / 2, 0.0),
    fsal=True,
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

# High order embedded Runge-Kutta formulae, Prince and Dormand, 1981, https://doi.org/10.1016/0771-050X(81)90010-3: the
# pair RK8(7)13M, whose solution of order 8 is kept. Its 13 stages are followed by a closing one, as in torchdiffeq and
# diffrax. In float32 its error estimate is mostly rounding from tolerances of about 1e-6 on: steps then grow slowly
# and differ between libraries that sum in another order.
_DOPRI8_B = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
)
_DOPRI8_B_HAT = (
    13451932 / 455176623,
    0.0,
    0.0,
    0.0,
    0.0,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
    0.0,
)
_DOPRI8 = Tableau(
    "dopri8",
    8,
    (
        0.0,
        1 / 18,
        1 / 12,
        1 / 8,
        5 / 16,
        3 / 8,
        59 / 400,
        93 / 200,
        5490023248 / 9719169821,
        13 / 20,
        1201146811 / 1299019798,
        1.0,
        1.0,
        1.0,
    ),
    (
        (),
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
        (
            16016141 / 946692911,
            0.0,
            0.0,
            61564180 / 158732637,
            22789713 / 633445777,
            545815736 / 2771057229,
            -180193667 / 1043307555,
        ),
        (
            39632708 / 573591083,
            0.0,
            0.0,
            -433636366 / 683701615,
            -421739975 / 2616292301,
            100302831 / 723423059,
            790204164 / 839813087,
            800635310 / 3783071287,
        ),
        (
            246121993 / 1340847787,
            0.0,
            0.0,
            -37695042795 / 15268766246,
            -309121744 / 1061227803,
            -12992083 / 490766935,
            6005943493 / 2108947869,
            393006217 / 1396673457,
            123872331 / 1001029789,
        ),
        (
            -1028468189 / 846180014,
            0.0,
            0.0,
            8478235783 / 508512852,
            1311729495 / 1432422823,
            -10304129995 / 1701304382,
            -48777925059 / 3047939560,
            15336726248 / 1032824649,
            -45442868181 / 3398467696,
            3065993473 / 597172653,
        ),
        (
            185892177 / 718116043,
            0.0,
            0.0,
            -3185094517 / 667107341,
            -477755414 / 1098053517,
            -703635378 / 230739211,
            5731566787 / 1027545527,
            5232866602 / 850066563,
            -4093664535 / 808688257,
            3962137247 / 1805957418,
            65686358 / 487910083,
        ),
        (
            403863854 / 491063109,
            0.0,
            0.0,
            -5068492393 / 434740067,
            -411421997 / 543043805,
            652783627 / 914296604,
            11173962825 / 925320556,
            -13158990841 / 6184727034,
            3936647629 / 1978049680,
            -160528059 / 685178525,
            248638103 / 1413531060,
            0.0,
        ),
        _DOPRI8_B,
    ),
    (*_DOPRI8_B, 0.0),
    tuple(b - b_hat for b, b_hat in zip((*_DOPRI8_B, 0.0), _DOPRI8_B_HAT, strict=True)),
    fsal=True,
)

TABLEAUS: Mapping[str, Tableau] = {
    t.name: t for t in (_EULER, _MIDPOINT, _RK4, _RK38, _HEUN, _BOSH3, _DOPRI5, _TSIT5, _DOPRI8)
}
"""The explicit methods of our own solver by name."""


_IMPLICIT_EULER = Tableau("implicit-euler", 1, (1.0,), ((),), (1.0,), diagonal=(1.0,))

_IMPLICIT_MIDPOINT = Tableau("implicit-midpoint", 2, (1 / 2,), ((),), (1.0,), diagonal=(1 / 2,))


def _singly(name: str, order: int, c: tuple[float, ...], a: tuple[tuple[float, ...], ...], gamma: float) -> Tableau:
    """A stiffly accurate pair with an explicit first stage: the last stage is the step, the one before the embedded."""
    b, embedded = (*a[-1], gamma), (*a[-2], gamma, 0.0)
    error = tuple(x - y for x, y in zip(b, embedded, strict=True))
    return Tableau(name, order, c, a, b, error, fsal=True, diagonal=(0.0, *[gamma] * (len(c) - 1)))


# Singly diagonally implicit Runge-Kutta methods with an explicit first stage, Kværnø, 2004,
# https://doi.org/10.1023/B:BITN.0000046811.70614.38: the L-stable pairs 3/2 and 5/4, with the higher order kept.
_G3 = 0.43586652150
_KVAERNO3 = _singly(
    "kvaerno3",
    3,
    (0.0, 2 * _G3, 1.0, 1.0),
    (
        (),
        (_G3,),
        ((-4 * _G3**2 + 6 * _G3 - 1) / (4 * _G3), (-2 * _G3 + 1) / (4 * _G3)),
        ((6 * _G3 - 1) / (12 * _G3), -1 / ((24 * _G3 - 12) * _G3), (-6 * _G3**2 + 6 * _G3 - 1) / (6 * _G3 - 3)),
    ),
    _G3,
)
_KVAERNO5 = _singly(
    "kvaerno5",
    5,
    (0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
    (
        (),
        (0.26,),
        (0.13, 0.84033320996790809),
        (0.22371961478320505, 0.47675532319799699, -0.06470895363112615),
        (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998),
        (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676),
        (
            0.13659751177640291,
            0.0,
            -0.05496908796538376,
            -0.04118626728321046,
            0.62993304899016403,
            0.06962479448202728,
        ),
    ),
    0.26,
)

IMPLICIT: Mapping[str, Tableau] = {t.name: t for t in (_IMPLICIT_EULER, _IMPLICIT_MIDPOINT, _KVAERNO3, _KVAERNO5)}
"""The diagonally implicit methods of our own solver by name, for stiff problems."""

OURS: Mapping[str, Tableau] = {**TABLEAUS, **IMPLICIT}
"""All methods of our own solver by name."""


def tableau(name: str) -> Tableau:
    """Look a method up.

    Raises:
        UnknownNameError: If there is no method of this name.
    """
    if name not in OURS:
        raise UnknownNameError("solver", name, OURS)
    return OURS[name]


@dataclass(frozen=True)
class Multistep:
    """A linear multistep method, which chooses its order as well as its steps; a library has its code.

    Attributes:
        name: Name in `SolverSpec.solver`.
        max_order: Highest order; it starts with the first.
        order: None, since no one order holds for all steps.
        adaptive: True, since it chooses its steps.
    """

    name: str
    max_order: int
    order: None = None
    adaptive: bool = True


MULTISTEP: Mapping[str, Multistep] = {m.name: m for m in (Multistep("lsoda", 12), Multistep("vode-adams", 12))}
"""The multistep methods by name.

`lsoda` is LSODA of ODEPACK: Adams methods, and backward differentiation formulas (to order 5) where the problem turns
stiff (Automatic selection of methods for solving stiff and nonstiff systems of ordinary differential equations,
Petzold, 1983, https://doi.org/10.1137/0904010). `vode-adams` is VODE with its implicit Adams methods (VODE: a
variable-coefficient ODE solver, Brown, Byrne, Hindmarsh, 1989, https://doi.org/10.1137/0910062).
"""


@dataclass(frozen=True)
class LibraryMethod:
    """An implicit one-step or multistep method of which a library alone has the code.

    Attributes:
        name: Name in `SolverSpec.solver`.
        order: Order of the solution that is kept; None where it chooses that, too.
        adaptive: True, since it chooses its steps.
    """

    name: str
    order: int | None
    adaptive: bool = True


LIBRARY: Mapping[str, LibraryMethod] = {
    m.name: m
    for m in (
        LibraryMethod("kencarp3", 3),
        LibraryMethod("kencarp4", 4),
        LibraryMethod("kencarp5", 5),
        LibraryMethod("radau", 5),
        LibraryMethod("bdf", None),
    )
}
"""Methods for stiff problems that single libraries have, by name.

`kencarp3` to `kencarp5` are the implicit halves of additive Runge-Kutta schemes (Kennedy, Carpenter, 2003,
https://doi.org/10.1016/S0168-9274(02)00138-1 and 2019, https://doi.org/10.1016/j.apnum.2018.10.007), which diffrax has.
`radau` is Radau IIA of order 5 and `bdf` the backward differentiation formulas of order 1 to 5, which SciPy has (The
MATLAB ODE suite, Shampine, Reichelt, 1997, https://doi.org/10.1137/S1064827594276424).
"""

METHODS: Mapping[str, Tableau | Multistep | LibraryMethod] = {**OURS, **MULTISTEP, **LIBRARY}
"""All methods by name."""

STARTING_ORDER = 2
"""Of the local error with which a multistep method starts, at order one."""


def method(name: str) -> Tableau | Multistep | LibraryMethod:
    """Look a method up.

    Raises:
        UnknownNameError: If there is no method of this name.
    """
    if name not in METHODS:
        raise UnknownNameError("solver", name, METHODS)
    return METHODS[name]
