"""The immutable row a cell leaves behind, failures included.

Schema history (the number is kept in the store's `PRAGMA user_version`):
1  first release.
2  judged and undecided comparisons, what a failure left behind, the cost of measuring.
3  share of the floor, cost of compilation, step-size controller.
4  memory of a training step; pictures of trained models in a table of their own.
5  nodes and fingerprints of the machines that each cell was measured and trained on; fingerprints in a table.
6  the problem itself: the field's values and derivatives at fixed points; files that a run's workers had loaded.
7  how processes were started.
8  plots of trained models as SVG; pictures that older schemas packed are dropped.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from types import UnionType
from typing import Any, Literal, get_args, get_type_hints

SCHEMA_VERSION = 8

PRINTED = "printed before that, the last lines:"
"""The line of `stderr` between a traceback and what the process had printed."""

Status = Literal[
    "ok", "failed", "timeout", "oom", "diverged", "wrong_gradient", "incomparable", "unsupported", "not_installed"
]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured cell. A field that was not measured is None, never zero; units are in the names.

    Attributes:
        run_id: The run it belongs to.
        cell_id: Hash of the cell's settings; equal settings have equal ids in every run and on every machine.
        created_at: When the row was written, UTC, ISO 8601.
        nodebench_version: Version that measured it.
        task: Task with its options.
        model: Network of the task.
        dataset: The data set that was really used.
        backend: Gradient method with its options; None for a model that solves no ODE.
        framework: `torch` or `jax`.
        solver: Name of the solver.
        controller: How its steps were chosen: `integral` or `pi`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        first_step: Length of the first step handed to every backend (of every step, for a fixed-step method).
        max_steps: Limit of steps in one solve; diffrax's memory follows it.
        dtype: Floating-point type.
        start_method: How its processes were started: `fork` by a launcher that had imported the framework, a fresh one
            for each start of the timing; or `spawn`, of which some or all were new interpreters, since forking was not
            safe. None where it was not recorded.
        device: `cpu` or `cuda`.
        threads: Threads of the worker.
        batch_size: Examples in a step.
        seed: Seed of weights, data order and noise.
        preset: The training budget.
        horizon: Factor on the time span of the gradient problem.
        attempt: 1, and one more each time the cell was measured again after a failure.
        node: Name of the machine that the cell's gradient was measured on, or, where it was only trained, that; None
            where it was not recorded.
        environment: Key of that machine's fingerprint, which the store has.
        train_node: Name of the machine that the cell was trained on, which may be another; None where it was not.
        train_environment: Key of that machine's fingerprint.
        status: How the cell ended. `wrong_gradient` and `incomparable` are measured and shown, but never ranked.
        reason: Why, in one sentence; None when `ok`.
        stderr: Of a failure, where it happened: the traceback and the last lines that the process had printed, or of a
            process that died those lines alone.
        requested_bytes: Of an allocation that was refused, what was asked for, where that is known.
        differences: What sets the backend apart from others by the nature of its library or method.
        notes: What a reader must know of the figures, for example that a data set is a stand-in.
        n_params: Trainable parameters of the model.
        field_value: A figure of the field's values at fixed points, by which problems are told apart: their root mean
            square times (2 + c), c being the cosine of their angle with fixed numbers. In the cell's dtype.
        field_derivative: The same of its vector-Jacobian products by state and parameters.
        loss: Loss of the gradient measurement.
        grad_error_params: Relative L2 error of d/dparams against the reference.
        grad_error_y0: Relative L2 error of d/dy0 against the reference.
        method_error_params: The same against the exact gradient of the backend's own discretisation, in float64.
        method_error_y0: The same for d/dy0.
        forward_error: Distance of the solution from the reference's at the output times, in units of the tolerance:
            root mean square of (y - y_ref) / (atol + rtol |y_ref|).
        reference: What the reference is and how accurate it says it is.
        reference_error_params: Its own relative error of d/dparams, the difference of two solves one order of accuracy
            apart; 0 for a closed form. An error that is not a hundred times larger is not stated.
        reference_error_y0: The same of d/dy0.
        nfe_forward: Field evaluations of the forward solve.
        nfe_backward: Field evaluations of the backward pass.
        n_vjps: Vector-Jacobian products of the field.
        n_accepted: Accepted steps of the forward solve.
        n_rejected: Rejected steps of the forward solve.
        peak_memory_bytes: Peak of one gradient step above the idle process.
        memory_exponent: p of the law memory ~ steps^p that the method states, or None where it states none.
        unreleased_bytes: What one gradient step leaves allocated when its result is gone.
        saved_bytes: Bytes kept for the backward pass (torch: saved tensors; JAX: XLA's temporary and output buffers).
        first_step_s: The first gradient step, compilation and warm-up included, in seconds.
        compile_s: What compilation costs: `first_step_s` less `step_s`, where the first step compiles, with no code
            kept from earlier; None where nothing is compiled.
        forward_s: Median time of the forward solve and loss.
        backward_s: Median time of the backward pass.
        floor_s: What the evaluations and VJPs that were counted cost by themselves, at the initial state:
            (nfe_forward + nfe_backward) times an evaluation, n_vjps times what a graph and a VJP add to one. The field
            is called as it is written, not compiled. None where solver and field are one program.
        floor_ratio: A gradient step relative to its floor: median over turns in which the step and the calls of its
            field alternate within one process. Only so are both measured under the same conditions: `step_s`, of
            other processes and other minutes, may be some per cent off `floor_ratio` times `floor_s`.
        step_s: Time of a gradient step: geometric mean over the starts of the median over the rounds of a start.
        step_s_low: Lower end of its 95 % interval.
        step_s_high: Upper end of its 95 % interval.
        cpu_s: CPU time of a gradient step, all threads together.
        n_starts: Starts, each with fresh workers.
        n_rounds: Rounds that were timed, in all starts together.
        stopped_by: What ended the rounds: `precision`, `rounds` or `budget`.
        ratio: Time of a step relative to the control's in the same round, over rounds and starts as for `step_s`.
        ratio_low: Lower end of its 95 % interval.
        ratio_high: Upper end of its 95 % interval.
        verdict: `faster` or `slower` than the control, or `undecided` where the interval holds 1 or is missing.
        control: `backend` of the control cell.
        metric_name: Name of the task's metric.
        metric_value: Its value on held-out data.
        metric_unit: Its unit.
        metric_direction: `lower` or `higher` is better.
        diagnostics: Further figures of the trained model by name.
        train_s: Wall time of training steps, in seconds.
        train_steps: Optimiser steps.
        train_peak_bytes: Highest resident set of the training process, in bytes.
        train_memory_bytes: Peak of one warmed training step of the whole model, at its initial weights, above the idle
            process, in bytes.
        epochs: Finished epochs.
        history: A mapping per epoch: `epoch`, `train_loss`, `validation`, `nfe_forward`, `nfe_backward`, `train_s`.
        tolerance_sweep: The trained network at other tolerances: a mapping per tolerance of `rtol`, `nfe_forward`,
            `solution_error`, `forward_s` and `reason`.
        overhead_s: Time spent on the cell outside measured work, in seconds: starting workers, imports, warming up.
    """

    run_id: str
    cell_id: str
    created_at: str
    nodebench_version: str
    task: str
    model: str
    dataset: str | None = None
    backend: str | None = None
    framework: str | None = None
    solver: str | None = None
    controller: str | None = None
    rtol: float | None = None
    atol: float | None = None
    first_step: float | None = None
    max_steps: int | None = None
    dtype: str
    device: str
    start_method: str | None = None
    threads: int
    batch_size: int | None = None
    seed: int
    preset: str
    horizon: float = 1.0
    attempt: int = 1
    node: str | None = None
    environment: str | None = None
    train_node: str | None = None
    train_environment: str | None = None
    status: Status
    reason: str | None = None
    stderr: str | None = None
    requested_bytes: int | None = None
    notes: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    n_params: int | None = None
    field_value: float | None = None
    field_derivative: float | None = None
    loss: float | None = None
    grad_error_params: float | None = None
    grad_error_y0: float | None = None
    method_error_params: float | None = None
    method_error_y0: float | None = None
    forward_error: float | None = None
    reference: str | None = None
    reference_error_params: float | None = None
    reference_error_y0: float | None = None
    nfe_forward: int | None = None
    nfe_backward: int | None = None
    n_vjps: int | None = None
    n_accepted: int | None = None
    n_rejected: int | None = None
    peak_memory_bytes: int | None = None
    memory_exponent: float | None = None
    unreleased_bytes: int | None = None
    saved_bytes: int | None = None
    first_step_s: float | None = None
    compile_s: float | None = None
    forward_s: float | None = None
    backward_s: float | None = None
    floor_s: float | None = None
    floor_ratio: float | None = None
    step_s: float | None = None
    step_s_low: float | None = None
    step_s_high: float | None = None
    cpu_s: float | None = None
    n_starts: int | None = None
    n_rounds: int | None = None
    stopped_by: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    verdict: str | None = None
    control: str | None = None
    metric_name: str | None = None
    metric_value: float | None = None
    metric_unit: str | None = None
    metric_direction: str | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    train_s: float | None = None
    train_steps: int | None = None
    train_peak_bytes: int | None = None
    train_memory_bytes: int | None = None
    epochs: int | None = None
    history: list[dict[str, float | None]] = field(default_factory=list)
    tolerance_sweep: list[dict[str, float | int | str | None]] = field(default_factory=list)
    overhead_s: float | None = None

    @property
    def as_trained(self) -> "Record":
        """The record as one of the machine that it was trained on; itself where it was not trained."""
        if self.train_environment is None:
            return self
        return replace(self, node=self.train_node, environment=self.train_environment)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON knows it, which has no NaN and no infinity: they become null."""
        return {name: _finite(value) for name, value in asdict(self).items()}

    def to_row(self) -> dict[str, Any]:
        """The record as SQLite knows it: lists and mappings as JSON text."""
        return {name: json.dumps(value) if name in _STRUCTURED else value for name, value in self.to_dict().items()}

    @property
    def traceback(self) -> str:
        """Where it failed: `stderr` without what a process that lived on had printed before."""
        return (self.stderr or "").partition(f"\n{PRINTED}\n")[0].strip()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """The inverse of `to_row`; what a row of an older version lacks is as in a cell of which it is not known."""
        known = {f.name: row[f.name] for f in fields(cls) if row[f.name] is not None}
        return cls(**{name: json.loads(value) if name in _STRUCTURED else value for name, value in known.items()})


def columns() -> dict[str, str]:
    """Column names of the records table with their SQLite types."""
    return {name: _sql_type(hint) for name, hint in get_type_hints(Record).items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _sql_type(hint: Any) -> str:
    alternatives = [a for a in get_args(hint) if a is not type(None)] if isinstance(hint, UnionType) else [hint]
    return {int: "INTEGER", float: "REAL"}.get(alternatives[0], "TEXT")


_STRUCTURED = frozenset({"notes", "differences", "diagnostics", "history", "tolerance_sweep"})
