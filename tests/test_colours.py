"""A backend looks the same everywhere, and no two look alike to a colour-blind reader."""

from itertools import combinations

import numpy as np
import pytest

from nodebench import registry
from nodebench.reports.series import BACKENDS, MODELS, line_styles, point_styles, style
from nodebench.reports.writers.theme import PALETTES

APART = 14
"""Least distance in CIELAB of two colours that stand for different backends of the same shape; 2.3 is just visible."""

VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What linear RGB becomes at severity 1 ("A Physiologically-based Model for Simulation of Color Vision Deficiency",
Machado, Oliveira, Fernandes, 2009, https://doi.org/10.1109/TVCG.2009.113)."""


def linear(colour):
    """Linear RGB of `#rrggbb`."""
    encoded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return linear(colour) @ [0.2126, 0.7152, 0.0722]


def lab(rgb):
    """CIELAB of linear RGB, white D65."""
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(matrix) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one, other, vision):
    return np.linalg.norm(lab(vision @ linear(one)) - lab(vision @ linear(other)))


def test_every_built_in_backend_has_a_style_of_its_own():
    """None is left to chance, and no two have the same colour, shape and dash."""
    assert set(BACKENDS) == {name for name in registry.names("backend") if ":" not in name}
    both = [*BACKENDS.values(), *MODELS.values()]
    assert len({(each.colour, each.shape, each.dash) for each in both}) == len(both)


@pytest.mark.parametrize("vision", VISION)
def test_points_are_told_apart_by_colour_or_shape(vision):
    """For readers of every kind of vision, any two points differ in shape, or visibly in colour."""
    named = BACKENDS | MODELS
    alike = [
        (one, other)
        for one, other in combinations(named, 2)
        if named[one].shape == named[other].shape
        and distance(named[one].colour, named[other].colour, np.array(VISION[vision])) < APART
    ]
    assert alike == []


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_stand_out_from_the_page(mode):
    """Every colour has a contrast of at least 3 to the page, by day and by night."""
    page = luminance(PALETTES[mode].page)
    contrasts = {}
    for name, each in (BACKENDS | MODELS).items():
        low, high = sorted((luminance(each.colour), page))
        contrasts[name] = (high + 0.05) / (low + 0.05)
    assert {name for name, contrast in contrasts.items() if contrast < 3} == set()


def test_options_keep_colour_and_shape():
    """An option changes the dash and empties the points; other options have other dashes."""
    base, compiled, landed = map(style, ("direct", "direct[compile=true]", "direct[land=true]"))
    assert (compiled.colour, compiled.shape) == (base.colour, base.shape)
    assert not compiled.filled
    assert len({base.dash, compiled.dash, landed.dash}) == 3


def test_options_of_one_chart_have_dashes_of_their_own():
    """Where two would be dashed alike, one takes another dash, the same in every chart of these."""
    labels = [f"direct[c={n}]" for n in range(14)]
    assert len({style(label).dash for label in labels}) < len(labels)
    found = line_styles(labels)
    assert len({each.dash for each in found.values()}) == len(labels)
    assert found == line_styles(reversed(labels))


def test_points_of_options_have_looks_of_their_own():
    """No two have colour, shape and filling alike, and built-in methods keep theirs."""
    found = point_styles([*BACKENDS, *(f"{name}[c={n}]" for name in ("direct", "adjoint") for n in range(9)), "other"])
    assert len({(each.colour, each.shape, each.filled) for each in found.values()}) == len(found)
    assert {name: found[name] for name in BACKENDS} == BACKENDS


def test_an_unknown_backend_always_looks_the_same():
    """Its style follows from its name, in this process and in any other."""
    assert style("./mine.py:Mine") == style("./mine.py:Mine")
    assert (style("abc").colour, style("abc").shape) == ("#0072B2", "triangle-down")
