"""MNIST from a folder, the user's cache or a download, and the digits of scikit-learn where there is none.

The MNIST database of handwritten digits, Y. LeCun, C. Cortes and C. J. C. Burges.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
from filelock import FileLock

from nodebench.errors import DataError
from nodebench.importing import require

Dataset = Literal["auto", "mnist", "digits"]
Part = Literal["train", "test"]

FOLDER_VARIABLE = "NODEBENCH_DATA"

CHECKSUMS: Mapping[str, str] = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the decompressed bytes: the compressed ones differ between publishers."""

FILES: Mapping[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""Images and labels of each part."""

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
RETRY_AFTER_S = 600.0
"""After a failed download none is tried for so long, lest each of a matrix's processes wait for its own time-outs."""


class MissingDataError(DataError):
    """MNIST is nowhere to be had; unlike an altered file, this lets a stand-in take its place."""


@dataclass(frozen=True)
class Digits:
    """Images and labels of one data set.

    Attributes:
        name: What the data set really is.
        images: Shape `(n, 28, 28)`: bytes of MNIST, or floats in [0, 255] of the stand-in.
        labels: Shape `(n,)`, int64.
        note: What a reader must know; empty for MNIST.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    note: str = ""


def load(dataset: Dataset, part: Part) -> Digits:
    """Read one part of a data set.

    Args:
        dataset: `"mnist"`, `"digits"` (the stand-in) or `"auto"`: MNIST where it is to be had, else the stand-in.
        part: `"train"` or `"test"`.

    Raises:
        DataError: If a file of MNIST is cut short or altered, or `"mnist"` is nowhere to be had.
        NotInstalledError: If a download or the stand-in needs the extra `data`, which is not installed.
    """
    if dataset == "digits":
        return _stand_in(part, "as asked for")
    try:
        folder = _folder()
    except MissingDataError:
        if dataset == "mnist":
            raise
        return _stand_in(part, f"because MNIST was neither found ({_looked_in()}) nor downloaded")
    images, labels = (_read(folder / name) for name in FILES[part])
    return Digits("mnist", images, labels.astype(np.int64))


def where(dataset: Dataset) -> str:
    """Where a data set would come from, in a few words, without a download and without reading a file."""
    if dataset == "digits":
        return "scikit-learn's bundled digits"
    folder = _local_folder()
    if folder is not None:
        return f"MNIST in {folder}"
    recent = _recent_failure(cache_folder())
    if not recent:
        return f"MNIST, to be downloaded to {cache_folder()} ({_looked_in()})"
    here = "scikit-learn's bundled digits: no" if dataset == "auto" else "nowhere: no"
    return f"{here} MNIST here ({_looked_in()}; {recent})"


def cache_folder() -> Path:
    """The folder in the user's cache that a download goes to."""
    return platformdirs.user_cache_path("nodebench") / "mnist"


def _local_folder() -> Path | None:
    """The first folder that holds any of the files: one that holds only some is an error to show, not to pass over."""
    for folder in [*_named_folders(), cache_folder()]:
        if any((folder / name).is_file() for name in CHECKSUMS):
            return folder
    return None


def _named_folders() -> list[Path]:
    named = os.environ.get(FOLDER_VARIABLE)
    return [Path(named), Path(named) / "mnist"] if named else []


def _looked_in() -> str:
    named = os.environ.get(FOLDER_VARIABLE)
    return f"none in {FOLDER_VARIABLE}={named}" if named else f"{FOLDER_VARIABLE} is not set"


def _folder() -> Path:
    """The folder that holds the files, after a download if need be."""
    folder = _local_folder()
    if folder is None or folder == cache_folder():
        folder = cache_folder()
        _download_missing(folder)
    return folder


def _download_missing(folder: Path) -> None:
    if not _missing(folder):
        return
    with _turn(folder):  # after which nothing may be missing any more, or a failure be remembered
        reason = _recent_failure(folder) if _missing(folder) else ""
        if not reason:
            reason = _download_all(_missing(folder), folder)
    if reason:
        raise MissingDataError(
            f"MNIST is not available ({_looked_in()}; none in {folder}; {reason}). Put its four files "
            f"{', '.join(CHECKSUMS)} into a folder and name it in {FOLDER_VARIABLE}."
        )


def _missing(folder: Path) -> list[str]:
    return [name for name in CHECKSUMS if not (folder / name).is_file()]


def _turn(folder: Path) -> AbstractContextManager[object]:
    """Wait until no other process of this machine downloads; where that cannot be known, do not wait."""
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(lock).acquire()
    except OSError:
        return nullcontext()  # into a cache that cannot be written nobody downloads


def _download_all(names: Iterable[str], folder: Path) -> str:
    """Fetch files; returns why one cannot be had, or an empty text."""
    require("data")
    for name in names:
        reason = _download(name, folder)
        if reason:
            _remember_failure(folder)
            return reason
    return ""


def _download(name: str, folder: Path) -> str:
    """Fetch one file from the first mirror that answers; returns why none did, or an empty text."""
    import pooch  # noqa: PLC0415  slow to import, and `nodebench list` imports this module

    pooch.get_logger().setLevel("WARNING")
    reasons = []
    for mirror in MIRRORS:
        try:
            pooch.retrieve(mirror + name, known_hash=None, fname=name, path=folder, downloader=_fetch)
        except OSError as error:  # what `requests` raises derives from it, and so does a cache that cannot be written
            reasons.append(f"{mirror}: {type(error).__name__}")
        else:
            return ""
    return "download failed from " + " and ".join(reasons)


def _fetch(url: str, output_file: str, caller: object) -> None:
    """Download and verify before the file gets its name, so that the cache never holds a bad one."""
    import pooch  # noqa: PLC0415  as above

    pooch.HTTPDownloader(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))(url, output_file, caller)
    _verified(Path(output_file), url)


def _remember_failure(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "download-failed").touch()
    except OSError:
        return  # a cache that cannot be written only means that the next process tries again


def _recent_failure(folder: Path) -> str:
    marker = folder / "download-failed"
    try:
        age_s = time.time() - marker.stat().st_mtime
    except OSError:  # there is none, or no cache that could hold one
        return ""
    if age_s >= RETRY_AFTER_S:
        return ""
    return f"a download failed {age_s:.0f} s ago; the next is tried after {RETRY_AFTER_S:.0f} s or without {marker}"


def _read(path: Path) -> np.ndarray:
    """The array of an idx file, after its checksum."""
    if not path.is_file():
        raise DataError(f"`{path}` is missing, though others of the four files are there; fetch it again.")
    content = _verified(path, str(path))
    n_dims = content[3]
    shape = np.frombuffer(content, ">u4", n_dims, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims).reshape(shape)


def _verified(path: Path, shown: str) -> bytes:
    """Decompressed bytes of a file with the published checksum.

    Args:
        path: The file.
        shown: How an error names it; its last part is the name of one of the four files.
    """
    expected = CHECKSUMS[shown.replace("\\", "/").rpartition("/")[2]]
    content = _decompressed(path)
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DataError(
            f"`{shown}` is cut short or altered: the SHA-256 of its decompressed bytes should be {expected} and is "
            f"{actual}. Delete it and fetch it again."
        )
    return content


def _decompressed(path: Path) -> bytes:
    """All that can be decompressed: a damaged file still gets a checksum to show."""
    try:
        compressed = path.read_bytes()
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error}.") from error
    decompressor = zlib.decompressobj(wbits=31)
    content = bytearray()
    try:
        for start in range(0, len(compressed), 1 << 16):
            content += decompressor.decompress(compressed[start : start + (1 << 16)])
    except zlib.error:
        return bytes(content)
    return bytes(content)


def _stand_in(part: Part, reason: str) -> Digits:
    """Scikit-learn's digits, 1,797 images of 8x8, upsampled so that cost figures keep MNIST's shapes."""
    require("data")
    from sklearn.datasets import load_digits  # noqa: PLC0415  takes a second, and most runs need none of it

    digits = load_digits()
    # The images come writer by writer; a fixed shuffle gives both parts all writers.
    order = np.random.default_rng(0).permutation(len(digits.target))
    chosen = order[:1397] if part == "train" else order[1397:]
    weights = _interpolation(8, 28)
    images = 255.0 / 16.0 * weights @ digits.images[chosen] @ weights.T
    note = (
        f"Not MNIST but scikit-learn's bundled digits (1,797 images of 8x8, upsampled to 28x28), {reason}. "
        "Costs keep MNIST's shapes; test errors do not compare."
    )
    return Digits("digits-upsampled", images, digits.target[chosen].astype(np.int64), note)


def _interpolation(n_in: int, n_out: int) -> np.ndarray:
    """Matrix of linear interpolation between pixel centres, shape `(n_out, n_in)`."""
    centres = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    return np.stack([np.interp(centres, np.arange(n_in), unit) for unit in np.eye(n_in)], axis=1)
