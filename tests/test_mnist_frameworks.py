"""The ODE network of the mnist task is one and the same in torch and in JAX."""

from functools import partial

import numpy as np
import pytest

from nodebench.backends.base import AbstractBackend
from nodebench.frameworks.base import load_framework
from nodebench.problem import SolverSpec
from nodebench.registry import load
from nodebench.tasks.mnist.task import Mnist

# Two fixed steps of Euler: both solvers then do the same arithmetic, and any difference is the model's.
SPEC = SolverSpec(solver="euler", first_step=0.5, dtype="float64")
BACKENDS = {"torch": "direct", "jax": "diffrax-direct"}


def built(framework_name, downsampling):
    """The framework, the backend, the network and its gradient problem on two images."""
    task = Mnist(dataset="digits", downsampling=downsampling)
    inputs = task.problem("odenet", 3, 2)
    framework = load_framework(framework_name)("cpu", "float64", 1)
    backend = load("backend", BACKENDS[framework_name], AbstractBackend)
    target = task.models["odenet"].targets[framework_name]
    solve = partial(backend.solve, spec=SPEC)
    model = framework.build(target, task.model_options("odenet"), inputs.weights, solve)
    return framework, backend, model, framework.problem(model, inputs.batch)


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("downsampling", ["conv", "res"])
def test_field_loss_and_gradient_agree_from_the_same_weights(downsampling):
    """In float64 they agree to 1e-9: initial state, field, loss, and derivatives by state and every parameter."""
    figures = {}
    for name in BACKENDS:
        framework, backend, model, problem = built(name, downsampling)
        y0 = framework.flat_state(problem.y0)
        derivative = framework.evaluate(problem)(0.3, y0)
        gradients = framework.to_numpy(backend.grad(problem, SPEC, framework))
        figures[name] = (y0, derivative, gradients, framework.n_params(model))
    (y0, derivative, gradients, n_params), (jax_y0, jax_derivative, jax_gradients, jax_n_params) = figures.values()
    assert n_params == jax_n_params
    assert relative(jax_y0, y0) < 1e-9
    assert relative(jax_derivative, derivative) < 1e-9
    assert relative(jax_gradients.loss, gradients.loss) < 1e-9
    assert relative(jax_gradients.y0, gradients.y0) < 1e-9
    assert set(jax_gradients.params) == set(gradients.params)
    for name, expected in gradients.params.items():
        assert relative(jax_gradients.params[name], expected) < 1e-9, name
