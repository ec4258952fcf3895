"""Systems of equations as tasks: their solutions are the published ones, and both frameworks have the same."""

from dataclasses import replace

import numpy as np
import pytest
import scipy
import torch

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import UserError
from nodebench.frameworks.torch.framework import Torch
from nodebench.tasks.base import AbstractTask, GradientInputs
from nodebench.tasks.systems.chaotic import DoublePendulum, Lorenz
from nodebench.tasks.systems.dynamics import dynamics
from nodebench.tasks.systems.learned import Annuli, Hamiltonian, MinusX
from nodebench.tasks.systems.small import Contracting, LotkaVolterra, OdeDemo
from nodebench.tasks.systems.stiff import Brusselator, Hires, Pollu, Robertson, VanDerPol
from nodebench.tasks.systems.task import trajectories
from nodebench.tasks.systems.torch import SystemODE

ALL = (
    Robertson(10.0), VanDerPol(10.0), Hires(), Pollu(), Brusselator(2), OdeDemo(), LotkaVolterra(), Contracting(),
    Lorenz(0.5), DoublePendulum(0.5),
)  # fmt: skip
EACH = pytest.mark.parametrize("system", ALL, ids=lambda system: type(system).__name__)

PUBLISHED = {
    VanDerPol(): [1.706167732170483, -0.8928097010247975],
    Robertson(1e11): [0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050],
    Hires(): [
        0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
        0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2,
    ],
    Pollu(): [
        0.5646255480022769e-1, 0.1342484130422339, 0.4139734331099427e-8, 0.5523140207484359e-2, 0.2018977262302196e-6,
        0.1464541863493966e-6, 0.7784249118997964e-1, 0.3245075353396018, 0.7494013383880406e-2, 0.1622293157301561e-7,
        0.1135863833257075e-7, 0.2230505975721359e-2, 0.2087162882798630e-3, 0.1396921016840158e-4,
        0.8964884856898295e-2, 0.4352846369330103e-17, 0.6899219696263405e-2, 0.1007803037365946e-3,
        0.1772146513969984e-5, 0.5682943292316392e-4,
    ],
}  # fmt: skip
"""States at the end, from the test set for initial value problems."""


@pytest.mark.parametrize("system", PUBLISHED, ids=lambda system: type(system).__name__)
def test_solutions_are_the_published_ones(system):
    """To ten digits, by SciPy's LSODA at its tightest."""
    found = scipy.integrate.solve_ivp(
        lambda t, y: system.derivative(np, t, y, system.truth),
        (0.0, system.times[-1]),
        system.start,
        method="LSODA",
        rtol=3e-13,
        atol=1e-20,
    )
    np.testing.assert_allclose(found.y[:, -1], PUBLISHED[system], rtol=1e-10)


@pytest.mark.parametrize("system", PUBLISHED, ids=lambda system: type(system).__name__)
def test_what_is_observed_is_the_solution(system):
    """Trajectories of the data agree with the published states to five digits of each component's largest value."""
    _, observed = trajectories(system, 1, 0)
    largest = np.abs(observed[0]).max(axis=0)
    np.testing.assert_allclose(observed[0, -1] / largest, np.array(PUBLISHED[system]) / largest, atol=1e-5)


@EACH
def test_torch_has_the_same_equations(system):
    """At states near the start and true parameters, in float64."""
    rng = np.random.default_rng(0)
    y = system.start + 0.1 * rng.random((3, len(system.start)))
    expected = system.derivative(np, 0.0, y, system.truth)
    theta = torch.from_numpy(system.truth)
    found = system.derivative(torch, torch.tensor(0.0), torch.from_numpy(y), theta).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def _problem(system, model="system"):
    framework = Torch("cpu", "float64", 1)
    inputs = system.problem(model, 0, 2)
    backend = registry.load("backend", "checkpoint", AbstractBackend)
    made = framework.build(
        "nodebench.tasks.systems.torch:SystemODE",
        system.model_options(model),
        inputs.weights,
        lambda field, y0, times: backend.solve(field, y0, times, replace(system.spec, first_step=1e-3)),
    )
    assert isinstance(made, SystemODE)
    return framework, made, made.problem(framework.arrays(inputs.batch)), inputs


@EACH
def test_misses_of_the_parameters_show_in_the_loss(system):
    """The loss is that of the training, and is not at its minimum: its gradient is there to be measured."""
    framework, made, problem, inputs = _problem(system)
    backend = registry.load("backend", "checkpoint", AbstractBackend)
    found = backend.grad(problem, replace(system.spec, first_step=1e-3), framework)
    assert float(found.loss) == pytest.approx(made.loss(framework.arrays(inputs.batch)).item())
    assert np.linalg.norm(framework.to_numpy(found).params["theta"]) > 0


def test_the_contracting_system_has_a_closed_form():
    """Its gradients are those of a tight solve."""
    system = Contracting(rate=5.0)
    framework, _, problem, inputs = _problem(system)
    exact = inputs.closed_form()
    found = framework.to_numpy(
        registry.load("backend", "checkpoint", AbstractBackend).grad(
            problem, replace(system.reference, first_step=1e-3), framework
        )
    )
    assert float(found.loss) == pytest.approx(float(exact.loss), rel=1e-7)
    np.testing.assert_allclose(found.params["theta"], exact.params["theta"], rtol=1e-7)
    np.testing.assert_allclose(found.y0, exact.y0, rtol=1e-7)


def _dynamics(system, theta=None):
    inputs = GradientInputs(
        {"field.theta": np.log(system.truth) if theta is None else theta}, {"y0": system.start[None]}
    )
    return system.dynamics("system", inputs, system.times)


def test_stiffness_and_sensitivity_are_those_of_the_closed_form():
    """At its capacity a logistic state contracts with its rate; dy(end)/dy(start) is diagonal and known."""
    system = Contracting(rate=14.0)
    found, decay = _dynamics(system), np.exp(-14.0)
    slopes = decay / (system.start + (1 - system.start) * decay) ** 2
    assert found.stiffness == pytest.approx(-14.0, rel=1e-4)
    assert (found.largest, found.smallest) == pytest.approx((slopes.max(), slopes.min()), rel=1e-4)


def test_what_is_not_resolved_or_not_solved_is_not_stated():
    """A disturbance that has died out, a system of many states, and one that explodes."""
    gone, many = _dynamics(Contracting(rate=300.0)), _dynamics(Pollu())
    assert (gone.largest, gone.smallest, many.largest) == (None, None, None)
    assert many.stiffness < -1e4
    exploded = dynamics(lambda _, y: y**2, np.ones(1), (0.0, 2.0))
    assert (exploded.stiffness, exploded.largest) == (None, None)
    assert exploded.note.startswith("no stiffness and sensitivity")


def test_disturbances_of_a_chaotic_system_grow():
    """Lorenz's by about exp(0.9 t), and its volume shrinks by exp(-(10 + 1 + 8/3) t)."""
    grown = [_dynamics(Lorenz(horizon)).largest for horizon in (1.0, 15.0)]
    assert 0.5 < np.log(grown[1] / grown[0]) / 14.0 < 1.3


def test_minus_x_is_asked_for_in_one_dimension_and_in_two():
    """The line is to be turned over; the dimension more begins and ends at zero."""
    line, plane = (MinusX(augmented=augmented).data("smoke", 0).train for augmented in (False, True))
    np.testing.assert_array_equal(line["end"], -line["y0"])
    np.testing.assert_array_equal(plane["y0"], np.concatenate([line["y0"], np.zeros_like(line["y0"])], axis=1))
    np.testing.assert_array_equal(plane["end"], plane["y0"] * [-1.0, 1.0])
    assert MinusX(augmented=True).weights("field", 0)["field.layers.0.weight"].shape == (16, 2)


def test_the_disc_is_to_leave_the_ring():
    """A third of the points lie in it, and each class goes to its own side; the dimension more is zero."""
    plane, space = (Annuli(augmented=augmented).data("quick", 0).train for augmented in (False, True))
    radius, in_disc = np.linalg.norm(plane["y0"], axis=1), plane["end"][:, 0] == -1.0
    assert (radius[in_disc] < 0.5).all()
    assert ((radius[~in_disc] > 1.0) & (radius[~in_disc] < 1.5)).all()
    assert np.mean(in_disc) == pytest.approx(1 / 3, abs=0.05)
    assert np.mean(radius[in_disc] ** 2) == pytest.approx(0.125, abs=0.01)  # uniform over the area
    np.testing.assert_array_equal(plane["end"] - np.where(in_disc, -1.0, 1.0)[:, None] * [1.0, 0.0], 0.0)
    for name in ("y0", "end"):
        np.testing.assert_array_equal(space[name], np.pad(plane[name], ((0, 0), (0, 1))))
    assert Annuli(augmented=True).weights("field", 0)["field.layers.0.weight"].shape == (16, 3)


@pytest.mark.parametrize(
    "text", ["annuli[augmented=true]", "minus-x[augmented=true]", "lorenz[horizon=2]", "double-pendulum[horizon=3]"]
)
def test_options_that_systems_share_are_read_by_name(text):
    """Although they are the same in several classes."""
    ((option, value),) = registry.parse(text)[1].items()
    assert str(getattr(registry.load("task", text, AbstractTask), option)).lower().startswith(value)


def test_the_pendulum_keeps_its_energy():
    """Its targets lie on the level of the Hamiltonian that they came from."""
    train = Hamiltonian().data("smoke", 0).train
    before, after = (part[:, 1] ** 2 / 2 - np.cos(part[:, 0]) for part in (train["y0"], train["end"]))
    np.testing.assert_allclose(after, before, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (VanDerPol, {"mu": 0.5}), (VanDerPol, {"mu": 1e6}), (Robertson, {"end": -1.0}),
        (Robertson, {"end": float("inf")}), (Brusselator, {"n": 1}), (Brusselator, {"n": 64}),
        (Contracting, {"rate": 0.0}), (Lorenz, {"horizon": 1e4}),
        (DoublePendulum, {"horizon": float("nan")}),
    ],
)  # fmt: skip
def test_options_out_of_their_range_are_refused(make, options):
    """In a sentence that has the range and what came."""
    with pytest.raises(UserError, match=r"must be .* got"):
        make(**options)
