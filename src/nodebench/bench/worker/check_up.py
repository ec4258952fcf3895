"""The check-up of a field before anything is measured: a few evaluations, in milliseconds.

What is true of any framework: the same value twice, a derivative that is finite and is that of the values. What a
framework alone can see of a field (structure, in-place changes, what its graph ends in) is `AbstractFramework.inspect`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from typing_extensions import override

from nodebench.errors import DivergedError, FieldError
from nodebench.frameworks.base import AbstractFramework, Weights, field_name
from nodebench.problem import Problem

ROUNDINGS = 1000
"""Roundings of its largest entry by which two evaluations may differ, as sums in another order do."""

PLACES = (0.1, 0.5, 0.9)
"""Where in the time span a field is looked at."""

NEAR = 0.01
"""How far from the initial state the loss is looked at, relative to it and absolute."""

STEP = 1e-6
"""Relative length of a finite difference in float64, where rounding and curvature are equally small."""

SLACK = 1e-3
"""Part of a derivative by which finite differences may differ from it: none is off by less that is cut or jumps."""


@dataclass(frozen=True)
class FieldFigures:
    """Figures by which two fields are told apart; those of equal fields are equal, up to rounding.

    Attributes:
        value: Of its values at fixed points; None where it is finite at none of them.
        derivative: The same of its vector-Jacobian products by state and parameters.
    """

    value: float | None = None
    derivative: float | None = None


def check_up(framework: AbstractFramework, make: Callable[[], Problem], *, exact: bool) -> list[str]:
    """See that a field is a function of time, state and parameters, and differentiable as one.

    Args:
        framework: The framework.
        make: Makes the problem, from the model's class on.
        exact: Whether the framework computes in float64, in which finite differences can tell.

    Returns:
        What a reader must know of the field, a sentence each.

    Raises:
        FieldError: If it is none, in a sentence that names what to change.
        DivergedError: If it is not finite where the solve begins.
    """
    problem = make()
    framework.inspect(problem)
    _check_steady(framework, problem, make)
    _check_loss(framework, problem)
    field = _Looked(framework, problem)
    field.check_finite()
    if exact:
        field.check_derivative()
    return [
        f"the field `{field_name(problem.field)}` sets {setting} for the whole process whenever it is evaluated."
        for setting in framework.settle()
    ]


def field_figures(framework: AbstractFramework, problem: Problem) -> FieldFigures:
    """Figures of a field's values and derivatives at fixed points."""
    return _Looked(framework, problem).figures()


def _check_steady(framework: AbstractFramework, problem: Problem, make: Callable[[], Problem]) -> None:
    """Two evaluations in a row, and that of a field made anew while other random numbers are drawn, are the same."""
    t, y, kind = float(problem.times[0]), framework.flat_state(problem.y0), field_name(problem.field)
    evaluate = framework.evaluate(problem)
    first, again = evaluate(t, y), evaluate(t, y)
    if not np.isfinite(first).all():
        raise DivergedError(f"the field `{kind}` is not finite at t = {t:.6g}, where the solve begins.")
    margin = ROUNDINGS * np.finfo(framework.placement(problem)["dtype"]).eps * np.abs(first).max(initial=0.0)
    other = problem
    if _apart(first, again) <= margin:
        other = make()
        framework.seed(1)
        again = framework.evaluate(other)(t, y)
    if _apart(first, again) <= margin:
        changed = framework.remembered(problem)
        if changed:
            raise FieldError(
                f"each evaluation of the field `{kind}` changes its `{changed}`, so that what is trained depends on "
                "how often a solver evaluates it; use a layer without such a memory, for example GroupNorm, or call "
                "`.eval()` on it when it is made."
            )
        return
    layer = framework.unsteady(problem, other)
    where = f" (it is {layer})" if layer else ""
    raise FieldError(
        f"two evaluations of the field `{kind}` at the same t and y differ by {_apart(first, again):.2g}{where}: it "
        "draws random numbers or remembers, so that its solution and gradient mean nothing; leave dropout and noise "
        "out of a field, draw once when it is made, and use layers without a memory."
    )


def _check_loss(framework: AbstractFramework, problem: Problem) -> None:
    """See that the loss is a single number that depends on the states: at two places near the initial one."""
    y0, draw = framework.flat_state(problem.y0), np.random.default_rng(3)
    slopes = []
    for _ in range(2):
        noise = NEAR * draw.standard_normal((len(problem.times), y0.size))
        value, slope = framework.loss(problem, y0 * (1 + noise) + noise)
        if value.shape:
            raise FieldError(
                f"the loss has the shape {value.shape}, and is to be a single number; take its mean or sum."
            )
        slopes.append(slope)
    if all(slope is None or not slope.any() for slope in slopes):
        raise FieldError(
            "the loss does not depend on the states that it is called with, so that its gradient is zero; is something "
            "detached in it (`.detach()`, `.item()`, `no_grad`, `stop_gradient`), or are other states meant?"
        )


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max(initial=0.0))


def differentiated(framework: AbstractFramework, problem: Problem) -> Weights:
    """The parameters of a field but for those that its code freezes."""
    frozen = framework.frozen(problem)
    return {name: value for name, value in framework.parameters(problem.field).items() if name not in frozen}


class _Looked:
    """A field as it is looked at: from fixed points, along fixed directions."""

    def __init__(self, framework: AbstractFramework, problem: Problem) -> None:
        self._framework, self._problem = framework, problem
        self._kind = field_name(problem.field)
        times = [float(t) for t in problem.times]
        self._start, self._span = times[0], times[-1] - times[0]
        self._y0 = framework.flat_state(problem.y0)
        self._params = {
            name: np.asarray(value, np.float64) for name, value in differentiated(framework, problem).items()
        }
        self._covector = np.random.default_rng(0).standard_normal(self._y0.size)

    def _points(self) -> Iterator[tuple[float, np.ndarray]]:
        """Times and states near the initial one at which the field is finite."""
        size = float(np.sqrt(np.mean(self._y0**2)))
        evaluate, draw = self._framework.evaluate(self._problem), np.random.default_rng(1)
        for place in PLACES:
            # Cut, so that what is moved by a part of its size keeps its sign: a field may be the root of its state.
            noise = 0.05 * np.clip(draw.standard_normal(self._y0.size), -2.0, 2.0)
            t = self._start + place * self._span
            near = self._y0 * (1 + noise) + (0.0 if size else noise)
            for y in (near, self._y0):
                if np.isfinite(evaluate(t, y)).all():
                    yield t, y
                    break

    def check_finite(self) -> None:
        """See that the derivative is finite where the solve begins."""
        by_y, by_params = self._framework.vjp(self._problem, self._start, self._y0, self._covector)
        wrong = [f"by `{name}`" for name, value in by_params.items() if not np.isfinite(value).all()]
        if not np.isfinite(by_y).all():
            wrong.insert(0, "by the state")
        if wrong:
            raise FieldError(
                f"the derivative of the field `{self._kind}` {', '.join(wrong)} is not finite at t = "
                f"{self._start:.6g}, where the solve begins; the root or the norm of 0 has such a derivative, and so "
                "has a branch of `where` that is not taken."
            )

    def check_derivative(self) -> None:
        """See that the derivative is that of the values, along one direction of the state and one of the parameters."""
        for t, y in islice(self._points(), 1):
            by_y, by_params = self._framework.vjp(self._problem, t, y, self._covector)
            along = Direction.at(y, self._params)
            self._compare("its state", (t, y), along.of_state, Direction(by_y, by_params))
            if self._params:
                self._compare("its parameters", (t, y), along.of_parameters, Direction(by_y, by_params))

    def _compare(
        self,
        what: str,
        at: tuple[float, np.ndarray],
        along: "Direction",
        derivative: "Direction",
    ) -> None:
        def value(step: float) -> float:
            y, params = along.moved(at[1], self._params, step)
            with self._framework.moved(self._problem, self._y0, params) as moved:
                return float(self._covector @ self._framework.evaluate(moved)(at[0], y))

        wrong = contradiction(value, along, derivative, Doubts(STEP, value=ROUNDINGS * float(np.finfo(float).eps)))
        if wrong is not None:
            raise FieldError(
                f"the derivative of the field `{self._kind}` by {what} is not that of its values: {wrong}; is "
                "something detached (`.detach()`, `.data`, `.item()`, `no_grad`, `stop_gradient`)?"
            )

    def figures(self) -> FieldFigures:
        """Figures of values and of derivatives at the points."""
        values, derivatives = [], []
        evaluate = self._framework.evaluate(self._problem)
        for t, y in self._points():
            values.append(evaluate(t, y))
            by_y, by_params = self._framework.vjp(self._problem, t, y, self._covector)
            derivatives += [by_y, *(np.ravel(by_params[name]) for name in sorted(by_params))]
        return FieldFigures(_figure(values), _figure(derivatives))


def _figure(arrays: list[np.ndarray]) -> float | None:
    """The size of numbers times 2 and the cosine of their angle with fixed ones: no sum in it can cancel."""
    numbers = np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64) if arrays else np.zeros(0)
    if not (numbers.size and np.isfinite(numbers).all()):
        return None
    along = np.random.default_rng(1).standard_normal(numbers.size)
    norm = float(np.linalg.norm(numbers))
    cosine = float(numbers @ along) / (norm * float(np.linalg.norm(along))) if norm else 0.0
    return norm / float(np.sqrt(numbers.size)) * (2.0 + cosine)


@dataclass(frozen=True)
class Direction:
    """A direction of a state and of parameters, or the derivative by both."""

    y: np.ndarray
    params: Weights

    @classmethod
    def at(cls, y: np.ndarray, params: Weights) -> "Direction":
        """A fixed random direction, each part of the size of what it moves, or of 1 where that is zero."""
        draw = np.random.default_rng(2)

        def along(value: np.ndarray) -> np.ndarray:
            size = float(np.sqrt(np.mean(np.square(value)))) if np.size(value) else 0.0
            return (size or 1.0) * draw.standard_normal(np.shape(value))

        return cls(along(y), {name: along(params[name]) for name in sorted(params)})

    @property
    def of_state(self) -> "Direction":
        """That of the state alone."""
        return Direction(self.y, {})

    @property
    def of_parameters(self) -> "Direction":
        """That of the parameters alone."""
        return Direction(np.zeros_like(self.y), self.params)

    def only(self, name: str) -> "Direction":
        """That of one parameter alone."""
        return Direction(np.zeros_like(self.y), {name: self.params[name]})

    def moved(self, y: np.ndarray, params: Weights, step: float) -> tuple[np.ndarray, Weights]:
        """State and parameters so far along it."""
        return y + step * self.y, {name: params[name] + step * each for name, each in self.params.items()}

    def flat(self, names: Iterable[str]) -> np.ndarray:
        """The state and the named parameters as one vector."""
        return np.concatenate([np.ravel(self.y), *(np.ravel(self.params[name]) for name in names)])


@dataclass(frozen=True)
class Doubts:
    """How exact a function and its derivative are.

    Attributes:
        step: How far finite differences go; twice that tells how far they are off themselves, where they contradict.
        value: Relative error of the function, small against a step.
        derivative: Relative error of the derivative.
    """

    step: float
    value: float
    derivative: float = 0.0


@dataclass(frozen=True)
class Contradiction:
    """What finite differences give that contradicts a derivative.

    Attributes:
        slope: The slope by finite differences.
        stated: What the derivative says it is.
        size: The larger of the two values that the slope is of.
    """

    slope: float
    stated: float
    size: float

    @override
    def __str__(self) -> str:
        return f"finite differences along a direction give {self.slope:.3g}, it gives {self.stated:.3g}"


def contradiction(
    value: Callable[[float], float], along: Direction, derivative: Direction, doubts: "Doubts"
) -> Contradiction | None:
    """How finite differences contradict a derivative, or None where they do not.

    Args:
        value: A function along a direction, of how far.
        along: The direction.
        derivative: The derivative by state and parameters.
        doubts: How exact all of these are.
    """
    step = doubts.step
    ahead, behind = value(step), value(-step)
    slope = (ahead - behind) / (2 * step)
    direction, gradient = along.flat(along.params), derivative.flat(along.params)
    moved = direction != 0
    stated = float(direction @ gradient)
    expected = np.linalg.norm(direction) * np.linalg.norm(gradient[moved]) / np.sqrt(moved.sum() or 1)
    allowed = (SLACK + doubts.derivative) * max(abs(slope), float(expected))
    allowed += doubts.value * max(abs(ahead), abs(behind)) / step
    if not np.isfinite(slope) or abs(slope - stated) <= allowed:
        return None
    coarse = (value(2 * step) - value(-2 * step)) / (4 * step)
    if not np.isfinite(coarse) or abs(slope - stated) <= allowed + 10 * abs(slope - coarse):
        return None
    return Contradiction(slope, stated, max(abs(ahead), abs(behind)))


TOLD_BY = 0.1
"""Part of a contradiction up to which the error of a shorter difference may be, for it to say something."""


def lasting_contradiction(
    value: Callable[[float], float], along: Direction, derivative: Direction, doubts: Sequence[Doubts]
) -> Contradiction | None:
    """A contradiction that no shorter difference resolves, as it does where a function bends on the way.

    Args:
        value: As in `contradiction`.
        along: As there.
        derivative: As there.
        doubts: Steps from the longest on, which is always tried; a shorter one where its error is small beside the
            contradiction so far.
    """
    found: Contradiction | None = None
    for each in doubts:
        if found is not None and each.value * found.size / each.step > TOLD_BY * abs(found.slope - found.stated):
            continue
        found = contradiction(value, along, derivative, each)
        if found is None:
            return None
    return found
