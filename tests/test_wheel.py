"""The built wheel works from outside the source tree."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A virtual environment that holds the wheel, and sees everybody else's libraries but not this source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv/bin/python"
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True, capture_output=True)
    paths = json.loads(
        subprocess.check_output([python, "-c", "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))"])
    )
    # A plain path, not a site folder: the .pth file of an editable installation is not followed.
    Path(paths["purelib"], "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    return python


def run(python, *arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_package_is_the_wheel(installed, tmp_path):
    """What is imported is the installed copy."""
    done = run(installed, "-c", "import nodebench; print(nodebench.__file__)", cwd=tmp_path)
    assert str(installed.parent.parent) in done.stdout, done.stderr


def test_it_has_the_licence_and_the_marker_of_types(installed):
    """Files that no code reads."""
    site = next(installed.parent.parent.glob("lib/python*/site-packages"))
    assert (site / "nodebench/py.typed").exists()
    assert next(site.glob("nodebench-*.dist-info/licenses/LICENSE")).read_text().strip().startswith("Apache License")


def test_every_entry_point_loads(installed, tmp_path):
    """Each backend and task can be made."""
    code = (
        "from nodebench import registry\n"
        "from nodebench.backends.base import AbstractBackend\n"
        "from nodebench.tasks.base import AbstractTask\n"
        "for kind, base in (('backend', AbstractBackend), ('task', AbstractTask)):\n"
        "    for name in registry.names(kind):\n"
        "        if not registry.describe(kind, name).required: print(registry.load(kind, name, base))\n"
    )
    done = run(installed, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 10


def test_a_cell_is_measured(installed, tmp_path):
    """The command line measures a cell."""
    arguments = ("run", "-b", "direct", "-t", "linear", "--preset", "smoke", "--measure", "gradient", "--rounds", "1")
    done = run(installed.parent / "nodebench", *arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["status"] == "ok"
