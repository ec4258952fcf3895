"""Pages of ours beside the paper's, from records made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from browser import check_page

from nodebench.bench.reproduction import REPRODUCTIONS, Conditions
from nodebench.pictures import Clouds, Curves, Heatmaps, Panel, Plot, Series
from nodebench.reports import html, latex, markdown
from nodebench.reports.document import Bullets, Chart, Drawing, Missing, Table
from nodebench.reports.paper.pages import PAGES, page_of
from nodebench.reports.paper.source import Place, Source
from nodebench.results.record import Record
from nodebench.results.store import Run

COMMAND = "nodebench reproduce here"
RUN = Run("r", "2026-01-01T00:00:00", None, "c", "p", {"cpu": "abacus", "cores": 2, "memory_bytes": 2**30}, 1, 1)

WINDOW = (-1.0, 1.0, -1.0, 1.0)
LINE = np.array([[0.0, 0.0], [1.0, 1.0]], np.float16)
MAPS = (Panel("true", np.eye(4, dtype=np.float16)), Panel("learned", np.eye(4, dtype=np.float16)))
PICTURES = (
    Heatmaps("densities", "Density", WINDOW, MAPS),
    Heatmaps("density-in-time", "Density in time", WINDOW, MAPS),
    Clouds("flow", "Points", WINDOW, ("t = 0", "t = 1"), np.zeros((2, 5, 2), np.float16)),
    Curves("reconstructions", "Spirals", (), (Plot("", (Series("true", LINE),)),)),
    Curves("latent-space", "Latent", ("one", "two"), (Plot("", (Series("true", LINE),)),)),
)


def record(cell, **figures):
    """A record of a cell that ended well, with what every measurement has."""
    common = {"run_id": "r", "cell_id": cell.cell_id, "created_at": "2026-01-02T00:00:00", "nodebench_version": "0"}
    measured = {"status": "ok", "dataset": "mnist", "metric_value": 2.0, "n_params": 208_266, "train_s": 10.0}
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
    conditions = conditions or Conditions()
    places = {}
    for part in REPRODUCTIONS[name].parts:
        places[part.name] = []
        for cell in part.plan(conditions).cells:
            figures = None if figures_of is None else figures_of(part.name, cell)
            what = {"task": cell.task, "model": cell.model, "backend": cell.backend, "seed": cell.seed}
            found = None if figures is None else record(cell, **figures)
            places[part.name].append(Place(**what, solver=cell.spec.solver, rtol=cell.spec.rtol, record=found))
    made = Source(
        name=name,
        places=places,
        runs=[] if figures_of is None else [RUN],
        pictures=lambda _: PICTURES,
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
    if part == "counts":
        return {"nfe_forward": 100, "nfe_backward": 50 if cell.backend == "scipy" else 120}
    blocks = {"no-block": 0, "one-block": 1, "resnet-small": 2, "resnet": 6}.get(cell.model, 1)
    epochs = [{"epoch": n, "nfe_forward": 20 + 6 * n, "nfe_backward": 30, "train_s": n} for n in (1, 2)]
    sweep = [
        {"rtol": 10.0**-n, "nfe_forward": 10 * n, "solution_error": 10.0**-n, "forward_s": 0.1 * n, "reason": None}
        for n in (1, 2, 3)
    ]
    of_ode = {"history": epochs, "tolerance_sweep": sweep} if cell.backend else {}
    return {"train_memory_bytes": 10_000 + 3000 * blocks, "train_s": 10.0 + 2 * blocks, **of_ode}


def blocks(page, kind):
    """All blocks of a kind."""
    return [b for part in (page.lead, *(s.blocks for s in page.sections)) for b in part if isinstance(b, kind)]


def claims(page):
    """The sentences that a page opens with."""
    return [item for block in page.lead if isinstance(block, Bullets) for item in block.items]


def rows(page, name):
    """The texts of a table by what its rows begin with."""
    table = next(table for table in blocks(page, Table) if table.name == name)
    return {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}


def spirals(errors):
    """Figures of the spirals by model and observations."""
    return lambda _, cell: {"metric_value": errors[cell.model][int(cell.task.split("=")[1][:-1])]}


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
    assert all("is seen here" in sentence for sentence in found)


def test_a_claim_that_does_not_hold_is_said_not_to():
    """Where the recurrent network errs less at 50 points, the page says that the paper's claim is not seen."""
    bad = {**GOOD, "rnn": {30: 0.5, 50: 0.15, 100: 0.3}}
    found = claims(page_of(source("table2", spirals(bad))))
    assert [sentence for sentence in found if "is not seen here" in sentence] == [found[1], found[3]]
    assert "0.2 against 0.15" in found[1]


@pytest.mark.parametrize("name", PAGES)
def test_an_empty_store_is_all_holes(name):
    """Nothing measured: no claim, no chart, no drawing, and every hole has the command that fills it."""
    page = page_of(source(name))
    assert claims(page) == []
    assert blocks(page, Chart) + blocks(page, Drawing) == []
    missing = blocks(page, Missing)
    assert missing
    assert all(COMMAND in hole.reason for hole in missing)


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_missing_where_all_was_measured(name):
    """With every cell measured no page has a hole, and every page has something to claim."""
    page = page_of(source(name, whole))
    assert blocks(page, Missing) == []
    assert claims(page)


@pytest.mark.parametrize("name", PAGES)
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

    undecided = claims(page_of(source("table2", scattered, Conditions(seeds=(0, 1, 2)))))
    assert all("undecided" in sentence for sentence in undecided)
    short = claims(page_of(source("table2", spirals(GOOD), Conditions(preset="smoke"))))
    assert all("cannot be told from so short a training" in sentence for sentence in short)


def test_planar_flows_that_match_better_are_named():
    """The pairs in which the continuous flow has not the lower loss are counted and named."""

    def losing_once(_, cell):
        return {"metric_value": 2.0 if cell.task == "cnf[dataset=u2,hidden=8]" else 0.5 + (cell.model == "planar")}

    (sentence,) = claims(page_of(source("figure4", losing_once)))
    assert "is seen in 8 of 9" in sentence
    assert "is not seen in 1 of 9" in sentence
    assert "(not at u2 at 8)" in sentence


@pytest.mark.parametrize("name", ["table1", "figure3", "figure4"])
def test_pages_hold_in_a_browser(browser, name):
    """Tables with many columns, charts with guide lines and drawings are legible at any width, by day and by night."""
    check_page(browser, html.page(page_of(source(name, whole))))


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
    """Times that scatter about their law leave it undecided, whatever the exponent."""
    trained = {"one-block": 12.0, "resnet-small": 18.0, "resnet": 21.0}

    def scattered(part, cell):
        return whole(part, cell) | ({"train_s": trained[cell.model]} if cell.model in trained else {})

    (sentence,) = (s for s in claims(page_of(source("table1", scattered))) if "Time of ResNet" in s)
    assert "O(L) in the paper, is undecided, its interval being wide, here" in sentence


def test_which_solvers_take_half_the_evaluations():
    """The backward-evaluation claim is told solver by solver."""
    page = page_of(source("figure3", whole))
    sentence = next(s for s in claims(page) if "implicit Adams" in s)
    everywhere, some, nowhere = sentence.partition("seen at all tolerances")[2].split("; ")
    assert everywhere == " with `scipy vode-adams` (0.50 to 0.50)"
    assert some == "at some with none"
    assert "`adjoint dopri5` (1.20 to 1.20)" in nowhere
    assert rows(page, "backward-share")["`scipy vode-adams`"] == ["0.50 (50/100)"] * 4


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
    assert [hole.reason for hole in blocks(page, Missing)] == ["diverged: it left."]


def test_several_seeds_give_mean_and_spread():
    """Three seeds are a mean with its standard deviation, and one is said to be one."""
    conditions = Conditions(seeds=(0, 1, 2))

    def by_seed(_, cell):
        return {"metric_value": 1.0 + cell.seed}

    page = page_of(source("table2", by_seed, conditions))
    assert rows(page, "table2")["RNN"][0] == "2 ± 1"
    single = page_of(source("table2", by_seed))
    assert "A single seed (0)" in str(blocks(single, Bullets))
    assert "A single seed" not in str(blocks(page, Bullets))


def test_deviations_are_those_of_the_records():
    """A smaller budget, a stand-in for the data and what was noted are named; the paper's own budget is not."""

    def stand_in(part, cell):
        return whole(part, cell) | {"dataset": "digits", "notes": ["no MNIST here"]}

    told = str(blocks(page_of(source("table1", stand_in)), Bullets))
    assert "Preset `quick`, a smaller budget than the paper's" in told
    assert "`digits`, a stand-in for MNIST" in told
    assert "no MNIST here" in told
    assert "ODE-Net 0.208 M here, 0.22 M there" in told
    assert "smaller budget" not in str(blocks(page_of(source("table1", whole, Conditions(preset="paper"))), Bullets))


def test_pictures_that_were_not_kept_are_holes():
    """A training without pictures leaves a hole that says so."""
    page = page_of(source("figure8", whole, pictures=lambda _: ()))
    assert blocks(page, Drawing) == []
    assert all("its training kept none" in hole.reason for hole in blocks(page, Missing))
