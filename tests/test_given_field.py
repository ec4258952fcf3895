"""A field that is given by itself: its file, initial state, times and weights become a problem, or a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import nn

from nodebench import registry
from nodebench.bench.matrix import task_cells
from nodebench.bench.messages import Assignment
from nodebench.bench.request import Request
from nodebench.bench.worker.main import Worker
from nodebench.errors import NodebenchError, UserError
from nodebench.options import RunOptions
from nodebench.tasks.base import AbstractTask
from nodebench.tasks.field.given import called_with, init_arguments, parse_times

MODEL = """
import torch
from torch import nn

class ODEFunc(nn.Module):
    def __init__(self, hidden=16, bias=True):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2, bias=bias))

    def forward(self, t, y):
        return self.net(y)

made = ODEFunc(3)

def swirl(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], -1)

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, t, y):
        return self.net(y[0]), y[0].sum(1, keepdim=True)

nothing = 3

class Plain:
    def __call__(self, t, y):
        return y

plain = Plain()
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A file of a user's in the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model.py"
    file.write_text(MODEL)
    return file


def named(**options):
    """The name of the task that options of a run make."""
    (name,) = RunOptions(backends=["direct"], **options).tasks
    return name


def task_of(**options):
    """The task that options of a run make."""
    return registry.load("task", named(**options), AbstractTask)


def begun(tmp_path, **options):
    """What a worker begins with, and the names and shapes of the weights: nothing is started."""
    request = Request(backends=("direct",), field=options.pop("field"), y0=options.pop("y0", "8x2"), **options)
    (cell,) = task_cells(request.tasks[0], request, [("direct", "torch")]).cells
    worker = Worker(Assignment(replace(cell, backend=None)), None)
    inputs = tmp_path / "inputs.npz"
    beginning = worker.begin(inputs)
    with np.load(inputs) as arrays:
        return beginning, {name: arrays[name] for name in arrays.files}


def test_a_field_of_a_file_is_a_problem_without_a_task(model, tmp_path):
    """With its arguments, state and times; its file is what the figures depend on."""
    beginning, arrays = begun(tmp_path, field="model.py:ODEFunc", init_args=["hidden=5", "bias=False"])
    assert arrays["weights/field.net.0.weight"].shape == (5, 2)
    assert "weights/field.net.2.bias" not in arrays
    assert arrays["batch/y0"].shape == (8, 2)
    assert str(model) in beginning.files
    assert task_of(field="model.py:ODEFunc", y0="8x2", times="0:5:11").source.times == tuple(np.linspace(0, 5, 11))


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("name", "y0", "shapes"),
    [
        ("made", "4x2", {"field.net.0.weight": (3, 2)}),
        ("swirl", "2", {}),
        ("Pair", "4x2+4x1", {"field.net.weight": (2, 2), "field.net.bias": (2,)}),
    ],
)
def test_a_field_may_be_an_object_a_function_and_of_a_tuple(tmp_path, name, y0, shapes):
    """A state need not have an axis of examples."""
    _, arrays = begun(tmp_path, field=f"model.py:{name}", y0=y0)
    found = {key.removeprefix("weights/"): arrays[key].shape for key in arrays if key.startswith("weights/")}
    assert shapes.items() <= found.items()
    assert bool(found) == bool(shapes)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("suffix", ["npy", "pt"])
def test_a_state_is_read_from_a_file(tmp_path, suffix):
    """And all figures depend on that file."""
    state = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save("y0.npy", state)
    torch.save(torch.from_numpy(state), "y0.pt")
    beginning, arrays = begun(tmp_path, field="model.py:ODEFunc", y0=f"y0.{suffix}")
    np.testing.assert_array_equal(arrays["batch/y0"], state)
    assert str(tmp_path / f"y0.{suffix}") in beginning.files


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_are_read_from_a_file(tmp_path, suffix):
    """They are those of the file and no others."""
    field = nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))})
    torch.save(field.state_dict(), "w.pt")
    pytest.importorskip("safetensors.torch").save_file(field.state_dict(), "w.safetensors")
    beginning, arrays = begun(tmp_path, field="model.py:ODEFunc", weights=f"w.{suffix}")
    np.testing.assert_array_equal(arrays["weights/field.net.2.bias"], field["net"][2].bias.detach().numpy())
    assert str(tmp_path / f"w.{suffix}") in beginning.files


class Evil:
    """What would run code where it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


@pytest.mark.usefixtures("model")
def test_a_weights_file_is_not_unpickled(tmp_path):
    """Neither the weights nor the state."""
    torch.save({"net.0.weight": Evil()}, "w.pt")
    np.save("y0.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"`w.pt` holds objects and not tensors alone"):
        begun(tmp_path, field="model.py:ODEFunc", weights="w.pt")
    with pytest.raises(UserError, match=r"`w.pt` holds objects"):
        begun(tmp_path, field="model.py:ODEFunc", y0="w.pt")
    with pytest.raises(UserError, match=r"`y0.npy` holds no plain array"):
        begun(tmp_path, field="model.py:ODEFunc", y0="y0.npy")
    assert not Path("evil").exists()


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net.0.weight": (3, 2)}, r"`w.pt` lacks `net.0.bias`, `net.2.bias`, `net.2.weight`; the weights .* are `net"),
        (
            {"net.0.weight": (3, 2), "net.0.bias": (16,), "net.2.weight": (2, 16), "net.2.bias": (2,)},
            r"has `net.0.weight` of shape \(3, 2\), the field has it of shape \(16, 2\)",
        ),
        (None, r"must hold tensors by name"),
        (b"no file of torch's", r"`w.pt` cannot be read|`w.pt` holds objects"),
    ],
)
def test_weights_of_another_field_are_named(tmp_path, content, said):
    """By what is missing, or of which shape it is."""
    if isinstance(content, bytes):
        Path("w.pt").write_bytes(content)
    else:
        found = torch.zeros(2) if content is None else {name: torch.zeros(shape) for name, shape in content.items()}
        torch.save(found, "w.pt")
    with pytest.raises(UserError, match=said):
        begun(tmp_path, field="model.py:ODEFunc", weights="w.pt")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"field": "model.py:ODEFunc", "y0": None}, r"`--field` needs to know where it starts"),
        ({"field": None, "y0": "4x2"}, r"`--y0` is of a field; name it with `--field file.py:Class`"),
        ({"field": None, "y0": None, "init_args": ["a=1"]}, r"`--init-args` is of a field"),
        ({"field": "model.py:ODEFunc", "tasks": ["linear"]}, r"leave `--task` or `--field` out"),
        ({"field": "model.py:ODEFunc", "measure": "training"}, r"no data to be trained on"),
        ({"field": "model.py:ODEFunc", "y0": "y0.npy"}, r"there is no file `y0.npy`"),
        ({"field": "model.py:ODEFunc", "y0": "model.py"}, r"must be a shape such as 64x2, or a file .npy or .pt"),
        ({"field": "model.py:ODEFunc", "y0": "4x0"}, r"must have numbers in it"),
        ({"field": "model.py:ODEFunc", "times": "0:1"}, r"`--times` must be first:last:number"),
        ({"field": "model.py:ODEFunc", "times": "0,1,0.5"}, r"strictly increasing or strictly decreasing"),
        ({"field": "model.py:ODEFunc", "times": "1,1"}, r"strictly increasing or strictly decreasing"),
        ({"field": "model.py:ODEFunc", "init_args": ["width=3"]}, r"cannot be made as ODEFunc\(width=3\)"),
        ({"field": "model.py:ODEFunc", "init_args": ["3"]}, r"`--init-args` must be name=value"),
        ({"field": "model.py:made", "init_args": ["hidden=3"]}, r"are those of a class, and `model.py:made` is"),
        ({"field": "model.py:nothing"}, r"must be a field, called as field\(t, y\); it is int"),
        ({"field": "model.py:Plain"}, r"is the class Plain, which is derived from neither `torch.nn.Module` nor"),
        ({"field": "model.py:plain"}, r"is an object of Plain, which is derived from neither"),
        ({"field": "model.py:Absent"}, r"has no `Absent`"),
        ({"field": "model.py:ODEFunc", "weights": "w.eqx"}, r"there is no file `w.eqx`"),
        ({"field": "model.py:ODEFunc", "weights": "model.py"}, r"must be a file .pt or .safetensors"),
    ],
)
def test_what_is_wrong_is_a_sentence(tmp_path, options, said):
    """Before anything is measured."""
    with pytest.raises(NodebenchError, match=said):
        begun(tmp_path, **{"y0": "4x2", **options})


def test_times_and_arguments_are_read():
    """Numbers are numbers, text is text."""
    assert parse_times("[0,0.5,2]") == (0.0, 0.5, 2.0)
    assert parse_times("1:0:3") == (1.0, 0.5, 0.0)
    assert init_arguments("[a=1,b=(2,3),c=relu,d='x,y']") == {"a": 1, "b": (2, 3), "c": "relu", "d": "x,y"}


def test_a_field_is_not_part_of_all():
    """What needs an option is what one asks for."""
    assert "field" not in registry.working("task")
    assert "field" in registry.names("task")


def test_a_function_is_called_with_its_parameters_as_it_takes_them():
    """One by one, or as one value where it takes one more than time and state."""
    assert called_with(lambda t, y, a, b: None, (1, 2)) == (1, 2)
    assert called_with(lambda t, y, *p: None, (1, 2)) == (1, 2)
    assert called_with(lambda t, y, p: None, (1, 2)) == ((1, 2),)
    assert called_with(lambda t, y, p: None, (1,)) == (1,)
    assert called_with(lambda t, y, p: None, {"a": 1}) == ({"a": 1},)


RATE = """
import equinox as eqx, jax, jax.numpy as jnp

class Rate(eqx.Module):
    layer: eqx.nn.Linear

    def __init__(self, width=2, *, key):
        self.layer = eqx.nn.Linear(2, width, key=key)

    def __call__(self, t, y):
        return jnp.tanh(jax.vmap(self.layer)(y))
"""


def test_jax_weights_are_read_from_a_file(tmp_path, monkeypatch):
    """Those of Equinox and of safetensors; another shape is named, and nothing is unpickled."""
    eqx, jax = pytest.importorskip("equinox"), pytest.importorskip("jax")
    save = pytest.importorskip("safetensors.numpy").save_file
    monkeypatch.chdir(tmp_path)
    Path("rate.py").write_text(RATE)

    def weights(file):
        task = registry.load("task", named(field="rate.py:Rate", y0="4x2", weights=file), AbstractTask)
        return task.weights("field", 0)

    given = {"layer": eqx.nn.Linear(2, 2, key=jax.random.key(7))}
    eqx.tree_serialise_leaves("w.eqx", given)
    eqx.tree_serialise_leaves("wide.eqx", {"layer": eqx.nn.Linear(3, 2, key=jax.random.key(7))})
    save({"layer.weight": np.ones((2, 2)), "layer.bias": np.zeros(2)}, "w.safetensors")
    save({"layer.weight": np.ones((2, 3)), "layer.bias": np.zeros(2)}, "wide.safetensors")
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    Path("evil.npy").rename("evil.eqx")
    np.testing.assert_array_equal(weights("w.eqx")["field.layer.bias"], given["layer"].bias)
    np.testing.assert_array_equal(weights("w.safetensors")["field.layer.weight"], np.ones((2, 2)))
    for file in ("wide.eqx", "wide.safetensors"):
        with pytest.raises(
            UserError, match=r"has `layer.weight` of shape \(2, 3\), the field has it of shape \(2, 2\)"
        ):
            weights(file)
    with pytest.raises(UserError, match=r"`evil.eqx` is not of this field"):
        weights("evil.eqx")
    assert not Path("evil").exists()
