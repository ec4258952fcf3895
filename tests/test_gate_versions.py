"""Two versions take turns in one run, and what one of them has made worse is named in the right cell."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET
from zipfile import ZipFile

import pytest
from commands import nodebench as called
from repositories import git

import nodebench
from nodebench.bench.client import WorkerProcess
from nodebench.bench.matrix import Request, plan
from nodebench.bench.messages import Assignment
from nodebench.bench.request import Interpreter
from nodebench.errors import UserError
from nodebench.gating.gate import unlike_conditions
from nodebench.gating.probe import cell_defect, protocol
from nodebench.gating.versions import _is_package, ask_version, version_of_python, version_of_ref, version_of_wheel
from nodebench.results.record import Record
from nodebench.results.store import Store

TASK = "nodebench.testing:FakeTask"

PLUGIN = """
from dataclasses import dataclass, replace
from typing import ClassVar
from nodebench.problem import Evaluations
from nodebench.testing import planted
from nodebench.testing import FakeBackend

EXTRA, SLOWDOWN, LEAK, WRONG = 0, 0.0, 0, False

@dataclass(frozen=True)
class Mine(FakeBackend):
    framework: ClassVar[str] = "nodebench.testing:FakeFramework"
    work: int = 200

    def gradient_step(self, problem, spec, framework):
        step = planted(super().gradient_step(problem, spec, framework), SLOWDOWN, LEAK, wrong=WRONG)
        return replace(step, evaluations=lambda: Evaluations(7 + EXTRA, 5, 3))
"""

FAULTS = {
    "tensor": "0, 0.0, 2**20, False",
    "slow": "1, 2.0, 0, False",  # far beyond the limit: a busy machine must not hide it
    "wrong": "0, 0.0, 0, True",
}
"""What becomes of each plugin after the revision that it is compared with: `slow` has one more evaluation, too."""


def record(backend):
    """A record of a cell, as if it had been measured."""
    settings = {"dtype": "float32", "device": "cpu", "threads": 1, "seed": 0, "preset": "smoke"}
    names = {"run_id": "r1", "cell_id": backend, "task": "t", "model": "m", "backend": backend}
    return Record(**names, **settings, created_at="now", nodebench_version="0", status="ok", nfe_forward=7)


@pytest.fixture
def repository(tmp_path):
    """A repository with a plugin for each fault, none of which is there yet, and one more."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in (*FAULTS, "evaluations"):
        (folder / f"{name}.py").write_text(PLUGIN)
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    return folder


@pytest.mark.quiet
def test_planted_faults_are_caught_in_their_cells(repository, tmp_path):
    """One more evaluation, a tensor kept alive, more time, a wrong sign: each named, and nothing else."""
    for name, values in FAULTS.items():
        (repository / f"{name}.py").write_text(PLUGIN.replace("0, 0.0, 0, False", values))
    backends = ",".join(f"./{name}.py:Mine" for name in FAULTS)
    options = ("--against-ref", "HEAD", "-b", backends, "-t", TASK, "--rounds", "8", "--preset", "smoke")
    done = called("compare", *options, "-o", str(tmp_path / "gate.xml"), cwd=repository)
    assert done.returncode == 1, done.stdout + done.stderr
    suite = ET.parse(tmp_path / "gate.xml").getroot()[0]
    failed = {}
    for case in suite.iter("testcase"):
        if case.find("failure") is not None:
            plugin = case.get("classname").partition("./")[2].partition(".py")[0]
            failed.setdefault(plugin, set()).add(case.get("name"))
    assert failed.pop("wrong") >= {"status", "grad_error_params", "grad_error_y0"}
    assert failed.pop("tensor") >= {"unreleased_bytes", "peak_memory_bytes"}  # and the time that it takes to fill it
    assert failed == {"slow": {"nfe_forward", "time"}}
    runs = json.loads(called("list", "runs", "--json", cwd=repository).stdout)
    assert [(run["records"], run["made by"]) for run in runs] == [("3 of 3", "compare"), ("3 of 3", "compare")]
    assert "has none; name one of another command by its id" in called("show", cwd=repository).stderr
    records = json.loads(called("show", runs[-1]["name"], "--json", cwd=repository).stdout)
    assert {record["control"] for record in records if record["ratio"]} == {
        f"./{name}.py:Mine of HEAD" for name in FAULTS if name != "wrong"
    }


def test_what_one_version_lacks_is_new_or_missing_and_no_improvement(repository, tmp_path):
    """A file, a class or an option that was not there; one that is gone; one that could not be imported."""
    (repository / "tensor.py").write_text("import nosuchmodule\n" + PLUGIN)
    git(repository, "commit", "-a", "-m", "two")
    (repository / "tensor.py").write_text(PLUGIN)
    (repository / "fresh.py").write_text(PLUGIN)
    (repository / "slow.py").write_text(PLUGIN.replace("class Mine", "class Renamed"))
    (repository / "wrong.py").unlink()
    (repository / "evaluations.py").write_text(PLUGIN.replace("    work: int", "    more: int = 0\n    work: int"))
    named = ["fresh.py:Mine", "slow.py:Renamed", "slow.py:Mine", "wrong.py:Mine", "tensor.py:Mine"]
    named += ["evaluations.py:Mine", "evaluations.py:Mine[more=1]"]
    backends = ",".join(f"./{name}" for name in named)
    options = ("--against-ref", "HEAD", "-b", backends, "-t", TASK, "--rounds", "1", "--preset", "smoke")
    done = called("compare", *options, "-o", str(tmp_path / "gate.xml"), cwd=repository)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "cannot compare: 2 cells compared; 1 incomparable" in done.stdout
    assert "2 missing, 3 new" in done.stdout
    cases = ET.parse(tmp_path / "gate.xml").getroot()[0].iter("testcase")
    told = {case.get("classname"): " ".join(case.itertext()) for case in cases if case.get("name") == "cell"}
    assert [name.partition("./")[2] for name in told] == [
        "slow.py:Mine",
        "wrong.py:Mine",
        "evaluations.py:Mine[more=1] dopri5 rtol 0.001",
        "fresh.py:Mine dopri5 rtol 0.001",
        "slow.py:Renamed dopri5 rtol 0.001",
        "tensor.py:Mine dopri5 rtol 0.001",
    ]
    new = [text for text in told.values() if "HEAD does not have it" in text]
    assert len(new) == 3
    assert "unknown option" in new[0]
    assert "there is no file `./fresh.py`" in new[1]
    assert "no class `Renamed`" in new[2]


@pytest.mark.parametrize(
    ("changes", "what", "why"),
    [
        ({}, None, ""),
        ({"model": "nothing"}, "absent", "has no model `nothing`"),
        ({"framework": "torch"}, "absent", "is written for nodebench.testing:FakeFramework, not torch"),
        ({"task": "./none.py:T"}, "absent", "none.py"),
        ({"backend": "no_such_package.mine:B"}, "absent", "no_such_package"),
        ({"backend": "./leaves.py:Mine"}, "broken", "3"),
        ({"backend": "./torn.py:Mine"}, "broken", "cannot be parsed"),
    ],
)
def test_what_there_is_none_of_is_told_from_what_is_broken(tmp_path, monkeypatch, changes, what, why):
    """Whatever a file does when it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves.py").write_text(PLUGIN + "\nimport sys\nsys.exit(3)\n")
    (tmp_path / "torn.py").write_text(PLUGIN + "\ndef\n")
    cell = {"task": TASK, "model": "growth", "backend": "nodebench.testing:FakeBackend"}
    found = cell_defect({**cell, "framework": "nodebench.testing:FakeFramework", **changes}) or (None, "")
    assert (found[0], why in found[1]) == (what, True), found


def test_conditions_of_two_versions_are_compared_by_name():
    """Also those that one side alone has, unless the other knows none of their kind."""
    old = {"weights": "a", "parameter w": "1", "parameter u": "2"}
    assert unlike_conditions(old, old) == []
    new = {"weights": "a", "parameter w": "1", "parameter v": "3", "constant B": "4"}
    assert unlike_conditions(old, new) == ["parameter u 2 against none", "parameter v none against 3"]
    assert unlike_conditions({}, new) == unlike_conditions(new, {}) == []


def test_a_name_that_no_version_has_is_refused(call, tmp_path):
    """With the near ones, as everywhere."""
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text(PLUGIN)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    code, text = call("compare", "--against-ref", "HEAD", "-b", "driect", "-t", TASK)
    assert (code, "unknown backend 'driect'; did you mean 'direct'" in text) == (2, True), text
    code, text = call("compare", "--against-ref", "HEAD", "-b", "./a.py:Mine,./b.py:Mine", "-t", TASK)
    assert (code, "b.py" in text) == (2, True), text


@pytest.mark.quiet
def test_a_version_against_itself_is_no_alarm(tmp_path):
    """Another environment that holds the same: exit code 0, and a regression in nothing."""
    options = (
        "--against-python",
        sys.executable,
        "-b",
        "nodebench.testing:Planted",
        "-t",
        TASK,
        "--rounds",
        "4",
        "--preset",
        "smoke",
    )
    done = called("compare", *options, "-o", "gate.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed: 1 cell compared" in done.stdout
    names = {entry["name"].rpartition(" ")[2] for entry in json.loads((tmp_path / "gate.json").read_text())}
    assert {"nfe_forward", "peak_memory_bytes", "time"} <= names


def test_another_protocol_is_refused(tmp_path):
    """A version whose messages have other fields: the difference is the reason."""
    shutil.copytree(Path(nodebench.__file__).parent, tmp_path / "nodebench", ignore=shutil.ignore_patterns("*.pyc"))
    messages = tmp_path / "nodebench/bench/messages.py"
    messages.write_text(
        messages.read_text().replace("    cpu_s: float\n", "    cpu_s: float\n    gpu_s: float = 0.0\n")
    )
    with pytest.raises(UserError, match=r"Turn: step_s, cpu_s here, step_s, cpu_s, gpu_s there"):
        ask_version(Interpreter("old", paths=(tmp_path,)))
    messages.write_text("")
    with pytest.raises(UserError, match=r"cannot compare with old: its nodebench did not answer the version probe"):
        ask_version(Interpreter("old", paths=(tmp_path,)))


def test_the_protocol_has_messages_and_questions():
    """What is pickled and what is asked for."""
    found = protocol()
    assert found["Turn"] == ["step_s", "cpu_s"]
    assert "first_step" in found["question prepare"]
    assert {"Cell", "SolverSpec", "Assignment", "Preparation"} <= found.keys()
    assert "GradientPasses" not in found


def test_a_revision_is_a_folder_of_its_own(repository, monkeypatch):
    """Workers run where the caller is, within the revision; a project is installed with its entry points."""
    (repository / "sub").mkdir()
    (repository / "sub/file.txt").touch()
    (repository / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "mine"\nversion = "7"\n[tool.hatch.build.targets.wheel]\ninclude = ["slow.py"]\n'
        '[project.entry-points."nodebench.backends"]\nmine = "slow:Mine"\n'
    )
    git(repository, "add", ".")
    git(repository, "commit", "-m", "two")
    (repository / "slow.py").write_text("")
    monkeypatch.chdir(repository / "sub")
    with version_of_ref("HEAD") as version:
        interpreter = version.interpreter
        assert (interpreter.folder / "file.txt").is_file()
        assert (interpreter.paths[0] / "slow.py").read_text() == PLUGIN
        code = "from nodebench import registry; print(registry.describe('backend', 'mine').target)"
        environment = {**os.environ, "PYTHONPATH": interpreter.search_path}
        done = subprocess.run(
            [interpreter.python, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == "slow:Mine\n"
        assert len(version.environment["git"]["commit"]) == 40
    assert not interpreter.folder.exists()


BUILDER = """
import subprocess
from zipfile import ZipFile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    git = ["git", "describe", "--tags", "--match", "v*"]
    done = subprocess.run(git, capture_output=True, text=True)
    if done.returncode != 0:
        raise LookupError("no version in the history: set MINE_VERSION")
    version = done.stdout.strip().removeprefix("v").replace("-", "+", 1).replace("-", ".")
    name = f"mine-{version}-py3-none-any.whl"
    info = f"mine-{version}.dist-info"
    with ZipFile(f"{folder}/{name}", "w") as packed:
        packed.write("mine.py")
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: mine\\nVersion: {version}\\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        packed.writestr(f"{info}/RECORD", "")
    return name
"""

PROJECT = '[build-system]\nrequires = []\nbuild-backend = "builder"\nbackend-path = ["."]\n'


@pytest.fixture
def versioned(tmp_path, monkeypatch):
    """A project whose version is that of its git history, and of which archives lack a part; at two commits."""
    folder = tmp_path / "versioned"
    folder.mkdir()
    contents = {"builder.py": BUILDER, "pyproject.toml": PROJECT, "mine.py": "X = 1\n"}
    contents[".gitattributes"] = "mine.py export-ignore\ndata.bin filter=lfs\n"
    for name, text in contents.items():
        (folder / name).write_text(text)
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "v3.1")
    (folder / "mine.py").write_text("X = 2\n")
    git(folder, "commit", "-a", "-m", "two")
    monkeypatch.chdir(folder)
    return folder


def test_a_version_that_comes_from_git_is_built(versioned, monkeypatch):
    """From a checkout with its history and all its files; even in a hook, the repository stays as it was."""

    def state():
        return {path: path.read_bytes() for path in versioned.rglob("*") if path.is_file()}

    before = state()
    monkeypatch.setenv("GIT_DIR", str(versioned / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(versioned / ".git/index"))
    for ref, number in {"v3.1": 1, "HEAD": 2}.items():
        with version_of_ref(ref) as version:
            site = version.interpreter.paths[0]
            assert (site / "mine.py").read_text() == f"X = {number}\n"
            assert list(site.glob("mine-3.1*.dist-info"))
    assert state() == before


def test_a_linked_worktree_and_a_commit_of_no_branch_are_found(versioned, tmp_path, monkeypatch):
    """Where git keeps the objects is its own affair."""
    linked = tmp_path / "linked"
    git(versioned, "worktree", "add", "--detach", str(linked))
    (linked / "mine.py").write_text("X = 3\n")
    git(linked, "commit", "-a", "-m", "three")
    commit = git(linked, "rev-parse", "HEAD")
    monkeypatch.chdir(linked)
    for folder in (linked, versioned):
        monkeypatch.chdir(folder)
        with version_of_ref(commit) as version:
            assert (version.interpreter.folder / "mine.py").read_text() == "X = 3\n"


def test_what_cannot_be_built_is_told_in_the_words_of_the_build(versioned):
    """Not in pip's last line, which is advice; with what a clone does not have by itself."""
    git(versioned, "tag", "-d", "v3.1")
    words = r"^HEAD cannot be installed: LookupError: no version in .*: set MINE_VERSION\.$"
    with pytest.raises(UserError, match=words), version_of_ref("HEAD"):
        pass
    (versioned / "data.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    git(versioned, "add", "data.bin")
    git(versioned, "update-index", "--add", "--cacheinfo", f"160000,{git(versioned, 'rev-parse', 'HEAD')},vendor/lib")
    git(versioned, "commit", "-m", "three")
    words = r"without its submodules: vendor/lib\. Files are in Git LFS .*: data\.bin\.$"
    with pytest.raises(UserError, match=words), version_of_ref("HEAD"):
        pass


@pytest.mark.parametrize(
    ("ref", "fetch"), [("origin/dev", "git fetch origin dev"), ("v3.1", "origin v3.1"), ("HEAD~1", "--unshallow")]
)
def test_a_revision_that_was_not_fetched_is_asked_for(versioned, tmp_path, monkeypatch, ref, fetch):
    """A clone of depth 1, as a workflow makes it, has one commit."""
    git(tmp_path, "clone", "--depth", "1", f"file://{versioned}", "clone")
    monkeypatch.chdir(tmp_path / "clone")
    words = f"no revision `{ref}` here, .*{fetch}`, or `fetch-depth: 0`"
    with pytest.raises(UserError, match=words), version_of_ref(ref):
        pass


def test_a_wheel_is_installed_beside_the_libraries(tmp_path):
    """Into a folder that comes first."""
    wheel = tmp_path / "mine-1.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as packed:
        packed.writestr("mine.py", "")
        packed.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        packed.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr("mine-1.0.dist-info/RECORD", "")
    with version_of_wheel(wheel) as version:
        assert (version.interpreter.paths[0] / "mine.py").is_file()
        assert version.interpreter.search_path.startswith(str(version.interpreter.paths[0]))


def test_what_does_not_exist_is_refused(repository, tmp_path, monkeypatch):
    """A revision, a wheel, an interpreter, a repository."""
    monkeypatch.chdir(repository)
    with pytest.raises(UserError, match="git knows no revision `nowhere` here"), version_of_ref("nowhere"):
        pass
    with pytest.raises(UserError, match="there is no wheel"), version_of_wheel(tmp_path / "no.whl"):
        pass
    with pytest.raises(UserError, match="there is no interpreter `nopython`"), version_of_python("nopython"):
        pass
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="in no git repository"), version_of_ref("HEAD"):
        pass


def test_a_run_in_turns_is_not_gone_on_with_as_another():
    """The same cells against another version are another plan."""
    planned = plan(Request(backends=("nodebench.testing:FakeBackend",), tasks=(TASK,)))
    assert len({planned.plan_id, *(replace(planned, against=name).plan_id for name in ("main", "dev"))}) == 3


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The command line within this process, in a folder of its own: gives exit code and everything it printed."""

    def told(*arguments):
        done = called(*arguments, COLUMNS="200")
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    monkeypatch.chdir(tmp_path)
    return told


def test_a_baseline_goes_through_its_commands(call, tmp_path):
    """Saved, shown, compared, worsened, taken over: each with its exit code."""
    store = Store(tmp_path / ".nodebench/results.db")
    here = {"cpu": "one", "system": "s"}
    store.start_run("r1", "test", "plan", here, 2)
    for backend in ("a", "b"):
        store.append(replace(record(backend), environment=store.save_environment(here)))
    assert call("baseline", "save") == (0, "baseline.json: 2 cells of latest")
    assert "one, s" in call("baseline", "show")[1]
    code, text = call("compare", "baseline.json")
    assert (code, text.startswith("note: baseline.json has figures of r1, the run that it is compared with")) == (
        0,
        True,
    )
    assert text.endswith("passed: 2 cells compared; nothing has changed")
    code, text = call("compare", "latest")
    assert (code, text.startswith("error: BASELINE and CANDIDATE")) == (2, True)
    path = tmp_path / "baseline.json"
    path.write_text(path.read_text().replace('"nfe_forward": 7', '"nfe_forward": 6'))
    code, text = call("compare", "baseline.json", "latest", "-o", "gate.md")
    assert (code, "failed: 2 cells compared; 2 regressions" in text) == (1, True)
    assert "❌" in (tmp_path / "gate.md").read_text()
    assert "left as it was: t/m/a: nfe_forward 6 -> 7 evaluations" in call("baseline", "update")[1]
    path.write_text(path.read_text().replace('"nfe_forward": 6', '"nfe_forward": 8'))
    assert "taken over: t/m/b: nfe_forward 8 -> 7 evaluations" in call("baseline", "update", "r1")[1]
    assert path.read_text().count('"nfe_forward": 7') == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare",), "name a BASELINE, or one of --against-ref"),
        (("compare", "b.json"), "there is no file `b.json`"),
        (("compare", "b.json", "--against-ref", "x"), "name a BASELINE, or one of --against-ref"),
        (("compare", "b.json", "-b", "direct"), "-b and -t belong to the --against options"),
        (("compare", "b.json", "-o", "out.txt"), "`--output` ends with .md"),
        (("compare", "b.json", "--max-slowdown", "much"), "must be a number"),
        (("baseline", "show"), "there is no baseline `baseline.json`"),
    ],
)
def test_wrong_usage_is_refused(call, arguments, message):
    """Exit code 2, before anything is measured."""
    code, text = call(*arguments)
    assert (code, message in text) == (2, True), text


def test_a_revision_without_files_is_refused(tmp_path, monkeypatch):
    """Git's archive of nothing is none that Python reads."""
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "nothing")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has no files"), version_of_ref("HEAD"):
        pass


def test_what_is_no_python_is_refused(tmp_path):
    """A program that answers something else, and a file that cannot be started."""
    notes = tmp_path / "notes"
    notes.write_bytes(b"\x00no program")
    notes.chmod(0o755)
    with pytest.raises(UserError, match="does not answer as a Python does"), version_of_python(shutil.which("echo")):
        pass
    with pytest.raises(UserError, match=r"notes` cannot be started"), version_of_python(str(notes)):
        pass


def test_a_package_in_the_users_folder_does_not_hide_another_version(tmp_path, monkeypatch):
    """Else that version would be compared with itself."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "mine.py").write_text(PLUGIN)
    (there / "mine.py").write_text(PLUGIN.replace("class Mine", "class Other"))
    monkeypatch.chdir(here)
    planned = plan(Request(backends=("./mine.py:Mine",), tasks=(TASK,)))
    cell = replace(planned.cells[0], backend="mine:Other")
    worker = WorkerProcess(Assignment(cell, None, None, None), Interpreter("other", paths=(there,)), None)
    try:
        worker.ready(60)
    finally:
        worker.stop()


def test_a_project_need_not_have_the_newest_kind_of_metadata(tmp_path):
    """What pip can install is installed: else the version that is there would be compared with itself."""
    assert not _is_package(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    assert not _is_package(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["poetry-core"]\n')
    assert _is_package(tmp_path)
    (tmp_path / "pyproject.toml").unlink()
    (tmp_path / "setup.py").touch()
    assert _is_package(tmp_path)
