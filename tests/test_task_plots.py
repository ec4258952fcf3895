"""What the tasks show of a trained model: names, shapes, sizes, and that each plot shows what it says."""

from functools import partial

import numpy as np
import pytest

from nodebench.backends.diffrax.adjoints import Diffrax
from nodebench.backends.runge_kutta.direct import Direct
from nodebench.frameworks.base import Optimizer
from nodebench.frameworks.jax.framework import Jax
from nodebench.frameworks.torch.framework import Torch
from nodebench.plots import render
from nodebench.problem import SolverSpec
from nodebench.tasks.base import Splits
from nodebench.tasks.cnf.data import log_base
from nodebench.tasks.cnf.plots import _window_around as window_around
from nodebench.tasks.cnf.task import Cnf
from nodebench.tasks.mnist.task import Mnist
from nodebench.tasks.plotting import view_in_batches
from nodebench.tasks.spiral.plots import turns_clockwise
from nodebench.tasks.spiral.task import SPACING, Spiral, curve, draw

LOOSE = SolverSpec(rtol=1e-5, atol=1e-5, first_step=0.05, max_steps=2000, dtype="float64")
# Equal steps, so that both frameworks take the very same ones.
STEPS = SolverSpec(solver="midpoint", first_step=SPACING, max_steps=300, dtype="float64")
SIDES = {"torch": (Torch, Direct()), "jax": (Jax, Diffrax())}

SHOWN = [
    (Cnf("moons", hidden=4), "cnf", ["densities", "density-in-time", "flow"]),
    (Cnf("u2", hidden=4), "cnf", ["densities", "density-in-time", "flow"]),
    (Cnf("circles", layers=8), "planar", ["densities", "density-in-time", "flow"]),
    (Cnf("u1", layers=8), "planar", ["densities", "flow"]),
    (Spiral(), "latent-ode", ["reconstructions", "latent-space"]),
    (Spiral(), "rnn", ["reconstructions"]),
    (Mnist("digits"), "mlp", ["misread-digits"]),
    (Mnist("digits"), "resnet-0", ["misread-digits"]),
]


def viewer(task, model, spec=LOOSE, side="torch"):
    """The view of a model at its initial weights, float64."""
    cls, backend = SIDES[side]
    framework, entry = cls("cpu", "float64", 1), task.models[model]
    solve = partial(backend.solve, spec=spec) if entry.uses_backend else None
    built = framework.build(entry.targets[side], task.model_options(model), task.weights(model, 0), solve)
    return framework.trainer(built, Optimizer(), 1).view


def shown(task, model):
    """Figures of a model at its initial weights, by name."""
    found = task.plots(model, task.data("smoke", 0), viewer(task, model))
    return {plot.name: plot.figure for plot in found}


def values(axes):
    """Values of a heat map."""
    return axes.images[0].get_array()


def window(axes):
    """What a part of a figure shows of the plane."""
    return (*axes.get_xlim(), *axes.get_ylim())


def titles(figure):
    """Titles of the parts of a figure, on one line each."""
    return [axes.get_title().replace("\n", " ") for axes in figure.axes]


def cloud(axes):
    """Points and their log-densities."""
    return np.asarray(axes.collections[0].get_offsets()), np.asarray(axes.collections[0].get_array())


def mass(axes):
    """Integral of a density over its window."""
    left, right, bottom, top = window(axes)
    return values(axes).mean() * (right - left) * (top - bottom)


@pytest.fixture(name="moons", scope="module")
def moons_fixture():
    """Plots of a continuous flow fitted to data."""
    return shown(Cnf("moons", hidden=4), "cnf")


@pytest.fixture(name="circles", scope="module")
def circles_fixture():
    """Plots of a planar flow fitted to data."""
    return shown(Cnf("circles", layers=8), "planar")


@pytest.mark.parametrize(("task", "model", "names"), SHOWN)
def test_plots_of_a_model(task, model, names):
    """Each model has its plots, each of which takes less than 150 KB."""
    plots = render(lambda: task.plots(model, task.data("smoke", 0), viewer(task, model)))
    assert [plot.name for plot in plots] == names
    assert [plot.name for plot in plots if len(plot.svg) > 150_000] == []


@pytest.mark.parametrize(("task", "model"), [(Cnf("u1", layers=3), "planar"), (Spiral(), "latent-ode")])
def test_plots_are_the_same_every_time(task, model):
    """What is drawn at random is drawn from a fixed seed."""
    splits, view = task.data("smoke", 0), viewer(task, model)
    first, second = (render(lambda: task.plots(model, splits, view)) for _ in range(2))
    assert first == second


def test_densities_integrate_to_one(moons, circles):
    """Each density of data, of a continuous flow and of a planar one has its mass in the window, at every time."""
    for name in ("densities", "density-in-time"):
        for plots in (moons, circles):
            masses = [mass(axes) for axes in plots[name].axes]
            np.testing.assert_allclose(masses, 1, atol=1e-2)  # a flow at its initial weights has long tails


@pytest.mark.parametrize("target", ["u1", "u2"])
def test_target_is_normalised_over_the_window(target):
    """The target's mass on its window is one, and so is that of the samples of a planar flow within it."""
    densities = shown(Cnf(target, layers=2), "planar")["densities"]
    true, learned = densities.axes
    assert titles(densities) == ["target density", "learned density (smoothed histogram of 50,000 samples)"]
    assert mass(true) == pytest.approx(1, abs=2e-3)
    assert mass(learned) == pytest.approx(1, abs=2e-2)


def test_learned_density_is_that_of_the_pushed_points(moons):
    """At the end of the flow's points the density, by the change of variables, is the one that the map shows there."""
    learned = moons["densities"].axes[1]
    left, right, bottom, top = window(learned)
    rows, columns = values(learned).shape
    (x, y), log_density = cloud(moons["flow"].axes[-1])[0].T, cloud(moons["flow"].axes[-1])[1]
    column = ((x - left) / (right - left) * columns).astype(int)
    row = ((y - bottom) / (top - bottom) * rows).astype(int)
    expected = np.exp(log_density)
    # A cell is a tenth of a standard deviation wide; the density is that of its middle.
    np.testing.assert_allclose(values(learned)[row, column], expected, atol=0.05 * expected.max())


def test_density_in_time_ends_as_the_learned_density(moons):
    """The last of the densities on the way is the learned one, on a coarser grid."""
    last, learned = moons["density-in-time"].axes[-1], moons["densities"].axes[1]
    assert last.get_title() == "t = 1.00"
    coarse, fine = values(last), values(learned)
    np.testing.assert_allclose(
        coarse.reshape(32, 2, 32, 2).mean((1, 3)), fine.reshape(32, 3, 32, 3).mean((1, 3)), atol=2e-3
    )


def test_flow_starts_at_the_base(moons):
    """At time 0 the points are standard normal and coloured by its log-density; five moments stand side by side."""
    assert titles(moons["flow"]) == ["t = 0.00", "t = 0.25", "t = 0.50", "t = 0.75", "t = 1.00"]
    clouds = [cloud(axes) for axes in moons["flow"].axes]
    assert [points.shape for points, _ in clouds] == [(500, 2)] * 5
    (start, log_density), (end, _) = clouds[0], clouds[-1]
    np.testing.assert_allclose(log_density, log_base(start), atol=2e-2)
    assert np.abs(end - start).max() > 0.1


def test_continuous_flow_is_viewed_in_one_shape():
    """All batches of a continuous flow have the same shapes: a framework that compiles does so once."""
    task, shapes = Cnf("moons", hidden=4), set()
    view = viewer(task, "cnf")

    def watched(method, batch):
        shapes.add(tuple((name, array.shape) for name, array in batch.items()))
        return view(method, batch)

    task.plots("cnf", task.data("smoke", 0), watched)
    assert shapes == {(("points", (2048, 2)), ("times", (2,)))}


def test_path_from_moment_to_moment_is_the_flow(moons):
    """The points at the last moment, reached over four others, are where one solve takes those of the first."""
    (points, log_density), view = cloud(moons["flow"].axes[-1]), viewer(Cnf("moons", hidden=4), "cnf")
    base = np.random.default_rng(0).standard_normal((500, 2))
    found = view("carry", {"points": base, "times": np.array([0.0, 1.0])})
    np.testing.assert_allclose(points, found["points"][:, -1], atol=5e-3)
    np.testing.assert_allclose(log_density, log_base(base) + found["change"][:, -1], atol=2e-2)


def test_planar_flow_of_data_goes_to_the_base(circles):
    """A planar flow is shown in its own direction, from data to noise, with the density that it gives the data."""
    task = Cnf("circles", layers=8)
    view = viewer(task, "planar")
    assert "from data to noise" in task.plots("planar", task.data("smoke", 0), view)[-1].caption
    assert titles(circles["flow"]) == [f"layer {k}" for k in (0, 2, 4, 6, 8)]
    points, log_density = cloud(circles["flow"].axes[0])
    found = view("carry", {"points": points, "layers": np.array([0, 8])})
    expected = log_base(found["points"][:, -1]) - found["change"][:, -1]
    np.testing.assert_allclose(log_density, expected, atol=2e-2)


def test_planar_layers_follow_one_another():
    """Carried through the first layers and then through the others, points end where all layers take them."""
    view = viewer(Cnf("circles", layers=5), "planar")
    points = np.random.default_rng(0).normal(size=(7, 2))
    whole = view("carry", {"points": points, "layers": np.array([0, 5])})
    begun = view("carry", {"points": points, "layers": np.array([0, 2])})
    ended = view("carry", {"points": begun["points"][:, -1], "layers": np.array([2, 5])})
    assert whole["points"].shape == (7, 6, 2)
    np.testing.assert_allclose(ended["points"], whole["points"][:, 2:], rtol=1e-12)
    np.testing.assert_allclose(begun["change"][:, -1:] + ended["change"], whole["change"][:, 2:], atol=1e-12)


def test_window_widens_to_hold_the_points():
    """Where a planar flow leaves the window of its data on the way, the window of its points grows with it."""
    task = Cnf("circles", layers=2)
    weights = dict(task.weights("planar", 0))
    weights |= {"w": np.array([[1e-3, 0.0], [1e-3, 0.0]]), "u": np.array([[0.0, 40.0], [0.0, -40.0]]), "b": np.ones(2)}
    model = Torch("cpu", "float64", 1).build(
        task.models["planar"].targets["torch"], task.model_options("planar"), weights, None
    )
    view = Torch("cpu", "float64", 1).trainer(model, Optimizer(), 1).view
    found = {plot.name: plot.figure for plot in task.plots("planar", task.data("smoke", 0), view)}
    assert window(found["densities"].axes[0]) == (-4.5, 4.5, -4.5, 4.5)
    left, right, bottom, top = window(found["flow"].axes[0])
    assert right - left == pytest.approx(top - bottom)
    assert bottom <= -4.5
    heights = np.concatenate([cloud(axes)[0][:, 1] for axes in found["flow"].axes])
    inside = (heights <= top).mean()
    assert heights.max() > 30
    assert inside > 0.98


def test_window_holds_the_points_that_are_finite():
    """A point that left the finite numbers, or a whole moment of them, moves no edge of the window."""
    points = np.zeros((1000, 3, 2))
    points[:, 1, 0] = 20.0
    points[0, 0] = np.nan
    points[1, 1] = np.inf
    points[:, 2] = np.nan
    left, right, _, _ = window_around(points, "moons")
    assert (left, right) == (-4.5, 20.0)


def test_misread_digits_are_misread():
    """Each digit shown is one of the test images, with its label and the model's other answer, the surest first."""
    task = Mnist("digits")
    splits, view = task.data("smoke", 0), viewer(task, "mlp")
    (digits,) = task.plots("mlp", splits, view)
    logits = view("scores", {"images": splits.test["images"]})["logits"]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    images = np.round(255 * splits.test["images"][:, 0]).astype(np.uint8)
    assert [values(axes).shape for axes in digits.figure.axes] == [(28, 28)] * 24
    sureness = []
    for axes in digits.figure.axes:
        caption = axes.get_title()
        (index,) = np.flatnonzero((images == values(axes)).all((1, 2)))
        label, guess = splits.test["labels"][index], logits[index].argmax()
        assert label != guess
        assert caption == f"{label} -> {guess} ({probabilities[index].max():.2f})"
        sureness.append(probabilities[index].max())
    assert sureness == sorted(sureness, reverse=True)
    wrong = logits.argmax(1) != splits.test["labels"]
    assert f"the 24 surest of {wrong.sum()} among the first 256 test images" in digits.caption


def test_no_mistake_is_no_plot():
    """A model that is always right has nothing to show."""
    labels = np.arange(10)
    test = {"images": np.zeros((10, 1, 28, 28)), "labels": labels}
    splits = Splits("x", test, test, test)
    assert Mnist("digits").plots("mlp", splits, lambda *_: {"logits": np.eye(100, 10)}) == ()


def test_direction_is_seen_in_the_data():
    """The direction told from the points is that of the curve they were drawn from."""
    times = np.linspace(2.0, 2.0 + 199 * SPACING, 200)
    clockwise = np.array([True, False, True])
    points = curve(times, clockwise[:, None])
    batch = {"inside": points[:, :100], "beyond": points[:, 100:]}
    np.testing.assert_array_equal(turns_clockwise(batch), clockwise)


def test_reconstructions_show_what_the_model_says():
    """Three spirals of each direction, each with its true points, its observations and the model's points."""
    task = Spiral(observations=30)
    splits, view = task.data("smoke", 0), viewer(task, "latent-ode")
    figure = task.plots("latent-ode", splits, view)[0].figure
    assert titles(figure) == ["clockwise"] * 3 + ["counter-clockwise"] * 3
    roles = [("true", "-"), ("observed", "None"), ("reconstructed", "-"), ("extrapolated", "--")]
    points = view("predictions", splits.test)
    for axes in figure.axes:
        assert [(line.get_label(), line.get_linestyle()) for line in axes.lines] == roles
        true, observed, inside, beyond = (line.get_xydata() for line in axes.lines)
        (index,) = np.flatnonzero((splits.test["observations"] == observed).all((1, 2)))
        np.testing.assert_array_equal(true[:100], splits.test["inside"][index])
        np.testing.assert_allclose(inside, points["inside"][index], atol=1e-3)
        np.testing.assert_allclose(beyond, points["beyond"][index], atol=1e-3)


def test_latent_trajectories_are_coloured_by_direction():
    """Twenty latent trajectories of each direction, on two components that carry most of the variance."""
    latent = shown(Spiral(), "latent-ode")["latent-space"]
    (axes,) = latent.axes
    assert [line.get_label() for line in axes.lines] == ["clockwise"] * 20 + ["counter-clockwise"] * 20
    points = np.stack([line.get_xydata() for line in axes.lines])
    assert points.shape == (40, 50, 2)
    np.testing.assert_allclose(points.mean((0, 1)), 0, atol=1e-5)
    flat = points.reshape(-1, 2)
    covariance = np.cov(flat.T)
    assert covariance[0, 0] > covariance[1, 1]
    assert abs(covariance[0, 1]) < 1e-4 * covariance[0, 0]
    assert axes.get_xlabel().startswith("first principal component (")
    assert axes.get_xlabel().endswith(" % of variance)")


def test_predictions_of_the_recurrent_network_are_those_it_is_judged_by():
    """The errors of the points that are shown are the metric and the diagnostics of the model."""
    task = Spiral()
    batch = draw(5, 50, 0.3, np.random.default_rng(1))
    cls = Torch("cpu", "float64", 1)
    for model in ("rnn", "latent-ode"):
        solve = partial(Direct().solve, spec=STEPS) if model == "latent-ode" else None
        built = cls.build(task.models[model].targets["torch"], task.model_options(model), task.weights(model, 0), solve)
        trainer = cls.trainer(built, Optimizer(), 1)
        found = trainer.view("predictions", batch)
        beyond = np.sqrt(((found["beyond"] - batch["beyond"]) ** 2).mean((1, 2)))
        np.testing.assert_allclose(beyond, trainer.metric(batch), rtol=2e-3)
    inside = np.sqrt(((found["inside"] - batch["inside"]) ** 2).mean((1, 2)))
    np.testing.assert_allclose(inside, trainer.view("diagnostics", batch)["interpolation RMSE"], rtol=1e-9)


@pytest.mark.parametrize(
    ("task", "model", "method", "batch"),
    [
        (
            Cnf("moons", hidden=4),
            "cnf",
            "carry",
            {"points": np.random.default_rng(0).normal(size=(6, 2)), "times": np.array([1.0, 0.6, 0.0])},
        ),
        (Spiral(), "latent-ode", "predictions", draw(4, 30, 0.3, np.random.default_rng(1))),
        (Mnist("digits"), "odenet", "scores", {"images": np.random.default_rng(0).uniform(size=(3, 1, 28, 28))}),
    ],
)
def test_torch_and_jax_show_the_same(task, model, method, batch):
    """From equal weights a method that plots are made of returns the same arrays in both frameworks, to 1e-9."""
    spec = (
        SolverSpec(solver="midpoint", first_step=0.1, max_steps=300, dtype="float64")
        if model != "latent-ode"
        else STEPS
    )
    ours, theirs = (viewer(task, model, spec, side)(method, batch) for side in SIDES)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_batches_of_a_view_are_of_equal_size():
    """All examples are seen once and in order, in batches of one shape, with the settings in each."""
    seen = []

    def view(method, batch):
        seen.append((method, batch["x"].tolist(), batch["k"].tolist()))
        return {"double": 2 * batch["x"]}

    x = np.arange(7.0)
    found = view_in_batches(view, "method", {"x": x}, 3, {"k": np.array([5])})
    np.testing.assert_array_equal(found["double"], 2 * x)
    assert seen == [
        ("method", [0.0, 1.0, 2.0], [5]),
        ("method", [3.0, 4.0, 5.0], [5]),
        ("method", [6.0, 0.0, 1.0], [5]),
    ]
