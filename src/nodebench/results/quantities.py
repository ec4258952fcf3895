"""The catalogue of quantities: whatever is measured, once.

Each field of a part of a record that is a quantity says here what it is, in which unit, how it is printed, which
direction is better, how the gate holds it and in which tables it stands. The record's fields, the store's columns,
`--json`, the tables of reports and terminals, the gate, baselines and the tables of docs/ follow from it. To add a
quantity, declare it here and give it a value where it is measured.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Gt
from typing_extensions import TypedDict  # which pydantic asks for before Python 3.12

from nodebench.errors import Status

EPSILONS: Mapping[str, float] = {"float32": 2.0**-23, "float64": 2.0**-52}
"""Spacing of the numbers just above 1."""

KNOWN = 0.05
"""Relative error of its own beyond which a reference knows nothing of a gradient, and so judges none."""

Format = Literal["text", "count", "number", "error", "metric", "MiB", "ms", "figures"]
"""How a value is printed: as it is; a whole number; with 3, 2 or 4 significant digits; bytes as MiB, seconds as ms; a
mapping as a list of names with values."""

TableName = Literal[
    "summary",
    "exactness",
    "cost",
    "times",
    "training",
    "training cost",
    "training step",
    "comparison",
    "trained",
    "not ok",
    "baseline",
]
"""The tables: what is seen first on a terminal and on a page; on a wide terminal how exact gradients are, what they
cost and how they were timed, and what trainings reached and took; on both, training steps; on a page the further
columns of the comparison, the trained models and what failed; and that of a baseline."""

HOW_TAKEN: Mapping[str, str] = {
    "gradient error": (
        "relative L2 distance of d/dparams and d/dy0 from a float64 reference of the continuous problem: the "
        "closed form, or a far finer solve that states its own accuracy. An error is reported only if it is at "
        "least 100 times the reference's own error"
    ),
    "method error": (
        "the same distance from the exact gradient, in float64, of the discretisation that the backend chose: "
        "what is left is the method's share, and rounding"
    ),
    "NFE, VJPs, steps": ("counted in an instrumented run of forward and backward"),
    "peak memory": (
        "one warmed gradient step above the idle process: memray on a CPU, the allocator on a GPU; beside it the "
        "exact bytes kept for the backward pass"
    ),
    "time": (
        "a live, warmed worker process per method, one thread unless `--threads` says otherwise; they take turns "
        "in shuffled order, one at a time, in four or more starts of fresh workers; times and ratios to "
        "`--control` (the first method named; of `all` torchdiffeq, or diffrax in JAX) with 95 % intervals over the "
        "starts"
    ),
    "start_method": (
        "how processes are started: each of several starts has a fresh launcher per framework, which imports it "
        "and forks a worker for each cell (`fork`); where a fork is not safe, or the launcher is lost, workers "
        "are new interpreters (`spawn`: some or all of a cell's). What is not timed is done side by side, "
        "`--jobs` cells at once"
    ),
    "x floor": (
        "step time without that of the loss, divided by the time of the same number of evaluations and VJPs called "
        "directly (in JAX in a compiled loop), interleaved in one process; not of steps that torch compiles, which "
        "fuses solver and field"
    ),
    "compilation": (
        "the first step less a warmed one, of cells that compile (JAX, `compile=true`), with nothing kept from earlier "
        "but torch's own headers, which it compiles once on a machine"
    ),
    "training": (
        "test metric, loss, validation and NFE by epoch, error, time and evaluations at other tolerances, peak "
        "resident set, by the preset: `smoke` (seconds), `quick` (about two minutes), `standard`, `paper` (the paper's "
        "own)"
    ),
    "training step": (
        "`--measure training-step`: a step of the whole model with its optimiser, at the initial weights and the "
        "recipe's batch; its memory as that of a gradient step, its time in turns with those of all models of the "
        "task. A training leaves the memory, too"
    ),
}
"""How quantities are taken, by the name of their group."""


@dataclass(frozen=True)
class Band:
    """How much worse a quantity may be before that is a regression; the widest of the three holds.

    Attributes:
        relative: Part of the baseline's value.
        absolute: In the unit of the quantity.
        epsilons: In units of the floating-point type's epsilon, for relative errors.
        ignored: Whether the quantity is not gated at all.
    """

    relative: float = 0.0
    absolute: float = 0.0
    epsilons: float = 0.0
    ignored: bool = False

    def allowed(self, old: float, dtype: str) -> float:
        """By how much a value may differ from the baseline's."""
        return max(self.relative * abs(old), self.absolute, self.epsilons * EPSILONS.get(dtype, 0.0))

    def text(self, unit: str) -> str:
        """The band in words, for a quantity of this unit."""
        amount = f"{self.absolute / 2**10:g} KiB" if unit == "bytes" else f"{self.absolute:g}"
        parts = {
            f"{100 * self.relative:g} %": self.relative,
            amount: self.absolute,
            f"{self.epsilons:g} roundings": self.epsilons,
        }
        return ", at least ".join(words for words, value in parts.items() if value) or "none: exact"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What there is to know of a quantity, beside its name and type.

    Attributes:
        meaning: What it is, in a sentence or two.
        unit: Unit of its values; empty for a word, a list or a number without one.
        format: How a value is printed.
        group: The key in `HOW_TAKEN` of how it is taken; empty for what is taken from the settings or the software.
        better: Which direction is better; empty where neither is.
        ranked: Whether the best of a comparison is marked in its tables.
        band: How much worse the gate lets it become; None where it is not gated.
        because: Why the band is as wide as it is.
        gated_as: What the gate calls it, where that is not its name.
        digits: Significant digits that a baseline keeps; None for all.
        kept: Whether a baseline keeps it; what is gated is kept in any case.
        tables: Titles of its columns, by table.
        only_if_any: Whether its columns are left out where no cell has it.
        ends: Names of the quantities that are the ends of its interval, which has a column after its own.
        beside: What is printed after it in the same column, for example `+{nfe_backward}`.
        beside_zero: Whether it is printed where it is zero.
        own_error: Name of the quantity that is the reference's own error of it, which decides whether it is stated.
    """

    meaning: str
    unit: str = ""
    format: Format = "text"
    group: str = ""
    better: Literal["", "lower", "higher"] = ""
    ranked: bool = False
    band: Band | None = None
    because: str = ""
    gated_as: str = ""
    digits: int | None = None
    kept: bool = False
    tables: Mapping[TableName, str] = field(default_factory=dict)
    only_if_any: bool = False
    ends: tuple[str, str] | None = None
    beside: str = ""
    beside_zero: bool = True
    own_error: str = ""

    def rounded(self, value: Any) -> Any:
        """A value to the digits that a baseline keeps."""
        return value if self.digits is None or value is None else float(f"{value:.{self.digits}g}")


def _quantity(default: Any = None, default_factory: Any = None, **said: Any) -> Any:
    """A field of a part that is a quantity; what is said is as `Quantity` has it."""
    found = {"quantity": Quantity(**said)}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=found)
    return field(default=default, metadata=found)


Positive = Annotated[float, Gt(0)]

EXACT = Band()
"""Of whole numbers that repeat."""

_COUNTED: dict[str, Any] = {
    "group": "NFE, VJPs, steps",
    "format": "count",
    "better": "lower",
    "band": EXACT,
    "because": "whole numbers that repeat",
}

_GRAD_ERROR: dict[str, Any] = {
    "group": "gradient error",
    "unit": "relative",
    "format": "error",
    "better": "lower",
    "ranked": True,
    "digits": 3,
    # A step more or less is seen in the counters.
    "band": Band(relative=0.1, epsilons=16),
    "because": "a reference may be wrong by a hundredth of what it judges, sums in another order by some roundings",
}

_COSINE: dict[str, Any] = {
    "unit": "cosine",
    "format": "metric",
    "group": "gradient error",
    "better": "higher",
    "band": Band(absolute=0.001, epsilons=16),
    "because": "it moves with the square of the error, which itself has a band",
    "digits": 6,
    "only_if_any": True,
}

_NORM_RATIO: dict[str, Any] = {"unit": "ratio", "format": "metric", "group": "gradient error", "digits": 6}

_METHOD_ERROR: dict[str, Any] = {
    "group": "method error",
    "unit": "relative",
    "format": "error",
    "better": "lower",
    "digits": 3,
    # Its size is known, not its digits.
    "band": Band(relative=1.0, epsilons=16),
    "because": "rounding is all there is where a method is exact",
}

_TIME: dict[str, Any] = {"group": "time", "unit": "s", "format": "ms", "better": "lower"}

_TRAINING_STEP_TIME: dict[str, Any] = {**_TIME, "group": "training step"}

_RATIO: dict[str, Any] = {"group": "time", "unit": "ratio", "format": "number", "digits": 4, "kept": True}


@dataclass(frozen=True, kw_only=True)
class GradientPart:
    """What the gradient measurement found but for times. What was not measured is None, never zero."""

    dataset: str | None = _quantity(
        meaning="The data set that was really used.", kept=True, tables={"training": "data", "trained": "data"}
    )
    first_step: float | None = _quantity(
        meaning="Length of the first step handed to every backend (of every step, for a fixed-step method).",
        unit="time",
        format="number",
        kept=True,
    )
    time_span: float | None = _quantity(
        meaning="Time between the first and the last output time of the gradient problem.",
        unit="time",
        format="number",
        kept=True,
    )
    stiffness: float | None = _quantity(
        meaning="λT: the most negative real part of the eigenvalues of the field's Jacobian at the output times of the "
        "exact solution, times the time span; of systems of equations that say it. Explicit solvers take at least "
        "about |λT| / 3 steps, and a state solved backwards in time grows by up to exp(|λT|).",
        format="number",
        only_if_any=True,
        tables={"comparison": "λT"},
    )
    sensitivity_largest: float | None = _quantity(
        meaning="Largest singular value of dy(end)/dy(start) along the exact solution: by how much a disturbance of "
        "the start has grown at the end; of systems of at most 8 states that say it, where it is above 1e-10. It is "
        "solved at a relative tolerance of 1e-10, so that above 1e10 that solution has left the exact one.",
        format="number",
        only_if_any=True,
        tables={"comparison": "largest sv of dy/dy0"},
    )
    sensitivity_smallest: float | None = _quantity(
        meaning="The smallest: its inverse is by how much an error of the end has grown at the start of a solve "
        "backwards in time; None below what its own solve resolves.",
        format="number",
        only_if_any=True,
        tables={"comparison": "smallest sv of dy/dy0"},
    )
    field_value: float | None = _quantity(
        meaning="A figure of the field's values at fixed points, by which problems are told apart: their root mean "
        "square times (2 + c), c being the cosine of their angle with fixed numbers. In the cell's dtype.",
        format="number",
        digits=9,
        kept=True,
    )
    field_derivative: float | None = _quantity(
        meaning="The same of its vector-Jacobian products by state and parameters.",
        format="number",
        digits=9,
        kept=True,
    )
    loss: float | None = _quantity(meaning="Loss of the gradient measurement.", format="number")
    grad_error_params: float | None = _quantity(
        meaning="Relative L2 distance of d/dparams from the reference gradient.",
        own_error="reference_error_params",
        tables={"summary": "error", "exactness": "err dp", "baseline": "err dp"},
        **_GRAD_ERROR,
    )
    grad_error_y0: float | None = _quantity(
        meaning="Relative L2 distance of d/dy0 from the reference gradient.",
        own_error="reference_error_y0",
        tables={"exactness": "err dy0", "comparison": "error d/dy0", "baseline": "err dy0"},
        **_GRAD_ERROR,
    )
    grad_error_times: float | None = _quantity(
        meaning="Relative L2 distance of d/dtimes, the gradient with respect to the output times, from the reference "
        "gradient; of problems that ask for it alone.",
        own_error="reference_error_times",
        only_if_any=True,
        tables={"exactness": "err dt", "comparison": "error d/dtimes", "baseline": "err dt"},
        **_GRAD_ERROR,
    )
    grad_cosine_params: float | None = _quantity(
        meaning="Cosine of the angle between d/dparams and the reference's: 1 where both point the same way, whatever "
        "their lengths.",
        tables={"exactness": "cos dp", "comparison": "cosine d/dparams", "baseline": "cos dp"},
        **_COSINE,
    )
    grad_cosine_y0: float | None = _quantity(meaning="The same of d/dy0.", **_COSINE)
    grad_norm_params: float | None = _quantity(
        meaning="L2 norm of d/dparams.", format="number", group="gradient error", digits=6
    )
    grad_norm_y0: float | None = _quantity(
        meaning="L2 norm of d/dy0.", format="number", group="gradient error", digits=6
    )
    grad_norm_ratio_params: float | None = _quantity(
        meaning="L2 norm of d/dparams relative to the reference's: below 1 where a method shortens the gradient.",
        only_if_any=True,
        tables={"comparison": "norm d/dparams, relative"},
        **_NORM_RATIO,
    )
    grad_norm_ratio_y0: float | None = _quantity(meaning="The same of d/dy0.", **_NORM_RATIO)
    method_error_params: float | None = _quantity(
        meaning="Relative L2 distance of d/dparams from the exact gradient of the backend's own discretisation, in "
        "float64.",
        tables={"exactness": "method\nerr", "comparison": "method error"},
        **_METHOD_ERROR,
    )
    method_error_y0: float | None = _quantity(meaning="The same of d/dy0.", **_METHOD_ERROR)
    method_error_times: float | None = _quantity(
        meaning="The same of d/dtimes, where the problem asks for it.", **_METHOD_ERROR
    )
    forward_error: float | None = _quantity(
        meaning="Distance of the solution from the reference's at the output times, in units of the tolerance: root "
        "mean square of (y - y_ref) / (atol + rtol |y_ref|).",
        unit="tolerances",
        format="number",
        group="gradient error",
        better="lower",
    )
    reference: str | None = _quantity(meaning="What the reference is and how it was solved.", group="gradient error")
    reference_error_params: float | None = _quantity(
        meaning="The reference's own relative error of d/dparams, the difference of two solves one order of accuracy "
        "apart; 0 for a closed form.",
        unit="relative",
        format="error",
        group="gradient error",
    )
    reference_error_y0: float | None = _quantity(
        meaning="The same of d/dy0.", unit="relative", format="error", group="gradient error"
    )
    reference_error_times: float | None = _quantity(
        meaning="The same of d/dtimes, where the problem asks for it.",
        unit="relative",
        format="error",
        group="gradient error",
    )
    nfe_forward: int | None = _quantity(
        meaning="Field evaluations of the forward solve.",
        unit="evaluations",
        beside="+{nfe_backward}",
        tables={"summary": "NFE", "exactness": "NFE f+b", "baseline": "NFE"},
        **_COUNTED,
    )
    nfe_backward: int | None = _quantity(
        meaning="Field evaluations of the backward pass.",
        unit="evaluations",
        **_COUNTED,
    )
    n_vjps: int | None = _quantity(
        meaning="Vector-Jacobian products of the field.",
        unit="VJPs",
        tables={"exactness": "VJPs", "comparison": "VJPs", "baseline": "VJPs"},
        **_COUNTED,
    )
    n_accepted: int | None = _quantity(
        meaning="Accepted steps of the forward solve.",
        unit="steps",
        beside="+{n_rejected}r",
        beside_zero=False,  # a rejected step is the exception
        tables={"exactness": "steps", "comparison": "steps", "baseline": "steps"},
        **_COUNTED,
    )
    n_rejected: int | None = _quantity(meaning="Rejected steps of the forward solve.", unit="steps", **_COUNTED)
    n_jacobians: int | None = _quantity(
        meaning="Jacobians of the field that the forward solve formed, each n VJPs in one batch; None for an explicit "
        "method.",
        unit="Jacobians",
        only_if_any=True,
        tables={"exactness": "Jac", "comparison": "Jacobians"},
        **_COUNTED,
    )
    n_factorisations: int | None = _quantity(
        meaning="Matrices that the forward solve factorised to solve the equations of stages.",
        unit="matrices",
        only_if_any=True,
        tables={"exactness": "LU", "comparison": "factorisations"},
        **_COUNTED,
    )
    saved_bytes: int | None = _quantity(
        meaning="Bytes kept for the backward pass (torch: saved tensors; JAX: XLA's temporary and output buffers).",
        unit="bytes",
        format="MiB",
        group="peak memory",
        better="lower",
        band=EXACT,
        because="whole numbers that repeat",
        tables={"baseline": "saved bytes"},
    )
    peak_memory_bytes: int | None = _quantity(
        meaning="Peak memory of one gradient step above the idle process.",
        unit="bytes",
        format="MiB",
        group="peak memory",
        better="lower",
        ranked=True,
        # Between versions of a library up to 0.3 % was seen.
        band=Band(relative=0.01, absolute=2**16),
        because="memray repeats its count of large buffers to the byte; the interpreter's own objects move by "
        "kilobytes",
        tables={"summary": "MiB", "cost": "peak\nMiB", "baseline": "peak bytes"},
    )
    unreleased_bytes: int | None = _quantity(
        meaning="What one gradient step leaves allocated when its result is gone.",
        unit="bytes",
        format="MiB",
        group="peak memory",
        better="lower",
        band=Band(absolute=2**16),
        because="caches of the interpreter; a tensor that each step keeps is larger",
    )
    memory_exponent: float | None = _quantity(
        meaning="p of the law memory ~ steps^p that the method states, or None where it states none.", format="number"
    )


@dataclass(frozen=True, kw_only=True)
class TimingPart:
    """What the timing found, in seconds unless a name says otherwise. What was not measured is None, never zero."""

    compile_s: float | None = _quantity(
        meaning="What compilation costs: `first_step_s` less `step_s`, where the first step compiles, with no code "
        "kept from earlier; None where nothing is compiled.",
        unit="s",
        format="number",
        group="compilation",
        better="lower",
        only_if_any=True,
        tables={"cost": "compile\ns", "comparison": "compile s"},
    )
    step_s: float | None = _quantity(
        meaning="Time of a gradient step: geometric mean over the starts of the median over the rounds of a start. "
        "Marked are the fastest and those not distinguishable from it.",
        ranked=True,
        digits=3,
        kept=True,
        ends=("step_s_low", "step_s_high"),
        tables={"summary": "ms", "cost": "step\nms"},
        **_TIME,
    )
    # A control's times at several tolerances relate costs at equal error to each other.
    step_s_low: float | None = _quantity(meaning="Lower end of its 95 % interval.", digits=4, kept=True, **_TIME)
    step_s_high: float | None = _quantity(meaning="Upper end of its 95 % interval.", digits=4, kept=True, **_TIME)
    floor_ratio: float | None = _quantity(
        meaning="A gradient step without its loss, relative to its floor: median over turns in which the step, the "
        "calls of its field and the loss alternate within one process. Only so are all measured under the same "
        "conditions: `step_s`, of other processes and other minutes, may be some per cent off `loss_s` and "
        "`floor_ratio` times `floor_s`. Records without `loss_s` are of older versions, which left the loss in.",
        unit="ratio",
        format="number",
        group="x floor",
        better="lower",
        only_if_any=True,
        tables={"cost": "x\nfloor", "comparison": "x floor"},
    )
    floor_s: float | None = _quantity(
        meaning="What the evaluations and VJPs that were counted cost by themselves, at the initial state: "
        "(nfe_forward + nfe_backward) times an evaluation, n_vjps times what a graph and a VJP add to one. In torch "
        "the field is called as it is written; in JAX all calls are one compiled loop. None where torch compiles the "
        "steps.",
        unit="s",
        format="ms",
        group="x floor",
    )
    loss_s: float | None = _quantity(
        meaning="What the loss costs by itself: its value from the states at the output times, and its gradient by "
        "these states; median over the same turns.",
        unit="s",
        format="ms",
        group="x floor",
    )
    ratio: Positive | None = _quantity(
        meaning="Time of a step relative to the control's in the same round, over rounds and starts as for `step_s`.",
        better="lower",
        band=Band(relative=0.1),
        because="start to start, one and the same cell differs by one to three per cent",
        gated_as="time",
        ends=("ratio_low", "ratio_high"),
        tables={"summary": "ratio", "cost": "ratio", "baseline": "ratio"},
        **_RATIO,
    )
    ratio_low: Positive | None = _quantity(meaning="Lower end of its 95 % interval.", **_RATIO)
    ratio_high: Positive | None = _quantity(meaning="Upper end of its 95 % interval.", **_RATIO)
    verdict: str | None = _quantity(
        meaning="`faster` or `slower` than the control, or `undecided` where the interval holds 1 or is missing.",
        group="time",
        tables={"cost": "verdict"},
    )
    control: str | None = _quantity(
        meaning="`backend` of the control cell.", group="time", kept=True, tables={"baseline": "control"}
    )
    first_step_s: float | None = _quantity(
        meaning="Time of the first gradient step, compilation and warm-up included.",
        unit="s",
        format="number",
        group="compilation",
        better="lower",
        tables={"times": "first\ns", "comparison": "first step s"},
    )
    forward_s: float | None = _quantity(
        meaning="Median time of the forward solve and loss.",
        tables={"times": "forward\nms", "comparison": "forward ms"},
        **_TIME,
    )
    backward_s: float | None = _quantity(
        meaning="Median time of the backward pass.",
        tables={"times": "backward\nms", "comparison": "backward ms"},
        **_TIME,
    )
    cpu_s: float | None = _quantity(
        meaning="CPU time of a gradient step, all threads together.",
        tables={"times": "CPU\nms", "comparison": "CPU ms"},
        **_TIME,
    )
    n_starts: int | None = _quantity(
        meaning="Starts, each with fresh workers.",
        unit="starts",
        format="count",
        group="time",
        kept=True,
        tables={"times": "starts"},
    )
    n_rounds: int | None = _quantity(
        meaning="Rounds that were timed, in all starts together.",
        unit="rounds",
        format="count",
        group="time",
        tables={"times": "rounds"},
    )
    stopped_by: str | None = _quantity(
        meaning="What ended the rounds: `precision`, `rounds` or `budget`.",
        group="time",
        tables={"times": "ended by"},
    )


class Epoch(TypedDict):
    """What is known of a training at the end of an epoch; evaluations are those of a gradient step at its weights."""

    epoch: int
    train_loss: float
    validation: float
    nfe_forward: int | None
    nfe_backward: int | None
    train_s: float | None


class SweepEntry(TypedDict):
    """What is known of a trained network at one tolerance; the reason says why figures are None."""

    rtol: float
    nfe_forward: int | None
    nfe_backward: NotRequired[int | None]  # which older records lack
    solution_error: float | None
    forward_s: float | None
    reason: str | None


class TrackedError(TypedDict):
    """What is known of the gradient at one moment of a training: its errors as `GradientPart` has them.

    The moment is the end of an epoch; 0 stands for the initial weights. The reason says why figures are None, or what
    is wrong with the gradient.
    """

    epoch: int
    grad_error_params: float | None
    grad_error_y0: float | None
    grad_cosine_params: float | None
    reference_error_params: float | None
    reference_error_y0: float | None
    nfe_forward: int | None
    nfe_backward: int | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class TrainingPart:
    """What a training reached and took. What was not measured is None, never zero."""

    n_params: int | None = _quantity(
        meaning="Trainable parameters of the model.",
        unit="parameters",
        format="count",
        kept=True,
        tables={
            "training cost": "params",
            "comparison": "parameters",
            "trained": "parameters",
            "training step": "params",
        },
    )
    metric_name: str | None = _quantity(meaning="Name of the task's metric.", group="training")
    metric_value: float | None = _quantity(
        meaning="What the trained model reached on held-out data.",
        format="metric",
        group="training",
        only_if_any=True,
        tables={"training": "metric", "comparison": "metric", "trained": "metric"},
    )
    metric_unit: str | None = _quantity(meaning="Unit of the metric.", group="training")
    metric_direction: str | None = _quantity(
        meaning="Which direction of the metric is better: `lower` or `higher`.", group="training"
    )
    diagnostics: dict[str, float] = _quantity(
        default_factory=dict,
        meaning="Further figures of the trained model by name.",
        format="figures",
        group="training",
        only_if_any=True,
        tables={"training": "also", "trained": "also"},
    )
    train_steps: int | None = _quantity(
        meaning="Steps of the optimiser.",
        unit="steps",
        format="count",
        group="training",
        tables={"training cost": "steps", "trained": "steps"},
    )
    epochs: int | None = _quantity(
        meaning="Finished epochs.", unit="epochs", format="count", group="training", tables={"trained": "epochs"}
    )
    train_s: float | None = _quantity(
        meaning="Wall time of all training steps.",
        unit="s",
        format="number",
        group="training",
        better="lower",
        tables={"training cost": "train s", "trained": "train s"},
    )
    train_memory_bytes: int | None = _quantity(
        meaning="Peak memory of one warmed training step of the whole model, at its initial weights, above the idle "
        "process.",
        unit="bytes",
        format="MiB",
        group="training step",
        better="lower",
        only_if_any=True,
        tables={"trained": "step MiB", "training step": "MiB"},
    )
    train_step_s: float | None = _quantity(
        meaning="Time of a training step of the whole model, at its initial weights: over rounds and starts as for "
        "`step_s`.",
        ends=("train_step_s_low", "train_step_s_high"),
        tables={"training step": "ms"},
        **_TRAINING_STEP_TIME,
    )
    train_step_s_low: float | None = _quantity(meaning="Lower end of its 95 % interval.", **_TRAINING_STEP_TIME)
    train_step_s_high: float | None = _quantity(meaning="Upper end of its 95 % interval.", **_TRAINING_STEP_TIME)
    train_peak_bytes: int | None = _quantity(
        meaning="Highest resident set of the training process.",
        unit="bytes",
        format="MiB",
        group="training",
        better="lower",
        tables={"training cost": "RSS MiB", "trained": "resident MiB"},
    )
    history: list[Epoch] = _quantity(
        default_factory=list,
        meaning="A mapping per epoch: `epoch`, `train_loss`, `validation`, `nfe_forward`, `nfe_backward`, `train_s`.",
        group="training",
    )
    tolerance_sweep: list[SweepEntry] = _quantity(
        default_factory=list,
        meaning="The trained network at other tolerances: a mapping per tolerance of `rtol`, `nfe_forward`, "
        "`nfe_backward`, `solution_error`, `forward_s` and `reason`.",
        group="training",
    )
    tracked_errors: list[TrackedError] = _quantity(
        default_factory=list,
        meaning="The gradient along the training, with `--track-error`: a mapping per moment of `epoch` (0 for the "
        "initial weights), `grad_error_params`, `grad_error_y0`, `grad_cosine_params`, `reference_error_params`, "
        "`reference_error_y0`, `nfe_forward`, `nfe_backward` and `reason`.",
        group="training",
    )


@dataclass(frozen=True, kw_only=True)
class MachinePart:
    """Where a cell was measured and trained. What was not recorded is None."""

    node: str | None = _quantity(
        meaning="Name of the machine that the cell's gradient was measured on, or, where it was only trained, that."
    )
    environment: str | None = _quantity(meaning="Key of that machine's fingerprint, which the store has.", kept=True)
    train_node: str | None = _quantity(
        meaning="Name of the machine that the cell was trained on, which may be another; None where it was not."
    )
    train_environment: str | None = _quantity(meaning="Key of that machine's fingerprint.")
    start_method: str | None = _quantity(
        meaning="How its processes were started: `fork` by a launcher that had imported the framework, a fresh one for "
        "each start of the timing; or `spawn`, of which some or all were new interpreters, since forking was not "
        "safe.",
        group="start_method",
    )


@dataclass(frozen=True, kw_only=True)
class OutcomePart:
    """How a cell ended, and what a reader must know of its figures."""

    status: Status = _quantity(
        "ok",
        meaning="How the cell ended. `wrong_gradient` and `incomparable` are measured and shown, but never ranked.",
        kept=True,
    )
    reason: str | None = _quantity(meaning="Why, in one sentence; None when `ok`.", kept=True)
    stderr: str | None = _quantity(
        meaning="Of a failure, where it happened: the traceback and the last lines that the process had printed, or of "
        "a process that died those lines alone."
    )
    requested_bytes: int | None = _quantity(
        meaning="Of an allocation that was refused, what was asked for, where that is known.",
        unit="bytes",
        format="MiB",
        only_if_any=True,
        tables={"not ok": "refused MiB"},
    )
    notes: list[str] = _quantity(
        default_factory=list,
        meaning="What a reader must know of the figures, for example that a data set is a stand-in.",
    )
    differences: list[str] = _quantity(
        default_factory=list,
        meaning="What sets the backend apart from others by the nature of its library or method.",
    )
    overhead_s: float | None = _quantity(
        meaning="Time spent on the cell outside measured work: starting workers, imports, warming up.",
        unit="s",
        format="number",
    )


PARTS = (OutcomePart, GradientPart, TimingPart, TrainingPart, MachinePart)


def of_field(declared: "Field[Any]") -> Quantity | None:
    """What a field of a part says of itself; None for a setting."""
    found: Quantity | None = declared.metadata.get("quantity")
    return found


CATALOGUE: Mapping[str, Quantity] = MappingProxyType(
    {f.name: said for part in PARTS for f in fields(part) if (said := of_field(f)) is not None}
)
"""All quantities by name, in the order of a record."""


def gated() -> dict[str, str]:
    """Names of the quantities that the gate holds, by what the gate calls them."""
    return {said.gated_as or name: name for name, said in CATALOGUE.items() if said.band is not None}


def kept() -> list[str]:
    """Names of the quantities that a baseline keeps."""
    return [name for name, said in CATALOGUE.items() if said.kept or said.band is not None]


def in_table(table: TableName) -> list[str]:
    """Names of the quantities that have a column in a table, in its order."""
    return [name for name, said in CATALOGUE.items() if table in said.tables]


def how_taken() -> list[tuple[str, str, str]]:
    """Each group of quantities: its name, its fields in a record, and how they are taken."""
    return [
        (group, ", ".join(f"`{name}`" for name, said in CATALOGUE.items() if said.group == group), how)
        for group, how in HOW_TAKEN.items()
    ]


def bands() -> list[tuple[str, str, str]]:
    """What the gate holds: names of quantities with one band, the band, and why it is as wide as it is."""
    same: dict[tuple[str, str], list[str]] = {}
    for name, said in CATALOGUE.items():
        if said.band is not None:
            same.setdefault((said.band.text(said.unit), said.because), []).append(f"`{said.gated_as or name}`")
    return [(", ".join(names), band, because) for (band, because), names in same.items()]
