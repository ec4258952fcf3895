"use strict";

// Tables: a heading sorts its column up, then down, then as it was; what has no value stays last.
for (const figure of document.querySelectorAll("figure.table")) {
  const table = figure.querySelector("table");
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const collator = new Intl.Collator("en", { numeric: true });

  for (const entry of body.querySelectorAll("[data-r]")) {
    const reason = document.getElementById(`${figure.id}-r${entry.dataset.r}`);
    entry.title = reason.textContent;
    entry.setAttribute("aria-describedby", reason.id);
  }

  for (const term of figure.querySelectorAll(".meanings dt")) {
    const heading = headings.find((it) => it.textContent === term.textContent);
    if (heading) heading.title = term.nextElementSibling.textContent;
  }

  const value = (row, at, numeric) => {
    const entry = row.cells[at];
    if (entry.classList.contains("x")) return null;
    let text = entry.dataset.v;
    if (text === undefined) {
      const note = entry.querySelector("sup");
      text = entry.textContent.slice(0, entry.textContent.length - (note ? note.textContent.length : 0));
    }
    const number = Number(text);
    return numeric && !Number.isNaN(number) ? number : text;
  };

  const compare = (one, other) => {
    if (typeof one === "number" && typeof other === "number") return one < other ? -1 : one > other ? 1 : 0;
    if (typeof one === typeof other) return collator.compare(one, other);
    return typeof one === "number" ? -1 : 1;
  };

  headings.forEach((heading, at) => {
    heading.querySelector("button").addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[heading.ariaSort];
      for (const other of headings) other.ariaSort = "none";
      heading.ariaSort = next;
      const sign = next === "descending" ? -1 : 1;
      const keyed = rows.map((row) => [row, value(row, at, heading.hasAttribute("data-n"))]);
      if (next !== "none") {
        keyed.sort(([, one], [, other]) => {
          if (one === null || other === null) return (one === null) - (other === null);
          return sign * compare(one, other);
        });
      }
      body.append(...keyed.map(([row]) => row));
    });
  });
}

// Charts: definitions as the page holds them, fitted to its width and colours, drawn again when either changes.
const bundle = document.getElementById("bundle");
if (bundle) {
  const AXIS = 62;
  const LEAST = 250;
  const ENTRY = 175;
  const TURNS = 6;
  const NEAR = 12;
  const PADDING = 5;
  const page = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const configs = JSON.parse(document.getElementById("configs").textContent);

  const text = async (element) => {
    if (element.type !== "application/gzip") return element.textContent;
    const packed = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  const abreast = (width, most) => Math.max(1, Math.min(most, Math.floor(width / LEAST)));

  // Vega-Lite fits single views to a width by itself, but not several side by side.
  const fitted = (spec, width, single) => {
    const parts = spec.concat || spec.hconcat || spec.vconcat;
    if (parts) {
      const { concat, hconcat, vconcat, ...rest } = spec;
      const columns = vconcat ? 1 : abreast(width, spec.columns || parts.length);
      const each = width / columns - (columns > 1 ? 16 : 0);
      return { ...rest, columns, concat: parts.map((part) => fitted(part, each, false)) };
    }
    const inner = (columns) => Math.max(120, (width - AXIS) / columns - (columns > 1 ? 24 : 0));
    const [outer, own] = [spec.facet || {}, spec.encoding || {}];
    if (outer.field || (outer.column && !outer.row)) {
      const facet = outer.column || outer;
      const columns = abreast(width, spec.columns || Infinity);
      return { ...spec, facet, columns, spec: { ...spec.spec, width: inner(columns) } };
    }
    if (own.facet || (own.column && !own.row)) {
      const { facet, column, ...rest } = own;
      const columns = abreast(width, (facet && facet.columns) || spec.columns || Infinity);
      return { ...spec, width: inner(columns), encoding: { ...rest, facet: { ...(facet || column), columns } } };
    }
    if (outer.row && !outer.column) return { ...spec, spec: { ...spec.spec, width: inner(1) } };
    if (own.row && !own.column) return { ...spec, width: inner(1) };
    if (spec.facet || spec.repeat || own.row) return spec;
    return single
      ? { ...spec, width, autosize: { type: "fit-x", contains: "padding" } }
      : { ...spec, width: Math.max(120, width - AXIS) };
  };

  const draw = async (figure) => {
    const canvas = figure.querySelector(".canvas");
    try {
      const width = Math.floor(canvas.clientWidth);
      const spec = JSON.parse(await text(figure.querySelector("script")));
      const caption = figure.querySelector("figcaption").textContent;
      const config = structuredClone(configs[dark.matches ? "dark" : "light"]);
      config.legend.columns = Math.max(1, Math.floor(width / ENTRY));
      const place = document.createElement("div");
      canvas.replaceChildren(place);
      // Only what is drawn shows how much room axes, labels and legends take.
      for (let room = width, turn = 0; turn < TURNS; turn++) {
        await vegaEmbed(place, { description: caption, ...fitted(spec, room, true) }, {
          config,
          renderer: "svg",
          defaultStyle: false,
          tooltip: { disableDefaultStyle: true },
          actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
          i18n: { SVG_ACTION: "Save as SVG", PNG_ACTION: "Save as PNG" },
          downloadFileName: figure.dataset.name,
        });
        const svg = place.querySelector("svg");
        const labels = [...svg.querySelectorAll(".role-legend-label text")].map((label) => label.getBoundingClientRect());
        const cut = Math.max(...labels.map((box) => box.right)) - svg.getBoundingClientRect().left - (width - PADDING);
        const over = svg.width.baseVal.value - width;
        if (cut > 1 && config.legend.columns > 1) config.legend.columns -= 1;
        else if (cut > 1) config.legend.labelLimit = Math.max(...labels.map((box) => box.width)) - cut;
        else if (over > 1 || over < -NEAR) room -= over;
        else break;
      }
    } catch (error) {
      const note = document.createElement("p");
      note.className = "missing";
      note.textContent = `This chart could not be drawn: ${error.message}`;
      canvas.replaceChildren(note);
    }
  };

  const loaded = (async () => {
    const script = document.createElement("script");
    script.textContent = await text(bundle);
    document.head.append(script);
  })().catch((error) => console.warn(error));

  const pending = new Set();
  const drawPending = async () => {
    if (page.dataset.charts === "drawing") return;
    page.dataset.charts = "drawing";
    await loaded;
    for (const figure of pending) {
      pending.delete(figure);
      await draw(figure);
    }
    page.dataset.charts = "drawn";
  };

  // A chart that is folded away has no width; it is drawn when it is unfolded.
  const figures = [...document.querySelectorAll("figure.chart")];
  const widths = new Map();
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (!target.clientWidth || target.clientWidth === widths.get(target)) continue;
      widths.set(target, target.clientWidth);
      pending.add(target.closest("figure"));
    }
    if (pending.size) drawPending();
  });
  for (const figure of figures) observer.observe(figure.querySelector(".canvas"));
  dark.addEventListener("change", () => {
    for (const figure of figures) if (figure.querySelector(".canvas").clientWidth) pending.add(figure);
    drawPending();
  });
}
