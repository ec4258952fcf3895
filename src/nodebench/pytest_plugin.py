"""A plugin of pytest: `nodebench_cell` measures a cell within a test and hands its rounds to pytest-benchmark.

    def test_my_method(nodebench_cell):
        record = nodebench_cell("./my_method.py:MyMethod", "cnf", control="direct")
        assert record.nfe_forward <= 60

The cell is measured as `nodebench run --measure gradient` does it, in processes of its own. Its turns are the rounds of
the benchmark, in seconds per gradient step, and what else is known of it stands in `extra_info` under the names of a
record's fields: `nodebench compare` reads the file of `--benchmark-json`. `--benchmark-max-time` is the budget of the
timing, beyond the least number of starts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nodebench.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from nodebench.bench.group import GradientGroup
    from nodebench.options import RunOptions
    from nodebench.results.record import Record

FIXTURE = "nodebench_cell"

NO_FAULT = ("unsupported", "not_installed")
"""Statuses with which a test is skipped; with any other but `ok` it fails."""


class ReplayClock:
    """A clock that is moved on by hand: with it, pytest-benchmark sees the times that workers have measured."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Seconds so far."""
        return self.now_s

    def replay(self, rounds: Iterator[float]) -> None:
        """Move on by the next of the rounds; where there is none left, as when no time is taken, stay."""
        self.now_s += next(rounds, 0.0)


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Give pytest-benchmark the clock of each test that measures a cell."""
    if not config.pluginmanager.hasplugin("benchmark"):
        return  # pytest says of each test that it lacks the fixture
    for item in items:
        if FIXTURE in getattr(item, "fixturenames", ()):
            own = item.get_closest_marker("benchmark")
            given = {} if own is None else own.kwargs
            item.add_marker(pytest.mark.benchmark(**{**given, "timer": ReplayClock()}), append=False)


@dataclass(frozen=True)
class CellBenchmark:
    """Measures a cell within a test; what the fixture `nodebench_cell` gives.

    Attributes:
        benchmark: The fixture of pytest-benchmark.
        clock: The clock that it reads.
        budget_s: Timing budget, in seconds.
        folder: Where the store and the reference gradients are kept.
    """

    benchmark: Any
    clock: ReplayClock
    budget_s: float
    folder: Path
    _rounds: dict[str, list[float]] = field(default_factory=dict, init=False)

    def __call__(self, backend: str, task: str, *, control: str | None = None, **options: Any) -> "Record":
        """Measure the gradient step of a cell and hand its rounds to pytest-benchmark.

        Where benchmarks are disabled, all is measured but for the time, of which there is then one round.

        Args:
            backend: Gradient method, as after `--backend`.
            task: Task, as after `--task`.
            control: Backend that takes turns with it, so that the record has the ratio to its time; None for none.
            **options: Those of `nodebench run`, with underscores: `model`, `solver`, `rtol`, `seed` (one of each),
                `atol`, `dtype`, `device`, `preset` (default: `smoke`), `batch_size`, `rounds` and so on; fields of
                `nodebench.bench.request.Request` and `nodebench.bench.request.Settings`.

        Returns:
            The record of the cell, whose status is `ok`. A cell that is unsupported, or whose library is not installed,
            skips the test, and any other failure fails it.

        A wrong name or number fails the test, too.
        """
        __tracebackhide__ = True  # what went wrong did so in a worker, or in the test
        try:
            record = self._measure(backend, task, control, options)
        except UserError as error:
            raise pytest.fail.Exception(str(error)) from None
        if record.status != "ok":
            text = f"{record.task}/{record.model}/{record.backend}: {record.status}: {record.reason}"
            (pytest.skip if record.status in NO_FAULT else pytest.fail)(text)
        self._hand_over(record)
        return record

    def _measure(self, backend: str, task: str, control: str | None, options: dict[str, Any]) -> "Record":
        # Imported here: this module is loaded whenever pytest starts.
        from nodebench.measuring import Watcher, measure, planned

        backends = (backend,) if control is None else (backend, control)
        chosen = _options(options, backends, task, control, budget_s=self.budget_s, store=self.folder / "results.db")
        if self.benchmark.disabled:
            chosen = replace(chosen, rounds=1)
        watcher, plan = Watcher(f"pytest {self.benchmark.fullname}"), planned(chosen)
        if plan.broken:
            watcher.broken(plan.broken)
        _, *companions = plan.cells
        known = [cell.cell_id for cell in companions]
        return measure(plan, chosen, watcher, known=known, measure_group=self._measure_group)[0]

    def _measure_group(self, group: "GradientGroup") -> None:
        group.measure()
        for measured in group.cells:
            self._rounds[measured.cell.cell_id] = [turn.step_s for start in measured.starts for turn in start.turns]

    def _hand_over(self, record: "Record") -> None:
        from nodebench.gating.baseline import BaselineCell

        figures = BaselineCell.from_record(record)
        self.benchmark.extra_info.update(figures.to_dict())
        if self.benchmark.group is None:
            self.benchmark.group = replace(figures, backend=None).label
        rounds = self._rounds[record.cell_id]
        self.benchmark.pedantic(self.clock.replay, args=(iter(rounds),), rounds=len(rounds))


SINGLE = {"model": "models", "solver": "solvers", "rtol": "rtols", "seed": "seeds"}
"""Options of which a request may have several, and a cell has one."""


def _options(
    given: dict[str, Any], backends: tuple[str, ...], task: str, control: str | None, **usual: Any
) -> "RunOptions":
    """The options of a test as those of a run."""
    from nodebench.bench.request import Request, Settings
    from nodebench.options import RunOptions

    several = {"backends", "tasks", "measure", *SINGLE.values()}
    known = {*SINGLE, *(f.name for cls in (Request, Settings) for f in fields(cls) if f.name not in several)}
    for name in given:
        if name not in known:
            raise UnknownNameError(f"option of `{FIXTURE}`", name, known)
    named = {SINGLE.get(name, name): (value,) if name in SINGLE else value for name, value in given.items()}
    own = {"backends": backends, "tasks": (task,), "measure": "gradient", "control": control}
    return RunOptions(**{"preset": "smoke", **usual, **named, **own})


@pytest.fixture(name=FIXTURE)
def nodebench_cell(
    request: pytest.FixtureRequest, benchmark: Any, tmp_path_factory: pytest.TempPathFactory
) -> CellBenchmark:
    """Measures one cell: `nodebench_cell(BACKEND, TASK, control=None, **options)` gives its record.

    Options are those of `nodebench run`, with underscores: rtol=1e-5, solver="tsit5", dtype="float64", rounds=20.
    """
    marker = request.node.get_closest_marker("benchmark")
    budget_s = float(marker.kwargs.get("max_time", request.config.getoption("benchmark_max_time")))
    cache = getattr(request.config, "cache", None)
    folder = tmp_path_factory.getbasetemp() if cache is None else cache.mkdir("nodebench")
    return CellBenchmark(benchmark, marker.kwargs["timer"], budget_s, folder)
