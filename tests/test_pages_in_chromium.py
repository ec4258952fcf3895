"""Pages as a reader sees them, in a headless Chromium."""

import pytest
from browser import check_page
from pages import rich_document

from nodebench.reports.html import page


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A page with one of everything, as a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(rich_document()), "utf-8")
    return path


def test_a_page_with_everything_holds_what_every_page_must(browser, rich):
    """At both widths and in both modes: no errors, no requests, no overlaps, charts with marks, tables that sort."""
    check_page(browser, rich)
