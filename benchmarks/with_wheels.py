"""Run a script on a machine as it is: `python benchmarks/with_wheels.py SCRIPT [ARGUMENT ...]`, without a network.

What this Python lacks, nodebench itself or a library, comes from the wheels in `dist`, where `make gpu-wheels` puts
them, and goes into a folder of its own for as long as the script runs: whatever the machine has stays as it is.
"""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "dist"


def is_installed(name: str) -> bool:
    """Whether this Python has a distribution."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def install(folder: Path) -> dict[str, str]:
    """Install into a folder what is missing and has a wheel; the environment in which it is found."""
    environment = dict(os.environ)
    found = sorted(WHEELS.glob("*.whl"))
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


def main(command: list[str]) -> int:
    """Install, say what is still missing, and run the script in the root of the repository; its exit code."""
    with TemporaryDirectory() as folder:
        environment = install(Path(folder))
        print("not installed:", ", ".join(lacking(environment)) or "nothing", flush=True)
        return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
