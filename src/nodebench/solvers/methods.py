"""All solvers by name, in plain Python: our own Runge-Kutta methods, and multistep methods that a library has."""

from collections.abc import Mapping
from dataclasses import dataclass

from nodebench.errors import UnknownNameError
from nodebench.solvers.tableau import TABLEAUS, Tableau


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

METHODS: Mapping[str, Tableau | Multistep] = {**TABLEAUS, **MULTISTEP}
"""All methods by name."""

STARTING_ORDER = 2
"""Of the local error with which a multistep method starts, at order one."""


def method(name: str) -> Tableau | Multistep:
    """Look a method up.

    Raises:
        UnknownNameError: If there is no method of this name.
    """
    if name not in METHODS:
        raise UnknownNameError("solver", name, METHODS)
    return METHODS[name]
