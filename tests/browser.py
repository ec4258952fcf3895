"""A headless Chromium, and what every page must hold in it at any width, by day and by night."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

SIZES = ((1440, 900), (390, 844))

MODES = ("light", "dark")

MANY_ROWS = 200
"""Rows from which only the first columns of a table are sorted."""

LEAST_CONTRAST = 4.0
"""Of a text against its ground; WCAG's AA wants 4.5 of small text, less of large."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none, unless `NODEBENCH_REQUIRE_CHROMIUM` is set."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        reason = f"none of {', '.join(CHROMIUM)} is installed (Debian: apt-get install chromium)"
        if os.environ.get("NODEBENCH_REQUIRE_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        browser.idle = []
        yield browser
        browser.close()


@contextmanager
def opened(browser, page, size=SIZES[0], mode="light"):
    """A page, with its charts drawn and all that is folded away unfolded.

    Args:
        browser: What the fixture `browser` gives.
        page: The page as a file, or its HTML.
        size: Width and height of the window.
        mode: `light` or `dark`.
    """
    # A tab costs more than most pages: those that are done with are kept for the next.
    tab = browser.idle.pop() if browser.idle else _tab(browser)
    tab.goto("about:blank")
    tab.set_viewport_size({"width": size[0], "height": size[1]})
    tab.emulate_media(color_scheme=mode)
    tab.complaints = []
    if isinstance(page, Path):
        tab.goto(page.resolve().as_uri())
    else:
        tab.set_content(page)
    tab.evaluate("for (const it of document.querySelectorAll('details')) it.open = true")
    settle(tab)
    yield tab
    browser.idle.append(tab)


def _tab(browser):
    tab = browser.new_context().new_page()
    tab.on("console", lambda message: message.type == "error" and tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("request", lambda request: tab.complaints.append(request.url) if _asks_network(request.url) else None)
    tab.complaints = []
    return tab


def settle(tab) -> None:
    """Wait until every chart is drawn for the window as it is."""
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    tab.wait_for_function(
        "!document.querySelector('figure.chart') || document.documentElement.dataset.charts === 'drawn'",
        timeout=60_000,
    )


def check_page(browser, page) -> None:
    """Assert everything that must hold of a page of ours, at both widths and in both modes.

    No errors and no requests; nothing but a table scrolls sideways; no text over other text or cut off; text stands out
    from its ground; charts have marks; tables sort by each of their columns.

    Args:
        browser: What the fixture `browser` gives.
        page: The page as a file, or its HTML.
    """
    for size in SIZES:
        with opened(browser, page, size, MODES[0]) as tab:
            for mode in MODES:
                tab.emulate_media(color_scheme=mode)
                settle(tab)
                where = f"at {size[0]} pixels, {mode}"
                assert empty_charts(tab) == [], where
                assert overlaps(tab) == [], where
                assert cut_off(tab) == [], where
                assert wide_charts(tab) == [], where
                assert faint(tab) == [], where
                assert tab.evaluate("document.documentElement.scrollWidth") <= size[0], where
            if size == SIZES[0]:
                assert unsorted(tab) == []
            assert tab.complaints == []


def overlaps(tab) -> list[str]:
    """Pairs of texts that lie over one another, as far as they are seen."""
    return tab.evaluate(f"(() => {{ {_SEEN} return overlaps() }})()")


def cut_off(tab) -> list[str]:
    """Texts of charts that reach out of the chart."""
    return tab.evaluate(f"(() => {{ {_SEEN} return cutOff() }})()")


def faint(tab) -> list[str]:
    """Texts that hardly stand out from the page, with their contrast."""
    seen = tab.evaluate(f"(() => {{ {_SEEN} return colours() }})()")
    ground = _luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    contrasts = {f"{text}: {colour}": _contrast(_luminance(colour), ground) for text, colour in seen}
    return [f"{name} {contrast:.1f}" for name, contrast in contrasts.items() if contrast < LEAST_CONTRAST]


def empty_charts(tab) -> list[str]:
    """Names of charts without a single mark."""
    return tab.evaluate(
        """[...document.querySelectorAll("figure.chart")].filter((figure) => {
          const marks = figure.querySelectorAll("svg .role-mark :is(path, line, rect, image, text)");
          const boxes = [...marks].map((mark) => mark.getBoundingClientRect());
          return !boxes.some((box) => box.width + box.height > 1);
        }).map((figure) => figure.id)"""
    )


def wide_charts(tab) -> list[str]:
    """Names of charts that do not fit their place."""
    return tab.evaluate(
        """[...document.querySelectorAll("figure.chart .canvas")]
          .filter((canvas) => canvas.scrollWidth > canvas.clientWidth + 1).map((canvas) => canvas.parentElement.id)"""
    )


def unsorted(tab) -> list[str]:
    """Columns that are not in order after a click (up) or two (down), as `table, column, direction`."""
    wrong = []
    for name, at, direction, sort, entries in tab.evaluate(f"(() => {{ {_ENTRIES} return clicked() }})()"):
        values = list(map(_worth, entries))
        there = [value for value in values if value is not None]
        if sort != direction or values[: len(there)] != there or not _runs(there, direction):
            wrong.append(f"{name}, column {at}, {direction}: {values[:20]}")
    return wrong


def column(table, at: int) -> list[float | str | None]:
    """What the entries of a column are worth, from above: a number, a text, or None for a hole."""
    return list(map(_worth, table.evaluate(f"(table, at) => {{ {_ENTRIES} return entries(table, at) }}", at)))


_ENTRIES = f"""
const entries = (table, at) => [...table.tBodies[0].rows].map((row) => {{
  const entry = row.cells[at].cloneNode(true);
  for (const note of entry.querySelectorAll("sup")) note.remove();
  const numeric = "n" in table.tHead.rows[0].cells[at].dataset;
  return [entry.dataset.v ?? entry.textContent, entry.className.includes("x"), numeric];
}});
const clicked = () => [...document.querySelectorAll("figure.table table")].flatMap((table) => {{
  const headings = [...table.querySelectorAll("thead th")], many = table.tBodies[0].rows.length > {MANY_ROWS};
  return headings.slice(0, many ? 2 : undefined).flatMap((heading, at) => {{
    const button = heading.querySelector("button");
    const found = ["ascending", "descending"].map((direction) => {{
      button.click();
      return [table.closest("figure").id, at, direction, heading.getAttribute("aria-sort"), entries(table, at)];
    }});
    button.click();
    return found;
  }});
}});
"""


def _worth(entry: tuple[str, bool, bool]) -> float | str | None:
    text, hole, numeric = entry
    return None if hole else _value(text) if numeric else text


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _runs(values: list[Any], direction: str) -> bool:
    """Whether values run in a direction: numbers before texts when they rise, texts as a reader counts."""

    def place(value: float | str) -> tuple[Any, ...]:
        if isinstance(value, float):
            return (0, value)
        digits = re.split(r"(\d+)", value.casefold())
        words = (re.sub(r"[^0-9a-z]", "", piece) for piece in digits)
        return (1, *((int(word), "") if word.isdigit() else (-1, word) for word in words))

    places = [place(value) for value in values]
    if any(len(set(map(type, values))) > 1 or not re.fullmatch(r"[\w .]*", str(value)) for value in values):
        # Punctuation is the collator's affair; what counts here is that the numbers among them run.
        places = [item for item in places if item[0] == 0]
    return places == sorted(places, reverse=direction == "descending")


def _asks_network(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "about:"))


def _luminance(colour: str) -> float:
    channels = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


_SEEN = """
const SLACK = 2;
const clip = (element) => {
  const seen = { left: 0, top: -1e9, right: innerWidth, bottom: 1e9 };
  for (let it = element; it && it !== document.body; it = it.parentElement) {
    if (it instanceof SVGElement || getComputedStyle(it).overflow === "visible") continue;
    const box = it.getBoundingClientRect();
    seen.left = Math.max(seen.left, box.left); seen.right = Math.min(seen.right, box.right);
    seen.top = Math.max(seen.top, box.top); seen.bottom = Math.min(seen.bottom, box.bottom);
  }
  return seen;
};
const visible = (element) => {
  const style = getComputedStyle(element);
  return style.visibility !== "hidden" && style.display !== "none" && style.opacity !== "0";
};
const texts = () => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const clips = new Map();
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, noscript") || !visible(element)) continue;
    let boxes;
    if (element.closest("svg")) boxes = [element.closest("text")?.getBoundingClientRect()].filter(Boolean);
    else { const range = document.createRange(); range.selectNodeContents(node); boxes = range.getClientRects(); }
    if (!clips.has(element)) clips.set(element, clip(element));
    const seen = clips.get(element);
    for (const box of boxes) {
      const part = { left: Math.max(box.left, seen.left), right: Math.min(box.right, seen.right),
                     top: Math.max(box.top, seen.top), bottom: Math.min(box.bottom, seen.bottom) };
      if (part.right - part.left > SLACK && part.bottom - part.top > SLACK)
        found.push({ ...part, text: node.data.trim().slice(0, 40), element });
    }
  }
  return found;
};
// The heading and the first column of a table stay in place; what scrolls beneath them is hidden by their ground.
const stays = (cell) => cell && getComputedStyle(cell).position === "sticky"
  && getComputedStyle(cell).backgroundColor !== "rgba(0, 0, 0, 0)";
const covered = (one, other) => {
  const [cell, beneath] = [one, other].map(({ element }) => element.closest("td, th"));
  return cell && beneath && cell !== beneath && cell.closest("table") === beneath.closest("table")
    && (stays(cell) || stays(beneath));
};
const overlaps = () => {
  const all = texts().sort((one, other) => one.top - other.top), found = [];
  all.forEach((one, at) => {
    for (let next = at + 1; next < all.length && all[next].top < one.bottom - SLACK; next++) {
      const other = all[next];
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      const same = one.element === other.element && one.text === other.text;
      if (across > SLACK && down > SLACK && !same && !covered(one, other))
        found.push(`${one.text} | ${other.text} (${across.toFixed(0)} x ${down.toFixed(0)})`);
    }
  });
  return found.slice(0, 20);
};
const cutOff = () => [...document.querySelectorAll("svg text")].filter((text) => {
  const box = text.getBoundingClientRect(), whole = text.ownerSVGElement.getBoundingClientRect();
  return box.width && visible(text) && (box.left < whole.left - SLACK || box.right > whole.right + SLACK
    || box.top < whole.top - SLACK || box.bottom > whole.bottom + SLACK);
}).map((text) => text.textContent.slice(0, 40));
const colours = () => texts().map(({ text, element }) => {
  const style = getComputedStyle(element);
  return [text, element.closest("svg") ? style.fill : style.color];
});
"""
