"""The floor of a gradient step is the cost of the calls of the field that it makes, and what compiles says so."""

import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nodebench.bench import cell_run as measured_module
from nodebench.bench.cell_run import CellRun
from nodebench.bench.matrix import Request, plan
from nodebench.bench.request import Settings
from nodebench.bench.runner import Runner
from nodebench.bench.worker import passes as passes_module
from nodebench.bench.worker.passes import FloorTurn, GradientPasses, above_floor
from nodebench.frameworks.base import FieldCalls, load_framework
from nodebench.problem import Evaluations, Problem, SolverSpec
from nodebench.results.store import Store
from nodebench.testing import FakeField, FakeFramework

PROGRAMS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"


def fake_step():
    problem = Problem(FakeField(0.5), np.ones(3), np.array([0.0, 1.0]), np.sum)
    solve = lambda field, y0, times, spec: np.stack([y0, y0])  # noqa: E731, ARG005  the shortest solve there is
    return FakeFramework("cpu", "float64", 1).gradient_step(solve, problem, SolverSpec())


def test_the_floor_is_evaluations_and_vjps_at_their_cost():
    """(7 + 5) evaluations of 2 s, and 3 VJPs which add 5 s each to one."""
    turn = FloorTurn(step_s=78.0, eval_s=2.0, eval_with_vjp_s=7.0, loss_s=4.0)
    assert turn.floor_s(Evaluations(7, 5, 3)) == 12 * 2 + 3 * 5


def test_backpropagation_has_a_floor_of_evaluations_with_a_graph():
    """Where every evaluation is differentiated the plain one drops out."""
    turn = FloorTurn(1.0, eval_s=0.3, eval_with_vjp_s=0.5, loss_s=0.1)
    assert turn.floor_s(Evaluations(4, 0, 4)) == pytest.approx(2.0)


def test_the_share_is_paired_within_the_turn():
    """A slow spell hits step, floor and loss alike: the median is that of the ratios, not the ratio of the medians."""
    turns = [FloorTurn(4.0, 1.0, 2.0, 1.0), FloorTurn(40.0, 10.0, 20.0, 10.0), FloorTurn(5.0, 2.0, 4.0, 0.5)]
    assert above_floor(turns, Evaluations(1, 0, 1)).known == {"floor_ratio": 1.5, "floor_s": 4.0, "loss_s": 1.0}


def test_the_loss_is_no_fault_of_the_solver(monkeypatch):
    """A step of 82 s of which the loss is 4 s is twice its floor of 39 s, by a clock that the calls themselves move."""
    now = [0.0]

    def take(seconds, n=1):
        now[0] += n * seconds

    monkeypatch.setattr(passes_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    calls = FieldCalls(partial(take, 2.0), partial(take, 7.0), partial(take, 4.0))
    passes = GradientPasses()
    passes.step = replace(fake_step(), step=partial(take, 82.0), field_calls=lambda: calls)
    found = passes.floor(Evaluations(7, 5, 3), 0.0)
    assert found.known == {"floor_ratio": 2.0, "floor_s": 39.0, "loss_s": 4.0}


def test_what_a_program_costs_to_call_is_shared_by_many_evaluations(monkeypatch):
    """A call of 1 ms, and 1 us for each evaluation in it: 10 ms have some thousands, where one alone would say ten."""
    now = [0.0]

    def call(n):
        now[0] += 1e-3 + n * 1e-6

    monkeypatch.setattr(passes_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert 5e-3 < passes_module._repetitions(call, 10e-3) * 1e-6 < 10e-3


def test_a_step_without_calls_has_no_floor():
    """Where the framework offers no calls, or none were counted, nothing is measured."""
    fused = replace(fake_step(), field_calls=lambda: None)
    passes = GradientPasses()
    passes.step = fused
    assert passes.floor(Evaluations(7, 5, 3), 0.1).known == {}
    passes.step = fake_step()
    assert passes.floor(Evaluations(0, 0, 0), 0.1).known == {}


def test_the_floor_is_in_the_record(tmp_path):
    """It is measured for a cell whose step consists of calls; only a cell that compiles has `compile_s`."""
    compiled = f"{BACKEND}[compiled=true]"
    planned = plan(Request(backends=(BACKEND, compiled), tasks=(TASK,), preset="smoke", measure="gradient"))
    store = Store(tmp_path / "results.db")
    Runner(store, Settings(rounds=1, timeout_s=60), lambda _: None).run(planned, "test", {})
    plain, other = store.records()
    assert plain.floor_s > 0
    assert plain.floor_ratio is not None
    assert plain.loss_s > 0
    assert plain.compile_s is None
    assert other.compile_s == other.first_step_s - other.step_s
    assert (other.floor_s, other.floor_ratio, other.loss_s) == (None, None, None)


def test_compiled_programs_are_kept_apart_by_cell(tmp_path, monkeypatch):
    """What another cell compiled would make a first step cheaper: each has a folder of its own."""
    assigned = []
    monkeypatch.setattr(measured_module, "WorkerProcess", lambda assignment, *_: assigned.append(assignment))
    cell = plan(Request(backends=(BACKEND,), tasks=(TASK,), preset="smoke", measure="gradient")).cells[0]
    for member in (cell, cell, replace(cell, seed=1)):
        CellRun(member, Settings()).open(None, tmp_path)
    folders = [assignment.programs for assignment in assigned]
    assert folders[0] == folders[1] != folders[2]
    assert all(folder.parent == tmp_path for folder in folders)


def test_both_compilers_keep_their_programs_in_the_folder(tmp_path, monkeypatch):
    """A later worker of the same cell finds what XLA or torch.compile made for the first."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    load_framework("torch").keep_programs(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] == os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] == "1"
    before = {name: getattr(jax.config, name) for name in PROGRAMS}
    try:
        load_framework("jax").keep_programs(tmp_path)
        assert [getattr(jax.config, name) for name in PROGRAMS] == [str(tmp_path), 0.0, -1]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
