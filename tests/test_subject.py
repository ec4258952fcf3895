"""What is measured is checked before anything is."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rough import Midpoint

from nodebench.bench.matrix import Request, plan
from nodebench.bench.worker.subject import check_times, load_inputs, make_subject, save_inputs
from nodebench.errors import PluginError, UserError
from nodebench.results.machine import changed, file_digest
from nodebench.tasks.base import GradientInputs


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.5, 2.0], [1.0, 0.5, -2.0]])
def test_monotone_times_pass(times):
    """Times may go either way."""
    check_times(times, "float32")


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.5], [0.0, float("nan")]])
def test_other_times_are_refused(times):
    """Times that repeat, turn back or are no numbers are an error that shows them."""
    with pytest.raises(UserError, match="strictly increasing or strictly decreasing"):
        check_times(times, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_times_that_a_dtype_cannot_tell_apart_are_refused(dtype):
    """Near 1.7e9 float32 has numbers 128 apart, in which a minute is nothing; a nanosecond near 0 is long."""
    check_times([0.0, 1e-9], dtype)
    if dtype == "float64":
        check_times([1.7e9, 1.7e9 + 60], dtype)
        return
    with pytest.raises(UserError, match=r"cannot be told apart in float32.*--dtype float64` or shift"):
        check_times([1.7e9, 1.7e9 + 60], dtype)


LOADED = """
import json, sys
sys.path.append(sys.argv[1])
import task
from nodebench.results.machine import code_identity, loaded_files
print(json.dumps([code_identity(), sorted(path for path in loaded_files() if path.startswith(sys.argv[1]))]))
"""


@pytest.mark.worker
def test_a_result_is_known_by_every_file_it_was_loaded_from(tmp_path):
    """A file that a task imports counts as its own does, wherever it lies; what is not loaded counts for nothing."""
    (tmp_path / "inner").mkdir()
    for name, text in (
        ("task", "import rates"),
        ("rates", "import inner.deep"),
        ("other", ""),
        ("inner/deep", "R = 1"),
    ):
        (tmp_path / f"{name}.py").write_text(f"{text}\n")

    def ask():
        command = [sys.executable, "-c", LOADED, str(tmp_path)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    before, files = ask()
    assert files == [str(tmp_path / f"{name}.py") for name in ("inner/deep", "rates", "task")]
    (tmp_path / "other.py").write_text("R = 2\n")
    assert ask() == [before, files]
    (tmp_path / "inner/deep.py").write_text("R = 2\n")
    assert ask()[0] != before


def test_changed_files_are_named(tmp_path):
    """What was edited, or is gone, and nothing else."""
    files = [tmp_path / name for name in ("same.py", "edited.py", "gone.py")]
    for file in files:
        file.write_text("R = 1\n")
    digests = {str(file): file_digest(file) for file in files}
    files[1].write_text("R = 2\n")
    files[2].unlink()
    assert changed(digests) == [str(files[1]), str(files[2])]


def test_what_is_handed_to_all_processes_is_what_was_drawn(tmp_path):
    """Numbers of any rank and type, and what the data are, to the bit."""
    weights = {"a": np.asarray(-0.5), "net.0.weight": np.ones((3, 2)), "n": np.array([3, 4]), "k": np.array([1 + 2j])}
    inputs = GradientInputs(weights, {"y0": np.zeros((4, 2)), "end.0": np.arange(4.0)}, dataset="mine", note="of sorts")
    save_inputs(tmp_path / "inputs.npz", inputs)
    found = load_inputs(tmp_path / "inputs.npz")
    assert (found.dataset, found.note, found.closed_form) == ("mine", "of sorts", None)
    for before, after in ((inputs.weights, found.weights), (inputs.batch, found.batch)):
        assert {name: (a.dtype, a.shape, a.tolist()) for name, a in before.items()} == {
            name: (a.dtype, a.shape, a.tolist()) for name, a in after.items()
        }


def test_a_batch_of_another_size_is_refused():
    """A task that gives fewer examples than were asked for would be recorded under a size that was not measured."""
    request = Request(backends=("nodebench.testing:FakeBackend",), tasks=("nodebench.testing:FakeTask",))
    subject = make_subject(plan(request).cells[0], "float64")
    few = replace(subject.task.problem("growth", 0, 2))
    short = replace(subject, task=SimpleNamespace(problem=lambda *_: few))
    with pytest.raises(PluginError, match="asked for 4"):
        short.inputs()


def test_a_gradient_by_another_method_is_another():
    """The same problem, solved by a method from elsewhere, is not found under the same name."""
    request = Request(backends=("nodebench.testing:FakeBackend",), tasks=("nodebench.testing:FakeTask",))
    subject = make_subject(plan(request).cells[0], "float64")
    assert subject.identity(None) == subject.identity(None)
    assert subject.identity(Midpoint()) != subject.identity(None)
