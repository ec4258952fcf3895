"""Plugins are found by entry point, module or file; what is wrong with them is said in a sentence."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import NotInstalledError, PluginError, UnknownNameError, UserError
from nodebench.tasks.base import AbstractTask

FAKE = "nodebench.testing:FakeBackend"


@pytest.mark.parametrize("name", registry.names("backend"))
def test_every_backend_loads(name):
    """Every entry point loads, says its framework and has a summary."""
    pytest.importorskip(registry.describe("backend", name).framework)
    assert isinstance(registry.load("backend", name, AbstractBackend), AbstractBackend)
    assert registry.describe("backend", name).summary.endswith(".")


@pytest.mark.parametrize("name", registry.names("task"))
def test_every_task_loads(name):
    """Every task loads, and each of its recipes and weights can be made."""
    task = registry.load("task", name, AbstractTask)
    assert task.default_model in task.models
    assert task.data_source()


def test_a_static_description_equals_the_class():
    """What is read without importing equals what importing shows."""
    info = registry.describe("backend", FAKE)
    cls = registry.load_class(FAKE)
    assert info.framework == cls.framework
    assert list(info.options) == [field.name for field in fields(cls)]
    assert info.summary == cls.__doc__.partition("\n")[0]


def test_options_are_converted_by_their_types():
    """An option's text becomes a value of its field's type."""
    backend = registry.load("backend", f"{FAKE}[behaviour=nan,sleep_s=0.5]", AbstractBackend)
    assert (backend.behaviour, backend.sleep_s) == ("nan", 0.5)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("adjont", UnknownNameError, "did you mean 'adjoint'"),
        (f"{FAKE}[behavior=ok]", UnknownNameError, "did you mean 'behaviour'"),
        (f"{FAKE}[sleep_s=long]", UserError, "sleep_s"),
        (f"{FAKE}[behaviour]", UserError, "no option"),
        (f"{FAKE}[behaviour=ok", UserError, "closing bracket"),
        ("nosuchmodule.x:Y", PluginError, "nosuchmodule"),
        ("nodebench.testing:Nothing", PluginError, "Nothing"),
        ("nodebench.testing:FakeField", PluginError, "AbstractBackend"),
        ("./nosuchfile.py:Mine", PluginError, "nosuchfile"),
    ],
)
def test_bad_names_say_what_is_wrong(text, error, message):
    """A wrong name, option or value is an error that names it."""
    with pytest.raises(error, match=message):
        registry.load("backend", text, AbstractBackend)


def test_a_missing_library_is_named(tmp_path):
    """A plugin that imports what is not there is told from one that is broken."""
    file = tmp_path / "mine.py"
    file.write_text("import nosuchlibrary\n\n\nclass Mine:\n    pass\n")
    with pytest.raises(NotInstalledError, match="pip install nosuchlibrary"):
        registry.load("backend", f"{file}:Mine", AbstractBackend)


def test_canonical_spelling_sorts_options():
    """Two spellings of the same options are the same cell."""
    assert registry.canonical(" x[b=2, a=1]") == "x[a=1,b=2]"


def test_lists_split_outside_brackets():
    """Commas within brackets do not separate names."""
    assert registry.split_list("a,b[x=1,y=2], c") == ["a", "b[x=1,y=2]", "c"]


def test_plugin_from_a_file(tmp_path):
    """A class in a file of the user's is a plugin without being installed."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from nodebench.testing import FakeTask\n"
        "from nodebench.tasks.base import AbstractTask\n"
        "Mine = FakeTask\n"
    )
    assert isinstance(registry.load("task", f"{file}:Mine", AbstractTask), AbstractTask)


def test_plugin_that_raises_on_import_is_listed_as_broken(tmp_path):
    """A broken foreign plugin is listed with its error; the others are listed as ever."""
    package = tmp_path / "broken_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "backends.py").write_text(
        'raise RuntimeError("no luck today")\nclass Broken:\n    """Broken."""\n    framework = "torch"\n'
    )
    metadata = tmp_path / "broken_plugin-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[nodebench.backends]\nbroken = broken_plugin.backends:Broken\n")
    done = subprocess.run(
        [sys.executable, "-m", "nodebench.cli", "list", "backends", "--json"],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)}
    assert "no luck today" in states["broken"]
    assert set(registry.names("backend")) < set(states)
