"""A page that has one of everything, for the tests of what writes pages."""

import altair as alt
import numpy as np
from matplotlib.figure import Figure

from nodebench.plots import Plot, render
from nodebench.reports.document import (
    Bullets,
    Chart,
    Column,
    Details,
    Document,
    Drawing,
    Entry,
    Missing,
    Paragraph,
    Section,
    Table,
)

BACKENDS = ("adjoint", "adjoint[norm=seminorm]", "checkpoint[checkpoints=8]", "direct", "diffrax", "torchdiffeq")

NO_MEMORY = "ran out of memory: 12.4 GiB were asked for & 8 GiB are there"

TIMEOUT = "took longer than 600 s | see `--timeout-s`"


def hole(reason=None):
    return Entry("-", reason=reason)


def table(name="costs", n_rows=6):
    """A table of names, numbers with intervals, and holes with reasons that repeat."""
    columns = (
        Column("backend", "Gradient method with its options.", numeric=False),
        Column("err dp", "Relative L2 error of d/dparams against the reference."),
        Column("peak MiB", "Peak of one gradient step above the idle process, by `memray`."),
        Column("step ms", "Geometric mean over starts of the median over rounds."),
        Column("95 %", "Its 95 % interval."),
        Column("NFE f+b"),
        Column("verdict", numeric=False),
    )
    rng = np.random.default_rng(1)
    rows = []
    for at in range(n_rows):
        name_of = Entry(f"`{BACKENDS[at % len(BACKENDS)]}`" + (f" {at}" if n_rows > len(BACKENDS) else ""))
        if at % 6 == 3:
            rows.append((name_of, *(hole(NO_MEMORY) for _ in range(5)), Entry("oom", "oom", NO_MEMORY)))
            continue
        error, peak, step = 10.0 ** -rng.uniform(2, 7), rng.uniform(3, 900), rng.uniform(10, 3000)
        nfe = int(rng.integers(20, 400))
        rows.append(
            (
                name_of,
                Entry(f"{error:.2g}", error, best=at == 0),
                Entry(f"{peak:.4g}", peak, best=at == 1),
                Entry(f"{step:.4g}", step) if at % 6 != 4 else hole(TIMEOUT),
                Entry(f"{step * 0.97:.4g}..{step * 1.03:.4g}", step) if at % 6 != 4 else hole(),
                Entry(f"{nfe}+{2 * nfe}", 3 * nfe),
                Entry(("faster", "slower", "undecided")[at % 3]),
            )
        )
    return Table(name, "What a gradient step costs, by backend, at rtol 1e-5.", columns, tuple(rows))


def work_precision(name="work-precision"):
    """Error against time, a line per backend, on logarithmic axes."""
    values = [
        {"backend": backend, "ms": 10.0 * (at + 1) * 1.7**step, "error": 10.0 ** -(step + 0.3 * at)}
        for at, backend in enumerate(BACKENDS)
        for step in range(5)
    ]
    lines = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True)
        .encode(
            x=alt.X("ms:Q", scale=alt.Scale(type="log"), title="time of a gradient step (ms)"),
            y=alt.Y("error:Q", scale=alt.Scale(type="log"), title="relative error of d/dparams").axis(format="e"),
            color="backend:N",
            tooltip=["backend:N", "ms:Q", "error:Q"],
        )
        .properties(width=560, height=320)
    )
    return Chart(
        name, "Error of the gradient against the time of a step; each line is a backend over tolerances.", lines
    )


def facets(name="steps"):
    """Memory against steps, one small chart per task."""
    values = [
        {"task": task, "steps": 2**step, "MiB": 2.0 ** (step * power), "law": law}
        for task in ("linear", "spiral", "cnf", "mnist")
        for law, power in (("direct", 1.0), ("adjoint", 0.1))
        for step in range(1, 7)
    ]
    lines = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True)
        .encode(x=alt.X("steps:Q").scale(type="log", base=2), y=alt.Y("MiB:Q").scale(type="log"), color="law:N")
        .properties(width=200, height=160)
        .facet("task:N", columns=4)
    )
    return Chart(name, "Peak memory against accepted steps.", lines)


def bars(name="nfe"):
    """Two charts side by side."""
    values = [{"backend": b, "nfe": 20 * (at + 1)} for at, b in enumerate(BACKENDS)]
    base = alt.Chart(alt.Data(values=values)).properties(width=240, height=180)
    forward = base.mark_bar().encode(x=alt.X("nfe:Q", title="NFE forward"), y=alt.Y("backend:N", title=None))
    backward = base.mark_point(filled=True).encode(
        x=alt.X("nfe:Q", title="NFE backward"), y=alt.Y("backend:N", title=None), color="backend:N"
    )
    return Chart(name, "Evaluations of the field.", alt.hconcat(forward, backward))


def plot(name="densities", caption="Learned densities", n=3):
    """A plot of a few parts, as a training leaves it."""
    figure = Figure(figsize=(2.2 * n, 2.4), layout="constrained")
    x = np.linspace(-3, 3, 60)
    for at, axes in enumerate(figure.subplots(1, n, squeeze=False)[0]):
        axes.imshow(np.exp(-((x[None] - at) ** 2 + (x[:, None] + at) ** 2)), interpolation="none")
        axes.set_title(f"K = {at}")
    return render(lambda: [Plot(name, caption, figure)])[0]


def rich_document():
    """A page with every kind of block."""
    drawings = (
        Drawing("densities", "Of `cnf` on moons, `adjoint`.", plot()),
        Drawing("flow", "Of `cnf` on moons, `direct`.", plot("flow", "From noise to data", 5)),
        Drawing("misread", "Of `odenet`; the label first.", plot("misread", "Misread digits", 1)),
    )
    exactness = table("accuracy")
    return Document(
        "Gradient methods of neural ODEs",
        (
            ("made", "2026-01-02 03:04 UTC"),
            ("machine", "2 cores, AMD EPYC, 24 GiB"),
            ("command", "`nodebench run -b all -t all --preset quick --store results.db`"),
            ("version", "0.1.0, torch 2.13.0, jax 0.9"),
        ),
        (
            Paragraph("On `linear`, `direct` is the fastest: 1.42 ms a step, 0.61 of `torchdiffeq` (0.58..0.64)."),
            Bullets(
                (
                    "Leanest on `spiral`: `checkpoint[checkpoints=8]`, 3.2 MiB.",
                    "Undecided on `cnf`: `adjoint` and `diffrax`; their intervals overlap.",
                    "Not measured: 2 cells, for lack of memory.",
                )
            ),
        ),
        (
            Section("linear", (Paragraph("A problem with a closed form."), exactness, work_precision(), bars())),
            Section(
                "All tasks, and a heading that is long enough to need a second line on a phone",
                (facets(), Missing("work-precision diagram of `mnist`", "only one tolerance was run."), *drawings),
            ),
            Section("Settings", (Details("Every cell's settings", (table("settings", 60), work_precision("folded"))),)),
        ),
    )
