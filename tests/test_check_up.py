"""A field is measured as it is, or refused in a sentence that says what to write instead. No process is started."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import scipy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import numpy as np
import torch
from users_fields import torch_file

from nodebench import registry
from nodebench.bench import reference
from nodebench.bench.matrix import Request, task_cells
from nodebench.bench.messages import Assignment
from nodebench.bench.reference import solve_reference
from nodebench.bench.worker.main import Worker
from nodebench.conformance.task import task_checks
from nodebench.errors import NodebenchError

TIMES = {
    "sine": "return torch.sin(t) * self.net(y)",
    "expanded": "return self.net(y) + torch.cat([t.expand(len(y), 1), y[:, :1]], 1)",
    "viewed": "return t.view(1, 1) * self.net(y)",
    "number": "return self.net(y) * t.item()",
    "indexed": "return t[None] * y",
    "filled": "return self.net(y) + torch.full((2,), t.item()).to(y)",
    "compared": "return torch.where(t < 2, y, self.net(y))",
    "float": "return self.net(y) * math.exp(-float(t))",
    "broadcast": "return self.net(y + t)",
    "moved": "t = t.to(y)\nreturn self.net(y) * t.cos()",
}
"""Fields that use their time, each as users do somewhere."""


def cell_of(task, backend="direct", **changes):
    """The one cell of a task."""
    request = Request(backends=(backend,), tasks=(task,), measure="gradient", preset="smoke", **changes)
    return task_cells(task, request, [(backend, registry.describe("backend", backend).framework)]).cells[0]


def measured(task, *, with_reference=True, **changes):
    """What a run does with a cell before it times it: check-up, reference, first step; no process is started."""
    cell = cell_of(task, **changes)
    alone = replace(cell, backend=None)
    with TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        beginning = Worker(Assignment(alone), None).begin(inputs)
        reference = solve_reference(alone, beginning.first_step, inputs, Path(folder), 1) if with_reference else None
        worker = Worker(Assignment(cell), None)
        checked = worker.check(beginning.first_step, inputs)
        prepared = worker.prepare(beginning.first_step, inputs)
        return beginning, reference, prepared.found.joined(checked.found)


SOUND = {
    **{f"time {name}": {"forward": forward} for name, forward in TIMES.items()},
    "a parameter that is one number": {"init": "self.a = nn.Parameter(torch.tensor(-0.5))", "forward": "return self.a * y"},
    "no parameters": {"init": "self.net = None", "forward": "return torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)"},
    "all frozen": {"init": "for p in self.parameters(): p.requires_grad_(False)"},
    "unused parameters": {"init": "self.unused = nn.Linear(3, 3)"},
    "tied parameters": {"init": "self.tied = self.net[0].weight", "forward": "return self.net(y) @ self.tied.t() @ self.tied"},
    "a buffer": {"init": "self.register_buffer('B', torch.randn(2, 2))", "forward": "return self.net(torch.sin(y @ self.B))"},
    "a plain tensor": {"init": "self.A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])", "forward": "return y @ self.A"},
    "plain tensors in a list": {"init": "self.As = [torch.eye(2), 2 * torch.eye(2)]", "forward": "return y @ self.As[1]"},
    "a complex constant": {"init": "self.k = torch.tensor([1 + 1j, 2 - 1j])", "forward": "return -y * self.k.abs()"},
    "an integer constant": {"init": "self.i = torch.tensor([1, 0])", "forward": "return self.net(y[:, self.i])"},
    "dropout of nothing": {"init": "self.net.append(nn.Dropout(0.0))"},
    "dropout that is off": {"init": "self.net.append(nn.Dropout(0.5).eval())"},
    "batch normalisation that is off": {"init": "self.net.append(nn.BatchNorm1d(2).eval())"},
    "counts its calls": {"init": "self.calls = 0", "forward": "self.calls += 1\nreturn self.net(y)"},
    "states of one number": {"init": "self.a = nn.Parameter(torch.ones(()))", "forward": "return -self.a * y", "states": "rng.standard_normal(n)"},
    "states with many axes": {"forward": "return -y", "init": "self.net = None", "states": "rng.standard_normal((n, 3, 4, 4))"},
    "states in two parts": {"forward": "return self.net(y[0]), -y[1]", "states": "(rng.standard_normal((n, 2)), rng.standard_normal((n, 3)))"},
    "a gradient inside": {
        "init": "self.H = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))",
        "forward": "with torch.enable_grad():\n    y = y if y.requires_grad else y.requires_grad_()\n"
        "    g = torch.autograd.grad(self.H(y).sum(), y, create_graph=True)[0]\nreturn torch.stack([g[:, 1], -g[:, 0]], 1)",
    },
    "backwards in time": {"times": (1.0, 0.0)},
    "a span of a nanosecond": {"times": (0.0, 1e-9)},
    "zero at the start": {"states": "np.zeros((n, 2))", "top": "import numpy as np"},
    "settings of the process": {"top": "torch.set_num_threads(2)\ntorch.set_default_dtype(torch.float64)\ntorch.set_float32_matmul_precision('high')"},
}  # fmt: skip


@pytest.fixture
def few_pieces():
    """Of fields that have nothing to step over: a second solve by fewer of the short steps that would find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "PIECES", 20)
        yield


@pytest.mark.usefixtures("few_pieces")
@pytest.mark.parametrize("field", SOUND.values(), ids=SOUND.keys())
def test_a_sound_field_is_measured(tmp_path, field):
    """It has a reference, a finite loss, and figures by which it is known; the process is as it was."""
    _, reference, preparation = measured(torch_file(tmp_path, **field))
    assert reference.path is not None
    assert np.isfinite(preparation.loss)
    assert preparation.field_value > 0
    assert preparation.field_derivative is not None
    assert preparation.notes == []
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (1, torch.float32)
    assert torch.get_float32_matmul_precision() == "highest"


GRADIENT_INSIDE = "{}g = torch.autograd.grad(self.net(y).sum(), y, create_graph=True)[0]\n{}"
REFUSED = {
    "a hidden leaf": (
        {"init": "self.w = torch.full((2,), 0.5, requires_grad=True)", "forward": "return self.net(y) * self.w"},
        "depends on `w` of F, .* not one of its parameters.*nn.Parameter",
    ),
    "a list of parameters": (
        {"init": "self.ws = [nn.Parameter(torch.ones(2))]", "forward": "return self.net(y) * self.ws[0]"},
        "depends on `ws.0` of F.*ParameterList",
    ),
    "parameters in a mapping": (
        {"init": "self.ws = {'a': nn.Parameter(torch.ones(2))}", "forward": "return self.net(y) * self.ws['a']"},
        "depends on `ws.a` of F",
    ),
    "a list of layers": (
        {"init": "self.layers = [nn.Linear(2, 2)]", "forward": "return self.layers[0](y)"},
        r"uses `layers.0.weight` of F.*nn\.ModuleList",
    ),
    "a global parameter": (
        {"top": "W = nn.Parameter(torch.tensor(0.5))", "forward": "return self.net(y) * W"},
        r"depends on the global `W` of bad\.py",
    ),
    "a parameter in a closure": (
        {"top": "def made():\n    w = nn.Parameter(torch.ones(2))\n    return lambda y: y * w\nG = made()", "forward": "return G(y)"},
        r"depends on `w` of bad\.py",
    ),
    "a global constant": (
        {"top": "A = torch.eye(2)", "forward": "return y @ A"},
        r"the global `A` of bad\.py, in torch\.float32.*register_buffer",
    ),
    "another dtype": ({"forward": "return torch.zeros(y.shape) * 1.0"}, "returned float32 for a state in float64.*zeros_like"),
    "another shape": ({"forward": "return self.net(y)[:, :1]"}, r"returned the shape \(64, 1\) for a state of shape \(64, 2\)"),
    "one number": ({"forward": "return self.net(y).sum()"}, r"returned the shape \(\)"),
    "nothing": ({"forward": "pass"}, "returned of type NoneType"),
    "a tuple": ({"forward": "return (self.net(y),)"}, "returned a tuple of 1"),
    "noise": ({"forward": "return self.net(y) * torch.randn_like(y)"}, "two evaluations of the field `F` at the same t and y differ"),
    "noise that is kept": (
        {"init": "self.e = None", "forward": "if self.e is None: self.e = torch.randn_like(y)\nreturn self.net(y) + self.e"},
        "two evaluations of the field `F`",
    ),
    "NumPy's noise": ({"top": "import numpy as np", "forward": "return y * np.random.rand()"}, "two evaluations of the field `F`"),
    "a functional dropout": ({"forward": "return Fn.dropout(self.net(y), 0.1, self.training)"}, "two evaluations"),
    "a layer with dropout": (
        {
            "init": "self.into = nn.Linear(2, 8); self.mha = nn.MultiheadAttention(8, 2, dropout=0.1); self.out = nn.Linear(8, 2)",
            "forward": "h = self.into(y)[None]\nreturn self.out(self.mha(h, h, h)[0][0])",
        },
        "it is `mha`, a MultiheadAttention",
    ),
    "spectral norm": (
        {"init": "self.w = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))", "forward": "return self.w(y.repeat(1, 32))[:, :2]"},
        "two evaluations.*_SpectralNorm",
    ),
    "batch normalisation": ({"init": "self.net.append(nn.BatchNorm1d(2))"}, "changes its `net.3.running_mean, net.3.running_var"),
    "a memory of calls": (
        {"init": "self.calls = 0", "forward": "self.calls += 1\nreturn self.net(y) / self.calls"},
        "two evaluations of the field",
    ),
    "its state in place": ({"forward": "y *= 0.5\nreturn self.net(y)"}, r"changes its state in place.*y\.clone\(\)"),
    "a layer in place": ({"init": "self.net.insert(0, nn.ReLU(inplace=True))"}, "changes its state in place"),
    "its time in place": ({"forward": "t += 1\nreturn self.net(y) * t"}, "changes its time in place"),
    "a detached state": (
        {"forward": GRADIENT_INSIDE.format("with torch.enable_grad():\n    y = y.detach().requires_grad_()\n    ", "return g")},
        "by its state is not that of its values.*is something detached",
    ),
    "a detached parameter": ({"forward": "return y * self.net[0].bias.detach()[:2]"}, "by its parameters is not that of its values"),
    "a gradient without a graph": (
        {"forward": GRADIENT_INSIDE.format("y = y.detach().requires_grad_()\n", "return g")},
        r"takes a gradient inside itself.*torch\.enable_grad",
    ),
    "a complex parameter": (
        {"init": "self.k = nn.Parameter(torch.randn(2, dtype=torch.cfloat))", "forward": "return y * self.k.abs()"},
        "parameter `k` of `F` is complex.*view_as_complex",
    ),
    "a root of nothing": (
        {"forward": "return self.net(y) * y.norm(dim=1, keepdim=True).sqrt()", "states": "0 * rng.standard_normal((n, 2))"},
        "by the state is not finite at t = 0, where the solve begins",
    ),
    "no number at the start": ({"forward": "return self.net(y) / (t - t)"}, "`F` is not finite at t = 0, where the solve begins"),
    "what it raises": ({"forward": "assert len(y) < 3, 'too many'\nreturn y"}, "too many"),
    "times too near": ({"times": (1.7e9, 1.7e9 + 60)}, "cannot be told apart in float32.*--dtype float64"),
    "integers": ({"states": "rng.integers(0, 9, (n, 2))"}, r"`initial_states` of T returned int64.*\.astype\(float\)"),
    "complex states": ({"states": "rng.standard_normal((n, 2)) + 1j"}, "`initial_states` of T returned complex128"),
    "a list of states": ({"states": "[1.0] * n"}, "`initial_states` of T must return a NumPy array.*list"),
    "no numbers": ({"states": "rng.standard_normal((n, 0))"}, r"`initial_states` of T must return .* states.*\(2048, 0\)"),
    "a state too many": ({"states": "rng.standard_normal((n + 1, 2))"}, r"`initial_states` of T must return 2048 states.*2049"),
    "one state": ({"states": "rng.standard_normal((1, 2))"}, r"`initial_states` of T must return 2048 states.*\(1, 2\)"),
    "states that are no numbers": ({"states": "float('nan') * rng.standard_normal((n, 2))"}, "`initial_states` of T .*not finite"),
    "targets of another shape": (
        {"states": "rng.standard_normal((n, 1))", "forward": "return -y", "task": "def targets(self, y0): return y0[:, 0]"},
        r"`targets` of T must have the shape of the states, \(2048, 1\); it returned \(2048,\)",
    ),
    "too few targets": ({"task": "def targets(self, y0): return y0[1:]"}, r"`targets` of T .*\(2047, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize(("field", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_field_that_is_none_is_refused_in_a_sentence(tmp_path, field, sentence):
    """Before anything is measured, on one line, with the name of what to change."""
    task = torch_file(tmp_path, **field)
    with pytest.raises((NodebenchError, AssertionError), match=sentence) as raised:
        measured(task)
    if isinstance(raised.value, NodebenchError):
        assert "\n" not in str(raised.value)


def test_a_setting_that_a_field_makes_is_said(tmp_path):
    """What it sets at every evaluation cannot be set back for good, and its times are taken under it."""
    task = torch_file(tmp_path, "torch.set_default_dtype(torch.float64)\nreturn self.net(y)")
    _, _, preparation = measured(task)
    torch.set_default_dtype(torch.float32)
    assert preparation.notes == [
        "the field `F` sets torch.set_default_dtype(torch.float64) for the whole process whenever it is evaluated."
    ]


def test_what_differs_from_build_to_build_is_said(tmp_path):
    """Random numbers that no seed sets are the same in all processes, and a note says that they are not reproducible."""
    init = "import numpy as np\nself.B = torch.tensor(np.random.default_rng().standard_normal((2, 2)))"
    beginning, _, _ = measured(torch_file(tmp_path, "return self.net(y @ self.B)", init))
    assert beginning.found.notes == ["`field.B` of the model are other numbers each time it is made: not reproducible."]


def test_a_pulse_that_every_solver_steps_over_is_found(tmp_path):
    """A second reference by short steps sees it, and no error is stated."""
    task = torch_file(
        tmp_path,
        "return -self.a * y + self.k * torch.exp(-((t - 6) / 0.02) ** 2)",
        "self.net = None; self.a = nn.Parameter(torch.tensor(0.5)); self.k = nn.Parameter(torch.tensor(1.0))",
        times=(0.0, 10.0),
        states="0 * rng.standard_normal((n, 1))",
    )
    _, reference, _ = measured(task)
    assert reference.path is None
    assert "may have stepped over something between t = 5.9" in reference.reason


def test_a_jump_whose_time_is_a_parameter_is_found(tmp_path):
    """Its derivative is zero, and that of the loss is not: no gradient method can be right, and the parameter is named."""
    task = torch_file(
        tmp_path,
        "u = torch.where(torch.as_tensor(t) < self.T, 1.0, 0.0)\nreturn -y + u * self.k",
        "self.net = None; self.T = nn.Parameter(torch.tensor(0.4)); self.k = nn.Parameter(torch.tensor(1.5))",
    )
    _, reference, _ = measured(task)
    assert reference.contradicted
    assert "the loss depends on `T` in a way that its derivative does not show (a jump" in reference.reason


@pytest.mark.parametrize("damage", [lambda text: text[:100], lambda _: b"", lambda _: bytes(range(256))])
def test_a_damaged_reference_is_computed_anew(tmp_path, damage):
    """It is found again where it is sound, replaced where it is not, and a note names the file."""
    cell = replace(cell_of("linear"), backend=None)
    inputs, kept = tmp_path / "inputs.npz", tmp_path / "references"
    first_step = Worker(Assignment(cell), None).begin(inputs).first_step
    scipy.linalg.expm(np.eye(1))  # what a process has loaded is part of a reference's name, and first use loads more
    solve_reference(cell, first_step, inputs, kept, 1)
    first = solve_reference(cell, first_step, inputs, kept, 1)
    before = first.path.read_bytes()
    assert solve_reference(cell, first_step, inputs, kept, 1).notes == ()
    first.path.write_bytes(damage(before))
    again = solve_reference(cell, first_step, inputs, kept, 1)
    assert str(first.path) in again.notes[0]
    assert "computed anew" in again.notes[0]
    assert solve_reference(cell, first_step, inputs, kept, 1).notes == ()


PARTS = {
    "rank": st.sampled_from(["()", "(1,)", "(2,)", "(1, 2)", "(2, 2)"]),
    "time": st.sampled_from(sorted(TIMES)),
    "extra": st.sampled_from(["", "self.unused = nn.Linear(3, 3)", "self.net[0].weight.requires_grad_(False)",
                              "self.register_buffer('B', torch.randn(2, 2))", "self.A = torch.rand(2, 2)",
                              "self.tied = self.net[0].weight"]),
    "tuple": st.booleans(),
    "fault": st.sampled_from(["", "", "", "rate = rate.sum()", "rate = rate + torch.rand(())", "rate = rate.detach()",
                              "y.mul_(0.5)", "rate = rate * W"]),
}  # fmt: skip


@pytest.mark.usefixtures("few_pieces")
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(parts=st.fixed_dictionaries(PARTS))
def test_a_run_and_a_check_agree(parts):
    """Of any field, whatever its parameters, constants, times and faults, both find it sound or both refuse it."""
    body = TIMES[parts["time"]].replace("return ", "rate = ")
    forward = ["whole, y = y, y[0]"] if parts["tuple"] else []
    forward += [body, "rate = rate * self.p.sum()", parts["fault"] or "pass"]
    forward.append("return (rate, -whole[1])" if parts["tuple"] else "return rate")
    states = (
        "(rng.standard_normal((n, 2)), rng.standard_normal((n, 3)))"
        if parts["tuple"]
        else "rng.standard_normal((n, 2))"
    )
    init = f"self.p = nn.Parameter(torch.ones({parts['rank']}))\n{parts['extra']}"
    with TemporaryDirectory() as folder:
        top = "W = nn.Parameter(torch.tensor(0.5))"
        task = torch_file(Path(folder), "\n".join(forward), init, top=top, states=states, times=(0.0, 0.25))
        outcomes = (check.outcome() for check in task_checks(task))
        failed = next((outcome.reason for outcome in outcomes if outcome.state == "failed"), "")
        try:
            measured(task, with_reference=False)  # whose failure is a note, and refuses nothing
            refused = ""
        except NodebenchError as error:
            refused = str(error)
    assert bool(failed) == bool(refused) == bool(parts["fault"]), (failed, refused)
