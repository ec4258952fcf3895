"""The same weights give the same field, loss and gradient in torch and JAX, in float64 to nine digits."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nodebench.backends.diffrax.adjoints import Diffrax
from nodebench.backends.runge_kutta.direct import Direct
from nodebench.frameworks.jax.framework import Jax
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import SolverSpec
from nodebench.tasks.linear.task import Linear
from nodebench.tasks.mnist.task import Mnist

# Steps that both libraries take alike to the last bit, so that only the models are compared.
SPEC = SolverSpec(solver="midpoint", first_step=0.5, max_steps=16, dtype="float64")
RNG = np.random.default_rng(0)
DIGITS = {"images": RNG.random((2, 1, 28, 28)), "labels": np.array([3, 7])}
TRAJECTORIES = {"y0": RNG.standard_normal((3, 4)), "observed": RNG.standard_normal((3, 5, 4))}

CASES = {
    "linear": (Linear(), "linear", TRAJECTORIES),
    "linear-path": (Linear(loss="path", differentiate_times=True), "linear", TRAJECTORIES),
    "mnist": (Mnist(), "odenet", DIGITS),
    "mnist-res": (Mnist(downsampling="res"), "odenet", DIGITS),
}


def _both(name):
    """Framework, backend, model and problem in torch, and the same in JAX, from weights none of which is trivial."""
    task, entry, batch = CASES[name]
    rng = np.random.default_rng(1)
    weights = {
        name: weight + 0.1 * rng.standard_normal(weight.shape) for name, weight in task.weights(entry, 0).items()
    }
    for framework, backend in ((Torch("cpu", "float64", 1), Direct()), (Jax("cpu", "float64", 1), Diffrax())):
        model = framework.build(
            task.models[entry].targets[framework.name],
            task.model_options(entry),
            weights,
            lambda field, y0, times, backend=backend: backend.solve(field, y0, times, SPEC),
        )
        yield framework, backend, model, framework.problem(model, batch)


def _assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_models_have_the_same_parameters(name):
    """As many numbers in both."""
    (torch, _, torch_model, _), (jax, _, jax_model, _) = _both(name)
    assert jax.n_params(jax_model) == torch.n_params(torch_model)


@pytest.mark.parametrize("name", CASES)
def test_initial_states_and_fields_are_the_same(name):
    """The state that enters the ODE, number by number, and its derivative at a time that matters."""
    states, rates = [], []
    for framework, _, _, problem in _both(name):
        states.append(framework.flat_state(problem.y0))
        rates.append(framework.evaluate(problem)(0.3, states[0]))
    _assert_close(states[1], states[0])
    _assert_close(rates[1], rates[0])


@pytest.mark.parametrize("name", ["linear-path", "mnist"])
def test_losses_and_gradients_are_the_same(name):
    """Loss, gradient with respect to the state, to each parameter and, where asked for, to the times."""
    torch, jax = (
        framework.to_numpy(backend.grad(problem, SPEC, framework)) for framework, backend, _, problem in _both(name)
    )
    _assert_close(jax.loss, torch.loss)
    _assert_close(jax.y0, torch.y0)
    assert jax.params.keys() == torch.params.keys()
    for parameter, expected in torch.params.items():
        _assert_close(jax.params[parameter], expected)


def test_adaptive_steps_are_the_same():
    """With the same first step, tolerances and norm both libraries choose the same steps."""
    task, inputs = Linear(), Linear().problem("linear", 0, 4)
    spec = SolverSpec(first_step=0.05, rtol=1e-6, atol=1e-6, dtype="float64")
    grids = []
    for framework, backend in ((Torch("cpu", "float64", 1), Direct()), (Jax("cpu", "float64", 1), Diffrax())):
        target, options = task.models["linear"].targets[framework.name], {**task.model_options("linear")}
        model = framework.build(target, options | {"times": (0.0, 2.0)}, inputs.weights, lambda *_: None)
        problem = framework.problem(model, inputs.batch)
        grids.append(backend.grid(problem.field, problem.y0, problem.times, spec))
    assert grids[0].n_rejected == grids[1].n_rejected
    np.testing.assert_allclose(grids[1].times, grids[0].times, rtol=1e-9)


def _relaxing(stack):
    """Van der Pol's oscillator: slow, then so fast that steps are rejected."""

    def field(t, y):
        del t
        return stack([y[1], 8 * (1 - y[0] ** 2) * y[1] - y[0]])

    return field


@pytest.mark.parametrize(
    ("solver", "controller"),
    [("heun", "pi"), ("bosh3", "integral"), ("dopri5", "pi"), ("tsit5", "integral"), ("dopri8", "pi")],
)
def test_accepted_and_rejected_steps_are_the_same(solver, controller):
    """On a stiff oscillator both libraries accept and reject the same steps and come to the same state."""
    tolerance = 1e-3 if solver == "heun" else 1e-6
    spec = SolverSpec(
        solver=solver, controller=controller, first_step=0.5, rtol=tolerance, atol=tolerance, max_steps=4096,
        dtype="float64",
    )  # fmt: skip
    times = np.array([0.0, 12.0])
    Jax("cpu", "float64", 1)
    ours, theirs = (
        (backend.grid(field, y0, at, spec), np.asarray(backend.solve(field, y0, at, spec))[-1])
        for backend, field, y0, at in (
            (Direct(), _relaxing(torch.stack), torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor(times)),
            (Diffrax(), _relaxing(jnp.stack), jnp.array([2.0, 0.0]), times),
        )
    )
    assert ours[0].n_rejected == theirs[0].n_rejected > 3
    # An error estimate is a difference of nearly equal sums, which loses digits, and lengths of steps inherit that.
    np.testing.assert_allclose(theirs[0].times, ours[0].times, rtol=1e-7)
    np.testing.assert_allclose(theirs[1], ours[1], rtol=1e-9)


def test_metric_and_training_loss_are_the_same():
    """The whole network, from images to cross-entropy and wrong answers, through a trainer."""
    losses, metrics = [], []
    for framework, _, model, _ in _both("mnist"):
        trainer = framework.trainer(model, Mnist().recipe("odenet", "smoke").optimizer, 4)
        metrics.append(trainer.metric(DIGITS))
        losses.append(trainer.step(DIGITS))
    _assert_close(losses[1], losses[0])
    np.testing.assert_array_equal(metrics[1], metrics[0])
