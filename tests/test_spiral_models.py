"""The models of the `spiral` task: likelihoods, irregular times, extrapolation, and the same in torch and JAX."""

from functools import partial
from math import log, pi

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nodebench.backends.diffrax.adjoints import Diffrax
from nodebench.backends.runge_kutta.adjoint import Adjoint
from nodebench.backends.runge_kutta.direct import Direct
from nodebench.errors import UserError
from nodebench.frameworks.jax.framework import Jax
from nodebench.frameworks.jax.parameters import named_parameters
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import SolverSpec
from nodebench.tasks.spiral import jax as jax_models
from nodebench.tasks.spiral import torch as torch_models
from nodebench.tasks.spiral.task import SPACING, Spiral, draw, further_times, redraw_noise, span_times

TIGHT = SolverSpec(solver="dopri5", rtol=1e-11, atol=1e-11, first_step=0.01, max_steps=5000, dtype="float64")
# One step from point to point in every framework, so that both take the very same steps.
STEPS = SolverSpec(solver="midpoint", first_step=SPACING, max_steps=300, dtype="float64")
COARSE = SolverSpec(solver="bosh3", rtol=1e-3, atol=1e-3, first_step=0.02, max_steps=2000)
CPU = ("cpu", "float64", 1)


def torch_latent_ode(backend, spec=TIGHT, dtype="float64", **options):
    """The latent ODE in torch with the weights of seed 0."""
    task, framework = Spiral(), Torch("cpu", dtype, 1)
    entry, options = task.models["latent-ode"], {**task.model_options("latent-ode"), **options}
    solve = partial(backend.solve, spec=spec)
    return framework.build(entry.targets["torch"], options, task.weights("latent-ode", 0), solve)


def torch_rnn():
    """The recurrent network with the weights of seed 0."""
    task = Spiral()
    return Torch(*CPU).build(
        task.models["rnn"].targets["torch"], task.model_options("rnn"), task.weights("rnn", 0), None
    )


def jax_latent_ode(**options):
    """The latent ODE in JAX with the weights of seed 0."""
    task = Spiral()
    entry, options = task.models["latent-ode"], {**task.model_options("latent-ode"), **options}
    solve = partial(Diffrax().solve, spec=STEPS)
    return Jax(*CPU).build(entry.targets["jax"], options, task.weights("latent-ode", 0), solve)


def trajectories(n=6, observations=30):
    """A batch of a few trajectories."""
    return draw(n, observations, 0.3, np.random.default_rng(1))


def tensors(batch):
    """The batch in torch, float64."""
    return Torch(*CPU).arrays(batch)


def torch_gradients(model, batch):
    """Loss and gradients by name."""
    loss = model.loss(tensors(batch))
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


def test_parameter_counts_are_those_of_the_layers():
    """Recurrent layers of 25 units with two biases, hidden layers of 20 units, four latent dimensions."""
    recurrent = 25 * 3 + 25 * 25 + 2 * 25
    latent_ode = recurrent + (25 * 8 + 8) + (4 * 20 + 20 + 20 * 4 + 4) + (4 * 20 + 20 + 20 * 2 + 2)
    assert Torch(*CPU).n_params(torch_latent_ode(Direct())) == latent_ode
    assert Torch(*CPU).n_params(torch_rnn()) == recurrent + 25 * 2 + 2


def test_field_loss_and_gradient_are_equal_in_torch_and_jax():
    """From equal weights and batch, in float64, to 1e-9."""
    batch = trajectories(n=16, observations=50)  # together they have all 100 times, so that JAX fills none up
    framework, model = Jax(*CPU), jax_latent_ode()
    twin = torch_latent_ode(Direct(), STEPS)
    z = np.random.default_rng(3).normal(size=(5, 4))
    np.testing.assert_allclose(model.field(0.0, jnp.asarray(z)), twin.field(0.0, torch.tensor(z)).detach(), rtol=1e-9)
    loss, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda m, b: m.loss(b)))(model, framework.arrays(batch))
    expected_loss, expected = torch_gradients(twin, batch)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9)
    found = named_parameters(gradient)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) <= 1e-9 * np.linalg.norm(value), name


def test_metric_and_diagnostics_are_equal_in_torch_and_jax():
    """The errors beyond and inside the span agree to 1e-9."""
    batch = trajectories()
    framework, model, twin = Jax(*CPU), jax_latent_ode(), torch_latent_ode(Direct(), STEPS)
    arrays = framework.arrays(batch)
    found = eqx.filter_jit(lambda m, b: (m.metric(b), m.diagnostics(b)))(model, arrays)
    with torch.no_grad():
        expected = twin.metric(tensors(batch)), twin.diagnostics(tensors(batch))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    assert set(found[1]) == {metric.name for metric in Spiral().diagnostics}
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-9)


def test_the_gradient_problem_is_equal_in_torch_and_jax():
    """Initial states, output times and loss of the problem agree, so that backends of both are measured on the same."""
    batch = trajectories(n=2, observations=5)
    found = Jax(*CPU).problem(jax_latent_ode(), batch)
    expected = Torch(*CPU).problem(torch_latent_ode(Direct()), batch)
    n = len(expected.times)
    assert n < 100
    np.testing.assert_allclose(found.y0, expected.y0.detach(), rtol=1e-12)
    np.testing.assert_array_equal(found.times[:n], expected.times)
    states = np.random.default_rng(0).normal(size=(100, 2, 4))
    loss = expected.loss(torch.tensor(states[:n])).item()
    np.testing.assert_allclose(found.loss(jnp.asarray(states)), loss, rtol=1e-12)


@pytest.mark.parametrize("real_times", [False, True])
def test_a_batch_gives_what_each_trajectory_gives_alone(real_times):
    """Trajectories with their own times in one solve, drawn from the common grid or real numbers, to 1e-8."""
    batch = trajectories(n=4, observations=6)
    if real_times:
        batch = {**batch, "times": np.sort(np.random.default_rng(7).uniform(0, 1.9, (4, 6)), axis=1)}
    model = torch_latent_ode(Direct())
    together, gradients = torch_gradients(model, batch)
    model.zero_grad()
    losses = []
    for i in range(4):
        loss = model.loss(tensors({name: values[i : i + 1] for name, values in batch.items()}))
        (loss / 4).backward()
        losses.append(loss.item())
    np.testing.assert_allclose(together, np.mean(losses), rtol=1e-9)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad, rtol=1e-8, atol=1e-8, err_msg=name)


def test_the_union_holds_every_time_once_and_finds_each():
    """Sorted, different, beginning at the start, and each trajectory reads its own times back."""
    times = np.random.default_rng(0).integers(1, 20, (5, 7)) * SPACING
    union, index = torch_models.union_of_times(torch.tensor(times), 100)
    assert union[0] == 0
    assert (union.diff() > 0).all()
    assert set(union.tolist()) == {0.0, *times.ravel()}
    np.testing.assert_array_equal(union[index], times)


def test_the_union_in_jax_is_filled_up_with_later_times():
    """Always `limit` times, increasing, the first ones those of torch, and none of the rest is read."""
    times = np.random.default_rng(0).integers(0, 20, (5, 7)) * SPACING
    Jax(*CPU)
    union, index = jax_models.union_of_times(jnp.asarray(times), 40)
    expected, _ = torch_models.union_of_times(torch.tensor(times), 40)
    assert union.shape == (40,)
    assert (jnp.diff(union) > 0).all()
    np.testing.assert_array_equal(union[: len(expected)], expected)
    np.testing.assert_array_equal(union[index], times)


def test_a_full_union_in_jax_has_no_fill():
    """With exactly `limit` different times the union is those."""
    Jax(*CPU)
    union, _ = jax_models.union_of_times(jnp.asarray(span_times()[None]), 100)
    np.testing.assert_array_equal(union, span_times())


def test_too_many_different_times_are_refused():
    """In torch with an error; in JAX, where a compiled program cannot raise, with NaN instead of a wrong answer."""
    times = np.arange(1, 9.0).reshape(2, 4)
    with pytest.raises(UserError, match="9 different times"):
        torch_models.union_of_times(torch.tensor(times), 8)
    Jax(*CPU)
    union, _ = jax_models.union_of_times(jnp.asarray(times), 8)
    assert np.isnan(union).all()


@pytest.mark.parametrize("backend", [Direct(), Adjoint()])
def test_the_loss_is_the_negative_evidence_lower_bound(backend):
    """Written out for one trajectory with torch's own distributions."""
    batch = tensors(trajectories(n=1))
    model = torch_latent_ode(backend)
    mean, log_variance = model.recognition(batch["times"], batch["observations"])
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z0 = posterior.mean + posterior.stddev * batch["noise"]
    times = torch.cat([torch.zeros(1).double(), batch["times"][0]]).unique()
    states = Direct().solve(model.field, z0, times, TIGHT)[-batch["times"].shape[1] :, 0]
    observed = torch.distributions.Normal(model.decoder(states), 0.3).log_prob(batch["observations"][0]).sum()
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    np.testing.assert_allclose(model.loss(batch).item(), (divergence - observed).item(), rtol=1e-9)


def test_recognition_reads_backwards():
    """The last to be read is the first observation: without memory, only that one matters."""
    batch = tensors(trajectories())
    model = torch_latent_ode(Direct())
    with torch.no_grad():
        model.recognition.rnn.weight_hh_l0.zero_()
    changed = batch["observations"].clone()
    changed[:, 1:] += 1
    before = model.recognition(batch["times"], batch["observations"])[0]
    assert torch.equal(before, model.recognition(batch["times"], changed)[0])
    changed[:, 0] += 1
    assert not torch.equal(before, model.recognition(batch["times"], changed)[0])


def test_recognition_depends_on_the_time_of_the_first_observation():
    """Two trajectories with equal observations at shifted times start from different latent states."""
    batch = tensors(trajectories())
    model = torch_latent_ode(Direct())
    early, late = (model.recognition(batch["times"] + shift, batch["observations"])[0] for shift in (0.0, 0.1))
    assert (early - late).abs().max() > 1e-4


def test_the_metric_is_the_error_beyond_the_span_from_the_mean():
    """Recomputed from a solve over all 200 points; the latent noise plays no part."""
    batch = trajectories()
    model = torch_latent_ode(Direct())
    arrays = tensors(batch)
    with torch.no_grad():
        start = model.recognition(arrays["times"], arrays["observations"])[0]
        times = torch.tensor(np.concatenate([span_times(), further_times()]))
        points = model.decoder(Direct().solve(model.field, start, times, TIGHT)).transpose(0, 1).numpy()
        metric, inside = model.metric(arrays), model.diagnostics(arrays)["interpolation RMSE"]
        other = model.metric(tensors(redraw_noise(batch, np.random.default_rng(5))))
    np.testing.assert_allclose(metric, np.sqrt(((points[:, 100:] - batch["beyond"]) ** 2).mean((1, 2))), rtol=1e-8)
    np.testing.assert_allclose(inside, np.sqrt(((points[:, :100] - batch["inside"]) ** 2).mean((1, 2))), rtol=1e-8)
    np.testing.assert_array_equal(metric, other)


def by_hand(model, inputs):
    """Predictions of the recurrent network for inputs `(m, 3)` of one trajectory, and its last hidden state."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    h, out = np.zeros(25), []
    for x in inputs:
        h = np.tanh(w["rnn.weight_ih_l0"] @ x + w["rnn.bias_ih_l0"] + w["rnn.weight_hh_l0"] @ h + w["rnn.bias_hh_l0"])
        out.append(w["output.weight"] @ h + w["output.bias"])
    return np.array(out)


def test_the_rnn_predicts_the_next_observation_from_the_time_until_it():
    """Loss and interpolation error against the recurrence written out in NumPy."""
    batch = trajectories(n=1)
    model, observed, times = torch_rnn(), batch["observations"][0], batch["times"][0]
    predicted = by_hand(model, np.column_stack([observed[:-1], np.diff(times)]))
    nll = 0.5 * ((predicted - observed[1:]) / 0.3) ** 2 + log(0.3) + 0.5 * log(2 * pi)
    clean = batch["inside"][0][(times[1:] / SPACING).round().astype(int)]
    np.testing.assert_allclose(model.loss(tensors(batch)).item(), nll.sum(), rtol=1e-9)
    found = model.diagnostics(tensors(batch))["interpolation RMSE"].item()
    np.testing.assert_allclose(found, np.sqrt(((predicted - clean) ** 2).mean()), rtol=1e-9)


def test_the_rnn_is_fed_with_its_own_predictions_beyond_the_span():
    """The first step bridges the gap after the last observation, the others the spacing of the points."""
    batch = trajectories(n=1, observations=10)
    model, observed, times = torch_rnn(), batch["observations"][0], batch["times"][0]
    inputs = np.column_stack([observed, np.append(np.diff(times), 100 * SPACING - times[-1])])
    predictions = [by_hand(model, inputs)[-1]]
    for _ in range(99):
        inputs = np.vstack([inputs, [*predictions[-1], SPACING]])
        predictions.append(by_hand(model, inputs)[-1])
    expected = np.sqrt(((np.array(predictions) - batch["beyond"][0]) ** 2).mean())
    with torch.no_grad():
        np.testing.assert_allclose(model.metric(tensors(batch)).item(), expected, rtol=1e-9)


@pytest.mark.parametrize(("backend", "error"), [(Direct(land=True), 1e-4), (Direct(), 1e-3)])
def test_the_default_tolerance_is_exact_enough(backend, error):
    """The default's loss and gradient are right to 1e-4 on the points, to 1e-3 interpolated: below a step's noise."""
    batch = trajectories()
    task = Spiral()
    loss, gradients = torch_gradients(torch_latent_ode(backend, spec=task.spec), batch)
    exact_loss, exact = torch_gradients(torch_latent_ode(Direct()), batch)
    np.testing.assert_allclose(loss, exact_loss, rtol=error)
    for name, value in exact.items():
        assert np.linalg.norm(gradients[name] - value) <= error * np.linalg.norm(value), name


@pytest.mark.parametrize("model", ["latent-ode", "rnn"])
def test_training_is_repeatable_and_lowers_the_loss(model):
    """Two trainings give the same losses to the bit, and the same batch ends with a smaller loss."""
    task, framework, batch = Spiral(), Torch("cpu", "float32", 1), trajectories(n=32)

    def losses():
        net = torch_latent_ode(Direct(), COARSE, "float32") if model == "latent-ode" else torch_rnn().float()
        trainer = framework.trainer(net, task.recipe(model, "smoke").optimizer, 10)
        return [trainer.step(batch) for _ in range(10)]

    first, again = losses(), losses()
    assert first == again
    assert first[-1] < 0.8 * first[0]
