"""Where the digits come from, and that nothing damaged is used."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pooch
import pytest

from nodebench.errors import DataError
from nodebench.tasks.mnist import data
from nodebench.tasks.mnist.task import Mnist

NAMES = tuple(data.CHECKSUMS)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def contents():
    rng = np.random.default_rng(0)
    return {
        TRAIN_IMAGES: idx(rng.integers(0, 256, (40, 28, 28))),
        TRAIN_LABELS: idx(np.arange(40) % 10),
        TEST_IMAGES: idx(rng.integers(0, 256, (20, 28, 28))),
        TEST_LABELS: idx(np.arange(20) % 10),
    }


@pytest.fixture
def published(monkeypatch, contents):
    """Checksums of the small files, in the place of the real ones."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(data, "CHECKSUMS", sums)
    return sums


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(data.platformdirs, "user_cache_path", lambda _: folder)
    return folder / "mnist"


@pytest.fixture
def offline(monkeypatch, cache):  # noqa: ARG001  without its fixture the real cache would be found
    """No data folder, no cache, and mirrors that refuse the connection; counts the attempts."""
    attempts = []

    def refuse(url, _output_file, _caller):
        attempts.append(url)
        raise ConnectionError("refused")

    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: refuse)
    return attempts


def write(folder: Path, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content))


def use_folder(monkeypatch, folder, contents):
    write(folder, contents)
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(folder))


@pytest.mark.parametrize("subfolder", [".", "mnist"])
@pytest.mark.usefixtures("published")
def test_reads_the_named_folder_or_its_mnist_subfolder(monkeypatch, tmp_path, contents, offline, subfolder):
    """Images and labels come out as they went in, and no mirror is asked."""
    write(tmp_path / subfolder, contents)
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path))
    digits = data.load("auto", "test")
    assert digits.name == "mnist"
    assert digits.note == ""
    assert digits.images.tobytes() == contents[TEST_IMAGES][16:]
    assert digits.labels.tolist() == list(contents[TEST_LABELS][8:])
    assert offline == []


@pytest.mark.parametrize("dataset", ["auto", "mnist"])
@pytest.mark.usefixtures("offline")
def test_a_file_cut_short_is_an_error_with_both_checksums(monkeypatch, tmp_path, contents, published, dataset):
    """Neither half the images nor the stand-in take its place."""
    use_folder(monkeypatch, tmp_path, contents)
    path = tmp_path / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError) as caught:
        Mnist(dataset=dataset).data("quick", 0)
    message = str(caught.value)
    assert str(path) in message
    assert published[TRAIN_IMAGES] in message
    found = data._decompressed(path)
    assert 0 < len(found) < len(contents[TRAIN_IMAGES])
    assert hashlib.sha256(found).hexdigest() in message


@pytest.mark.usefixtures("offline")
def test_one_altered_pixel_is_an_error_with_both_checksums(monkeypatch, tmp_path, contents, published):
    """A valid archive with other content is refused for what it holds."""
    use_folder(monkeypatch, tmp_path, contents)
    altered = bytearray(contents[TEST_IMAGES])
    altered[500] ^= 1
    (tmp_path / TEST_IMAGES).write_bytes(gzip.compress(bytes(altered)))
    with pytest.raises(DataError) as caught:
        data.load("auto", "test")
    message = str(caught.value)
    assert str(tmp_path / TEST_IMAGES) in message
    assert published[TEST_IMAGES] in message
    assert hashlib.sha256(altered).hexdigest() in message


@pytest.mark.usefixtures("offline")
def test_one_altered_byte_of_the_archive_is_an_error(monkeypatch, tmp_path, contents, published):
    """Damage that the decompression trips over is reported like any other."""
    use_folder(monkeypatch, tmp_path, contents)
    path = tmp_path / TEST_IMAGES
    archive = bytearray(path.read_bytes())
    archive[len(archive) // 2] ^= 0xFF
    path.write_bytes(archive)
    with pytest.raises(DataError, match=f"{TEST_IMAGES}.*{published[TEST_IMAGES]}"):
        data.load("auto", "test")


@pytest.mark.usefixtures("published", "offline")
def test_a_file_that_is_no_archive_is_an_error(monkeypatch, tmp_path, contents):
    """An error page saved under the file's name is refused."""
    use_folder(monkeypatch, tmp_path, contents)
    (tmp_path / TEST_LABELS).write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=TEST_LABELS):
        data.load("auto", "test")


@pytest.mark.usefixtures("published", "offline")
def test_one_missing_file_of_a_folder_is_an_error_that_names_it(monkeypatch, tmp_path, contents):
    """A folder with three of the four files is not passed over for the stand-in."""
    use_folder(monkeypatch, tmp_path, contents)
    (tmp_path / TRAIN_LABELS).unlink()
    with pytest.raises(DataError, match=f"{TRAIN_LABELS}.*missing"):
        data.load("auto", "train")


@pytest.mark.usefixtures("published", "offline")
def test_a_damaged_file_in_the_cache_is_an_error(cache, contents):
    """The cache is trusted no more than a folder of the user's."""
    write(cache, contents)
    (cache / TEST_LABELS).write_bytes(gzip.compress(contents[TEST_LABELS][:-1]))
    with pytest.raises(DataError, match=TEST_LABELS):
        data.load("auto", "test")


@pytest.mark.usefixtures("offline")
def test_missing_mnist_asked_for_by_name_says_how_to_mend_it():
    """The message names the variable, the files and why the download failed."""
    with pytest.raises(DataError) as caught:
        Mnist(dataset="mnist").data("quick", 0)
    for part in (data.FOLDER_VARIABLE, *NAMES, "ConnectionError"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_stand_in_is_named_and_announced():
    """Without MNIST the splits say that they are digits, and why."""
    splits = Mnist().data("quick", 0)
    assert splits.name == "digits-upsampled"
    assert "Not MNIST" in splits.note
    assert f"{data.FOLDER_VARIABLE} is not set" in splits.note
    assert splits.train["images"].shape[1:] == (1, 28, 28)


def test_stand_in_says_which_folder_held_no_mnist(monkeypatch, tmp_path, offline):
    """A folder named in vain is told, for it may be mistyped."""
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "mistyped"))
    assert str(tmp_path / "mistyped") in Mnist().data("quick", 0).note
    assert len(offline) == len(data.MIRRORS)


@pytest.mark.usefixtures("offline")
def test_stand_in_of_the_gradient_problem_is_named_too():
    """A gradient measurement tells its data set as well."""
    inputs = Mnist().problem("odenet", 0, 4)
    assert inputs.dataset == "digits-upsampled"
    assert "Not MNIST" in inputs.note


@pytest.mark.usefixtures("offline")
def test_stand_in_keeps_the_range_and_the_mean_of_the_digits():
    """Linear interpolation between pixel centres neither leaves the range nor moves the ink."""
    digits = data.load("digits", "train")
    assert digits.images.min() >= 0
    assert digits.images.max() <= 255
    weights = data._interpolation(8, 28)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights @ np.ones(8), 1)
    np.testing.assert_allclose(weights, weights[::-1, ::-1])


def test_a_failed_download_is_not_tried_again_at_once(offline):
    """The second process of a matrix asks no mirror, and an error says so."""
    data.load("auto", "train")
    n_attempts = len(offline)
    assert n_attempts == len(data.MIRRORS)
    with pytest.raises(DataError, match="a download failed"):
        data.load("mnist", "train")
    assert len(offline) == n_attempts


def test_a_failed_download_is_tried_again_later(cache, offline):
    """The memory of a failure ends."""
    data.load("auto", "train")
    marker = cache / "download-failed"
    old = marker.stat().st_mtime - data.RETRY_AFTER_S - 1
    os.utime(marker, (old, old))
    data.load("auto", "train")
    assert len(offline) == 2 * len(data.MIRRORS)


@pytest.mark.usefixtures("published", "offline")
def test_download_goes_to_the_cache_and_is_used(monkeypatch, cache, contents):
    """What the second mirror sends is kept and read when the first does not answer."""

    def serve(url, output_file, _caller):
        if url.startswith(data.MIRRORS[0]):
            raise ConnectionError("refused")
        Path(output_file).write_bytes(gzip.compress(contents[url.rpartition("/")[2]]))

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: serve)
    assert data.load("auto", "train").labels.tolist() == list(contents[TRAIN_LABELS][8:])
    assert sorted(path.name for path in cache.iterdir()) == sorted(NAMES)


@pytest.mark.usefixtures("offline")
def test_an_altered_download_is_an_error_and_is_not_kept(monkeypatch, cache, contents, published):
    """A mirror that sends other bytes neither fills the cache nor brings in the stand-in."""

    def serve(url, output_file, _caller):
        Path(output_file).write_bytes(gzip.compress(contents[url.rpartition("/")[2]][:-1]))

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: serve)
    with pytest.raises(DataError, match=published[TRAIN_IMAGES]):
        data.load("auto", "train")
    assert list(cache.iterdir()) == []


@contextmanager
def mirror(contents):
    """A mirror that sends these files, not at once; gives its address and how often each file was asked for."""
    asked = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            asked[name] += 1
            time.sleep(0.2)
            body = gzip.compress(contents[name]) if name in contents else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


LOAD = """
import json, sys
from pathlib import Path
from nodebench.tasks.mnist import data

cache, data.MIRRORS, data.CHECKSUMS = json.loads(sys.argv[1])
data.platformdirs.user_cache_path = lambda _: Path(cache)
print("ready", flush=True)
sys.stdin.readline()
print(data.load("auto", "train").name)
"""


def load_at_once(*arguments, n=4):
    """What several processes load that want the data at the same moment."""
    environment = {name: value for name, value in os.environ.items() if name != data.FOLDER_VARIABLE}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "NO_PROXY": "127.0.0.1"},
        )
        for _ in range(n)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * n
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate()[0].strip() for process in processes]


@pytest.mark.worker
def test_of_several_processes_one_downloads(tmp_path, contents, published):
    """Each file is asked for once, and all processes have it."""
    with mirror(contents) as (address, asked):
        assert load_at_once(str(tmp_path / "cache"), [address], published) == ["mnist"] * 4
    assert asked == dict.fromkeys(NAMES, 1)


@pytest.mark.worker
def test_of_several_processes_one_finds_that_nothing_can_be_downloaded(tmp_path, published):
    """The other is told by it, and asks no mirror."""
    with mirror({}) as (first, asked), mirror({}) as (second, asked_next):
        assert load_at_once(str(tmp_path / "cache"), [first, second], published, n=2) == ["digits-upsampled"] * 2
    assert asked == asked_next == {NAMES[0]: 1}


@pytest.mark.usefixtures("published")
def test_a_cache_that_cannot_be_written_is_no_crash(monkeypatch, cache, contents):
    """Where a file stands in the place of the cache, nothing can be kept, and the stand-in is used."""
    cache.parent.touch()
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with mirror(contents) as (address, asked):
        monkeypatch.setattr(data, "MIRRORS", [address])
        assert data.load("auto", "train").name == "digits-upsampled"
    assert asked == {}


@pytest.mark.usefixtures("published", "offline")
def test_where_names_the_folder(monkeypatch, tmp_path, contents):
    """A folder with the files is told as it is."""
    use_folder(monkeypatch, tmp_path, contents)
    assert str(tmp_path) in Mnist().data_source()


def test_where_downloads_nothing(cache, offline):
    """Asking tells the cache as the download's aim and touches neither network nor disk."""
    assert str(cache) in Mnist().data_source()
    assert offline == []
    assert not cache.exists()


@pytest.mark.usefixtures("offline")
def test_where_tells_of_the_stand_in_after_a_failed_download():
    """After a failure the answer is what a run would now use."""
    data.load("auto", "train")
    assert "scikit-learn's bundled digits" in Mnist().data_source()
    assert "nowhere" in Mnist(dataset="mnist").data_source()


@pytest.mark.skipif(data.FOLDER_VARIABLE not in os.environ, reason="NODEBENCH_DATA names no folder with MNIST")
def test_real_files_have_the_published_checksums_and_shapes():
    """The real training and test data are whole: 60,000 and 10,000 images with all ten digits."""
    for part, n in (("train", 60_000), ("test", 10_000)):
        digits = data.load("mnist", part)
        assert digits.images.shape == (n, 28, 28)
        assert set(digits.labels.tolist()) == set(range(10))
