"""Fields of users through the command line: right ones measured alike by all, wrong ones a row, nothing else lost."""

import json
from dataclasses import replace

import pytest
from commands import nodebench

pytest.importorskip("torch")

from users_fields import jax_file, torch_file

from nodebench.bench.matrix import Request, plan
from nodebench.bench.messages import Assignment
from nodebench.bench.reference import continuous_errors
from nodebench.bench.saved import Reference
from nodebench.bench.worker.main import Worker
from nodebench.errors import UnsupportedError

FAST = ["--preset", "smoke", "--rounds", "1", "--json"]


def run(tmp_path, *arguments, code=0):
    """Records of `nodebench run` by task and backend."""
    # Not in the folder of the test: its workers would be forked from a launcher of their own, which imports torch anew.
    done = nodebench("run", *FAST, "--store", tmp_path / "r.db", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return {(record["task"], record["backend"]): record for record in json.loads(done.stdout)}


def test_a_field_is_one_and_the_same_everywhere(tmp_path):
    """Random features that it draws are those of the seed in each process and each run, and every backend agrees."""
    init = "self.a = nn.Parameter(torch.ones(())); self.net = nn.Linear(16, 2)"
    init += "\nself.register_buffer('B', torch.randn(2, 16))"
    task = torch_file(tmp_path, "return self.a * torch.sin(t) * self.net(torch.sin(y @ self.B))", init)
    records = run(tmp_path, "-b", "direct,torchdiffeq", "-t", task, "--measure", "gradient")
    assert {record["status"] for record in records.values()} == {"ok"}
    assert len({record["field_value"] for record in records.values()}) == 1
    for record in records.values():
        assert record["grad_error_params"] < 1e-2
    before = records[task, "direct"]
    again = run(tmp_path, "-b", "direct", "-t", task, "--measure", "counts")[task, "direct"]
    for figure in ("loss", "nfe_forward", "field_value", "field_derivative"):
        assert again[figure] == before[figure]
    # The same field with another rate in its file is another problem, whose reference is not that of before.
    edited = (tmp_path / "bad.py").read_text().replace("torch.sin(t)", "1.0001 * torch.sin(t)")
    (tmp_path / "bad.py").write_text(edited)
    other = run(tmp_path, "-b", "direct", "-t", task, "--measure", "gradient")[task, "direct"]
    assert other["field_value"] != before["field_value"]
    assert other["grad_error_params"] == pytest.approx(before["grad_error_params"], rel=0.2)


def test_a_wrong_field_takes_nothing_else_with_it(tmp_path):
    """Its cells are rows that name the field, by whichever backend, and the other task is measured."""
    task = torch_file(tmp_path, "return self.net(y)[:, :1]")
    records = run(tmp_path, "-b", "direct,torchdiffeq", "-t", f"{task},linear", "--measure", "counts", code=1)
    for backend in ("direct", "torchdiffeq"):
        assert records["linear", backend]["status"] == "ok"
        assert records[task, backend]["status"] == "failed"
        assert "the field `F` returned the shape (64, 1)" in records[task, backend]["reason"]


def test_a_contracting_field_condemns_no_exact_method(tmp_path):
    """What the reference does not know is null with its reason, and what fails says that it is the backward solve."""
    task = torch_file(tmp_path, "return -50 * y + self.net(y)", times=(0.0, 2.0))
    records = run(tmp_path, "-b", "direct,adjoint", "-t", task, "--measure", "gradient", code=1)
    direct, adjoint = records[task, "direct"], records[task, "adjoint"]
    assert (direct["status"], direct["grad_error_y0"]) == ("ok", None)
    assert direct["grad_error_params"] < 1e-3
    assert any("no grad_error_y0" in note and "below what float32 can say" in note for note in direct["notes"])
    assert adjoint["status"] in ("failed", "diverged")
    assert "in the backward solve" in adjoint["reason"]


def test_a_field_without_parameters_has_no_error_of_them(tmp_path):
    """All but d/dparams is measured, and a training says that there is nothing to train."""
    forward = "return torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)"
    task = torch_file(tmp_path, forward, "self.net = None; self.trace = []")
    record = run(tmp_path, "-b", "direct", "-t", task, "--measure", "both")[task, "direct"]
    assert (record["status"], record["n_params"], record["grad_error_params"]) == ("ok", 0, None)
    assert record["grad_error_y0"] < 1e-2
    assert record["step_s"] > 0
    assert record["metric_value"] is None
    assert any("no trainable parameters" in note for note in record["notes"])
    assert any("no training: there is nothing to train" in note for note in record["notes"])


def test_fixed_steps_are_one_grid(tmp_path):
    """Every library takes the grid of the first step, so that errors are those of methods."""
    settings = ["--solver", "midpoint", "--first-step", "0.07", "--measure", "counts"]
    task = torch_file(tmp_path)
    records = run(tmp_path, "-b", "direct,torchdiffeq,torchdiffeq[land=true]", "-t", task, *settings)
    assert {record["status"] for record in records.values()} == {"ok"}
    assert {record["n_accepted"] for record in records.values()} == {15}


TWO = {
    "task.py": """
from dataclasses import dataclass
from typing import ClassVar
from nodebench.tasks.field.task import AbstractFieldTask

@dataclass(frozen=True)
class T(AbstractFieldTask):
    fields: ClassVar = {"torch": "in_torch.py:F", "jax": "in_jax.py:F"}
    def initial_states(self, n, rng):
        return rng.standard_normal((n, 2))
""",
    "in_torch.py": """
import torch
from torch import nn

class F(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
        self.layers[0].requires_grad_(False)

    def forward(self, t, y):
        return self.layers[1](torch.tanh(self.layers[0](y)))
""",
    "in_jax.py": """
import equinox as eqx, jax, jax.numpy as jnp

class F(eqx.Module):
    layers: tuple
    def __init__(self, *, key):
        self.layers = (eqx.nn.Linear(2, 4, key=key), eqx.nn.Linear(4, 2, key=key))

    def __call__(self, t, y):
        first = jax.lax.stop_gradient(self.layers[0])
        return jax.vmap(lambda x: self.layers[1](jnp.tanh(first(x))))(y)
""",
}


def test_a_layer_frozen_in_one_framework_alone_is_named(tmp_path):
    """Two cells, of which one has parameters that the other has not, are not one comparison."""
    pytest.importorskip("diffrax")
    for name, text in TWO.items():
        (tmp_path / name).write_text(text)
    task = f"{tmp_path / 'task.py'}:T"
    settings = ["--solver", "euler", "--measure", "counts"]
    records = run(tmp_path, "-b", "direct,diffrax", "-t", task, *settings, code=1)
    assert records[task, "direct"]["status"] == "ok"
    assert records[task, "diffrax"]["status"] == "incomparable"
    assert "its parameter `field.layers.0.weight` is" in records[task, "diffrax"]["reason"]


class Silent:
    """Where a worker would report its progress."""

    def send(self, content):
        """Hear nothing."""


def trained(tmp_path, task, backend):
    """What a training of a task ends with, by equal steps, which no tolerances are swept for; in this process."""
    request = Request(backends=(backend,), tasks=(task,), solvers=("midpoint",), measure="training", preset="smoke")
    cell = plan(request).cells[0]
    return Worker(Assignment(cell), Silent()).train(0.1, str(tmp_path / "checkpoint"), 0, tmp_path)


def measured(tmp_path, task, backend):
    """Errors of a gradient, by the commands of a run in this process, whose compiled programs are kept."""
    request = Request(backends=(backend,), tasks=(task,), solvers=("midpoint",), measure="gradient", preset="smoke")
    (cell,) = plan(request).cells
    inputs, folder, gradients = tmp_path / "inputs.npz", tmp_path / "references", tmp_path / "gradients.npz"
    preparing, worker = Worker(Assignment(replace(cell, backend=None)), Silent()), Worker(Assignment(cell), Silent())
    first_step = preparing.begin(inputs).first_step
    reference = Reference.load(preparing.reference(first_step, inputs, folder, 1).path)
    worker.check(first_step, inputs)
    worker.prepare(first_step, inputs)
    worker.count()
    worker.discrete(first_step, inputs, folder)
    worker.gradients(gradients)
    worker.memory()
    worker.split(0.01)
    worker.warm_up()
    worker.turn()
    return continuous_errors(Reference.load(gradients), reference, cell.spec)


SHAPES = {
    "one number": ("-self.a * y", "rng.standard_normal(n)"),
    "many axes": ("-self.a * y", "rng.standard_normal((n, 3, 4, 4))"),
    "two parts": ("(-self.a * y[0], -y[1])", "(rng.standard_normal((n, 2)), rng.standard_normal((n, 3)))"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_states_of_any_shape_are_trained_on(tmp_path, shape):
    """To the metric of each example, over all numbers of its state."""
    rate, states = SHAPES[shape]
    task = torch_file(
        tmp_path, f"return {rate}", "self.net = None; self.a = nn.Parameter(torch.ones(()))", states=states
    )
    assert 0 < trained(tmp_path, task, "direct").found.metric_value < 1


def test_layers_that_are_never_trained_stay_so(tmp_path):
    """A training switches on what was on when the model was made, and not a dropout that was switched off."""
    task = torch_file(tmp_path, init="self.net.append(nn.Dropout(0.5).eval())")
    assert trained(tmp_path, task, "direct").found.metric_value > 0


def test_times_that_float32_cannot_tell_apart_are_not_trained_on(tmp_path):
    """A training would go on with the initial states for ever; in float64 it is a task like any."""
    task = torch_file(tmp_path, times=(1.7e9, 1.7e9 + 1))
    records = run(tmp_path, "-b", "direct", "-t", task, "--measure", "training", code=1)
    assert "cannot be told apart in float32" in records[task, "direct"]["reason"]
    records = run(tmp_path, "-b", "direct", "-t", task, "--measure", "counts", "--dtype", "float64")
    assert records[task, "direct"]["status"] == "ok"


def test_nothing_to_train_is_no_failure(tmp_path):
    """A sentence, alike in both frameworks."""
    with pytest.raises(UnsupportedError, match="nothing to train"):
        trained(tmp_path, torch_file(tmp_path, "return -y", "self.net = None"), "direct")


def test_states_of_any_shape_in_jax(tmp_path):
    """Gradients and trainings of a tuple, an initial state of nothing but numbers, and no parameters at all."""
    pytest.importorskip("diffrax")
    rate, states = SHAPES["two parts"]
    init, attributes = "self.net = None; self.a = jnp.ones(())", "a: jax.Array"
    task = jax_file(tmp_path, f"return {rate}", init, attributes=attributes, states=states)
    assert 0 < trained(tmp_path, task, "diffrax").found.metric_value < 1
    (tmp_path / "bare").mkdir()
    bare = jax_file(
        tmp_path / "bare", "return -y * jnp.sin(t)", "self.net = None", states="rng.standard_normal(n)", task=TIMED
    )
    with pytest.raises(UnsupportedError, match="nothing to train"):
        trained(tmp_path, bare, "diffrax")
    errors = measured(tmp_path, bare, "diffrax")
    assert errors.grad_error_params is None
    assert errors.grad_error_y0 < 1e-2
    assert errors.grad_error_times < 1e-2


TIMED = "differentiate_times: ClassVar = True"


def test_a_task_asks_for_gradients_of_its_times(tmp_path):
    """By an attribute; they are judged by a reference that states its own error, and a training does without."""
    task = torch_file(tmp_path, task=TIMED, times=(0.0, 0.5, 1.0))
    errors = measured(tmp_path, task, "direct")
    assert 0 < errors.grad_error_times < 1e-2
    assert 0 < errors.reference_error_times < errors.grad_error_times
    (tmp_path / "plain").mkdir()
    assert measured(tmp_path / "plain", torch_file(tmp_path / "plain"), "direct").grad_error_times is None
    assert trained(tmp_path, task, "direct").found.metric_value > 0
