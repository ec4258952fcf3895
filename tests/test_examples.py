"""The examples run as they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import nodebench

from nodebench import registry
from nodebench.conformance import task_checks
from nodebench.tasks.base import AbstractTask

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    "torch": ("--backend", "direct", "--measure", "gradient"),
    "jax": ("--backend", "diffrax", "--measure", "counts", "--solver", "euler"),
}
"""How each example of a field is run: in JAX all but the counts compiles for long, and a method of many stages too."""

COMPILED = ("its metric is a number for each example", "its gradient problem can be solved")


@pytest.mark.parametrize("framework", EXAMPLES)
def test_a_field_of_ones_own_is_measured(tmp_path, framework):
    """The example is under 40 lines, and its cell is ok with nothing installed."""
    pytest.importorskip(framework)
    assert len((ROOT / f"examples/{framework}_field.py").read_text().splitlines()) < 40
    target = f"./examples/{framework}_field.py:MyTask"
    arguments = ("run", "-t", target, *EXAMPLES[framework], "--preset", "smoke", "--rounds", "1")
    done = nodebench(*arguments, "--json", "--store", str(tmp_path / "r.db"), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert (record["status"], record["dataset"], record["n_params"]) == ("ok", "initial-states", 129)
    assert record["nfe_forward"] > 0


@pytest.mark.parametrize("framework", EXAMPLES)
def test_a_field_of_ones_own_is_a_task_like_any_other(framework):
    """Every check that applies to it holds; in torch, training it is among them."""
    pytest.importorskip(framework)
    checks = task_checks(f"{ROOT}/examples/{framework}_field.py:MyTask")
    if framework == "jax":  # whose every solve compiles
        checks = [check for check in checks if check.name not in COMPILED]
    assert [outcome.reason for outcome in (check.outcome() for check in checks) if outcome.state == "failed"] == []


def test_weights_of_a_jax_field_are_the_same_in_32_and_64_bits():
    """A reference in float64 has the weights of the float32 cell that it judges."""
    jax = pytest.importorskip("jax")
    task = registry.load("task", f"{ROOT}/examples/jax_field.py:MyTask", AbstractTask)
    narrow = task.weights("field", 3)
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003  the signature is JAX's
    wide = task.weights("field", 3)
    assert narrow.keys() == wide.keys()
    for name, value in narrow.items():
        np.testing.assert_array_equal(value, wide[name])
