"""Figures 4 and 5: continuous and planar flows, matched to densities or fitted to samples."""

from nodebench.paper.pages import DIGITS, Place, Sample, Source, page, sample
from nodebench.paper.plans import SAMPLED, SIZES, TARGETS
from nodebench.paper.verdicts import below, counted, rule
from nodebench.reports.document import Block, Chart, Column, Document, Entry, Missing, Section, Table
from nodebench.reports.series import Axis, Row, lines

KL = Axis("KL(q || p), nats", log=True)
SIZE = Axis("hidden units M, layers K", log=True)
TOOLTIP = {"series": "flow", "text": "mean over seeds"}

SOLVED = "adjoint"
"""The continuous flow's gradient method, as in the paper."""

PLANAR_DIRECTION = (
    "Planar layers have no closed inverse. They run from the base to the samples where a density is matched, and from "
    "the samples to the base where a data set is fitted; the paper does not say which way its planar flow runs."
)

COMMON_DEVIATIONS = (
    "The paper gives neither learning rates, batch, hypernetwork nor time span; the task `cnf` says what it takes.",
    PLANAR_DIRECTION,
)


def matching(source: Source) -> Document:
    """The page of `figure4`."""
    columns = (
        Column("target", numeric=False),
        Column("M or K"),
        Column("CNF, nats", "KL(q || p) of the continuous flow with M hidden units, on fresh samples."),
        Column("planar, nats", "The same of the flow of K planar layers."),
    )
    rows = tuple(
        (
            Entry(target, target),
            Entry(str(size), size),
            *(_kl(source, target, size, m).entry(DIGITS) for m in ("cnf", "planar")),
        )
        for target in TARGETS
        for size in SIZES
    )
    table = Table("figure4", "Divergence of the flows from their targets; the paper prints no figures.", columns, rows)
    charts = tuple(_chart(source, target) for target in TARGETS)
    drawings = tuple(Section(f"Densities: target {target}", tuple(_densities(source, target))) for target in TARGETS)
    return page(
        source,
        "Figure 4: density matching",
        "The paper matches continuous flows of M = 2, 8 and 32 hidden units and flows of K = 2, 8 and 32 planar layers "
        "to three densities, by minimising KL(q || p), and shows that the continuous flow has the lower loss.",
        _matching_claims(source),
        [Section("Loss against M or K", (table, *charts)), *drawings],
        [
            "Metric: KL(q || p) with the target's normalisation known, on the window [-4, 4]^2, so that 0 is perfect.",
            *COMMON_DEVIATIONS,
            rule(source, in_nats=True),
        ],
    )


def likelihood(source: Source) -> Document:
    """The page of `figure5`."""
    columns = (
        Column("data", numeric=False),
        Column("CNF, nats", "Negative log-likelihood of held-out samples, 64 hidden units."),
        Column("planar, nats", "The same of 64 planar layers."),
    )
    rows = tuple(
        (Entry(data, data), *(_nll(source, data, model).entry(DIGITS) for model in ("cnf", "planar")))
        for data in SAMPLED
    )
    table = Table("figure5", "Negative log-likelihood; the paper prints no figures.", columns, rows)
    return page(
        source,
        "Figure 5: maximum likelihood",
        "The paper fits a continuous flow of 64 hidden units and a flow of 64 planar layers to two circles and two "
        "moons, and shows how noise becomes data over time; the planar flow has difficulties with the moons.",
        _likelihood_claims(source),
        [
            Section("Likelihood", (table,)),
            *(Section(f"From noise to data: {data}", tuple(_transport(source, data))) for data in SAMPLED),
        ],
        [*COMMON_DEVIATIONS, rule(source, in_nats=True)],
    )


def _matched(source: Source, target: str, size: int, model: str) -> list[Place]:
    option = "hidden" if model == "cnf" else "layers"
    return source.trainings(f"cnf[dataset={target},{option}={size}]", model, SOLVED if model == "cnf" else None)


def _kl(source: Source, target: str, size: int, model: str) -> Sample:
    return sample(source, _matched(source, target, size, model), lambda r: r.metric_value)


def _chart(source: Source, target: str) -> Block:
    rows: list[Row] = []
    for model in ("cnf", "planar"):
        for size in SIZES:
            found = _kl(source, target, size, model)
            if found.mean is not None:
                # A line is called by its gradient method where it has one, and looks as that does everywhere.
                series = SOLVED if model == "cnf" else model
                rows.append({"series": series, "x": size, "y": found.mean, "text": found.text(DIGITS), "order": size})
    title = f"Loss against M or K, target {target}"
    if not rows:
        return Missing(title, source.why(_matched(source, target, SIZES[0], "cnf")))
    caption = f"{title}: continuous flow of M hidden units by `{SOLVED}`, planar flow of K layers."
    return Chart(f"figure4-{target}", caption, lines(rows, SIZE, KL, title, TOOLTIP))


def _densities(source: Source, target: str) -> list[Block]:
    return [
        source.drawing(_matched(source, target, size, model), "densities", f"{name} = {size}, {model}, {target}")
        for model, name in (("cnf", "M"), ("planar", "K"))
        for size in SIZES
    ]


def _matching_claims(source: Source) -> list[str]:
    pairs = {
        f"{target} at {size}": (ours, planar)
        for target in TARGETS
        for size in SIZES
        if (ours := _kl(source, target, size, "cnf")).values and (planar := _kl(source, target, size, "planar")).values
    }
    if not pairs:
        return []
    told = {pair: below(source, *samples, in_nats=True) for pair, samples in pairs.items()}
    found = counted(told, "pairs of target and size")
    return [f"The continuous flow has the lower loss, as in the paper: {found}."]


def _fitted(source: Source, data: str, model: str) -> list[Place]:
    return source.trainings(f"cnf[dataset={data}]", model, SOLVED if model == "cnf" else None)


def _nll(source: Source, data: str, model: str) -> Sample:
    return sample(source, _fitted(source, data, model), lambda r: r.metric_value)


def _likelihood_claims(source: Source) -> list[str]:
    claims = []
    for data in SAMPLED:
        ours, planar = (_nll(source, data, model) for model in ("cnf", "planar"))
        if ours.values and planar.values:
            claims.append(
                f"The continuous flow fits {data} better than the planar one, as the paper's pictures show: this "
                f"{below(source, ours, planar, in_nats=True).text} here, {ours.text(DIGITS)} against "
                f"{planar.text(DIGITS)} nats."
            )
    return claims


def _transport(source: Source, data: str) -> list[Block]:
    return [
        source.drawing(_fitted(source, data, model), name, f"{model}, {data}")
        for model in ("cnf", "planar")
        for name in ("density-in-time", "flow", "densities")
    ]
