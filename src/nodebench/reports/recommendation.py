"""Which gradient method to use for a wish (an error, a memory, a time), what it costs, and why the others lost.

The figures decide: each method is taken at the loosest tolerance at which it is exact enough, and of those that fit the
fastest is the first. What cannot be told apart is said to be so. Rules of thumb of libraries' manuals are stated beside
it, with whether they hold for these figures.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, nan
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.markup import escape

from nodebench.errors import UserError
from nodebench.importing import missing
from nodebench.reports.comparison import grouped, has_gradient
from nodebench.reports.document import (
    Block,
    Bullets,
    Column,
    Document,
    Entry,
    Paragraph,
    Table,
    interval,
    mebibytes,
    milliseconds,
    number,
)
from nodebench.reports.writers.terminal import print_table, text_of
from nodebench.results.equal_cost import CostAtError, Estimate, equal_costs, summed, time_ratio, time_term
from nodebench.results.equal_cost import error_of as error_name
from nodebench.results.record import Record

ALIKE = 0.02
"""Part of a figure by which two may differ and are as good as equal."""

UNITS: Mapping[str, float] = {
    "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip

SECONDS: Mapping[str, float] = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a method must keep to; None for what does not matter.

    Attributes:
        error: Relative error of the gradient: of d/dparams, or of d/dy0 where the field has no parameters.
        memory_bytes: Peak memory of a gradient step.
        time_s: Time of a gradient step, in seconds.
    """

    error: float | None = None
    memory_bytes: int | None = None
    time_s: float | None = None

    @classmethod
    def of(
        cls, error: float | None = None, memory: str | float | None = None, time: str | float | None = None
    ) -> "Wishes":
        """Wishes as a person writes them.

        Args:
            error: Relative error of the gradient.
            memory: Such as `"200 MiB"`, or bytes.
            time: Such as `"10 ms"`, or seconds.

        Raises:
            UserError: If one is not positive, or has an unknown unit.
        """
        n_bytes = _positive("memory", memory, UNITS)
        return cls(
            error=_positive("error", error, {}),
            memory_bytes=None if n_bytes is None else int(n_bytes),
            time_s=_positive("time", time, SECONDS),
        )

    @property
    def text(self) -> str:
        """What is wished for, in words."""
        said = (
            "" if self.error is None else f"an error of at most {number(self.error, 2)}",
            "" if self.memory_bytes is None else f"at most {mebibytes(self.memory_bytes)} MiB",
            "" if self.time_s is None else f"at most {milliseconds(self.time_s)} ms a step",
        )
        return ", ".join(filter(None, said)) or "the least time"


ADJOINT_IS_SLOW = (
    "Onken, Ruthotto 2020 (arXiv 2005.13420)",
    "to discretise and then optimise takes less time than the continuous adjoint",
)

RECURSIVE_IS_BEST = (
    "diffrax's manual",
    "RecursiveCheckpointAdjoint is the one to use for reverse-mode differentiation",
)


def _positive(name: str, value: str | float | None, units: Mapping[str, float]) -> float | None:
    """A number with a unit, in that whose factor is 1."""
    if value is None:
        return None
    text = str(value).replace(" ", "").lower()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz") if units else text
    factor = units.get(text[len(digits) :], None if text[len(digits) :] else 1.0)
    try:
        found = float(digits) * (nan if factor is None else factor)
    except ValueError:
        found = nan
    if isinstance(value, bool) or not 0 < found < inf:
        known = f" with a unit ({', '.join(units)})" if units else ""
        raise UserError(f"`{name}` must be a positive number{known}; got {value!r}.")
    return found


@dataclass(frozen=True)
class Choice:
    """A method that fits.

    Attributes:
        record: The cell: the method at the tolerance that it is to be used with.
        relative: Its time relative to the first choice's; None for the first, and where nothing is known.
    """

    record: Record
    relative: Estimate | None

    @property
    def verdict(self) -> str:
        """How it stands against the first choice; empty where an interval is missing."""
        if self.relative is None or self.relative.low is None:
            return ""
        return f"{self.relative.verdict}: {_times(self.relative)} times"


def _times(ratio: Estimate) -> str:
    return f"{number(ratio.value)} ({interval(ratio.low, ratio.high)})"


@dataclass(frozen=True)
class Lost:
    """A method that does not fit.

    Attributes:
        name: The method.
        reason: Why, in a few words.
        misses: By which factor it misses the wishes at its nearest; None where nothing is known of it.
        record: The nearest of its cells.
    """

    name: str
    reason: str
    misses: float | None = None
    record: Record | None = None


@dataclass(frozen=True)
class Rule:
    """A rule of thumb.

    Attributes:
        source: Whose it is.
        text: What it says.
        holds: Whether it holds for these figures.
        because: The figures that say so.
    """

    source: str
    text: str
    holds: bool
    because: str


@dataclass(frozen=True)
class Recommendation:
    """What to use, and why.

    Attributes:
        wishes: What was wished for.
        choices: The methods that fit, the best first; none where nothing fits.
        lost: The others, those first that come nearest.
        rules: Rules of thumb, and whether they held.
        at_error: What each method costs at the wished error itself, between its tolerances; empty where that is not
            known of two.
    """

    wishes: Wishes
    choices: tuple[Choice, ...]
    lost: tuple[Lost, ...]
    rules: tuple[Rule, ...]
    at_error: str = ""

    def __repr__(self) -> str:
        """What a terminal of 80 columns shows."""
        return text_of(partial(print_recommendation, self), 80)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; the text of a terminal where what makes pages is not installed."""
        if missing("report"):
            return None
        from nodebench.reports.writers.html import fragment  # noqa: PLC0415  it needs the extra

        return fragment(Document("Recommendation", (), tuple(_blocks(self))))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it, with the line of code."""
        return {
            "answer": self.answer,
            "code": self.code,
            "choices": [
                {**choice.record.to_dict(), "relative": _ends(choice.relative), "against_first": choice.verdict}
                for choice in self.choices
            ],
            "lost": [{"name": each.name, "reason": each.reason, "misses": each.misses} for each in self.lost],
            "rules": [vars(rule) for rule in self.rules],
            "at_error": self.at_error,
        }

    @property
    def code(self) -> str:
        """The line of Python that uses the first choice; empty where nothing fits."""
        return code(self.choices[0].record) if self.choices else ""

    @property
    def answer(self) -> str:
        """The answer in a sentence or two."""
        if not self.choices:
            nearest = next((each for each in self.lost if each.record is not None), None)
            near = f" The nearest is `{nearest.name}`: {nearest.reason}." if nearest else ""
            return f"No method that was tried keeps to {self.wishes.text}.{near}"
        first = self.choices[0].record
        said = f"For {self.wishes.text}: `{first.backend}`, {first.solver} at rtol {number(first.rtol)}"
        said += f" and atol {number(first.atol)}." if first.atol != first.rtol else "."
        tied = [each for each in self.choices if each.verdict.startswith("undecided")]
        if tied:
            names = ", ".join(f"`{each.record.backend}`" for each in tied)
            said += f" The intervals of time do not tell it from {names}."
        if first.step_s is None:
            said += " It has the fewest evaluations; nothing was timed."
        return said


def recommendation(
    records: Sequence[Record], wishes: Wishes, relative: Callable[[Record, Record], Estimate] | None = None
) -> Recommendation:
    """What to use according to records of one problem, with times of one machine.

    Args:
        records: The records, of one or several tolerances and solvers.
        wishes: What the method must keep to.
        relative: The time of one cell relative to that of another, where they were timed in turns; by default from
            ratios to a common control, or else from the times themselves.

    Raises:
        UserError: If nothing in the records has a gradient, or they are of more than one problem.
    """
    asked = [record for record in records if record.backend is not None]
    if not any(map(has_gradient, asked)):
        raise UserError("there is no gradient among these records; measure with `--measure gradient`.")
    problems = grouped(
        asked, lambda r: (r.task, r.model, r.batch_size, r.dtype, r.device, r.threads, r.seed, r.horizon)
    )
    if len(problems) > 1:
        named = ", ".join(dict.fromkeys(f"{each[0].task}/{each[0].model}" for each in problems))
        raise UserError(f"a recommendation is for one problem; these records are of several: {named}.")
    compared = relative or relative_time
    fits: list[Record] = []
    lost: list[Lost] = []
    for method in grouped(asked, lambda record: (record.backend, record.solver)):
        found = chosen(method, wishes)
        if isinstance(found, Lost):
            lost.append(found)
        else:
            fits.append(found)
    fits.sort(key=lambda record: (record.step_s is None, record.step_s or effort(record)))
    timed = [record.step_s is not None for record in fits]
    choices = tuple(
        Choice(record, compared(record, fits[0]) if at and timed[at] else None) for at, record in enumerate(fits)
    )
    lost.sort(key=lambda each: each.misses or inf)
    return Recommendation(wishes, choices, tuple(lost), tuple(rules(asked)), _at_error(asked, wishes.error))


def _at_error(records: Sequence[Record], error: float | None) -> str:
    """What methods cost at an error, interpolated: the tolerances that were tried are not those that it needs."""
    costs = None if error is None else equal_costs([r for r in records if r.status == "ok"], (error,))
    reached = [] if costs is None else [cost for cost in costs.costs if cost.outcome == "reached"]
    if error is None or len(reached) < 2:
        return ""
    told = (f"`{cost.backend}` {', '.join(_costs(cost))}" for cost in reached)
    return f"At an error of {number(error, 2)} itself, interpolated between tolerances: {'; '.join(told)}."


def _ends(ratio: Estimate | None) -> list[float | None] | None:
    """A ratio with its interval, as JSON knows it."""
    return None if ratio is None or ratio.low is None else [ratio.value, ratio.low, ratio.high]


def _costs(cost: CostAtError) -> Iterator[str]:
    if cost.evaluations.value is not None:
        yield f"{number(cost.evaluations.value)} evaluations"
    if cost.memory.value is not None:
        yield f"{mebibytes(int(cost.memory.value))} MiB"
    if cost.time.value is not None:
        ends = "" if cost.time.low is None else f" ({interval(cost.time.low, cost.time.high, 1000)})"
        yield f"{milliseconds(cost.time.value)} ms{ends}"


def chosen(method: Sequence[Record], wishes: Wishes) -> Record | Lost:
    """The cell of a method that is to be used, or why there is none.

    Args:
        method: Records of one backend and solver at several tolerances.
        wishes: What it must keep to.
    """
    name = f"{method[0].backend}"
    ranked = sorted((r for r in method if r.status == "ok" and has_gradient(r)), key=lambda r: -(r.rtol or 0.0))
    if not ranked:
        first = method[0]
        return Lost(name, f"{first.status}: {first.reason}".rstrip("."))
    known = [record for record in ranked if wishes.error is None or error_of(record) is not None]
    if not known:
        return Lost(name, "its error is not stated: the reference is not a hundred times more exact")
    exact = [record for record in known if wishes.error is None or (error_of(record) or 0.0) <= wishes.error]
    if not exact:
        best = min(known, key=lambda record: error_of(record) or inf)
        error = error_of(best) or inf
        tried = f"at any tolerance tried ({number(ranked[0].rtol)} to {number(ranked[-1].rtol)})"
        if len(ranked) == 1:
            tried = f"at the tolerance tried ({number(ranked[0].rtol)})"
        return Lost(name, f"too inexact {tried}: {number(error, 2)} at best", error / (wishes.error or 1.0), best)
    lean = [r for r in exact if wishes.memory_bytes is None or (r.peak_memory_bytes or inf) <= wishes.memory_bytes]
    if not lean:
        least = min(exact, key=lambda record: record.peak_memory_bytes or inf)
        misses = (least.peak_memory_bytes or inf) / (wishes.memory_bytes or 1.0)
        return Lost(name, f"too much memory: {mebibytes(least.peak_memory_bytes)} MiB", misses, least)
    best = min(lean, key=lambda record: (record.step_s is None, record.step_s or effort(record)))
    if wishes.time_s is not None and best.step_s is not None and best.step_s > wishes.time_s:
        time = f"{milliseconds(best.step_s)} ms"
        return Lost(name, f"too slow: {time}", best.step_s / wishes.time_s, best)
    return best


def error_of(record: Record) -> float | None:
    """Error of d/dparams, or of d/dy0 where the field has no parameters."""
    found: float | None = getattr(record, error_name([record.n_params]))
    return found


def effort(record: Record) -> float:
    """Evaluations of the field and vector-Jacobian products, all together."""
    return (record.nfe_forward or 0) + (record.nfe_backward or 0) + (record.n_vjps or 0)


def relative_time(record: Record, other: Record) -> Estimate:
    """The time of one cell relative to another's: by their ratios to one control, or else by their times."""
    terms = [time_term(record, 1.0), time_term(other, -1.0)]
    known = [term for term in terms if term is not None]
    if len(known) < len(terms):
        return Estimate(None, reason="not timed.")
    together = record.run_id == other.run_id and (record.rtol, record.solver) == (other.rtol, other.solver)
    in_turns = time_ratio(record, other) if together else Estimate(None)
    return summed(known) if in_turns.value is None else in_turns


def code(record: Record) -> str:
    """The line of Python that solves by a cell's method."""
    tolerances = f"rtol={record.rtol:g}, atol={record.atol:g}"
    if record.framework == "torch":
        return f'nodebench.odeint(field, y0, t, gradient="{record.backend}", method="{record.solver}", {tolerances})'
    spec = f'nodebench.SolverSpec(solver="{record.solver}", {tolerances}, max_steps={record.max_steps})'
    return f'nodebench.backend("{record.backend}").solve(field, y0, t, {spec})'


def print_recommendation(found: Recommendation, console: Console) -> None:
    """Print the methods that fit, why the others lost, the rules of thumb, the answer, and the line of code."""
    if found.choices:
        print_table(choices_table(found), console)
    if found.lost:
        console.print("not chosen:")
        for lost in found.lost:
            _print_hanging(console, f"- {lost.name}: {lost.reason}")
    if found.at_error:
        _print_hanging(console, found.at_error)
    for rule in found.rules:
        _print_hanging(console, f"rule of thumb of {_rule_sentence(rule)}")
    _print_hanging(console, found.answer)
    if found.code:
        console.print("use it:")
        console.print(f"  {escape(found.code)}", soft_wrap=True)


def _blocks(found: Recommendation) -> Iterator[Block]:
    yield Paragraph(found.answer)
    if found.code:
        yield Paragraph(f"`{found.code}`")
    if found.choices:
        yield choices_table(found)
    if found.lost:
        yield Paragraph("Not chosen:")
        yield Bullets(tuple(f"`{lost.name}`: {lost.reason}" for lost in found.lost))
    if found.at_error:
        yield Paragraph(found.at_error)
    if found.rules:
        yield Paragraph("Rules of thumb, and whether they hold here:")
        yield Bullets(tuple(map(_rule_sentence, found.rules)))


def _rule_sentence(rule: Rule) -> str:
    return f"{rule.source}: {rule.text}: {'holds' if rule.holds else 'does not hold'}, {rule.because}"


def _print_hanging(console: Console, text: str) -> None:
    """A text whose lines after the first are indented."""
    for line in wrap(text.replace("`", ""), console.width, subsequent_indent="  ", break_long_words=False):
        console.print(escape(line), soft_wrap=True)


def choices_table(found: Recommendation) -> Table:
    """The methods that fit, a row for each, the best first."""
    columns = (
        Column("method", numeric=False, wraps=True),
        Column("rtol", "Relative tolerance at which it is to be used."),
        Column("error", "Relative error of the gradient."),
        Column("NFE f+b", "Evaluations of the field, forward and backward."),
        Column("peak\nMiB", "Peak memory of a gradient step."),
        Column("step\nms", "Time of a gradient step."),
        Column("against the first", "Time relative to the first's, with its 95 % interval.", numeric=False, wraps=True),
    )
    several = len({choice.record.solver for choice in found.choices}) > 1
    rows = tuple(
        (
            Entry(f"`{choice.record.backend}`" + (f" {choice.record.solver}" if several else "")),
            Entry(number(choice.record.rtol), choice.record.rtol),
            Entry(number(error_of(choice.record), 2), error_of(choice.record)),
            Entry(f"{choice.record.nfe_forward}+{choice.record.nfe_backward}", effort(choice.record)),
            Entry(mebibytes(choice.record.peak_memory_bytes), choice.record.peak_memory_bytes),
            Entry(milliseconds(choice.record.step_s), choice.record.step_s),
            Entry(choice.verdict),
        )
        for choice in found.choices
    )
    return Table("recommendation", f"What keeps to {found.wishes.text}.", columns, rows)


def rules(records: Sequence[Record]) -> list[Rule]:
    """Rules of thumb that can be told from records: of cells at one tolerance, the tightest that has both."""
    found = (
        _rule(records, "torchdiffeq", "torchdiffeq-adjoint", _adjoint_is_lean),
        _rule(records, "torchdiffeq-adjoint", "torchdiffeq", partial(_is_slower, *ADJOINT_IS_SLOW)),
        _rule(records, "diffrax-backsolve", "diffrax", _backsolve_is_inexact),
        _rule(records, "diffrax-direct", "diffrax", partial(_is_slower, *RECURSIVE_IS_BEST)),
    )
    return [rule for rule in found if rule is not None]


def _rule(
    records: Sequence[Record], one: str, other: str, judge: Callable[[Record, Record], Rule | None]
) -> Rule | None:
    by_name = {
        name: {(r.solver, r.rtol): r for r in records if r.backend == name and r.status == "ok"}
        for name in (one, other)
    }
    both = [place for place in by_name[one] if place in by_name[other]]
    if not both:
        return None
    place = min(both, key=lambda each: each[1] or inf)
    return judge(by_name[one][place], by_name[other][place])


def _adjoint_is_lean(direct: Record, adjoint: Record) -> Rule | None:
    if direct.peak_memory_bytes is None or adjoint.peak_memory_bytes is None:
        return None
    figures = f"{mebibytes(adjoint.peak_memory_bytes)} MiB against {mebibytes(direct.peak_memory_bytes)}"
    return Rule(
        "torchdiffeq's README",
        "the adjoint method has constant memory cost, so that it takes less than backpropagation",
        adjoint.peak_memory_bytes < direct.peak_memory_bytes,
        f"`torchdiffeq-adjoint` {figures} of `torchdiffeq` at rtol {number(direct.rtol)}",
    )


def _is_slower(source: str, text: str, slow: Record, fast: Record) -> Rule | None:
    compared = relative_time(slow, fast)
    if compared.verdict in (None, "undecided"):
        return None
    because = f"`{slow.backend}` takes {_times(compared)} times as long as `{fast.backend}` at rtol {number(slow.rtol)}"
    return Rule(source, text, compared.verdict == "slower", because)


def _backsolve_is_inexact(backsolve: Record, recursive: Record) -> Rule | None:
    errors = error_of(backsolve), error_of(recursive)
    if errors[0] is None or errors[1] is None:
        return None
    return Rule(
        "diffrax's manual",
        "BacksolveAdjoint computes gradients that are only approximate, so that others are preferred for exactness",
        errors[0] > errors[1] * (1 + ALIKE),
        f"error {number(errors[0], 2)} against {number(errors[1], 2)} at rtol {number(backsolve.rtol)}",
    )
