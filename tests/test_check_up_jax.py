"""The check-up of fields in JAX: what is measured, and what is refused in a sentence. No process is started."""

import numpy as np
import pytest

pytest.importorskip("diffrax")

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from nodebench.bench.worker.check_up import check_up, field_figures
from nodebench.errors import DivergedError, FieldError, PluginError
from nodebench.frameworks.jax.framework import Jax
from nodebench.frameworks.jax.parameters import refuse_complex
from nodebench.problem import Problem

Y0 = np.linspace(0.5, 1.0, 6).reshape(3, 2)


class Field(eqx.Module):
    """A field whose rate a test says."""

    w: jax.Array
    n: jax.Array
    rate: object = eqx.field(static=True)

    def __call__(self, t, y):
        return self.rate(self, t, y)


def problem(rate, y0=Y0, times=(0.0, 1.0)):
    """A problem of this rate."""
    states = tuple(map(jnp.asarray, y0)) if isinstance(y0, tuple) else jnp.asarray(y0)
    field = Field(jnp.array([0.5, 2.0]), jnp.array([1, 0]), rate)
    return Problem(field, states, np.array(times), Partial(total))


def total(ys):
    """The sum of all states."""
    return sum(jnp.sum(part) for part in jax.tree.leaves(ys))


SOUND = {
    "time as an array": lambda f, t, y: jnp.sin(t) * f.w * y + t.reshape(1, 1) + t[None],
    "a parameter that is frozen": lambda f, _, y: jnp.sin(y * jax.lax.stop_gradient(f.w)),
    "one that is frozen within": lambda f, _, y: jax.jit(lambda w, y: y * jax.lax.stop_gradient(w))(f.w, y),
    "an integer array": lambda f, _, y: y[:, f.n] * f.w,
    "a constant of NumPy": lambda f, _, y: y * f.w * np.float32(0.5),
}


@pytest.mark.parametrize("rate", SOUND.values(), ids=SOUND.keys())
def test_a_sound_field_is_let_in(rate):
    """Nothing is noted of it, and it has figures by which it is known."""
    framework = Jax("cpu", "float64", 1)
    assert check_up(framework, lambda: problem(rate), exact=True) == []
    figures = field_figures(framework, problem(rate))
    assert figures.value > 0
    assert figures.derivative > 0


def test_a_state_in_two_parts_is_one():
    """Each with a shape of its own."""
    framework = Jax("cpu", "float64", 1)
    states = (Y0, np.ones(4))
    assert check_up(framework, lambda: problem(lambda f, _, y: (f.w * y[0], -y[1]), states), exact=True) == []


DRAWN = iter(np.random.default_rng(0).standard_normal(100))
"""What an impure field draws: JAX would draw once, when it traces, and never again."""

REFUSED = {
    "another dtype": (lambda _, __, y: jnp.zeros(y.shape, jnp.float32), "returned float32 for a state in float64"),
    "another shape": (lambda _, __, y: y[:, :1], r"returned the shape \(3, 1\) for a state of shape \(3, 2\)"),
    "another structure": (lambda _, __, y: (y,), "for a state of shape"),
    "noise": (lambda _, __, y: y * next(DRAWN), "two evaluations of the field `Field` at the same t and y differ"),
    "a stopped state": (lambda f, _, y: f.w * jax.lax.stop_gradient(y), "by its state is not that of its values"),
    "no finite derivative": (lambda f, _, y: jnp.sqrt(y - y[:1]) * f.w, "by the state.* is not finite at t = 0"),
}


@pytest.mark.parametrize(("rate", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_field_that_is_none_is_refused(rate, sentence):
    """In the words that torch's users read."""
    framework = Jax("cpu", "float64", 1)
    with pytest.raises(FieldError, match=sentence):
        check_up(framework, lambda: problem(rate), exact=True)


def test_states_that_are_no_real_numbers_are_refused():
    """Integers, complex numbers, none at all, and what is not finite."""
    framework = Jax("cpu", "float64", 1)
    for y0, sentence in ((np.ones(3, int), "int64"), (np.ones(3) * 1j, "complex128"), (np.ones((3, 0)), "no number")):
        with pytest.raises(FieldError, match=sentence):
            framework.inspect(problem(lambda _, __, y: y, y0))
    with pytest.raises(DivergedError, match="is not finite at t = 0, where the solve begins"):
        check_up(framework, lambda: problem(lambda _, t, y: y / t), exact=True)


def test_a_complex_parameter_is_named():
    """It would lose its imaginary part."""
    with pytest.raises(PluginError, match="parameter `w` of `Field` is complex"):
        refuse_complex(Field(jnp.ones(2) * 1j, jnp.ones(1), None))


def test_what_a_field_sets_for_the_process_is_set_back():
    """Its 64 bits would change the constants of every field after it, its TF32 their products; notes say so."""
    framework = Jax("cpu", "float32", 1)

    def rate(field, _, y):
        jax.config.update("jax_enable_x64", True)  # noqa: FBT003  the signature is JAX's
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")
        return field.w * y

    wide, rounded = check_up(framework, lambda: problem(rate, Y0.astype(np.float32)), exact=False)
    assert "sets jax.config.update('jax_enable_x64', True) for the whole process" in wide
    assert "sets jax.config.update('jax_default_matmul_precision', 'tensorfloat32') for the whole process" in rounded
    assert not jax.config.read("jax_enable_x64")
    assert jax.config.jax_default_matmul_precision == "highest"
    Jax("cpu", "float64", 1)
