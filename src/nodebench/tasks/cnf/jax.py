"""The continuous normalising flow of the `cnf` task in JAX."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from nodebench.problem import Field, Problem
from nodebench.tasks.cnf.data import Objective, objective
from nodebench.tasks.cnf.task import HYPER_WIDTH, PLANE, TABULAR, field_sizes

JaxBatch = Mapping[str, jax.Array]
"""`data` or `base`, shape `(n, dim)`; for Hutchinson's estimate of the trace also `noise`, likewise, of int8."""

Densities = tuple[jax.Array, jax.Array]
"""Points, shape `(n, dim)`, with a log-density, shape `(n,)`."""

JaxSolve = Callable[[Field, Densities, jax.Array], Densities]
"""`solve(field, y0, times)`: the states at `times`, shapes `(n_times, n, dim)` and `(n_times, n)`."""


class GatedPlanarField(eqx.Module):
    """Sum of M gated planar functions of the state with weights from a hypernetwork of time, and its exact trace.

    dz/dt = f(z, t) = sum_n sigmoid(g_n) u_n tanh(w_n . z + b_n) and d log p/dt = -tr(df/dz), with u, w, b and g
    functions of t ("Neural Ordinary Differential Equations", Chen et al., 2018, section 4,
    https://arxiv.org/abs/1806.07366). The trace of a sum is the sum of the traces sigmoid(g_n) u_n . w_n (1 - tanh^2):
    exact, at a cost linear in M.

    Args:
        hidden: Number M of planar functions.
    """

    input: eqx.nn.Linear
    middle: eqx.nn.Linear
    output: eqx.nn.Linear
    hidden: int = eqx.field(static=True)

    def __init__(self, hidden: int) -> None:
        key = jax.random.key(0)  # the task's weights replace what is drawn here
        self.hidden = hidden
        self.input = eqx.nn.Linear(1, HYPER_WIDTH, key=key)
        self.middle = eqx.nn.Linear(HYPER_WIDTH, HYPER_WIDTH, key=key)
        self.output = eqx.nn.Linear(HYPER_WIDTH, 6 * hidden, key=key)

    def at(self, t: jax.Array | float) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Directions w, shape `(2, M)`, gated u, shape `(M, 2)`, and offsets b, shape `(M,)`, at time `t`."""
        size = self.hidden
        features = jnp.tanh(self.input(jnp.asarray(t, self.input.weight.dtype)[None]))
        out = self.output(jnp.tanh(self.middle(features)))
        w, u, gate, b = jnp.split(out, [2 * size, 4 * size, 5 * size])
        return w.reshape(2, size), u.reshape(size, 2) * jax.nn.sigmoid(gate)[:, None], b

    def __call__(self, t: jax.Array | float, state: Densities) -> Densities:
        """Rates of the points and of the log-density at time `t`."""
        w, u, b = self.at(t)
        activation = jnp.tanh(state[0] @ w + b)
        slopes = (w.T * u).sum(1)
        return activation @ u, (activation * activation) @ slopes - slopes.sum()

    def estimate(self, t: jax.Array | float, state: Densities, noise: jax.Array) -> Densities:
        """The same rates with Hutchinson's estimate of the trace, by noise of shape `(n, 2)`."""
        w, u, b = self.at(t)
        activation = jnp.tanh(state[0] @ w + b)
        projected = (noise @ w) * (noise @ u.T)
        return activation @ u, (projected * (activation * activation - 1)).sum(1)


class SquashedLayer(eqx.Module):
    """An affine layer that time gates and shifts: (W z + b) * sigmoid(g t + c) + s t, FFJORD's `concatsquash`.

    Args:
        n: Numbers that come in.
        m: Numbers that go out.
    """

    linear: eqx.nn.Linear
    gate: eqx.nn.Linear
    shift: eqx.nn.Linear

    def __init__(self, n: int, m: int) -> None:
        key = jax.random.key(0)  # the task's weights replace what is drawn here
        self.linear = eqx.nn.Linear(n, m, key=key)
        self.gate = eqx.nn.Linear(1, m, key=key)
        self.shift = eqx.nn.Linear(1, m, use_bias=False, key=key)

    def __call__(self, t: jax.Array, z: jax.Array, directions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map points `(n, d)`, and `directions` `(k, n, d)` by the derivative."""
        gate = jax.nn.sigmoid(self.gate(t[None]))
        out = jax.vmap(self.linear)(z) * gate + self.shift(t[None])
        return out, directions @ self.linear.weight.T * gate


class SquashedField(eqx.Module):
    """A multilayer perceptron gated by time, the field of one of FFJORD's flows on tabular data, and its trace.

    "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models", Grathwohl et al., 2019,
    https://arxiv.org/abs/1810.01367. Directions are carried forwards beside the points: all d of them for the exact
    trace, one for an estimate.

    Args:
        dim: Dimension of the points, one of `TABULAR`.
        hidden: Units in each hidden layer.
    """

    layers: tuple[SquashedLayer, ...]
    smooth: bool = eqx.field(static=True)

    def __init__(self, dim: int, hidden: int) -> None:
        self.layers = tuple(SquashedLayer(n, m) for n, m in pairwise(field_sizes(dim, hidden)))
        self.smooth = TABULAR[dim].activation == "softplus"

    def __call__(self, t: jax.Array | float, state: Densities) -> Densities:
        """Rates of the points and of the log-density at time `t`."""
        z = state[0]
        return self._rates(t, z, jnp.eye(z.shape[1], dtype=z.dtype)[:, None])

    def estimate(self, t: jax.Array | float, state: Densities, noise: jax.Array) -> Densities:
        """The same rates with Hutchinson's estimate of the trace, by noise of shape `(n, dim)`."""
        return self._rates(t, state[0], noise[None])

    def _rates(self, t: jax.Array | float, z: jax.Array, directions: jax.Array) -> Densities:
        """Rates, the trace being the sum of e . (df/dz) e over directions e of shape `(k, n, dim)` or `(k, 1, dim)`."""
        t = jnp.asarray(t, z.dtype)
        motion, carried = self.layers[0](t, z, directions)
        for layer in self.layers[1:]:
            if self.smooth:
                activation, slope = jax.nn.softplus(motion), jax.nn.sigmoid(motion)
            else:
                activation = jnp.tanh(motion)
                slope = 1 - activation * activation
            motion, carried = layer(t, activation, carried * slope)
        return motion, -(directions * carried).sum((0, 2))


class HutchinsonField(eqx.Module):
    """The same dynamics with Hutchinson's estimate e . (df/dz) e of the trace; the noise e is fixed through a solve.

    Args:
        dynamics: The field.
        noise: Plus and minus ones, shape `(n, dim)`. Integers, since it is no parameter.
    """

    dynamics: GatedPlanarField | SquashedField
    noise: jax.Array

    def __call__(self, t: jax.Array | float, state: Densities) -> Densities:
        """Rates of the points and of the log-density at time `t`."""
        return self.dynamics.estimate(t, state, self.noise.astype(state[0].dtype))


class EndLoss(eqx.Module):
    """Mean metric of an objective at the last of the solved states."""

    objective: Objective = eqx.field(static=True)

    def __call__(self, states: Densities) -> jax.Array:
        """Mean loss in nats."""
        loss: jax.Array = self.objective.metric(states[0][-1], states[1][-1]).mean()
        return loss


class Cnf(eqx.Module):
    """Continuous normalising flow from the base at time 0 to the data at time 1.

    Args:
        solve: `solve(field, y0, times)`, differentiable.
        dataset: What is fitted.
        hidden: Number M of gated planar functions; units in each hidden layer of a field that is not in the plane.
        trace: `"exact"`, or `"hutchinson"` for an unbiased estimate in the loss; the metric is exact under both.
        dim: Dimension of the points.
    """

    field: GatedPlanarField | SquashedField
    solve: JaxSolve = eqx.field(static=True)
    objective: Objective = eqx.field(static=True)
    trace: Literal["exact", "hutchinson"] = eqx.field(static=True)

    def __init__(
        self, solve: JaxSolve, dataset: str, hidden: int, trace: Literal["exact", "hutchinson"], dim: int
    ) -> None:
        self.solve = solve
        self.objective = objective(dataset, jnp)
        self.trace = trace
        self.field = GatedPlanarField(hidden) if dim == PLANE else SquashedField(dim, hidden)

    def problem(self, batch: JaxBatch) -> Problem:
        """Gradient of the training loss through the flow."""
        y0 = self.objective.start(batch)
        field = self.field if self.trace == "exact" else HutchinsonField(self.field, batch["noise"])
        return Problem(field, y0, _times(y0[0], from_base=self.objective.from_base), EndLoss(self.objective))

    def loss(self, batch: JaxBatch) -> jax.Array:
        """Mean loss of a batch in nats."""
        problem = self.problem(batch)
        loss: jax.Array = problem.loss(self.solve(problem.field, problem.y0, problem.times))
        return loss

    def metric(self, batch: JaxBatch) -> jax.Array:
        """The objective's metric for each example in nats, shape `(n,)`, by the exact trace."""
        end = self._flow(self.objective.start(batch), from_base=self.objective.from_base)
        metric: jax.Array = self.objective.metric(*end)
        return metric

    def diagnostics(self, batch: JaxBatch) -> dict[str, jax.Array]:
        """Further figures of the objective for each example, each of shape `(n,)`."""
        end = self._flow(self.objective.start(batch), from_base=self.objective.from_base)
        return self.objective.diagnostics(*end)

    def carry(self, batch: JaxBatch) -> dict[str, jax.Array]:
        """The batch's `points` along its `times`, shape `(n, n_times, dim)`, and the `change` of their log-density."""
        start = batch["points"]
        z, change = self.solve(self.field, (start, jnp.zeros_like(start[:, 0])), batch["times"])
        return {"points": jnp.swapaxes(z, 0, 1), "change": change.T}

    def push(self, z: jax.Array, log_p: jax.Array) -> Densities:
        """Carry points and their log-density from the base to the data: samples with their log-density."""
        return self._flow((z, log_p), from_base=True)

    def pull(self, z: jax.Array, log_p: jax.Array) -> Densities:
        """Carry points and their log-density from the data back to the base."""
        return self._flow((z, log_p), from_base=False)

    def _flow(self, start: Densities, *, from_base: bool) -> Densities:
        z, log_p = self.solve(self.field, start, _times(start[0], from_base=from_base))
        return z[-1], log_p[-1]


def _times(z: jax.Array, *, from_base: bool) -> jax.Array:
    return jnp.array([0.0, 1.0] if from_base else [1.0, 0.0], z.dtype)
