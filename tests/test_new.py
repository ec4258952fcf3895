"""What `nodebench new` writes works at once, passes its own checks, and overwrites nothing."""

import json
import subprocess
import sys

import pytest
from commands import nodebench

from nodebench.conformance import backend_checks, task_checks
from nodebench.errors import UnknownNameError, UserError
from nodebench.templates.new import class_name, write

COMPILED = ("it can be loaded", "it declares itself", "its states are the solution", "nan ends cleanly")
"""Of a backend in JAX every check compiles; these show that what was written is one."""


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_new_backend_passes_its_checks(tmp_path, framework):
    """None of them fails."""
    pytest.importorskip(framework)
    file, _ = write("backend", "my_method", framework, tmp_path)
    checks = backend_checks(f"{file}:MyMethod")
    found = [check.outcome() for check in checks if framework == "torch" or check.name in COMPILED]
    assert [outcome.reason for outcome in found if outcome.state == "failed"] == []
    assert "ok" in {outcome.state for outcome in found}


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_new_task_passes_its_checks(tmp_path, framework):
    """None of them fails, in a folder whose name and whose task's name hold that of another framework."""
    pytest.importorskip(framework)
    file, model, _ = write("task", "my_torch_jax", framework, tmp_path / "torch")
    assert model.name == f"my_torch_jax_{framework}.py"
    found = [check.outcome() for check in task_checks(f"{file}:MyTorchJax")]
    assert [outcome.reason for outcome in found if outcome.state == "failed"] == []
    assert "ok" in {outcome.state for outcome in found}


def test_the_written_test_runs_the_checks(tmp_path):
    """Pytest collects a test for each check, and they pass."""
    pytest.importorskip("jax")
    write("task", "mine", "jax", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "data or loaded", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_new_says_what_to_do_next_and_run_finds_it(tmp_path):
    """The backend that was written is measured by the command that `new` ends with."""
    pytest.importorskip("torch")
    done = nodebench("new", "backend", "their_method", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nodebench check backend ./their_method.py:TheirMethod" in done.stdout
    command = ("run", "-b", "./their_method.py:TheirMethod", "-t", "linear", "--measure", "counts", "--json")
    ran = nodebench(*command, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (record,) = json.loads(ran.stdout)
    assert record["nfe_forward"] == 7 * record["n_accepted"] + 7 * record["n_rejected"]


def test_new_overwrites_nothing(tmp_path):
    """Where one of its files is there, none is written."""
    (tmp_path / "test_my_method.py").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        write("backend", "my_method", "torch", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_my_method.py"]
    assert (tmp_path / "test_my_method.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "name", "framework", "message"),
    [
        ("backend", "my-method", "torch", "cannot name a module and a class"),
        ("backend", "class", "torch", "no Python keyword"),
        ("backend", "2nd", "torch", "cannot name"),
        ("backend", "_", "torch", "cannot name"),
        ("backend", "", "torch", "cannot name"),
        ("backend", "../mine", "torch", "cannot name"),
        ("backend", "direct", "torch", "there is a backend `direct` already"),
        ("backend", "diffrax_direct", "torch", "there is a backend `diffrax-direct` already"),
        ("task", "mnist", "torch", "there is a task `mnist` already"),
        ("backend", "json", "torch", "there is a module `json` already"),
        ("backend", "my_method", "numpy", "unknown framework 'numpy'"),
    ],
)
def test_a_bad_name_is_refused(tmp_path, kind, name, framework, message):
    """With the reason, and without a file."""
    with pytest.raises(UserError, match=message):
        write(kind, name, framework, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_answers_with_the_near_one(tmp_path):
    """A mistyped kind exits with 2."""
    done = nodebench("new", "backnd", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'backend'" in " ".join(done.stderr.split())


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        write("backend", "mine", "torch", tmp_path / "file" / "folder")


def test_classes_are_named_in_capitals():
    """Underscores part words."""
    assert [class_name(name) for name in ("my_method", "mine", "myMethod")] == ["MyMethod", "Mine", "MyMethod"]


def test_unknown_framework_is_a_name_error():
    """It is told like any other mistyped name."""
    with pytest.raises(UnknownNameError, match="did you mean 'torch'"):
        write("task", "mine", "troch", None)
