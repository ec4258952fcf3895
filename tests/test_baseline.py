"""A baseline is a small file that reads as it was written, and rises only where something has become better."""

import json
from dataclasses import replace

import pytest

from nodebench.bench.matrix import Request, plan
from nodebench.bench.runner import settings_of
from nodebench.errors import StoreError, UserError
from nodebench.gating.baseline import (
    Baseline,
    BaselineCell,
    find,
    loads,
    of_benchmarks,
    own_baseline,
    read_baseline,
    read_file,
    save_baseline,
)
from nodebench.gating.compare import compare, update
from nodebench.gating.gate import compared, update_baseline
from nodebench.gating.thresholds import Thresholds
from nodebench.options import GateOptions
from nodebench.results.machine import environment_key
from nodebench.results.record import Record
from nodebench.results.store import Store

HERE = {"cpu": "one", "libraries": {"torch": "2"}}
THERE = {"cpu": "two"}
ENVIRONMENTS = {environment_key(each): each for each in (HERE, THERE)}


def record(cell_id, **fields):
    common = {
        "run_id": "r1",
        "created_at": "now",
        "nodebench_version": "0",
        "task": "linear",
        "model": "linear",
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "seed": 0,
        "preset": "smoke",
        "solver": "dopri5",
        "rtol": 1e-3,
        "environment": environment_key(HERE),
    }
    return Record(**{**common, "cell_id": cell_id, "backend": cell_id, "status": "ok", "nfe_forward": 7, **fields})


def elsewhere(cell_id, **fields):
    """A record of another machine."""
    return record(cell_id, environment=environment_key(THERE), **fields)


def baseline(*records):
    return Baseline.from_records("old", records, ENVIRONMENTS)


def updated(old, new, **options):
    return update(old, new, compare(old, new, Thresholds()), **options)


def cell(**figures):
    """A cell as a file has it."""
    return {"cell_id": "a", "task": "t", "model": "m", **figures}


def test_a_baseline_reads_as_it_was_written():
    """All figures, statuses and machines, whatever order the cells came in."""
    field = {"field_value": 0.12345678912, "field_derivative": -3.0}
    cells = [
        record("b", ratio=1.23456789, grad_error_params=1.23456e-5, **field),
        record("a", status="oom", reason="no room."),
    ]
    one, other = baseline(*cells), baseline(*reversed(cells))
    assert one.dumps() == other.dumps()
    read = loads("old", json.loads(one.dumps()))
    assert read == one
    assert list(read.cells) == ["a", "b"]
    assert (read.cells["b"].field_value, read.cells["a"].field_value) == (0.123456789, None)
    assert (read.cells["b"].ratio, read.cells["b"].grad_error_params) == (1.235, 1.23e-5)


def test_cells_of_several_machines_have_the_fingerprint_of_their_own():
    """So that a comparison says which of them differ; what no cell is from is not kept."""
    both = baseline(record("a"), elsewhere("b"))
    assert [both.environments[both.cells[name].environment] for name in ("a", "b")] == [HERE, THERE]
    assert baseline(record("a")).environments == {environment_key(HERE): HERE}
    assert compare(both, baseline(record("a"), record("b")), Thresholds()).unlike == (
        "cpu: two against one",
        "libraries.torch: None against 2",
    )
    with pytest.raises(StoreError, match="the record of cell a in run r1 should name a fingerprint"):
        Baseline.from_records("old", [record("a")], {})


def test_a_cell_is_one_block_and_a_figure_one_line():
    """What was not measured has no line; a change of one figure is a change of one line."""
    one, other = baseline(record("a")).dumps(), baseline(record("a", nfe_forward=8)).dumps()
    assert "null" not in one
    assert "nfe_backward" not in one
    changed = [pair for pair in zip(one.splitlines(), other.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [('      "nfe_forward": 7,', '      "nfe_forward": 8,')]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not a baseline"),
        ({"schema": 99, "cells": []}, "has schema 99, this nodebench knows 1"),
        ({"schema": 1, "cells": [{"cell_id": "a"}]}, "is damaged at `0.task`"),
        ({"schema": 1, "cells": [{"cell_id": "a", "task": "t", "model": "m", "nfe": 3}]}, "is damaged at `0.nfe`"),
        ({"schema": 1, "cells": [cell(grad_error_y0=float("nan"))]}, "at `0.grad_error_y0`: Input should be a finite"),
        ({"schema": 1, "cells": [cell(ratio_low=0.0)]}, "is damaged at `0.ratio_low`"),
        ({"schema": 1, "cells": [cell(), cell(nfe_forward=1)]}, "has the cell a, t/m, more than once"),
    ],
)
def test_what_is_no_baseline_is_refused(content, message):
    """With the file and what is wrong with it."""
    with pytest.raises(UserError, match=message):
        loads("f.json", content)


def test_a_baseline_of_another_spelling_is_of_the_same_cells():
    """Options at their defaults are left out of what a file names, and a file that names a cell twice keeps both."""
    [new] = plan(Request(backends=("adjoint",), tasks=("linear",))).cells
    old = replace(new, backend="adjoint[land=false,norm=full]")
    content = [vars(settings_of(each)) | {"control": each.backend} for each in (old, new)]
    [(cell_id, read)] = loads("b", {"schema": 1, "cells": content[:1]}).cells.items()
    assert (cell_id, read.cell_id, read.backend, read.control) == (new.cell_id, new.cell_id, "adjoint", "adjoint")
    assert [*loads("b", {"schema": 1, "cells": content}).cells] == [old.cell_id, new.cell_id]


def test_improvements_and_new_cells_are_taken_over():
    """And nothing else: what is a little worse within its band stays as it was, so that a baseline does not creep."""
    old = baseline(record("a", peak_memory_bytes=10**7), record("b"))
    new = baseline(
        elsewhere("a", nfe_forward=6, peak_memory_bytes=10**7 + 1000),
        elsewhere("b", nfe_forward=8),
        elsewhere("c"),
    )
    found = updated(old, new)
    cells = found.baseline.cells
    assert (cells["a"].nfe_forward, cells["a"].peak_memory_bytes) == (6, 10**7)
    assert cells["b"].nfe_forward == 7
    assert cells["c"] == new.cells["c"]
    assert [(finding.cell.cell_id, finding.metric) for finding in found.taken] == [("a", "nfe_forward"), ("c", "cell")]
    assert [finding.cell.cell_id for finding in found.left] == ["b"]
    assert found.baseline.environments[cells["a"].environment] == THERE
    assert loads("old", json.loads(found.baseline.dumps())).cells == cells


def test_a_ratio_is_taken_over_with_its_interval_and_control():
    """Never one without the others."""
    times = {"step_s": 1.0, "n_starts": 4, "control": "c"}
    old = baseline(record("a", ratio=2.0, ratio_low=1.99, ratio_high=2.01, **times))
    new = baseline(record("a", ratio=1.0, ratio_low=0.99, ratio_high=1.01, **times))
    cell = updated(old, new).baseline.cells["a"]
    assert (cell.ratio, cell.ratio_low, cell.ratio_high, cell.control) == (1.0, 0.99, 1.01, "c")


def test_a_cell_that_works_again_is_taken_over_whole():
    """Its figures come with its status."""
    old, new = baseline(record("a", status="oom", reason="no room.", nfe_forward=None)), baseline(record("a"))
    assert updated(old, new).baseline.cells["a"] == new.cells["a"]


def test_regressions_are_taken_over_only_when_accepted():
    """They are then the baseline's figures, and nothing is left."""
    old, new = baseline(record("a")), baseline(record("a", nfe_forward=8))
    assert updated(old, new).baseline.cells == old.cells
    accepted = updated(old, new, accept_regressions=True)
    assert (accepted.baseline.cells["a"].nfe_forward, accepted.left) == (8, ())


def test_a_name_is_a_file_or_a_run(tmp_path):
    """A file that is not there is no run; a run is found by the beginning of its id."""
    store = Store(tmp_path / "r.db")
    store.start_run("r1", "test", "plan", HERE, 1)
    store.save_environment(HERE)
    store.append(record("a"))
    path = tmp_path / "b.json"
    path.write_text(baseline(record("b")).dumps())
    assert list(find("r1", store.path).cells) == ["a"]
    assert find("latest", store.path).environments == baseline(record("a")).environments
    assert list(find(str(path), store.path).cells) == ["b"]
    with pytest.raises(UserError, match="there is no file"):
        find("none.json", store.path)
    path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_file(path)


@pytest.fixture
def two_runs(tmp_path):
    """A store with the runs r1 and r2, of a cell each."""
    store = Store(tmp_path / "r.db")
    store.save_environment(HERE)
    for run_id in ("r1", "r2"):
        store.start_run(run_id, "test", "plan", HERE, 1)
        store.append(record("a", run_id=run_id))
    return store.path


@pytest.mark.parametrize("names", [("latest", "latest"), ("r2", "latest"), ("latest", "r2"), ("r1", "r1")])
def test_a_run_is_not_compared_with_itself(two_runs, names):
    """However the two sides are named; it is said which other there is."""
    before = r", such as r1, the run before it\." if "latest" in names else r"\."
    with pytest.raises(UserError, match=rf"are the same run, r\d; name another run or a .* as BASELINE{before}"):
        compared(GateOptions(old=names[0], new=names[1], store=two_runs))
    assert compared(GateOptions(old="r1", new="r2", store=two_runs)).notes == ()


def test_a_file_is_not_compared_with_itself(two_runs):
    """However its path is written."""
    path = two_runs.parent / "b.json"
    save_baseline(["r1"], path, two_runs)
    again = path.parent / ".." / path.parent.name / path.name
    with pytest.raises(UserError, match="are the same file, `"):
        compared(GateOptions(old=str(path), new=again, store=two_runs))


def test_a_baseline_of_the_very_run_says_so(two_runs):
    """It passes, as what follows upon `baseline save`; another run of the same figures is another measurement."""
    path = two_runs.parent / "b.json"
    save_baseline(["r1"], path, two_runs)
    found = {name: compared(GateOptions(old=path, new=name, store=two_runs)) for name in ("r1", "r2")}
    assert [each.exit_code for each in found.values()] == [0, 0]
    told = f"{path} has figures of r1, the run that it is compared with: of these a pass proves nothing."
    assert found["r1"].notes == (told,)
    assert found["r2"].notes == ()
    assert read_file(path).runs == ("r1",)


OTHERS = {
    "pytest-benchmark": lambda: json.dumps(benchmarks(**BaselineCell.from_record(record("a")).to_dict())),
    "customSmallerIsBetter": lambda: json.dumps([{"name": "a", "unit": "s", "value": 1.0}]),
    "another's": lambda: json.dumps({"schema": 1, "cells": [], "mine": 2}),
    "a notebook": lambda: json.dumps({"cells": [], "metadata": {}, "nbformat": 4}),
    "a number": lambda: "3",
    "text": lambda: "schema nodebench_version cells",
    "bytes": lambda: b"\xff\x00{".decode("latin-1"),
}
"""Files that are no baseline."""


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_a_file_of_another_format_is_never_changed(two_runs, content):
    """Neither by an update that would take something over nor by a save: each byte stays, in a sentence."""
    path = two_runs.parent / "b.json"
    path.write_text(content(), encoding="latin-1")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"b.json` is not "):
        update_baseline(path, "r2", accept_regressions=True, max_slowdown=None, config=None, store=two_runs)
    with pytest.raises(UserError, match=r"is not a baseline of nodebench, and stays as it is; -o names another\."):
        save_baseline(["r1"], path, two_runs)
    assert path.read_bytes() == before


def test_what_pytest_benchmark_wrote_is_shown_and_not_updated(two_runs):
    """It is compared and shown, and would become another format."""
    path = two_runs.parent / "b.json"
    path.write_text(OTHERS["pytest-benchmark"]())
    assert list(read_baseline(path).cells) == ["a"]
    with pytest.raises(UserError, match="stays as it is; `nodebench baseline save -o FILE` writes a baseline"):
        own_baseline(path)


def test_a_baseline_is_written_all_at_once(two_runs, monkeypatch):
    """Over an older one, an empty file or a link, with the mode that is there; where it fails, what was there stays."""
    path, link = two_runs.parent / "b.json", two_runs.parent / "link.json"
    path.touch(mode=0o640)
    link.symlink_to(path)
    save_baseline(["r1"], link, two_runs)
    assert (link.is_symlink(), path.stat().st_mode & 0o777, read_file(path).runs) == (True, 0o640, ("r1",))
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 0'))
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"cannot be written: No space left"):
            save_baseline(["r2"], path, two_runs)
    assert path.read_bytes() == before
    save_baseline(["r2"], path, two_runs)
    assert read_file(path).runs == ("r2",)
    assert {each.name for each in path.parent.iterdir()} >= {"b.json", "link.json"}
    assert not list(path.parent.glob(".b.json*"))
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        save_baseline(["r2"], path.parent, two_runs)


def test_a_baseline_knows_the_runs_that_its_figures_are_from():
    """All that it was saved from and brought up to date with."""
    old, new = baseline(record("a")), baseline(record("a", run_id="r2", nfe_forward=6), record("b", run_id="r2"))
    assert updated(old, new).baseline.runs == ("r1", "r2")
    assert old.joined(new).runs == ("r1", "r2")
    assert loads("old", json.loads(new.dumps())).runs == ("r2",)


STATS = {"min": 0.1, "max": 0.3, "mean": 0.2, "median": 0.2, "rounds": 10}


def benchmarks(**extra):
    """What pytest-benchmark writes of one benchmark, as far as it is read."""
    return {
        "machine_info": {"node": "n", "cpu": {"brand_raw": "one", "count": 2, "hz_actual": [1, 2]}, "system": "Linux"},
        "benchmarks": [{"fullname": "test_a.py::test_a", "extra_info": extra, "stats": STATS}],
        "version": "5.3.1",
    }


def test_pytest_benchmark_is_read():
    """Counters from `extra_info`, the median from `stats`; what else is in `extra_info` is left alone."""
    found = of_benchmarks("p.json", benchmarks(nfe_forward=7, mine="x"))
    cell = found.cells["test_a.py::test_a"]
    assert (cell.nfe_forward, cell.step_s, cell.label) == (7, 0.2, "test_a.py::test_a")
    assert found.environments[cell.environment]["cpu"] == {"brand_raw": "one", "count": 2}


def test_a_cell_in_pytest_benchmark_is_the_cell_of_a_run(tmp_path):
    """Where `extra_info` has its id, the two are compared; times without a ratio are not gated."""
    known = BaselineCell.from_record(record("a", step_s=0.1)).to_dict()
    path = tmp_path / "p.json"
    path.write_text(json.dumps(benchmarks(**known)))
    read = read_file(path)
    assert read.cells["a"].nfe_forward == 7
    slower = replace(read, cells={"a": replace(read.cells["a"], step_s=9.0, nfe_forward=8)})
    found = compare(read, slower, Thresholds())
    verdicts = {finding.metric: finding.verdict for finding in found.findings}
    assert (verdicts["nfe_forward"], verdicts["step_s"]) == ("regression", "undecided")


def test_a_wrong_extra_info_is_refused():
    """With the benchmark and the key."""
    with pytest.raises(UserError, match=r"`extra_info.nfe_forward` of `test_a.py::test_a`"):
        of_benchmarks("p.json", benchmarks(nfe_forward="many"))


def test_a_benchmark_without_a_number_is_refused():
    """NaN is not less than any figure, and not larger either: it must not read as an improvement."""
    with pytest.raises(UserError, match=r"`extra_info.grad_error_params` of .* finite number"):
        of_benchmarks("p.json", benchmarks(grad_error_params=float("nan")))


def test_two_benchmarks_of_one_cell_are_refused():
    """The second would hide the first."""
    content = benchmarks(nfe_forward=7)
    content["benchmarks"] *= 2
    with pytest.raises(UserError, match=r"has the cell test_a.py::test_a, .* more than once"):
        of_benchmarks("p.json", content)


def test_two_tests_of_one_cell_are_compared_each_with_itself():
    """One with a control and one without: the figure that became worse is named in its test."""
    known = BaselineCell.from_record(record("a")).to_dict()
    times = {"ratio": 2.0, "ratio_low": 1.99, "ratio_high": 2.01, "n_starts": 4, "control": "direct"}
    content = benchmarks(**known)
    content["benchmarks"] += benchmarks(**known, **times)["benchmarks"]
    content["benchmarks"][1]["fullname"] = "test_a.py::test_control"
    old = of_benchmarks("p.json", content)
    assert [cell.control for cell in old.cells.values()] == [None, "direct"]
    content["benchmarks"][1]["extra_info"] |= {"ratio": 3.0, "ratio_low": 2.99, "ratio_high": 3.01}
    found = compare(old, of_benchmarks("p.json", content), Thresholds())
    assert [(f.metric, f.cell.test) for f in found.of("regression")] == [("time", "test_a.py::test_control")]
    assert found.of("regression")[0].cell.label == "linear/linear/a dopri5 rtol 0.001 in test_a.py::test_control"
    assert (found.n_compared, found.of("missing", "new", "incomparable")) == (2, [])
    assert loads("old", json.loads(old.dumps())).cells == old.cells


def test_a_file_that_only_looks_like_one_of_pytest_benchmark_is_refused(tmp_path):
    """It is neither that nor a baseline."""
    path = tmp_path / "p.json"
    for content in ({"benchmarks": None, "machine_info": {}}, {"benchmarks": [1], "machine_info": {}}):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="is not a baseline"):
            read_file(path)


def test_what_comes_with_a_status_is_not_told_as_left():
    """A cell that works again is taken over whole, with a counter that is worse than the failed one's."""
    old, new = baseline(record("a", status="wrong_gradient", reason="wrong.")), baseline(record("a", nfe_forward=8))
    found = updated(old, new)
    assert found.baseline.cells["a"].nfe_forward == 8
    assert [finding.metric for finding in found.taken] == ["status", "nfe_forward"]
    assert found.left == ()
