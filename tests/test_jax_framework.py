"""The JAX framework: configuration, models, the prepared gradient step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nodebench.backends.diffrax.adjoints import Diffrax, DiffraxDirect
from nodebench.errors import PluginError, UserError
from nodebench.frameworks.jax import step as jax_step
from nodebench.frameworks.jax.framework import Jax
from nodebench.frameworks.jax.step import JaxGradientStep
from nodebench.problem import Problem, SolverSpec
from nodebench.tasks.linear.jax import LinearField, path_loss
from nodebench.tasks.linear.task import Linear

SPEC = SolverSpec(first_step=0.1, max_steps=32)
TARGET = Linear.models["linear"].targets["jax"]


def _model(framework, weights, solve=None):
    return framework.build(TARGET, Linear().model_options("linear"), weights, solve or (lambda *_: None))


def _problem(scale=1.0):
    field = eqx.tree_at(lambda at: at.A, LinearField(2), scale * jnp.array([[-0.1, 1.0], [-1.0, -0.1]]))
    return Problem(field, jnp.array([[1.0, 0.5]]), np.array([0.0, 1.0]), Partial(path_loss))


def test_a_device_that_is_not_there_is_a_user_error():
    """The message names the device."""
    with pytest.raises(UserError, match="JAX finds no device 'cuda'"):
        Jax("cuda", "float32", 1)


def test_only_float64_switches_jax_to_64_bits():
    """A float32 framework leaves JAX in 32 bits; a float64 one does not."""
    assert Jax("cpu", "float32", 1).arrays({"y0": np.ones(2)})["y0"].dtype == jnp.float32
    assert not jax.config.jax_enable_x64
    assert Jax("cpu", "float64", 1).arrays({"y0": np.ones(2, np.float32)})["y0"].dtype == jnp.float64


def test_integers_stay_integers():
    """Labels are not cast to the floating-point type."""
    assert jnp.issubdtype(Jax("cpu", "float32", 1).arrays({"labels": np.arange(3)})["labels"].dtype, jnp.integer)


def test_weights_go_into_the_model_by_name():
    """The built model has the weights that it was given, in the configured type, and counts them."""
    framework = Jax("cpu", "float32", 1)
    weights = Linear().weights("linear", 0)
    model = _model(framework, weights)
    np.testing.assert_array_equal(model.field.A, weights["field.A"].astype(np.float32))
    assert framework.n_params(model) == 16


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"field.B": np.ones((4, 4))}, r"missing \['field.A'\], unknown \['field.B'\]"),
        ({"field.A": np.ones((4, 3))}, r"`field.A` must have the shape \(4, 4\); got \(4, 3\)"),
    ],
)
def test_wrong_weights_are_a_plugin_error(weights, message):
    """Names and shapes must be exactly the model's."""
    with pytest.raises(PluginError, match=message):
        _model(Jax("cpu", "float32", 1), weights)


def test_the_field_can_be_evaluated_on_flat_numpy_states():
    """`evaluate` and `flat_state` agree on the order of a state's numbers, tuples included."""
    framework = Jax("cpu", "float32", 1)
    y0 = (jnp.array([[1.0, 2.0]]), jnp.array([3.0]))
    problem = Problem(_Swap(), y0, np.array([0.0, 1.0]), Partial(path_loss))
    flat = framework.flat_state(y0)
    assert flat.dtype == np.float64
    np.testing.assert_array_equal(framework.evaluate(problem)(0.5, flat), [2.0, 1.0, 3.5])


class _Swap(eqx.Module):
    def __call__(self, t, y):
        return y[0][:, ::-1], y[1] + t


def test_forward_and_backward_give_what_step_gives():
    """The split step has the loss and gradients of the fused one."""
    step = Jax("cpu", "float32", 1).gradient_step(Diffrax().solve, _problem(), SPEC)
    whole, split = step.step(), step.backward(step.forward())
    np.testing.assert_allclose(split.loss, whole.loss, rtol=1e-6)
    np.testing.assert_allclose(split.y0, whole.y0, rtol=1e-5)
    np.testing.assert_allclose(split.params["A"], whole.params["A"], rtol=1e-5)


def test_new_weights_do_not_compile_anew():
    """A second problem of the same shapes runs the program of the first, and gets the gradient of its own weights."""
    framework, backend = Jax("cpu", "float32", 1), Diffrax()
    first = framework.gradient_step(backend.solve, _problem(), SPEC).step()
    size = jax_step._value_and_gradient._cache_size()
    second = framework.gradient_step(backend.solve, _problem(scale=2.0), SPEC).step()
    assert jax_step._value_and_gradient._cache_size() == size
    assert not np.allclose(first.y0, second.y0)


def test_counts_start_from_zero_each_time():
    """Counting twice gives the same figures twice, and a plain step between does not count."""
    step = Jax("cpu", "float32", 1).gradient_step(Diffrax().solve, _problem(), SPEC)
    once = step.evaluations()
    step.step()
    assert step.evaluations() == once
    assert once.nfe_forward > 0


def test_saved_bytes_follow_the_step_limit():
    """XLA sets memory aside for all the steps that are allowed: four times as many take more."""
    framework, backend = Jax("cpu", "float32", 1), DiffraxDirect()
    specs = [SolverSpec(first_step=0.1, max_steps=limit) for limit in (16, 64)]
    small, large = (framework.gradient_step(backend.solve, _problem(), spec).saved_bytes() for spec in specs)
    assert 0 < small < large


class _Driven(eqx.Module):
    """A field whose every evaluation tells where it is."""

    A: jax.Array

    def __call__(self, t, y):
        jax.debug.callback(lambda t, y: _DRIVEN.append((float(t), y.tolist())), t, y)
        return jnp.sin(t) * jnp.tanh(y @ self.A)


_DRIVEN = []


def _resting(field, y0, times, spec):
    del field, spec
    return jnp.stack([y0] * len(times))


def _driven():
    rate = jax_step._Counted(_Driven(jnp.array([[0.5, 1.0], [-1.0, 0.2]])))
    problem = Problem(rate, jnp.array([[1.0, 0.5]]), np.array([0.25, 1.0]), Partial(path_loss))
    return JaxGradientStep(_resting, problem, SPEC)


def test_a_floor_counts_calls_of_the_field_and_its_vjps():
    """All at the first time and the initial state, as many as asked for, by one program."""
    calls = _driven().field_calls()
    for call, n, counts in (
        (calls.evaluation, 2, {"plain": 2}),
        (calls.evaluation, 3, {"plain": 3}),
        (calls.evaluation_with_vjp, 2, {"with residuals": 2, "vjps": 2}),
        (calls.evaluation_with_vjp, 3, {"with residuals": 3, "vjps": 3}),
        (calls.loss, 3, {}),
    ):
        _DRIVEN.clear()
        jax_step._COUNTS.clear()
        call(n)
        jax.effects_barrier()
        assert dict(jax_step._COUNTS) == counts
        assert [(0.25, [[1.0, 0.5]])] * (n if counts else 0) == _DRIVEN


def test_no_call_of_a_floor_can_be_left_out_or_moved():
    """Where the steps between them have a length, what a program returns is that of each call at a place of its own."""
    step, h, t = _driven(), 0.1, 0.25
    program, inputs, arrays = step._program, step._inputs, step._arrays
    A, y, covector, total = np.array([[0.5, 1.0], [-1.0, 0.2]]), np.array([[1.0, 0.5]]), np.ones((1, 2)), 0.0
    ys, losses = np.stack([y, 2 * y]), 0.0
    start = jnp.asarray(ys, jnp.float32)
    for _ in range(3):
        through = covector * np.sin(t) * (1 - np.tanh(y @ A) ** 2)
        total += y.T @ through
        t, y, covector = t + h, y + h * np.sin(t) * np.tanh(y @ A), covector + h * through @ A.T
        losses += (ys[1:] ** 2).sum()
        ys[1:] += h * 2 * ys[1:]
    at = program, inputs, arrays, jnp.float32(0.25), h, 3
    moved, pulled, [summed] = jax_step._evaluations_with_vjp(*at)
    found = jax_step._losses(program, inputs[0], arrays, start, h, 3)
    for one, wanted in (
        (jax_step._evaluations(*at), y),
        (moved, y),
        (pulled, covector),
        (summed, total),
        (found[0], ys),
        (found[1], losses),
    ):
        np.testing.assert_allclose(one, wanted, rtol=1e-5)


def test_there_is_no_device_peak_on_a_cpu():
    """The call is made, and None returned."""
    made = []
    assert Jax("cpu", "float32", 1).peak_device_bytes(lambda: made.append(1)) is None
    assert made == [1]


def test_layers_are_judged_by_what_they_do():
    """Dropout that is switched off is the identity, as is one of nothing; one that draws needs a key that it lacks."""
    for layer in (eqx.nn.Dropout(0.5, inference=True), eqx.nn.Dropout(0.0)):
        problem = Problem(_Wrapped(layer), jnp.ones(2), np.array([0.0, 1.0]), Partial(path_loss))
        Jax("cpu", "float32", 1).inspect(problem)
    problem = Problem(_Wrapped(eqx.nn.Dropout(0.5)), jnp.ones(2), np.array([0.0, 1.0]), Partial(path_loss))
    with pytest.raises(RuntimeError, match="requires a key"):
        Jax("cpu", "float32", 1).inspect(problem)


class _Wrapped(eqx.Module):
    layer: eqx.Module

    def __call__(self, t, y):
        del t
        return self.layer(y)
