"""What a notebook shows while something is measured, with a kernel that is none."""

import sys
from types import SimpleNamespace

import pytest
from synthetic import record

from nodebench import notebook
from nodebench.bench.messages import Event


@pytest.fixture
def shown(monkeypatch):
    """All that is displayed, in its order, in place of the one before."""
    lines = []
    handle = SimpleNamespace(update=lines.append)

    def display(line, *, display_id):
        assert display_id
        lines.append(line)
        return handle

    module = SimpleNamespace(display=display, HTML=str)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=module))
    return lines


def test_a_notebook_shows_one_line_that_changes_and_goes(shown):
    """How many cells are done, and what is done now; nothing at the end, and nothing of it as markup."""
    watcher = notebook.watcher()
    assert isinstance(watcher, notebook.NotebookWatcher)
    with watcher.progress(2) as notify:
        notify(Event("cell", "check-up <of the field>"))
        notify(Event("record", "ok", record=record("direct")))
    assert "0 of 2 cells; starting" in shown[0]
    assert "check-up &lt;of the field&gt;" in shown[1]
    assert 'value="1" max="2"' in shown[2]
    assert shown[-1] == ""


def test_elsewhere_nothing_is_shown_unless_there_is_a_terminal(monkeypatch):
    """A script whose output goes to a file is not filled with lines."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    assert type(notebook.watcher()) is notebook.Watcher
