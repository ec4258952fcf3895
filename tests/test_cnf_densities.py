"""Target densities, window and data sets of the `cnf` task."""

from math import exp, log, log1p, pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nodebench.errors import UnknownNameError
from nodebench.tasks.cnf.data import (
    POTENTIALS,
    SAMPLERS,
    WALL_WIDTH,
    WINDOW,
    checkerboard,
    circles,
    eight_gaussians,
    log_base,
    log_normaliser,
    log_window,
    moons,
    outside,
    pinwheel,
    potential,
    wall,
)


@pytest.fixture(name="points")
def points_fixture():
    return np.random.default_rng(0).uniform(-5, 5, (200, 2))


def test_ring_has_its_published_value_in_a_lobe_and_at_the_origin():
    """U1 is -log(1 + e^-200/9) in the middle of a lobe and 12.5 + 50/9 - log 2 at the origin."""
    z = np.array([[2.0, 0.0], [0.0, 0.0]])
    expected = [-log1p(exp(-200 / 9)), 12.5 + 50 / 9 - log(2)]
    np.testing.assert_allclose(potential("u1", z, np), expected, rtol=1e-12)


def test_wave_is_a_parabola_about_its_sine():
    """U2 vanishes on z2 = sin(pi z1 / 2) and is 1/2 one standard deviation of 0.4 away."""
    x = np.linspace(-4, 4, 17)
    ridge = np.stack([x, np.sin(pi * x / 2)], axis=1)
    np.testing.assert_allclose(potential("u2", ridge, np), 0, atol=1e-12)
    np.testing.assert_allclose(potential("u2", ridge + np.array([0, 0.4]), np), 0.5, rtol=1e-12)


def test_forked_wave_has_two_equal_ridges_three_apart_at_its_fork():
    """U3 at z1 = 1 is symmetric under the exchange of z2 = 1 and z2 = 1 - 3."""
    z = np.array([[1.0, 1.0 + 0.2], [1.0, 1.0 - 3.0 - 0.2]])
    first, second = potential("u3", z, np)
    assert first == pytest.approx(second, rel=1e-9)
    assert first == pytest.approx(0.5 * (0.2 / 0.35) ** 2, rel=1e-9)


def test_split_wave_is_three_apart_on_the_right_and_one_ridge_on_the_left():
    """U4 has its second ridge, of width 0.35, at distance 3 sigmoid((z1 - 1) / 0.3)."""
    z = np.array([[4.0, -3.0 - 0.1], [1.0, 1.0 - 1.5]])
    values = potential("u4", z, np)
    assert values[0] == pytest.approx(0.5 * (0.1 / 0.35) ** 2, abs=1e-3)
    assert values[1] == pytest.approx(-log1p(exp(-0.5 * (1.5 / 0.4) ** 2)), rel=1e-9)


@pytest.mark.parametrize("name", POTENTIALS)
def test_potentials_agree_in_all_namespaces(name, points):
    """NumPy, torch and JAX give the same energies."""
    expected = potential(name, points, np)
    np.testing.assert_allclose(potential(name, torch.tensor(points), torch).numpy(), expected, rtol=1e-12)
    with jax.enable_x64(True):  # noqa: FBT003  the signature is JAX's
        np.testing.assert_allclose(potential(name, jnp.asarray(points), jnp), expected, rtol=1e-12)


@pytest.mark.parametrize("name", POTENTIALS)
def test_normaliser_agrees_with_a_midpoint_rule(name):
    """Two rules of quadrature with different nodes agree far below 1e-4, over the window and over the plane."""
    for half_width, found in ((WINDOW, log_window(name)), (WINDOW + 0.5, log_normaliser(name))):
        step = 2 * half_width / 1000
        axis = -half_width + step * (np.arange(1000) + 0.5)
        z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
        energy = potential(name, z, np) + wall(z, np)
        assert found == pytest.approx(log(np.exp(-energy).sum() * step**2), abs=1e-5)


def test_normaliser_of_the_wave_has_a_closed_form():
    """For every z1 the wave is a whole normal in z2, so that its integral is 8 x 0.4 x sqrt(2 pi)."""
    assert log_window("u2") == pytest.approx(log(8 * 0.4 * sqrt(2 * pi)), abs=1e-10)


@pytest.mark.parametrize(("name", "expected"), [("u1", 0), ("u2", 0.0157), ("u3", 0.0157), ("u4", 0.0208)])
def test_skirt_adds_little_mass(name, expected):
    """The wall's skirt holds two half normals at most, one beyond either end of a ridge that runs along z1."""
    assert np.expm1(log_normaliser(name) - log_window(name)) == pytest.approx(expected, abs=1e-4)


def test_gradient_of_the_ring_is_finite_at_its_kink():
    """The square root in U1 has no derivative at the origin; a sample there must not poison a batch."""
    z = torch.zeros(1, 2, requires_grad=True)
    potential("u1", z, torch).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_unknown_target_answers_with_the_near_ones(points):
    """A name that is no target is refused."""
    with pytest.raises(UnknownNameError, match="'u1'"):
        potential("u11", points, np)


def test_base_density_integrates_to_one():
    """The base is normalised."""
    axis = np.linspace(-8, 8, 321)
    z = np.stack(np.meshgrid(axis, axis), axis=-1)
    assert np.exp(log_base(z)).sum() * 0.05**2 == pytest.approx(1, abs=1e-12)


def test_wall_stands_outside_the_window_only():
    """The wall is zero inside and a parabola of width WALL_WIDTH from the edge on, in each coordinate."""
    z = np.array([[3.9, -3.9], [4.0 + WALL_WIDTH, 0.0], [-4.0 - 2 * WALL_WIDTH, 4.0 + WALL_WIDTH]])
    np.testing.assert_allclose(wall(z, np), [0, 0.5, 2.5], atol=1e-12)
    np.testing.assert_array_equal(outside(z, np), [False, True, True])


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_follow_from_the_generator(name):
    """The same generator gives the same points, another gives others."""
    first, again, other = (SAMPLERS[name](64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (64, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_circles_have_their_radii_and_noise():
    """Half the points lie around radius 3 and half around 1.5, with a noise of 0.24."""
    radius = np.linalg.norm(circles(20_000, np.random.default_rng(0)), axis=1)
    outer = radius[radius > 2.25]
    assert len(outer) / len(radius) == pytest.approx(0.5, abs=0.02)
    assert outer.std() == pytest.approx(0.24, abs=0.01)
    assert np.median(outer) == pytest.approx(3, abs=0.03)


def test_moons_keep_their_noise_about_two_arcs():
    """The mean squared distance to the nearer arc is that of one normal coordinate of 0.2."""
    z = moons(20_000, np.random.default_rng(0))
    upper = np.linalg.norm(z - [-1.0, -0.2], axis=1) - 2
    lower = np.linalg.norm(z - [1.0, 0.8], axis=1) - 2
    inner = np.abs(z[:, 0]) < 2  # away from the ends of the arcs
    nearest = np.minimum(np.abs(upper), np.abs(lower))[inner]
    assert np.quantile(nearest, 0.6827) == pytest.approx(0.2, abs=0.02)


def test_pinwheel_repeats_after_a_fifth_of_a_turn():
    """Five arms of equal mass: the mean of z^5 as complex numbers does not vanish, lower powers do."""
    z = pinwheel(40_000, np.random.default_rng(0)) @ np.array([1, 1j])
    phase = z / np.abs(z)
    assert abs((phase**5).mean()) > 0.2
    assert max(abs((phase**k).mean()) for k in (1, 2, 3, 4)) < 0.02


def test_checkerboard_fills_one_colour_alone():
    """Every point lies in a square whose row and column have the same parity, all eight squares equally often."""
    square = np.floor(checkerboard(16_000, np.random.default_rng(0)) / 2).astype(int) + 2
    assert ((square.sum(axis=1) % 2) == 0).all()
    _, counts = np.unique(square, axis=0, return_counts=True)
    assert len(counts) == 8
    np.testing.assert_allclose(counts, 2000, rtol=0.1)


def test_eight_gaussians_sit_on_a_circle():
    """The eastern cluster has its mean at radius 4 / sqrt(2), a spread of 0.5 / sqrt(2) and an eighth of the points."""
    z = eight_gaussians(40_000, np.random.default_rng(0))
    octant = np.round(np.arctan2(z[:, 1], z[:, 0]) / (pi / 4)).astype(int) % 8
    centre = 4 / sqrt(2) * np.array([1.0, 0.0])
    east = z[octant == 0]
    np.testing.assert_allclose(east.mean(axis=0), centre, atol=0.03)
    np.testing.assert_allclose(east.std(axis=0), 0.5 / sqrt(2), atol=0.02)
    assert len(east) == pytest.approx(5000, rel=0.05)
