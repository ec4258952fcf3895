"""Pages as a reader sees them, in a headless Chromium."""

from concurrent.futures import ThreadPoolExecutor

import altair as alt
import pytest
from browser import (
    check_page,
    chromium,
    column,
    cut_off,
    empty_charts,
    faint,
    opened,
    overlaps,
    settle,
    unsorted,
    wide_charts,
)
from pages import hole, plot, rich_document, table, work_precision
from synthetic import ENVIRONMENTS, early, run, timed

from nodebench.reports.comparison import Machines
from nodebench.reports.document import Chart, Column, Details, Document, Drawing, Entry, Table
from nodebench.reports.report import report
from nodebench.reports.series import BACKENDS
from nodebench.reports.writers.html import first_screen, page

NUMBERS = Table(
    "numbers",
    "Ten is more than nine.",
    (Column("name", numeric=False), Column("ms")),
    (
        (Entry("b10"), Entry("1e+03", 1000.0)),
        (Entry("b9"), hole("no memory")),
        (Entry("a"), Entry("9", 9.0)),
        (hole(), Entry("10 ± 2", 10.0)),
        (Entry("c"), Entry("inf", float("inf"))),
        (Entry("d"), Entry("0.0", 0.001)),
    ),
)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A page with one of everything, as a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(rich_document()), "utf-8")
    return path


def document(*blocks):
    return Document("A page", (), blocks)


BROKEN = alt.Chart(alt.Data(values=[{"x": 1}])).mark_point().transform_calculate("y", "datum.x +").encode(x="x:Q")

LARGE = [{"x": at, "y": at % 7, "name": f"a name of some length {at}"} for at in range(1500)]


@pytest.fixture(scope="module")
def various(browser):
    """A page that is opened once for the tests of its parts."""
    large = alt.Chart(alt.Data(values=LARGE)).mark_point().encode(x="x:Q", y="y:Q")
    parts = document(
        work_precision(),
        NUMBERS,
        Chart("broken", "Broken.", BROKEN),
        Chart("large", "Large.", large),
        Details("more", (work_precision("folded"),)),
        Drawing("flow", "A flow.", plot("flow", "A flow", 5)),
    )
    with opened(browser, page(parts)) as tab:
        yield tab


@pytest.fixture
def tab(various):
    """The same, by day, wide, and with its rows in their own order, whatever the test before has done."""
    various.emulate_media(color_scheme="light")
    various.set_viewport_size({"width": 1440, "height": 900})
    various.evaluate("""
      for (const it of document.querySelectorAll("thead th"))
        for (let n = 0; n < 2 && it.getAttribute("aria-sort") !== "none"; n++) it.querySelector("button").click();
    """)
    settle(various)
    return various


def press(tab, at, key="Enter"):
    """Press a key on a heading, and read its order and its column."""
    heading = tab.locator("thead th").nth(at)
    heading.locator("button").press(key)
    return heading.get_attribute("aria-sort"), column(tab.locator("figure.table table"), at)


def test_a_page_with_everything_holds_what_every_page_must(browser, rich):
    """At both widths and in both modes: no errors, no requests, no overlaps, charts with marks, tables that sort."""
    check_page(browser, rich)


def test_an_empty_page_holds_what_every_page_must(browser):
    """A title alone."""
    check_page(browser, page(document()))


def test_numbers_sort_by_value_with_holes_last(tab):
    """By what they are worth, not by what is printed; a second press turns them round, a third restores them."""
    up = [0.001, 9.0, 10.0, 1000.0, float("inf"), None]
    before = column(tab.locator("figure.table table"), 1)
    assert press(tab, 1) == ("ascending", up)
    assert press(tab, 1) == ("descending", [*up[-2::-1], None])
    assert press(tab, 1) == ("none", before)


def test_names_sort_as_a_reader_counts_with_holes_last(tab):
    """b9 comes before b10; the space bar does what Enter does."""
    assert press(tab, 0, "Space") == ("ascending", ["a", "b9", "b10", "c", "d", None])
    assert press(tab, 0, "Space") == ("descending", ["d", "c", "b10", "b9", "a", None])


def test_rows_stay_whole(tab):
    """What stands in a row before sorting stands in it after."""
    rows = tab.locator("tbody tr")
    before = sorted(rows.all_inner_texts())
    press(tab, 1)
    assert sorted(rows.all_inner_texts()) == before
    assert tab.locator("thead th").nth(0).get_attribute("aria-sort") == "none"


def test_a_hole_gives_its_reason(tab):
    """To who points at it and to who hears the page."""
    entry = tab.locator("tbody [data-r]")
    assert entry.get_attribute("title") == "no memory"
    assert tab.locator(f"#{entry.get_attribute('aria-describedby')}").inner_text() == "no memory"


def test_a_chart_changes_its_colours_with_the_page(tab):
    """Its text is dark by day and light by night, and its marks stay."""
    label = "getComputedStyle(document.querySelector('svg .role-axis-label text')).fill"
    day = tab.evaluate(label)
    tab.emulate_media(color_scheme="dark")
    settle(tab)
    assert tab.evaluate(label) != day
    assert empty_charts(tab) == ["chart-broken"]


def test_a_chart_takes_the_width_there_is(tab):
    """It is as wide as its place, and follows it."""
    widths = "['.chart svg', '.chart .canvas'].map((it) => document.querySelector(it).clientWidth)"
    wide, place = tab.evaluate(widths)
    assert wide == place
    tab.set_viewport_size({"width": 500, "height": 800})
    settle(tab)
    narrow, place = tab.evaluate(widths)
    assert narrow == place
    assert narrow < wide


def test_a_chart_that_cannot_be_drawn_says_so(tab):
    """A definition that Vega-Lite refuses leaves its reason in its place, and the next charts are drawn."""
    assert "This chart could not be drawn" in tab.locator("#chart-broken .canvas").inner_text()
    assert empty_charts(tab) == ["chart-broken"]


def test_a_large_definition_comes_compressed_and_is_drawn(tab):
    """All of its marks are there."""
    assert tab.locator("#chart-large > script").get_attribute("type") == "application/gzip"
    assert tab.locator("#chart-large .mark-symbol.role-mark path").count() == len(LARGE)


def test_a_folded_chart_is_drawn_when_it_is_unfolded(tab):
    """`opened` unfolds everything."""
    assert tab.locator("details #chart-folded svg .role-mark path").count() > 0
    assert "chart-folded" not in empty_charts(tab)


def test_a_plot_stands_on_a_light_card(tab):
    """By day and by night, since it is what the training left; its alternative says what stands within it."""
    ground = "getComputedStyle(document.querySelector('.plot')).backgroundColor"
    day = tab.evaluate(ground)
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate(ground) == day == "rgb(255, 255, 255)"
    assert tab.locator(".plot img").get_attribute("alt") == "K = 0; K = 1; K = 2; K = 3; K = 4"


def test_a_plot_stays_legible_on_a_telephone(tab):
    """It fits a wide page whole; on a narrow one it scrolls within its card rather than shrinking further."""
    width = "document.querySelector('.plot img').getBoundingClientRect().width"
    room = "document.querySelector('.plot').clientWidth"
    assert tab.evaluate("document.querySelector('.plot img').naturalWidth") > 0
    assert tab.evaluate(width) <= tab.evaluate(room)
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate(width) > 500
    assert tab.evaluate(room) < 390
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_2000_rows_scroll_in_a_box_of_their_own(browser):
    """The page stays short, and sorts."""
    with opened(browser, page(document(table("big", 2000)))) as tab:
        assert tab.evaluate("document.documentElement.scrollHeight") < 2000
        assert unsorted(tab) == []


BAD = """<!DOCTYPE html><body style="background:#fff;color:#000;margin:0">
<p>one text</p><p style="position:absolute;top:20px;margin:0">another text</p>
<p style="color:#ccc">hardly there</p>
<svg width="50" height="20"><text x="20" y="15">reaches out of it</text></svg>
<figure class="chart" id="chart-empty"><div class="canvas" style="width:200px;overflow:auto">
<div style="width:400px">x</div></div></figure>
<figure class="table" id="table-still"><div><table>
<thead><tr><th aria-sort="none" data-n><button>n</button></th></tr></thead>
<tbody><tr><td>2</td></tr><tr><td>1</td></tr></tbody></table></div></figure>
<img src="https://example.org/x.png">
<script>console.error("a complaint"); document.documentElement.dataset.charts = "drawn"</script></body>"""


@pytest.fixture(scope="module")
def bad(browser):
    """A page with one of every fault."""
    with opened(browser, BAD) as tab:
        yield tab


@pytest.mark.parametrize(
    ("check", "found"),
    [
        (overlaps, "one text | another text"),
        (faint, "hardly there"),
        (cut_off, "reaches out of it"),
        (empty_charts, "chart-empty"),
        (wide_charts, "chart-empty"),
        (unsorted, "table-still, column 0, ascending"),
    ],
)
def test_every_check_finds_its_fault(bad, check, found):
    """A check that finds nothing on a bad page would prove nothing of a good one."""
    assert any(fault.startswith(found) for fault in check(bad))


def test_errors_and_requests_are_complaints(bad):
    """What the page logs, and what it asks of the network."""
    assert "https://example.org/x.png" in bad.complaints
    assert "a complaint" in bad.complaints


def test_a_browser_starts_where_jax_is_loaded():
    """JAX warns of a fork, and a warning is an error: Playwright starts its processes without one."""
    jax = pytest.importorskip("jax")
    jax.numpy.zeros(1).block_until_ready()

    def starts():
        with chromium() as other:
            return other.is_connected()

    # In a thread of its own, since this one may have a browser's event loop already.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(starts).result()


FIRST_SCREENS = ((1280, 800), (390, 844))


@pytest.fixture(scope="module")
def glance(tmp_path_factory):
    """A report of all gradient methods and of one with a long name, near each other, as a file."""
    ratios = {name: 0.5 + 0.13 * at for at, name in enumerate((*BACKENDS, "checkpoint[checkpoints=8,land=true]"))}
    cells = [
        timed(name, None if name == "direct" else ratio, half=0.05, peak_memory_bytes=int(ratio * 2**22),
              grad_error_params=10.0 ** -(2 + at % 4), task="./a/folder/of/mine.py:Mine")
        for at, (name, ratio) in enumerate(ratios.items())
    ]  # fmt: skip
    records = [*cells, early("mine", "oom", reason="no memory was left.", task="./a/folder/of/mine.py:Mine")]
    machines = Machines.of(records, ENVIRONMENTS)
    path = tmp_path_factory.mktemp("glance") / "report.html"
    path.write_text(page(report(records, [run()], machines, lambda _: (), "nodebench report", "now")), "utf-8")
    return path


def box(tab, selector):
    """Where an element that is seen lies."""
    return tab.evaluate(
        """(selector) => {
          const shown = [...document.querySelectorAll(selector)].find((it) => it.getBoundingClientRect().width);
          const { left, right, top, bottom } = shown.getBoundingClientRect();
          return { left, right, top, bottom };
        }""",
        selector,
    )


def sideways(tab, selector):
    """By how many pixels an element scrolls sideways."""
    return tab.evaluate("(it) => (it = document.querySelector(it)).scrollWidth - it.clientWidth", selector)


@pytest.mark.parametrize("size", FIRST_SCREENS)
def test_the_first_screen_has_question_answer_and_picture(browser, glance, size):
    """They lie one below the other in what is seen at once, and what comes next is the table, with all main columns."""
    with opened(browser, glance, size) as tab:
        heading, answer, picture = (box(tab, it) for it in ("h1", ".lead ul", ".lead .picture svg"))
        assert heading["bottom"] <= answer["top"]
        assert answer["bottom"] <= picture["top"]
        assert picture["bottom"] <= 800
        assert sideways(tab, "html") <= 0
        assert sideways(tab, ".lead .table.main .scroll") <= 0
        titles = {
            it.inner_text(): it.bounding_box() for it in tab.locator(".lead .table.main").first.locator("th").all()
        }
        for title in ("error", "NFE", "MiB", "ms", "ratio"):
            assert titles[title]["x"] + titles[title]["width"] <= size[0]
        assert box(tab, ".facts")["top"] > 800


def test_a_report_of_many_methods_holds_what_every_page_must(browser, glance):
    """No two names of its picture lie over each other, by day and by night, at both widths."""
    check_page(browser, glance)


def test_further_columns_are_seen_by_who_asks_for_them(browser, glance):
    """By the space bar, without a script, and those that are not hidden stay."""
    with browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 800}) as context:
        tab = context.new_page()
        tab.goto(glance.as_uri())
        table = tab.locator(".lead .table.main").first
        assert table.locator("th", has_text="error d/dy0").is_hidden()
        assert table.locator("th", has_text="ratio").first.is_visible()
        table.locator("input").press("Space")
        assert table.locator("th", has_text="error d/dy0").is_visible()
        assert table.locator("th", has_text="ratio").first.is_visible()
        assert tab.locator(".lead .picture svg.wide").is_visible()


@pytest.mark.parametrize(("ground", "ink"), [("#ffffff", "#111111"), ("#111111", "#dddddd")])
def test_a_first_screen_in_a_notebook_takes_its_colours(browser, ground, ink):
    """Without a script or a network, and legible on any ground: text and lines have the colour of what is around."""
    records = [timed("direct"), timed("adjoint", 1.5, peak_memory_bytes=2**19, grad_error_params=1e-3)]
    document = report(records, [run()], Machines.of(records, ENVIRONMENTS), lambda _: (), "nodebench", "now")
    fragment = first_screen(document)
    assert "<script" not in fragment
    assert "error d/dy0" not in fragment
    around = f'<!DOCTYPE html><body style="background:{ground};color:{ink};margin:0">{fragment}</body>'
    with opened(browser, around, (1280, 800)) as tab:
        assert faint(tab) == []
        assert overlaps(tab) == []
        assert cut_off(tab) == []
        assert tab.complaints == []
        for text in ("Which gradient method for", "Fastest: direct, 10 ms", "Choose direct for time and exactness"):
            assert text in tab.locator(".nodebench-first").inner_text()
