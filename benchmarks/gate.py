"""Does the gate cry wolf, and does it see? A version against itself many times over, and with faults planted into it.

    python benchmarks/gate.py [REPETITIONS]

Each comparison is `nodebench compare --against-ref HEAD` in a repository of its own, with two cells of torch on
`linear`; a fault is planted into one of them. What is counted is planted once; the slowdown several times, since what
else the machine does may leave it undecided. Twenty repetitions and the faults take about a quarter of an hour.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

PLUGIN = """
from dataclasses import dataclass, replace
from typing import ClassVar
from nodebench.testing import PlantedTorch, planted

EXTRA, SLOWDOWN, LEAK, WRONG = 0, 0.0, 0, False

@dataclass(frozen=True)
class Mine(PlantedTorch):
    framework: ClassVar[str] = "torch"

    def gradient_step(self, problem, spec, framework):
        step = planted(self._direct.gradient_step(problem, spec, framework), SLOWDOWN, LEAK, wrong=WRONG)

        def evaluations():
            found = step.evaluations()
            return replace(found, nfe_forward=found.nfe_forward + EXTRA)

        return replace(step, evaluations=evaluations)
"""

FAULTS = {
    "one more evaluation per step": ("EXTRA", "1", "nfe_forward"),
    "one tensor kept alive": ("LEAK", "2**20", "unreleased_bytes"),
    "a fifth more time": ("SLOWDOWN", "0.2", "time"),
    "a wrong sign": ("WRONG", "True", "status"),
}
"""Each fault: the constant, its value, and the figure in which it must be found."""

REPETITIONS = {"a fifth more time": 5}
"""How often a fault is planted, where not once."""

NONE = "EXTRA, SLOWDOWN, LEAK, WRONG = 0, 0.0, 0, False"


def compare(folder: Path) -> set[tuple[str, str]]:
    """Compare the folder with its HEAD; returns the regressions as pairs of plugin and figure."""
    backends = "./changed.py:Mine,./untouched.py:Mine"
    command = [
        sys.executable,
        "-m",
        "nodebench",
        "compare",
        "--against-ref",
        "HEAD",
        "-b",
        backends,
        "-t",
        "linear",
    ]
    done = subprocess.run([*command, "-o", "gate.xml"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    suite = ET.parse(folder / "gate.xml").getroot()[0]
    cases = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    return {(case.attrib["classname"].split("./")[1].split(".py")[0], case.attrib["name"]) for case in cases}


def main(repetitions: int) -> None:
    """Print the false alarms and what became of each fault."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("changed", "untouched"):
            (folder / f"{name}.py").write_text(PLUGIN)
        git = ["git", "-c", "user.name=gate", "-c", "user.email=gate@example.com"]
        for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "no fault"]):
            subprocess.run([*git, *arguments], cwd=folder, check=True)
        os.environ["NODEBENCH_STORE"] = str(folder / "results.db")
        alarms = [found for _ in range(repetitions) if (found := compare(folder))]
        print(f"false alarms: {len(alarms)} of {repetitions} {alarms or ''}", flush=True)
        for fault, (constant, value, figure) in FAULTS.items():
            (folder / "changed.py").write_text(PLUGIN.replace(NONE, f"{NONE}\n{constant} = {value}"))
            repeated = [compare(folder) for _ in range(REPETITIONS.get(fault, 1))]
            caught = sum(("changed", figure) in found for found in repeated)
            elsewhere = sum(any(plugin != "changed" for plugin, _ in found) for found in repeated)
            figures = sorted({figure for found in repeated for _, figure in found})
            told = f"caught {caught} of {len(repeated)}, blamed on another cell {elsewhere}"
            print(f"{fault}: {told}; regressions: {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
