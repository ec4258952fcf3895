"""Time of one gradient step by problem and backend, absolute; what may be compared is in `ratios.py`.

A row of these tables is measured by itself, one after the other: what slows the machine for a while slows some of them
only. Each in processes of its own: torch and JAX in one disturb each other.
"""

from pathlib import Path

import pytest

from nodebench import registry

MLP = f"{Path(__file__).with_name('mlp_task.py')}:Mlp"

TASKS = [*registry.working("task"), MLP]
"""Each with its own model, weights, batch, tolerance and output times."""

TOO_SLOW = {("mnist", "diffrax-direct"), ("mnist", "jax-odeint"), ("mnist", "diffrax-backsolve"), ("mnist", "diffrax")}
"""XLA's convolutions on a CPU, within loops: minutes for a figure that says nothing of the gradient methods."""


@pytest.mark.parametrize("backend", registry.working("backend"))
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.rpartition("/")[2])
def test_gradient_step(nodebench_cell, task, backend):
    """One warmed gradient step on one thread; what is not finite or has a wrong gradient fails."""
    if (task, backend) in TOO_SLOW:
        pytest.skip("convolutions of XLA on a CPU")
    assert nodebench_cell(backend, task).nfe_forward > 0
