"""Pictures are kept as they were made, and leave nothing behind that needs code to be read."""

import io

import numpy as np
import pytest

from nodebench.errors import PluginError
from nodebench.pictures import Clouds, Curves, Heatmaps, Images, Panel, Plot, Series, pack, unpack
from nodebench.reports import drawings
from nodebench.reports.tiles import tiles

RNG = np.random.default_rng(0)

PICTURES = (
    Heatmaps("densities", "Densities", (-4.0, 4.0, -4.0, 4.0), (Panel("target", RNG.random((3, 4))),)),
    Clouds("flow", "Flow", (-1.0, 1.0, -1.0, 1.0), ("t = 0", "t = 1"), RNG.random((2, 5, 2)).astype(np.float16)),
    Curves("paths", "Paths", ("x", "y"), (Plot("1", (Series("observed", RNG.random((3, 2)), "points"),)),)),
    Images("digits", "Digits", RNG.integers(0, 255, (2, 4, 4), dtype=np.uint8), ("1", "7")),
)


def alike(one, other):
    """Equality that looks into arrays."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if hasattr(one, "__dict__"):
        return type(one) is type(other) and all(alike(vars(one)[name], vars(other)[name]) for name in vars(one))
    return one == other


def test_every_kind_survives():
    """What is unpacked equals what was packed, types of the arrays included."""
    assert alike(unpack(pack(PICTURES)), PICTURES)


def test_nothing_is_a_picture_too():
    """No pictures are unpacked as none."""
    assert unpack(pack(())) == ()


SQUARE = (0.0, 1.0, 0.0, 1.0)
TIMES = ("t = 0", "t = 1")
GREY = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Heatmaps("d", "D", (0.0, np.nan, 0.0, 1.0), ()), "window"),
        (lambda: Heatmaps("d", "D", (0.0, np.inf, 0.0, 1.0), ()), "window"),
        (lambda: Heatmaps("d", "D", (1.0, 0.0, 0.0, 1.0), ()), "window"),
        (lambda: Heatmaps("d", "D", (0.0, 1.0, 0.0, 1e6), ()), "times the other"),
        (lambda: Panel("p", np.zeros(3)), "shape"),
        (lambda: Panel("p", np.zeros((0, 3))), "empty"),
        (lambda: Clouds("c", "C", SQUARE, TIMES, np.zeros((3, 5, 2))), "shape"),
        (lambda: Clouds("c", "C", SQUARE, TIMES, np.zeros((2, 5, 3))), "shape"),
        (lambda: Clouds("c", "C", SQUARE, TIMES, np.zeros((2, 5, 2)), np.zeros((2, 4))), "shape"),
        (lambda: Clouds("c", "C", (0.0, 1.0, np.nan, 1.0), TIMES, np.zeros((2, 5, 2))), "window"),
        (lambda: Series("observed", np.zeros((2, 3))), "shape"),
        (lambda: Curves("c", "C", ("x",), ()), "axes"),
        (lambda: Images("i", "I", GREY, ("1",)), "shape"),
        (lambda: Images("i", "I", GREY.astype(float), ("1", "7")), "uint8"),
        (lambda: Images("i", "I", GREY[:, :0], ("1", "7")), "empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused_when_it_is_made(make, why):
    """The task that makes it is told, not who makes a report of it later."""
    with pytest.raises(PluginError, match=why):
        make()


HOLED = np.where(np.arange(12).reshape(3, 4) % 5, 1.0, np.nan)
GONE = np.array([[[0.0, 0.5], [np.nan, 0.0], [np.inf, 1.0]]] * 2)


@pytest.mark.parametrize(
    "picture",
    [
        Heatmaps("d", "D", SQUARE, (Panel("some", HOLED), Panel("none", HOLED * np.nan), Panel("inf", HOLED * np.inf))),
        Clouds("c", "C", SQUARE, TIMES, GONE, np.full((2, 3), np.nan)),
        Clouds("c", "C", SQUARE, TIMES, GONE * np.nan),
        Curves("c", "C", ("x", "y"), (Plot("1", (Series("observed", GONE[0]), Series("true", GONE[0] * np.nan))),)),
    ],
    ids=["heatmaps", "clouds with values", "clouds", "curves"],
)
def test_values_that_are_not_finite_are_left_out(picture):
    """As a file and as parts of a page a picture is drawn, whatever is missing in it."""
    drawings.figure(picture).savefig(io.BytesIO(), format="png")
    shown = tiles(picture, "p", animated=True)
    assert len(shown.tiles) == len(drawings.parts(picture))


def test_an_archive_holds_no_pickles():
    """Arrays alone, so that reading a foreign store runs nothing."""
    with np.load(io.BytesIO(pack(PICTURES)), allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
