"""Wheel and source distribution hold what they are to, and the wheel works from outside the source tree."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

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


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sources")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("nodebench-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def files_below(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_alone(installed):
    """Every file of it, and nothing beside it but the metadata."""
    with ZipFile(next(installed.parent.parent.parent.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {f"nodebench/{name}" for name in files_below(ROOT / "src/nodebench")}


def test_the_source_distribution_holds_what_a_wheel_is_built_from(sources):
    """The package, and what is told of it: no tests, no docs with their gallery, no workflows."""
    beside = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert files_below(sources) == {f"src/nodebench/{name}" for name in files_below(ROOT / "src/nodebench")} | beside


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
