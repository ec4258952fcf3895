"""Files, folders, names and terminals of users: what they hold runs alike everywhere, or is told in a sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import nodebench as within

from nodebench import cli, importing, registry
from nodebench.bench.matrix import Request, plan, scaling_plan
from nodebench.errors import NotInstalledError, PluginError, UserError
from nodebench.tasks.base import AbstractTask
from nodebench.tasks.field.task import AbstractFieldTask

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"

FAKE = '''{top}
from dataclasses import dataclass
from nodebench.testing import FakeTask

@dataclass(frozen=True)
class T(FakeTask):
    """A task."""
    hidden: int = 1
{body}
'''

FIELD = '''
from dataclasses import dataclass
from typing import ClassVar
from nodebench.tasks.field.task import AbstractFieldTask

@dataclass(frozen=True)
class T(AbstractFieldTask):
    """A task."""
    fields: ClassVar = {"torch": "parts/field.py:F"}

    def initial_states(self, n, rng):
        return rng.standard_normal((n, 2))
'''


def write(file, top="", body="", text=FAKE):
    """A file of a user's, its folder made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.format(top=top, body=body) if text is FAKE else text, encoding="utf-8")
    return file


def nodebench(*arguments, cwd, module=False, **environment):
    """Call the installed script, or the module."""
    script = shutil.which("nodebench", path=str(Path(sys.executable).parent))
    command = [sys.executable, "-m", "nodebench"] if module else [script]
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=300,
        check=False,
    )


def load(name):
    return registry.load("task", str(name), AbstractTask)


@pytest.mark.parametrize("place", ["beside", "working directory"])
def test_what_lies_beside_a_file_or_in_the_working_directory_is_importable(tmp_path, monkeypatch, place):
    """After all that is installed, so that a user's `json.py` hides none."""
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "sub/task.py", "import json\nfrom my_own_layers import WIDTH", "    width = WIDTH")
    folder = file.parent if place == "beside" else tmp_path
    write(folder / "my_own_layers.py", text="WIDTH = 7")
    write(folder / "json.py", text="raise RuntimeError('hidden')")
    assert load("sub/task.py:T").width == 7


def test_a_module_in_the_working_directory_is_a_plugin(tmp_path, monkeypatch):
    """By its name alone, its package too."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my_own_task.py")
    write(tmp_path / "my_own_package/task.py")
    for name in ("my_own_task:T", "my_own_package.task:T"):
        assert registry.describe("task", name).summary == "A task."
        assert load(name).hidden == 1


def test_helpers_of_one_name_are_each_their_folder_s(tmp_path):
    """However often one task is loaded after the other; what is imported late is its own too."""
    late = "    def late(self):\n        import my_own_late\n        return my_own_late.WIDTH\n    width = WIDTH"
    names = []
    for width in (1, 2):
        file = write(tmp_path / f"{width}/task.py", "from my_own_layers import WIDTH", late)
        write(file.with_name("my_own_layers.py"), text=f"WIDTH = {width}")
        write(file.with_name("my_own_late.py"), text=f"WIDTH = {10 * width}")
        names.append(f"{file}:T")
    for _ in range(2):
        for width, name in enumerate(names, 1):
            task = load(name)
            assert (task.width, task.late()) == (width, 10 * width)


def test_paths_in_a_task_are_relative_to_its_file(tmp_path, monkeypatch):
    """Wherever it is read from, and whoever derives from it."""
    write(tmp_path / "a/task.py", text=FIELD)
    write(tmp_path / "a/parts/field.py", text="class F:\n    pass")
    models = '    models = {"growth": ModelEntry({"torch": "parts/field.py:F", "jax": "my.module:F"})}'
    write(tmp_path / "a/other.py", "from nodebench.tasks.base import ModelEntry", models)
    monkeypatch.chdir(tmp_path)
    field = f"{tmp_path / 'a/parts/field.py'}:F"
    task = load("a/task.py:T")
    assert isinstance(task, AbstractFieldTask)
    assert task.fields == {"torch": field}
    assert load("a/other.py:T").models["growth"].targets == {"torch": field, "jax": "my.module:F"}
    assert registry.load_class(task.fields["torch"]).__name__ == "F"


@pytest.mark.parametrize(
    ("top", "error", "told"),
    [
        ("import my_own_layer", PluginError, "no such module; did you mean `my_own_layers`?"),
        ("import my_own_layers.inner", PluginError, "`my_own_layers` has no module `inner`"),
        ("import json.nothing", PluginError, "`json` has no module `nothing`"),
        ("import my_own_notes", PluginError, "my_own_notes.ipynb` is not such a module"),
        (
            "import sklearnish",
            NotInstalledError,
            "the module sklearnish is not installed; install it with: pip install",
        ),
        ("from types import mine", PluginError, "is hidden by that of Python"),
        ("raise ModuleNotFoundError('get it from us')", NotInstalledError, "get it from us"),
    ],
)
def test_a_missing_import_is_told_by_what_it_means(tmp_path, top, error, told):
    """Advice to install is for what is no module of the user's own."""
    file = write(tmp_path / "task.py", top)
    for name in ("my_own_layers.py", "types.py", "my_own_notes.ipynb"):
        write(tmp_path / name, text="")
    with pytest.raises(error) as raised:
        load(f"{file}:T")
    assert told in str(raised.value)
    assert ("pip install" in str(raised.value)) == (top == "import sklearnish")


def test_a_distribution_of_another_name_is_advised(tmp_path):
    """`sklearn` comes with scikit-learn."""
    error = ModuleNotFoundError("No module named 'cv2'", name="cv2")
    assert "the module cv2 is not installed" in str(importing.missing_module(error, tmp_path))
    assert str(importing.missing_module(error, tmp_path)).endswith("pip install opencv-python")
    (tmp_path / "cv2").mkdir()
    assert "pip" not in str(importing.missing_module(error, tmp_path))


@pytest.mark.parametrize(
    ("top", "told"),
    [
        ("import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args()", "sys.exit(2)"),
        ("import sys; sys.exit(3)", "sys.exit(3)"),
        ("raise SystemExit('enough')", "sys.exit('enough')"),
        ("input('go on?')", "EOFError"),
        ("import pytest\npytest.skip(allow_module_level=True)", "Skipped"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import my_own_broken", "my_own_broken.py, line 2)"),
        ("assert len(__import__('sys').argv) == 2", "AssertionError"),
    ],
)
def test_a_file_that_ends_or_raises_is_told_with_its_line(tmp_path, top, told):
    """`SystemExit` of a script as well as errors; the process it happens in goes on, its arguments as they were."""
    write(tmp_path / "my_own_broken.py", text="x = 1\nclass (:\n")
    file = write(tmp_path / "task.py", top)
    before = (list(sys.argv), sys.stdin, sys.stdout, Path.cwd())
    with pytest.raises(PluginError) as raised:
        load(f"{file}:T")
    assert told in str(raised.value)
    assert ".py, line " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert before == (list(sys.argv), sys.stdin, sys.stdout, Path.cwd())


def test_what_a_file_prints_goes_to_stderr(tmp_path, capfd):
    """Python's and that of other programs, at the top of the file and where an instance is made."""
    top = "import os, sys\nprint('device', sys.argv)\nsys.stdout.write('written')\nos.system('echo shell')"
    file = write(tmp_path / "task.py", top, "    def __post_init__(self):\n        print('made')")
    load(f"{file}:T")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert all(text in printed.err for text in (f"device ['{file}']", "written", "shell", "made"))


BROKEN = {
    "syntax": ("class (:", "", "line 1)"),
    "exits": ("import sys; sys.exit(3)", "", "sys.exit(3)"),
    "library": ("import nosuchlibrary", "", "pip install nosuchlibrary"),
    "recipe": ("", "    def recipe(self, model, preset):\n        return 1 / 0", "ZeroDivisionError"),
    "made": ("", "    def __post_init__(self):\n        raise TypeError('no luck')", "no luck"),
    "contract": ("", "    def data(self):\n        pass", "it must take"),
}


def test_what_is_broken_is_planned_around(tmp_path):
    """Backends and tasks alike, each with its sentence; with nothing left it is an error."""
    tasks = {f"{write(tmp_path / f'{name}.py', top, body)}:T": told for name, (top, body, told) in BROKEN.items()}
    backend = f"{write(tmp_path / 'backend.py', 'class (:')}:T"
    planned = plan(Request(backends=(BACKEND, backend), tasks=(*tasks, TASK)))
    assert [(cell.task, cell.backend) for cell in planned.cells] == [(TASK, BACKEND)]
    assert planned.broken.keys() == {*tasks, backend}
    for name, told in tasks.items():
        assert told in planned.broken[name]
    with pytest.raises(PluginError, match=r"sys\.exit\(3\)"):
        plan(Request(backends=(BACKEND,), tasks=(f"{tmp_path / 'exits.py'}:T",)))
    with pytest.raises(PluginError, match="line 1"):
        planned.check_control(backend)
    scaled = scaling_plan(Request(backends=(BACKEND, backend), tasks=(TASK,)), "batch", (4, 8, 16))
    assert (len(scaled.cells), list(scaled.broken)) == (3, [backend])


def test_a_run_measures_what_is_not_broken(tmp_path):
    """Stdout has one JSON document, the sentence comes before and after, the exit code is 1."""
    write(tmp_path / "exits.py", "print('hello')\nraise SystemExit(3)")
    write(tmp_path / "glob.py", text="raise RuntimeError('hidden')")
    write(tmp_path / "my_own_layers.py", text="WIDTH = 7")
    write(tmp_path / "well.py", "print('device', 'cpu')\nfrom my_own_layers import WIDTH")
    for module in (False, True):
        done = nodebench(
            "run", "-b", BACKEND, "-t", "./exits.py:T,well:T,./well.py:T", "--measure", "counts", "--json",
            cwd=tmp_path, module=module, PYTHONIOENCODING="ascii",
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        records = {record["task"]: record["status"] for record in json.loads(done.stdout)}
        assert records == {"well:T": "ok", "./well.py:T": "ok"}
        told = " ".join(done.stderr.decode().split())
        assert told.count("broken: ./exits.py:T") == 2
        assert "device cpu" in told


FOLDERS = ["run 10:30", "a,b", "exp[v2]", "exp[v2", "50%", "ü", "a=b", "it's", "[red]"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where all of them lie: in one working directory planning has one launcher."""
    return tmp_path_factory.mktemp("folders")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_path_may_have_any_character(folders, monkeypatch, folder, capsys):
    """Commas, brackets and colons within the path of a file belong to it, also where its name alone is printed."""
    monkeypatch.chdir(folders)
    monkeypatch.setenv("COLUMNS", "200")
    write(folders / folder / "task.py")
    path = f"./{folder}/task.py:T"
    assert registry.split_list(f"linear[x=1,y=2], {path},{path}[hidden=3,y=2],cnf") == [
        "linear[x=1,y=2]", path, f"{path}[hidden=3,y=2]", "cnf",
    ]  # fmt: skip
    assert registry.parse(f"{path}[hidden=3]") == (path, {"hidden": "3"})
    assert registry.canonical("task", f"{path}[ y=1,hidden=3 ]") == f"{path}[hidden=3,y=1]"
    monkeypatch.setattr(sys, "argv", ["nodebench", "run", "--dry-run", "-b", BACKEND, "-t", f"{path}[hidden=3],{TASK}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert " task.py:T[hidden=3] " in printed
    assert folder not in printed
    assert load(f"{folders / folder / 'task.py'}:T[hidden=3]").hidden == 3


def test_a_file_without_a_class_is_told(tmp_path, monkeypatch):
    """The name of the file alone, and a name that is no file's."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "task.py")
    with pytest.raises(UserError, match=r"write task\.py:Class"):
        load("task.py")
    with pytest.raises(PluginError, match="not a Python file"):
        load(f"{write(tmp_path / 'notes.txt', text='')}:T")


SIZES = [
    ("linear", "training", 64),
    ("linear", "gradient", None),
    ("cnf", "gradient", None),
    ("spiral", "gradient", 1000),
    ("field", "counts", 1024),
    ("field", "both", 128),
    ("new", "gradient", 2048),
    (TASK, "both", 40),
]


@pytest.mark.parametrize(("task", "measure", "most"), SIZES)
def test_a_batch_that_the_data_cannot_fill_is_refused_in_planning(tmp_path, task, measure, most):
    """For gradients and training alike, by the data that each takes."""
    if task == "new":
        from nodebench.templates.new import write as begin

        begin("task", "my_own", "torch", tmp_path)
    write(tmp_path / "field.py", text=FIELD)
    name = {"field": f"{tmp_path / 'field.py'}:T", "new": f"{tmp_path / 'my_own.py'}:MyOwn"}.get(task, task)
    request = Request(backends=("direct" if task != TASK else BACKEND,), tasks=(name,), preset="smoke", measure=measure)

    def planned(size):
        return plan(Request(**{**vars(request), "batch_size": size})).cells[0].batch_size

    if most is None:
        assert planned(4096) == 4096
        return
    assert planned(most) == most
    with pytest.raises(UserError, match=f"a batch of {most + 1} is larger than the training data, {most} examples"):
        planned(most + 1)


def test_a_scaling_over_batches_is_refused_too(tmp_path):
    """Before any of its places is measured."""
    task = f"{write(tmp_path / 'field.py', text=FIELD)}:T"
    with pytest.raises(UserError, match="a batch of 4096 is larger"):
        scaling_plan(Request(backends=("direct",), tasks=(task,)), "batch", (256, 1024, 4096))


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
def test_what_a_terminal_lacks_is_replaced(tmp_path, environment):
    """Planning, worker and logs: the words of the user's are kept in full, and printed as far as can be."""
    write(
        tmp_path / "bad.py",
        "print('λ → ✓')",
        "    def problem(self, model, seed, batch_size):\n"
        "        print('printed λ')\n        raise ValueError('raised λ → ✓')",
    )
    store = ("--store", "r.db")
    done = nodebench(
        "run", "-b", BACKEND, "-t", "./bad.py:T", "--measure", "counts", *store, cwd=tmp_path, **environment
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"raised ? ? ?" in done.stdout
    (record,) = json.loads(within("show", "--json", *store, cwd=tmp_path).stdout)
    assert "raised λ → ✓" in record["reason"]
    assert "printed λ" in record["stderr"]
    logs = nodebench("logs", record["cell_id"], *store, cwd=tmp_path, **environment)
    assert (logs.returncode, logs.stderr) == (0, b"")
    assert b"printed ?" in logs.stdout


def test_arguments_that_cannot_be_read_are_refused(tmp_path):
    """With what to set, where the encoding of file names has no umlauts."""
    done = nodebench("run", "-t", "./ü.py:T", cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2
    assert b"set LC_ALL=C.UTF-8" in done.stderr


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}])
def test_a_narrow_terminal_loses_nothing(tmp_path, monkeypatch, capsys, environment):
    """At 40 columns whatever a table of ordinary width has is there, in lines of its own."""
    name = f"{write(tmp_path / 'task.py')}:T"
    for variable, value in {**environment, "COLUMNS": "40"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["nodebench", "run", "--dry-run", "-b", BACKEND, "-t", name])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    text = "".join(capsys.readouterr().out.split())
    assert "task.py:T" in text
    assert BACKEND in text
