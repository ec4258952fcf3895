"""What a stepper takes steps with: one step tried, and carried on from where it was accepted."""

from abc import ABC, abstractmethod
from math import isfinite

import torch
from torch import Tensor

from nodebench.errors import DivergedError
from nodebench.solvers.scheme import ErrorRatio, Evaluate, Scheme
from nodebench.solvers.tableau import Tableau

Span = tuple[float, float]
"""Beginning and end of a step."""


class AbstractMethod(ABC):
    """One-step method on a flat state, with whatever it carries from one step to the next.

    Attributes:
        tableau: Its tableau.
        rows: Stage derivatives of the last step, shape `(stages, n)`.
    """

    tableau: Tableau
    rows: Tensor

    @abstractmethod
    def derivative(self, t: float, y: Tensor) -> Tensor:
        """The derivative at a state, kept for the step that begins there; overwritten by the next step."""

    @abstractmethod
    def step(self, y0: Tensor, span: Span) -> Tensor:
        """The state at the end of a step that is not to be judged, a new tensor."""

    @abstractmethod
    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        """The state at the end of a step, and its error relative to the tolerance; at most 1 is accepted.

        Raises:
            DivergedError: If nothing is finite any more before the step.
        """

    def accept(self, y1: Tensor, span: Span) -> Tensor:
        """Go on from the end of an accepted step; returns the state there, which most methods have found already."""
        del span
        return y1

    @abstractmethod
    def carry(self) -> None:
        """Keep the last derivative of an accepted step as the first of the next; its buffers are free from here on."""

    @abstractmethod
    def forget(self) -> None:
        """What was carried does not belong to the next state."""


class RungeKutta(AbstractMethod):
    """An explicit Runge-Kutta method.

    Args:
        scheme: Tableau and buffers.
        evaluate: Writes rows of the scheme's buffer.
        ratio: Error norm; never asked for by a method without an error estimate.
    """

    def __init__(self, scheme: Scheme, evaluate: Evaluate, ratio: ErrorRatio) -> None:
        self.tableau, self.rows = scheme.tableau, scheme.rows
        self._scheme, self._evaluate, self._ratio = scheme, evaluate, ratio
        self._first_known = False  # whether row 0 holds the derivative at the present state

    def derivative(self, t: float, y: Tensor) -> Tensor:
        """Row 0 of the buffer; see the base class."""
        if not self._first_known:
            self._evaluate(0, t, y)
            self._first_known = self.tableau.fsal
        return self._scheme.rows[0]

    def step(self, y0: Tensor, span: Span) -> Tensor:
        """See the base class."""
        return self._scheme.stages(self._evaluate, y0, span, first_known=self._first_known)

    def attempt(self, y0: Tensor, span: Span) -> tuple[Tensor, float]:
        """See the base class."""
        # Every adaptive method here ends with the derivative at the end of the step (a test holds it).
        y1 = self.step(y0, span)
        self._first_known = True
        self._evaluate(self.tableau.n_stages - 1, span[1], y1)
        ratio = self._ratio(span[1] - span[0], y0, y1)
        check_beginning(ratio, y0, self._scheme.rows[0], span)
        return y1, ratio

    def carry(self) -> None:
        """Copy the closing derivative to the first row."""
        if self.tableau.fsal:
            self._scheme.rows[0].copy_(self._scheme.rows[-1])

    def forget(self) -> None:
        """See the base class."""
        self._first_known = False


def check_beginning(ratio: float, y0: Tensor, derivative: Tensor, span: Span) -> None:
    """After an infinite error, see that state and derivative were finite before the step.

    A shorter step mends one that left the finite numbers on its way, and nothing mends one that began outside of them.

    Raises:
        DivergedError: If they were not.
    """
    if not isfinite(ratio) and not (torch.isfinite(y0).all() and torch.isfinite(derivative).all()):
        raise DivergedError(f"not finite at t = {span[0]:.6g}, before a step of {span[1] - span[0]:.3g}.")
