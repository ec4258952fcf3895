"""What writes a page: the same figures in every format, nothing of a name taken for markup, holes explained."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import altair as alt
import pyarrow.parquet
import pytest
from pages import NO_MEMORY, TIMEOUT, plot, rich_document, table

from nodebench.errors import UserError
from nodebench.reports.document import (
    Bullets,
    Chart,
    Column,
    Details,
    Document,
    Drawing,
    Entry,
    Paragraph,
    Section,
    Span,
    Table,
    contents,
    order,
    spans,
)
from nodebench.reports.writers import html, latex, markdown
from nodebench.reports.writers.files import write_charts, write_data
from nodebench.reports.writers.terminal import print_page
from nodebench.results.record import Record

EMPTY = Document("nothing", (), ())

NASTY = (
    '</script><script>alert("x")</script> | a_b $5 \\ 10 % & #1 {x} ~^ *y* <b> --k `ad|joint_[n=1]` '
    "\N{GREEK SMALL LETTER EPSILON}"
)


class Cells(HTMLParser):
    """The rows of all tables of a page, as a browser reads them: cells need no end tag."""

    def __init__(self):
        HTMLParser.__init__(self)
        self.rows, self.tags, self.skipped = [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("td", "th", "sup", "i"):
            self.skipped = tag if tag in ("sup", "i") else None

    def handle_endtag(self, tag):
        if tag == self.skipped:
            self.skipped = None
        if tag in ("tbody", "table"):
            self.skipped = "table"

    def handle_data(self, text):
        if self.rows and self.rows[-1] and self.skipped is None:
            self.rows[-1][-1] += text.strip("\n")


def cells_of_html(page):
    parser = Cells()
    parser.feed(page)
    return parser.rows


def cells_of_markdown(text):
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| :---")]
    cells = [re.split(r"(?<!\\) \| ", row[2:-2]) for row in rows]
    return [[_plain(re.sub(r"<sup>\d+</sup>", "", cell)) for cell in row] for row in cells]


def cells_of_latex(text):
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    cells = [re.sub(r"\\textsuperscript\{\d+\}", "", row).split(" & ") for row in rows]
    return [[re.sub(r"\\(texttt|textbf)|[{}]", "", cell).replace(r"\%", "%") for cell in row] for row in cells]


def _plain(cell):
    return cell.replace("*", "").replace("`", "").replace("\\", "")


def page_with(*blocks):
    return Document("t", (), blocks)


def written(kind, document):
    return {"html": html.page, "markdown": markdown.text, "latex": latex.text}[kind](document)


def test_figures_are_the_same_in_every_format():
    """Row by row and column by column, what a table says is what HTML, Markdown and LaTeX say."""
    block = table()
    titles = [column.title for column in block.columns]
    expected = [titles, *([entry.text.replace("`", "") for entry in row] for row in block.rows)]
    document = page_with(block)
    assert cells_of_html(html.page(document)) == expected
    assert cells_of_markdown(markdown.text(document)) == expected
    assert cells_of_latex(latex.text(document)) == expected


@pytest.mark.parametrize("kind", ["html", "markdown", "latex"])
def test_a_reason_stands_once(kind):
    """Five holes of one row and the row's status share one note."""
    text = written(kind, page_with(table()))
    assert text.replace("&amp;", "&").replace(r"\&", "&").count(NO_MEMORY) == 1


@pytest.mark.parametrize("kind", ["html", "markdown", "latex"])
def test_an_empty_document_is_a_page(kind):
    """A title and nothing else, not even the program that draws charts."""
    text = written(kind, EMPTY)
    assert "nothing" in text
    assert len(text) < 40_000


@pytest.mark.parametrize("kind", ["html", "markdown", "latex"])
def test_a_table_without_rows_is_a_table(kind):
    """Its headings are there."""
    assert "err dp" in written(kind, page_with(table(n_rows=0)))


def test_html_takes_no_name_for_markup():
    """Wherever a text stands: nothing of it becomes an element."""
    nasty = Table(NASTY, NASTY, (Column(NASTY, NASTY, numeric=False),), ((Entry(NASTY, NASTY + "v", NASTY),),))
    chart = Chart("c", NASTY, alt.Chart(alt.Data(values=[{"x": NASTY}])).mark_point().encode(x="x:N"))
    document = Document(NASTY, ((NASTY, NASTY),), (nasty, chart, Bullets((NASTY,)), Details(NASTY, ())))
    parser = Cells()
    parser.feed(html.page(document))
    tags = [tag for tag, _ in parser.tags]
    assert tags.count("script") == len(("definition", "configs", "bundle", "page"))
    assert not {"b", "x"} & set(tags)


def test_a_definition_comes_back_from_the_page():
    """The JSON within the page is the chart's own."""
    chart = alt.Chart(alt.Data(values=[{"x": NASTY}])).mark_point().encode(x="x:N")
    page = html.page(page_with(Chart("c", "A chart.", chart)))
    embedded = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert json.loads(embedded[1]) == chart.to_dict()


def test_a_page_asks_nothing_of_the_network():
    """No element names another file."""
    parser = Cells()
    parser.feed(html.page(rich_document()))
    named = [attrs[name] for _, attrs in parser.tags for name in ("src", "href") if name in attrs]
    assert [name for name in named if not name.startswith(("data:", "#"))] == []


def test_markdown_keeps_pipes_out_of_the_way():
    """A pipe within an entry, in code or not, is escaped, so that the row has its two columns."""
    columns = (Column("a|b", numeric=False), Column("c"))
    text = markdown.text(page_with(Table("t", "A table.", columns, ((Entry("`x|y` | z"), Entry("1", 1.0)),))))
    assert r"| `x\|y` \| z | 1 |" in text
    assert r"| a\|b | c |" in text


def test_markdown_shows_what_has_a_file_and_names_what_has_none():
    """A chart with a path is an image; one without is a line that says so."""
    drawing = Drawing("densities", "Of `cnf`.", plot())
    assert "![Learned densities. Of cnf.](images/densities.svg)" in markdown.text(
        page_with(drawing), {"densities": "images/densities.svg"}
    )
    assert "Left out here" in markdown.text(page_with(drawing))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    """A page with everything, long tables and every special character becomes a PDF, nothing of it too wide."""
    rich = rich_document()
    nasty = Table("nasty", NASTY, (Column(NASTY, NASTY),), ((Entry(NASTY, 1.0, NASTY),), (Entry("[x]"),)))
    wide = table("wide", 50)
    wide = Table("wide", "Wide.", wide.columns * 4, tuple(row * 4 for row in wide.rows))
    charts = write_charts(page_with(*contents(rich)[4:8]), tmp_path, "pdf")
    document = Document(rich.title, rich.facts, (Paragraph(NASTY), nasty, wide, *rich.lead), rich.sections)
    (tmp_path / "page.tex").write_text(latex.text(document, {name: path.name for name, path in charts.items()}))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize(("kind", "begins"), [("svg", b"<"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_every_chart_and_drawing_is_a_file(tmp_path, kind, begins):
    """Each has its name and the format asked for, those that are folded away too."""
    document = rich_document()
    files = write_charts(document, tmp_path / "images", kind)
    names = {block.name for block in contents(document) if isinstance(block, Chart | Drawing)}
    assert set(files) == names
    assert {path.name for path in files.values()} == {f"{name}.{kind}" for name in names}
    assert all(path.read_bytes().startswith(begins) for path in files.values())


def test_a_static_chart_shows_the_data_of_its_definition(tmp_path):
    """As many dots as the definition has values."""
    values = [{"x": float(at), "y": float(at * at)} for at in range(7)]
    chart = alt.Chart(alt.Data(values=values)).mark_point().encode(x="x:Q", y="y:Q")
    path = write_charts(page_with(Chart("c", "A chart.", chart)), tmp_path, "svg")["c"]
    assert path.read_text().count('aria-roledescription="point"') == len(values)


def test_a_page_leaves_out_drawings_from_the_end_rather_than_growing():
    """Just under the size of the whole page the last drawing is a box that says so, and the first still stands."""
    document = page_with(*(Drawing(f"d{at}", f"Drawing {at}.", plot()) for at in range(3)))
    whole = html.page(document)
    assert whole.count('class="drawing"') == 3
    limit = len(whole.encode()) - 100
    page = html.page(document, limit)
    assert len(page.encode()) <= limit
    assert [f'id="drawing-d{at}"' in page for at in range(3)] == [True, True, False]
    assert "left out to keep this page under" in page


def test_a_page_of_2000_records_stays_under_its_limit():
    """Fifteen columns, a chart of all records, and as many drawings as fit."""
    once = table("big", 2000)
    columns = (*once.columns, *once.columns[1:6], *once.columns[1:4])
    big = Table("big", "All.", columns, tuple((*row, *row[1:6], *row[1:4]) for row in once.rows))
    values = [{"x": float(at), "y": float(at % 7), "backend": f"b{at % 9}"} for at in range(2000)]
    chart = Chart(
        "c", "All.", alt.Chart(alt.Data(values=values)).mark_point().encode(x="x:Q", y="y:Q", color="backend:N")
    )
    document = page_with(big, chart, *(Drawing(f"d{at}", "A drawing.", plot()) for at in range(3)))
    assert len(html.page(document).encode()) < html.PAGE_LIMIT


def test_a_plot_is_an_image_with_its_text_alternative():
    """The bytes that the training left, whole; what its names hold is text and never markup."""
    shown = replace(plot(), caption=NASTY, alternative=NASTY)
    parser = Cells()
    parser.feed(html.page(page_with(Drawing("d", "Of `cnf`.", shown))))
    [image] = [attributes for tag, attributes in parser.tags if tag == "img"]
    assert image["alt"] == NASTY
    assert base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")) == shown.svg


def test_names_in_backticks_are_code_and_a_lone_backtick_is_itself():
    """Pieces come in their order."""
    assert spans("use `direct` or ` alone") == (
        Span("use ", code=False),
        Span("direct", code=True),
        Span(" or ` alone", code=False),
    )


def test_what_has_no_value_sorts_last():
    """A number is its value, a name its text; a hole, a NaN and a figure without a value are nothing."""
    name, figure = Column("backend", numeric=False), Column("ms")
    entries = [Entry("1.2", 1.23), Entry("-"), Entry("nan", float("nan")), Entry("1.2")]
    assert [order(figure, entry) for entry in entries] == [1.23, None, None, None]
    entries = [Entry("direct"), Entry("z", "a"), Entry("-"), Entry(""), Entry("-", reason="no memory")]
    assert [order(name, entry) for entry in entries] == ["direct", "a", None, None, None]


RECORDS = (
    Record(
        run_id="r",
        cell_id="a",
        created_at="2026-01-02T03:04:05+00:00",
        nodebench_version="0",
        task="linear",
        model="linear",
        backend='adjoint[norm="x,y"]',
        dtype="float32",
        device="cpu",
        threads=1,
        seed=0,
        preset="smoke",
        status="ok",
        node="node-1",
        environment="0123abcd",
        step_s=0.1 + 0.2,
        peak_memory_bytes=2**40,
        loss=float("nan"),
        notes=["a stand-in, by name"],
        history=[{"epoch": 1.0, "train_loss": None}],
    ),
    Record(
        run_id="r",
        cell_id="b",
        created_at="2026-01-02T03:04:06+00:00",
        nodebench_version="0",
        task="linear",
        model="linear",
        dtype="float32",
        device="cpu",
        threads=1,
        seed=0,
        preset="smoke",
        status="failed",
        reason='two\nlines, "quoted"',
    ),
)


def rows(path):
    """What a file of records says, each row with the types of the store."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".json":
        structured = ("notes", "differences", "diagnostics", "history", "tolerance_sweep", "tracked_errors")
        read = json.loads(path.read_text())
        return [{n: json.dumps(v) if n in structured else v for n, v in row.items()} for row in read]
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_records_come_back_exactly(tmp_path, suffix):
    """Every field with its type; what was not measured or is not finite is null."""
    path = tmp_path / f"records.{suffix}"
    write_data(RECORDS, path)
    assert rows(path) == [record.to_row() for record in RECORDS]


def test_csv_has_every_digit_and_leaves_holes_empty(tmp_path):
    """Numbers read back as they were; null is nothing, not zero."""
    path = tmp_path / "records.csv"
    write_data(RECORDS, path)
    expected = [{n: "" if v is None else str(v) for n, v in record.to_row().items()} for record in RECORDS]
    assert rows(path) == expected
    assert float(rows(path)[0]["step_s"]) == RECORDS[0].step_s


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_no_records_are_a_file_too(tmp_path, suffix):
    """An empty store gives an empty table."""
    path = tmp_path / f"records.{suffix}"
    write_data((), path)
    assert rows(path) == []


def test_a_column_without_a_single_figure_keeps_its_type(tmp_path):
    """Null throughout is still a column of numbers in Parquet."""
    write_data(RECORDS[1:], tmp_path / "records.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "records.parquet")
    assert [str(schema.field(name).type) for name in ("step_s", "nfe_forward", "metric_name")] == [
        "double",
        "int64",
        "string",
    ]


def test_another_format_is_refused_with_those_there_are(tmp_path):
    """The message names the file and the formats."""
    with pytest.raises(UserError, match=r"records\.xlsx.*\.csv, \.json, \.parquet"):
        write_data(RECORDS, tmp_path / "records.xlsx")


def test_sections_and_folded_blocks_are_in_every_format():
    """Nothing of a page is lost on the way."""
    folded = Details("more", (Paragraph("deep down"),))
    document = Document("t", (("made", "today"),), (Paragraph("first"),), (Section("part", (folded,)),))
    for kind in ("html", "markdown", "latex"):
        text = written(kind, document)
        assert [word for word in ("made", "today", "first", "part", "more", "deep down") if word not in text] == []


def numbered(kind, *names):
    """Names of what a page has, as they are when it is made of things of these names."""
    make = {Table: table, Drawing: lambda name: Drawing(name, "Of it.", plot())}[kind]
    blocks = [make(name) for name in names]
    half = Details("more", tuple(blocks[1:]))
    document = Document("page", (), tuple(blocks[:1]), (Section("part", (half,)),))
    return [block.name for block in contents(document)]


@pytest.mark.parametrize("kind", [Table, Drawing])
def test_no_two_of_a_page_have_one_key(kind):
    """Names that differ in signs alone, or in capitals, would be one file; all but the first are numbered."""
    assert numbered(kind, "a[x=1]", "a[x=-1]", "other", "./a.py:T", "A.py-t") == [
        "a[x=1]", "a-x-1-2", "other", "./a.py:T", "A-py-t-2",
    ]  # fmt: skip


def test_a_page_that_is_made_again_keeps_its_names():
    """A number is given once."""
    document = Document("page", (), (table("a"), table("a"), table("a")))
    assert [block.name for block in replace(document, title="other").lead] == ["a", "a-2", "a-3"]


def test_drawings_of_like_names_are_files_of_their_own(tmp_path):
    """None overwrites another, and each is where the writer says."""
    one, other = plot(n=1), plot(n=2)
    document = Document("page", (), (Drawing("a[x=1]", "1.", one), Drawing("a[x=-1]", "-1.", other)))
    files = write_charts(document, tmp_path, "png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-x-1-2.png", "a-x-1.png"]
    assert len({path.read_bytes() for path in files.values()}) == 2


def test_a_page_that_its_tables_make_too_large_says_so():
    """It opens with its size, and tells of every drawing that it is left out."""
    document = Document("page", (), (table("a", 60), Drawing("d", "Of it.", plot())))
    page = html.page(document, limit=20_000)
    assert "a page under 0.02 MB" in page
    assert page.index("its tables and charts alone take") < page.index('id="table-a"')
    assert "with <code>-o page.md --charts png</code>" in page
    assert "nodebench report" not in page
    assert "a page under" not in html.page(document)


def test_a_terminal_shows_what_is_folded_away_and_why_entries_are_missing(capsys):
    """Every reason stands once below its table, with the number that its entries have."""
    print_page(Document("page", (), (Details("More of it", (table(), Paragraph("Last."))),)))
    printed = capsys.readouterr().out
    for text in ("More of it", "Last.", "- (1)", f"(1) {NO_MEMORY}", f"(2) {TIMEOUT}"):
        assert text in printed
