"""A comparison is told to people and to programs, each in their form."""

import json
import re
from dataclasses import replace
from io import StringIO
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from nodebench.errors import UserError
from nodebench.gating.baseline import Baseline, BaselineCell
from nodebench.gating.compare import compare
from nodebench.gating.outputs import check_output, gate_entries, gate_junit, gate_markdown, gate_table, write_gate
from nodebench.gating.thresholds import Thresholds
from nodebench.printing import print_baseline, print_gate

OLD = BaselineCell(
    cell_id="a",
    environment="old",
    task="linear",
    model="linear",
    backend="adjoint[norm=full]",
    nfe_forward=100,
    grad_error_params=1e-3,
    step_s=0.1,
    ratio=2.0,
    ratio_low=1.9,
    ratio_high=2.1,
    n_starts=4,
    control="direct",
)
WORSE = replace(OLD, environment="new", nfe_forward=1101, grad_error_params=1e-4)
FAILED = replace(OLD, cell_id="b", backend="direct", status="failed", reason="a | b\x1b[0m <broke>.")


def gate(*new, old=(OLD,)):
    return compare(
        Baseline("base.json", {cell.cell_id: cell for cell in old}, {"old": {"cpu": "one"}}),
        Baseline("latest", {cell.cell_id: cell for cell in new}, {"new": {"cpu": "two"}}),
        Thresholds(),
    )


def test_the_table_has_what_changed_worst_first():
    """Counters in full; nothing of what is the same; no table where nothing has changed."""
    console = Console(file=StringIO(), width=200)
    console.print(gate_table(gate(WORSE)))
    text = console.file.getvalue()
    assert text.index("regression") < text.index("improvement")
    assert "linear/linear/adjoint[norm=full]" in text
    assert "1,101" in text
    assert "step_s" not in text
    assert gate_table(gate(OLD)) is None


def test_markdown_is_a_comment_of_a_pull_request():
    """The verdict first, improvements with the way to keep them, machines that differ folded away."""
    text = gate_markdown(gate(WORSE))
    assert text.startswith("### ❌ nodebench: failed: 1 cell compared; 1 regression")
    assert (
        "| regression | `linear/linear/adjoint[norm=full]` | `nfe_forward` | 100 | 1,101 | +1001 (+1001.0%). |" in text
    )
    assert "nodebench baseline update" in text
    assert "- `cpu: one against two`" in text
    assert gate_markdown(gate(OLD)).startswith("### ✅ nodebench: passed")


def test_a_bar_in_a_reason_does_not_break_the_table():
    """It is escaped, and a reason of several lines is one."""
    ok = replace(FAILED, status="ok", reason=None)
    row = next(line for line in gate_markdown(gate(FAILED, old=(ok,))).splitlines() if "`status`" in line)
    assert "a \\| b" in row


def test_junit_has_a_case_for_each_figure(tmp_path):
    """Regressions are failures, what cannot be compared is an error, what is missing is skipped."""
    ok, missing = replace(FAILED, status="ok", reason=None), replace(OLD, cell_id="c", backend="c")
    other = replace(OLD, cell_id="d", backend="d")
    found = gate(WORSE, FAILED, replace(other, control="x"), old=(OLD, ok, missing, other))
    write_gate(found, tmp_path / "sub/gate.xml")
    suite = ET.parse(tmp_path / "sub/gate.xml").getroot()[0]
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": len(found.findings), "failures": 2, "errors": 1, "skipped": 1}
    cases = {(case.get("classname"), case.get("name")): case for case in suite.iter("testcase")}
    assert len(cases) == counts["tests"]
    failure = cases["linear/linear/adjoint[norm=full]", "nfe_forward"].find("failure")
    assert "100 -> 1,101 evaluations" in failure.get("message")
    assert "<broke>" in cases["linear/linear/direct", "status"].find("failure").get("message")
    assert cases["linear/linear/d", "time"].find("error") is not None
    assert cases["linear/linear/c", "cell"].find("skipped") is not None


def test_nothing_to_compare_is_an_error_in_junit(tmp_path):
    """A suite without a case would read as passed."""
    write_gate(gate(), tmp_path / "gate.xml")
    suite = ET.parse(tmp_path / "gate.xml").getroot()[0]
    assert suite.get("errors") == "1"
    assert suite.find("testcase/error").get("message") == "the candidate has no cells."


def test_entries_are_the_candidates_figures(tmp_path):
    """Name, unit, value, range and what the baseline says; cells that were not measured have none."""
    found = gate(WORSE, old=(OLD, replace(OLD, cell_id="c", backend="c")))
    entries = {entry["name"]: entry for entry in gate_entries(found)}
    assert list(entries) == [f"{OLD.label}: {name}" for name in ("grad_error_params", "nfe_forward", "time")]
    nfe, time = entries[f"{OLD.label}: nfe_forward"], entries[f"{OLD.label}: time"]
    assert (nfe["unit"], nfe["value"]) == ("evaluations", 1101)
    assert nfe["extra"].startswith("regression; baseline 100.")
    assert (time["value"], time["range"]) == (2.0, "1.9 to 2.1")
    write_gate(found, tmp_path / "gate.json")
    assert json.loads((tmp_path / "gate.json").read_text()) == list(entries.values())


def test_notes_are_in_every_form(capsys):
    """A rule that holds for nothing is read on a terminal, in a pull request and by programs."""
    found = replace(gate(OLD), notes=("rule 1 in [[gate.rules]] (task <x>) holds for nothing.",))
    print_gate(found)
    assert "note: rule 1 in [[gate.rules]] (task <x>) holds for nothing.\npassed: " in capsys.readouterr().out
    assert r"**Note.** rule 1 in \[\[gate.rules\]\] (task \<x\>) holds" in gate_markdown(found)
    entry = gate_entries(found)[-1]
    assert entry == {"name": "notes", "unit": "notes", "value": 1, "extra": found.notes[0]}
    note = ET.fromstring(gate_junit(found)).find("testsuite/properties/property[@name='note']")
    assert note.get("value") == found.notes[0]
    assert gate_entries(gate(OLD))[-1]["name"] != "notes"


LONG = "./methods/of_mine.py:ReversibleHeun[coupling=0.999,norm=seminorm,checkpoints=64,max_step=0.001]"
ROWS = [
    replace(
        OLD,
        cell_id=f"{backend} {rtol}",
        task="cnf[dataset=moons]",
        model="cnf",
        backend=backend,
        solver="dopri5",
        rtol=rtol,
        peak_memory_bytes=10**9,
        saved_bytes=10**9,
        control=None if backend == "direct" else "direct",
        ratio=None if backend == "direct" else 0.2241,
    )
    for backend in ("direct", LONG, "checkpoint[checkpoints=16]")
    for rtol in (1e-7, 1e-3, 1e-5)
]
LOST = [
    replace(ROWS[0], cell_id="x", backend="scipy", status="unsupported", reason="it has no dopri5.", nfe_forward=None),
    BaselineCell(cell_id="t", task="test_a.py::test_a", model="", step_s=0.2),
]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_baseline_is_shown_in_80_columns(monkeypatch, capsys, is_terminal):
    """On a terminal and through a pipe: names that are too long go on in the next line, and no cell is left out."""
    monkeypatch.setenv("COLUMNS", "80")
    if is_terminal:
        monkeypatch.setenv("TERM", "dumb")  # which shows no colours
        monkeypatch.setattr(Console, "is_terminal", property(lambda _: True))
    cells = {cell.cell_id: cell for cell in (*ROWS, *LOST)}
    print_baseline(Baseline("b", cells, {"old": {"cpu": "one", "system": "s"}, "new": {"cpu": "one", "system": "s"}}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["one, s", "cnf[dataset=moons]/cnf dopri5: errors and counts"]
    tables = lines[: next(at for at, line in enumerate(lines) if "scipy dopri5" in line)]
    assert max(map(len, tables)) <= 80
    assert "cnf[dataset=moons]/cnf dopri5: memory and time, ratios to direct" in tables
    of_direct = [line.split()[1] for line in tables if line.startswith("direct ")]
    assert of_direct == ["0.001", "1e-05", "1e-07"] * 2
    assert sum("0.2241 (1.9..2.1)" in line for line in tables) == 6
    assert sum("1,000,000,000 1,000,000,000" in " ".join(line.split()) for line in tables) == len(ROWS) + 1
    text = " ".join(lines[len(tables) :])
    assert "cnf[dataset=moons]/cnf/scipy dopri5 rtol 1e-07: unsupported: it has no dopri5." in text
    assert "test_a.py::test_a: no figure that is gated" in text
    names = re.sub(r" [-0-9].*", "", "\n".join(tables)).replace("\n", "").replace(" ", "")
    assert "of_mine.py:ReversibleHeun[coupling=0.999,norm=seminorm,checkpoints=64,max_step=0.001]" in names


def test_another_suffix_is_refused(tmp_path):
    """With those that are known."""
    with pytest.raises(UserError, match=r"\.md \(Markdown\), \.xml"):
        write_gate(gate(OLD), tmp_path / "gate.txt")


def test_what_is_compared_is_not_written_over(tmp_path):
    """A baseline would become a file of another format."""
    path = tmp_path / "b.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="which is compared; name another file"):
        check_output(path, "latest", tmp_path / ".." / tmp_path.name / "b.json")
    check_output(tmp_path / "gate.json", str(path), "latest", Baseline("b", {}))


def test_a_reason_in_markdown_stands_as_it_is():
    """What looks like HTML would vanish from the comment, or end the part that is folded away."""
    ok = replace(FAILED, status="ok", reason=None)
    broken = replace(FAILED, reason="it is <class 'int'></details> *x*")
    row = next(line for line in gate_markdown(gate(broken, old=(ok,))).splitlines() if "`status`" in line)
    assert r"it is \<class 'int'\>\</details\> \*x\*" in row
