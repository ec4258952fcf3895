"""What a machine with a GPU is asked, in one command of a few minutes that needs no network: `make gpu-check`.

    python benchmarks/with_wheels.py benchmarks/gpu_check.py [--device cpu] [--store FILE]

It runs the tests that are marked `cuda`, then measures all backends on three tasks into a store, and says what was
skipped and why.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BACKENDS, TASKS = "all", "mnist,cnf,spiral"


def step(title: str, command: list[str]) -> int:
    """Run a command and say how long it took."""
    print(f"\n== {title}\n{' '.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(f"-- {title}: exit code {code}, {time.monotonic() - began:.0f} s", flush=True)
    return code


def main() -> int:
    """Tests, then a run; 0 where both were well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--store", type=Path, default=ROOT / ".nodebench" / "gpu.db")
    given = parser.parse_args()
    python = [sys.executable, "-m"]
    # The pages of a browser and the plugins of other tools have nothing to do with a device.
    tests = [*python, "pytest", "-q", "-rs", "-m", "cuda", "tests/test_device.py", "--device", given.device]
    options = ["--device", given.device, "--measure", "gradient", "--preset", "smoke", "--store", str(given.store)]
    run = [*python, "nodebench", "run", "-b", BACKENDS, "-t", TASKS, *options]
    report = [*python, "nodebench", "report", "--store", str(given.store)]
    page = given.store.with_suffix(".html")
    return max(
        step("tests", tests), step("all backends on three tasks", run), step("the page", [*report, "-o", str(page)])
    )


if __name__ == "__main__":
    sys.exit(main())
