"""Time of one gradient step by problem and torch backend, absolute; what may be compared is in `ratios.py`.

A row of these tables is measured by itself, one after the other: what slows the machine for a while slows some of them
only. JAX is not here, since torch and JAX in one process disturb each other.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nodebench import registry
from nodebench.bench.matrix import Request, plan
from nodebench.bench.measured import Measured
from nodebench.bench.settings import Settings
from nodebench.bench.subject import make_subject, prepare_problem
from nodebench.errors import UnsupportedError

PROBLEMS = {
    "mlp": f"{Path(__file__).with_name('mlp_task.py')}:Mlp",
    "cnf": "cnf",
    "mnist": "mnist",
    "spiral": "spiral",
}
"""Each with its own model, weights, batch, tolerance and output times."""


def torch_backends():
    return [name for name in registry.working("backend") if registry.describe("backend", name).framework == "torch"]


@cache
def first_step(cell):
    """The first step that a run of nodebench hands to every backend."""
    worker = Measured(cell, Settings())
    worker.open()
    try:
        return worker.ask("first_step")
    finally:
        worker.dismiss()


@pytest.mark.parametrize("backend", torch_backends())
@pytest.mark.parametrize("problem", PROBLEMS)
def test_gradient_step(benchmark, problem, backend):
    """One gradient step in eager torch, on one thread, warmed."""
    cell = plan(Request(backends=(backend,), tasks=(PROBLEMS[problem],), measure="gradient")).cells[0]
    subject = make_subject(cell, cell.spec.dtype, first_step(replace(cell, backend=None)))
    try:
        prepared = prepare_problem(subject, subject.inputs())
    except UnsupportedError as error:
        pytest.skip(str(error))
    step = subject.gradient_backend().gradient_step(prepared.problem, subject.spec, subject.framework)
    step.step()
    benchmark.group = f"{problem}: {cell.spec.solver}, tolerance {cell.spec.rtol:g}, batch {cell.batch_size}"
    gradients = subject.framework.to_numpy(benchmark(step.step))
    assert all(np.isfinite(array).all() for array in gradients.params.values())
