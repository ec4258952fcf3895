"""Cells take turns over several starts, share the control where memory is short, and fail alone."""

import os
import shutil
from atexit import register
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from processes import workers

from nodebench.bench.cell_run import CellRun
from nodebench.bench.matrix import Request, plan
from nodebench.bench.messages import Assignment, Event
from nodebench.bench.request import Settings
from nodebench.bench.timing import Interleaving, step_ratio, subgroups
from nodebench.bench.worker.main import Worker
from nodebench.results.record import Measurement

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
TWO = Settings(rounds=2, timeout_s=60)
"""A round in each of two starts."""


def cells(*options, settings=Settings(rounds=6, timeout_s=60)):  # noqa: B008  frozen
    """A measured cell for each set of options of the fake backend."""
    backends = tuple(f"{BACKEND}[{text}]" for text in options)
    request = Request(backends=backends, tasks=(TASK,), preset="smoke", measure="gradient")
    found = Measurement(first_step=0.1)
    return [CellRun(cell, settings, found, inputs(cell)) for cell in plan(request).cells]


@cache
def inputs(cell):
    """What all workers of a cell are handed."""
    path = Path(mkdtemp()) / "inputs.npz"
    register(shutil.rmtree, path.parent)
    Worker(Assignment(replace(cell, backend=None)), None).begin(path)
    return path


def interleaving(group, available_bytes=None, notify=lambda _: None):
    return Interleaving(group, group[0].settings, notify, None, available_bytes)


@pytest.mark.quiet
def test_rounds_are_spread_over_the_starts():
    """Six rounds in four starts, each cell's turns paired with the control's in the very same rounds."""
    control, other = group = cells("sleep_s=0.001", "sleep_s=0.003")
    interleaving(group).measure()
    assert [len(start.turns) for start in other.starts] == [2, 2, 1, 1]
    assert all(mine.control is theirs.turns for mine, theirs in zip(other.starts, control.starts, strict=True))
    assert (other.found.n_rounds, other.found.n_starts, other.found.stopped_by) == (6, 4, "rounds")
    assert step_ratio(other).low > 1


def test_cells_that_do_not_fit_share_the_control():
    """Each subgroup fits and has the control at its head; nobody is lost, and a pair that is too large is tried."""
    group = cells(*(f"sleep_s=0.00{i}" for i in range(1, 6)))
    for measured in group:
        measured.resident_bytes = 100
    assert subgroups(group, None) == [group]
    control, *others = group
    found = subgroups(group, 400)  # of which four fifths may be taken: three workers
    assert [len(members) for members in found] == [3, 3]
    assert all(members[0] is control for members in found)
    assert [measured for members in found for measured in members[1:]] == others
    assert [len(members) for members in subgroups(group, 10)] == [2, 2, 2, 2]
    assert subgroups([control], 10) == [[control]]


def test_overlapping_subgroups_are_timed():
    """Every cell has its turns and its control's; the control has those of all subgroups."""
    _, *others = group = cells("sleep_s=0.001", "sleep_s=0.002", "sleep_s=0.003", settings=TWO)
    for measured in group:
        measured.resident_bytes = 100
    interleaving(group, available_bytes=10).measure()
    assert [len(measured.starts) for measured in group] == [4, 2, 2]
    assert all(len(start.turns) == len(start.control) for measured in others for start in measured.starts)


def test_a_cell_that_dies_takes_no_other_down(tmp_path):
    """It fails; the others go on without it."""
    behaviours = ("sleep_s=0.001", f"behaviour=while,path={tmp_path / 'flag'}", "sleep_s=0.002")
    control, dying, other = group = cells(*behaviours, settings=TWO)
    (tmp_path / "flag").touch()

    def notify(event: Event) -> None:
        if event.kind == "timing" and "start 1" in event.text:
            (tmp_path / "flag").unlink(missing_ok=True)

    interleaving(group, notify=notify).measure()
    assert dying.failed
    assert "the fake raises" in dying.found.reason
    assert [measured.ok for measured in (control, other)] == [True, True]
    assert len(other.starts) == 2


def test_another_control_begins_anew(tmp_path):
    """What was paired with a control that failed is not mixed with what is paired with the next one."""
    behaviours = (f"behaviour=while,path={tmp_path / 'flag'}", "sleep_s=0.001", "sleep_s=0.002")
    first, second, third = group = cells(*behaviours, settings=TWO)
    (tmp_path / "flag").touch()

    def notify(event: Event) -> None:
        if event.kind == "timing" and "start 1" in event.text:
            (tmp_path / "flag").unlink(missing_ok=True)

    timing = interleaving(group, notify=notify)
    timing.measure()
    assert first.failed
    assert timing.control is second
    assert [len(measured.starts) for measured in group] == [0, 2, 2]
    assert all(mine.control is theirs.turns for mine, theirs in zip(third.starts, second.starts, strict=True))
    assert third.found.n_rounds == 2


def test_without_a_cell_that_works_the_timing_ends():
    """By the budget or by rounds, and with no figure."""
    for settings in (Settings(timeout_s=60, budget_s=1), Settings(timeout_s=60, rounds=3)):
        group = cells("behaviour=raise", "behaviour=crash", settings=settings)
        timing = interleaving(group)
        timing.measure()
        assert timing.control is None
        assert [measured.failed for measured in group] == [True, True]
        assert group[0].found.stopped_by is None


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="without pgrep nobody counts the workers")
def test_an_interruption_leaves_no_worker():
    """Whatever ends the timing ends its workers."""

    def interrupt(event: Event) -> None:
        assert len(workers(os.getpid())) == 2
        raise KeyboardInterrupt(event.text)

    with pytest.raises(KeyboardInterrupt):
        interleaving(cells("sleep_s=0.001", "sleep_s=0.002"), notify=interrupt).measure()
    assert len(workers(os.getpid())) == 0
