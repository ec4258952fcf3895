"""The gallery is true: its pages, and others of docs/, say what the stores hold that are kept beside them."""

import re
import shutil
from pathlib import Path

import pytest
from browser import check_page

from nodebench.options import ReproduceOptions
from nodebench.paper.plans import REPRODUCTIONS
from nodebench.paper.reproductions import answers
from nodebench.printing import View, print_records
from nodebench.reports.comparison import Machines
from nodebench.reports.document import Chart, Drawing, contents, key, mebibytes, milliseconds, number
from nodebench.reports.report import report
from nodebench.reports.writers import markdown
from nodebench.results.store import Store

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
TABLE = "nodebench run --backend direct,adjoint,torchdiffeq,torchdiffeq-adjoint --task mnist,cnf,spiral"
COMPILED = "nodebench run --backend torchdiffeq,direct,direct[compile=true],diffrax --task benchmarks/mlp_task.py:Mlp"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Copies of the stores by name: to open one is to write beside it."""
    folder = tmp_path_factory.mktemp("gallery")
    return {path.stem: Store(Path(shutil.copy(path, folder))) for path in sorted(GALLERY.glob("*.db"))}


def records_of(store, command):
    """Records of the one run that a command made."""
    (run,) = [run for run in store.runs() if run.command.replace("'", "").startswith(command)]
    return run, store.records([run.run_id])


def ratio(record, ends="{} to {}"):
    """Ratio and interval as the page of results has them."""
    return f"{number(record.ratio)}, " + ends.format(number(record.ratio_low), number(record.ratio_high))


def row(record, *, first):
    """A row of its table."""
    cells = [
        f"`{record.task}`" if first else "",
        f"`{record.backend}`",
        number(record.grad_error_params, 2),
        number(record.grad_error_y0, 2),
        f"{record.nfe_forward} + {record.nfe_backward}",
        mebibytes(record.peak_memory_bytes),
        milliseconds(record.step_s),
        "control" if record.control is None else f"{ratio(record)}, {record.verdict}",
    ]
    return "| " + " | ".join(cells).replace("|  |", "| |") + " |" if first else "| | " + " | ".join(cells[1:]) + " |"


def test_the_table_of_results_is_that_of_its_store(stores):
    """Every row of the comparison, to the digit, with the day on which it was measured."""
    run, records = records_of(stores["gradient-step"], TABLE)
    rows = [row(r, first=at == 0 or records[at - 1].task != r.task) for at, r in enumerate(records)]
    assert "\n".join(rows) in RESULTS, "docs/results.md should have\n" + "\n".join(rows)
    assert f"on {run.created_at[:10]}" in RESULTS


def test_the_table_of_compiled_steps_is_that_of_its_store(stores):
    """Times relative to torchdiffeq's, with what the solver adds to evaluations and products, and the compilation."""
    _, records = records_of(stores["gradient-step"], COMPILED)
    rows = []
    for record in records:
        first = record.control is None
        cells = [f"`{record.task.rpartition(':')[2]}`" if first else "", f"`{record.backend}`"]
        cells += [milliseconds(record.step_s), milliseconds(record.loss_s)]
        cells += [number(record.floor_ratio), number(record.compile_s)]
        cells.append("control" if first else f"{ratio(record)}, {record.verdict}")
        rows.append(re.sub(" +", " ", f"| {' | '.join(cells)} |"))
    assert "\n".join(rows) in RESULTS, "docs/results.md should have\n" + "\n".join(rows)


def test_the_sentences_of_results_are_those_of_their_stores(stores):
    """Figures within the text: what trainings reach."""
    trained = {
        record.preset: record
        for record in stores["paper"].records()
        if (record.task, record.backend, record.seed) == ("mnist", "adjoint", 0) and record.metric_value is not None
    }
    quoted = [
        f"`{preset}` {number(record.metric_value)} % in {number(record.train_s)} s of training steps"
        for preset, record in sorted(trained.items())
    ]
    flat = " ".join(RESULTS.split())
    assert [text for text in quoted if text not in flat] == []
    assert "quick" in trained


def test_the_gallery_has_every_cell_of_the_reproductions(stores):
    """Whichever version measured it, and however it spelled the cell."""
    one, three = (ReproduceOptions(preset="standard", seeds=seeds) for seeds in ((0,), (0, 1, 2)))
    for name, options in {
        **dict.fromkeys(("table1", "table3", "figure3", "table2", "figure8"), one),
        **dict.fromkeys(("figure4", "figure5"), three),
        "claims": ReproduceOptions(),
    }.items():
        for part in REPRODUCTIONS[name].parts:
            planned = part.plan(options)
            assert answers(stores["paper"], planned).keys() == {cell.cell_id for cell in planned.cells}, name


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_terminal_that_a_page_shows_is_that_of_its_store(stores, capsys, page):
    """The table and the three lines are printed of the records at 1e-3."""
    print_records([r for r in stores["work-precision"].records() if r.rtol == 1e-3], View(in_order=True))
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    until_the_answer, *_ = re.split(r"\n\n\d+ notes?:", printed)
    assert f"```text\n{until_the_answer}\n```" in (ROOT / page).read_text(encoding="utf-8")


def test_every_page_names_day_machine_and_command():
    """So that a reader can judge it, and make it again."""
    pages = sorted(GALLERY.glob("*.html"))
    listed = re.findall(r"\[([\w-]+\.html)\]", (GALLERY / "README.md").read_text(encoding="utf-8"))
    assert len(pages) >= 9
    assert {page.name for page in pages} <= set(listed)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.search(r"measured.{0,80}20\d\d-\d\d-\d\d", text, re.DOTALL), page.name
        assert re.search(r"machine.{0,80}cores", text, re.DOTALL), page.name
        assert re.search(r"command.{0,80}nodebench re", text, re.DOTALL), page.name


@pytest.mark.parametrize("page", sorted(GALLERY.glob("*.html")), ids=lambda path: path.stem)
def test_every_page_is_sound_in_a_browser(browser, page):
    """No errors, tables that sort, charts with marks, nothing that overlaps, on a telephone and on a screen."""
    check_page(browser, page)


@pytest.mark.parametrize("name", sorted(path.stem for path in GALLERY.glob("*.db") if path.stem != "paper"))
def test_a_markdown_page_is_what_its_store_says(stores, name):
    """Made anew from the store, the report is the very same text, but for when and by which command it was made."""
    kept = (GALLERY / f"{name}.md").read_text(encoding="utf-8")
    command = re.search(r"^- command: `(.*)`$", kept, re.MULTILINE)[1]
    made = re.search(r"^- made: (.*)$", kept, re.MULTILINE)[1]
    store = stores[name]
    records, environments = store.records(), store.environments()
    machines, plots = Machines.of(records, environments), lambda r: store.plots(r.run_id, r.cell_id)
    page = report(records, store.runs(), machines, plots, command, made)
    shown = [block.name for block in contents(page) if isinstance(block, Chart | Drawing)]
    charts = {block: f"{name}-charts/{key(block)}.svg" for block in shown}
    assert all((GALLERY / path).is_file() for path in charts.values())
    assert markdown.text(page, charts) == kept
