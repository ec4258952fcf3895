"""The page of `nodebench report`: its figures are those of the store, in every format, and it stands without them."""

import csv
import re
import runpy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import check_page, chromium
from pages import plot
from synthetic import ALIKE, ELSEWHERE, ENVIRONMENTS, early, record, run, timed, trained

from nodebench.errors import StoreError, UserError
from nodebench.reports.comparison import Machines
from nodebench.reports.document import (
    ABSENT,
    Bullets,
    Chart,
    Drawing,
    Missing,
    Paragraph,
    Table,
    contents,
    interval,
    mebibytes,
    milliseconds,
    number,
)
from nodebench.reports.report import report
from nodebench.reports.sections import MAX_PLOTTED
from nodebench.reports.series import BACKENDS
from nodebench.reports.writers import html, latex, markdown
from nodebench.reports.writers.files import write_data
from nodebench.results.record import PRINTED

CELLS = (
    timed("direct", grad_error_params=1.234e-5, peak_memory_bytes=3 * 2**20),
    timed("adjoint", 1.5, grad_error_params=4.321e-4),
    record("scipy", status="oom", reason="no memory was left.", stderr="line 1\nline 2"),
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def page(records, runs=None, plots=lambda _: (), machine=None):
    runs = [run()] if runs is None else runs
    return report(
        records,
        runs,
        Machines.of(records, ENVIRONMENTS, machine),
        plots,
        "nodebench report",
        "2026-01-03T00:00:00+00:00",
    )


def tables(document):
    return {block.name: block for block in contents(document) if isinstance(block, Table)}


def said(document):
    """All sentences of a page."""
    blocks = contents(document)
    lines = [block.text for block in blocks if isinstance(block, Paragraph)]
    return [*lines, *(item for block in blocks if isinstance(block, Bullets) for item in block.items)]


def expected(records):
    """Backend, error, memory, time and ratio of records, as they are printed."""

    def ratio(each):
        if each.status != "ok":
            return each.status
        return f"{number(each.ratio)} ({interval(each.ratio_low, each.ratio_high)})" if each.control else "control"

    return {
        each.backend: (
            number(each.grad_error_params, 2), mebibytes(each.peak_memory_bytes), milliseconds(each.step_s),
            ratio(each),
        )
        for each in records
    }  # fmt: skip


def found(header, rows):
    """The same of a table that was read back."""
    at = [header.index(title) for title in ("error", "MiB", "ms", "ratio")]
    return {row[0]: tuple(row[place] for place in at) for row in rows}


class Tables(HTMLParser):
    """Reads the tables of a page back: rows of texts, without the numbers of footnotes."""

    def __init__(self):
        super().__init__()
        self.tables, self.within, self.note = [], False, False

    def handle_starttag(self, tag, attrs):
        del attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.within = True
        elif tag == "sup":
            self.note = True

    def handle_endtag(self, tag):
        if tag in ("td", "th", "tr", "table"):
            self.within = False
        elif tag == "sup":
            self.note = False

    def handle_data(self, data):
        if self.within and not self.note:
            self.tables[-1][-1][-1] += data.strip()


def test_html_has_the_figures_of_the_records():
    """Read back from the page, the table of the comparison holds what the records hold."""
    parser = Tables()
    parser.feed(html.page(page(CELLS)))
    (table,) = [rows for rows in parser.tables if rows[0][:2] == ["backend", "error"]]
    assert found(table[0], table[1:]) == expected(CELLS)


def test_markdown_has_the_figures_of_the_records():
    """The same of Markdown, without its marks for code, weight and footnotes."""
    lines = markdown.text(page(CELLS)).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| backend | error"))
    rows = [[re.sub(r"[`*]|<sup>.*?</sup>|\\", "", part).strip() for part in line.strip("|").split("|")]
            for line in lines[start : start + 5]]  # fmt: skip
    assert found(rows[0], rows[2:]) == expected(CELLS)


def test_latex_has_the_figures_of_the_records():
    """Every figure of the comparison stands in the LaTeX, in the row of its backend."""
    text = latex.text(page(CELLS))
    for backend, figures in expected(CELLS).items():
        row = next(line for line in text.splitlines() if backend in line and "&" in line and figures[0] in line)
        assert [figure for figure in figures if figure not in row.replace("$-$", "-")] == []


def test_csv_has_the_records(tmp_path):
    """All figures to the last digit."""
    write_data(CELLS, tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    read = [(row["backend"], float(row["grad_error_params"]) if row["grad_error_params"] else None) for row in rows]
    assert read == [(each.backend, each.grad_error_params) for each in CELLS]


def test_holes_have_reasons_and_the_best_is_marked():
    """A failed cell's figures are absent because it failed; the best among the ranked cells are marked."""
    table = tables(page(CELLS))["cnf-comparison-1"]
    titles = [column.title for column in table.columns]
    direct, adjoint, failed = table.rows
    assert failed[titles.index("ms")].reason == "`oom`: no memory was left."
    assert [row[titles.index("MiB")].best for row in table.rows] == [False, True, False]
    assert direct[titles.index("error")].best
    assert not adjoint[titles.index("ms")].best


def test_times_that_are_not_told_apart_are_marked_alike():
    """The lowest time is not the best where the ratio does not say so."""
    close = [timed("direct"), timed("adjoint", 1.01), timed("scipy", 2.0)]
    table = tables(page(close))["cnf-comparison-1"]
    at = [column.title for column in table.columns].index("ms")
    assert [row[at].best for row in table.rows] == [True, True, False]


@pytest.mark.parametrize("axis", ["batch", "horizon"])
def test_exponents_over_batch_and_time_span_are_shown(axis):
    """What `nodebench scale` measured has a table, though each place is a comparison of its own."""
    field = {"batch": "batch_size", "horizon": "horizon"}[axis]
    cells = [timed("direct", **{field: n, "time_span": n, "peak_memory_bytes": n * 2**20}) for n in (1, 2, 4, 8)]
    table = tables(page(cells))[f"cnf-exponents-{axis}"]
    assert tuple(entry.text for entry in table.rows[0][1:3]) == ("memory", "1.000")
    assert "batch" not in table.rows[0][7].text if axis == "batch" else "batch 64" in table.rows[0][7].text


def test_exponents_of_time_are_of_one_machine():
    """Two devices on two machines have a law of bytes each; times that were measured elsewhere are left out."""

    def steps(device, counts, **where):
        return [timed("direct", solver="rk4", first_step=1 / n, n_accepted=n, device=device,
                      peak_memory_bytes=n * 2**20, **where) for n in counts]  # fmt: skip

    cells = [*steps("cpu", (2, 4, 8)), *steps("cuda", (2, 4, 8), **ELSEWHERE), *steps("cpu", (16,), **ELSEWHERE)]
    document = page(cells)
    table = tables(document)["cnf-exponents-steps"]
    points = {
        quantity: [row[6].text for row in table.rows if row[1].text == quantity] for quantity in ("memory", "time")
    }
    assert points == {"memory": ["4", "3"], "time": ["3"]}
    table = tables(page(cells, machine="node-1"))["cnf-exponents-steps"]
    assert [row[6].text for row in table.rows if row[1].text == "time"] == ["3"]


def test_it_opens_with_the_answer():
    """What is fastest, leanest and most exact, what to choose, and what did not end well, before any section."""
    document = page(CELLS)
    assert document.title == "Which gradient method for `cnf`?"
    lead = " ".join(said(replace(document, sections=())))
    for text in ("Fastest: `direct`, 10 ms", "Leanest: `adjoint`", "Most exact: `direct`", "`oom`: 1 cell"):
        assert text in lead


def test_of_nothing_it_says_so():
    """An empty store is a page that opens with that, in every format."""
    empty = page([], [])
    assert said(empty)[0].startswith("Nothing has been measured")
    assert all(
        "Nothing has been measured" in text for text in (html.page(empty), markdown.text(empty), latex.text(empty))
    )


def test_one_failed_cell_is_a_page_of_holes():
    """Its reason and last output are there, charts are not, and nothing fails."""
    document = page([record("direct", status="timeout", reason="it hung.", stderr="last words")])
    assert "`timeout`: 1 cell, `direct` on `cnf`: it hung." in said(document)
    assert "last words" in said(document)
    blocks = contents(document)
    assert [block for block in blocks if isinstance(block, Chart | Drawing)] == []
    assert all(block.reason for block in blocks if isinstance(block, Missing))


def test_the_end_of_a_traceback_is_shown():
    """What the process had printed before is left out, however long it is."""
    kept = "Traceback:\n  in solve\nValueError: no\n\n" + PRINTED + "\n" + "a step\n" * 100
    document = page([record("direct", status="failed", reason="ValueError: no", stderr=kept)])
    assert "ValueError: no" in said(document)
    assert PRINTED not in said(document)
    assert "a step" not in said(document)


def test_unlike_machines_are_told_at_the_top():
    """Figures of two processors are shown, and what sets them apart follows them, before any section."""
    document = page([timed("direct"), timed("adjoint", **ELSEWHERE)])
    told = [item for block in document.lead if isinstance(block, Bullets) for item in block.items]
    unlike = "Machine 1 (`node-1`) and machine 2 (`node-3`) differ in cpu: abacus against slide rule."
    assert unlike in told
    assert [fact for fact in document.facts if fact[0].startswith("machine")] == [
        ("machine 1", "abacus, 2 cores, 16 GiB; `node-1`"),
        ("machine 2", "slide rule, 2 cores, 16 GiB; `node-3`"),
    ]
    assert said(document).count(unlike) == 2  # at the top, and below the table of machines


def two_nodes(**where):
    """The records of one run whose second half is of another node, each with a control of its own."""
    first = [timed("direct", grad_error_params=1e-5), timed("adjoint", 1.5), timed("scipy", 3.0)]
    second = [timed("checkpoint", peak_memory_bytes=2**10, **where)]
    second += [timed("symplectic", 0.1, control="checkpoint", **where), trained("planar", 3.5, **where)]
    return [*first, *second]


@pytest.mark.parametrize("where", [ALIKE, ELSEWHERE])
def test_a_run_on_two_nodes_ranks_the_times_of_one(where):
    """Whatever the other node took, it is not the fastest; errors and bytes are compared, and the page says so."""
    document = page(two_nodes(**where))
    found = said(document)
    assert any(text.startswith("Fastest: `direct`, 10 ms") for text in found)
    assert any(text.startswith("Leanest: `checkpoint`") for text in found)
    assert any(text.startswith("Most exact: `direct`") for text in found)
    alike = where is ALIKE
    told = "`checkpoint`, `symplectic` were timed on another node: shown, not ranked by time."
    assert (told in found) == alike
    command = "`nodebench report --machine node-3` reports those of machine 2 (`node-3`)."
    assert (f"Times are those of machine 1 (`node-1`); {command}" in found) != alike
    assert any(text.endswith("Times are ranked within one run on one node only; errors, evaluations and bytes are "
                             "compared across all.") for text in found)  # fmt: skip
    table = tables(document)["cnf-comparison-1"]
    rows = [dict(zip([column.title for column in table.columns], row, strict=True)) for row in table.rows]
    assert [row["node"].text for row in rows] == ["node-1"] * 3 + [where["node"]] * 2
    if alike:
        assert [row["ratio"].text for row in rows[3:]] == ["timed on another node"] * 2
    else:
        assert [row["verdict"].text for row in rows[3:]] == ["other machine"] * 2
    assert [row["ms"].value is not None for row in rows] == [True] * 3 + [alike] * 2
    if not alike:
        reason = "timed on another machine than that whose times are shown."
        assert {row["ms"].reason for row in rows[3:]} | {row["ratio"].reason for row in rows[3:]} == {reason}
    assert [row["backend"].text for row in rows if row["ms"].best] == ["`direct`"]
    assert [row["backend"].text for row in rows if row["MiB"].best] == ["`checkpoint`"]


def test_another_machine_is_chosen_by_a_node_or_a_fingerprint():
    """Its times are ranked then, and those of the first are not shown; who names none that is there learns of all."""
    for name in ("node-3", ELSEWHERE["environment"]):
        document = page(two_nodes(**ELSEWHERE), machine=name)
        found = said(document)
        assert any(text.startswith("Fastest: `symplectic`") for text in found)
        assert any(text.startswith("Leanest: `checkpoint`") for text in found)
        command = "`nodebench report --machine node-1` reports those of machine 1 (`node-1`)."
        assert f"Times are those of machine 2 (`node-3`); {command}" in found
        table = tables(document)["cnf-comparison-1"]
        at = [column.title for column in table.columns].index("ms")
        shown = {row[0].text: row[at].value is not None for row in table.rows}
        assert {name for name, is_there in shown.items() if is_there} == {"`checkpoint`", "`symplectic`"}
        assert len(shown) == 5
    there = r"node-1 \(abacus, 2 cores, 16 GiB\); node-3 \(slide rule, 2 cores, 16 GiB\)"
    with pytest.raises(UserError, match=f"unknown machine 'node-9'; there are: {there}"):
        page(two_nodes(**ELSEWHERE), machine="node-9")


def test_a_model_trained_elsewhere_shows_what_it_reached():
    """Its metric, bytes and steps stand; the time it took is a hole with its reason."""
    cells = [timed("direct"), timed("adjoint", 1.5), trained("planar", 3.5, **ELSEWHERE)]
    table = tables(page(cells))["cnf-trained"]
    [row] = [dict(zip([column.title for column in table.columns], row, strict=True)) for row in table.rows]
    assert row["metric"].value == 3.5
    assert (row["train s"].value, row["train s"].reason) == (
        None,
        "trained on another machine than that whose times are shown.",
    )


def test_machines_have_a_table_where_there_are_several():
    """Each with its nodes and how many cells were measured there; nodes that are alike share a row."""
    table = tables(page([*two_nodes(**ALIKE), timed("reversible", **ELSEWHERE)]))["machines"]
    titles = [column.title for column in table.columns]
    assert titles == [
        "machine", "nodes", "cpu", "cores", "gpu", "system", "python", "libraries", "commit", "cells"
    ]  # fmt: skip
    assert [[entry.text for entry in row] for row in table.rows] == [
        ["1", "node-1, node-2", "abacus", "2", "none", "Linux", "3.11", "numpy 2.0", "0123456789ab", "6"],
        ["2", "node-3", "slide rule", "2", "none", "Linux", "3.11", "numpy 2.0", "0123456789ab", "1"],
    ]
    assert "machines" not in tables(page(CELLS))


def test_a_run_that_knows_its_software_alone_is_shown_with_that():
    """Its cells were measured on nodes of their own; what a run does not know of a machine is a hole."""
    software = {"python": "3.11", "libraries": {"numpy": "2.0"}, "git": None, "executor": "ray"}
    records = two_nodes(**ELSEWHERE)
    document = page(records, [replace(run(), environment=software)])
    table = tables(document)["runs"]
    row = dict(zip([column.title for column in table.columns], (entry.text for entry in table.rows[0]), strict=True))
    holes = dict.fromkeys(("cpu", "cores", "gpu", "system", "commit"), ABSENT)
    assert {name: row[name] for name in [*holes, "python", "libraries", "executor"]} == holes | {
        "python": "3.11", "libraries": "numpy 2.0", "executor": "ray",
    }  # fmt: skip
    assert all(render(document) for render in (html.page, markdown.text, latex.text))


def test_a_record_without_a_fingerprint_is_refused():
    """What is not known to be of one machine is in no report: neither silently ranked nor silently left out."""
    for key in (None, "unknown"):
        with pytest.raises(
            StoreError, match=rf"in run run-1 should name a fingerprint of the store, and names `{key}`"
        ):
            page([timed("direct", environment=key)])


def test_a_training_that_failed_when_it_was_repeated_is_shown_with_that():
    """The table has what was reached before, and a sentence says how the newest attempt ended."""
    failed = early(None, "timeout", model="planar", solver=None, rtol=None, max_steps=None, created_at="2026-02-01",
                   run_id="run-2")  # fmt: skip
    document = page([trained("planar", 3.5), failed], [run(), run("run-2")])
    assert len(tables(document)["cnf-trained"].rows) == 1
    assert (
        "The figures of `planar` are of run `run-1`; a later attempt, in run `run-2`, ended `timeout`: it cannot."
        in said(document)
    )


def test_a_task_with_options_stands_under_its_task():
    """One section for each base task, with the comparisons of its variants under it."""
    document = page([timed("direct"), timed("direct", task="cnf[dataset=u1]"), timed("direct", task="mnist")])
    assert [section.title for section in document.sections if section.title.startswith("Task")] == [
        "Task cnf",
        "Task mnist",
    ]
    assert {"cnf-comparison-1", "cnf-comparison-2", "mnist-comparison-1"} <= set(tables(document))


def test_plots_are_of_the_newest_training_of_each_model():
    """Of its seeds the first is shown, an older run is left out, and of too many a hole is left."""
    flow, digits = plot("flow", n=1), plot("misread", n=1)
    old = trained("cnf", 3.0, "direct")
    new, further = (
        trained("cnf", 3.0, "direct", seed=seed, run_id="newer", created_at=f"2026-02-0{seed}") for seed in (1, 2)
    )
    document = page([old, new, further], plots=lambda r: (flow, digits) if r is new else (digits,))
    drawings = [block for block in contents(document) if isinstance(block, Drawing)]
    assert [(block.name, block.plot) for block in drawings] == [
        ("cnf-cnf-direct-flow", flow),
        ("cnf-cnf-direct-misread", digits),
    ]
    assert drawings[0].caption == "cnf on `cnf` with `direct`, preset smoke, seed 1."
    many = [trained(f"model-{n}", 3.0) for n in range(MAX_PLOTTED + 2)]
    blocks = contents(page(many, plots=lambda _: (digits,)))
    assert len([block for block in blocks if isinstance(block, Drawing)]) == MAX_PLOTTED
    holes = [block.what for block in blocks if isinstance(block, Missing)]
    assert [what for what in holes if what.startswith("plots of model")] == [
        f"plots of model-{n} on `cnf`" for n in (MAX_PLOTTED, MAX_PLOTTED + 1)
    ]


def test_plots_of_an_older_version_leave_a_hole():
    """What this version cannot show does not keep the rest of the page from being made."""

    def outdated(_):
        raise StoreError("plots of an older version: train again.")

    holes = [block for block in contents(page([trained("cnf", 3.0, "direct")], plots=outdated))
             if isinstance(block, Missing) and block.what.startswith("plots of cnf")]  # fmt: skip
    assert [hole.reason for hole in holes] == ["plots of an older version: train again."]


def test_every_name_of_a_page_is_its_own():
    """Tables, charts and drawings have names that files can have, none of them twice."""
    cells = [timed(name, task=task, rtol=rtol) for name in ("direct", "adjoint")
             for task in ("cnf", "cnf[dataset=u1]") for rtol in (1e-3, 1e-5, 1e-7)]  # fmt: skip
    names = [block.name for block in contents(page(cells)) if isinstance(block, Table | Chart | Drawing)]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch("[A-Za-z0-9-]+", name)] == []


def test_the_tables_of_the_site_are_those_of_the_code():
    """Quantities, bands, commands, backends, tasks: `make tables` writes them, each on one page."""
    docs = Path(__file__).parents[1] / "docs"
    tables = runpy.run_path(str(docs / "tables.py"))
    pages = {page: page.read_text(encoding="utf-8") for page in docs.rglob("*.md")}
    assert [page.name for page, text in pages.items() if tables["updated"](text) != text] == []
    names = sorted(name for text in pages.values() for _, name, _ in tables["MARKED"].findall(text))
    assert names == sorted(tables["TABLES"])


def many_records():
    """2,000 records: four tasks, three solvers, five tolerances, seeds, all backends, and trainings."""
    settings = [
        (task, solver, power, seed)
        for task in ("mnist", "cnf", "spiral", "linear")
        for solver in ("dopri5", "bosh3", "tsit5")
        for power in range(3, 8)
        for seed in range(3)
    ]
    rng = np.random.default_rng(0)
    cells = [
        timed(
            name, None if name == "direct" else float(rng.uniform(0.5, 3)), task=task, solver=solver, rtol=10.0**-power,
            seed=seed, n_accepted=2**power, grad_error_params=float(rng.uniform(1, 5)) * 10.0**-power,
            peak_memory_bytes=int(rng.uniform(1e6, 1e8)),
        )
        for task, solver, power, seed in settings
        for name in BACKENDS
    ]  # fmt: skip
    return [*cells[:1900], *(trained("m", 3.0, "direct", seed=seed) for seed in range(100))]


def test_two_thousand_records_fit_a_page():
    """The page has an answer for every setting and stays under 3 MB."""
    records = many_records()
    document = page(records)
    text = html.page(document)
    assert len(records) == 2000
    assert len(text.encode()) < 3_000_000
    settings = {(each.task, each.solver, each.rtol, each.seed) for each in records[:1900]}
    assert len(tables(document)["answers"].rows) == len(settings)


def test_a_page_as_it_is_seen(browser, tmp_path):
    """In a browser, by day and by night, wide and narrow, nothing complains, overlaps or is cut off."""
    cells = [timed(name, None if name == "direct" else 1.5, rtol=rtol, grad_error_params=rtol)
             for name in ("direct", "adjoint", "torchdiffeq-adjoint") for rtol in (1e-3, 1e-5, 1e-7)]  # fmt: skip
    records = [*cells, *CELLS[2:], trained("cnf", 3.0, "direct"), trained("planar", 3.5)]
    path = tmp_path / "page.html"
    path.write_text(html.page(page(records)))
    check_page(browser, path)


def test_absence_is_shown():
    """A figure that was not measured is not a zero."""
    table = tables(page(CELLS))["cnf-comparison-1"]
    assert table.rows[2][3].text == ABSENT
