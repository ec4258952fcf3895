"""What every backend must do."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from nodebench import registry
from nodebench.conformance.check import Check, CheckFailedError, cause_of, require, told
from nodebench.conformance.subjects import MATRIX, MIDDLE, STATES, BackendSubject, Known, errors
from nodebench.errors import CellError, DivergedError, UserError
from nodebench.frameworks.base import FRAMEWORKS, load_framework
from nodebench.problem import Gradients, Problem, SolverSpec
from nodebench.tasks.linear.task import states

BACKWARDS = (1.0, 0.4, -0.5)

FEW_STEPS = 3

WRONG = "wrong numbers"
"""What failures have in common where states or gradients are wrong: wrong states make wrong gradients."""

CONSTANTS: Mapping[str, tuple[Any, str]] = {
    "exact_counterpart": (str | None, "the name of a backend, or None"),
    "memory_exponent": (float | int | None, "a number, or None"),
    "compiles": (bool, "True or False"),
    "on_tape": (bool, "True or False"),
}
"""What a backend says of itself in values: their types, and these in words."""


def backend_checks(text: str) -> list[Check]:
    """The checks of a backend.

    Args:
        text: Its name with options, `module:Class` or `path.py:Class`.
    """
    subject = BackendSubject(text)
    return [Check(body, subject) for body in BACKEND_CHECKS]


def it_can_be_loaded(subject: BackendSubject) -> None:
    """Its framework is installed, and its class is a backend with the methods that one must have."""
    framework = registry.describe("backend", subject.text).framework
    if framework is not None:
        load_framework(framework)
    require(subject.backend, "it cannot be made.")


def it_declares_itself(subject: BackendSubject) -> None:
    """Its framework is a plain string, its values have their types, and its docstring begins with a sentence."""
    backend, info = subject.backend, registry.describe("backend", subject.text)
    known = backend.framework in FRAMEWORKS or ":" in backend.framework
    require(known, f"its framework is {backend.framework!r}; it must be `torch`, `jax` or `module:Class`.")
    require(
        info.framework == backend.framework,
        f'`{type(backend).__name__}` must say `framework: ClassVar[str] = "{backend.framework}"` in its class body, '
        "where planning reads it without importing it.",
    )
    for name, (kind, words) in CONSTANTS.items():
        value = getattr(backend, name)
        require(isinstance(value, kind), f"its `{name}` is {value!r}; it must be {words}.")
    require(info.summary.endswith("."), "the first line of its docstring, which `list` shows, must be a sentence.")


def it_says_beforehand_what_it_cannot_do(subject: BackendSubject) -> None:
    """Asked for a solver that nobody has, `unsupported` answers with a sentence."""
    try:
        reason = subject.backend.unsupported(subject.problem(Known()), SolverSpec(solver="nosuchsolver"))
    except UserError:
        return
    require(
        isinstance(reason, str) and reason,
        f"asked for the solver `nosuchsolver`, `unsupported` returns {reason!r} and no sentence.",
    )


def its_states_are_the_solution(subject: BackendSubject) -> None:
    """`solve` returns a state for each output time, the first of them the initial one, and all of them right."""
    known = Known()
    found = _solution(subject, known)
    exact = states(MATRIX, STATES, np.array(known.times))
    require(found.size == exact.size, f"`solve` returns {found.size} numbers for {exact.size}.")
    found = found.reshape(exact.shape)
    require(np.allclose(found[0], STATES, rtol=1e-12), "the first state that `solve` returns is not the initial one.")
    error = float(np.abs(found - exact).max())
    require(error < subject.bound(), f"the states that `solve` returns are wrong by {error:.1g}.", WRONG)


def its_gradients_are_the_closed_form(subject: BackendSubject) -> None:
    """At three tolerances its gradients are near the matrix exponential's, and the nearer, the tighter they are."""
    worst = []
    for level in range(3):
        spec = subject.spec(level)
        found = subject.grad(Known(), spec)
        _near(found, Known(), subject.bound(level), f"at rtol {spec.rtol:g}, step {spec.first_step:g}")
        worst.append(max(errors(found, Known().exact()).values()))
    fall = 1e-2 if subject.order is None else 2.0 * 4.0**-subject.order
    require(
        worst[2] <= worst[0] * fall,
        f"its error must fall at least to {fall:.1g} of what it was from the first setting to the third; it goes "
        f"{', '.join(f'{error:.1g}' for error in worst)}.",
        WRONG,
    )


def its_gradients_are_right_backwards_in_time(subject: BackendSubject) -> None:
    """Decreasing output times give the gradients of the solve in that direction."""
    _check(subject, Known(times=BACKWARDS), "with decreasing times")


def its_gradients_are_right_where_the_field_depends_on_time(subject: BackendSubject) -> None:
    """The field is evaluated at the time of each stage, forwards and in the backward pass."""
    _check(subject, Known(waving=True), "of a field that depends on time")


def its_gradients_of_the_times_are_right(subject: BackendSubject) -> None:
    """Where it supports them, the derivatives with respect to the output times are right."""
    found = _check(subject, Known(timed=True), "with differentiated times")
    require(found.times is not None, "it returns no derivative of the times, and did not say that it has none.")


def what_is_on_the_tape_is_differentiated(subject: BackendSubject) -> None:
    """Where it says `on_tape`, its gradient reaches a tensor that is no parameter, and can be differentiated again."""
    backend, spec = subject.backend, subject.spec()
    if not backend.on_tape:
        return
    require(backend.framework == "torch", "its `on_tape` is True, which is said of torch's tape alone.")
    hidden_gradient = registry.load_class("nodebench.conformance.torch_models:hidden_gradient")
    found = hidden_gradient(backend.solve, subject.problem(Known()), spec)
    same = found is not None and np.allclose(found, subject.grad(Known(), spec).params["A"], rtol=1e-9)
    require(same, "its `on_tape` is True, but its gradient of a tensor that is no parameter of the field is another.")


def a_tuple_is_a_state_like_an_array(subject: BackendSubject) -> None:
    """A state of two arrays gives the gradients of the same state in one."""
    _check(subject, Known(split=True), "of a state in two parts")


def float32_stays_float32(subject: BackendSubject) -> None:
    """Loss and gradients of a float32 problem are float32, and as right as that allows."""
    found = subject.grad(Known(), subject.spec(0, "float32"))
    types = {"loss": found.loss, "y0": found.y0, "A": found.params.get("A")}
    wrong = {name: str(np.asarray(value).dtype) for name, value in types.items()}
    wrong = {name: dtype for name, dtype in wrong.items() if dtype != "float32"}
    require(not wrong, f"of a float32 problem it returns {', '.join(f'{name} in {d}' for name, d in wrong.items())}.")
    _near(found, Known(), subject.bound(0), "in float32")


def its_evaluations_are_counted(subject: BackendSubject) -> None:
    """The field that it is handed is the one that it evaluates: counters see its evaluations, the same every time."""
    framework, problem = subject.framework(), subject.problem(Known())
    step = subject.backend.gradient_step(problem, subject.spec(), framework)
    first, again = step.evaluations(), step.evaluations()
    require(first.nfe_forward > 0, "no evaluation of the field is seen in its forward solve.")
    require(first.n_vjps > 0, "no vector-Jacobian product of the field is seen in its gradient.")
    require(first == again, f"the same step is counted as {first} and then as {again}.")


def it_keeps_no_state_between_calls(subject: BackendSubject) -> None:
    """The same problem has the same gradients to the bit, whatever it solved in between."""
    known, other = Known(), Known(scale=0.5)
    first = subject.grad(known, subject.spec())
    subject.grad(other, subject.spec())
    again = subject.grad(known, subject.spec())
    same = np.array_equal(first.y0, again.y0) and np.array_equal(first.params["A"], again.params["A"])
    require(same, "its gradients of a problem change after it has solved another.")


def what_it_is_handed_stays_as_it_was(subject: BackendSubject) -> None:
    """Initial state, times and parameters are the same before and after a solve, a gradient and a grid."""
    framework, problem, spec = subject.framework(), subject.problem(Known()), subject.spec()
    backend = subject.backend

    def handed() -> dict[str, np.ndarray]:
        times = np.array([float(t) for t in problem.times])
        return {"y0": framework.flat_state(problem.y0), "times": times, **framework.parameters(problem.field)}

    before = {name: value.copy() for name, value in handed().items()}
    calls: dict[str, Callable[[], object]] = {
        "solve": lambda: backend.gradient_step(problem, spec, framework).solution(),
        "its gradient": lambda: backend.gradient_step(problem, spec, framework).evaluations(),
        "grid": lambda: backend.grid(problem.field, problem.y0, problem.times, spec),
    }
    for call, body in calls.items():
        body()
        changed = [name for name, value in handed().items() if not np.array_equal(value, before[name])]
        require(not changed, f"`{call}` changed the {' and '.join(changed)} that it was handed.")


def its_steps_are_told_in_order(subject: BackendSubject) -> None:
    """Where `grid` tells the steps, they go from the first output time to the last or past it."""
    problem = subject.problem(Known())
    grid = subject.backend.grid(problem.field, problem.y0, problem.times, subject.spec())
    if grid is None:
        return
    first, last = Known().times[0], Known().times[-1]
    require(grid.times[0] == first, f"its steps begin at {grid.times[0]}, not at the first output time {first}.")
    require(grid.times[-1] >= last - 1e-9, f"its steps end at {grid.times[-1]}, before the last output time {last}.")
    require(all(a < b for a, b in pairwise(grid.times)), "the boundaries of its steps are not strictly in order.")


def nan_ends_cleanly(subject: BackendSubject) -> None:
    """A field of NaN is a `DivergedError`; compiled code, which cannot raise, gives NaN for loss and gradients."""
    problem, spec = subject.problem(Known(scale=float("nan"))), subject.spec()
    raised = _failure(subject, problem, spec)
    if raised is not None and not isinstance(raised, DivergedError):
        raise CheckFailedError(
            f"a field of NaN must raise `DivergedError`; it raises {told(raised)}.", cause_of(raised)
        )


def the_step_limit_is_kept(subject: BackendSubject) -> None:
    """Out of steps it raises `StepLimitError` or gives NaN, at the latest where its evaluations are counted."""
    spec = replace(subject.spec(2), max_steps=FEW_STEPS)
    problem = subject.problem(Known(times=(0.0, 2.0)))
    raised = _failure(subject, problem, spec)
    if raised is not None and not isinstance(raised, CellError):
        raise CheckFailedError(
            f"out of steps it must raise `StepLimitError`; it raises {told(raised)}.", cause_of(raised)
        )


BACKEND_CHECKS = (
    it_can_be_loaded,
    it_declares_itself,
    it_says_beforehand_what_it_cannot_do,
    its_states_are_the_solution,
    its_gradients_are_the_closed_form,
    its_gradients_are_right_backwards_in_time,
    its_gradients_are_right_where_the_field_depends_on_time,
    its_gradients_of_the_times_are_right,
    what_is_on_the_tape_is_differentiated,
    a_tuple_is_a_state_like_an_array,
    float32_stays_float32,
    its_evaluations_are_counted,
    it_keeps_no_state_between_calls,
    what_it_is_handed_stays_as_it_was,
    its_steps_are_told_in_order,
    nan_ends_cleanly,
    the_step_limit_is_kept,
)
"""All of them, the simplest first: what fails one is likely to fail those after it."""


def _solution(subject: BackendSubject, known: Known) -> np.ndarray:
    framework, problem = subject.framework(), subject.problem(known)
    step = subject.backend.gradient_step(problem, subject.spec(), framework)
    return framework.flat_state(step.solution())


def _check(subject: BackendSubject, known: Known, where: str) -> Gradients:
    found = subject.grad(known, subject.spec(MIDDLE))
    _near(found, known, subject.bound(), where)
    return found


def _near(found: Gradients, known: Known, bound: float, where: str) -> None:
    for name, error in errors(found, known.exact()).items():
        # Not `error >= bound`, which NaN passes.
        sentence = f"{where} its gradient of {name} is wrong by {error:.1g}, where {bound:g} is allowed."
        require(error < bound, sentence, WRONG)


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
