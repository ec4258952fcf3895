"""Peak memory as memray counts it: what each method's law says, and no more than was allocated."""

import numpy as np
import pytest

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.worker.passes import traced_bytes
from nodebench.frameworks.base import load_framework
from nodebench.problem import SolverSpec
from nodebench.tasks.linear.task import Linear

N_STEPS = (20, 40, 80)
BATCH = 5_000


def measured_peaks(text, numbers):
    """Peak memory of a gradient step for each number of fixed steps, in bytes."""
    pytest.importorskip("torch")
    backend = registry.load("backend", text, AbstractBackend)
    framework = load_framework("torch")("cpu", "float64", 1)
    task = Linear()
    inputs = task.problem("linear", 0, BATCH)
    target = task.models["linear"].targets["torch"]
    model = framework.build(target, task.model_options("linear"), inputs.weights, lambda *_: None)
    problem = framework.problem(model, inputs.batch)
    span = float(problem.times[-1] - problem.times[0])
    steps = []
    for n in numbers:
        spec = SolverSpec(solver="rk4", first_step=span / n, dtype="float64")
        steps.append(backend.gradient_step(problem, spec, framework))
    steps[0].step()  # what is made once is there before anything is counted
    return np.array([traced_bytes(step.step)[0] for step in steps])


def exponent(steps, figures):
    """Slope of figures against steps, both as logarithms."""
    return np.polyfit(np.log(steps), np.log(figures), 1)[0]


def test_an_allocation_is_counted_once_and_only_during_the_call():
    """A megabyte allocated within the call is a megabyte, whatever was allocated before it."""
    before = np.ones(2**23, dtype=np.uint8)
    assert traced_bytes(lambda: np.ones(2**20, dtype=np.uint8))[0] == pytest.approx(2**20, rel=0.02)
    assert before.nbytes == 2**23


def test_memory_of_direct_is_proportional_to_the_steps():
    """Each step that backpropagation keeps costs the same: so many more steps, so much more memory, exponent 1."""
    # From twenty steps on; with fewer the peak lies in the backward pass, whose buffers do not depend on the steps.
    peaks = measured_peaks("direct", N_STEPS)
    assert exponent(np.diff(N_STEPS), np.diff(peaks)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("text", ["adjoint", "checkpoint[checkpoints=2]"])
def test_memory_does_not_grow_with_the_steps(text):
    """Neither the adjoint nor a fixed number of checkpoints needs more memory for more steps: exponent below 0.1."""
    numbers = (10, 40)
    assert abs(exponent(numbers, measured_peaks(text, numbers))) < 0.1
