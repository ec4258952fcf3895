"""Plots are rendered once, to the same bytes every time, and what cannot be kept is refused in a sentence."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from nodebench.errors import NotInstalledError, PluginError
from nodebench.plots import MOST_BYTES, Plot, render
from nodebench.tasks.cnf.plots import clouds, heat_maps
from nodebench.tasks.spiral.plots import curves

RNG = np.random.default_rng(0)

SQUARE = (0.0, 1.0, 0.0, 1.0)


def figure(**kwargs):
    """A line with a title, labels and a legend."""
    made = Figure()
    axes = made.subplots()
    axes.plot([0, 1], [1, 0], label="a line")
    axes.set(title="Loss of\nthe flow", xlabel="step", **kwargs)
    axes.legend()
    return made


def rendered(made, caption="What it shows"):
    """The one plot of a figure."""
    return render(lambda: [Plot("loss", caption, made)])[0]


def test_equal_figures_are_equal_bytes():
    """No date, no random ids: what is kept changes only with what is shown."""
    first, second = rendered(figure()), rendered(figure())
    assert first == second
    assert rendered(figure(ylabel="nats")).svg != first.svg
    assert b"<svg" in first.svg
    assert b"<metadata>" not in first.svg


def test_what_stands_within_a_plot_is_its_text_alternative():
    """Titles, labels and legends, each once; the caption where there are none."""
    assert rendered(figure()).alternative == "Loss of the flow; step; a line"
    assert rendered(Figure()).alternative == "What it shows"


def test_no_plots_are_none():
    """A task may have nothing to show."""
    assert render(tuple) == ()


def test_an_image_refers_to_nothing_outside_itself():
    """A page that embeds it asks nothing of the network, and an image is embedded in it."""
    made = Figure()
    made.subplots().imshow(RNG.random((4, 4)))
    text = rendered(made).svg.decode()
    assert "data:image/png;base64," in text
    assert text.count("href=") == text.count('href="#') + text.count('href="data:')


@pytest.mark.parametrize("made", [None, "a figure", [1, 2]])
def test_what_is_no_plot_is_refused(made):
    """The task that makes it is told what was wanted."""
    with pytest.raises(PluginError, match="not a `Plot` with a figure of matplotlib"):
        rendered(made)
    with pytest.raises(PluginError, match="not a `Plot` with a figure of matplotlib"):
        render(lambda: [made])


def test_what_is_too_large_is_refused_unless_it_is_rasterized():
    """A store keeps the plots of every training, and a page embeds them."""
    points = RNG.random((2, 20_000))
    made = Figure()
    made.subplots().scatter(*points, c=points[0])
    with pytest.raises(PluginError, match=r"plot `loss` takes .* MB as SVG, over 1 MB; .* `rasterized=True`"):
        rendered(made)
    made = Figure()
    made.subplots().scatter(*points, c=points[0], rasterized=True)
    assert len(rendered(made).svg) < MOST_BYTES


def test_a_missing_matplotlib_is_told_with_what_to_install(monkeypatch):
    """Whoever has not installed it learns how; another missing module is another matter."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    def make():
        from matplotlib.figure import Figure

        return [Plot("loss", "Loss", Figure())]

    with pytest.raises(NotInstalledError, match=r"install with: pip install 'nodebench\[report\]'"):
        render(make)

    def other():
        import nodebench.nowhere  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        render(other)


HOLED = np.where(np.arange(12).reshape(3, 4) % 5, 1.0, np.nan)
GONE = np.array([[[0.0, 0.5], [np.nan, 0.0], [np.inf, 1.0]]] * 2)
TIMES = ("t = 0", "t = 1")


@pytest.mark.parametrize(
    "make",
    [
        lambda: heat_maps([("some", HOLED), ("none", HOLED * np.nan), ("inf", HOLED * np.inf)], SQUARE),
        lambda: clouds(TIMES, GONE, np.full((2, 3), np.nan), SQUARE),
        lambda: clouds(TIMES, GONE * np.nan, np.ones((2, 3)), SQUARE),
        lambda: curves(["1"], [[("observed", GONE[0]), ("true", GONE[0] * np.nan)]], ("x", "y")),
        lambda: curves(["1"], [[("true", GONE[0] * np.nan)]], ("x", "y")),
    ],
    ids=["heat maps", "clouds without values", "clouds without points", "curves", "curves without points"],
)
def test_values_that_are_not_finite_are_left_out(make):
    """A plot is drawn, whatever is missing in it."""
    assert b"<svg" in rendered(make()).svg


@pytest.mark.worker
def test_planning_and_measuring_load_no_matplotlib():
    """It is imported where a plot is made, and nowhere before that."""
    modules = "bench.worker", "results.store", "tasks.cnf.task", "tasks.mnist.task", "tasks.spiral.task"
    code = f"import sys, {', '.join(f'nodebench.{name}' for name in modules)}; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
