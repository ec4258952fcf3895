"""`nodebench.compare`: live objects are measured as they are, and what cannot be is a sentence."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from commands import nodebench
from torch import nn

from nodebench.bench.matrix import task_cells
from nodebench.bench.messages import Assignment
from nodebench.bench.request import Request
from nodebench.bench.worker.main import Worker
from nodebench.comparing import Interruption, compare, given_problem
from nodebench.errors import UserError
from nodebench.tasks.field import objects
from nodebench.tasks.field.objects import GivenProblem, receive, unpacked
from nodebench.tasks.field.sending import packed


def field_class():
    """A class that no worker could import, as one of a notebook."""

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

        def forward(self, t, y):
            del t
            return self.net(y)

    return Field


Field = field_class()

Y0 = torch.linspace(-1, 1, 8).reshape(4, 2)


def quick(field=None, y0=Y0, t=(0.0, 1.0), **options):
    """A comparison that takes no longer than it must."""
    return compare(field or Field(), y0, t, **{"backends": "direct", "rounds": 1, "budget_s": 1, **options})


def test_a_field_is_measured_at_the_weights_that_it_has(monkeypatch, tmp_path):
    """With its loss, which closes over a target and a decoder; the caller's objects stay as they are."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    torch.manual_seed(3)
    field, decoder, target = Field(), nn.Linear(2, 3), torch.ones(4, 3)
    before = {name: value.clone() for name, value in field.state_dict().items()}

    def loss(ys):
        return (decoder(ys[-1]) - target).pow(2).mean()

    study = quick(field, backends=["direct", "torchdiffeq"], loss=loss, rtol=1e-6)
    exact = loss(nodebench_solution(field)).item()
    for record in study.records:
        assert record.status == "ok", record.reason
        assert record.loss == pytest.approx(exact, rel=1e-4)
        assert record.grad_error_params < 1e-3
        assert record.task.startswith("field[digest=")
    assert study.records[1].ratio is None or study.records[1].control == "direct"
    assert all(torch.equal(value, before[name]) for name, value in field.state_dict().items())
    assert list(tmp_path.iterdir()) == []
    assert set(study.to_dict()) == {"run", "records", "environments"}
    for library in ("pandas", "polars"):
        pytest.importorskip(library)
        frame = getattr(study, f"to_{library}")()
        assert list(frame["backend"]) == ["direct", "torchdiffeq"]


def nodebench_solution(field):
    """The states at 0 and 1 by many steps of Runge's method."""
    y, n = Y0.double(), 200
    twin = Field().double()
    twin.load_state_dict({name: value.double() for name, value in field.state_dict().items()})
    with torch.no_grad():
        for _ in range(n):
            middle = y + twin(0.0, y) / (2 * n)
            y = y + twin(0.0, middle) / n
    return torch.stack([Y0.double(), y]).float()


def test_a_function_closes_over_modules_or_comes_with_parameters():
    """What it closes over is differentiated by, and so are the parameters that come with it."""
    net = nn.Linear(2, 2)
    given = torch.eye(2), torch.zeros(2)
    (both,) = quick((lambda t, y, a, b: torch.tanh(net(y @ a + b)), given)).records
    assert both.status == "ok", both.reason
    assert (both.grad_error_params < 1e-2, both.n_params) == (True, 12)
    free = quick(lambda t, y: -y, y0=Y0[0, 0]).records[0]
    assert (free.status, free.grad_error_params) == ("ok", None)


def test_times_that_require_a_gradient_are_differentiated():
    """Their error is beside the others, with the reference's own."""
    (record,) = quick(t=torch.linspace(0.0, 1.0, 3, requires_grad=True)).records
    assert record.status == "ok", record.reason
    assert record.grad_error_times < 1e-2
    assert record.reference_error_times < record.grad_error_times
    assert record.method_error_times < 1e-4
    with pytest.raises(UserError, match="`differentiate_times` must be True or False; got 'yes'"):
        compare(Field(), Y0, [0.0, 1.0], differentiate_times="yes")


def test_what_cannot_be_sent_is_named(tmp_path):
    """By the names that lead to it from the field or the loss."""
    field = Field()
    field.net.log = (tmp_path / "log").open("w")
    lock = threading.Lock()
    with field.net.log, pytest.raises(UserError, match=r"it holds an open file \(.*log\), `net.log`"):
        quick(field)
    with pytest.raises(UserError, match=r"the loss cannot be sent .* it holds a lock, `lock`"):
        quick(loss=lambda ys: (lock, ys.mean())[1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"t": [0.0, 1.0, 0.5]}, r"strictly increasing or strictly decreasing"),
        ({"t": "soon"}, r"`t` must be numbers"),
        ({"y0": Y0.double()}, r"in float32, and the parts of `y0` are in float64; bring them together, or name the d"),
        ({"y0": Y0.to("meta")}, r"on cpu, and the parts of `y0` are on meta; bring them together, or name the device"),
        ({"y0": Y0.long()}, r"`y0` is int64"),
        ({"y0": Y0 / 0}, r"numbers that are not finite"),
        ({"y0": Y0.to(torch.bfloat16), "field": lambda t, y: y}, r"must be float32 or float64; .* in bfloat16"),
        ({"y0": {"a": Y0}}, r"`y0` must be a tensor or array, or a tuple of such; got dict"),
        ({"field": Field}, r"`field` is the class `Field`; compare an object of it"),
        ({"field": "model.py:F"}, r"`field` must be a module, a function, or a pair"),
        ({"loss": 3}, r"`loss` must be a function"),
        ({"budget_s": 0}, r"`budget_s` must be a positive number"),
        ({"backends": []}, r"needs a gradient method"),
        ({"backends": "dirct"}, r"unknown backend 'dirct'"),
        ({"backends": "diffrax"}, r"the field is written for torch"),
        ({"stor": "x"}, r"unknown option of `compare` 'stor'"),
        ({"solver": "dopri9"}, r"unknown solver"),
        ({"rtol": -1.0}, r"`rtol` must be positive"),
        ({"loss": lambda ys: ys[-1].mean(1)}, r"the loss has the shape \(4,\), and is to be a single number"),
        ({"loss": lambda ys: torch.ones(())}, r"the loss does not depend on the states"),
        ({"loss": lambda ys: ys.mean().item()}, r"the loss does not depend on the states"),
    ],
)
def test_what_is_wrong_is_a_sentence(options, sentence):
    """Before anything is measured, or when the field has been looked at."""
    with pytest.raises(UserError, match=sentence):
        quick(**options)


def test_after_an_interruption_there_is_what_there_is_by_then(monkeypatch):
    """Ctrl-C in the midst of the timing: errors, evaluations and memory are known; a second group is not there."""
    measure = Interruption.measure

    def interrupted(self, group):
        timer = threading.Timer(0.0, lambda: os.kill(os.getpid(), signal.SIGINT))
        tell = group.notify

        def notify(event):
            if event.kind == "timing" and not timer.is_alive() and not self.came:
                timer.start()
            tell(event)

        group.notify = notify
        measure(self, group)

    monkeypatch.setattr(Interruption, "measure", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        study = quick(backends=["direct", "adjoint"], rtol=[1e-3, 1e-4], rounds=1000, precision=1e-9)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [(record.backend, record.rtol) for record in study.records] == [("direct", 1e-3), ("adjoint", 1e-3)]
    for record in study.records:
        assert record.status == "ok", record.reason
        assert None not in (record.grad_error_params, record.nfe_forward, record.peak_memory_bytes)


def test_objects_live_in_the_process_that_received_them(monkeypatch):
    """They come anew at each call, and are gone with the process."""
    monkeypatch.setattr(objects, "_received", {})
    net = nn.Linear(2, 2)
    digest, content = packed(GivenProblem("torch", net, None, np.ones(2), (0.0, 1.0), None))
    with pytest.raises(UserError, match=r"lives only while"):
        unpacked(digest)
    receive({digest: content})
    one, other = unpacked(digest), unpacked(digest)
    assert one.field is not other.field
    assert torch.equal(one.field.weight, net.weight)
    assert not any(Path(digest).parent.glob(f"*{digest}*"))


def test_jax_fields_arrive_as_they_were_sent(tmp_path, monkeypatch):
    """A module that no worker could import, and a function with a dictionary of parameters; a notebook measures one."""
    eqx, jax = pytest.importorskip("equinox"), pytest.importorskip("jax")
    monkeypatch.setattr(objects, "_received", {})

    class Rate(eqx.Module):
        layer: eqx.nn.Linear
        name: str = eqx.field(static=True)

        def __init__(self, key):
            self.layer, self.name = eqx.nn.Linear(2, 2, key=key), "rate"

        def __call__(self, t, y):
            del t
            return jax.numpy.tanh(jax.vmap(self.layer)(y))

    def function(t, y, params):
        del t
        return jax.numpy.tanh(y @ params["a"] + params["b"])

    module, params = Rate(jax.random.key(0)), {"a": jax.numpy.eye(2), "b": jax.numpy.zeros(2)}
    names = [{"field.layer.weight", "field.layer.bias"}, {"field.given.a", "field.given.b"}]
    for (field, parameters), wanted in zip([(module, None), (function, params)], names, strict=True):
        given = given_problem(field, parameters, jax.numpy.asarray(Y0.numpy()), [0.0, 1.0], None)
        digest, content = packed(given)
        request = Request(backends=("diffrax",), tasks=(f"field[digest={digest},field=Rate]",), measure="gradient")
        receive({digest: content})
        (cell,) = task_cells(request.tasks[0], request, [("diffrax", "jax")]).cells
        Worker(Assignment(replace(cell, backend=None)), None).begin(tmp_path / "inputs.npz")
        with np.load(tmp_path / "inputs.npz") as arrays:
            assert {name.removeprefix("weights/") for name in arrays if name.startswith("weights/")} == wanted
    with pytest.raises(UserError, match=r"the function closes over `module`"):
        quick(lambda t, y: 2 * module(t, y), y0=jax.numpy.asarray(Y0.numpy()), backends="diffrax")
    with pytest.raises(UserError, match=r"of one framework"):
        quick(module, backends="diffrax")


MODEL = """
import torch
from torch import nn

class ODEFunc(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))

    def forward(self, t, y):
        return self.net(y)
"""


def test_a_field_of_a_file_is_measured_by_the_command_line(tmp_path):
    """Without a task, at weights of a file; what is wrong with it ends in a sentence."""
    (tmp_path / "model.py").write_text(MODEL)
    torch.save({"net.0.weight": torch.ones(4, 2)}, tmp_path / "few.pt")
    field = nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))})
    torch.save(field.state_dict(), tmp_path / "w.pt")
    given = ("run", "--field", "model.py:ODEFunc", "--y0", "4x2", "--times", "0,0.5,1", "--init-args", "hidden=4")
    quick = ("-b", "direct,diffrax", "--rounds", "1", "--store", "r.db", "--json")
    done = nodebench(*given, "--weights", "w.pt", *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    direct, diffrax = json.loads(done.stdout)
    assert (direct["status"], direct["batch_size"], direct["preset"]) == ("ok", 4, "quick")
    assert direct["task"] == "field[field=model.py:ODEFunc,init=hidden=4,times=[0,0.5,1],weights_file=w.pt,y0=4x2]"
    assert (diffrax["status"], diffrax["reason"]) == ("unsupported", "the field is written for torch.")
    wrong = nodebench(*given, "--weights", "few.pt", *quick, cwd=tmp_path)
    assert wrong.returncode == 1
    assert "the weights file `few.pt` lacks `net.0.bias`" in json.loads(wrong.stdout)[0]["reason"]
    for arguments, sentence in (
        ((*given[:6], "2,1,3"), "strictly increasing or strictly decreasing"),
        (given[:3], "`--field` needs to know where it starts"),
        ((*given[:4], "y0.npy"), "there is no file `y0.npy`"),
    ):
        done = nodebench(*arguments, "-b", "direct", "--rounds", "1", "--store", "r.db", cwd=tmp_path)
        assert done.returncode, done.stdout
        assert sentence in " ".join((done.stdout + done.stderr).split())
