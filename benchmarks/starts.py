"""Do starts whose workers are forked vary as much as starts whose workers are new interpreters?

    python benchmarks/starts.py [STARTS] [BACKEND] [TASK]

A cell is compared with itself. Starts of both kinds take turns, so that what slows the machine for a while meets both.
What must not shrink is how the ratio of two equal cells varies from start to start: the interval of a comparison is
made of that, and if forked workers had it in common, differences between two starts of a program would be taken for
differences between two programs.
"""

import sys
from math import log, sqrt
from pathlib import Path
from statistics import mean, median, quantiles, stdev
from tempfile import TemporaryDirectory

from scipy.stats import f as snedecor

from nodebench.bench.cell_run import CellRun, probe_run
from nodebench.bench.jobs import WorkClock
from nodebench.bench.matrix import Request, plan
from nodebench.bench.processes import Launchers
from nodebench.bench.request import Settings
from nodebench.bench.timing import Interleaving
from nodebench.bench.work import begin
from nodebench.results.machine import idle_cores
from nodebench.results.record import Measurement
from nodebench.stats import student

ROUNDS = 10
WAYS = ("fork", "spawn")


def main(n_starts: int, backend: str, task: str) -> None:
    """Print how times and ratios vary over the starts of each kind."""
    request = Request(tasks=(task,), backends=(backend,), preset="smoke", measure="gradient")
    settings = Settings(rounds=ROUNDS, cores=tuple(idle_cores(1)))
    cell = plan(request).cells[0]
    with TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        worker = probe_run(cell, settings, WorkClock())
        first_step = begin(worker, inputs).first_step
        worker.dismiss()
        found: dict[str, list[CellRun]] = {
            way: [CellRun(cell, settings, Measurement(first_step=first_step), inputs) for _ in range(2)] for way in WAYS
        }
        for n in range(n_starts):
            for way in WAYS if n % 2 else WAYS[::-1]:
                timing = Interleaving(found[way], settings, lambda _: None)
                with Launchers() as launchers:
                    timing.start(launchers if way == "fork" else None, found[way], ROUNDS, float("inf"))
    samples = {way: [_of_start(found[way], at) for at in range(n_starts)] for way in WAYS}
    print(f"{backend} on {task}, {n_starts} starts each way, {ROUNDS} rounds; per cent unless said otherwise")
    print("| | fork | spawn | F, two-sided p |\n|---|---|---|---|")
    times = {way: [value for pair, _ in samples[way] for value in pair] for way in WAYS}
    print(f"| median step, ms | {1e3 * median(times['fork']):.3f} | {1e3 * median(times['spawn']):.3f} | |")
    _row("start to start, step", {way: [log(pair[0]) for pair, _ in samples[way]] for way in WAYS})
    _row("start to start, ratio", {way: [log(ratio) for _, ratio in samples[way]] for way in WAYS})
    covered = {way: _coverage([log(ratio) for _, ratio in samples[way]]) for way in WAYS}
    print(f"| intervals of four starts that hold 1 | {covered['fork']:.0f} | {covered['spawn']:.0f} | |")


def _of_start(pair: list[CellRun], at: int) -> tuple[tuple[float, float], float]:
    one, other = ([turn.step_s for turn in measured.starts[at].turns] for measured in pair)
    return (median(one), median(other)), median(b / a for a, b in zip(one, other, strict=True))


def _row(name: str, logs: dict[str, list[float]]) -> None:
    """Standard deviations, and how far the quartiles are apart, which a few disturbed starts do not change."""
    fork, spawn = (stdev(logs[way]) for way in WAYS)
    lows, highs = zip(*(quantiles(logs[way])[::2] for way in WAYS), strict=True)
    degrees = len(logs["fork"]) - 1
    ratio = (fork / spawn) ** 2
    p = 2 * min(snedecor.cdf(ratio, degrees, degrees), snedecor.sf(ratio, degrees, degrees))
    print(f"| {name}, standard deviation | {100 * fork:.2f} | {100 * spawn:.2f} | {ratio:.2f}, {p:.2f} |")
    between = [100 * (high - low) for low, high in zip(lows, highs, strict=True)]
    print(f"| {name}, between quartiles | {between[0]:.2f} | {between[1]:.2f} | |")


def _coverage(logs: list[float]) -> float:
    """Per cent of the intervals, each of four consecutive starts, that hold the true ratio, which is 1."""
    fours = [logs[at : at + 4] for at in range(0, len(logs) - 3, 4)]
    half = student(3)
    return 100 * mean(abs(mean(four)) <= half * stdev(four) / sqrt(4) for four in fours)


if __name__ == "__main__":
    given = sys.argv[1:]
    defaults = ["40", "direct", "benchmarks/mlp_task.py:Mlp"]
    n, backend_name, task_name = [*given, *defaults[len(given) :]]
    main(int(n), backend_name, task_name)
