"""The plugin of pytest, in a pytest of its own: cells measured in tests, their rounds in pytest-benchmark's file."""

import json
import os
import subprocess
import sys

import pytest

from nodebench.gating.baseline import read_file
from nodebench.gating.compare import compare
from nodebench.gating.thresholds import Thresholds
from nodebench.pytest_plugin import ReplayClock
from nodebench.results.quantities import CATALOGUE

BACKEND = "nodebench.testing:FakeBackend"

TESTS = """
import pytest

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"

def test_with_control(nodebench_cell):
    record = nodebench_cell(f"{BACKEND}[sleep_s=0.001]", TASK, control=BACKEND, rounds=4)
    assert record.control == BACKEND and record.ratio_low <= record.ratio <= record.ratio_high
    assert record.grad_error_params < 1e-3

@pytest.mark.benchmark(group="mine")
def test_one_start(nodebench_cell):
    assert nodebench_cell(BACKEND, TASK, rtol=1e-4, rounds=1).rtol == 1e-4
"""

DISABLED = """
BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"

def test_it_raises(nodebench_cell):
    nodebench_cell(f"{BACKEND}[behaviour=raise]", TASK)

def test_it_supports_nothing(nodebench_cell):
    nodebench_cell(f"{BACKEND}[behaviour=unsupported]", TASK)

def test_a_cell(nodebench_cell):
    record = nodebench_cell(BACKEND, TASK, solver="bosh3", max_steps=7)
    assert (record.n_rounds, record.grad_error_params < 1e-3) == (1, True)
    assert (record.solver, record.max_steps) == ("bosh3", 7)

def test_no_such_option(nodebench_cell):
    nodebench_cell("direct", "linear", tolerance=1e-3)

def test_no_such_backend(nodebench_cell):
    nodebench_cell("driect", "linear")

def test_without_a_cell():
    pass
"""


def run_pytest(folder, *options):
    """The output of a pytest in the folder, whose warnings are errors."""
    command = [sys.executable, "-m", "pytest", "-W", "error", "-rsfE", "--color=no", *options]
    # Not one of the processes that this test may be run by.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=own)
    return done.stdout + done.stderr


def regressions(old, new):
    """Backends and figures that have become worse."""
    findings = compare(old, new, Thresholds()).findings
    return [(finding.cell.backend, finding.metric) for finding in findings if finding.verdict == "regression"]


@pytest.fixture(scope="module", name="written")
def written_fixture(tmp_path_factory):
    """The output and the JSON file of benchmarks that were run."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "pytest.ini").touch()
    (folder / "test_cells.py").write_text(TESTS)
    output = run_pytest(folder, "--benchmark-only", "--benchmark-json", "b.json")
    assert "2 passed" in output, output
    return folder / "b.json"


def test_turns_are_the_rounds(written):
    """As many as were asked for, in seconds per gradient step."""
    control, single = json.loads(written.read_text())["benchmarks"]
    assert (control["stats"]["rounds"], single["stats"]["rounds"]) == (4, 1)
    info = control["extra_info"]
    least, most = (CATALOGUE["step_s"].rounded(control["stats"][name]) for name in ("min", "max"))
    assert least <= info["step_s"] <= most
    assert single["stats"]["median"] == pytest.approx(single["extra_info"]["step_s"], rel=0.01)


def test_groups_are_problems_unless_named(written):
    """All backends of a problem stand in one table."""
    groups = [benchmark["group"] for benchmark in json.loads(written.read_text())["benchmarks"]]
    assert groups == ["nodebench.testing:FakeTask/growth dopri5 rtol 0.001", "mine"]


def test_the_gate_reads_the_file(written):
    """A cell under its own name, with its counters and its ratio; one more evaluation is a regression."""
    read = read_file(written)
    assert sorted(cell.label for cell in read.cells.values()) == [
        f"nodebench.testing:FakeTask/growth/{BACKEND} dopri5 rtol 0.0001",
        f"nodebench.testing:FakeTask/growth/{BACKEND}[sleep_s=0.001] dopri5 rtol 0.001",
    ]
    assert not regressions(read, read)
    content = json.loads(written.read_text())
    content["benchmarks"][0]["extra_info"]["nfe_forward"] += 1
    more = written.with_name("more.json")
    more.write_text(json.dumps(content))
    assert regressions(read, read_file(more)) == [(f"{BACKEND}[sleep_s=0.001]", "nfe_forward")]


@pytest.fixture(scope="module", name="disabled")
def disabled_fixture(tmp_path_factory):
    """The output of tests whose benchmarks are disabled, of a pytest that keeps nothing."""
    folder = tmp_path_factory.mktemp("disabled")
    (folder / "pytest.ini").touch()
    (folder / "test_cells.py").write_text(DISABLED)
    return run_pytest(folder, "--benchmark-disable", "-p", "no:cacheprovider", "-rpsfE")


def test_what_fails_is_told(disabled):
    """A failed cell fails the test with its reason, an unsupported one skips it; a wrong name is a sentence."""
    assert "3 failed, 2 passed, 1 skipped" in disabled, disabled
    label = f"nodebench.testing:FakeTask/growth/{BACKEND}"
    assert f"{label}[behaviour=raise]: failed: ValueError: the fake raises as told" in disabled
    assert f"{label}[behaviour=unsupported]: unsupported: " in disabled
    assert "unknown option of `nodebench_cell` 'tolerance'" in disabled
    assert "unknown backend 'driect'; did you mean 'direct'" in disabled
    assert "def _measure" not in disabled  # a sentence, not our traceback


def test_without_benchmarks_a_cell_is_measured_all_the_same(disabled):
    """One round is enough for everything but the time, under the options that the test gave."""
    assert "PASSED test_cells.py::test_a_cell\n" in disabled, disabled


def test_without_pytest_benchmark_its_fixture_is_missed(tmp_path):
    """By the test that needs it; the others are run."""
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_cells.py").write_text("def test_cell(nodebench_cell): ...\ndef test_other(): ...\n")
    output = run_pytest(tmp_path, "-p", "no:benchmark", "--strict-markers")
    assert "fixture 'benchmark' not found" in output
    assert "1 passed, 1 error" in output, output


def test_clock_moves_by_the_rounds_alone():
    """And stays where there are none left."""
    clock, rounds = ReplayClock(), iter([0.25, 0.5])
    seen = []
    for _ in range(3):
        clock.replay(rounds)
        seen.append(clock())
    assert seen == [0.25, 0.75, 0.75]
