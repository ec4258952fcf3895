"""The notebooks of the documentation run from the first cell to the last, and are kept as they were executed."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = {"torch": "torch", "jax": "diffrax"}


def shown(cell):
    """What a cell of a notebook shows: its outputs by MIME type, the text that it prints among them."""
    found = {}
    for output in cell.get("outputs", ()):
        assert output["output_type"] != "error", output
        # What is displayed beside the result is the line of progress, which is empty at the end.
        if output["output_type"] == "display_data":
            assert output["data"]["text/html"] == ""
            continue
        found |= output.get("data", {"text/plain": output.get("text", "")})
    return found


def check(notebook, *, several):
    """A study shows a page and a table, a recommendation its code, and the training goes on with what was measured."""
    by_source = {cell["source"]: shown(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"}
    (study,) = (found for source, found in by_source.items() if source.endswith("\nstudy"))
    assert ("<svg" in study["text/html"]) == several  # a picture compares
    assert "<table" in study["text/html"]
    assert "<script" not in study["text/html"]
    assert "backend" in study["text/plain"]
    assert "adjoint" in study["text/plain"] or "diffrax" in study["text/plain"]
    (choice,) = (found for source, found in by_source.items() if "recommend(" in source)
    assert "nodebench.odeint(" in choice["text/plain"] or "nodebench.backend(" in choice["text/plain"]
    assert "nodebench." in choice["text/html"]
    (training,) = (found for source, found in by_source.items() if "at the end" in source)
    assert "at the end" in training["text/plain"]


@pytest.mark.parametrize(("name", "library"), NOTEBOOKS.items(), ids=NOTEBOOKS)
def test_a_notebook_runs(name, library, tmp_path):
    """In a real kernel, with less time for the timing."""
    pytest.importorskip(library)
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    for cell in notebook["cells"]:
        # Of what each process compiles no more than there must be.
        cell["source"] = cell["source"].replace("budget_s=10", "rounds=1").replace(', "diffrax-backsolve"]', "]")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    check(notebook, several=name == "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_as_it_was_executed(name):
    """With its outputs, none of which is an error."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    nbformat.validate(notebook)
    check(notebook, several=True)
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/work" not in text
