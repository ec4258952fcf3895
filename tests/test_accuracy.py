"""References: no finer than what they judge needs, honest about themselves, and found again."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from nodebench import registry
from nodebench.bench.accuracy import Reference, ReferenceSolver, relative_error
from nodebench.bench.matrix import Request, plan
from nodebench.bench.runner import Runner
from nodebench.bench.settings import Settings
from nodebench.frameworks.torch import Torch
from nodebench.problem import SolverSpec
from nodebench.results.store import Store
from nodebench.tasks.base import AbstractTask

FINEST = SolverSpec(solver="midpoint", first_step=1 / 512, max_steps=10_000, dtype="float64")
OWN = ("reference_error_params", "reference_error_y0")


@pytest.fixture
def solver(tmp_path):
    return make_solver(tmp_path, "linear")


def make_solver(folder, text):
    """References of a linear task whose closed form is not told."""
    task, framework = registry.load("task", text, AbstractTask), Torch("cpu", "float64", 1)
    inputs = replace(task.problem("linear", 0, 4), closed_form=None)
    options = task.model_options("linear")
    model = framework.build(task.models["linear"].targets["torch"], options, inputs.weights, lambda *_: None)
    return ReferenceSolver(framework, inputs, framework.problem(model, inputs.batch), text, folder)


def wanted(own):
    """The same accuracy of both gradients."""
    return dict.fromkeys(OWN, own)


def test_a_reference_is_no_finer_than_is_wanted(solver):
    """Steps are halved until the own error is as small as is wanted, and no further."""
    first = solver.find(FINEST, {})
    coarse = Reference.load(first.path)
    limit = max(coarse.own_errors.values()) / 3
    second = solver.find(FINEST, wanted(limit))
    assert (first.finest, second.finest) == (False, False)
    assert coarse.description == "checkpoint, midpoint step 0.0156, compared with midpoint step 0.0312"
    fine = Reference.load(second.path)
    assert fine.description == "checkpoint, midpoint step 0.00781, compared with midpoint step 0.0156"
    assert max(fine.own_errors.values()) <= limit


def test_the_own_error_is_an_estimate_from_above(solver):
    """At each accuracy the distance from the closed form is less than what the reference says of itself."""
    task = registry.load("task", "linear", AbstractTask)
    exact = task.problem("linear", 0, 4).closed_form()
    found = [solver.find(FINEST, {})]
    while not found[-1].finest:
        own = Reference.load(found[-1].path).own_errors
        found.append(solver.find(FINEST, wanted(0.9 * max(own.values()))))
    assert len(found) == 4
    for reference in (Reference.load(file.path) for file in found):
        assert 0 < relative_error(reference.params, exact.params) < reference.params_error
        assert 0 < relative_error(reference.y0, exact.y0.ravel()) < reference.y0_error


def test_the_finest_is_the_tasks_own(solver):
    """An accuracy that is out of reach is answered with the task's steps, and by saying that there are no finer."""
    found = solver.find(FINEST, wanted(0.0))
    assert found.finest
    assert Reference.load(found.path).description == (
        "checkpoint, midpoint step 0.00195, compared with midpoint step 0.00391"
    )


def test_a_finer_reference_is_found_again(solver, tmp_path):
    """What an earlier run has solved finely serves a later one that would do with less, and nothing is solved."""
    found = solver.find(FINEST, wanted(0.0))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert solver.find(FINEST, {}) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_going_on_gives_the_very_same_reference(solver, tmp_path):
    """Refined in two goes or solved in one, gradients and own errors are equal to the bit."""
    solver.find(FINEST, {})
    twice = Reference.load(solver.find(FINEST, wanted(0.0)).path)
    once = Reference.load(make_solver(tmp_path / "other", "linear").find(FINEST, wanted(0.0)).path)
    assert twice.own_errors == once.own_errors
    assert relative_error(twice.params, once.params) == relative_error(twice.y0, once.y0) == 0


def test_steps_beyond_the_next_output_time_are_not_tried(tmp_path):
    """Where output times set the steps, longer ones would take the same and agree with themselves."""
    solver = make_solver(tmp_path, "linear[n_times=101,loss=path]")
    spec = replace(FINEST, first_step=1 / 128)
    first = solver.find(spec, {})
    assert Reference.load(first.path).description.startswith("checkpoint, midpoint step 0.00781, compared with")
    assert first.finest
    assert Reference.load(first.path).params_error > 0


def test_tolerances_have_one_reference(solver):
    """A method that chooses its steps is cheap at tight tolerances: it is solved at the task's alone."""
    spec = SolverSpec(rtol=1e-10, atol=1e-10, first_step=0.01, max_steps=10_000, dtype="float64")
    found = solver.find(spec, {})
    assert found.finest
    assert Reference.load(found.path).description == "checkpoint, dopri5 rtol 1e-10, compared with tsit5 rtol 1e-09"


TASK = '''
from dataclasses import dataclass, replace

from nodebench.problem import SolverSpec
from nodebench.tasks.linear.task import Linear


@dataclass(frozen=True)
class Opaque(Linear):
    """A linear task that keeps its closed form to itself."""

    reference = SolverSpec(solver="midpoint", first_step=1 / {steps}, max_steps=10_000, dtype="float64")

    def problem(self, model, seed, batch_size):
        return replace(super().problem(model, seed, batch_size), closed_form=None)
'''


def measure(tmp_path, steps, **changes):
    """Gradient errors of `direct` on a task with a reference of so many steps in a unit of time."""
    (tmp_path / "opaque.py").write_text(TASK.format(steps=steps))
    tasks = (f"{tmp_path / 'opaque.py'}:Opaque",)
    request = Request(backends=("direct",), tasks=tasks, preset="smoke", measure="gradient", **changes)
    store, events = Store(tmp_path / "results.db"), []
    run_id = Runner(store, Settings(rounds=4, timeout_s=60), events.append).run(plan(request), "test", {})
    (record,) = store.records([run_id])
    return record, [event.text for event in events].count("reference gradient")


def test_a_cell_asks_for_the_reference_that_it_needs(tmp_path):
    """An error that is too small for the first reference is stated against a finer one, which is asked for once."""
    record, n = measure(tmp_path, 4096, rtols=(1e-3,))
    assert n == 2
    assert record.grad_error_params >= 100 * record.reference_error_params > 0
    assert record.grad_error_y0 >= 100 * record.reference_error_y0 > 0
    assert "midpoint step 0.000244" not in record.reference


def test_an_error_beyond_the_finest_reference_is_not_stated(tmp_path):
    """Where the task's own reference is too coarse, the error is a hole with its reason."""
    record, n = measure(tmp_path, 64, rtols=(1e-6,))
    assert (record.status, n) == ("ok", 2)
    assert record.grad_error_params is None
    assert any("no grad_error_params of direct" in note for note in record.notes)
