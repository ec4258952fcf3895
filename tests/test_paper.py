"""Pages of ours beside the paper's, from records made by hand."""

from dataclasses import replace

import pytest
from browser import check_page
from pages import plot

from nodebench.errors import StoreError
from nodebench.options import ReproduceOptions
from nodebench.paper.claims import PARTS
from nodebench.paper.pages import UNLIKE, Place, Sample, Source
from nodebench.paper.plans import REPRODUCTIONS, page_of
from nodebench.paper.verdicts import below, exponent
from nodebench.registry import parse
from nodebench.reports.document import Bullets, Chart, Document, Drawing, Missing, Section, Table
from nodebench.reports.series import BACKENDS, style
from nodebench.reports.writers import html, latex, markdown
from nodebench.results.record import Record
from nodebench.stats import PowerLaw
from nodebench.tasks.mnist.data import load
from nodebench.tasks.mnist.task import BLOCKS

COMMAND = "nodebench reproduce here"
ENVIRONMENTS = {
    "here": {"cpu": "abacus", "cores": 2, "memory_bytes": 2**30},
    "there": {"cpu": "quipu", "cores": 2, "memory_bytes": 2**30},
}

PLOTS = tuple(plot(name) for name in ("densities", "density-in-time", "flow", "reconstructions", "latent-space"))


def record(cell, **figures):
    """A record of a cell that ended well, with what every measurement has."""
    common = {"cell_id": cell.cell_id, "created_at": "2026-01-02T00:00:00", "nodebench_version": "0"}
    measured = {
        "run_id": "r",
        "environment": "here",
        "status": "ok",
        "dataset": "mnist",
        "metric_value": 2.0,
        "n_params": 208_266,
        "train_s": 10.0,
        "grad_norm_y0": 1.0,
    }
    measured |= {"train_steps": 100, "train_memory_bytes": 2**20, "metric_name": "m", "metric_unit": "%"}
    solver = {"solver": cell.spec.solver, "rtol": cell.spec.rtol} if cell.backend else {}
    return Record(
        **common,
        **{"task": cell.task, "model": cell.model, "backend": cell.backend, "framework": cell.framework},
        **{"dtype": "float32", "device": "cpu", "threads": 1, "seed": cell.seed, "preset": cell.preset},
        **{"batch_size": cell.batch_size, **solver, **measured, **figures},
    )


def source(name, figures_of=None, conditions=None, **changes):
    """The source of a page: `figures_of(part, cell)` gives a record's figures, or None where there is no record."""
    conditions = conditions or ReproduceOptions()
    places = {}
    for part in REPRODUCTIONS[name].parts:
        places[part.name] = []
        for cell in part.plan(conditions).cells:
            figures = None if figures_of is None else figures_of(part.name, cell)
            found = None if figures is None else record(cell, **figures)
            places[part.name].append(Place(cell, found))
    made = Source(
        name=name,
        places=places,
        environments=ENVIRONMENTS,
        plots=lambda _: PLOTS,
        preset=conditions.preset,
        seeds=conditions.seeds,
        measuring=COMMAND,
        command="nodebench reproduce this",
        created_at="2026-01-03",
    )
    return replace(made, **changes)


def whole(part, cell):
    """Figures of a cell such that every part of every page has something to show."""
    if part == "steps":
        steps = cell.spec.n_steps
        kept = steps if cell.backend == "direct" else 1
        law = {"memory_exponent": 1.0 if cell.backend == "direct" else 0.0}
        return {"n_accepted": steps, "peak_memory_bytes": 1000 * kept, "step_s": 0.1 * steps, **law}
    if part == "training steps":
        n = BLOCKS.get(cell.model, 1)
        return {"train_memory_bytes": 10_000 + 3000 * n, "train_step_s": 1.0 + 0.5 * n, "metric_value": None}
    if part == "counts":
        more = 2 if cell.spec.rtol < 1e-3 else 1
        return {"nfe_forward": 100 * more, "nfe_backward": (50 if cell.backend == "scipy" else 120) * more}
    if part in {each.name for each in PARTS}:
        return {"nfe_forward": 12, "nfe_backward": 12, "n_vjps": 12, "step_s": 1.0}
    epochs = [{"epoch": n, "nfe_forward": 20 + 6 * n, "nfe_backward": 30, "train_s": n} for n in (1, 2)]
    sweep = [
        {
            **{"rtol": 10.0**-n, "nfe_forward": 10 * n, "nfe_backward": 6 * n, "reason": None},
            **{"solution_error": 10.0**-n, "forward_s": 0.1 * n},
        }
        for n in (1, 2, 3)
    ]
    return {"history": epochs, "tolerance_sweep": sweep} if cell.backend else {}


def blocks(page, kind):
    """All blocks of a kind."""
    return [b for part in (page.lead, *(s.blocks for s in page.sections)) for b in part if isinstance(b, kind)]


def series(chart):
    """What is drawn in a chart."""
    return {row["series"] for row in chart.definition.data.values}


def claims(page):
    """The sentences that a page opens with."""
    return [item for block in page.lead if isinstance(block, Bullets) for item in block.items]


def rows(page, name):
    """The texts of a table by what its rows begin with."""
    table = next(table for table in blocks(page, Table) if table.name == name)
    return {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}


def spirals(errors):
    """Figures of the spirals by model and observations."""
    return lambda _, cell: {"metric_value": errors[cell.model][int(parse(cell.task)[1].get("observations", 50))]}


GOOD = {"rnn": {30: 0.5, 50: 0.4, 100: 0.3}, "latent-ode": {30: 0.25, 50: 0.2, 100: 0.1}}


def test_ours_stand_beside_the_papers():
    """Each figure of table 2 stands beside the one measured."""
    found = rows(page_of(source("table2", spirals(GOOD))), "table2")
    assert found["RNN"] == ["0.5", "0.3937", "0.4", "0.3202", "0.3", "0.1813"]
    assert found["Latent ODE"] == ["0.25", "0.1642", "0.2", "0.1502", "0.1", "0.1346"]


def test_a_claim_that_holds_is_said_to_hold():
    """Where the latent ODE errs less at every number of points, each sentence says that this is seen."""
    found = claims(page_of(source("table2", spirals(GOOD))))
    assert len(found) == 5
    assert all("this is seen with one seed here" in sentence for sentence in found)


def test_a_claim_that_does_not_hold_is_said_not_to():
    """Where the recurrent network errs less at 50 points, the page says that the paper's claim is not seen."""
    bad = {**GOOD, "rnn": {30: 0.5, 50: 0.15, 100: 0.3}}
    found = claims(page_of(source("table2", spirals(bad))))
    assert [sentence for sentence in found if "is not seen with one seed here" in sentence] == [found[1], found[3]]
    assert "0.2 against 0.15" in found[1]


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_an_empty_store_is_all_holes(name):
    """Nothing measured: no claim, no chart, no drawing, and every hole has the command that fills it."""
    page = page_of(source(name))
    assert claims(page) == []
    assert blocks(page, Chart) + blocks(page, Drawing) == []
    missing = blocks(page, Missing)
    assert missing
    assert all(COMMAND in hole.reason for hole in missing)


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_nothing_is_missing_where_all_was_measured(name):
    """With every cell measured no page has a hole, and every page has something to claim."""
    page = page_of(source(name, whole))
    assert blocks(page, Missing) == []
    assert claims(page)


@pytest.mark.parametrize("name", REPRODUCTIONS)
@pytest.mark.parametrize("figures_of", [None, whole])
def test_every_format_takes_every_page(name, figures_of):
    """Each page becomes HTML, Markdown and LaTeX, whether it is full or empty."""
    page = page_of(source(name, figures_of))
    for text in (html.page(page), markdown.text(page), latex.text(page)):
        assert page.title in text


def test_what_seeds_cannot_decide_is_undecided():
    """Means closer than the spread of the seeds decide nothing, and neither does a training of a few steps."""

    def scattered(_, cell):
        return {"metric_value": 1.0 + cell.seed + 0.1 * (cell.model == "rnn")}

    undecided = claims(page_of(source("table2", scattered, ReproduceOptions(seeds=(0, 1, 2)))))
    assert all("undecided" in sentence for sentence in undecided)
    short = claims(page_of(source("table2", spirals(GOOD), ReproduceOptions(preset="smoke"))))
    assert all("cannot be told from so short a training" in sentence for sentence in short)


@pytest.mark.parametrize(
    ("ours", "theirs", "in_nats", "holds"),
    [
        ((0.1642,), (0.16421,), False, None),
        ((0.99,), (1.0,), False, None),
        ((0.97,), (1.0,), False, True),
        ((1.03,), (1.0,), False, False),
        ((0.001,), (0.01,), True, None),
        ((-0.05,), (0.0,), True, True),
        ((1.0, 1.2), (2.0, 2.2), False, True),
        ((1.0, 1.2), (1.6, 1.8), False, None),  # 3.5 standard errors, but of two degrees of freedom
        ((1.0, 1.0), (1.00001, 1.00001), False, None),
        ((2.0, 2.0), (1.0, 1.0), False, False),
        ((1.0, 1.1), (2.0,), False, True),
    ],
)
def test_what_decides_between_two_models(ours, theirs, in_nats, holds):
    """One seed: 2 % or 0.02 nats. Several: Welch's interval. What prints alike is never decided."""
    assert below(source("table2"), Sample(ours), Sample(theirs), in_nats=in_nats).holds is holds


def test_a_claim_of_several_steps_fails_with_one_of_them():
    """What one step denies is denied, though another is undecided."""
    some = {"rnn": {30: 0.5, 50: 0.501, 100: 0.7}, "latent-ode": {30: 0.5, 50: 0.501, 100: 0.3}}
    falling = claims(page_of(source("table2", spirals(some))))[-2:]
    assert ["is not seen" in sentence for sentence in falling] == [True, False]
    assert "is not decided by one seed" in falling[1]


def test_planar_flows_that_match_better_are_named():
    """The pairs in which the continuous flow has not the lower loss are counted and named."""

    def losing_once(_, cell):
        return {"metric_value": 2.0 if cell.task == "cnf[dataset=u2,hidden=8]" else 0.5 + (cell.model == "planar")}

    (sentence,) = claims(page_of(source("figure4", losing_once)))
    assert "it is seen with one seed in 8 of 9 pairs" in sentence
    assert "it is not seen with one seed in 1 of 9 pairs of target and size (u2 at 8)" in sentence


def test_pages_hold_in_a_browser(browser):
    """Tables with many columns, charts with guide lines and drawings are legible at any width, by day and by night.

    All of three pages is looked at as one.
    """
    pages = [page_of(source(name, whole)) for name in ("table1", "figure3", "figure4")]
    parts = [part for page in pages for part in (Section(page.title, page.lead), *page.sections)]
    facts = tuple(fact for page in pages for fact in page.facts)
    check_page(browser, html.page(Document("Three pages", facts, (), tuple(parts))))


def test_exponents_stand_beside_the_laws():
    """Memory in proportion to blocks and steps, and independent of the steps by the adjoint, as in the paper."""
    page = page_of(source("table1", whole))
    found = rows(page, "table1")
    assert [found[name][6] for name in ("resnet", "odenet `direct`", "odenet `adjoint`")] == [
        "1.00 (1.00..1.00)",
        "1.00 (1.00..1.00)",
        "0.00 (0.00..0.00)",
    ]
    assert [found[name][7] for name in ("mlp", "resnet", "odenet `adjoint`")] == ["-", "O(L)", "O(1)"]
    assert sum("is seen here" in sentence for sentence in claims(page)) == 7


def test_an_exponent_that_is_off_is_said_to_be():
    """A memory of the adjoint that grows with the steps is not O(1)."""

    def growing(part, cell):
        return whole(part, cell) | ({"peak_memory_bytes": 1000 * cell.spec.n_steps} if part == "steps" else {})

    found = [s for s in claims(page_of(source("table1", growing))) if "Memory of ODE-Net" in s]
    assert len(found) == 1
    assert "O(1) in the paper, is not seen here: measured exponent 1.00" in found[0]


def test_an_exponent_that_is_not_known_decides_nothing():
    """Times that scatter about their law leave it undecided, whatever the exponent; the points are named."""
    step_s = {"resnet-1": 1.2, "resnet-2": 3.0, "resnet-4": 1.5, "resnet-12": 3.0}

    def scattered(part, cell):
        step = part == "training steps" and cell.model in step_s
        return whole(part, cell) | ({"train_step_s": step_s[cell.model]} if step else {})

    (sentence,) = (s for s in claims(page_of(source("table1", scattered))) if "Time of ResNet" in s)
    assert "O(L) in the paper, is undecided, its interval reaching beyond, here" in sentence
    assert "of 7 points (0, 1, 2, 3, 4, 6, 8 and 12 blocks, each less the network without any)" in sentence


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(0.8, 1.2, True), (0.8, 1.3, None), (1.26, 1.3, False), (1.2, 5.0, None), (-2.0, 0.7, False), (0.0, 9.0, None)],
)
def test_an_interval_decides_an_exponent(low, high, holds):
    """Only an interval that lies within 0.25 of the stated exponent, or outside of that, decides."""
    assert exponent(PowerLaw((low + high) / 2, low, high, 4, 1.0), 1.0).holds is holds


def test_a_time_of_a_wide_interval_is_undecided_in_figure_3():
    """The exponent of time over evaluations is held to its interval as those of table 1 are."""

    def noisy(part, cell):
        figures = whole(part, cell)
        times = (1.0, 5.0, 3.0)
        sweep = [{**e, "forward_s": t} for e, t in zip(figures.get("tolerance_sweep", ()), times, strict=False)]
        return figures | ({"tolerance_sweep": sweep} if sweep else {})

    (sentence,) = (s for s in claims(page_of(source("figure3", noisy))) if "Time in proportion" in s)
    assert "this is undecided, its interval reaching beyond, here" in sentence


def test_which_solvers_take_half_the_evaluations():
    """The backward-evaluation claim is told solver by solver."""
    page = page_of(source("figure3", whole))
    sentence = next(s for s in claims(page) if "implicit Adams" in s)
    assert "`scipy vode-adams` at 4 of 4 tolerances (0.50 to 0.50)" in sentence
    assert "`adjoint dopri5` at 0 of 4 tolerances (1.20 to 1.20)" in sentence
    assert rows(page, "backward-share")["`scipy vode-adams`"] == ["0.50 (50/100)"] * 3 + ["0.50 (100/200)"]


def test_tolerances_that_failed_are_not_counted_as_measured():
    """Where one of four tolerances failed, the claim is of the other three and says so."""

    def failing(part, cell):
        failed = part == "counts" and cell.backend == "scipy" and cell.spec.rtol == 1e-4
        return {"status": "timeout", "reason": "too slow."} if failed else whole(part, cell)

    sentence = next(s for s in claims(page_of(source("figure3", failing))) if "implicit Adams" in s)
    assert "`scipy vode-adams` at 3 of 3 tolerances (0.50 to 0.50; 1 not measured)" in sentence


def test_a_solution_without_error_is_a_hole():
    """Errors of 0 have no place on a logarithmic axis: the chart is missing, with the reason."""

    def exact(part, cell):
        figures = whole(part, cell)
        sweep = [{**entry, "solution_error": 0.0} for entry in figures.get("tolerance_sweep", ())]
        return figures | ({"tolerance_sweep": sweep} if sweep else {})

    (hole,) = blocks(page_of(source("figure3", exact)), Missing)
    assert hole.reason == "at every tolerance the relative error of the solution is 0."


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_series_of_a_chart_are_told_apart(name):
    """In each chart any two series differ in colour, in shape, or in whether their points are filled."""
    for chart in blocks(page_of(source(name, whole)), Chart):
        styles = [style(label) for label in series(chart)]
        assert len({(each.colour, each.shape, each.filled) for each in styles}) == len(styles)


def test_a_gradient_method_has_its_colour_with_every_solver():
    """The colour of a point in figure 3 c is its backend's, whatever the solver."""
    counted = next(chart for chart in blocks(page_of(source("figure3", whole)), Chart) if "backward" in chart.name)
    labels = series(counted)
    assert len(labels) == 8
    assert {label: style(label).colour for label in labels} == {
        label: BACKENDS[label.split()[0]].colour for label in labels
    }


def test_the_continuous_flow_looks_as_its_gradient_method():
    """The lines of figure 4 are called by the backend, and by the model that has none."""
    for chart in blocks(page_of(source("figure4", whole)), Chart):
        assert series(chart) == {"adjoint", "planar"}


def test_tolerances_that_change_nothing_are_no_course():
    """Where every tolerance takes as many evaluations, no claim is made of error and time."""

    def flat(part, cell):
        figures = whole(part, cell)
        sweep = [{**entry, "nfe_forward": 19} for entry in figures.get("tolerance_sweep", ())]
        return figures | ({"tolerance_sweep": sweep} if sweep else {})

    found = claims(page_of(source("figure3", flat)))
    assert "takes 19 evaluations, so that (a) and (b) show no course" in found[0]
    assert not any("less error" in sentence for sentence in found)


def test_a_failed_cell_leaves_a_hole_with_its_reason():
    """The other cells are shown; the failed one says why there is nothing."""

    def failing(part, cell):
        figures = whole(part, cell)
        return figures | {"status": "diverged", "reason": "it left."} if cell.model == "resnet" else figures

    page = page_of(source("table1", failing))
    table = blocks(page, Table)[0]
    resnet = next(row for row in table.rows if row[0].text == "resnet")
    assert (resnet[2].text, resnet[2].reason) == ("-", "diverged: it left.")
    assert {hole.reason for hole in blocks(page, Missing)} == {"diverged: it left."}


def test_several_seeds_give_mean_and_spread():
    """Three seeds are a mean with its standard deviation, and one is said to be one."""
    conditions = ReproduceOptions(seeds=(0, 1, 2))

    def by_seed(_, cell):
        return {"metric_value": 1.0 + cell.seed}

    page = page_of(source("table2", by_seed, conditions))
    assert rows(page, "table2")["RNN"][0] == "2 ± 1"
    single = page_of(source("table2", by_seed))
    assert "A single seed (0)" in str(blocks(single, Bullets))
    assert "A single seed" not in str(blocks(page, Bullets))


def test_what_no_seed_changes_has_no_spread():
    """The parameters are the same at every seed, and stand alone."""
    assert rows(page_of(source("table1", whole, ReproduceOptions(seeds=(0, 1)))), "table1")["mlp"][3] == "0.208"


def test_seeds_that_failed_are_told():
    """Where a seed of one model failed, the page says of how many its figure is."""

    def failing(_, cell):
        failed = cell.seed == 2 and cell.model == "rnn" and "=30" in cell.task
        return {"status": "diverged", "reason": "it left."} if failed else spirals(GOOD)(_, cell)

    told = str(blocks(page_of(source("table2", failing, ReproduceOptions(seeds=(0, 1, 2)))), Bullets))
    assert "Not all 3 of them have figures of `spiral[observations=30]` rnn 2." in told


def test_deviations_are_those_of_the_records():
    """A smaller budget, a stand-in for the data and what was noted are named; the paper's own budget is not."""

    def stand_in(part, cell):
        return whole(part, cell) | {"dataset": digits.name, "notes": ["no MNIST here"]}

    digits = load("digits", "test")
    page = page_of(source("table1", stand_in))
    told = str(blocks(page, Bullets))
    assert "Preset `quick`, a smaller budget than the paper's" in told
    assert "`digits-upsampled`, a stand-in for MNIST" in told
    assert "no MNIST here" in told
    assert "ODE-Net 0.208 M here, 0.22 M there" in told
    assert "on too few images to say" in claims(page)[0]
    assert "stand-in" not in str(blocks(page_of(source("table1", whole)), Bullets))
    assert "smaller budget" not in str(
        blocks(page_of(source("table1", whole, ReproduceOptions(preset="paper"))), Bullets)
    )


@pytest.mark.parametrize(("name", "budget"), [("figure4", "The paper trains"), ("figure5", "names no budget of this")])
def test_budgets_of_flows_stand_beside_the_papers(name, budget):
    """The paper's steps are told, and how far ours favour the continuous flow."""

    def stepped(_, cell):
        return {"metric_value": 1.0, "train_steps": 1400 if cell.model == "cnf" else 10_000}

    told = str(blocks(page_of(source(name, stepped)), Bullets))
    assert budget in told
    assert "10,000 iterations of Adam, and the planar flow for 500,000 of RMSprop" in told
    assert "7.14 times the steps of the continuous one (`cnf` 1400, `planar` 10000)" in told
    assert "only the networks with each other" not in told


@pytest.mark.parametrize(("ode_net", "verdict"), [(2.1, "is seen"), (3.0, "is not seen"), (1.0, "is not seen")])
def test_as_often_is_neither_more_nor_less(ode_net, verdict):
    """An ODE-Net that errs far less than the residual network does not err as often either."""

    def erring(part, cell):
        return whole(part, cell) | {"metric_value": ode_net if cell.backend == "adjoint" else 2.0}

    (found,) = (s for s in claims(page_of(source("table1", erring))) if "about as often" in s)
    assert f"ODE-Net errs about as often as ResNet, as in the paper: this {verdict} here" in found


@pytest.mark.parametrize(("error", "verdict"), [(0.3, "is"), (0.5, "is"), (0.8, "is not")])
def test_a_published_error_is_reached_within_chance(error, verdict):
    """Of the paper in table 1 and of the replication note in table 3, each with its own figure."""

    def erring(part, cell):
        return whole(part, cell) | {"metric_value": error}

    first, third = (claims(page_of(source(name, erring))) for name in ("table1", "table3"))
    assert f"ODE-Net errs 0.42 % in the paper, {error} % here: this level {verdict} reached," in first[3]
    assert f"ResNet(2) errs 0.42 % in the note, {error} % here: this level {verdict} reached," in third[0]


def test_times_of_unlike_machines_are_not_set_side_by_side():
    """Of two machines neither times nor their laws are shown, with the reason; errors, bytes and counts are."""

    def elsewhere(part, cell):
        other = (part == "training steps" and cell.model == "resnet-0") or (part == "steps" and cell.spec.n_steps == 6)
        return whole(part, cell) | {"environment": "there" if other else "here"}

    page = page_of(source("table1", elsewhere))
    (table,) = (table for table in blocks(page, Table) if table.name == "table1")
    columns = [column.title for column in table.columns]
    for row in table.rows:
        found = dict(zip(columns, row, strict=True))
        assert (found["step ms"].text, found["step ms"].reason) == ("-", UNLIKE)
        assert found["memory MiB"].value is not None
        assert found["test error %"].value is not None
    grows = {row[0].text: row[columns.index("time grows")].reason for row in table.rows}
    assert {name for name, reason in grows.items() if reason == UNLIKE} == {
        "resnet",
        "odenet `direct`",
        "odenet `adjoint`",
    }
    assert not any(sentence.startswith("Time of") for sentence in claims(page))
    assert sum(sentence.startswith("Memory of") for sentence in claims(page)) == 3


def test_what_the_peak_has_of_the_blocks_is_told():
    """The growth over blocks is that of a peak: what blocks add to it stands beside what their gradients take."""

    def weighed(part, cell):
        sizes = {"resnet": (30 * 2**20, 3 * 2**18), "resnet-0": (28 * 2**20, 2**18)}
        peak, n_params = sizes.get(cell.model, (29 * 2**20, 2**18))
        return whole(part, cell) | {"train_memory_bytes": peak, "n_params": n_params}

    told = str(blocks(page_of(source("table1", weighed)), Bullets))
    assert "of the peak of ResNet, 30 MiB, its six blocks are 2 MiB" in told
    assert "the gradients of their parameters alone take 2 MiB" in told


def test_how_two_models_are_told_apart_is_stated():
    """The rule of one seed stands on the page, by what is compared, and that of several."""

    def told(name, seeds):
        return str(blocks(page_of(source(name, whole, ReproduceOptions(seeds=seeds))), Bullets))

    assert "differ by more than 2 % of the larger figure" in told("table2", (0,))
    assert "differ by more than 0.02 nats" in told("figure4", (0,))
    assert "Welch's 95 % interval" in told("figure5", (0, 1))


def test_controls_are_ours():
    """Networks that the paper does not have are said to be ours."""
    page = page_of(source("table3", whole))
    assert "`resnet-0` and `resnet-1` are controls of ours" in str(blocks(page, Bullets))
    assert "no blocks" not in str(page.lead)
    assert "none" not in str(page.lead[0])


def test_plots_that_were_not_kept_are_holes():
    """A training without plots leaves a hole that says so."""
    page = page_of(source("figure8", whole, plots=lambda _: ()))
    assert blocks(page, Drawing) == []
    assert all("its training kept none" in hole.reason for hole in blocks(page, Missing))


def test_plots_of_an_older_version_are_holes():
    """What is kept in a form that is no longer read is told in its place, and the page is made."""

    def outdated(_):
        raise StoreError("plots of an older version: train again.")

    page = page_of(source("figure8", whole, plots=outdated))
    holes = {hole.reason for hole in blocks(page, Missing)}
    assert "plots of an older version: train again." in holes
