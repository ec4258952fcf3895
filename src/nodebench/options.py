"""What can be asked of `nodebench.api`: the options of commands and of functions, each written once, as a field.

The first sentence of what a docstring says of a field is its help on the command line. A class that says it anew has
its own help for the field, and otherwise that of the class which it is derived from. Imports no framework, nor NumPy.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from nodebench.bench.request import TRAINED, ExecutorOptions, Request, Settings, several
from nodebench.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from nodebench.gating.baseline import Baseline
    from nodebench.results.scaling import Axis
    from nodebench.tasks.base import Preset

DEFAULT_STORE = Path(".nodebench/results.db")

STORE_VARIABLE = "NODEBENCH_STORE"
"""Environment variable with the store that is meant where none is named."""

Parameters = ParamSpec("Parameters")
Options = TypeVar("Options")
Result = TypeVar("Result")
Base = TypeVar("Base")


def default_store() -> Path:
    """The store that is meant where none is named."""
    return Path(os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)


@dataclass(frozen=True, kw_only=True)
class RunOptions(ExecutorOptions, Settings, Request):
    """What a run takes.

    Attributes:
        resume: Continue the newest interrupted run of the same plan.
        rerun_failed: Re-measure cells of the plan's newest run that are not ok; a training goes on from its checkpoint.
        shard: Measure the I-th of N shares of the plan, every N-th group; `nodebench merge` joins their stores. I/N.
        store: Results store, an SQLite file.

    Raises:
        UserError: If an option is wrong in itself, or does not go with another.
    """

    resume: bool = False
    rerun_failed: bool = False
    shard: str | None = None
    store: str | Path = field(default_factory=default_store)

    made_by: ClassVar[str] = "run"  # what the store calls the command that makes a run of these

    def __post_init__(self) -> None:
        for part in (Request, ExecutorOptions, Settings):  # the first checks the types of all
            part.__post_init__(self)
        _check_tracked(self.track_error, self.measure)
        if self.resume and self.rerun_failed:
            raise UserError("`--rerun-failed` continues an interrupted run too; leave `--resume` out.")


SCALED = ("gradient", "untimed", "counts")
"""What is measured along an axis."""


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(RunOptions):
    """What a scaling takes.

    Attributes:
        over: Axis to vary: steps, tolerance, batch, horizon (a factor on the time span), or by an option of the task
            stiffness or parameters.
        values: Comma-separated values of the axis, at least three.
        models: Model of the task.
        measure: gradient, untimed (errors, evaluations, memory) or counts (evaluations).
        preset: Budget of the timing: smoke, quick, standard or paper.
        solvers: Runge-Kutta method; over steps one without step control (default: rk4).
    """

    over: "Axis" = "steps"
    values: Sequence[float] = ()
    measure: str = "gradient"
    preset: "Preset" = "smoke"

    made_by: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        super().__post_init__()
        several("values", self.values)
        if self.measure not in SCALED:
            raise UserError(f"a scaling measures {', '.join(SCALED)}; got measure={self.measure!r}.")
        if self.checkpoint_dir is not None:
            raise UserError("a scaling trains nothing and so keeps no checkpoints; leave `--checkpoint-dir` out.")


@dataclass(frozen=True, kw_only=True)
class RecommendOptions(RunOptions):
    """What a recommendation takes: a run that there is, or what is to be measured for it.

    Attributes:
        run: A run that has been measured: its id, the beginning of it, or `latest` (default: measure).
        error: Relative error of the gradient that is allowed.
        memory: Peak memory of a gradient step that is allowed, such as 200MiB.
        time: Time of a gradient step that is allowed, such as 10ms.
        backends: Gradient method, name[option=value]; or `all` (default).
        rtols: Relative tolerances to try (default: from the allowed error on, down to where rounding decides).
        budget_s: Time for all measurements together, in seconds (default: 60). What is needed once is measured whatever
            it takes.
        measure: What a recommendation needs of the gradient.
        preset: Budget of the timing: smoke, quick, standard or paper.

    Raises:
        UserError: If both a run and something to measure are named, or neither.
    """

    run: str | None = field(default=None, kw_only=False)
    error: float | None = None
    memory: str | float | None = None
    time: str | float | None = None
    measure: str = "untimed"
    preset: "Preset" = "smoke"

    made_by: ClassVar[str] = "recommend"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure != "untimed":
            raise UserError("a recommendation measures what it needs; leave `measure` out.")
        if self.executor != "local":
            raise UserError(
                "a recommendation times all methods in turns on this machine; leave `executor` out, or measure with "
                "`nodebench run --executor ray` and recommend from that RUN."
            )
        asked = self.field or self.tasks
        if (self.run is None) == (not asked):
            raise UserError("name a RUN that has been measured, or what to measure: `--task` or `--field`.")
        if asked and not self.backends:
            self._keep("backends", ("all",))


@dataclass(frozen=True, kw_only=True)
class GateOptions(Settings, Request):
    """What a comparison takes: what has been measured already, or another version to measure in turns with this one.

    Attributes:
        old: A baseline file, a run, or a JSON file of pytest-benchmark.
        new: What to compare with it, named in the same ways.
        max_slowdown: Slowdown that is a regression, such as 10% (the default) or 0.1.
        config: Thresholds (default: nodebench.toml in this folder, if there is one).
        against_ref: Measure in turns with the project of this folder at a git revision.
        against_wheel: Measure in turns with the version in a wheel.
        against_python: Measure in turns with another environment, named by its interpreter.
        backends: What to measure; as for `nodebench run`.
        tasks: As for `nodebench run`.
        models: As for `nodebench run`.
        measure: Of two versions the gradient alone is measured.
        preset: Budget of the timing: smoke, quick, standard or paper.
        solvers: As for `nodebench run`.
        rtols: As for `nodebench run`.
        seeds: As for `nodebench run` (default: 0).
        store: Results store, an SQLite file.

    Raises:
        UserError: If an option is wrong in itself, or it is not said what to compare with.
    """

    old: "str | Path | Baseline | None" = field(default=None, kw_only=False)
    new: "str | Path | Baseline" = field(default="latest", kw_only=False)
    max_slowdown: str | float | None = None
    config: str | Path | None = None
    against_ref: str | None = None
    against_wheel: str | Path | None = None
    against_python: str | None = None
    measure: str = "gradient"
    preset: "Preset" = "smoke"
    store: str | Path = field(default_factory=default_store)

    made_by: ClassVar[str] = "compare"

    def __post_init__(self) -> None:
        for part in (Request, Settings):
            part.__post_init__(self)
        _check_measure(self.measure)
        _check_tracked(self.track_error, self.measure)
        n_against = sum(other is not None for other in (self.against_ref, self.against_wheel, self.against_python))
        if n_against + (self.old is not None) != 1:
            raise UserError("name a BASELINE, or one of --against-ref, --against-wheel and --against-python.")
        if (self.backends or self.tasks) and not n_against:
            raise UserError(
                "-b and -t belong to the --against options, which measure; BASELINE is compared with what has been "
                "measured by `nodebench run`."
            )


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(RunOptions):
    """What a reproduction takes.

    Attributes:
        seeds: Seeds of the training; several give mean and spread (default: 0).

    Raises:
        UserError: If an option is wrong in itself, or nodes of other versions are to be allowed.
    """

    made_by: ClassVar[str] = "reproduce"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allow_mixed:
            raise UserError(
                "a reproduction has figures of one version of everything; leave `--allow-mixed` out and install the "
                "same versions on all nodes."
            )


def part_of(cls: type[Base], options: object) -> Base:
    """Those of some options that are fields of a class they are derived from."""
    return cls(**{f.name: getattr(options, f.name) for f in fields(cls)})  # type: ignore[arg-type]  # a dataclass


def meanings(cls: type) -> Mapping[str, str]:
    """What the docstrings of a dataclass, and of those it is derived from, say of each field."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        _, _, attributes = (inspect.getdoc(each) or "").partition("Attributes:\n")
        for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", attributes.partition("\n\n")[0], re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def taking(
    options: Callable[Parameters, Options],
) -> Callable[[Callable[[Options], Result]], Callable[Parameters, Result]]:
    """Give a function the fields of its options as its parameters, with what they mean in its docstring."""
    known = inspect.signature(options)
    told = meanings(options) if isinstance(options, type) else {}

    def decorate(function: Callable[[Options], Result]) -> Callable[Parameters, Result]:
        @wraps(function)
        def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
            for name in named:
                if name not in known.parameters:
                    raise UnknownNameError(f"option of `{function.__name__}`", name, known.parameters)
            return function(options(*arguments, **named))

        summary, returns, rest = (inspect.getdoc(function) or "").partition("Returns:\n")
        lines = "".join(f"    {name}: {told[name]}\n" for name in known.parameters if name in told)
        call.__doc__ = f"{summary}Args:\n{lines}\n{returns}{rest}"
        result: Any = inspect.signature(function).return_annotation
        call.__signature__ = known.replace(return_annotation=result)  # type: ignore[attr-defined]  # inspect reads it
        return call

    return decorate


def _check_tracked(n_moments: int, measure: str) -> None:
    if n_moments and measure not in TRAINED:
        raise UserError(
            f"`--track-error` follows the gradient along a training, and measure={measure!r} has none; take `--measure "
            "training` or `both`, or leave `--track-error` out."
        )


def _check_measure(measure: str) -> None:
    if measure != "gradient":
        raise UserError(f"only the gradient is measured here; got measure={measure!r}.")
