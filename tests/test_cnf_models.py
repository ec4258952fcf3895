"""The flows of the `cnf` task: traces, densities, inverses, and the same in torch and JAX."""

from functools import partial
from math import log

import numpy as np
import pytest
import torch

from nodebench.backends.diffrax.adjoints import Diffrax
from nodebench.backends.runge_kutta.adjoint import Adjoint
from nodebench.backends.runge_kutta.direct import Direct
from nodebench.frameworks.jax.framework import Jax
from nodebench.frameworks.torch.framework import Torch
from nodebench.problem import SolverSpec
from nodebench.tasks.cnf.data import POTENTIALS, DensityMatching, log_base, log_normaliser, potential, wall
from nodebench.tasks.cnf.task import PLANE, Cnf
from nodebench.tasks.cnf.torch import HutchinsonField

TIGHT = SolverSpec(rtol=1e-11, atol=1e-11, first_step=0.05, max_steps=2000, dtype="float64")
CPU = ("cpu", "float64", 1)
STEPS = 25


def strong_weights(task, seed=0):
    """Initial weights, in the plane with u twelve times as large: the flow bends space as a trained one does."""
    weights = dict(task.weights("cnf", seed))
    if task.dim != PLANE:
        return weights
    u = slice(2 * task.model_options("cnf")["hidden"], 4 * task.model_options("cnf")["hidden"])
    for name in ("field.output.weight", "field.output.bias"):
        weights[name] = weights[name].copy()
        weights[name][u] *= 12
    return weights


def torch_cnf(task, backend=None, spec=TIGHT):
    """The continuous flow in torch, float64."""
    solve = partial((backend or Direct()).solve, spec=spec)
    return Torch(*CPU).build(
        task.models["cnf"].targets["torch"], task.model_options("cnf"), strong_weights(task), solve
    )


def jax_cnf(task, spec=TIGHT):
    """The same flow in JAX."""
    framework = Jax(*CPU)
    solve = partial(Diffrax().solve, spec=spec)
    return framework.build(task.models["cnf"].targets["jax"], task.model_options("cnf"), strong_weights(task), solve)


def planar(task, weights):
    """The planar flow, float64."""
    return Torch(*CPU).build(task.models["planar"].targets["torch"], task.model_options("planar"), weights, None)


def grid(half_width, points):
    """A square grid of points, shape `(points^2, 2)`, and the area of a cell."""
    axis = np.linspace(-half_width, half_width, points)
    cell = (axis[1] - axis[0]) ** 2
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), cell


def jacobians(field, t, z):
    """Jacobians of the field's motion by automatic differentiation, shape `(n, dim, dim)`."""

    def motion(point):
        return field(t, (point[None], torch.zeros(1, dtype=z.dtype)))[0][0]

    return torch.stack([torch.autograd.functional.jacobian(motion, point) for point in z])


@pytest.fixture(name="points")
def points_fixture():
    return normal(PLANE)


def normal(dim):
    """Points to evaluate a field at."""
    return torch.tensor(np.random.default_rng(1).normal(size=(16, dim)))


FIELDS = pytest.mark.parametrize("task", [Cnf(), Cnf(dim=6, hidden=12), Cnf(dim=21, hidden=12)], ids=["2", "6", "21"])
"""Of planar functions; of layers with tanh, and with softplus."""


@FIELDS
def test_the_trace_is_exact(task):
    """The rate of the log-density is minus the trace that automatic differentiation gives, to 1e-12."""
    field, points = torch_cnf(task).field, normal(task.dim)
    rate = field(0.3, (points, torch.zeros(16)))[1]
    exact = jacobians(field, 0.3, points).diagonal(dim1=1, dim2=2).sum(1)
    np.testing.assert_allclose(rate.detach(), -exact, rtol=1e-12, atol=1e-12)


@FIELDS
def test_hutchinsons_rate_is_the_quadratic_form_of_its_noise(task):
    """With noise e the rate is -e . J e, and the motion is that of the exact field."""
    exact, points = torch_cnf(task).field, normal(task.dim)
    noise = torch.tensor(np.random.default_rng(2).choice([-1, 1], (16, task.dim)).astype(np.int8))
    motion, rate = HutchinsonField(exact, noise)(0.3, (points, torch.zeros(16)))
    expected = torch.einsum("ni,nij,nj->n", noise.double(), jacobians(exact, 0.3, points), noise.double())
    np.testing.assert_allclose(rate.detach(), -expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(motion, exact(0.3, (points, torch.zeros(16)))[0])


def test_hutchinsons_rate_is_right_on_average(points):
    """Over all four sign patterns of the noise its mean is the exact rate."""
    exact = torch_cnf(Cnf()).field
    state = (points, torch.zeros(16))
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.int8)
    rates = [HutchinsonField(exact, sign.expand(16, 2))(0.7, state)[1] for sign in signs]
    np.testing.assert_allclose(
        torch.stack(rates).mean(0).detach(), exact(0.7, state)[1].detach(), rtol=1e-12, atol=1e-12
    )


def test_field_takes_time_as_float_and_as_tensor(points):
    """Time as a Python float and as a float64 tensor without dimensions give the same rates."""
    field = torch_cnf(Cnf()).field
    by_float = field(0.25, (points, torch.zeros(16)))
    by_tensor = field(torch.tensor(0.25, dtype=torch.float64), (points, torch.zeros(16)))
    assert all(torch.equal(a, b) for a, b in zip(by_float, by_tensor, strict=True))


def test_field_keeps_float32_under_a_float64_time():
    """The type of the time does not change the type of the state."""
    model = torch_cnf(Cnf()).float()
    rates = model.field(torch.tensor(0.5, dtype=torch.float64), (torch.zeros(4, 2), torch.zeros(4)))
    assert [rate.dtype for rate in rates] == [torch.float32, torch.float32]


def test_reversing_the_samples_gives_the_base_back(points):
    """Samples carried back through the flow are the base points, and their log-density that of the base."""
    model = torch_cnf(Cnf())
    log_p = log_base(points)
    with torch.no_grad():
        samples, log_q = model.push(points, log_p)
        back, log_back = model.pull(samples, log_q)
    assert (samples - points).abs().max() > 0.5
    np.testing.assert_allclose(back, points, atol=1e-8)
    np.testing.assert_allclose(log_back, log_p, atol=1e-8)


def test_continuous_flow_is_normalised():
    """The density that the flow gives integrates to one over the plane."""
    points, cell = grid(7, 101)
    model = torch_cnf(Cnf(), spec=SolverSpec(rtol=1e-8, atol=1e-8, first_step=0.05, dtype="float64"))
    with torch.no_grad():
        nll = model.metric({"data": torch.tensor(points)})
    density = torch.exp(-nll)
    assert density.sum() * cell == pytest.approx(1, abs=1e-6)
    assert (density - torch.exp(log_base(torch.tensor(points)))).abs().max() > 0.02


def test_both_directions_give_the_same_density(points):
    """The log-density that a sample gets on its way is the likelihood that it has as data."""
    model = torch_cnf(Cnf())
    with torch.no_grad():
        samples, log_q = model.push(points, log_base(points))
        np.testing.assert_allclose(model.metric({"data": samples}), -log_q, atol=1e-8)


def test_planar_flow_is_normalised():
    """Also where the constraint has to change u, the planar flow's density integrates to one."""
    task = Cnf(layers=4)
    weights = dict(task.weights("planar", 0))
    weights["u"] = weights["u"] * 20
    model = planar(task, weights)
    assert (model.w * model.u).sum(1).min() < -1
    points, cell = grid(14, 561)
    with torch.no_grad():
        assert torch.exp(-model.metric({"data": torch.tensor(points)})).sum() * cell == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dim", [PLANE, 6])
def test_planar_determinants_are_those_of_automatic_differentiation(dim):
    """The log-density falls by log|det| of the Jacobian of all layers."""
    task, points = Cnf(layers=5, dim=dim), normal(dim)
    weights = dict(task.weights("planar", 3))
    weights["u"] = weights["u"] * 10
    model = planar(task, weights)

    def motion(point):
        return model(point[None], torch.zeros(1, dtype=torch.float64))[0][0]

    matrices = torch.stack([torch.autograd.functional.jacobian(motion, point) for point in points])
    fall = -model(points, torch.zeros(16, dtype=torch.float64))[1]
    np.testing.assert_allclose(fall.detach(), torch.linalg.slogdet(matrices).logabsdet, rtol=1e-10, atol=1e-12)
    assert (torch.linalg.det(matrices) > 0).all()


def test_divergence_is_log_q_less_log_p(points):
    """The metric of density matching is the flow's log-density plus energy plus log Z at its samples."""
    model = torch_cnf(Cnf("u2"))
    with torch.no_grad():
        samples, log_q = model.push(points, log_base(points))
        metric = model.metric({"base": points})
    energy = potential("u2", samples.numpy(), np) + wall(samples.numpy(), np)
    np.testing.assert_allclose(metric, log_q.numpy() + energy + log_normaliser("u2"), atol=1e-10)


@pytest.mark.parametrize("target", POTENTIALS)
def test_divergence_is_never_negative(target):
    """It is zero where log q = log p everywhere, and positive for a target made flatter or sharper."""
    points, cell = grid(4.6, 460)
    divergence = DensityMatching(np, target)
    energy = potential(target, points, np) + wall(points, np)
    log_p = -energy - log_normaliser(target)
    np.testing.assert_allclose(divergence.metric(points, log_p), 0, atol=1e-12)
    for power in (0.8, 1.2):
        log_q = -power * energy - log((np.exp(-power * energy)).sum() * cell)
        assert (np.exp(log_q) * divergence.metric(points, log_q)).sum() * cell > 1e-3


def test_spreading_beyond_the_window_pays_off_only_without_wall():
    """A flow that follows u2 over twice the window's length gets a negative figure without wall, and a bad KL."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-8, 8, 2000)
    noise = rng.normal(size=2000)
    z = np.stack([x, np.sin(np.pi * x / 2) + 0.4 * noise], axis=1)
    log_q = -log(16) - 0.5 * noise**2 - 0.5 * log(2 * np.pi * 0.4**2)
    divergence = DensityMatching(np, "u2")
    figures = divergence.diagnostics(z, log_q)
    assert figures["KL without wall"].mean() == pytest.approx(-log(2), abs=1e-6)
    assert figures["mass outside"].mean() == pytest.approx(50, abs=3)
    assert divergence.metric(z, log_q).mean() > 100


def test_planar_reports_the_mass_outside():
    """Samples outside the window count in the metric as all others, and are reported in percent."""
    task = Cnf("u2", layers=1)
    weights = {name: np.zeros_like(array) for name, array in task.weights("planar", 0).items()}
    weights["w"] += 1.0
    weights["u"] += log(np.expm1(1)) / 2  # then w . u_hat = 0: the layer is the identity
    model = planar(task, weights)
    base = torch.tensor([[0.0, 0.0], [4.1, 0.0], [0.0, -4.2], [4.0, 4.0]], dtype=torch.float64)
    with torch.no_grad():
        metric, figures = model.metric({"base": base}), model.diagnostics({"base": base})
    energy = potential("u2", base.numpy(), np) + np.array([0, 0.5 * 2**2, 0.5 * 4**2, 0])
    np.testing.assert_allclose(metric, log_base(base).numpy() + energy + log_normaliser("u2"), atol=1e-9)
    np.testing.assert_array_equal(figures["mass outside"], [0, 100, 100, 0])


@pytest.mark.parametrize(
    "task",
    [
        Cnf(hidden=6), Cnf("u1", hidden=6, trace="hutchinson"),
        Cnf(dim=6, hidden=12), Cnf(dim=21, hidden=12, trace="hutchinson"),
    ],
    ids=["plane", "target", "tanh", "softplus"],
)  # fmt: skip
def test_torch_and_jax_agree(task):
    """From equal weights the two frameworks give the same field, loss and gradients to 1e-9 in float64."""
    batch = task.problem("cnf", 0, 8).batch
    torch_side, jax_side = Torch(*CPU), Jax(*CPU)
    ours, theirs = torch_side.problem(torch_cnf(task), batch), jax_side.problem(jax_cnf(task), batch)
    y0 = torch_side.flat_state(ours.y0)
    rates = (side.evaluate(problem)(0.4, y0) for side, problem in ((torch_side, ours), (jax_side, theirs)))
    np.testing.assert_allclose(*rates, rtol=1e-9, atol=1e-12)
    first = torch_side.to_numpy(Direct().grad(ours, TIGHT, torch_side))
    second = jax_side.to_numpy(Diffrax().grad(theirs, TIGHT, jax_side))
    assert first.loss == pytest.approx(second.loss, rel=1e-9)
    assert first.params.keys() == second.params.keys()
    for name, value in first.params.items():
        np.testing.assert_allclose(second.params[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    for a, b in zip(first.y0, second.y0, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9)


def test_noise_stays_fixed_through_forward_and_backward():
    """Under Hutchinson's estimate the continuous adjoint tends to the same gradient as backpropagation."""
    task = Cnf(hidden=6, trace="hutchinson")
    framework = Torch(*CPU)
    batch = task.problem("cnf", 0, 8).batch
    problem = framework.problem(torch_cnf(task), batch)
    spec = SolverSpec(rtol=1e-9, atol=1e-9, first_step=0.05, max_steps=2000, dtype="float64")
    first, second = (backend.grad(problem, spec, framework) for backend in (Direct(), Adjoint()))
    for name, value in first.params.items():
        np.testing.assert_allclose(second.params[name].detach(), value.detach(), rtol=1e-6, atol=1e-7, err_msg=name)


def test_metric_is_exact_under_hutchinson():
    """The estimate changes the loss alone: the metric is that of the exact trace and takes no noise."""
    exact, estimated = (torch_cnf(Cnf(hidden=6, trace=trace)) for trace in ("exact", "hutchinson"))
    data = torch.tensor(np.random.default_rng(0).normal(size=(8, 2)))
    with torch.no_grad():
        assert torch.equal(exact.metric({"data": data}), estimated.metric({"data": data}))


@pytest.mark.parametrize(("model", "backend"), [("cnf", Direct()), ("cnf", Adjoint()), ("planar", None)])
@pytest.mark.parametrize("dataset", ["circles", "u1"])
def test_training_lowers_the_metric(model, backend, dataset):
    """A few steps of the smoke recipe's optimiser bring the held-out metric down."""
    task = Cnf(dataset, hidden=8, layers=8)
    recipe, splits = task.recipe(model, "smoke"), task.data("smoke", 0)
    framework = Torch("cpu", "float32", 1)
    entry = task.models[model]
    solve = None if backend is None else partial(backend.solve, spec=task.spec)
    built = framework.build(entry.targets["torch"], task.model_options(model), task.weights(model, 0), solve)
    trainer = framework.trainer(built, recipe.optimizer, STEPS)
    before = trainer.metric(splits.test).mean()
    for step in range(STEPS):
        batch = {name: array[64 * step : 64 * (step + 1)] for name, array in splits.train.items()}
        trainer.step(batch if recipe.augment is None else recipe.augment(batch, np.random.default_rng(step)))
    assert trainer.metric(splits.test).mean() < before - 0.05


def test_jax_model_trains():
    """The JAX flow goes through its framework's trainer, metric and diagnostics included."""
    task = Cnf("u1", hidden=4)
    framework = Jax("cpu", "float64", 1)
    splits, recipe = task.data("smoke", 0), task.recipe("cnf", "smoke")
    trainer = framework.trainer(
        jax_cnf(task, spec=SolverSpec(rtol=1e-4, atol=1e-4, first_step=0.05)), recipe.optimizer, 20
    )
    test = {"base": splits.test["base"][:64]}
    before = trainer.metric(test).mean()
    for step in range(8):
        trainer.step({"base": splits.train["base"][64 * step : 64 * (step + 1)]})
    assert trainer.metric(test).mean() < before
    assert trainer.view("diagnostics", test)["mass outside"].shape == (64,)
