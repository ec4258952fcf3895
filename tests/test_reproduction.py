"""Reproductions as declared plans, and how one goes on where it stopped. All but the last need no framework."""

from dataclasses import replace

import pytest
from browser import check_page
from typer.testing import CliRunner

from nodebench.bench.matrix import Request
from nodebench.bench.request import Settings
from nodebench.bench.runner import Runner
from nodebench.cli import app
from nodebench.errors import UnknownNameError, UserError
from nodebench.options import ReproduceOptions
from nodebench.paper import plans, reproductions
from nodebench.paper.parts import settles
from nodebench.paper.plans import (
    REPRODUCTIONS,
    Part,
    Reproduction,
    named,
)
from nodebench.paper.reproductions import answers, continuation
from nodebench.reports.document import Document, number
from nodebench.results.machine import fingerprint
from nodebench.results.record import Record
from nodebench.results.store import Store

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
SMOKE = ReproduceOptions(preset="smoke")
QUICK = Settings(rounds=1, timeout_s=60)
TRAINING = Part("training", (Request(tasks=(TASK,), models=("all",), backends=(BACKEND,), measure="training"),))
COUNTS = Part("counts", (Request(tasks=(TASK,), backends=(BACKEND,), solvers=("dopri5", "bosh3"), measure="counts"),))


def measure(store, part, notify=print):
    """Measure what the store does not hold of a part, and give the ids of what it held."""
    planned, environment = part.plan(SMOKE), fingerprint()
    found = {key for key, record in answers(store, planned, environment).items() if settles(record, planned.measure)}
    how = continuation(store, planned, environment)
    Runner(store, QUICK, notify).run(planned, "test", environment, how, found)
    return found


def interruption(cell_number):
    """A `notify` that interrupts the training of the so-and-so-manieth cell."""
    seen = []

    def notify(event):
        if event.kind == "training" and event.cell not in seen:
            seen.append(event.cell)
            if len(seen) == cell_number:
                raise KeyboardInterrupt

    return notify


@pytest.mark.parametrize("preset", ["smoke", "quick", "standard", "paper"])
@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_declared_plans_are_valid(name, preset):
    """Every part of every reproduction is a plan at every preset, and has cells."""
    for part in REPRODUCTIONS[name].parts:
        planned = part.plan(ReproduceOptions(preset=preset))
        assert planned.cells
        assert {cell.preset for cell in planned.cells} == {preset}


def test_seeds_are_for_trainings():
    """Each seed trains; counts, memory and time are taken at the first."""
    conditions = ReproduceOptions(seeds=(3, 4))
    trained, *others = (part.plan(conditions) for part in REPRODUCTIONS["table1"].parts)
    assert {cell.seed for cell in trained.cells} == {3, 4}
    assert [{cell.seed for cell in plan.cells} for plan in others] == [{3}, {3}]


def test_reproductions_share_their_cells():
    """What two of them show is one plan, and the trained ODE-Net of figure 3 is that of table 1."""
    plans = {name: [part.plan(SMOKE) for part in found.parts] for name, found in REPRODUCTIONS.items()}
    assert [p.plan_id for p in plans["table1"]] == [p.plan_id for p in plans["table3"]]
    assert [p.plan_id for p in plans["table2"]] == [p.plan_id for p in plans["figure8"]]
    ids = [{cell.cell_id for cell in plans[name][0].cells} for name in ("figure3", "table1")]
    assert ids[0] < ids[1]


def test_all_is_each_once():
    """`all` stands for every reproduction, and naming one twice changes nothing."""
    assert named(["figure8", "all", "table1"]) == [
        REPRODUCTIONS["figure8"],
        *(found for name, found in REPRODUCTIONS.items() if name != "figure8"),
    ]


def test_an_unknown_name_answers_with_near_ones():
    """A mistyped name is an error that tells what was meant."""
    with pytest.raises(UnknownNameError, match="did you mean 'figure3'"):
        named(["figur3"])


def test_what_is_in_the_store_is_not_measured_again(tmp_path):
    """A second reproduction finds the cells of the first, and a run of a wider plan measures the others alone."""
    store = Store(tmp_path / "r.db")
    narrow = Part("training", (Request(tasks=(TASK,), models=("constant",), measure="training"),))
    assert measure(store, narrow) == set()
    assert len(measure(store, TRAINING)) == 1
    assert [(run.n_cells, run.n_records) for run in store.runs()] == [(1, 1), (1, 1)]
    assert len(measure(store, TRAINING)) == 2
    assert len(store.records()) == 2


def test_figures_of_another_machine_are_measured_again(tmp_path):
    """Only what was measured under the same conditions counts as measured."""
    store, planned = Store(tmp_path / "r.db"), TRAINING.plan(SMOKE)
    Runner(store, QUICK, print).run(planned, "test", fingerprint() | {"cpu": "abacus"})
    assert answers(store, planned, fingerprint()) == {}
    assert len(answers(store, planned)) == 2


def test_another_measurement_of_a_cell_is_no_answer(tmp_path):
    """Counted evaluations say nothing of a training of the same cell."""
    store = Store(tmp_path / "r.db")
    measure(store, COUNTS)
    trained = Part("training", (Request(tasks=(TASK,), backends=(BACKEND,), measure="training"),))
    planned = trained.plan(SMOKE)
    assert {cell.cell_id for cell in planned.cells} < {record.cell_id for record in store.records()}
    assert answers(store, planned) == {}


def test_an_interrupted_reproduction_goes_on(tmp_path):
    """After an interruption the same call measures what is missing, in the same run."""
    store = Store(tmp_path / "r.db")
    with pytest.raises(KeyboardInterrupt):
        measure(store, TRAINING, interruption(2))
    assert [(run.n_records, run.finished_at) for run in store.runs()] == [(1, None)]
    measure(store, TRAINING)
    assert len(store.runs()) == 1
    assert store.runs()[0].finished_at is not None
    assert [record.status for record in store.records()] == ["ok", "ok"]


def test_an_interrupted_run_of_another_machine_is_left_alone(tmp_path):
    """Where machine or software have changed since the interruption, a new run is begun."""
    store, planned = Store(tmp_path / "r.db"), TRAINING.plan(SMOKE)
    with pytest.raises(KeyboardInterrupt):
        Runner(store, QUICK, interruption(1)).run(planned, "test", fingerprint() | {"cpu": "abacus"})
    assert continuation(store, planned, fingerprint()) == "new"
    assert continuation(store, planned, fingerprint() | {"cpu": "abacus"}) == "resume"


def test_counts_are_counts_alone(tmp_path):
    """`counts` has evaluations, VJPs and steps of every cell, and neither error nor memory nor time."""
    store = Store(tmp_path / "r.db")
    measure(store, COUNTS)
    for record in store.records():
        assert (record.status, record.nfe_forward, record.nfe_backward, record.n_vjps) == ("ok", 7, 5, 3)
        assert (record.n_accepted, record.n_rejected) == (1, 0)
        assert (record.grad_error_params, record.peak_memory_bytes, record.step_s) == (None, None, None)
    assert {record.solver for record in store.records()} == {"dopri5", "bosh3"}


@pytest.fixture
def fake(monkeypatch):
    """A reproduction that needs no framework, one of whose cells fails."""

    def install(options="sleep_s=0.001"):
        backends = (BACKEND, f"{BACKEND}[{options}]")
        counted = Part("counts", (Request(tasks=(TASK,), backends=backends, measure="counts"),))
        declared = Reproduction("fake", "Fakes", "none.none", (TRAINING, counted))
        monkeypatch.setattr(plans, "REPRODUCTIONS", {"fake": declared})

    return install


def reproduce(*arguments):
    """Call the command in this process."""
    return CliRunner().invoke(app, ["reproduce", *arguments], catch_exceptions=False)


def test_dry_run_tells_what_is_there(tmp_path, fake):
    """`--dry-run` lists what would be measured, starts nothing and makes no store."""
    fake()
    done = reproduce("fake", "--dry-run", "--preset", "smoke", "--store", str(tmp_path / "r.db"))
    assert done.exit_code == 0
    assert "training: 2 of 2 cells to be measured" in done.output
    assert "counts: 2 of 2 cells to be measured" in done.output
    assert list(tmp_path.iterdir()) == []


def shown(monkeypatch):
    """A page for the fake: its title is how much was measured."""

    def page(source):
        measured = [place for part in source.places.values() for place in part if place.measured is not None]
        return Document(f"{len(measured)} measured", (), (), ())

    monkeypatch.setattr(reproductions, "page_of", page)


def test_a_reproduction_ends_in_a_page_and_goes_on(tmp_path, monkeypatch, fake):
    """A cell that fails ends nothing: the page is written, the exit code 1, and only that cell is measured again."""
    shown(monkeypatch)
    fake("behaviour=until,path=" + str(tmp_path / "mended"))
    arguments = ("fake", "--preset", "smoke", "--store", str(tmp_path / "r.db"), "-o", str(tmp_path / "page.md"))
    first = reproduce(*arguments)
    assert first.exit_code == 1
    assert "3 measured" in (tmp_path / "page.md").read_text()
    (tmp_path / "mended").touch()
    second = reproduce(*arguments)
    assert second.exit_code == 0
    assert "4 measured" in (tmp_path / "page.md").read_text()
    runs = Store(tmp_path / "r.db").runs()
    assert [(run.n_cells, run.n_records) for run in runs] == [(2, 2), (2, 2), (1, 1)]
    assert {run.made_by for run in runs} == {"reproduce"}
    third = reproduce(*arguments)
    assert (third.exit_code, len(Store(tmp_path / "r.db").runs())) == (0, 3)


def test_an_interruption_exits_with_130_and_the_same_command_goes_on(tmp_path, monkeypatch, fake):
    """Ctrl-C says how to go on; then the same command finishes the same run."""
    shown(monkeypatch)
    fake()
    arguments = ("fake", "--preset", "smoke", "--store", str(tmp_path / "r.db"), "-o", str(tmp_path / "page.md"))
    finish = Store.append
    monkeypatch.setattr(Store, "append", interrupted_after(finish))
    stopped = reproduce(*arguments)
    assert stopped.exit_code == 130
    assert "interrupted; continue with the same command" in stopped.output
    monkeypatch.setattr(Store, "append", finish)
    assert reproduce(*arguments).exit_code == 0
    assert [(run.n_cells, run.n_records) for run in Store(tmp_path / "r.db").runs()] == [(2, 2), (2, 2)]


def test_a_training_whose_time_was_over_goes_on_when_it_is_asked_for_again(tmp_path, monkeypatch):
    """In a run of its own, from where it was stopped."""
    shown(monkeypatch)
    slow = Request(tasks=(f"{TASK}[train_sleep_s=0.05]",), models=("constant",), measure="training")
    declared = Reproduction("fake", "Fakes", "none.none", (Part("training", (slow,)),))
    monkeypatch.setattr(plans, "REPRODUCTIONS", {"fake": declared})
    arguments = ("fake", "--preset", "smoke", "--store", str(tmp_path / "r.db"), "-o", str(tmp_path / "page.md"))
    assert reproduce(*arguments, "--timeout-s", "1.2").exit_code == 1
    assert reproduce(*arguments).exit_code == 0
    stopped, ended = Store(tmp_path / "r.db").records()
    assert (stopped.status, ended.status, stopped.run_id == ended.run_id) == ("timeout", "ok", False)
    assert any("went on from its checkpoint after step" in note for note in ended.notes)


def interrupted_after(append):
    """A `Store.append` that is interrupted once the record is written."""

    def interrupted(self, record, plots=()):
        append(self, record, plots)
        raise KeyboardInterrupt

    return interrupted


def test_without_running_any_machine_will_do(tmp_path, monkeypatch, fake):
    """`--no-run` measures nothing and takes what the store has of another machine."""
    shown(monkeypatch)
    fake()
    part = plans.REPRODUCTIONS["fake"].parts[0]
    Runner(Store(tmp_path / "r.db"), QUICK, print).run(part.plan(SMOKE), "test", fingerprint() | {"cpu": "abacus"})
    page = tmp_path / "page.md"
    done = reproduce("fake", "--no-run", "--preset", "smoke", "--store", str(tmp_path / "r.db"), "-o", str(page))
    assert done.exit_code == 0
    assert "2 measured" in page.read_text()
    assert len(Store(tmp_path / "r.db").runs()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tabel2",), "did you mean 'table2'"),
        (("table2", "--preset", "quik"), "did you mean 'quick'"),
        (("table2", "--seed", "one"), "`--seed` must be a whole number"),
        (("table2", "--threads", "0"), "`--threads` must be at least 1"),
        (("table2", "--no-run", "--dry-run"), "leave one out"),
        (("table2", "--no-run", "--store", "nosuchstore.db"), "there is no store"),
        (("table2", "-o", "page.csv"), "no format that a report is written in"),
        (("table2", "-o", "/proc/page.html", "--dry-run"), "nothing can be written in the folder `/proc`"),
        (("table2", "figure8", "-o", "nosuchfolder/page.html", "--dry-run"), "there is no folder `nosuchfolder`"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_started(arguments, message):
    """Each wrong name, number or file is one clear error."""
    with pytest.raises(UserError, match=message):
        reproduce(*arguments)


def test_a_page_of_several_that_cannot_be_written_is_told_before_anything_is_started(tmp_path):
    """The file that each of several reproductions has is looked at, not the one that was named."""
    (tmp_path / "page-figure8.md").mkdir()
    with pytest.raises(UserError, match=r"page-figure8\.md` is a folder"):
        reproduce("table2", "figure8", "--dry-run", "-o", str(tmp_path / "page.md"))


def test_several_reproductions_have_a_page_each(tmp_path, monkeypatch):
    """The name of each is added to the file that was asked for."""
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "r.db")
    done = reproduce("table2", "figure8", "--no-run", "--store", "r.db", "-o", "page.md")
    assert done.exit_code == 0
    assert {path.name for path in tmp_path.glob("*.md")} == {"page-table2.md", "page-figure8.md"}


def test_a_real_reproduction_is_seen(tmp_path, monkeypatch, browser):
    """Flows of a few steps, measured in earnest: the page has the figures and plots, and holds in a browser.

    Of the two data sets one, since the other is trained by the same code.
    """
    pytest.importorskip("torch")
    declared = REPRODUCTIONS["figure5"]
    [request] = declared.parts[0].requests
    part = replace(declared.parts[0], requests=(replace(request, tasks=request.tasks[:1]),))
    monkeypatch.setitem(REPRODUCTIONS, "figure5", replace(declared, parts=(part,)))
    page = tmp_path / "figure5.html"
    arguments = ("--preset", "smoke", "--store", str(tmp_path / "r.db"), "-o", str(page))
    done = reproduce("figure5", *arguments)
    assert done.exit_code == 0, done.output
    records = Store(tmp_path / "r.db").records()
    assert [record.status for record in records] == ["ok", "ok"]
    text = page.read_text()
    for record in records:
        assert number(record.metric_value, 4) in text
    check_page(browser, page)


@pytest.mark.parametrize(
    ("figures", "is_answer"),
    [
        ({"status": "ok", "grad_norm_y0": 1.0}, True),
        ({"status": "ok", "nfe_forward": 7}, False),
        ({"status": "wrong_gradient"}, True),
        ({"status": "timeout"}, False),
    ],
)
def test_a_wrong_gradient_is_an_answer_to_how_wrong_it_is(figures, is_answer):
    """It is not measured again; what came to no end is, what was asked for counts alone, and a training that failed."""
    record = Record(run_id="r", created_at="now", nodebench_version="0", cell_id="c", task="t", model="m", **figures)
    assert settles(record, "untimed") is is_answer
    assert not settles(record, "training")
