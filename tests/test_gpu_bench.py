"""The comparison on a GPU keeps to its time, and says what it left out."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = [sys.executable, "benchmarks/with_wheels.py", "benchmarks/gpu_bench.py"]


def test_groups_for_which_there_is_no_time_are_named(tmp_path):
    """With their batch; the table is printed without them, and nothing measured is no success."""
    options = ["--device", "cpu", "--minutes", "0.3", "--store", str(tmp_path / "r.db")]
    done = subprocess.run([*SCRIPT, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "one gradient step on cpu, float32; TF32 is off in torch and in JAX" in done.stdout
    assert done.stdout.count("left out, ") == 7
    assert "left out, cnf, batch 4096: all: the 0.3 minutes were over" in done.stdout
