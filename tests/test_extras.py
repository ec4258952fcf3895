"""Without its extras, nodebench measures, lists and compares; what needs one says how to install it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from commands import nodebench

from nodebench import api, importing
from nodebench.errors import NotInstalledError, UserError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
QUICK = ("-b", "direct", "-t", "linear", "--preset", "smoke", "--rounds", "1")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Call nodebench where nothing of the extras can be imported, neither by it nor by its workers."""
    folder = tmp_path_factory.mktemp("bare")
    hidden = [module for modules in importing.EXTRAS.values() for module in modules]
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({hidden}))\n")

    def call(*arguments, **environment):
        return subprocess.run(
            [shutil.which("nodebench", path=str(Path(sys.executable).parent)), *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), **environment},
            timeout=300,
            check=False,
        )

    return call


@pytest.mark.worker
def test_a_run_needs_no_extra(bare):
    """Gradient and training are measured, shown, compared and written as data."""
    pytest.importorskip("torch")
    for arguments in (
        ("run", *QUICK),
        ("show",),
        ("list",),
        ("doctor",),
        ("baseline", "save", "-o", "baseline.json"),
        ("compare", "baseline.json", "-o", "gate.md"),
        ("report", "-o", "records.csv", "-o", "records.json"),
    ):
        done = bare(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)


@pytest.mark.worker
@pytest.mark.parametrize(
    "arguments",
    [("report",), ("report", "-o", "report.md"), ("report", "-o", "r.parquet"), ("reproduce", "table1", "--no-run")],
    ids=" ".join,
)
def test_a_report_without_its_extra_is_a_sentence(bare, arguments):
    """It exits with 1, as where a framework is missing, before anything is measured or written."""
    done = bare(*arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert "are not installed; install with: pip install 'nodebench[report]'" in said
    assert "altair, jinja2, matplotlib, pillow, pyarrow and vl-convert-python" in said


@pytest.mark.worker
def test_data_without_its_extra_are_a_sentence(bare, tmp_path):
    """The cell says so."""
    pytest.importorskip("torch")
    done = bare(
        "run", "-b", "direct", "-t", "mnist", "--measure", "counts", NODEBENCH_DATA="", XDG_CACHE_HOME=str(tmp_path)
    )
    assert done.returncode == 1
    assert "pip install 'nodebench[data]'" in " ".join(done.stdout.split())


def test_one_that_is_missing_is_named(monkeypatch):
    """By what pip calls it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(NotInstalledError) as raised:
        importing.require("data")
    assert str(raised.value) == "scikit-learn is not installed; install with: pip install 'nodebench[data]'"


@pytest.mark.parametrize("extra", importing.EXTRAS)
def test_an_extra_is_what_it_is_looked_for_by(extra):
    """The modules that are looked for are those of the packages that the extra brings."""
    names = {
        distribution.lower().replace("_", "-")
        for module in importing.EXTRAS[extra]
        for distribution in packages_distributions().get(module, [importing.DISTRIBUTIONS.get(module, module)])
    }
    declared = PROJECT["optional-dependencies"][extra]
    assert names == {re.split(r"[<>=]", each)[0] for each in declared}


def test_everything_is_all_but_the_cluster():
    """The extra `all` names every other."""
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == extras.keys() - {"all", "cluster"}


def test_on_windows_there_is_a_sentence(monkeypatch):
    """And not the traceback of a module that only Linux and macOS have."""
    monkeypatch.setattr(sys, "platform", "win32")
    said = "nodebench runs on Linux and macOS; on Windows, use it in WSL."
    done = nodebench("list")
    assert done.returncode == 2
    assert said in done.stderr
    with pytest.raises(UserError) as raised:
        api.run(backends=["direct"], tasks=["linear"])
    assert str(raised.value) == said
