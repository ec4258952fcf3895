"""Checkpoints of trainings, on this machine, on a path that machines share, or in object storage.

A checkpoint is one file, so that it can be replaced at once where no folder can: an archive of the weights, of how far
the training is, of what it has kept on its way, and of the key of what it depends on. A cell has one for each kind of
machine, whichever run trains it: one of other code, data or versions is not gone on with, and the next replaces it. It
is removed when its cell has ended in a way that going on cannot better, and whatever has not been written to for
`KEPT_DAYS` when a run begins.
"""

import glob
import json
import os
import re
import shutil
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import Any, TypedDict
from zipfile import BadZipFile, ZipFile

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from nodebench.errors import CheckpointError, UserError
from nodebench.frameworks.base import AbstractTrainer
from nodebench.results.quantities import Epoch

PROGRESS, WEIGHTS, KEPT = "progress.json", "weights", "kept/"
"""The members of the archive, and how the names of those begin that a training has kept."""

ENDING = ".checkpoint"

OURS = re.compile(r"/[0-9a-f]{8}/(?:[0-9a-f]{12}\.checkpoint|\.[0-9a-f]{12}\.checkpoint-[^/]+/[^/]+)$")
"""How the path of a checkpoint ends, and of what a process leaves that is killed while it writes one: what else lies in
a folder is somebody's."""

DEPTH = 3
"""How deep such files lie: what is below that is not looked through, where a folder is a whole object store."""

KEPT_DAYS = 30

DAMAGE = (BadZipFile, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, zlib.error)
"""What reading an archive raises, by which byte of it is not what it was."""


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        epoch: Epoch at work.
        step: Steps done in it.
        loss_sum: Sum of the losses of those steps.
        train_s: Wall time of all training steps so far, in seconds.
        history: A mapping per finished epoch.
        parts: After how many steps in all it went on from a checkpoint, each time that it did.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    train_s: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)


class Content(TypedDict):
    """What `PROGRESS` has."""

    key: str
    progress: dict[str, Any]


@dataclass(frozen=True)
class TrainingCheckpoint:
    """From where a training goes on, on whichever machine.

    Attributes:
        url: The file: a path, or a URL as fsspec knows it. There need be none yet.
        key: What all that the training depends on is known by; one of another key is as none.
        kept: Folder of files that the training keeps on its way, which are saved and restored with it; or None.
    """

    url: str
    key: str = ""
    kept: Path | None = None

    def save(self, trainer: AbstractTrainer, progress: Progress) -> None:
        """Replace the checkpoint: whatever happens meanwhile, there is the older or the newer one, whole.

        Args:
            trainer: The model and its optimiser.
            progress: How far they are.

        Raises:
            UserError: If the URL's protocol is unknown, or the package that knows it is not installed.
        """
        filesystem, path = open_filesystem(self.url)
        local = Path(path) if isinstance(filesystem, LocalFileSystem) else None
        if local is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
        # Beside a local checkpoint, because a file changes its name at once only within one file system.
        with TemporaryDirectory(dir=local and local.parent, prefix=f".{path.rpartition('/')[2]}-") as folder:
            packed = self._pack(trainer, progress, Path(folder))
            if local is not None:
                packed.replace(local)
            else:
                _upload(packed, filesystem, path)

    def restore(self, trainer: AbstractTrainer) -> Progress:
        """Set a trainer back to the checkpoint; where there is none of this key, leave it as it is.

        Args:
            trainer: The model and its optimiser, built as those that were saved.

        Returns:
            How far it is.

        Raises:
            CheckpointError: If the file is damaged.
            UserError: As `save`.
        """
        filesystem, path = open_filesystem(self.url)
        with TemporaryDirectory() as folder:
            packed = Path(folder) / "checkpoint"
            try:
                filesystem.get_file(path, str(packed))
            except FileNotFoundError:
                return Progress()
            found, weights, kept = self._unpack(packed)
            if found["key"] != self.key:
                return Progress()
            unpacked = packed.with_name(WEIGHTS)
            unpacked.write_bytes(weights)
            trainer.restore(unpacked)
        if self.kept is not None:
            for name, content in kept.items():
                (self.kept / name).write_bytes(content)
        return Progress(**found["progress"])

    def remove(self) -> None:
        """Remove the file, and what processes left that were killed while they wrote it; there need be nothing."""
        filesystem, path = open_filesystem(self.url)
        with suppress(FileNotFoundError):
            filesystem.rm_file(path)
        if isinstance(filesystem, LocalFileSystem):
            for folder in Path(path).parent.glob(f".{glob.escape(Path(path).name)}-????????"):
                shutil.rmtree(folder, ignore_errors=True)

    def _pack(self, trainer: AbstractTrainer, progress: Progress, folder: Path) -> Path:
        """Write a checkpoint into a folder, down to the disk."""
        weights, packed = folder / WEIGHTS, folder / "checkpoint"
        trainer.save(weights)
        content: Content = {"key": self.key, "progress": asdict(progress)}
        with packed.open("wb") as file:
            with ZipFile(file, "w") as archive:
                archive.write(weights, WEIGHTS)
                archive.writestr(PROGRESS, json.dumps(content))
                for path in sorted(self.kept.iterdir()) if self.kept else ():
                    archive.write(path, f"{KEPT}{path.name}")
            file.flush()
            os.fsync(file.fileno())  # a name must not outlive what it names when the machine is taken away
        return packed

    def _unpack(self, packed: Path) -> tuple[Content, bytes, dict[str, bytes]]:
        """How far the training is, its weights, and the files that it had kept by name."""
        try:
            with ZipFile(packed) as archive:  # which compares the checksums of what it reads
                found = json.loads(archive.read(PROGRESS))
                content: Content = {"key": found["key"], "progress": found["progress"]}
                kept = [name for name in archive.namelist() if name.startswith(KEPT)]
                files = {name.removeprefix(KEPT): archive.read(name) for name in kept}
                return content, archive.read(WEIGHTS), files
        except DAMAGE as error:
            raise CheckpointError(
                f"the checkpoint `{self.url}` is damaged ({error}); remove it, and the training begins anew."
            ) from error


def remove_old(url: str) -> None:
    """Remove from a folder of checkpoints what has not been written to for `KEPT_DAYS`, on whichever machine.

    Args:
        url: A path, or a URL as fsspec knows it; there need be none.

    Raises:
        UserError: As `open_filesystem`.
        NotImplementedError: If that file system does not tell when a file was written.
    """
    filesystem, folder = open_filesystem(url)
    filesystem.invalidate_cache()  # other machines have written into it
    ended = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
    for path in filesystem.find(folder, maxdepth=DEPTH):
        if OURS.search(path):
            with suppress(FileNotFoundError):  # its training has just ended
                _remove_if_older(filesystem, path, ended)


def _remove_if_older(filesystem: AbstractFileSystem, path: str, moment: datetime) -> None:
    written: datetime = filesystem.modified(path)
    if written.replace(tzinfo=written.tzinfo or UTC) > moment:
        return
    filesystem.rm_file(path)
    if isinstance(filesystem, LocalFileSystem) and not path.endswith(ENDING):
        with suppress(OSError):  # there is another file in it
            Path(path).parent.rmdir()


def check_folder(url: str) -> None:
    """See that checkpoints can be written into a folder, before hours are spent on what they are to keep.

    Args:
        url: A path, or a URL as fsspec knows it; the folder is made where there is none.

    Raises:
        UserError: If they cannot.
    """
    try:
        filesystem, folder = open_filesystem(url)
        filesystem.makedirs(folder, exist_ok=True)
        filesystem.pipe_file(f"{folder}/nodebench-{os.getpid()}", b"")
        filesystem.rm_file(f"{folder}/nodebench-{os.getpid()}")
    except Exception as error:  # each storage has exceptions of its own, and all mean that it cannot be used
        raise UserError(f"`--checkpoint-dir {url}` cannot be used: {error}") from error


def open_filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Args:
        url: A path, or a URL as fsspec knows it.

    Raises:
        UserError: If the URL's protocol is unknown, or the package that knows it is not installed.
    """
    if "://" not in url:
        return LocalFileSystem(), os.path.abspath(url)  # noqa: PTH100  what fsspec takes is text
    try:
        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise UserError(f"`{url}` needs a package that is not installed; pip install {cause.name}") from error
    except ValueError as error:
        raise UserError(f"`{url}` is neither a path nor a URL that fsspec knows: {error}.") from error
    return found


def _upload(packed: Path, filesystem: AbstractFileSystem, path: str) -> None:
    try:
        _transfer(packed, filesystem, path)
    except FileNotFoundError:  # object storage has no folders that would have to be made first
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        _transfer(packed, filesystem, path)


def _transfer(packed: Path, filesystem: AbstractFileSystem, path: str) -> None:
    # Within a transaction a file appears when it is complete, and not at all after an error.
    with filesystem.transaction, packed.open("rb") as source, filesystem.open(path, "wb") as target:
        copyfileobj(source, target)
