"""What is judged when the figures of all cells of a group are there: errors, wrong gradients, unlike problems."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nodebench.bench.cell_run import CellRun, probe_run
from nodebench.bench.client import LostError, WorkerError
from nodebench.bench.jobs import WorkClock
from nodebench.bench.messages import Event, Questions, ReferenceFile
from nodebench.bench.plan import Cell
from nodebench.bench.processes import kept_launchers
from nodebench.bench.reference import (
    TOLERANCES_PER_STEP,
    continuous_errors,
    ignorance,
    judged_errors,
    refusal,
    state_refusal,
    suffices,
    times_error,
)
from nodebench.bench.request import Settings
from nodebench.bench.saved import UNREADABLE, Reference, relative_error
from nodebench.results.quantities import GradientPart
from nodebench.results.record import Measurement

OPTIONAL = ("constant ", "step grid")
"""Conditions that a cell may be without: what a framework does not hold, or a library does not tell."""

FIELD_MARGIN = 1e-3
"""Relative difference of the figures of two fields that are the same: float32, and sums in another order."""


@dataclass
class References:
    """The reference gradients of one problem.

    Attributes:
        cell: A cell that is compared.
        settings: How cells are measured.
        first_step: First step of every solve that does not choose its own.
        inputs: The state of the model and the batch.
        folder: Where references are kept.
        notify: Told what happens.
        clock: Measures the time spent on them.
        found: The most accurate reference so far, or None.
        level: Its level; 0 where there is none.
        finest: Whether there is no more accurate one to be had.
        reason: Why there is none, or no more accurate one, where an attempt at it failed.
        contradicted: Whether the gradient that solvers compute is not that of the loss, for that reason.
        notes: What a reader must know of how it was come by.
    """

    cell: Cell
    settings: Settings
    first_step: float
    inputs: Path
    folder: Path
    notify: Callable[[Event], None]
    clock: WorkClock
    found: Reference | None = field(default=None, init=False)
    level: int = field(default=0, init=False)
    finest: bool = field(default=False, init=False)
    reason: str | None = field(default=None, init=False)
    contradicted: bool = field(default=False, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def refine(self, suffices: Callable[[Reference], bool]) -> None:
        """Go on from level to level until a reference suffices, or there is none that is more accurate.

        What is kept from earlier is gone through like the rest: it saves time, and must not change what is found.
        """
        if self._done(suffices):
            return
        worker = probe_run(self.cell, self.settings, self.clock)
        worker.open(kept_launchers())
        try:
            while not self._done(suffices):
                self.advance(worker)
        finally:
            worker.dismiss()

    def _done(self, suffices: Callable[[Reference], bool]) -> bool:
        return self.finest or (self.found is not None and suffices(self.found))

    def advance(self, worker: CellRun) -> None:
        """One level, with a time limit of its own; where it fails, what there is remains, and is the best there is."""
        text = f"reference gradient, refinement {self.level}" if self.level else "reference gradient"
        self.notify(Event("cell", text, worker.cell))
        arguments = (self.first_step, self.inputs, self.folder, self.level + 1)
        answer: ReferenceFile
        try:
            try:
                answer = worker.ask(Questions.reference, *arguments)
            except LostError:
                answer = worker.anew(lambda: worker.ask(Questions.reference, *arguments))
            found = None if answer.path is None else Reference.load(answer.path)
        except WorkerError as error:
            answer, found = ReferenceFile(None, error.failure.reason), None
        except UNREADABLE as error:
            answer, found = ReferenceFile(None, f"`{answer.path}` cannot be read: {error}."), None
        self.finest, self.reason, self.contradicted = answer.finest, answer.reason, answer.contradicted
        self.notes += answer.notes
        if found is not None:
            self.found, self.level = found, self.level + 1


def judge_accuracy(cells: Sequence[CellRun], references: References, limit: float) -> None:
    """Errors of all cells against one and the same reference: the first that is accurate enough for all of them.

    Only when the gradients of all are there: an error must not depend on what was asked for before its turn.

    Args:
        cells: The cells; what is found is entered in them.
        references: Finds references as accurate as they need.
        limit: Relative gradient error above which a gradient is wrong.
    """
    judged = [(cell, cell.gradients) for cell in cells if cell.gradients is not None]

    def is_enough(found: Reference) -> bool:
        return all(suffices(found, own, cell.cell.spec, cell.found.n_accepted) for cell, own in judged)

    if judged:
        references.refine(is_enough)
    for cell, gradients in judged:
        with cell.failures():
            _judge(cell, gradients, references, limit)


def _judge(cell: CellRun, gradients: Reference, references: References, limit: float) -> None:
    reference, spec = references.found, cell.cell.spec
    for note in references.notes:
        cell.note(note)
    if references.contradicted:
        cell.condemn("wrong_gradient", references.reason)
    if reference is None:
        cell.note(f"no grad_error: {references.reason}")
        return
    cell.enter(continuous_errors(gradients, reference, spec))
    if not gradients.params:
        cell.note("no error of d/dparams: the field has no trainable parameters")
    if gradients.times is not None and reference.times is None:
        cell.note(f"no grad_error_times: the reference ({reference.description}) has no d/dtimes")
    errors, beside = judged_errors(cell.found), max(reference.largest.values())
    unknown = {name: ignorance(own, reference.largest[name], beside, spec.dtype) for name, (_, own) in errors.items()}
    refused = {name: unknown[name] or refusal(error, own) for name, (error, own) in errors.items()}
    unstated = {name: reason for name, reason in refused.items() if reason}
    known = {name: error for name, (error, _) in errors.items() if not unknown[name]}
    cell.condemn("wrong_gradient", wrong_gradient(known, limit, unstated))
    # A solution is not judged by one that may be as far from the truth.
    states = state_refusal(reference.state_error(spec), cell.found.n_accepted)
    for name, reason in [*unstated.items(), *([("forward_error", states)] if states else [])]:
        cell.found = cell.found.without(name)
        more = f"; a more accurate reference: {references.reason}" if references.reason else ""
        cell.note(f"no {name} of {cell.cell.backend}: {reason}{more}")


def judge_fairness(cells: Sequence[CellRun]) -> None:
    """Whether all solve the same problem under the same conditions, and their solutions agree."""
    prepared = [cell for cell in cells if cell.conditions]
    conditions, fields = [cell.conditions for cell in prepared], [cell.found for cell in prepared]
    for cell in prepared:
        found = cell.found
        reason = (
            unlike(cell.conditions, conditions)
            or unlike_fields(found, fields)
            or disagreement(found.forward_error, found.n_accepted, found.sensitivity_largest)
        )
        cell.condemn("incomparable", reason)


def wrong_gradient(errors: Mapping[str, float], limit: float, unstated: Collection[str] = ()) -> str | None:
    """Why gradients with these relative errors are wrong, or None; an error that is not a number is.

    Args:
        errors: Relative errors by name.
        limit: The largest that is not wrong.
        unstated: Names of those that the reference is not accurate enough to state.
    """
    wrong = {name: error for name, error in errors.items() if not error <= limit}
    if not wrong:
        return None
    name, error = max(wrong.items(), key=lambda item: item[1])
    found = "" if name in unstated else f" {error:.2g},"
    return f"{name} is{found} above the limit of {limit:g} (--max-grad-error)."


def unlike(conditions: Mapping[str, str], group: Sequence[Mapping[str, str]]) -> str | None:
    """The first condition in which a cell differs from most of its group, itself included, or None.

    Where no value is more common than another, that of the first cell of the group counts. Of what is no parameter,
    only what both have is compared: one framework holds an array, another writes it into the code.

    Args:
        conditions: What the cell was measured under, by name.
        group: The same of all cells of the group.
    """
    for name in dict.fromkeys(name for each in (*group, conditions) for name in each):
        values = [other.get(name) for other in group]
        own, (common, _) = conditions.get(name), Counter(values).most_common(1)[0]
        optional = name.startswith(OPTIONAL) and None in (own, common)
        if own != common and not optional:
            told = [("missing" if value is None else value) for value in (own, common)]
            return f"its {name} is {told[0]}, that of the others {told[1]}: not the same comparison."
    return None


def unlike_fields(found: GradientPart, group: Sequence[GradientPart]) -> str | None:
    """Why a cell's field is another than that of most of its group, itself included, or None.

    Args:
        found: What is known of the cell: `field_value` and `field_derivative`, where it has any.
        group: The same of all cells of the group.
    """
    for name, what in (("field_value", "values"), ("field_derivative", "derivatives")):
        known = [value for each in group if (value := getattr(each, name)) is not None]
        own = getattr(found, name)
        if own is None or not known:
            continue
        common = max(known, key=lambda value: sum(_near(value, other) for other in known))
        if not _near(own, common):
            return f"its field has other {what} ({own:.6g} at fixed points, the others {common:.6g}): another problem."
    return None


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=FIELD_MARGIN, abs_tol=1e-30)


def disagreement(forward_error: float | None, n_accepted: int | None, grown: float | None = None) -> str | None:
    """Why a solution is not one of the problem to the tolerance asked for, or None.

    Args:
        forward_error: Distance of its output from the reference's in tolerances, where there is one.
        n_accepted: Steps of the solve; as one where the library does not tell.
        grown: By how much a disturbance of the start has grown at the end, where that is known: so may an error have.
    """
    steps = n_accepted or 1
    limit = TOLERANCES_PER_STEP * steps * max(1.0, grown or 1.0)
    if forward_error is None or forward_error <= limit:
        return None
    return (
        f"its solution is {forward_error:.3g} tolerances away from the reference's, above the {limit:.6g} that its "
        f"{steps} steps allow: it does not solve the same problem, or not to this tolerance."
    )


def method_errors(found: Reference, exact: Reference) -> Measurement:
    """Errors of gradients against the exact ones of the same discretisation; none of parameters that there are not."""
    return Measurement(
        method_error_params=relative_error(found.params, exact.params) if exact.params else None,
        method_error_y0=relative_error(found.y0, exact.y0),
        method_error_times=times_error(found, exact),
    )
