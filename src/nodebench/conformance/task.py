"""What every task must do: what it declares, its data, recipes and weights, and what its models must."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np

from nodebench import registry
from nodebench.backends.solvers import method
from nodebench.bench.reference import ReferenceSolver
from nodebench.bench.worker.check_up import check_up
from nodebench.bench.worker.subject import check_times
from nodebench.conformance.check import Check, NotApplicableError, require
from nodebench.conformance.subjects import EXAMPLES, Built, TaskSubject, same
from nodebench.errors import UserError
from nodebench.frameworks.base import Batch, Weights
from nodebench.problem import Gradients, SolverSpec
from nodebench.registry import load_class
from nodebench.tasks.base import Metric, ModelEntry, Preset, Recipe, Splits


def task_checks(text: str) -> list[Check]:
    """The checks of a task.

    Args:
        text: Its name with options, `module:Class` or `path.py:Class`.
    """
    subject = TaskSubject(text)
    return [Check(body, subject) for body in TASK_CHECKS]


def it_can_be_loaded(subject: TaskSubject) -> None:
    """Its class is a task with the methods that one must have."""
    require(subject.task, "it cannot be made.")


def it_declares_itself(subject: TaskSubject) -> None:
    """It names its models, one of them the default, its metric, solver settings and source, and has a summary."""
    task, info = subject.task, registry.describe("task", subject.text)
    require(info.summary.endswith("."), "the first line of its docstring, which `list` shows, must be a sentence.")
    require(task.default_model in task.models, f"its default model {task.default_model!r} is not one of its models.")
    require(isinstance(task.metric, Metric), f"its metric is {task.metric!r}; it must be a `Metric`.")
    require(isinstance(task.spec, SolverSpec), f"its spec is {task.spec!r}; it must be a `SolverSpec`.")
    require(isinstance(task.data_source(), str) and task.data_source(), "`data_source` must say where data come from.")


def its_models_are_named_as_plain_strings(subject: TaskSubject) -> None:
    """Each model is a `ModelEntry` that says for each framework where its class lives, without importing it."""
    for name, entry in subject.task.models.items():
        require(isinstance(entry, ModelEntry), f"model `{name}` is {entry!r}; it must be a `ModelEntry`.")
        require(entry.targets, f"model `{name}` names no framework.")
        for framework, target in entry.targets.items():
            plain = isinstance(target, str) and ":" in target
            require(
                plain, f"model `{name}` in {framework} is {target!r}; it must be `module:Class` or `file.py:Class`."
            )


def its_data_follow_from_the_seed(subject: TaskSubject) -> None:
    """The same preset and seed give the same data twice, under the name of a data set."""
    first, again = subject.splits, subject.data("smoke", 0)
    require(first.name, "its data have no name.")
    for part, batch in _parts(first).items():
        require(same(batch, _parts(again)[part]), f"its {part} data differ from one call to the next.")


def its_examples_come_first(subject: TaskSubject) -> None:
    """All parts have the same arrays, and the first axis of each array of a part is its examples."""
    parts = _parts(subject.splits)
    names = {part: sorted(batch) for part, batch in parts.items()}
    require(names["train"], "its training data are empty.")
    for part, batch in parts.items():
        require(names[part] == names["train"], f"its {part} data have {names[part]}, the training {names['train']}.")
        arrays = all(isinstance(array, np.ndarray) for array in batch.values())
        require(arrays, f"its {part} data must be NumPy arrays by name.")
        lengths = {name: array.shape[:1] for name, array in batch.items()}
        require(len(set(lengths.values())) == 1, f"its {part} arrays differ in their number of examples: {lengths}.")


def its_parts_share_no_example(subject: TaskSubject) -> None:
    """What is tested on was neither trained nor validated on."""
    rows = {part: _rows(batch) for part, batch in _parts(subject.splits).items()}
    for one, other in combinations(rows, 2):
        n = len(rows[one] & rows[other])
        require(not n, f"its {one} and {other} data have {n} examples in common.")


def its_recipes_fit_its_data(subject: TaskSubject) -> None:
    """Every model has a recipe under every preset, and the smallest one's batch can be filled."""
    n_examples = len(next(iter(subject.splits.train.values())))
    for model in subject.task.models:
        for preset in get_args(Preset):
            recipe = subject.task.recipe(model, preset)
            require(isinstance(recipe, Recipe), f"the recipe of `{model}` under `{preset}` is {recipe!r}.")
            positive = recipe.batch_size >= 1 and recipe.epochs >= 1
            require(positive, f"the recipe of `{model}` under `{preset}` has no batch or no epoch.")
        size = subject.task.recipe(model, "smoke").batch_size
        require(size <= n_examples, f"the batch of `{model}` under `smoke` is {size}, of {n_examples} examples.")


def what_it_augments_stays_as_it_was(subject: TaskSubject) -> None:
    """A recipe's `augment` gives a new batch of the same arrays, the same from the same generator."""
    for model in subject.task.models:
        augment = subject.task.recipe(model, "smoke").augment
        if augment is None:
            continue
        batch = subject.batch
        before = {name: array.copy() for name, array in batch.items()}
        first, again = augment(batch, np.random.default_rng(0)), augment(batch, np.random.default_rng(0))
        require(same(batch, before), f"`augment` of `{model}` changes the batch that it is handed.")
        require(same(first, again), f"`augment` of `{model}` draws from something else than its generator.")
        shapes = {name: array.shape for name, array in first.items()}
        wanted = {name: array.shape for name, array in before.items()}
        require(shapes == wanted, f"`augment` of `{model}` makes {shapes} of {wanted}.")


def its_weights_follow_from_the_seed(subject: TaskSubject) -> None:
    """Weights are finite float64 arrays by name, the same for the same seed; they may be constants."""
    for model in subject.task.models:
        first, again = (subject.task.weights(model, 0) for _ in range(2))
        wrong = [name for name, value in first.items() if np.asarray(value).dtype != np.float64]
        require(not wrong, f"weights {wrong} of `{model}` are not float64.")
        finite = all(np.isfinite(value).all() for value in first.values())
        require(finite, f"weights of `{model}` are not finite.")
        require(same(first, again), f"weights of `{model}` differ from one call to the next.")


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
    for built in _of_ode(subject):
        closed_form = subject.task.problem(built.model, 0, EXAMPLES).closed_form
        if closed_form is None:
            continue
        first_step = built.spec().first_step
        spec = SolverSpec(rtol=1e-8, atol=1e-8, first_step=first_step, max_steps=4096, dtype="float64")
        _agree(_gradients(built, spec), closed_form(), CLOSED_FORM, f"the closed form and {built}")
        return
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


TASK_CHECKS = (
    it_can_be_loaded,
    it_declares_itself,
    its_models_are_named_as_plain_strings,
    its_data_follow_from_the_seed,
    its_examples_come_first,
    its_parts_share_no_example,
    its_recipes_fit_its_data,
    what_it_augments_stays_as_it_was,
    its_weights_follow_from_the_seed,
    *MODEL_CHECKS,
)
"""All of them, the simplest first: what fails one is likely to fail those after it."""


def _parts(splits: Splits) -> dict[str, Batch]:
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


def _rows(batch: Batch) -> set[bytes]:
    columns = [np.ascontiguousarray(batch[name]) for name in sorted(batch)]
    return {b"".join(column[i].tobytes() for column in columns) for i in range(len(columns[0]))}


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
