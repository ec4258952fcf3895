"""Table 2 and figure 8: spirals continued by a latent ODE and by a recurrent network."""

from collections.abc import Mapping
from itertools import pairwise

from nodebench.paper.pages import DIGITS, Place, Sample, Source, page, published, sample
from nodebench.paper.plans import OBSERVATIONS
from nodebench.paper.verdicts import all_of, below, rule
from nodebench.reports.document import Block, Column, Document, Entry, Section, Table

TABLE_2: Mapping[str, Mapping[int, float]] = {
    "rnn": {30: 0.3937, 50: 0.3202, 100: 0.1813},
    "latent-ode": {30: 0.1642, 50: 0.1502, 100: 0.1346},
}
"""Table 2 (section 5): root-mean-square error of the extrapolation, by model and observed points."""

NAMES = {"rnn": "RNN", "latent-ode": "Latent ODE"}
"""What the paper calls the models."""


def table(source: Source) -> Document:
    """The page of `table2`."""
    columns = (
        Column("model", numeric=False),
        *(
            column
            for n in OBSERVATIONS
            for column in (
                Column(f"{n} observed", "Root-mean-square error over 100 points beyond the observed span."),
                Column(f"paper, {n}", "Table 2 of the paper."),
            )
        ),
    )
    rows = tuple(
        (
            Entry(name, name),
            *(
                e
                for n in OBSERVATIONS
                for e in (_rmse(source, n, model).entry(DIGITS), published(TABLE_2[model].get(n)))
            ),
        )
        for model, name in NAMES.items()
    )
    caption = "Extrapolation RMSE by the number of observed points of each spiral, ours beside the paper's."
    return page(
        source,
        "Table 2: spirals extrapolated",
        "The paper observes 30, 50 or 100 points of each of 1000 noisy spirals at irregular times, and compares how "
        "far off a recurrent network and a latent ODE are over 100 points beyond.",
        _claims(source),
        [Section("Ours beside the paper's", (Table("table2", caption, columns, rows),))],
        _deviations(source),
    )


def figure(source: Source) -> Document:
    """The page of `figure8`."""
    sections = [
        Section(
            f"{n} observed points",
            tuple(source.drawing(_places(source, n, m), "reconstructions", f"{NAMES[m]}, {n} points") for m in NAMES),
        )
        for n in OBSERVATIONS
    ]
    latent: list[Block] = [
        source.drawing(_places(source, n, "latent-ode"), "latent-space", f"{n} points") for n in OBSERVATIONS
    ]
    return page(
        source,
        "Figure 8: spirals reconstructed",
        "The paper draws spirals reconstructed and extrapolated by a recurrent network and by a latent ODE, and the "
        "latent trajectories, which part by the direction in which a spiral turns.",
        _claims(source),
        [*sections, Section("Latent trajectories", tuple(latent))],
        [*_deviations(source), "Latent trajectories are drawn on their two principal components."],
    )


def _places(source: Source, n: int, model: str) -> list[Place]:
    return source.trainings(f"spiral[observations={n}]", model, "adjoint" if model == "latent-ode" else None)


def _rmse(source: Source, n: int, model: str) -> Sample:
    return sample(source, _places(source, n, model), lambda r: r.metric_value)


def _claims(source: Source) -> list[str]:
    errors = {model: [_rmse(source, n, model) for n in OBSERVATIONS] for model in NAMES}
    sentences = []
    for n, ours, rnn in zip(OBSERVATIONS, errors["latent-ode"], errors["rnn"], strict=True):
        if ours.values and rnn.values:
            sentences.append(
                f"With {n} points the latent ODE extrapolates better than the recurrent network, as in the paper: this "
                f"{below(source, ours, rnn).text} here, {ours.text(DIGITS)} against {rnn.text(DIGITS)}."
            )
    for model, found in errors.items():
        if all(each.values for each in found):
            falling = all_of([below(source, after, before) for before, after in pairwise(found)])
            sentences.append(
                f"The more points are observed, the smaller the error of the {NAMES[model]}, as in the paper: this "
                f"{falling.text} here, {', '.join(each.text(DIGITS) for each in found)}."
            )
    return sentences


def _deviations(source: Source) -> list[str]:
    return [
        "The paper gives neither the spirals' equations nor the noise on them, on which the error depends most. Both "
        "here are of the authors' published example, whose noise has a standard deviation of 0.3; the task's option "
        "`noise` sets another.",
        "The error here is the root mean square, over test spirals, 100 points and both coordinates, of the distance "
        "from the true spiral, without noise; the paper says neither what its error is measured against nor what it is "
        "averaged over. Against noisy points none could be below the noise, as the paper's are.",
        "The paper gives neither optimiser, learning rate nor number of steps, nor how test spirals were set apart.",
        rule(source),
    ]
