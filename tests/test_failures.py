"""Nothing that happens in a cell ends the run: each command is broken in turn, and all else goes on. Needs no torch."""

import os
from pathlib import Path

import pytest

from nodebench import registry
from nodebench.bench.matrix import Request, plan
from nodebench.bench.request import Settings
from nodebench.bench.runner import Runner
from nodebench.errors import UserError
from nodebench.results.store import Store

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
COMMANDS = ("check", "prepare", "count", "gradients", "memory", "split", "floor", "warm_up", "turn", "pin")


@pytest.fixture(autouse=True)
def _workers_find_the_fakes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def run(tmp_path, continuation="new", **changes):
    """Records of a run by task and backend."""
    request = Request(**{"backends": (BACKEND,), "tasks": (TASK,), "preset": "smoke", "measure": "gradient", **changes})
    store = Store(tmp_path / "results.db")
    settings = Settings(rounds=1, timeout_s=60)
    run_id = Runner(store, settings, lambda _: None).run(plan(request), "test", {}, continuation)
    return {(record.task, record.backend): record for record in store.records([run_id])}


def named(plugin, **options):
    """A plugin with options, as a record has it."""
    return registry.canonical("backend", f"{plugin}[{','.join(f'{name}={value}' for name, value in options.items())}]")


def test_a_command_that_raises_is_the_row_of_its_cell(tmp_path):
    """Whatever it raises, an exit among it: a status, the words of the exception, and the other cells are measured."""
    errors = ["UserError", "SystemExit", "EOFError", "KeyError", "AttributeError", "MemoryError", "BrokenPipeError"]
    broken = dict(zip(COMMANDS, [*errors, *errors], strict=False))
    cells = {command: named("breaking:Breaking", command=command, error=error) for command, error in broken.items()}
    records = run(tmp_path, backends=(BACKEND, *cells.values()))
    assert records[TASK, BACKEND].status == "ok"
    assert records[TASK, BACKEND].step_s is not None
    for command, cell in cells.items():
        record = records[TASK, cell]
        assert record.status == ("oom" if broken[command] == "MemoryError" else "failed"), command
        assert "no such thing" in record.reason
        assert "breaking.py" in record.stderr


@pytest.mark.parametrize("command", ["begin", "reference", "discrete", "train"])
def test_what_prepares_for_a_group_takes_no_other_group_down(tmp_path, command):
    """The cells of its task have a row each that says what happened; the other task is measured whole."""
    task = named("breaking:BreakingTask", command=command, error="SystemExit")
    records = run(tmp_path, tasks=(task, TASK), measure="both" if command == "train" else "gradient")
    assert records[TASK, BACKEND].status == "ok"
    record = records[task, BACKEND]
    told = f"{record.reason} {record.notes}"
    assert record.status == ("failed" if command in ("begin", "train") else "ok")
    assert "SystemExit: no such thing" in told


def test_gradients_that_cannot_be_read_are_the_row_of_their_cell(tmp_path):
    """The runner reads what a worker has written; where that is nothing, the cell has failed and no other."""
    cell = named("breaking:Breaking", command="gradients", error="unreadable")
    records = run(tmp_path, backends=(BACKEND, cell))
    assert (records[TASK, BACKEND].status, records[TASK, cell].status) == ("ok", "failed")
    assert records[TASK, cell].reason


MINE = """
from dataclasses import dataclass
from nodebench.testing import FakeTask
import rates

@dataclass(frozen=True)
class Mine(FakeTask):
    train_sleep_s: float = rates.SLEEP
"""


@pytest.fixture
def mine(tmp_path):
    """A task of a user's, with a module beside it that it imports."""
    (tmp_path / "rates.py").write_text("SLEEP = 0.0\n")
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path / 'mine.py'}:Mine"


@pytest.mark.parametrize("continuation", ["resume", "rerun-failed"])
def test_a_run_is_not_continued_with_other_code(tmp_path, mine, continuation):
    """A file that the task imports is named where it has changed; a file that it does not load changes nothing."""
    flag = tmp_path / "mended"
    flaky = named(BACKEND, behaviour="until", path=flag)
    asked = {"tasks": (mine,), "backends": (BACKEND, flaky)}
    first = run(tmp_path, **asked)
    assert first[mine, flaky].status == "failed"
    if continuation == "resume":
        store = Store(tmp_path / "results.db")
        with store._connection() as db:
            db.execute("UPDATE runs SET finished_at = NULL")
            db.execute("DELETE FROM records WHERE backend = ?", (flaky,))
    flag.touch()
    (tmp_path / "rates.py").write_text("SLEEP = 0.0001\n")
    with pytest.raises(UserError, match=r"two programs: .*rates\.py changed since"):
        run(tmp_path, continuation, **asked)
    (tmp_path / "rates.py").write_text("SLEEP = 0.0\n")
    (tmp_path / "other.py").write_text("SLEEP = 1.0\n")
    again = run(tmp_path, continuation, **{**asked, "backends": (flaky, BACKEND)})  # the order is not part of a plan
    assert again[mine, flaky].status == "ok"
    assert again[mine, flaky].control == BACKEND
    assert again[mine, BACKEND] == first[mine, BACKEND]
