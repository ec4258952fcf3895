"""What holds on a GPU: the CPU's gradients and counts, its own allocator, one synchronisation, nothing rounded.

`make gpu-check` runs this on a machine with a GPU; `--device cpu` tries every line of it on one without.
"""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.worker.passes import traced_bytes
from nodebench.errors import UnsupportedError
from nodebench.frameworks.base import load_framework
from nodebench.results.machine import finds_cuda
from nodebench.results.store import Store
from nodebench.tasks.base import AbstractTask

pytestmark = pytest.mark.cuda

BACKENDS = [name for name in registry.names("backend") if find_spec(registry.describe("backend", name).framework)]
MULTISTEP = ("scipy",)


@pytest.fixture(scope="module")
def device(request):
    """The device that is tested."""
    return request.config.getoption("--device")


def framework_of(text):
    return registry.describe("backend", text).framework


def prepared(text, task_name, device, dtype="float64"):
    """A gradient step of a backend on a device, with the framework that made it."""
    name = framework_of(text)
    if device == "cuda" and not finds_cuda(name):
        pytest.skip(f"{name} finds no CUDA device")
    backend = registry.load("backend", text, AbstractBackend)
    task = registry.load("task", task_name, AbstractTask)
    model_name = task.default_model
    framework = load_framework(name)(device, dtype, 1)
    inputs = task.problem(model_name, 0, 16)
    solve = lambda *_: None  # noqa: E731  no model is solved here, only its field
    model = framework.build(
        task.models[model_name].targets[name], task.model_options(model_name), inputs.weights, solve
    )
    problem = framework.problem(model, inputs.batch)
    solver = "lsoda" if text in MULTISTEP else task.spec.solver
    spec = task.spec.__class__(solver=solver, rtol=1e-5, atol=1e-5, first_step=0.01, dtype=dtype)
    reason = backend.unsupported(problem, spec)
    if reason is not None:
        raise UnsupportedError(reason)
    return framework, backend.gradient_step(problem, spec, framework)


def numbers(framework, step):
    """A gradient as one vector by name."""
    found = step.step()
    params = framework.to_numpy(found).params
    return {"y0": framework.flat_state(found.y0), **{name: value.ravel() for name, value in params.items()}}


@pytest.mark.parametrize("task", ["linear", "cnf"])
@pytest.mark.parametrize("text", BACKENDS)
def test_a_gradient_is_the_one_of_the_cpu(text, task, device):
    """In float64, up to the rounding of sums in another order; evaluations and steps are the same."""
    try:
        there, here = (prepared(text, task, where) for where in (device, "cpu"))
    except UnsupportedError as error:
        pytest.skip(str(error))
    expected = numbers(*here)
    for name, value in numbers(*there).items():
        scale = np.linalg.norm(expected[name]) or 1.0
        assert np.linalg.norm(value - expected[name]) / scale < 1e-8, name
    assert there[1].evaluations() == here[1].evaluations()


@pytest.mark.parametrize("text", ["direct", "adjoint", "diffrax"])
def test_the_peak_is_that_of_the_devices_allocator(text, device):
    """Above zero for a step on a GPU; on a CPU, where there is none, memray counts."""
    framework, step = prepared(text, "linear", device)
    step.step()
    peak = framework.peak_device_bytes(step.step)
    assert (peak is None) == (device == "cpu")
    assert (traced_bytes(step.step)[0] if peak is None else peak) > 0


@pytest.mark.parametrize("text", [name for name in BACKENDS if framework_of(name) == "torch" and name not in MULTISTEP])
def test_a_step_waits_for_the_device_once(text, device, monkeypatch):
    """At its end: else its time would be that of the launches; not more often, which would slow it down."""
    import torch

    _, step = prepared(text, "linear", device)
    step.step()
    waited, wait = [], torch.cuda.synchronize
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: (waited.append(args), wait(*args)))
    step.step()
    assert len(waited) == (device == "cuda")


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_products_are_not_rounded_to_ten_bits(name, device):
    """TensorFloat-32 would be an error of a thousandth, which tolerances see."""
    pytest.importorskip(name)
    if device == "cuda" and not finds_cuda(name):
        pytest.skip(f"{name} finds no CUDA device")
    framework = load_framework(name)(device, "float32", 1)
    a, b = np.random.default_rng(0).standard_normal((2, 256, 256)).astype(np.float32)
    arrays = framework.arrays({"a": a, "b": b})
    product = framework.flat_state(arrays["a"] @ arrays["b"]).reshape(256, 256)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert np.linalg.norm(product - exact) / np.linalg.norm(exact) < 1e-6


def test_workers_on_a_device_are_forked_and_share_it(tmp_path, device):
    """A launcher opens no device before it forks; torch and JAX take turns, and neither takes all of the memory."""
    backends = ",".join(name for name in ("direct", "diffrax") if find_spec(framework_of(name)))
    command = [sys.executable, "-m", "nodebench", "run", "-b", backends, "-t", "linear", "--device", device]
    options = ["--measure", "gradient", "--preset", "smoke", "--rounds", "4", "--store", str(tmp_path / "r.db")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records = Store(tmp_path / "r.db").records()
    assert [(record.status, record.device, record.start_method) for record in records] == [
        ("ok", device, "fork") for _ in records
    ]
    assert all(record.step_s > 0 and record.peak_memory_bytes > 0 for record in records)
