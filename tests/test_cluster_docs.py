"""The page about clusters says what is so, and its batch script does what it says, run as it stands.

What no test can run is SLURM itself: `srun` and `scontrol` are stubs, Ray is real.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer

from nodebench.cli import app
from nodebench.results.store import Store

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "examples/cluster/nodebench.sbatch"
ARRAY = ROOT / "examples/cluster/nodebench-array.sbatch"
MATRIX = [
    "-t", "nodebench.testing:FakeTask[train_sleep_s=0.05]", "--model", "constant", "--preset", "smoke",
    "--measure", "training", "--seed", "0,1,2",
]  # fmt: skip

SLURM_OPTIONS = {"--array", "--nodes", "--exclusive", "--gpus-per-node", "--time", "--requeue", "--signal", "--export"}
"""Those of `sbatch` that the page names; it is not installed here."""

SRUN = """#!/bin/bash
# A step on nodes that are all this machine; signals are handed on to its tasks.
n=$SLURM_JOB_NUM_NODES
while [[ $1 == --* ]]; do
    if [[ $1 == --nodes=* ]]; then n=${1#*=}; fi
    shift
done
tasks=()
for ((node = 0; node < n; node++)); do
    SLURM_NODEID=$node "$@" &
    tasks+=($!)
done
trap 'kill -USR2 "${tasks[@]}"' USR2
trap 'kill -TERM "${tasks[@]}"' TERM
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2>/dev/null; do wait "$task"; done
done
"""

SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf 'localhost\\nlocalhost\\n'; else echo "$@" >>scontrol.log; fi
"""


@pytest.fixture
def job(tmp_path):
    """Starts the batch script in a folder as SLURM would, in a job of some nodes with a CPU each."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    number = str(os.getpid())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NODEBENCH_", "RAY_"))}
    environment |= {
        "PATH": os.pathsep.join([str(stubs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1",
        "RAY_prestart_worker_first_driver": "0",  # processes for work that there is not
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_JOB_ID": number,
        "SLURM_JOB_NODELIST": "localhost",
    }
    started = []

    def start(n_nodes):
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *MATRIX], cwd=tmp_path, env={**environment, "SLURM_JOB_NUM_NODES": str(n_nodes)},
            text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        end(process)


def end(process):
    """End what is left of a job, as SLURM does."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


def test_a_job_is_requeued_and_goes_on(tmp_path, job):
    """Before its time ends the job asks to be requeued; begun again, it does what is left, and ends its Ray."""
    pytest.importorskip("ray")
    first = job(1)
    printed = list(up_to("[1/3]", first.stdout))
    assert printed[-1].startswith("[1/3]"), printed
    first.send_signal(signal.SIGUSR1)
    output, _ = first.communicate(timeout=60)
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {os.getpid()}\n", output
    end(first)
    store = Store(tmp_path / ".nodebench/results.db")
    before = store.records()
    assert 1 <= len(before) < 3
    second = job(2)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert "2 nodes, 2 CPUs, 0 GPUs" in output
    assert f"3 cells, {len(before)} done already" in output
    after = store.records(all_attempts=True)
    assert Counter(record.seed for record in after) == Counter(range(3))
    assert {record.status for record in after} == {"ok"}
    assert all(record in after for record in before)
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()


def up_to(beginning, lines):
    """Lines until the first one that begins so."""
    for line in lines:
        yield line
        if line.startswith(beginning):
            return


def test_an_array_measures_its_shards(tmp_path):
    """Each task measures its own; submitted again it measures what did not end well; merged they are the plan."""
    (tmp_path / "nodebench-array.sbatch").write_text(ARRAY.read_text(encoding="utf-8"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODEBENCH_")}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_ARRAY_JOB_ID": "7",
    }

    def task(number, **variables):
        return subprocess.run(
            ["bash", "nodebench-array.sbatch", *MATRIX, "--json"], cwd=tmp_path, check=False, capture_output=True,
            text=True, env={**environment, "SLURM_ARRAY_TASK_ID": str(number), **variables}, timeout=120,
        )  # fmt: skip

    for number, n_cells in ((1, 2), (2, 1), (2, 1)):
        done = task(number, SHARDS="2")
        assert done.returncode == 0, done.stderr
        assert [record["status"] for record in json.loads(done.stdout)] == ["ok"] * n_cells
    merging = re.findall(r"^nodebench (merge .*)$", PAGE, re.MULTILINE)
    command = f"nodebench {merging[0]}"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True, capture_output=True)
    merged = Store(tmp_path / ".nodebench/results.db")
    assert len(merged.runs()) == 2
    assert Counter(record.seed for record in merged.records(all_attempts=True)) == Counter(range(3))
    done = task(1)
    assert done.returncode != 0
    assert "how many shards there are" in done.stderr


@pytest.mark.parametrize("script", [SCRIPT, ARRAY], ids=lambda path: path.stem)
def test_the_script_is_on_the_page(script):
    """The page shows the very text of the file, and links to it."""
    assert f"```bash\n{script.read_text(encoding='utf-8')}```\n" in PAGE
    assert f"/examples/cluster/{script.name})" in PAGE
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_its_options_exist():
    """Every option on the page is one of nodebench, of `ray start`, or of SLURM."""
    pytest.importorskip("ray")
    from ray.scripts.scripts import cli as ray_cli

    ours = typer.main.get_command(app).commands
    known = options_of(*(ours[name] for name in ("run", "doctor", "logs", "report", "merge")))
    rays = options_of(ray_cli.commands["start"], ray_cli.commands["get-auth-token"], ray_cli.commands["status"])
    text = PAGE
    for script in (SCRIPT, ARRAY):
        text = text.replace(script.read_text(encoding="utf-8"), "")
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert written >= {"--executor", "--ray-address", "--checkpoint-dir", "--group-cpus", "--retries", "--allow-mixed"}
    assert written - known - rays - SLURM_OPTIONS == set()
    lines = re.findall(r"nodebench (run|doctor)([^\n`]*)", PAGE)
    assert {name for name, _ in lines} == {"run", "doctor"}
    for name, rest in lines:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest)) <= options_of(ours[name]), (name, rest)


def options_of(*commands):
    return {option for command in commands for parameter in command.params for option in parameter.opts}
