"""What a machine with a GPU is asked, in one command of a few minutes that needs no network: `make gpu-check`.

    python benchmarks/gpu_check.py [--device cpu] [--store FILE] [--wheels FOLDER]

It runs the tests that are marked `cuda`, then measures all backends on three tasks into a store, and says what was
skipped and why. What is not installed, nodebench itself or a library, comes from wheels in a folder (by default `dist`,
where `make gpu-wheels` puts them) and goes into a folder of its own: whatever the machine has stays as it is.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BACKENDS, TASKS = "all", "mnist,cnf,spiral"


def is_installed(name: str) -> bool:
    """Whether this Python has a distribution."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def install(wheels: Path, folder: Path) -> dict[str, str]:
    """Install into a folder what is missing and has a wheel; the environment in which it is found."""
    environment = dict(os.environ)
    found = sorted(wheels.glob("*.whl"))
    missing = [wheel for wheel in found if not is_installed(wheel.name.partition("-")[0].replace("_", "-"))]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *map(str, missing)], check=True)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH", "")]))
    print("installed beside the others:", ", ".join(wheel.name for wheel in missing) or "nothing")
    return environment


def lacking(environment: dict[str, str]) -> list[str]:
    """Requirements of nodebench that the environment does not have."""
    program = "from importlib.metadata import requires; print(*(requires('nodebench') or []), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return ["nodebench itself"]
    wanted = [Requirement(line) for line in done.stdout.splitlines() if line]
    names = [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    check = "import sys; from importlib.metadata import version; version(sys.argv[1])"
    return [
        name
        for name in names
        if subprocess.run(
            [sys.executable, "-c", check, name], env=environment, capture_output=True, check=False
        ).returncode
    ]


def step(title: str, command: list[str], environment: dict[str, str]) -> int:
    """Run a command and say how long it took."""
    print(f"\n== {title}\n{' '.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    print(f"-- {title}: exit code {code}, {time.monotonic() - began:.0f} s", flush=True)
    return code


def main() -> int:
    """Tests, then a run; 0 where both were well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--store", type=Path, default=ROOT / ".nodebench" / "gpu.db")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        environment = install(given.wheels, Path(folder))
        print("not installed:", ", ".join(lacking(environment)) or "nothing")
        python = [sys.executable, "-m"]
        # The pages of a browser and the plugins of other tools have nothing to do with a device.
        tests = [*python, "pytest", "-q", "-rs", "-m", "cuda", "tests/test_device.py", "--device", given.device]
        options = ["--device", given.device, "--measure", "gradient", "--preset", "smoke", "--store", str(given.store)]
        run = [*python, "nodebench", "run", "-b", BACKENDS, "-t", TASKS, *options]
        report = [*python, "nodebench", "report", "--store", str(given.store)]
        page = given.store.with_suffix(".html")
        codes = [
            step("tests", tests, environment),
            step("all backends on three tasks", run, environment),
            step("the page", [*report, "-o", str(page)], environment),
        ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
