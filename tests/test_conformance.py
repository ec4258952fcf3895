"""Every backend and task of ours does what it must, and each fault of a plugin is found and told in a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import nodebench

from nodebench import registry
from nodebench.conformance import backend_checks, task_checks
from nodebench.conformance.check import CheckOutcome, outcomes
from nodebench.conformance.task import MODEL_CHECKS
from nodebench.printing import print_checks

FAULTY = Path(__file__).with_name("faulty_plugins.py")
NAMES = registry.names("backend")
TORCH = [name for name in NAMES if registry.describe("backend", name).framework == "torch"]

# A check of a JAX backend compiles for seconds; `test_jax_backends.py` has them at fewer programs.
CHEAP = ("it can be loaded", "it declares itself", "it says beforehand what it cannot do")
BACKENDS = [(n, check) for n in NAMES for check in backend_checks(n) if n in TORCH or check.name in CHEAP]
COMPILED = ("its states are the solution", "nan ends cleanly")
BACKENDS += [("diffrax", check) for check in backend_checks("diffrax") if check.name in COMPILED]

DATA = {"mnist": "mnist[dataset=digits]"}
TASKS = [
    (name, check)
    for name in [*registry.names("task"), "nodebench.testing:FakeTask"]
    if not registry.describe("task", name).required
    for check in task_checks(DATA.get(name, name))
    if check.body not in MODEL_CHECKS or name in ("linear", "nodebench.testing:FakeTask")
]


@pytest.mark.parametrize(("name", "check"), BACKENDS, ids=[f"{name}-{check}" for name, check in BACKENDS])
def test_every_backend_conforms(name, check):
    """Each check of each of our backends."""
    pytest.importorskip(registry.describe("backend", name).framework)
    check()


@pytest.mark.parametrize(("name", "check"), TASKS, ids=[f"{name}-{check}" for name, check in TASKS])
def test_every_task_conforms(name, check):
    """Each check of each of our tasks that is not made of their models elsewhere."""
    assert name
    check()


def _found(checks, name):
    (check,) = (check for check in checks if check.name == name)
    return check.outcome()


BACKEND_FAULTS = [
    ("Wordy", "it declares itself", "its `memory_exponent` is 'linear'; it must be a number, or None."),
    ("Claiming", "what is on the tape is differentiated", "its gradient of a tensor that is no parameter"),
    ("WrongSign", "its gradients are the closed form", "gradient of y0 is wrong by 2, where 0.01 is allowed"),
    ("Coarse", "its gradients are the closed form", "at rtol 1e-08, step 0.05 its gradient of y0 is wrong"),
    ("Timeless", "its gradients are right where the field depends on time", "of a field that depends on time"),
    ("OneShape", "its states are the solution", "must return states of shape (3, 2, 3), the output times first; got"),
    ("Mutating", "what it is handed stays as it was", "`solve` changed the y0 that it was handed."),
    ("Remembering", "it keeps no state between calls", "change after it has solved another"),
    ("Remembering", "a tuple is a state like an array", "it raises TypeError: can't multiply sequence"),
    ("Hiding", "its evaluations are counted", "no evaluation of the field is seen"),
    ("Promoting", "float32 stays float32", "it returns loss in float64"),
    ("Whitewashing", "nan ends cleanly", "answers with the loss 0 and gradients, as if it had succeeded"),
    ("Whitewashing", "the step limit is kept", "answers with the loss 0 and gradients, as if it had succeeded"),
    ("Endless", "nan ends cleanly", "evaluates the field without end"),
]

TASK_FAULTS = [
    ("Drifting", "its data follow from the seed", "train data differ from one call to the next"),
    ("Leaking", "its parts share no example", "its train and test data have 40 examples in common"),
    ("OtherWeights", "its gradient problem is fixed", "are not those of its `weights`"),
    ("Greedy", "its recipes fit its data", "the batch of `growth` under `smoke` is 41, of 40 examples"),
    ("WrongForm", "its closed form is right", "the closed form and model `growth` in fake differ in the loss by"),
]


@pytest.mark.parametrize(("fault", "name", "sentence"), BACKEND_FAULTS, ids=[f"{f[0]}-{f[1]}" for f in BACKEND_FAULTS])
def test_a_fault_of_a_backend_is_told(fault, name, sentence):
    """The check that is about it fails, with a sentence that says what the backend does."""
    outcome = _found(backend_checks(f"{FAULTY}:{fault}"), name)
    assert outcome.state == "failed"
    assert sentence in outcome.reason


@pytest.mark.parametrize(("fault", "name", "sentence"), TASK_FAULTS, ids=[fault[0] for fault in TASK_FAULTS])
def test_a_fault_of_a_task_is_told(fault, name, sentence):
    """The check that is about it fails, with a sentence that says what the task does."""
    outcome = _found(task_checks(f"{FAULTY}:{fault}"), name)
    assert outcome.state == "failed"
    assert sentence in outcome.reason


LINE = next(n for n, line in enumerate(FAULTY.read_text().splitlines(), start=1) if "slove" in line)
ONE_FAULT = {
    "Raising": (
        f"it raises AttributeError: 'Direct' object has no attribute 'slove' ({FAULTY}, line {LINE}).",
        12,
    ),
    "OneShape": ("solve must return states of shape (3, 2, 3), the output times first; got (1, 2, 3).", 10),
    "WrongSign": ("at rtol 0.0001, step 0.05 its gradient of y0 is wrong by 2, where 0.01 is allowed.", 5),
    "Halving": ("the states that solve returns are wrong by ", 6),
    "Leaking": ("its train and test data have 40 examples in common.", 1),
}
"""Plugins by name: what is told of their one fault, and how many checks fail for it."""


@pytest.mark.parametrize("fault", ONE_FAULT)
def test_one_fault_is_told_once_and_first(fault, capsys):
    """However many checks it makes fail: the cause is the second line, then those, then all that hold."""
    kind = task_checks if fault == "Leaking" else backend_checks
    found = [check.outcome() for check in kind(f"{FAULTY}:{fault}")]
    print_checks(f"plugin {fault}", found)
    title, cause, first, *others = capsys.readouterr().out.splitlines()
    sentence, n_failed = ONE_FAULT[fault]
    skipped = ", 1 not made" * (fault == "Leaking")
    assert title == f"plugin {fault}: {n_failed} of {len(found)} checks failed{skipped}, for one reason"
    assert cause.startswith(f"failed: {sentence}")
    failed, told = [each for each in found if each.state == "failed"], " ".join(" ".join(others).split())
    assert first.startswith(f"  {failed[0].check}: ")
    assert len({each.cause for each in failed}) == 1
    assert all(each.check in told for each in found if each is not failed[0])
    assert "failed:" not in told


def test_the_fault_that_fails_most_comes_first(capsys):
    """A fault of its own has a line of its own; what was not checked for one reason stands together."""
    rows = [("a", "failed", "no."), ("b", "skipped", "none."), ("c", "failed", "it is 3."), ("d", "failed", "it is 4.")]
    rows += [("e", "skipped", "none."), ("f", "ok", "")]
    found = [CheckOutcome(name, f"{name}!", state, why, why.strip("34.")) for name, state, why in rows]
    print_checks("plugin", [CheckOutcome("load", "It loads.", "ok"), *found])
    assert capsys.readouterr().out.splitlines() == [
        "plugin: 3 of 7 checks failed, 2 not made, for 2 reasons",
        "failed: it is 3.", "  c: c!", "  and with it: d", "failed: no.", "  a: a!", "not checked: none.", "  b; e",
        "ok: load; f",
    ]  # fmt: skip


def test_what_cannot_be_loaded_is_told_so(capsys):
    """Nothing else was checked, which the first line says, and the second one why."""
    print_checks("plugin", [CheckOutcome("it can be loaded", "It is one.", "failed", "no (a.py, line 3).", "no")])
    assert capsys.readouterr().out.splitlines()[:2] == [
        "plugin: it cannot be loaded, and nothing else was checked", "failed: no (a.py, line 3)."
    ]  # fmt: skip


def test_weights_may_be_constants():
    """What is initialised with numbers instead of random ones is the same for every seed."""
    assert _found(task_checks(f"{FAULTY}:Constant"), "its weights follow from the seed").state == "ok"


def test_what_ends_the_process_fails_its_check_alone():
    """The checks after one that crashes are made as ever."""
    found = {outcome.check: outcome for outcome in outcomes(backend_checks(f"{FAULTY}:Crashing"))}
    assert list(found) == [check.name for check in backend_checks(f"{FAULTY}:Crashing")]
    assert "exit code 7" in found["its gradients are right backwards in time"].reason
    assert found["its steps are told in order"].state == "ok"


def test_what_does_not_end_fails_its_check():
    """A check that is given no time is one that does not end."""
    first = next(outcomes(backend_checks("direct"), limit_s=0.0))
    assert (first.state, first.reason) == ("failed", "it does not end within 0 s.")


def _check(*arguments, **environment):
    command = [sys.executable, "-m", "nodebench", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment or None)


def test_check_prints_outcomes_and_exits_with_0():
    """All that applies to the fake task holds; `--json` has each check with its meaning."""
    done = _check("task", "nodebench.testing:FakeTask", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {outcome["state"] for outcome in found} == {"ok", "skipped"}
    assert all(outcome["meaning"].endswith(".") for outcome in found)


def test_check_exits_with_1_where_something_failed():
    """The table names the check and what the task does."""
    done = nodebench("check", "task", f"{FAULTY}:Leaking")
    assert done.returncode == 1
    assert "40 examples in common" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backend", "drect"), "did you mean 'direct'"),
        (("task", "linaer"), "did you mean 'linear'"),
        (("backends", "direct"), "did you mean 'backend'"),
        (("backend", "./nosuchfile.py:Mine"), "nosuchfile.py"),
    ],
)
def test_check_of_what_there_is_not_exits_with_2(arguments, message):
    """A mistyped name answers with the near ones."""
    done = nodebench("check", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_a_plugin_that_cannot_be_loaded_is_told_once(tmp_path):
    """A missing library is the one outcome, with the command that installs it."""
    file = tmp_path / "mine.py"
    file.write_text('import nosuchlibrary\n\nclass Mine:\n    """Mine."""\n    framework = "torch"\n')
    done = nodebench("check", "backend", f"{file}:Mine", "--json")
    assert done.returncode == 1
    (outcome,) = json.loads(done.stdout)
    assert (outcome["state"], outcome["check"]) == ("skipped", "it can be loaded")
    assert "pip install nosuchlibrary" in outcome["reason"]


WITHOUT_JAX = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] == "jax" else find(name, *more)
"""


def test_a_missing_framework_is_told_with_its_command(tmp_path):
    """Nothing is checked, nothing crashes, and the command that installs it is named."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_JAX)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = _check("backend", "diffrax", "--json", **{**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 1
    (outcome,) = json.loads(done.stdout)
    assert outcome["state"] == "skipped"
    assert "pip install 'nodebench[jax]'" in outcome["reason"]
