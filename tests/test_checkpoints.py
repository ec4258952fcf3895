"""A checkpoint is whole at any moment, wherever it lies, and a damaged one is told."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations

from nodebench.bench import checkpoints
from nodebench.bench.checkpoints import Progress, TrainingCheckpoint, remove_old
from nodebench.bench.matrix import Request, plan
from nodebench.bench.work import checkpoint
from nodebench.errors import CellError, CheckpointError, UserError
from nodebench.results.machine import environment_key
from nodebench.testing import FakeModel, FakeTrainer

SAVE = """
import os, signal, sys
from nodebench.bench import checkpoints
from nodebench.bench.checkpoints import TrainingCheckpoint, Progress
from nodebench.testing import FakeModel, FakeTrainer

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(FakeTrainer):
    def save(self, path):
        path.write_text("0.")
        die()

moment, url = sys.argv[1:]
trainer = (Dying if moment == "weights" else FakeTrainer)(FakeModel(rate=2.0), 0.1)
if moment == "archive":
    checkpoints.ZipFile.writestr = die
if moment == "disk":
    os.fsync = die
if moment == "name":
    checkpoints.Path.replace = die
TrainingCheckpoint(url).save(trainer, Progress(epoch=2))
"""

SAVE_FOR_EVER = """
import itertools, sys
from nodebench.bench.checkpoints import TrainingCheckpoint, Progress
from nodebench.testing import FakeModel, FakeTrainer

for step in itertools.count(int(sys.argv[2]), 2):
    TrainingCheckpoint(sys.argv[1]).save(FakeTrainer(FakeModel(rate=float(step)), 0.1), Progress(step=step))
"""


@pytest.fixture(params=["path", "file", "memory"])
def folder(request, tmp_path):
    """A folder that is not there yet, as a path, a URL of this machine's and of another file system's."""
    yield {"path": f"{tmp_path}/a/b", "file": f"file://{tmp_path}/a/b", "memory": "memory://a/b"}[request.param]
    fsspec.filesystem("memory").store.clear()


def save(url, rate, **progress):
    TrainingCheckpoint(url).save(FakeTrainer(FakeModel(rate=rate), 0.1), Progress(**progress))


def restored(url):
    """The weight and the progress of a checkpoint; 9 where there is none."""
    trainer = FakeTrainer(FakeModel(rate=9.0), 0.1)
    progress = TrainingCheckpoint(url).restore(trainer)
    return trainer.model.rate, progress


def test_what_is_saved_is_restored_exactly(folder):
    """Weights and progress come back as they were, the last ones that were saved."""
    history = [{"epoch": 1, "train_loss": 0.1, "validation": None}]
    save(f"{folder}/c", 1.0)
    save(f"{folder}/c", 0.1, epoch=1, step=7, loss_sum=1 / 3, train_s=2e-9, history=history)
    assert restored(f"{folder}/c") == (0.1, Progress(1, 7, 1 / 3, 2e-9, history))


def test_without_a_checkpoint_a_training_begins(folder):
    """The trainer is left as it is, and nothing has been done."""
    assert restored(f"{folder}/c") == (9.0, Progress())


def test_a_checkpoint_is_one_file(folder):
    """Nothing lies beside it, however often it was saved."""
    for step in range(3):
        save(f"{folder}/c", 0.1, step=step)
    filesystem, path = fsspec.core.url_to_fs(folder)
    assert [Path(name).name for name in filesystem.ls(path, detail=False)] == ["c"]


def test_a_removed_checkpoint_is_gone(folder):
    """Its neighbours stay; removing it once more is nothing."""
    save(f"{folder}/c", 1.0)
    save(f"{folder}/d", 2.0)
    for _ in range(2):
        TrainingCheckpoint(f"{folder}/c").remove()
    assert restored(f"{folder}/c") == (9.0, Progress())
    assert restored(f"{folder}/d") == (2.0, Progress())


def test_a_checkpoint_of_another_training_is_as_none(folder):
    """Where the code or the data have changed, a training begins anew, and its checkpoint replaces the older one."""
    url, trainer = f"{folder}/c", FakeTrainer(FakeModel(rate=9.0), 0.1)
    old, new = TrainingCheckpoint(url, "old"), TrainingCheckpoint(url, "new")
    old.save(FakeTrainer(FakeModel(rate=1.0), 0.1), Progress(epoch=2))
    assert (new.restore(trainer), trainer.model.rate) == (Progress(), 9.0)
    new.save(trainer, Progress(epoch=1))
    assert old.restore(trainer) == Progress()
    assert new.restore(trainer) == Progress(epoch=1)


AGES = {
    "0000000a/00000000000a.checkpoint": "older",
    "0000000a/00000000000b.checkpoint": "newer",
    "0000000b/.00000000000a.checkpoint-x1/weights": "older",
    "0000000b/.00000000000b.checkpoint-x2/weights": "newer",
    "0000000a/notes.txt": "mine",
    "00000000000c.checkpoint": "mine",
    "a/0000000a/00000000000a.checkpoint.zip": "mine",
}


def test_what_has_not_been_written_to_for_long_is_removed(tmp_path):
    """Of what is ours, on whichever machine it was written; whatever else lies in the folder is somebody's."""
    now = time.time()
    for name, age in AGES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        days = checkpoints.KEPT_DAYS + (-0.1 if age == "newer" else 0.1)
        os.utime(path, (now, now - days * 86400))
    for _ in range(2):
        remove_old(str(tmp_path))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {name for name, age in AGES.items() if age != "older"}
    assert not (tmp_path / "0000000b" / ".00000000000a.checkpoint-x1").exists()


def test_nothing_is_removed_where_there_is_nothing(folder):
    """Nor is what has just been written."""
    remove_old(folder)
    save(f"{folder}/0000000a/00000000000a.checkpoint", 1.0)
    remove_old(folder)
    assert restored(f"{folder}/0000000a/00000000000a.checkpoint")[0] == 1.0


def test_what_is_ours_is_what_a_training_writes():
    """The rule by which files are known is that of the runner's folder and of the work's file."""
    cell = plan(Request(backends=("nodebench.testing:FakeBackend",), tasks=("nodebench.testing:FakeTask",))).cells[0]
    assert checkpoints.OURS.search(f"/x/{environment_key({})}/{checkpoint('', cell).lstrip('/')}")


@pytest.mark.parametrize("moment", ["weights", "archive", "disk", "name"])
@pytest.mark.worker
def test_a_kill_while_saving_leaves_the_older_one(tmp_path, moment):
    """Whatever has been written of the newer one does not count."""
    url = str(tmp_path / "c")
    save(url, 1.0, epoch=1)
    done = subprocess.run([sys.executable, "-c", SAVE, moment, url], check=False)
    assert done.returncode == -9
    assert restored(url) == (1.0, Progress(epoch=1))
    assert subprocess.run([sys.executable, "-c", SAVE, "never", url], check=False).returncode == 0
    assert restored(url) == (2.0, Progress(epoch=2))


def test_an_upload_that_breaks_leaves_the_older_one(monkeypatch):
    """Half a file does not appear."""
    url = "memory://a/c"
    save(url, 1.0, epoch=1)

    def break_off(source, target):
        target.write(source.read(50))
        raise ConnectionError("the line is dead")

    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "copyfileobj", break_off)
        with pytest.raises(ConnectionError):
            save(url, 2.0, epoch=2)
    assert restored(url) == (1.0, Progress(epoch=1))
    save(url, 2.0, epoch=2)
    assert restored(url) == (2.0, Progress(epoch=2))


def test_folders_are_made_where_they_must_be(monkeypatch):
    """A file system that has folders gets one; it is not asked for where a file appears without."""
    made = []
    filesystem = fsspec.filesystem("memory")
    monkeypatch.setattr(type(filesystem), "makedirs", lambda _self, path, **_: made.append(path))
    save("memory://a/b/c", 1.0)
    assert made == []
    really = shutil.copyfileobj

    def only_into_folders(source, target):
        if not made:
            raise FileNotFoundError("no such folder")
        really(source, target)

    monkeypatch.setattr(checkpoints, "copyfileobj", only_into_folders)
    save("memory://a/b/c", 2.0)
    assert made == ["/a/b"]
    assert restored("memory://a/b/c")[0] == 2.0


@pytest.mark.worker
def test_two_writers_leave_one_of_two_whole_checkpoints(tmp_path):
    """Whoever reads while two machines write finds weights and progress that belong together."""
    url = str(tmp_path / "c")
    command = [sys.executable, "-c", SAVE_FOR_EVER, url]
    writers = [subprocess.Popen([*command, start]) for start in ("0", "1")]
    try:
        seen = set()
        while not {0, 1} <= {step % 2 for step in seen} or len(seen) < 50:
            assert [writer.poll() for writer in writers] == [None, None]
            rate, progress = restored(url)
            if rate != 9.0 or progress.step:
                assert rate == progress.step
                seen.add(progress.step)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    rate, progress = restored(url)
    assert rate == progress.step


def damage(content):
    """Every way of cutting it short, and every bit of it the other way round."""
    for position in range(len(content)):
        yield content[:position]
        for bit in range(8):
            yield content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def test_damage_is_found(tmp_path):
    """A damaged checkpoint is never taken for another one, nor for none; the message names it."""
    path = tmp_path / "c"
    save(str(path), 0.1, epoch=1, history=[{"epoch": 1}])
    expected = restored(str(path))
    refused = []
    for content in damage(path.read_bytes()):
        path.write_bytes(content)
        try:
            assert restored(str(path)) == expected  # what is damaged is a date or the like
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > len(path.read_bytes()) * 5
    assert all(f"`{path}` is damaged" in message for message in refused)
    assert issubclass(CheckpointError, CellError)


def test_another_file_is_no_checkpoint(tmp_path):
    """What somebody else has put there is told, not overwritten in silence."""
    (tmp_path / "c").write_text("notes of mine")
    with pytest.raises(CheckpointError, match="is damaged"):
        restored(str(tmp_path / "c"))


def test_a_package_that_is_missing_is_named(monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(known_implementations, "far", {"class": "nosuchfs.FarFileSystem"})
    for act in (lambda url: save(url, 1.0), restored, lambda url: TrainingCheckpoint(url).remove(), remove_old):
        with pytest.raises(UserError, match=r"`far://bucket/c` needs .* pip install nosuchfs$"):
            act("far://bucket/c")


def test_an_unknown_protocol_is_told():
    """A mistyped URL is no path."""
    with pytest.raises(UserError, match="`s33://bucket/c` is neither a path nor a URL"):
        restored("s33://bucket/c")


def test_what_a_killed_process_left_of_a_checkpoint_goes_with_it(tmp_path):
    """A folder beside it with half a file; what has another name stays."""
    for name in (".[c]-a1b2c3d4", ".[c]-notes", ".c-a1b2c3d4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("0.")
    save(f"{tmp_path}/[c]", 1.0)
    TrainingCheckpoint(f"{tmp_path}/[c]").remove()
    assert {path.name for path in tmp_path.iterdir()} == {".[c]-notes", ".c-a1b2c3d4"}


def test_a_path_may_hold_what_means_something_in_a_url(tmp_path):
    """Colons, brackets and stars are letters of a path."""
    url = f"{tmp_path}/a::b/[c]*/d?"
    save(url, 1.0)
    assert restored(url)[0] == 1.0
    assert (tmp_path / "a::b" / "[c]*" / "d?").is_file()
    TrainingCheckpoint(url).remove()
    assert list((tmp_path / "a::b" / "[c]*").iterdir()) == []
