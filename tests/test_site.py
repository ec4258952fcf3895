"""Every command and snippet that the site and the README show runs, in the order of its page, in its own folder.

Measurements are made as cheap as their command allows. What is not run is listed, with the reason.
"""

import re
import shlex
import subprocess
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from textwrap import dedent

import pytest
import typer
from commands import nodebench

from nodebench import cli
from nodebench.gating.thresholds import read_thresholds

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"

ELSEWHERE = {
    "cluster.md": "test_cluster_docs.py runs its scripts, with stubs of SLURM and a real Ray",
    "torchdiffeq.md": "test_switching.py runs its scripts, before and after the change",
}
"""Pages whose blocks have tests of their own."""

NOT_RUN = {
    r"make (run|test)": "minutes of training, and this suite",
    r"make gpu-(wheels|check|bench)( DEVICE=cpu)?": "wheels from a network, a GPU, or many minutes of measurement",
    r"pip install .*": "the network; test_wheel.py installs what is built here",
    r"git clone .*": "the network",
    r"nodebench (show RUN RUN|logs CELL)": "names of what a reader has; test_cli.py has such",
    r"nodebench reproduce table1": "trainings; test_reproduction.py makes small ones",
    r"nodebench merge 1.db 2.db -o all.db": "stores of several machines; test_merging.py has such",
    r"nodebench doctor": "seconds of imports; test_cli.py has it",
    r"nodebench doctor --selftest": "minutes of timing; test_selftest.py has it with fakes",
    r"nodebench compare --against-ref .*": "builds another version; test_gate_versions.py and test_workflows.py do",
}
"""Commands, whole, that no test here can run or need run, and why."""

CODES = {
    "nodebench run --field model.py:ODEFunc --init-args rate=100 --y0 8x2 -b adjoint --measure untimed "
    "--max-steps 2000": (1, "steps reached only"),
    "nodebench run -b direct,checkpoint,adjoint -t 'robertson[end=100]' --measure untimed": (1, "diverged: adjoint"),
    "nodebench scale -b direct,adjoint -t contracting --over stiffness --values 3,30,300 --measure untimed": (
        1,
        "adjoint with dopri5 on contracting/system: diverged from λT = -",
    ),
}
"""Commands that fail, as their page says: the exit code, and what is printed."""

BEFORE = {"ci.md": ("new backend mine",)}
"""What a page expects to be there: calls of nodebench before its own."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, and its text without the page's indentation."""

    language: str
    text: str


def blocks(page):
    """The fenced blocks of a page, in its order."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(language, dedent(text)) for _, language, text in found]


def shown():
    """The blocks of each page that are tested here; the README shows what the first page does, which is run once."""
    start = blocks(DOCS / "index.md")
    pages = [page for page in sorted(DOCS.rglob("*.md")) if page.name not in ELSEWHERE and blocks(page)]
    own = [block for block in blocks(README) if block not in start or block.language not in RUN]
    return {README.name: own, **{str(page.relative_to(DOCS)): blocks(page) for page in pages}}


def commands(text):
    """The commands of a block, each on one line, without what is said of it."""
    lines = text.replace("\\\n", "").splitlines()
    return [shlex.join(words) for words in (shlex.split(line, comments=True) for line in lines) if words]


def cheapest(words):
    """The same command with the fewest turns; of all methods, or on large tasks, which others measure, the plan."""
    name, *rest = words
    if name not in ("run", "scale", "recommend"):
        return words
    if {"all", "cnf", "mnist", "spiral"} & set(rest):
        return [*words, "--dry-run"]
    turns = [] if "training" in rest else ["--rounds", "1"]
    return [*words, *turns, *(["--preset", "smoke"] if name == "run" else [])]


def run_commands(folder, block):
    """Call each command of a block, which ends as its page says."""
    for command in commands(block.text):
        if any(re.fullmatch(pattern, command) for pattern in NOT_RUN):
            continue
        program, *words = shlex.split(command)
        code, said = CODES.get(command, (0, ""))
        done = PROGRAMS[program](folder, words)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        assert said in done.stdout + done.stderr


def _nodebench(folder, words):
    return nodebench(*cheapest(words), cwd=folder)


def _pytest(folder, words):
    """A pytest within this one, in which a cell has one turn."""
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        code = pytest.main([*words, "--benchmark-disable", "-p", "no:cacheprovider"])
    return subprocess.CompletedProcess(words, code, printed.getvalue(), "")


PROGRAMS = {"nodebench": _nodebench, "pytest": _pytest}


def run_python(folder, block, names):
    """Write a block that names its file to that, after what is there; do any other, with what was done before it."""
    first, _, rest = block.text.partition("\n")
    if re.fullmatch(r"# \w+\.py", first):
        file = folder / first.removeprefix("# ")
        file.write_text((file.read_text() if file.exists() else "") + rest)
        return
    code = re.sub(r"budget_s=\d+", "rounds=1", block.text)
    exec(compile(code, "a page", "exec"), names)


def read_toml(folder, block):
    """Thresholds, which the commands after it heed."""
    (folder / "nodebench.toml").write_text(block.text)
    read_thresholds(folder / "nodebench.toml")


RUN = ("", "console", "python", "toml")
NOT_CODE = ("text",)
"""Of a terminal; test_gallery.py compares it with the store that it is from."""

PAGES = shown()

TEXTS = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("reference/*.md")]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(page, tmp_path, monkeypatch):
    """One block after the other, as a reader would who follows it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NODEBENCH_STORE", str(tmp_path / "results.db"))
    names = {"__name__": "__main__"}  # what is defined in it is sent to a worker by value
    for command in BEFORE.get(page, ()):
        assert nodebench(*shlex.split(command), cwd=tmp_path).returncode == 0
    for block in PAGES[page]:
        if block.language in ("", "console"):
            run_commands(tmp_path, block)
        elif block.language == "python":
            run_python(tmp_path, block, names)
        elif block.language == "toml":
            read_toml(tmp_path, block)
        else:
            assert block.language in NOT_CODE


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_the_text_are_there(page):
    """What stands in a sentence as a command is one, with these options."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`(nodebench [^`]+)`", text):
        command, words = typer.main.get_command(cli.app), shlex.split(line)[1:]
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if re.match("--?[a-z]", word)} <= {*known, "--help"}, line


def test_what_is_not_run_is_still_shown():
    """Each exception is one of a page; the pages that other tests run are there."""
    every = [command for found in PAGES.values() for block in found if block.language in ("", "console")
             for command in commands(block.text)]  # fmt: skip
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, command) for command in every)] == []
    assert set(CODES) <= set(every)
    assert all(
        (DOCS / page).is_file() and (ROOT / "tests" / said.split()[0]).is_file() for page, said in ELSEWHERE.items()
    )
