"""The workflows are sound, and their shell lines do what they say, run as they stand.

What no test can run is what GitHub does between the lines: checkouts, artifacts, the comment.
"""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from commands import nodebench
from repositories import git

ROOT = Path(__file__).parent.parent
OURS = ROOT / ".github/workflows/ci.yml"
RELEASE = ROOT / ".github/workflows/release.yml"
RECIPE = ROOT / "examples/ci/nodebench.yml"
BASELINE = ROOT / "examples/ci/nodebench-baseline.yml"
WORKFLOWS = (*sorted((ROOT / ".github/workflows").glob("*.y*ml")), *sorted((ROOT / "examples/ci").glob("*.y*ml")))

GATES = (OURS, RECIPE, BASELINE)

GRANTED = {
    ("docs.yml", "deploy"): {"pages": "write", "id-token": "write"},
    ("release.yml", "publish"): {"id-token": "write"},
    ("release.yml", "github"): {"contents": "write"},
}
"""What a job may do besides reading, where it posts no comment."""

INSTALL = "install"
"""The one step of a job that is not run: it asks the network for what is installed here."""

QUICK = {"OPTIONS": "--rounds 1 --preset smoke"}
"""One start of a worker instead of four or more: time is not what these tests are about."""

FAKE = """
from dataclasses import dataclass, replace
from typing import ClassVar
from nodebench.problem import Evaluations
from nodebench.testing import FakeBackend

MORE = 0

@dataclass(frozen=True)
class Mine(FakeBackend):
    framework: ClassVar[str] = "nodebench.testing:FakeFramework"

    def gradient_step(self, problem, spec, framework):
        step = super().gradient_step(problem, spec, framework)
        return replace(step, evaluations=lambda: Evaluations(7 + MORE, 5, 3))
"""

EVEN_IF_RED = re.compile(r"always\(\) && steps\.(\w+)\.outcome != 'skipped'")


@dataclass(frozen=True)
class Outcome:
    """What became of a job: exit codes by step, the summary it posted, and all that it printed."""

    codes: dict
    summary: str
    printed: str


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(path):
    return load(path)["jobs"].items()


def own_jobs(path):
    """The jobs that are written out here, and not those of a workflow that is called."""
    return [(name, job) for name, job in jobs(path) if "steps" in job]


def steps(path):
    return [step for _, job in own_jobs(path) for step in job["steps"]]


def triggers(path):
    return load(path)[True]  # YAML 1.1 reads `on` as a truth value


def run_job(path, name, folder, **values):
    """Run the shell lines of a job one after the other in a checkout, as the runner does."""
    workflow = load(path)
    job = workflow["jobs"][name]
    summary = folder.parent / f"{folder.name}-{name}-summary.md"
    summary.unlink(missing_ok=True)
    inherited = {key: value for key, value in os.environ.items() if key != "NODEBENCH_STORE"}
    environment = inherited | workflow.get("env", {}) | job.get("env", {}) | QUICK | values
    environment |= {
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_BASE_REF": "main",
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_STEP_SUMMARY": str(summary),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    codes, printed = {}, []
    for step in job["steps"]:
        if "run" not in step or step["id"] == INSTALL or not _is_due(step.get("if"), codes):
            continue
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(bash, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        codes[step["id"]] = done.returncode
        printed.append(done.stdout + done.stderr)
    return Outcome(codes, summary.read_text() if summary.is_file() else "", "\n".join(printed))


def _is_due(condition, codes):
    if condition is None:
        return not any(codes.values())
    return EVEN_IF_RED.fullmatch(condition)[1] in codes


def call(*arguments, cwd):
    done = nodebench(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path):
    """A branch of somebody's project, which is one file with a backend, as a runner has it: beside `origin/main`."""
    (tmp_path / "upstream").mkdir()
    call("new", "backend", "mine", cwd=tmp_path / "upstream")
    return cloned(tmp_path)


@pytest.fixture
def fake_checkout(tmp_path):
    """The same of a backend that needs no framework, for the task that goes with it."""
    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream/mine.py").write_text(FAKE)
    return cloned(tmp_path)


def cloned(tmp_path):
    """The clone that a runner makes of what lies in `upstream`."""
    upstream, folder = tmp_path / "upstream", tmp_path / "checkout"
    git(upstream, "init")
    git(upstream, "add", ".")
    git(upstream, "commit", "-m", "a backend")
    git(tmp_path, "clone", str(upstream), str(folder))
    git(folder, "switch", "-c", "change")
    (folder / "README.md").write_text("A change that makes nothing worse.\n")
    commit(folder)
    return folder


def commit(folder):
    git(folder, "add", ".")
    git(folder, "commit", "-m", "a change")


def make_worse(folder):
    """Plant one more evaluation into every step of the backend, whichever of the two it is."""
    file = folder / "mine.py"
    before = file.read_text()
    after = before.replace("    k: list[Tensor] = []\n", "    k: list[Tensor] = []\n    rate(t, y)\n")
    after = after.replace("MORE = 0", "MORE = 1")
    assert before != after
    file.write_text(after)
    commit(folder)


def regressions(summary):
    """The figures of the rows that a summary calls a regression."""
    return set(re.findall(r"^\| regression \| `.*?mine\.py:Mine.*?` \| `(\w+)` \|", summary, flags=re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_is_bounded(path):
    """A time-out, a runner that stays the same, one run at a time."""
    for name, job in own_jobs(path):
        assert 0 < job["timeout-minutes"] <= 60, name
        assert not any("latest" in runner for runner in runners(job)), name
    if set(triggers(path)) != {"workflow_call"}:
        assert set(load(path)["concurrency"]) == {"group", "cancel-in-progress"}


def runners(job):
    """What a job runs on: one system, or those of its matrix."""
    if job["runs-on"] != "${{ matrix.system }}":
        return [job["runs-on"]]
    matrix = job["strategy"]["matrix"]
    return [*matrix["system"], *(each["system"] for each in matrix["include"])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_may_write_nothing_but_what_it_is_for(path):
    """A comment is posted by a job that may, which does not try with the token of a fork."""
    assert load(path)["permissions"] == {"contents": "read"}
    for name, job in jobs(path):
        comments = [step for step in job.get("steps", ()) if "comment" in step.get("uses", "")]
        comment = {"contents": "read", "pull-requests": "write"} if comments else None
        assert job.get("permissions") == GRANTED.get((path.name, name), comment), name
        for step in comments:
            assert "github.event.pull_request.head.repo.full_name == github.repository" in step["if"], name
    assert "pull_request_target" not in triggers(path)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path):
    """To a commit, with its version beside it, the same for all that use one; or they are of this repository."""
    pinned = re.compile(r"([\w-]+/[\w-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/[\w-]+\.yml")
    here, used = uses(path), {action for other in WORKFLOWS for action in uses(other)}
    assert [action for action in here if not pinned.fullmatch(action)] == []
    assert len({action.partition("@")[0] for action in used}) == len(used)


def uses(path):
    """What the lines of a workflow say that they use, with the comments that YAML leaves out."""
    return re.findall(r"^ +(?:- )?uses: (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_shell_lines_are_plain(path):
    """No expression within them, a name for each, and a shell in which a pipe fails with its first command."""
    assert load(path)["defaults"] == {"run": {"shell": "bash"}}
    assert [step for step in steps(path) if "run" in step and ("${{" in step["run"] or "id" not in step)] == []


@pytest.mark.parametrize("path", GATES, ids=lambda path: path.name)
def test_what_a_gate_found_is_kept(path):
    """The Markdown and the files, of a red gate as of a green one; against a branch, with the whole history."""
    gates = [(name, job) for name, job in own_jobs(path) if any(step.get("id") == "gate" for step in job["steps"])]
    assert gates
    assert "pull_request" in triggers(path)
    for name, job in gates:
        at = next(index for index, step in enumerate(job["steps"]) if step.get("id") == "gate")
        after = job["steps"][at + 1 :]
        assert len(after) == 3, name
        assert all(EVEN_IF_RED.match(step["if"])[1] == "gate" for step in after), name
        if "--against-ref" in job["steps"][at]["run"]:
            assert job["steps"][0]["with"] == {"fetch-depth": 0}, name


@pytest.mark.parametrize(
    ("version", "heading", "codes"),
    [
        ("0.2.0", "## 0.2.0 - 2031-02-03", {"version": 0, "notes": 0}),
        ("0.2.0", "## 0.2.0 - unreleased", {"version": 0, "notes": 1}),
        ("0.2.0", "## 0.2.00 - 2031-02-03", {"version": 0, "notes": 1}),
        ("0.2.1", "## 0.2.1 - 2031-02-03", {"version": 1}),
    ],
    ids=["released", "no date", "no section", "another version"],
)
def test_a_release_is_of_the_version_and_has_its_notes(tmp_path, version, heading, codes):
    """The tag is the version, and the notes are the section of the changelog, up to the next."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "nodebench"\nversion = "0.2.0"\ndescription = ""\n')
    (folder / "CHANGELOG.md").write_text(
        f"# Changelog\n\n{heading}\n\n### Added\n\n- This.\n\n## 0.1.0 - 2030-01-01\n\n- That.\n"
    )
    outcome = run_job(RELEASE, "told", folder, GITHUB_REF_NAME=f"v{version}")
    assert outcome.codes == codes, outcome.printed
    if not any(codes.values()):
        assert (folder / "notes.md").read_text().split("\n") == ["", "### Added", "", "- This.", "", ""]


def test_the_version_is_written_once():
    """Where the release reads it."""
    project = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'^version = "(.*)"$', project, flags=re.MULTILINE) == [
        tomllib.loads(project)["project"]["version"]
    ]


def test_the_gate_is_the_same_everywhere():
    """Our own workflow has the shell lines of the recipe, which are run below in a project that is quickly built."""
    ours, recipe = (
        [step for step in load(path)["jobs"]["gate"]["steps"] if step.get("id") in ("gate", "summary")]
        for path in (OURS, RECIPE)
    )
    assert ours == recipe


def test_the_recipe_is_documented():
    """Each file and each of its variables has its place on the page."""
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    for path in (RECIPE, BASELINE):
        assert f"/examples/ci/{path.name})" in page
    backends, tasks = (load(BASELINE)["env"][name] for name in ("BACKENDS", "TASKS"))
    assert f"nodebench run -b {backends} -t {tasks} " in page


def test_the_recipe_checks_a_backend(checkout):
    """The starting point of a backend passes."""
    outcome = run_job(RECIPE, "check", checkout)
    assert outcome.codes == {"check": 0}, outcome.printed


def test_the_recipe_lets_a_harmless_change_pass(fake_checkout):
    """Green, and the Markdown and the files are written all the same."""
    outcome = run_job(RECIPE, "gate", fake_checkout, TASKS="nodebench.testing:FakeTask")
    assert outcome.codes == {"gate": 0, "summary": 0}, outcome.printed
    assert "nodebench: passed: 1 cell compared" in outcome.summary
    assert {path.suffix for path in fake_checkout.glob("gate.*")} == {".md", ".xml", ".json", ".log"}
    assert "nfe_forward" in (fake_checkout / "gate.json").read_text()  # what fails on both sides is compared as well


def test_the_recipe_stops_a_regression(checkout):
    """Red with 1, and the Markdown names the evaluations of the backend."""
    make_worse(checkout)
    outcome = run_job(RECIPE, "gate", checkout)
    assert outcome.codes == {"gate": 1, "summary": 0}, outcome.printed
    assert "nfe_forward" in regressions(outcome.summary)


def test_the_recipe_posts_why_it_cannot_compare(fake_checkout):
    """Red with 2, and the reason is posted."""
    outcome = run_job(RECIPE, "gate", fake_checkout, TASKS="linera")
    assert outcome.codes == {"gate": 2, "summary": 0}, outcome.printed
    assert "nodebench: cannot compare" in outcome.summary
    assert "linera" in outcome.summary


def test_the_recipe_holds_a_committed_baseline(fake_checkout):
    """Green against its own figures, red against those of before, green once they are accepted."""
    counts = {"MEASURE": "counts", "BACKENDS": "./mine.py:Mine", "TASKS": "nodebench.testing:FakeTask"}
    first = run_job(BASELINE, "baseline", fake_checkout, **counts)
    assert first.codes == {"run": 0, "gate": 2, "summary": 0}, first.printed
    assert "there is no file `baseline.json`" in first.summary
    call("baseline", "save", "-o", "baseline.json", cwd=fake_checkout)
    call("compare", "baseline.json", cwd=fake_checkout)
    make_worse(fake_checkout)
    worse = run_job(BASELINE, "baseline", fake_checkout, **counts)
    assert worse.codes == {"run": 0, "gate": 1, "summary": 0}, worse.printed
    assert "nfe_forward" in regressions(worse.summary)
    call("baseline", "update", "--accept-regressions", cwd=fake_checkout)
    call("compare", "baseline.json", cwd=fake_checkout)


def test_our_smoke_matrix_runs(fake_checkout):
    """Its lines, of a cell that needs no framework, and what is reported of that."""
    cell = {"BACKENDS": "./mine.py:Mine", "TASKS": "nodebench.testing:FakeTask"}
    outcome = run_job(OURS, "smoke", fake_checkout, **cell)
    assert outcome.codes == {"smoke": 0, "report": 0}, outcome.printed
    assert "./mine.py:Mine" in outcome.summary
    assert (fake_checkout / "smoke.html").is_file()
