"""What the models of every task must do, in every framework that they are written for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nodebench.backends.solvers import method
from nodebench.bench.check_up import check_up
from nodebench.bench.reference_solver import ReferenceSolver
from nodebench.bench.subject import check_times
from nodebench.conformance.check import NotApplicableError, require
from nodebench.conformance.subject import EXAMPLES, Built, TaskSubject, same
from nodebench.errors import UserError
from nodebench.frameworks.base import Weights
from nodebench.problem import Gradients, SolverSpec
from nodebench.registry import load_class

EULER: Mapping[str, str] = {
    "torch": "nodebench.conformance.torch_models:euler",
    "jax": "nodebench.conformance.jax_models:euler",
}
"""A solve that takes the same steps in each framework, so that only models are compared."""

AGREEMENT = 1e-9
"""Relative difference at which two frameworks agree in float64."""

CLOSED_FORM = 1e-5
"""Relative difference from a closed form at a relative tolerance of 1e-8."""


def its_models_take_their_weights(subject: TaskSubject) -> None:
    """In each framework a model has parameters of the names and shapes of the task's weights, and no others."""
    for built in subject.built():
        built.make(subject.task.weights(built.model, 0))


def its_losses_can_be_trained_on(subject: TaskSubject) -> None:
    """The loss of a batch is a finite number, and a step of the optimiser, where it can train anything, changes it."""
    for built in subject.built():
        if not built.n_params:
            continue  # which training says, and gradients by the initial state do not need
        trainer = built.trainer()
        first, second = trainer.step(subject.batch), trainer.step(subject.batch)
        require(np.isfinite([first, second]).all(), f"the loss of {built} is {first}, then {second}.")
        require(first != second, f"the loss of {built} is {first} before and after a step: it trains nothing.")


def its_metric_is_a_number_for_each_example(subject: TaskSubject) -> None:
    """`metric`, and each of the diagnostics, has the shape `(n,)` for n examples, and is finite."""
    for built in subject.built():
        trainer = built.trainer()
        values = {subject.task.metric.name: trainer.metric(subject.batch)}
        if subject.task.diagnostics:
            viewed = trainer.view("diagnostics", subject.batch)
            values |= {metric.name: viewed[metric.name] for metric in subject.task.diagnostics}
        for name, value in values.items():
            shape = np.shape(value)
            require(shape == (EXAMPLES,), f"{name} of {EXAMPLES} examples by {built} has the shape {shape}.")
            require(np.isfinite(value).all(), f"{name} by {built} is not finite.")


def its_gradient_problem_is_fixed(subject: TaskSubject) -> None:
    """The same seed gives the same weights, those of the seed, and the same batch, of a named data set."""
    _with_ode(subject)
    for model in subject.with_ode:
        first, again = (subject.task.problem(model, 0, EXAMPLES) for _ in range(2))
        require(first.dataset, f"the gradient problem of `{model}` does not name its data set.")
        require(same(first.batch, again.batch), f"the batch of `{model}` differs from one call to the next.")
        weights = subject.task.weights(model, 0)
        require(same(first.weights, weights), f"the weights of `{model}` are not those of its `weights`.")


def its_gradient_problem_can_be_solved(subject: TaskSubject) -> None:
    """Output times go one way, the field is a function of time and state in either dtype, and its gradient finite."""
    _with_ode(subject)
    for built in _of_ode(subject):
        problem = built.problem()
        check_up(built.framework, built.problem, exact=True)
        single = type(built.framework)("cpu", "float32", 1)
        check_up(single, replace(built, framework=single).problem, exact=False)
        built.framework.settle()
        try:
            check_times([float(t) for t in problem.times], SolverSpec().dtype)
        except UserError as error:
            require(condition=False, sentence=f"of {built}: {error}")
        found = _gradients(built, built.spec())
        values = [found.loss, found.y0, *found.params.values()]
        require(np.ndim(found.loss) == 0, f"the loss of the gradient problem of {built} is no scalar.")
        finite = all(np.isfinite(value).all() for value in values)
        require(finite, f"the gradient of {built}, solved by a few steps, is not finite.")


def its_gradient_is_that_of_its_loss(subject: TaskSubject) -> None:
    """Short steps see nothing that a tight solve passes over, and finite differences of the loss give its gradient."""
    _with_ode(subject)
    spec = subject.task.reference
    if not method(spec.solver).adaptive:
        raise NotApplicableError("its references are solved by steps of a fixed length, as fields with edges need.")
    seen: set[str] = set()
    for built in sorted(_of_ode(subject), key=lambda built: built.framework.name != "torch"):
        if built.model in seen or built.framework.reference_backend is None:
            continue
        seen.add(built.model)
        inputs, problem = subject.task.problem(built.model, 0, EXAMPLES), built.problem()
        span = abs(float(problem.times[-1]) - float(problem.times[0]))
        with TemporaryDirectory() as folder:
            solver = ReferenceSolver(built.framework, built.backend, inputs, problem, built.model, Path(folder))
            found = solver.find(replace(spec, first_step=spec.first_step or 1e-3 * span), 1)
        require(found.path, f"of {built}: {found.reason}")


def its_closed_form_is_right(subject: TaskSubject) -> None:
    """Where it has a closed form, a tight solve comes to the same gradients."""
    _with_ode(subject)
    n_checked = 0
    for built in _of_ode(subject):
        closed_form = subject.task.problem(built.model, 0, EXAMPLES).closed_form
        if closed_form is None or n_checked:
            continue
        n_checked += 1
        first_step = built.spec().first_step
        spec = SolverSpec(rtol=1e-8, atol=1e-8, first_step=first_step, max_steps=4096, dtype="float64")
        _agree(_gradients(built, spec), closed_form(), CLOSED_FORM, f"the closed form and {built}")
    if not n_checked:
        raise NotApplicableError("it has no closed form.")


def its_frameworks_agree(subject: TaskSubject) -> None:
    """The same weights and batch give the same loss and gradients in every framework that a model is written for."""
    _with_ode(subject)
    n_compared = 0
    for model in subject.with_ode:
        several = [built for built in _of_ode(subject) if built.model == model and built.framework.name in EULER]
        # No weight may be trivial: zeros would hide what they multiply.
        rng = np.random.default_rng(0)
        weights = {
            name: value + 0.1 * rng.standard_normal(np.shape(value))
            for name, value in subject.task.weights(model, 0).items()
        }
        held = several[0].framework.state(several[0].make(weights)) if several else {}
        constants = {name: held[name] for name in held.keys() - weights.keys()}
        found = [_same_steps(built, weights, constants) for built in several]
        for built, other in zip(several[1:], found[1:], strict=True):
            n_compared += 1
            _agree(other, found[0], AGREEMENT, f"{several[0]} and {built}")
    if not n_compared:
        raise NotApplicableError("none of its models stands in two frameworks that are installed.")


MODEL_CHECKS = (
    its_models_take_their_weights,
    its_losses_can_be_trained_on,
    its_metric_is_a_number_for_each_example,
    its_gradient_problem_is_fixed,
    its_gradient_problem_can_be_solved,
    its_gradient_is_that_of_its_loss,
    its_closed_form_is_right,
    its_frameworks_agree,
)


def _with_ode(subject: TaskSubject) -> None:
    if not subject.with_ode:
        raise NotApplicableError("none of its models solves an ODE.")


def _of_ode(subject: TaskSubject) -> list[Built]:
    return [built for built in subject.built() if built.uses_backend]


def _gradients(built: Built, spec: SolverSpec) -> Gradients:
    """Gradients at the task's weights by the backend of the framework."""
    return _flat(built, built.backend.grad(built.problem(), spec, built.framework))


def _same_steps(built: Built, weights: Weights, constants: Weights) -> Gradients:
    """Gradients at given weights and constants by steps that are the same in every framework."""
    solve = load_class(EULER[built.framework.name])
    step = built.framework.gradient_step(solve, built.problem(weights, constants), SolverSpec(dtype="float64"))
    return _flat(built, step.step())


def _flat(built: Built, found: Gradients) -> Gradients:
    """The same in NumPy, the state as one flat array."""
    flat = built.framework.flat_state(found.y0)
    arrays = built.framework.to_numpy(found)
    return Gradients(arrays.loss, flat, arrays.params, arrays.times)


def _agree(found: Gradients, wanted: Gradients, bound: float, who: str) -> None:
    require(found.params.keys() == wanted.params.keys(), f"{who} name their parameters differently.")
    pairs = {"loss": (found.loss, wanted.loss), "gradient of y0": (found.y0, np.ravel(wanted.y0))}
    pairs |= {f"gradient of `{name}`": (value, wanted.params[name]) for name, value in found.params.items()}
    for name, (a, b) in pairs.items():
        scale = float(np.abs(b).max()) or 1.0
        error = float(np.abs(np.asarray(a) - np.asarray(b)).max()) / scale
        require(error < bound, f"{who} differ in the {name} by {error:.1g} of its size.")
