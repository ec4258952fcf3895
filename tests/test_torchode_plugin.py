"""The example package is a plugin by its entry points alone: installed into a clean environment, it is there."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import nodebench

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "examples/nodebench-torchode"
PINNED = ("torchode==1.0.1", "torchtyping==0.1.5", "typeguard==2.13.3")


def _run(command, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment with the plugin and torchode, which sees everybody else's libraries."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("torchode")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv/bin/python"
    site = json.loads(
        subprocess.check_output([python, "-c", "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))"])
    )["purelib"]
    # Plain paths: what is installed beside these tests, and the nodebench under test, which may be a source tree.
    Path(site, "libraries.pth").write_text(
        f"{Path(nodebench.__file__).parents[1]}\n{sysconfig.get_paths()['purelib']}\n"
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--no-deps", "--no-build-isolation", "--retries", "1"]
    installed = _run([*install, *PINNED, str(PLUGIN)], folder)
    if installed.returncode != 0:
        # Whatever the network has or lacks, the plugin itself must be built.
        alone = _run([*install, str(PLUGIN)], folder)
        assert alone.returncode == 0, alone.stderr
        pytest.skip(f"torchode cannot be fetched here: {installed.stderr.strip().splitlines()[-1]}")
    return python


def test_its_backends_are_listed(python, tmp_path):
    """Both are ready, beside ours."""
    done = _run([python, "-m", "nodebench", "list", "backends", "--json"], tmp_path)
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)}
    assert (states["torchode"], states["torchode-backsolve"], states["direct"]) == ("ready", "ready", "ready")


def test_its_own_tests_pass(python, tmp_path):
    """They are the conformance suite; what is skipped is what torchode does not offer."""
    options = ["-q", "-p", "no:cacheprovider", "-c", str(PLUGIN / "pyproject.toml"), str(PLUGIN / "tests")]
    done = _run([python, "-m", "pytest", *options], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 passed, 2 skipped" in done.stdout


def test_a_cell_of_it_is_measured(python, tmp_path):
    """Its gradient is right, and its evaluations are counted."""
    options = ("-b", "torchode", "-t", "linear", "--measure", "gradient", "--preset", "smoke", "--rounds", "1")
    done = _run([python, "-m", "nodebench", "run", *options, "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["status"] == "ok"
    assert record["grad_error_params"] < 1e-4
    assert record["nfe_forward"] > 0
