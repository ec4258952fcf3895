"""Figure 3: numerical error, time and backward evaluations against forward ones, and evaluations by epoch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from nodebench.paper.pages import Place, Source, measured, page
from nodebench.paper.published import BACKWARD_SHARE
from nodebench.paper.verdicts import growth_claim, seen
from nodebench.reports.charts import backward_evaluations
from nodebench.reports.document import ABSENT, Block, Chart, Column, Document, Entry, Missing, Section, Table, number
from nodebench.reports.series import Axis, Row, lines
from nodebench.reports.tables import sweep_table
from nodebench.results.record import Record
from nodebench.stats import fit_power_law

ABOUT_HALF = 0.75
"""Ratio below which the backward pass counts as taking about half the evaluations."""

FORWARD = Axis("evaluations of the forward pass")
TOOLTIP = {"series": "method"}

SWEEP = {
    "a": ("solution_error", 1.0, Axis("relative error of the solution", log=True)),
    "b": ("forward_s", 1000.0, Axis("time of a forward solve, ms")),
}
"""Field of a record's `tolerance_sweep`, its scale and its axis, by part of the figure."""

TITLES = {
    "a": "Numerical error against evaluations",
    "b": "Time against evaluations",
    "c": "Backward against forward evaluations",
    "d": "Evaluations by epoch of the training",
}


def figure(source: Source) -> Document:
    """The page of `figure3`."""
    trained = next(iter(measured(source.places["training"])), None)
    why = source.why(source.places["training"])
    swept = [sweep_table("tolerances", [trained])] if trained is not None and trained.tolerance_sweep else []
    sections = [
        Section(f"({part}) {TITLES[part]}", tuple(blocks))
        for part, blocks in (
            ("a", _swept(trained, "a", why)),
            ("b", [*_swept(trained, "b", why), *swept]),
            ("c", _backward(source)),
            ("d", _by_epoch(trained, why)),
        )
    ]
    return page(
        source,
        "Figure 3: evaluations of a trained ODE-Net",
        "The paper varies the tolerance of an ODE-Net trained on MNIST, and shows numerical error, time and backward "
        "evaluations against forward evaluations, and forward evaluations by epoch of the training.",
        [*_sweep_claims(trained), *_backward_claims(source, trained), *_epoch_claims(trained)],
        sections,
        _deviations(source),
    )


def _entries(trained: Record | None) -> list[dict[str, Any]]:
    return [entry for entry in trained.tolerance_sweep if entry["nfe_forward"] is not None] if trained else []


def _swept(trained: Record | None, part: str, why: str) -> list[Block]:
    field, scale, axis = SWEEP[part]
    entries = _entries(trained)
    if trained is None or not entries:
        return [Missing(TITLES[part], why if trained is None else "its record has no tolerance that was solved at.")]
    rows: list[Row] = [
        {"series": str(trained.backend), "x": e["nfe_forward"], "y": scale * e[field], "order": -e["rtol"]}
        for e in entries
        if e[field]
    ]
    if not rows:
        return [Missing(TITLES[part], f"at every tolerance the {axis.title} is 0.")]
    rtols = [entry["rtol"] for entry in entries]
    tolerances = f"{number(max(rtols))} to {number(min(rtols))}"
    caption = f"{TITLES[part]} of the trained network at tolerances from {tolerances}."
    return [Chart(f"figure3{part}", caption, lines(rows, FORWARD, axis, TITLES[part], TOOLTIP))]


def _name(place: Place) -> str:
    return f"{place.cell.backend} {place.cell.spec.solver}"


def _counted(source: Source) -> list[tuple[Place, Record]]:
    return [(place, place.measured) for place in source.places["counts"] if place.measured is not None]


def _share(record: Record) -> float | None:
    if not record.nfe_forward or record.nfe_backward is None:
        return None
    return record.nfe_backward / record.nfe_forward


def _shares(source: Source) -> dict[str, list[float]]:
    """Backward relative to forward evaluations at each tolerance, by backend and solver."""
    shares: dict[str, list[float]] = {}
    for place, record in _counted(source):
        if (share := _share(record)) is not None:
            shares.setdefault(_name(place), []).append(share)
    return shares


def _backward(source: Source) -> list[Block]:
    counted = _counted(source)
    if not counted:
        return [Missing(TITLES["c"], source.why(source.places["counts"])), _share_table(source)]
    # No solver's points hide among another's: colour is the backend's, shape the solver's.
    blocks: list[Block] = [
        replace(block, caption=f"{block.caption} At initial weights.") if isinstance(block, Chart) else block
        for block in backward_evaluations([record for _, record in counted], lambda r: f"{r.backend} {r.solver}")
    ]
    return [*blocks, _share_table(source)]


def _share_table(source: Source) -> Table:
    places: dict[str, dict[float, Place]] = {}
    for place in source.places["counts"]:
        places.setdefault(_name(place), {})[place.cell.spec.rtol] = place
    tolerances = sorted({place.cell.spec.rtol for place in source.places["counts"]}, reverse=True)
    columns = (Column("backend, solver", numeric=False), *(Column(f"rtol {rtol:g}") for rtol in tolerances))
    rows = tuple(
        (Entry(f"`{name}`", name), *(_share_entry(source, of.get(rtol)) for rtol in tolerances))
        for name, of in places.items()
    )
    return Table("backward-share", "Backward evaluations relative to forward ones, at initial weights.", columns, rows)


def _share_entry(source: Source, place: Place | None) -> Entry:
    record = place.measured if place is not None else None
    share = _share(record) if record is not None else None
    if place is None or share is None or record is None:
        return Entry(ABSENT, reason=source.why([place] if place is not None else []))
    return Entry(f"{share:.2f} ({record.nfe_backward}/{record.nfe_forward})", share)


def _by_epoch(trained: Record | None, why: str) -> list[Block]:
    if trained is None:
        return [Missing(TITLES["d"], why)]
    rows: list[Row] = [
        {"series": name, "x": entry["epoch"], "y": entry[field], "order": entry["epoch"]}
        for name, field in (("forward", "nfe_forward"), ("backward", "nfe_backward"))
        for entry in trained.history
        if entry[field] is not None
    ]
    if not rows:
        return [Missing(TITLES["d"], "no epoch of the training has counted its evaluations.")]
    chart = lines(rows, Axis("epoch"), Axis("evaluations"), TITLES["d"], TOOLTIP)
    return [Chart("figure3d", f"{TITLES['d']}, on a fixed batch, by {trained.solver}.", chart)]


def _sweep_claims(trained: Record | None) -> list[str]:
    entries = sorted(_entries(trained), key=lambda e: e["nfe_forward"])
    if len(entries) < 2:
        return []
    if entries[0]["nfe_forward"] == entries[-1]["nfe_forward"]:
        n = entries[0]["nfe_forward"]
        return [f"At every tolerance the trained network takes {n} evaluations, so that (a) and (b) show no course."]
    errors = [e["solution_error"] for e in entries]
    falls = all(after <= before for before, after in pairwise(errors))
    law = fit_power_law([e["nfe_forward"] for e in entries], [e["forward_s"] for e in entries])
    sentences = [
        f"More evaluations, less error, as in the paper: this {seen(holds=falls).text} here, from "
        f"{number(errors[0], 2)} at {entries[0]['nfe_forward']} evaluations to {number(errors[-1], 2)} at "
        f"{entries[-1]['nfe_forward']}."
    ]
    if law is not None:
        sentences.append(growth_claim("Time in proportion to evaluations, as in the paper: this", law, 1.0))
    return sentences


def _backward_claims(source: Source, trained: Record | None) -> list[str]:
    shares = _shares(source)
    sentences = []
    if shares:
        sentences.append(
            f"Backward evaluations about half ({BACKWARD_SHARE}) of the forward ones, as the paper has it of SciPy's "
            f"implicit Adams: a ratio below {ABOUT_HALF} is seen with "
            f"{'; '.join(_told(source, name, found) for name, found in shares.items())}."
        )
    last = _last_epoch(trained)
    if trained is not None and last is not None:
        share = last["nfe_backward"] / last["nfe_forward"]
        sentences.append(
            f"At the trained weights of `{trained.backend}` by {trained.solver}, the backward pass takes "
            f"{last['nfe_backward']} evaluations, the forward pass {last['nfe_forward']}: {share:.2f} times as many, "
            f"so that the claim {seen(holds=share < ABOUT_HALF).text} there."
        )
    return sentences


def _told(source: Source, name: str, shares: Sequence[float]) -> str:
    """At how many tolerances a backend and solver take about half, of those that were measured."""
    missing = sum(_name(place) == name for place in source.places["counts"]) - len(shares)
    n_below = sum(share < ABOUT_HALF for share in shares)
    more = f"; {missing} not measured" if missing else ""
    return f"`{name}` at {n_below} of {len(shares)} tolerances ({min(shares):.2f} to {max(shares):.2f}{more})"


def _last_epoch(trained: Record | None) -> dict[str, Any] | None:
    counted = [e for e in trained.history if e["nfe_forward"] and e["nfe_backward"] is not None] if trained else []
    return counted[-1] if counted else None


def _epoch_claims(trained: Record | None) -> list[str]:
    last = _last_epoch(trained)
    if trained is None or last is None or len(trained.history) < 2:
        return []
    first = trained.history[0]["nfe_forward"]
    if first is None:
        return []
    grows = seen(holds=last["nfe_forward"] > first).text
    return [
        f"Forward evaluations grow in the training, as in the paper: this {grows} here, from {first} "
        f"after epoch 1 to {last['nfe_forward']} after epoch {last['epoch']}."
    ]


def _deviations(source: Source) -> list[str]:
    solvers = sorted({place.cell.spec.solver for place in source.places["counts"]})
    return [
        f"Solvers: {', '.join(solvers)}. The paper has SciPy's LSODE and VODE; here VODE's Adams method stands for "
        "both, since SciPy's LSODA sets aside a dense Jacobian, too large for this state.",
        "(c) is at initial weights, the ratio after the training stands beside it; the paper does not say which.",
    ]
