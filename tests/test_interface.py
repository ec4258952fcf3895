"""The public interface: what `nodebench` offers, that it is light, and that what is handed to users needs no more."""

import ast
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import nodebench

ROOT = Path(__file__).parent.parent
SOURCE = Path(nodebench.__file__)

FOR_USERS = [
    *sorted((SOURCE.parent / "starting").glob("[bt]a*.py")),
    *sorted((ROOT / "examples").rglob("*.py")),
    *sorted((ROOT / "benchmarks").glob("mlp_*.py")),
]
"""What users copy or read as an example of a plugin."""


@pytest.mark.parametrize("name", nodebench.__all__)
def test_a_public_name_is_there(name):
    """Each can be imported, where the library that it is written for is installed."""
    module, _ = nodebench._HOMES.get(name, ("nodebench", name))
    if find_spec(module) is None:
        pytest.skip(f"there is no {module} yet")
    for framework in ("torch", "diffrax"):
        if framework in module:
            pytest.importorskip(framework)
    assert not isinstance(getattr(nodebench, name), ModuleType)


def test_a_name_is_written_alike_for_people_and_for_type_checkers():
    """What is imported for type checkers is what is imported on first use, from the same modules."""
    tree = ast.parse(SOURCE.read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    shown = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    homes = nodebench._HOMES
    written = {name: home for name, home in homes.items() if find_spec(home[0]) is not None}
    assert shown == written
    assert sorted([*homes, "__version__"]) == sorted(nodebench.__all__)
    assert set(nodebench.__all__) <= set(dir(nodebench))


@pytest.mark.parametrize("name", nodebench.__all__)
def test_no_module_hides_a_public_name(name):
    """Importing a module sets its name in the package."""
    assert find_spec(f"nodebench.{name}") is None


def test_a_name_that_is_not_there_is_an_attribute_error():
    """As of any module; a module of the package is found as ever."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nodebench.nothing
    with pytest.raises(ImportError):
        exec("from nodebench import nothing")
    assert importlib.import_module("nodebench.errors").UserError is nodebench.UserError


@pytest.mark.worker
def test_importing_it_imports_nothing_else():
    """No framework, no NumPy, and no module of its own."""
    code = "import sys; before = set(sys.modules); import nodebench; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert [name for name in loaded if name.partition(".")[0] == "nodebench"] == ["nodebench"]
    assert {name.partition(".")[0] for name in loaded} <= {"nodebench", *sys.stdlib_module_names}
    assert "importlib.metadata" not in loaded


@pytest.mark.parametrize("path", FOR_USERS, ids=lambda path: path.name)
def test_what_is_handed_to_users_imports_from_nodebench_alone(path):
    """A plugin needs no module of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nodebench":
            assert node.module == "nodebench"
            assert {alias.name for alias in node.names} <= set(nodebench.__all__)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("nodebench.") for alias in node.names)
