"""Pictures are kept as they were made, and leave nothing behind that needs code to be read."""

import io

import numpy as np

from nodebench.pictures import Clouds, Curves, Heatmaps, Images, Panel, Plot, Series, pack, unpack

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


def test_an_archive_holds_no_pickles():
    """Arrays alone, so that reading a foreign store runs nothing."""
    with np.load(io.BytesIO(pack(PICTURES)), allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
