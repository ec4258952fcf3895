"""What is gated, how far a figure may move before it counts, and `nodebench.toml`, which changes that.

Ratios of times are handled on the scale of logarithms, as their intervals were made (`nodebench.stats`): symmetric
ones, of Student's quantile and as many degrees of freedom as there are starts but one.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from math import ceil, log
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nodebench.errors import UnknownNameError, UserError, first_error, user_error
from nodebench.gating.baseline import BaselineCell
from nodebench.registry import Kind, canonical
from nodebench.results.quantities import CATALOGUE, Band, Quantity, gated
from nodebench.stats import from_logs, log_error, student, welch

CONFIG_NAME = "nodebench.toml"

TIME = "time"
"""Name of the gated ratio of times."""

METRICS: Mapping[str, Quantity] = {metric: CATALOGUE[name] for metric, name in gated().items()}
"""What is gated, beside the status, by what the gate calls it."""

TIME_AT_ERROR, NFE_AT_ERROR, BYTES_AT_ERROR = "time_at_error", "nfe_at_error", "bytes_at_error"

AT_ERROR: Mapping[str, Quantity] = {
    TIME_AT_ERROR: Quantity(meaning="Time of a gradient step at equal error.", unit="ratio", better="lower"),
    NFE_AT_ERROR: Quantity(
        meaning="Evaluations at equal error.",
        unit="evaluations",
        better="lower",
        band=Band(relative=0.01),
        because="counts repeat; by how much an error may move within its own band is allowed for apart",
    ),
    BYTES_AT_ERROR: Quantity(meaning="Peak memory at equal error.", unit="bytes", better="lower"),
}
"""What is gated of the curve of a method over several tolerances."""

FOLLOWS = {TIME_AT_ERROR: TIME, BYTES_AT_ERROR: "peak_memory_bytes"}
"""Figures at equal error whose band is that of the figure itself, unless they have one of their own."""

FIGURES: Mapping[str, tuple[str, ...]] = {
    **{metric: (name,) for metric, name in gated().items()},
    TIME_AT_ERROR: ("step_s",),
    NFE_AT_ERROR: ("nfe_forward", "nfe_backward"),
    BYTES_AT_ERROR: ("peak_memory_bytes",),
}
"""Fields of a cell that each of these figures is of, or is worked out from."""

MANY_STARTS = 1000
"""More than this is no advice."""


def default_band(metric: str) -> Band:
    """The band of a metric, unless told otherwise; of no metric, that of what must be equal."""
    known = METRICS.get(FOLLOWS.get(metric, metric)) or AT_ERROR.get(metric)
    return (known.band if known else None) or Band()


@dataclass(frozen=True)
class Rule:
    """A band for some of the cells.

    Attributes:
        metric: The figure.
        band: Its band.
        task: Task it holds for, with or without options; None for all.
        backend: Backend it holds for, with or without options; None for all.
        number: Its place among `[[gate.rules]]`, from 1; None for what is said of a metric as a whole.
    """

    metric: str
    band: Band
    task: str | None = None
    backend: str | None = None
    number: int | None = None

    @property
    def label(self) -> str:
        """What it holds for, as its file has it."""
        named = {"metric": self.metric, "task": self.task, "backend": self.backend}
        return ", ".join(f"{key} {value}" for key, value in named.items() if value is not None)

    def is_for(self, task: str, backend: str | None) -> bool:
        """Whether it is meant for cells of this task and backend."""
        pairs: tuple[tuple[Kind, str | None, str], ...] = (
            ("task", self.task, task),
            ("backend", self.backend, backend or ""),
        )
        return all(
            wanted is None
            or wanted in (name, name.partition("[")[0])
            or ("[" in wanted and _spelled(kind, wanted) == name)
            for kind, wanted, name in pairs
        )


@cache
def _spelled(kind: Kind, text: str) -> str:
    """The one spelling of a name with options, which records have; a benchmark of others has brackets without any."""
    try:
        return canonical(kind, text)
    except UserError:
        return text


@dataclass(frozen=True)
class Thresholds:
    """All bands.

    Attributes:
        rules: Exceptions; of those that hold, the last does.
        missing_fails: Whether a cell or a figure that is in the baseline and was not measured is a regression.
    """

    rules: tuple[Rule, ...] = ()
    missing_fails: bool = False

    def band(self, metric: str, task: str, backend: str | None) -> Band:
        """The band of a figure of a cell."""
        found = [rule.band for rule in self.rules if rule.metric == metric and rule.is_for(task, backend)]
        if metric in FOLLOWS and not found:
            return self.band(FOLLOWS[metric], task, backend)
        return found[-1] if found else default_band(metric)


def read_thresholds(path: Path | None = None, max_slowdown: str | None = None) -> Thresholds:
    """The thresholds of a configuration file.

    Args:
        path: The file; None for `nodebench.toml` in the working directory, where there is one.
        max_slowdown: Slowdown that is a regression, instead of the file's; its rules for a task or backend remain.

    Raises:
        UserError: If the file does not exist, is no TOML, or has a key or value that means nothing.
    """
    where = path or Path(CONFIG_NAME)
    gate = _validated(str(where), _content(where, wanted=path is not None))
    limit = gate.max_slowdown
    if max_slowdown is not None:
        limit = _validated("--max-slowdown", {"gate": {"max_slowdown": max_slowdown}}).max_slowdown
    rules = [Rule(metric, entry.to_band(metric)) for metric, entry in gate.metrics.items()]
    rules += [Rule(TIME, Band(relative=limit))] if limit is not None else []
    rules += [
        Rule(rule.metric, rule.to_band(rule.metric), rule.task, rule.backend, number)
        for number, rule in enumerate(gate.rules, start=1)
    ]
    known = {**METRICS, **AT_ERROR}
    for rule in rules:
        if rule.metric not in known:
            raise UserError(f"`{where}`: {UnknownNameError('metric', rule.metric, known)}")
        if rule.metric in (TIME, TIME_AT_ERROR) and rule.band.absolute:
            raise UserError(f"`{where}`: `absolute` means nothing for `{rule.metric}`, which is a ratio; write `band`.")
    return Thresholds(tuple(rules), missing_fails=gate.missing == "fail")


def _fraction(value: Any) -> float:
    """`"10%"` as 0.1, and 0.1 as it is; 10 without a sign is likely to be meant for the former."""
    percent = isinstance(value, str) and value.strip().endswith("%")
    try:
        found = float(str(value).strip().removesuffix("%"))
    except ValueError:
        raise ValueError(f'must be a number or a percentage such as "10%"; got {value!r}') from None
    if found > 1 and not percent:
        raise ValueError(f'{value} is {found:.0%}; write "{found:g}%" or "{found:.0%}", whichever is meant')
    return found / 100 if percent else found


Fraction = Annotated[float, BeforeValidator(_fraction), Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Band(_Strict):
    band: Fraction | None = None
    absolute: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    ignore: bool = False

    def to_band(self, metric: str) -> Band:
        """The band; what is not said is as in the metric's own."""
        if self.band is None and not self.absolute:
            return replace(default_band(metric), ignored=self.ignore)
        return Band(self.band or 0.0, self.absolute, ignored=self.ignore)


class _Rule(_Band):
    metric: str
    task: str | None = None
    backend: str | None = None


class _Gate(_Strict):
    max_slowdown: Fraction | None = None
    missing: Literal["pass", "fail"] = "pass"
    metrics: dict[str, _Band] = Field(default_factory=dict)
    rules: list[_Rule] = Field(default_factory=list)


class _File(_Strict):
    gate: _Gate = Field(default_factory=_Gate)


_KEYS: Mapping[str, type[BaseModel]] = {"": _File, "gate": _Gate, "metrics": _Band, "rules": _Rule}
"""Whose keys belong below which part of the file, for the near ones of a mistyped key."""


def _validated(where: str, content: Mapping[str, Any]) -> _Gate:
    try:
        return _File.model_validate(content).gate
    except ValidationError as error:
        key, why, _ = first_error(error)
        if error.errors()[0]["type"] != "extra_forbidden":
            raise UserError(f"`{where}`: `{key}`: {why.removeprefix('Value error, ')}.") from error
        *parents, last = error.errors()[0]["loc"]
        named = [str(part) for part in parents if part in _KEYS]
        known = list(_KEYS[named[-1] if named else ""].model_fields)
        near = get_close_matches(str(last), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}."
        raise UserError(f"`{where}`: unknown key `{key}`; {hint}") from error


def _content(path: Path, *, wanted: bool) -> dict[str, Any]:
    if not path.is_file():
        if wanted:
            raise UserError(f"there is no file `{path}`.")
        return {}
    try:
        with user_error(f"`{path}` cannot be read"):
            return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no TOML, or no UTF-8
        raise UserError(f"`{path}` is not TOML: {error}.") from error


@dataclass(frozen=True)
class LogRatio:
    """Logarithm of a ratio of times, as one run found it.

    Attributes:
        centre: The estimate.
        error: Its standard error.
        degrees: Degrees of freedom of the error: the starts but one.
    """

    centre: float
    error: float
    degrees: int


@dataclass(frozen=True)
class Slowdown:
    """Time of a step relative to what it was.

    Attributes:
        ratio: The estimate; 1.1 is a tenth slower.
        low: Lower end of its 95 % interval.
        high: Upper end.
        new: What the candidate's run contributes.
        old_error: Standard error that the baseline contributes; 0 where both took turns in one run.
    """

    ratio: float
    low: float
    high: float
    new: LogRatio
    old_error: float

    def verdict(self, limit: float) -> Literal["regression", "improvement", "same", "undecided"]:
        """Whether it lies wholly beyond a slowdown or the speed-up of the same factor, wholly below, or on it.

        Args:
            limit: Slowdown that matters; 0.1 is a tenth.
        """
        if self.low > 1 + limit:
            return "regression"
        if self.high < 1 / (1 + limit):
            return "improvement"
        return "same" if self.high <= 1 + limit else "undecided"

    def starts_needed(self, limit: float) -> int | None:
        """About how many more starts of the candidate would decide, if the estimate were to stay; None if none would.

        The interval must become narrower than the estimate's distance from the limit, and its width falls with the
        square root of the starts; what the baseline contributes stays.
        """
        distance, n_starts = abs(log(self.ratio) - log(1 + limit)), self.new.degrees + 1
        allowed = (distance / student(self.new.degrees)) ** 2 - self.old_error**2
        if allowed <= 0:
            return None
        needed = ceil(self.new.error**2 * n_starts / allowed)
        return max(1, needed - n_starts) if needed <= MANY_STARTS else None


def slowdown(old: BaselineCell, new: BaselineCell) -> Slowdown | None:
    """What the ratios of a cell say; None where one of them has no interval.

    Two runs are compared through the ratio to the control in each, whose errors are independent of each other (Welch's
    test); `new.paired` is the ratio itself.
    """
    after, before = _log_ratio(new), None if new.paired else _log_ratio(old)
    if after is None or (before is None and not new.paired):
        return None
    if before is None:
        return Slowdown(*from_logs(after.centre, student(after.degrees) * after.error), after, old_error=0.0)
    error, degrees = welch((after.error, after.degrees), (before.error, before.degrees))
    return Slowdown(*from_logs(after.centre - before.centre, student(degrees) * error), after, before.error)


def _log_ratio(cell: BaselineCell) -> LogRatio | None:
    degrees = (cell.n_starts or 0) - 1
    if cell.ratio is None or cell.ratio_low is None or cell.ratio_high is None or degrees < 1:
        return None
    return LogRatio(log(cell.ratio), log_error(cell.ratio_low, cell.ratio_high, degrees), degrees)
