"""What sets two machines apart is named."""

from nodebench.results.machine import differences, fingerprint


def test_equal_fingerprints_have_no_differences():
    """A machine is like itself."""
    assert differences(fingerprint(), fingerprint()) == []


def test_every_difference_is_a_line():
    """Nested entries by dotted name, missing ones included."""
    first = {"cpu": "a", "libraries": {"torch": "1", "jax": None}, "git": None}
    second = {"cpu": "a", "libraries": {"torch": "2", "jax": None, "ray": "3"}, "git": {"commit": "c", "dirty": False}}
    assert differences(first, second) == [
        "libraries.torch: 1 against 2",
        "libraries.ray: None against 3",
        "git.commit: None against c",
        "git.dirty: None against False",
    ]


def test_a_gpu_is_told_with_the_precision_of_its_products(tmp_path, monkeypatch):
    """Whoever reads a time must know that no product was rounded to ten bits."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.86, 143771 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert fingerprint()["gpu"] == "NVIDIA H200, 570.86, 143771 MiB; TF32 off"
