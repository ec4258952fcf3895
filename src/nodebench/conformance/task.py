"""What every task must do: what it declares, its data, recipes and weights; its models are in `models`."""

from itertools import combinations
from typing import get_args

import numpy as np

from nodebench import registry
from nodebench.conformance.check import Check, checks_of, require
from nodebench.conformance.models import MODEL_CHECKS
from nodebench.conformance.subject import TaskSubject, same
from nodebench.frameworks.base import Batch
from nodebench.problem import SolverSpec
from nodebench.tasks.base import Metric, ModelEntry, Preset, Recipe, Splits


def task_checks(text: str) -> list[Check]:
    """The checks of a task.

    Args:
        text: Its name with options, `module:Class` or `path.py:Class`.
    """
    return checks_of(TASK_CHECKS, TaskSubject(text))


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
