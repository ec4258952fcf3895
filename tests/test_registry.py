"""Plugins are found by entry point, module or file; what is wrong with them is said in a sentence."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import NotInstalledError, PluginError, UnknownNameError, UserError
from nodebench.tasks.base import AbstractTask

FAKE = "nodebench.testing:FakeBackend"


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
        (f"{FAKE}[behaviour]", UserError, "not an option"),
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
        [sys.executable, "-m", "nodebench", "list", "backends", "--json"],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)}
    assert "no luck today" in states["broken"]
    assert set(registry.names("backend")) < set(states)


def _install(folder, name, code, group="backends", distribution="foreign-plugin"):
    """Make a plugin that importlib finds: a module, and the metadata of a distribution that registers its `Mine`."""
    module = f"module_of_{distribution.replace('-', '_')}"
    (folder / f"{module}.py").write_text(code)
    metadata = folder / f"{distribution.replace('-', '_')}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[nodebench.{group}]\n{name} = {module}:Mine\n")


def _nodebench(folder, *arguments):
    """Call the command line where the plugins of a folder are installed."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "nodebench", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


HONEST = """
from dataclasses import dataclass
from typing import ClassVar

from nodebench import registry
from nodebench.backends.base import AbstractBackend


@dataclass(frozen=True)
class Mine(AbstractBackend):
    \"\"\"What `direct` does.\"\"\"

    framework: ClassVar[str] = "torch"
    exact_counterpart = None

    def unsupported(self, problem, spec):
        return None

    def solve(self, field, y0, times, spec):
        return registry.load("backend", "direct", AbstractBackend).solve(field, y0, times, spec)

    def grid(self, field, y0, times, spec):
        return None
"""

BAD = {
    "missing-library": ("from dataclasses", "import nosuchlibrary\nfrom dataclasses", "nosuchlibrary is not installed"),
    "wrong-signature": (
        "solve(self, field, y0, times, spec)",
        "solve(self, y0, ts)",
        "takes (y0, ts); it must take (fi",
    ),
    "not-frozen": ("(frozen=True)", "", "must be a frozen dataclass"),
    "no-framework": ("framework: ClassVar", "library: ClassVar", "must declare `framework`"),
    "no-method": ("def grid", "def steps", "lacks `grid`"),
    "no-constant": ("exact_counterpart = None", "pass", "lacks `exact_counterpart`"),
    "method-for-a-constant": (
        "exact_counterpart = None",
        "def exact_counterpart(self):\n        return None",
        "has a method `exact_counterpart`; write a value, `exact_counterpart = ...`, or `@property` above the method",
    ),
    "wrong-base": ("Mine(AbstractBackend)", "Mine", "derived from `AbstractBackend`"),
    "ends": ("from dataclasses", "import os\nos._exit(0)\nfrom dataclasses", "ends the process"),
    "syntax": ("class Mine", "class (:\n    pass\nclass Mine", "cannot be parsed: invalid syntax (*, line 10)."),
    "null": ("exact_counterpart = None", "x = '\0'", "source code string cannot contain null bytes (*)."),
    "exit": ("from dataclasses", "raise SystemExit\nfrom dataclasses", "it calls sys.exit(None) (*, line 2); what"),
    "exit-code": ("from dataclasses", "import sys\nsys.exit(0)\nfrom dataclasses", "it calls sys.exit(0) (*, line 3)"),
    "silent": ("from dataclasses", "class E(BaseException): ...\nraise E\nfrom dataclasses", "imported: E (*, line 3)"),
    "interrupt": ("from dataclasses", "raise KeyboardInterrupt\nfrom dataclasses", "raises KeyboardInterrupt."),
    "recursion": ("from dataclasses", "def f(): f()\nf()\nfrom dataclasses", "RecursionError: maximum recursion"),
}
"""Plugins by name: what is replaced in the honest one, by what, and what is said, `*` for its file."""

PACKAGES = {
    "package-exit": "raise SystemExit('enough')",
    "package-end": "import os\nos._exit(1)",
    "package-interrupt": "raise KeyboardInterrupt",
    "package-syntax": "class (:",
}
"""What is in the packages that modules of plugins lie in, by the plugin's name."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder with an honest plugin and all that are broken, each installed as a distribution of its own."""
    folder = tmp_path_factory.mktemp("plugins")
    _install(folder, "honest", HONEST, distribution="honest")
    for name, (old, new, _) in BAD.items():
        _install(folder, name, HONEST.replace(old, new, 1), distribution=name)
    for name, top in PACKAGES.items():
        _install(folder, name, HONEST, distribution=name)
        package = folder / name.replace("-", "_")
        package.mkdir()
        (package / "__init__.py").write_text(top + "\n")
        (folder / f"module_of_{package.name}.py").rename(package / "inner.py")
        points = folder / f"{package.name}-1.dist-info" / "entry_points.txt"
        points.write_text(f"[nodebench.backends]\n{name} = {package.name}.inner:Mine\n")
    return folder


def test_each_bad_plugin_is_told_in_a_sentence_and_the_others_are_listed(broken):
    """Whatever is wrong with plugins, `list` names it for each, and all that are well are ready."""
    rows = json.loads(_nodebench(broken, "list", "backends", "--json").stdout)
    states = {row["name"]: row["state"] for row in rows}
    for name, (_, _, sentence) in BAD.items():
        file = broken / f"module_of_{name.replace('-', '_')}.py"
        assert sentence.replace("*", str(file)) in states[name]
        assert "\n" not in states[name]
    told = {"package-exit": "sys.exit('enough')", "package-end": "ends the process", "package-syntax": "line 1)"}
    for name, sentence in (told | {"package-interrupt": "raises KeyboardInterrupt."}).items():
        assert sentence in states[name]
    assert states["honest"] == "ready"
    assert states["direct"] == "ready"


def test_all_is_all_that_works(broken):
    """What is broken ends nothing and is in no cell."""
    done = _nodebench(broken, "run", "-b", "all", "-t", "linear", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    planned = {cell["backend"] for cell in json.loads(done.stdout)}
    assert {"honest", "direct"} <= planned
    assert not planned & {*BAD, *PACKAGES}


@pytest.mark.parametrize("name", [*(name for name in BAD if name not in ("interrupt", "ends")), "package-exit"])
def test_what_is_broken_and_named_is_told_in_a_sentence(broken, name, monkeypatch):
    """That of its file and line where it has one, raised as what the command line prints; it ends nothing."""
    monkeypatch.syspath_prepend(broken)
    registry._claims.cache_clear()
    registry._targets.cache_clear()

    def use():
        registry.describe("backend", name)
        registry.load("backend", name, AbstractBackend)

    with pytest.raises((PluginError, NotInstalledError)) as caught:
        use()
    sentence = BAD.get(name, ("", "", "it calls sys.exit('enough') (*, line 1); what a script does"))[2]
    package = broken / "package_exit" / "__init__.py"
    file = package if name == "package-exit" else broken / f"module_of_{name.replace('-', '_')}.py"
    assert sentence.replace("*", str(file)) in str(caught.value)
    monkeypatch.undo()
    registry._claims.cache_clear()
    registry._targets.cache_clear()


@pytest.mark.parametrize("group", ["backends", "tasks"])
def test_a_plugin_cannot_shadow_a_name_of_ours(tmp_path, group):
    """The built-in keeps its name, and the other is listed with the reason."""
    name = {"backends": "direct", "tasks": "linear"}[group]
    _install(tmp_path, name, HONEST, group=group)
    rows = json.loads(_nodebench(tmp_path, "list", group, "--json").stdout)
    ready, refused = (row for row in rows if row["name"] == name)
    assert ready["state"] == "ready"
    assert f"the name `{name}` is that of a {group[:-1]} of nodebench; foreign-plugin must" in refused["state"]


def test_a_name_of_two_plugins_is_neither_s(tmp_path):
    """Two packages that register one name are both refused, by name."""
    _install(tmp_path, "mine", HONEST, distribution="one")
    _install(tmp_path, "mine", HONEST, distribution="other")
    rows = json.loads(_nodebench(tmp_path, "list", "backends", "--json").stdout)
    assert ["one and other" in row["state"] for row in rows if row["name"] == "mine"] == [True, True]
    done = _nodebench(tmp_path, "run", "-b", "mine", "-t", "linear", "--dry-run")
    assert done.returncode == 2
    assert "registered by one and other" in " ".join(done.stderr.split())


GROWING = """
from dataclasses import dataclass
from typing import ClassVar

from nodebench.testing import FakeBackend


@dataclass(frozen=True)
class Mine(FakeBackend):
    framework: ClassVar[str] = "nodebench.testing:FakeFramework"

    def solve(self, field, y0, times, spec):
        return super().solve(field, y0, times, spec)
"""

RUN_BAD = {
    "shape": (
        "times, spec)\n",
        "times, spec)[-1:]\n",
        "must return states of shape (2, 3), the output times first; got",
    ),
    "array": ("return super()", "return list(y0)\n        super()", "got list"),
    "signature": ("solve(self, field, y0, times, spec)", "solve(self, y0, ts)", "takes (y0, ts)"),
    "library": ("from dataclasses", "import nosuchlibrary\nfrom dataclasses", "pip install nosuchlibrary"),
}


def test_a_run_tells_what_is_wrong_with_each_plugin_and_measures_the_others(tmp_path):
    """Cells of bad plugins fail, each with its sentence; the cell beside them is ok."""
    for name, (old, new, _) in RUN_BAD.items():
        (tmp_path / f"bad_{name}.py").write_text(GROWING.replace(old, new, 1))
    bad = {name: f"{tmp_path / f'bad_{name}.py'}:Mine" for name in RUN_BAD}
    measured = ("--measure", "counts", "--json", "--store", str(tmp_path / "r.db"))
    done = _nodebench(
        tmp_path, "run", "-b", ",".join([FAKE, *bad.values()]), "-t", "nodebench.testing:FakeTask", *measured
    )
    assert done.returncode == 1, done.stderr
    records = {record["backend"]: record for record in json.loads(done.stdout)}
    assert records[FAKE]["status"] == "ok"
    for name, (_, _, sentence) in RUN_BAD.items():
        assert sentence in records[bad[name]]["reason"]


SPELLINGS = [
    ("backend", " nosuch[b=2, a=1]", "nosuch[a=1,b=2]"),
    ("backend", "adjoint[norm=full]", "adjoint"),
    ("backend", "adjoint[norm=seminorm,land=False]", "adjoint[norm=seminorm]"),
    ("backend", "direct[compile=True]", "direct[compile=true]"),
    ("backend", "checkpoint[checkpoints=all]", "checkpoint"),
    ("backend", "checkpoint[checkpoints=08]", "checkpoint[checkpoints=8]"),
    ("backend", "diffrax[max_step=1e-3]", "diffrax[max_step=0.001]"),
    ("backend", "reversible[coupling=.9990]", "reversible"),
    ("task", "mnist[downsampling=conv]", "mnist"),
    ("task", "cnf[dataset=moons,hidden=32]", "cnf[hidden=32]"),
    ("task", "linear[horizon=2,loss=end,n_times=5]", "linear"),
    ("task", "cnf[hiden=3]", "cnf[hiden=3]"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), SPELLINGS)
def test_a_cell_has_one_spelling(kind, text, expected):
    """Options sorted, without those at their defaults, numbers and truths in one form; once spelled so, it stays."""
    assert registry.canonical(kind, text) == expected
    assert registry.canonical(kind, expected) == expected


def test_plugins_have_one_spelling_too(tmp_path):
    """Defaults are read from the source: literals, constants of the module, and fields of a dataclass."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass, field\n\nSAFETY: float = 0.5\nNAME = make()\n\n\nclass Mine:\n"
        "    safety: float = SAFETY\n    order: int = field(default=3)\n    name: str = NAME\n    text: str = '1.0'\n"
        "    tries: 'int | None' = None\n    wide: bool = True\n"
    )
    spelled = {
        "safety=0.50,order=3,text=1.0,wide=yes": "",
        "safety=1,order=03.0": "[safety=1]",
        "text=1,tries=+7,wide=0": "[text=1,tries=7,wide=false]",
        "name=x,tries=None": "[name=x,tries=None]",
        "order=1e1": "[order=1e1]",
    }
    for text, expected in spelled.items():
        assert registry.canonical("backend", f"{file}:Mine[{text}]") == f"{file}:Mine{expected}", text


def test_options_of_a_base_are_options(tmp_path, monkeypatch):
    """Wherever the base is defined: in the module, or in one that it is imported from; its own default counts."""
    (tmp_path / "above.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Far:\n    far: int = 1\n"
    )
    (tmp_path / "plugin.py").write_text(
        "from above import Far\n\n"
        "class Near(Far):\n    near: float = 2.0\n    framework = 'torch'\n\n"
        'class Own(Near):\n    """A method."""\n\n    near: float = 3.0\n    own: str = "x"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    info = registry.describe("backend", "plugin:Own[far=4]")
    assert (info.framework, info.summary) == ("torch", "A method.")
    assert dict(info.options) == {"far": "1", "near": "3.0", "own": "'x'"}
    assert registry.canonical("backend", "plugin:Own[near=3,far=4]") == "plugin:Own[far=4]"


def test_a_class_may_be_called_as_its_base_is(tmp_path, monkeypatch):
    """As Python has it: the base is the one that was imported."""
    (tmp_path / "mine.py").write_text(
        "from nodebench.tasks.systems.chaotic import Lorenz\n\nclass Lorenz(Lorenz):\n    own: int = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    assert set(registry.describe("task", "./mine.py:Lorenz").options) == {"horizon", "own"}


@pytest.mark.parametrize("kind", ["backend", "task"])
def test_every_option_of_a_plugin_is_told_of(kind):
    """What is read from the source of each of ours is what its class takes."""
    for name in registry.working(kind):
        taken = {each.name for each in fields(registry.load_class(registry.describe(kind, name).target)) if each.init}
        assert set(registry.describe(kind, name).options) == taken, name
