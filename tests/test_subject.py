"""What is measured is checked before anything is."""

from pathlib import Path

import pytest
from rough import Midpoint

from nodebench import registry
from nodebench.bench.matrix import Request, plan
from nodebench.bench.subject import check_times, make_subject, source_digest
from nodebench.errors import UserError


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.5, 2.0], [1.0, 0.5, -2.0]])
def test_monotone_times_pass(times):
    """Times may go either way."""
    check_times(times)


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.5], [0.0, float("nan")]])
def test_other_times_are_refused(times):
    """Times that repeat, turn back or are no numbers are an error that shows them."""
    with pytest.raises(UserError, match="strictly increasing or strictly decreasing"):
        check_times(times)


def test_edited_code_is_another_problem(tmp_path):
    """A reference gradient of yesterday's code is not found for today's."""
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    rate = 1\n")
    mine = registry.load_class(f"{file}:Mine")
    before = source_digest(mine)
    assert source_digest(mine) == before
    file.write_text("class Mine:\n    rate = 2\n")
    assert source_digest(mine) != before


def test_edited_code_beside_a_class_is_another_problem(tmp_path, monkeypatch):
    """A module of the same package, which the class may use, counts as its own does; so does that of a base."""
    package = tmp_path / "somewhere"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rates.py").write_text("RATE = 1\n")
    (package / "task.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = registry.load_class("somewhere.task:Mine")
    before = source_digest(mine)
    (package / "rates.py").write_text("RATE = 2\n")
    assert source_digest(mine) != before


def test_the_code_of_a_method_is_that_of_its_bases_too(monkeypatch):
    """Backends never import each other: the bases of one count, its siblings do not."""
    pytest.importorskip("torch")
    checkpoint = registry.load_class("nodebench.backends.checkpoint:Checkpoint")
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(f"{path.parent.name}/{path.name}") or b"")
    source_digest(checkpoint)
    assert {"backends/checkpoint.py", "backends/runge_kutta.py", "solvers/discrete_adjoint.py"} <= set(read)
    assert "backends/adjoint.py" not in read


def test_a_gradient_by_another_method_is_another():
    """The same problem, solved by a method from elsewhere, is not found under the same name."""
    request = Request(backends=("nodebench.testing:FakeBackend",), tasks=("nodebench.testing:FakeTask",))
    subject = make_subject(plan(request).cells[0], "float64")
    assert subject.identity(None) == subject.identity(None)
    assert subject.identity(Midpoint()) != subject.identity(None)
