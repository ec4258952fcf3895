"""A trained network is solved at other tolerances; what is counted and compared is exact."""

import pytest

from nodebench.bench.plan import Cell
from nodebench.bench.worker import training as sweeping
from nodebench.bench.worker.subject import build_problem, make_subject
from nodebench.problem import SolverSpec


def sweep(backend, framework, **spec):
    pytest.importorskip(framework)
    cell = Cell(
        task="linear",
        model="linear",
        backend=backend,
        framework=framework,
        spec=SolverSpec(dtype="float64", **spec),
        device="cpu",
        threads=1,
        seed=0,
        preset="smoke",
        batch_size=4,
    )
    subject = make_subject(cell, "float64", 0.05)
    return sweeping.tolerance_sweep(subject, build_problem(subject, subject.inputs()).problem)


@pytest.mark.parametrize(
    ("backend", "framework", "tolerances"),
    [
        ("direct", "torch", sweeping.TOLERANCES),
        ("torchdiffeq-adjoint", "torch", sweeping.TOLERANCES),
        ("diffrax", "jax", sweeping.TOLERANCES[::2]),  # each is compiled anew
    ],
)
def test_error_falls_and_evaluations_rise_with_the_tolerance(backend, framework, tolerances, monkeypatch):
    """A tighter tolerance costs evaluations and buys accuracy."""
    monkeypatch.setattr(sweeping, "TOLERANCES", tolerances)
    entries = sweep(backend, framework)
    assert [entry["rtol"] for entry in entries] == list(tolerances)
    evaluations = [entry["nfe_forward"] for entry in entries]
    errors = [entry["solution_error"] for entry in entries]
    assert evaluations == sorted(evaluations)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4 < errors[0]
    assert all(entry["forward_s"] > 0 for entry in entries)


def test_fixed_steps_have_no_sweep():
    """A method of fixed steps has no tolerance to vary."""
    assert sweep("direct", "torch", solver="rk4") == []
