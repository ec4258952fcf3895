"""References: level by level, honest about themselves, and found again."""

from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip("torch")

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.reference import ReferenceSolver
from nodebench.bench.saved import Reference, in_tolerances, relative_error
from nodebench.errors import UnsupportedError
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import SolverSpec
from nodebench.tasks.base import AbstractTask

FINEST = SolverSpec(solver="midpoint", first_step=1 / 512, max_steps=10_000, dtype="float64")


@pytest.fixture
def solver(tmp_path):
    return make_solver(tmp_path, "linear")


def make_solver(folder, text):
    """References of a linear task whose closed form is not told."""
    task, framework = registry.load("task", text, AbstractTask), Torch("cpu", "float64", 1)
    inputs = replace(task.problem("linear", 0, 4), closed_form=None)
    options = task.model_options("linear")
    model = framework.build(task.models["linear"].targets["torch"], options, inputs.weights, lambda *_: None)
    backend = registry.load("backend", "checkpoint", AbstractBackend)
    return ReferenceSolver(framework, backend, inputs, framework.problem(model, inputs.batch), text, folder)


def levels(solver, spec=FINEST):
    """All references, from the coarsest on."""
    found = [solver.find(spec, 1)]
    while not found[-1].finest:
        found.append(solver.find(spec, len(found) + 1))
    return found


def test_steps_are_halved_from_level_to_level(solver):
    """Each level is compared with the one before; the last has the task's own steps."""
    steps = ["0.0312", "0.0156", "0.00781", "0.00391", "0.00195"]
    expected = [
        f"checkpoint, midpoint step {fine}, compared with midpoint step {coarse}" for coarse, fine in pairwise(steps)
    ]
    assert [Reference.load(file.path).description for file in levels(solver)] == expected


def test_the_own_error_is_an_estimate_from_above(solver):
    """At each level the distance from the closed form is less than what the reference says of itself."""
    task = registry.load("task", "linear", AbstractTask)
    exact = task.problem("linear", 0, 4).closed_form()
    for reference in (Reference.load(file.path) for file in levels(solver)):
        assert 0 < relative_error(reference.params, exact.params) < reference.params_error
        assert 0 < relative_error(reference.y0, exact.y0.ravel()) < reference.y0_error


def test_the_own_error_of_the_states_is_an_estimate_from_above(solver):
    """In tolerances of whoever is judged, the states of each level are nearer to the truth than they say."""
    spec = SolverSpec(rtol=1e-6, atol=1e-6, dtype="float64")
    *coarse, finest = [Reference.load(file.path) for file in levels(solver)]
    for reference in coarse:
        assert 0 < in_tolerances(reference.states, finest.states, spec) < reference.state_error(spec)


def test_a_level_is_the_same_whatever_is_kept(solver, tmp_path):
    """What an earlier run has solved, finer or coarser, is found again and changes no other level, to the bit."""
    first = levels(solver)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert levels(solver) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for level in (3, 1):
        kept = Reference.load(first[level - 1].path)
        alone = Reference.load(make_solver(tmp_path / "other", "linear").find(FINEST, level).path)
        assert (alone.params_error, alone.y0_error) == (kept.params_error, kept.y0_error)
        assert (alone.coarse_states == kept.coarse_states).all()
        assert relative_error(alone.params, kept.params) == relative_error(alone.y0, kept.y0) == 0


def test_steps_beyond_the_next_output_time_are_not_tried(tmp_path):
    """Where output times set the steps, longer ones would take the same and agree with themselves."""
    solver = make_solver(tmp_path, "linear[n_times=101,loss=path]")
    spec = replace(FINEST, first_step=1 / 128)
    first = solver.find(spec, 1)
    assert Reference.load(first.path).description.startswith("checkpoint, midpoint step 0.00781, compared with")
    assert first.finest
    assert Reference.load(first.path).params_error > 0


def test_tolerances_have_one_reference(solver):
    """A method that chooses its steps is cheap at tight tolerances: it is solved at the task's alone."""
    spec = SolverSpec(rtol=1e-10, atol=1e-10, first_step=0.01, max_steps=10_000, dtype="float64")
    found = solver.find(spec, 1)
    assert found.finest
    assert Reference.load(found.path).description == "checkpoint, dopri5 rtol 1e-10, compared with tsit5 rtol 1e-09"


def test_what_its_method_cannot_solve_is_refused_before(solver):
    """Such as a state whose Jacobian would be too large: nobody waits for a solve of it."""
    wide = replace(solver.problem, y0=solver.problem.y0.new_zeros(3000))
    with pytest.raises(UnsupportedError, match="smaller batch"):
        replace(solver, problem=wide).find(SolverSpec(solver="kvaerno5", dtype="float64"), 1)
