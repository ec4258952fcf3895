"""The harness measured by itself: does it cry wolf, and what does it see?

Cells that are one and the same are compared (A/A), and cells into which a slowdown, a leak or a wrong gradient has been
planted, all through the code that measures any other cell.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from math import exp, sqrt
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

from scipy.stats import binomtest

from nodebench.bench.cell_run import CellRun, probe_run
from nodebench.bench.client import WorkerError
from nodebench.bench.jobs import WorkClock
from nodebench.bench.matrix import plan
from nodebench.bench.messages import Event
from nodebench.bench.plan import Cell
from nodebench.bench.request import Request, Settings
from nodebench.bench.runner import Runner
from nodebench.bench.timing import Interleaving, Interval, step_ratio
from nodebench.bench.work import begin
from nodebench.errors import UserError
from nodebench.results.record import Measurement
from nodebench.results.store import Store
from nodebench.stats import CONFIDENCE, log_error, quantile, student

SLOWDOWNS = (0.02, 0.05, 0.1, 0.2)
LEAK_MIB = 1
POWER = 0.8
"""How often the smallest effect that counts as visible is seen."""

CERTAIN = 0.2
"""A slowdown that must always be caught."""

BUDGET_S = 2.0
"""Timing budget of a cell, in seconds."""


@dataclass(frozen=True)
class Workload:
    """What is timed.

    Attributes:
        task: The task.
        backend: A backend with the options `slowdown`, `leak_mib` and `wrong`.
        comparison_s: About how long a comparison takes, in seconds.
    """

    task: str
    backend: str
    comparison_s: float


TORCH = Workload("linear", "nodebench.testing:PlantedTorch", 9.0)
FAKE = Workload("nodebench.testing:FakeTask", "nodebench.testing:Planted", 5.0)


@dataclass(frozen=True)
class PlantedSlowdown:
    """A slowdown that was planted, in several comparisons.

    Attributes:
        slowdown: What was planted: 0.1 is a tenth longer.
        n_caught: Comparisons that called it slower.
        n_comparisons: Comparisons.
        estimate: Median of their ratios.
    """

    slowdown: float
    n_caught: int
    n_comparisons: int
    estimate: float


@dataclass(frozen=True)
class SelfTest:
    """What the harness found out about itself.

    Attributes:
        workload: What was timed.
        n_comparisons: Comparisons of a cell with itself.
        n_alarms: Those that called one of the two faster.
        alarm_low: Lower end of the 95 % interval (Clopper and Pearson) of the rate of false alarms.
        alarm_high: Its upper end.
        slowdowns: Planted slowdowns.
        leak_bytes: What a step of the cell that leaks a mebibyte was found to leave behind.
        clean_bytes: The same of the cell that does not.
        wrong_gradient: Status of the cell whose gradient has the wrong sign.
        smallest_effect: Relative slowdown that a comparison of the least number of starts sees in four of five cases.
    """

    workload: str
    n_comparisons: int
    n_alarms: int
    alarm_low: float
    alarm_high: float
    slowdowns: tuple[PlantedSlowdown, ...]
    leak_bytes: int | None
    clean_bytes: int | None
    wrong_gradient: str
    smallest_effect: float

    @property
    def alarm_rate(self) -> float:
        """Share of the comparisons of a cell with itself that called one faster."""
        return self.n_alarms / self.n_comparisons

    @property
    def problems(self) -> list[str]:
        """What is not as it must be, a sentence each; empty where the harness can be trusted."""
        found = []
        nominal = 1 - CONFIDENCE
        if not self.alarm_low <= nominal <= self.alarm_high:
            found.append(f"the rate of false alarms is {self.alarm_rate:.0%}, which is not the nominal {nominal:.0%}.")
        found += [
            f"a planted slowdown of {planted.slowdown:.0%} was caught {planted.n_caught} times of "
            f"{planted.n_comparisons} only."
            for planted in self.slowdowns
            if planted.slowdown >= CERTAIN and planted.n_caught < planted.n_comparisons
        ]
        if self.leak_bytes is not None and not (self.clean_bytes or 0) < LEAK_MIB * 2**20 <= self.leak_bytes:
            found.append(f"a planted leak of {LEAK_MIB} MiB per step was read as {self.leak_bytes} bytes.")
        if self.wrong_gradient != "wrong_gradient":
            found.append(f"a planted wrong gradient was called `{self.wrong_gradient}`.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """All figures, as JSON knows them."""
        return {**asdict(self), "alarm_rate": self.alarm_rate, "problems": self.problems}


def workload() -> Workload:
    """Cells of torch where it is installed, else of NumPy."""
    return FAKE if find_spec("torch") is None else TORCH


def n_planted(n_comparisons: int) -> int:
    """Comparisons for each planted slowdown."""
    return max(1, n_comparisons // 8)


def expected_s(chosen: Workload, n_comparisons: int) -> float:
    """About how long a selftest takes, in seconds."""
    return chosen.comparison_s * (n_comparisons + len(SLOWDOWNS) * n_planted(n_comparisons) + 2)


def run_selftest(
    chosen: Workload, n_comparisons: int, notify: Callable[[Event], None], cores: tuple[int, ...] | None = None
) -> SelfTest:
    """Compare cells with themselves and with planted ones.

    Args:
        chosen: What is timed.
        n_comparisons: Comparisons of a cell with itself.
        notify: Told of the progress.
        cores: Cores of the workers; None for all.

    Raises:
        UserError: If there are fewer than one, or a cell cannot be measured at all.
    """
    if n_comparisons < 1:
        raise UserError(f"`--comparisons` must be at least 1; got {n_comparisons}.")
    with TemporaryDirectory() as folder:
        bench = _Bench(chosen, Settings(budget_s=BUDGET_S, cores=cores), notify, Path(folder))
        alike = [bench.compare(0.0, f"A against A, {i + 1} of {n_comparisons}") for i in range(n_comparisons)]
        slowdowns = tuple(bench.plant(slowdown, n_planted(n_comparisons)) for slowdown in SLOWDOWNS)
        leak, clean, status = bench.judge()
    n_alarms = sum(ratio.verdict != "undecided" for ratio in alike)
    bounds = binomtest(n_alarms, n_comparisons).proportion_ci(CONFIDENCE)
    return SelfTest(
        workload=f"{chosen.backend} on {chosen.task}",
        n_comparisons=n_comparisons,
        n_alarms=n_alarms,
        alarm_low=float(bounds.low),
        alarm_high=float(bounds.high),
        slowdowns=slowdowns,
        leak_bytes=leak,
        clean_bytes=clean,
        wrong_gradient=status,
        smallest_effect=smallest_effect(alike),
    )


def smallest_effect(alike: Sequence[Interval]) -> float:
    """Relative slowdown that is seen with probability `POWER`, from comparisons of a cell with itself.

    It is (t_0.975 + t_0.8) s with Student's quantiles, s being the standard error of the log ratio, pooled.
    """
    degrees = 3  # of the least number of starts
    known = [(ratio.low, ratio.high) for ratio in alike if ratio.low is not None and ratio.high is not None]
    error = sqrt(mean(log_error(low, high, degrees) ** 2 for low, high in known))
    return exp((student(degrees) + quantile(POWER, degrees)) * error) - 1


class _Bench:
    """Cells of one workload, and how they are compared."""

    def __init__(self, chosen: Workload, settings: Settings, notify: Callable[[Event], None], folder: Path) -> None:
        self._chosen, self._settings, self._notify, self._folder = chosen, settings, notify, folder
        self._plain = self._cell("slowdown=0.0")
        self._inputs = folder / "inputs.npz"
        self._first_step = self._begin()

    def _request(self, *options: str) -> Request:
        backends = tuple(f"{self._chosen.backend}[{option}]" for option in options)
        return Request(tasks=(self._chosen.task,), backends=backends, preset="smoke", measure="gradient")

    def _cell(self, option: str) -> Cell:
        return plan(self._request(option)).cells[0]

    def _begin(self) -> float:
        worker = probe_run(self._plain, self._settings, WorkClock())
        try:
            return begin(worker, self._inputs).first_step
        except WorkerError as error:
            raise UserError(f"the selftest cannot begin: {error.failure.reason}") from error
        finally:
            worker.dismiss()

    def compare(self, slowdown: float, what: str) -> Interval:
        """The ratio of a cell with this slowdown to one without."""
        self._notify(Event("cell", what, self._plain))
        cells = [self._plain, self._cell(f"slowdown={slowdown}")]
        found = Measurement(first_step=self._first_step)
        measured = [CellRun(cell, self._settings, found, self._inputs) for cell in cells]
        Interleaving(measured, self._settings, self._notify).measure()
        for one in measured:
            if one.failed:
                raise UserError(f"the selftest cannot go on: {one.found.reason}")
        return step_ratio(measured[1])

    def plant(self, slowdown: float, n: int) -> PlantedSlowdown:
        """Several comparisons with one slowdown."""
        ratios = [self.compare(slowdown, f"slowdown of {slowdown:.0%}, {i + 1} of {n}") for i in range(n)]
        caught = sum(ratio.verdict == "slower" for ratio in ratios)
        return PlantedSlowdown(slowdown, caught, n, median(ratio.estimate for ratio in ratios))

    def judge(self) -> tuple[int | None, int | None, str]:
        """What the leaking and the clean cell leave behind, and the status of the one with a wrong gradient."""
        planned = plan(self._request("slowdown=0.0", f"leak_mib={LEAK_MIB}", "wrong=true"))
        store = Store(self._folder / "selftest.db")
        self._notify(Event("cell", "planted leak and wrong gradient", self._plain))
        Runner(store, replace(self._settings, rounds=1), lambda _: None).run(planned, "selftest", {})
        clean, leaking, wrong = store.records()
        return leaking.unreleased_bytes, clean.unreleased_bytes, wrong.status
