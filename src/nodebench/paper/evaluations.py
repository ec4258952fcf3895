"""Figure 3: numerical error, time and backward evaluations against forward ones, and evaluations by epoch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from nodebench.paper.pages import Place, Source, measured, page
from nodebench.paper.verdicts import ABOUT_HALF, BACKWARD_SHARE, growth_claim, seen
from nodebench.reports.charts import backward_evaluations
from nodebench.reports.document import ABSENT, Block, Chart, Column, Document, Entry, Missing, Section, Table, number
from nodebench.reports.series import Axis, Row, lines
from nodebench.reports.tables import sweep_table
from nodebench.results.record import Record
from nodebench.stats import fit_power_law

FORWARD = Axis("evaluations of the forward pass")
TOOLTIP = {"series": "method"}

SWEEP = {"a": Axis("relative error of the solution", log=True), "b": Axis("time of a forward solve, ms")}
"""The axis of what is shown of a record's `tolerance_sweep`, by part of the figure."""

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


class _Solve(NamedTuple):
    """A solve of the sweep that came to its end."""

    rtol: float
    nfe: int
    error: float
    seconds: float | None


def _solves(trained: Record | None) -> list[_Solve]:
    entries = trained.tolerance_sweep if trained else []
    return [
        _Solve(entry["rtol"], nfe, error, entry["forward_s"])
        for entry in entries
        if (nfe := entry["nfe_forward"]) is not None and (error := entry["solution_error"]) is not None
    ]


def _swept(trained: Record | None, part: str, why: str) -> list[Block]:
    axis, entries = SWEEP[part], _solves(trained)
    if trained is None or not entries:
        return [Missing(TITLES[part], why if trained is None else "its record has no tolerance that was solved at.")]
    rows: list[Row] = [
        {"series": str(trained.backend), "x": solve.nfe, "y": value, "order": -solve.rtol}
        for solve in entries
        if (value := solve.error if part == "a" else 1000 * (solve.seconds or 0.0))
    ]
    if not rows:
        return [Missing(TITLES[part], f"at every tolerance the {axis.title} is 0.")]
    rtols = [solve.rtol for solve in entries]
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
        {"series": name, "x": entry["epoch"], "y": evaluations, "order": entry["epoch"]}
        for name in ("forward", "backward")
        for entry in trained.history
        if (evaluations := entry["nfe_forward"] if name == "forward" else entry["nfe_backward"]) is not None
    ]
    if not rows:
        return [Missing(TITLES["d"], "no epoch of the training has counted its evaluations.")]
    chart = lines(rows, Axis("epoch"), Axis("evaluations"), TITLES["d"], TOOLTIP)
    return [Chart("figure3d", f"{TITLES['d']}, on a fixed batch, by {trained.solver}.", chart)]


def _sweep_claims(trained: Record | None) -> list[str]:
    solves = sorted(_solves(trained), key=lambda solve: solve.nfe)
    if len(solves) < 2:
        return []
    if solves[0].nfe == solves[-1].nfe:
        n = solves[0].nfe
        return [f"At every tolerance the trained network takes {n} evaluations, so that (a) and (b) show no course."]
    errors = [solve.error for solve in solves]
    falls = all(after <= before for before, after in pairwise(errors))
    timed = [(solve.nfe, solve.seconds) for solve in solves if solve.seconds is not None]
    law = fit_power_law(*zip(*timed, strict=True)) if timed else None
    sentences = [
        f"More evaluations, less error, as in the paper: this {seen(holds=falls).text} here, from "
        f"{number(errors[0], 2)} at {solves[0].nfe} evaluations to {number(errors[-1], 2)} at "
        f"{solves[-1].nfe}."
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
        share = last.backward / last.forward
        sentences.append(
            f"At the trained weights of `{trained.backend}` by {trained.solver}, the backward pass takes "
            f"{last.backward} evaluations, the forward pass {last.forward}: {share:.2f} times as many, "
            f"so that the claim {seen(holds=share < ABOUT_HALF).text} there."
        )
    return [*sentences, *_swept_claims(trained)]


def _told(source: Source, name: str, shares: Sequence[float]) -> str:
    """At how many tolerances a backend and solver take about half, of those that were measured."""
    missing = sum(_name(place) == name for place in source.places["counts"]) - len(shares)
    n_below = sum(share < ABOUT_HALF for share in shares)
    more = f"; {missing} not measured" if missing else ""
    return f"`{name}` at {n_below} of {len(shares)} tolerances ({min(shares):.2f} to {max(shares):.2f}{more})"


class _LastEpoch(NamedTuple):
    """Evaluations at the end of the last epoch after which both were counted."""

    epoch: int
    forward: int
    backward: int


def _swept_claims(trained: Record | None) -> list[str]:
    """The backward evaluations of the trained network at the tolerances of the sweep."""
    entries = trained.tolerance_sweep if trained else []
    shares = [
        backward / forward
        for entry in entries
        if (forward := entry["nfe_forward"]) and (backward := entry.get("nfe_backward")) is not None
    ]
    if trained is None or not shares:
        return []
    n_below = sum(share < ABOUT_HALF for share in shares)
    return [
        f"Trained, `{trained.backend}` by {trained.solver} takes about half at {n_below} of {len(shares)} tolerances "
        f"({min(shares):.2f} to {max(shares):.2f} times the forward evaluations)."
    ]


def _last_epoch(trained: Record | None) -> _LastEpoch | None:
    counted = [
        _LastEpoch(entry["epoch"], forward, backward)
        for entry in (trained.history if trained else [])
        if (forward := entry["nfe_forward"]) and (backward := entry["nfe_backward"]) is not None
    ]
    return counted[-1] if counted else None


def _epoch_claims(trained: Record | None) -> list[str]:
    last = _last_epoch(trained)
    if trained is None or last is None or len(trained.history) < 2:
        return []
    first = trained.history[0]["nfe_forward"]
    if first is None:
        return []
    grows = seen(holds=last.forward > first).text
    return [
        f"Forward evaluations grow in the training, as in the paper: this {grows} here, from {first} "
        f"after epoch 1 to {last.forward} after epoch {last.epoch}."
    ]


def _deviations(source: Source) -> list[str]:
    solvers = sorted({place.cell.spec.solver for place in source.places["counts"]})
    return [
        f"Solvers: {', '.join(solvers)}. The paper has SciPy's LSODE and VODE; here VODE's Adams method stands for "
        "both, since SciPy's LSODA sets aside a dense Jacobian, too large for this state.",
        "(c) is at initial weights; ratios after the training stand beside it, at the tolerance of the training and in "
        "the table of (b) at others. The paper does not say which.",
    ]
