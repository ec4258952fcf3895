"""The public functions: what the command does, from a script, with records, verdicts and sentences instead of text."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from commands import nodebench
from synthetic import ENVIRONMENT, OTHER, record

from nodebench import api
from nodebench.bench.request import Request, Settings
from nodebench.errors import PluginError, UnknownNameError, UserError
from nodebench.options import GateOptions, RunOptions, ScaleOptions, meanings
from nodebench.results.store import Store

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
COUNTS = {"backends": [BACKEND], "tasks": [TASK], "measure": "counts", "preset": "smoke"}

SCRIPT = """
print("the script runs")
from nodebench import api

records = api.run(backends=[{backend!r}], tasks=[{task!r}], measure="counts", preset="smoke", store="s.db")
found = api.check("backend", {backend!r})
print(records[0].status, records[0].nfe_forward, {{outcome.state for outcome in found}} <= {{"ok", "skipped"}})
"""


@pytest.fixture(scope="module", name="measured")
def measured_fixture(tmp_path_factory):
    """A store and the records of a run in it, by the function."""
    store = tmp_path_factory.mktemp("api") / "s.db"
    return store, api.run(**COUNTS, rtols=[1e-3, 1e-5], store=store)


def test_records_are_those_that_the_command_stores(measured, capfd):
    """In the order in which they were asked for; nothing is printed."""
    store, records = measured
    assert [(record.status, record.rtol, record.nfe_forward) for record in records] == [
        ("ok", 1e-3, 7),
        ("ok", 1e-5, 7),
    ]
    assert records == Store(store).records()
    assert capfd.readouterr() == ("", "")
    shown = json.loads(nodebench("show", "--json", "--store", store).stdout)
    assert shown == [record.to_dict() for record in records]


def test_the_command_measures_the_same(measured, tmp_path):
    """The same cells with the same counts, under the same plan."""
    store, records = measured
    options = ("-b", BACKEND, "-t", TASK, "--rtol", "1e-3,1e-5", "--measure", "counts", "--preset", "smoke")
    done = nodebench("run", *options, "--store", tmp_path / "c.db", "--json")
    found = json.loads(done.stdout)
    assert [(each["cell_id"], each["nfe_forward"]) for each in found] == [
        (record.cell_id, record.nfe_forward) for record in records
    ]
    assert Store(tmp_path / "c.db").runs()[0].plan == Store(store).runs()[0].plan


def test_a_script_needs_no_guard(tmp_path):
    """Workers and checks are other processes, which do not run the script again."""
    (tmp_path / "study.py").write_text(SCRIPT.format(backend=BACKEND, task=TASK))
    done = subprocess.run(
        [sys.executable, "study.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the script runs\nok 7 True\n"
    assert Store(tmp_path / "s.db").runs()[0].command == "study.py"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ["adjont"], "tasks": ["linear"]}, "did you mean 'adjoint'"),
        ({"backends": "adjoint", "tasks": "linaer"}, "did you mean 'linear'"),
        ({"backends": "adjoint", "tasks": "linear", "preset": "quik"}, "did you mean 'quick'"),
        (
            {"backends": "adjoint", "tasks": "linear", "rtol": 1e-3},
            "unknown option of `run` 'rtol'; did you mean 'rtols'",
        ),
        ({"backends": "adjoint", "tasks": "linear", "rtols": 1e-3}, "`rtols` must be a list"),
        ({"backends": "adjoint", "tasks": "linear", "rounds": 0}, "`--rounds` must be positive"),
        ({"backends": "adjoint", "tasks": "linear", "retries": 2}, "belongs to `--executor ray`"),
        ({"backends": "adjoint", "tasks": "linear", "executor": "slurm"}, "there are: local, ray"),
        ({"backends": "adjoint"}, "name a task"),
    ],
)
def test_what_is_wrong_raises(tmp_path, options, message):
    """Before anything is started, in the sentences of the command."""
    with pytest.raises(UserError, match=message.replace("`", ".")):
        api.run(**options, store=tmp_path / "s.db")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_plugin_raises(tmp_path):
    """Before the others are measured, which the command does."""
    with pytest.raises(PluginError, match="NoSuch"):
        api.run(**{**COUNTS, "backends": [BACKEND, "nodebench.testing:NoSuch"]}, store=tmp_path / "s.db")
    assert list(tmp_path.iterdir()) == []


def test_names_are_lists_or_text_with_commas():
    """Both are kept as tuples, with options in brackets left whole."""
    request = Request(backends="a[x=1,y=2], b", tasks=["c", "d,e"], seeds=[1, 0, 1], rtols=[1e-3])
    assert request.backends == ("a[x=1,y=2]", "b")
    assert request.tasks == ("c", "d", "e")
    assert (request.seeds, request.rtols) == ((1, 0), (1e-3,))
    assert Request(seeds=[]) == Request()


def test_a_scaling_has_records_and_laws(tmp_path):
    """Over batches, whose evaluations do not grow."""
    records, laws = api.scale(
        backends=BACKEND, tasks=TASK, over="batch", values=[2, 4, 8], rounds=1, store=tmp_path / "s.db"
    )
    assert [record.batch_size for record in records] == [2, 4, 8]
    assert {law.quantity for law in laws} == {"memory", "saved", "nfe", "time"}
    with pytest.raises(UnknownNameError, match="did you mean 'steps'"):
        api.scale(backends=BACKEND, tasks=TASK, over="step", store=tmp_path / "s.db")
    with pytest.raises(UserError, match="a scaling measures gradient, untimed, counts"):
        api.scale(backends=BACKEND, tasks=TASK, measure="training", store=tmp_path / "s.db")


def test_a_report_of_records_and_of_runs(measured, tmp_path):
    """Of what was measured, of runs by name, and of all that a store holds; a wrong name raises."""
    store, records = measured
    (page,) = api.report(records, tmp_path / "r.md", store=store)
    assert page.path == tmp_path / "r.md"
    assert BACKEND in page.path.read_text()
    (data,) = api.report(records[:1], tmp_path / "r.json", store=store)
    assert [each["cell_id"] for each in json.loads(data.path.read_text())] == [records[0].cell_id]
    files = api.report("latest", [tmp_path / "a.csv", tmp_path / "a.md"], store=store)
    assert [file.n_bytes > 0 for file in files] == [True, True]
    assert len(api.report(None, str(tmp_path / "all.csv"), store=store)) == 1
    with pytest.raises(UnknownNameError, match="unknown run 'nosuch'"):
        api.report("nosuch", tmp_path / "b.md", store=store)
    with pytest.raises(UserError, match="no store"):
        api.report(None, tmp_path / "b.md", store=tmp_path / "nosuch.db")
    with pytest.raises(UserError, match="has no format"):
        api.report(None, tmp_path / "b.pdf", store=store)


def test_a_gate_compares_runs_and_files(measured, tmp_path):
    """A run with its baseline file, and not with itself; and what is worse is told."""
    store, records = measured
    run_id = records[0].run_id
    with pytest.raises(UserError, match=f"are the same run, {run_id}"):
        api.gate(run_id, "latest", store=store)
    path = tmp_path / "baseline.json"
    assert nodebench("baseline", "save", "-o", path, "--store", store).returncode == 0
    assert api.gate(path, store=store).exit_code == 0
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["nfe_forward"] -= 1
    path.write_text(json.dumps(content))
    gate = api.gate(path, store=store)
    assert gate.exit_code == 1
    assert {finding.metric for finding in gate.of("regression")} == {"nfe_forward"}
    with pytest.raises(UserError, match="name a BASELINE"):
        api.gate(store=store)
    with pytest.raises(UserError, match="no revision"):
        api.gate(against_ref="nosuchrevision", backends=BACKEND, tasks=TASK, store=tmp_path / "s.db")


def test_a_check_gives_its_outcomes():
    """Each as it comes, and all at the end; a wrong kind or name raises."""
    told = []
    found = api.check("backend", BACKEND, told.append)
    assert found == told
    assert {outcome.state for outcome in found} <= {"ok", "skipped"}
    with pytest.raises(UnknownNameError, match="unknown kind of plugin"):
        api.check("solver", "dopri5")
    with pytest.raises(UnknownNameError, match="unknown backend"):
        api.check("backend", "nosuch")


@pytest.mark.parametrize(
    ("function", "options"), [(api.run, RunOptions), (api.scale, ScaleOptions), (api.gate, GateOptions)]
)
def test_parameters_are_the_fields_with_their_meaning(function, options):
    """`help` shows each with its default, and what it means."""
    parameters = inspect.signature(function).parameters
    assert list(parameters) == list(inspect.signature(options).parameters)
    assert {f.name for cls in (Request, Settings) for f in fields(cls)} <= set(parameters)
    assert set(parameters) == set(meanings(options))
    for name, meaning in meanings(options).items():
        assert f"    {name}: {meaning}\n" in function.__doc__


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rtols": ["1e-3"]}, "`rtols` must be a number; got '1e-3'"),
        ({"backends": [1]}, "`backends` must be text; got 1"),
        ({"threads": "1"}, "`threads` must be a whole number; got '1'"),
        ({"threads": True}, "`threads` must be a whole number; got True"),
        ({"seeds": [0.5]}, "`seeds` must be a whole number; got 0.5"),
        ({"store": 3}, "`store` must be text or a path; got 3"),
        ({"shard": 1}, "`shard` must be text; got 1"),
        ({"resume": "yes"}, "`resume` must be True or False; got 'yes'"),
        ({"preset": None}, "`preset` must be text; got None"),
        ({"device": None}, "`device` must be text; got None"),
        ({"executor": 3}, "`executor` must be text; got 3"),
        ({"precision": [1]}, "`precision` must be a number; got [1]"),
    ],
)
def test_a_value_of_another_type_is_a_sentence(wrong, said):
    """It names the parameter and what came; nothing is planned."""
    with pytest.raises(UserError, match=re.escape(said)):
        api.run(**{**COUNTS, **wrong})


@pytest.mark.parametrize("what", [3, [1], [None]])
def test_a_report_of_what_is_neither_record_nor_run_is_a_sentence(measured, what, tmp_path):
    """Nothing is written."""
    with pytest.raises(UserError, match="`what` must be records, or runs by their ids; got"):
        api.report(what, tmp_path / "r.md", store=measured[0])
    assert not list(tmp_path.iterdir())


def test_exponents_of_time_are_of_one_machine(tmp_path):
    """That with most of them; evaluations may come from several."""
    places = [(10, ENVIRONMENT, 1), (20, ENVIRONMENT, 1), (40, ENVIRONMENT, 1), (80, OTHER, 10), (160, OTHER, 10)]
    store = Store(tmp_path / "s.db")
    for n, environment, slow in places:
        key = store.save_environment(environment)
        cell = {"solver": "rk4", "n_accepted": n, "nfe_forward": 4 * n, "nfe_backward": 0, "step_s": slow * n / 1000}
        store.append(record("b", **cell, environment=key, first_step=1 / n))
    options = ScaleOptions(backends=[BACKEND], tasks=[TASK], store=store.path)
    laws = {scaling.quantity: scaling.law for scaling in api.exponents(store.records(), options)}
    assert (laws["time"].n_points, laws["nfe"].n_points) == (3, 5)
    assert laws["time"].exponent == pytest.approx(1)
