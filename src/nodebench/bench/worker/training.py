"""Training of a model: epochs, validation, NFE per epoch, and checkpoints from which it goes on exactly.

The order of the data and its augmentation are drawn from (seed, epoch, step) alone, so that a training resumed at any
step sees what an uninterrupted one would have seen.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from nodebench.backends.solvers import method
from nodebench.bench.checkpoints import Progress, TrainingCheckpoint
from nodebench.bench.messages import TrainingProgress
from nodebench.bench.saved import relative_error
from nodebench.bench.tracking import Moments
from nodebench.bench.worker.subject import Subject
from nodebench.errors import CellError, DivergedError
from nodebench.frameworks.base import AbstractTrainer, Batch
from nodebench.problem import Evaluations, Problem, SolverSpec
from nodebench.results.quantities import SweepEntry
from nodebench.tasks.base import Metric, Recipe, Splits

CHECKPOINT_S = 1.0, 20.0
"""Time to the first checkpoint, which doubles from one to the next, and the longest between two: what a killed training
loses at most, beside the step it was in. However short a time limit is, less than half of what it has done is lost."""

PROGRESS_S = 0.5


@dataclass(frozen=True)
class Training:
    """All that a training needs.

    Attributes:
        trainer: The model and its optimiser.
        recipe: How it is trained.
        splits: The data.
        metric: What it is judged by.
        seed: Seed of the data order.
        checkpoint: From where it goes on, and where it is kept.
        n_params: Trainable parameters of the model.
        count: Counts the evaluations of a gradient step at the present weights; None for a model without an ODE.
        moments: Where it keeps its weights on the way.
        report: Told now and then how far the training is.
    """

    trainer: AbstractTrainer
    recipe: Recipe
    splits: Splits
    metric: Metric
    seed: int
    checkpoint: TrainingCheckpoint
    n_params: int
    count: Callable[[], Evaluations] | None
    moments: Moments
    report: Callable[[TrainingProgress], None]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one epoch."""
        return steps_per_epoch(self.recipe, self.splits.train)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    def run(self) -> Progress:
        """Train to the end, from the last checkpoint where there is one.

        Raises:
            DivergedError: If a loss leaves the finite numbers.
        """
        progress = self.checkpoint.restore(self.trainer)
        done = progress.epoch * self.steps_per_epoch + progress.step
        if done:
            progress.parts.append(done)
        saving = _Saving(CHECKPOINT_S[0], time.perf_counter())
        self.moments.reach(progress)
        while progress.epoch < self.recipe.epochs:
            self._epoch(progress, saving)
            self._finish_epoch(progress)
            self.moments.reach(progress)
            self.checkpoint.save(self.trainer, progress)
            saving.done()
        return progress

    def evaluate(self, batch: Batch) -> float:
        """The metric over all examples of a split."""
        return _reduced(self.metric, [self.trainer.metric(part) for part in self._parts(batch)])

    def diagnose(self, batch: Batch, diagnostics: Sequence[Metric]) -> dict[str, float]:
        """Further figures over all examples of a split, by name."""
        if not diagnostics:
            return {}
        values = [self.trainer.view("diagnostics", part) for part in self._parts(batch)]
        return {metric.name: _reduced(metric, [value[metric.name] for value in values]) for metric in diagnostics}

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        size = self.recipe.evaluation_batch
        for start in range(0, _length(batch), size):
            yield {name: array[start : start + size] for name, array in batch.items()}

    def _epoch(self, progress: Progress, saving: "_Saving") -> None:
        reported = time.perf_counter()
        total = self.total_steps
        for batch in self._batches(progress.epoch, progress.step):
            start = time.perf_counter()
            done = progress.epoch * self.steps_per_epoch + progress.step + 1
            loss = self._finite_step(batch, f"in training step {done} of {total}")
            end = time.perf_counter()
            progress.train_s += end - start
            progress.step += 1
            progress.loss_sum += loss
            if end - reported > PROGRESS_S:
                self.report(TrainingProgress(done, total, loss))
                reported = end
            if saving.due:
                self.checkpoint.save(self.trainer, progress)
                saving.done()

    def _finite_step(self, batch: Batch, where: str) -> float:
        try:
            loss = self.trainer.step(batch)
        except DivergedError as error:
            raise DivergedError(f"{error} ({where})") from error
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} {where}.")
        return loss

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        examples = _length(self.splits.train)
        order = np.random.default_rng([self.seed, epoch]).permutation(examples)
        size = self.recipe.batch_size
        per_pass = examples // size
        for step in range(first, self.steps_per_epoch):
            start = (step % per_pass) * size
            chosen = order[start : start + size]
            batch = {name: array[chosen] for name, array in self.splits.train.items()}
            if self.recipe.augment is not None:
                batch = dict(self.recipe.augment(batch, np.random.default_rng([self.seed, epoch, step])))
            yield batch

    def _finish_epoch(self, progress: Progress) -> None:
        evaluations = self.count() if self.count else None
        progress.history.append(
            {
                "epoch": progress.epoch + 1,
                "train_loss": progress.loss_sum / progress.step,
                "validation": self.evaluate(self.splits.validation),
                "nfe_forward": evaluations.nfe_forward if evaluations else None,
                "nfe_backward": evaluations.nfe_backward if evaluations else None,
                "train_s": progress.train_s,
            }
        )
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0


@dataclass
class _Saving:
    """When a checkpoint is due.

    Attributes:
        pause_s: Time between the last one and the next.
        last: When the last one was written; before, when the training began.
    """

    pause_s: float
    last: float

    @property
    def due(self) -> bool:
        """Whether it is time for the next."""
        return time.perf_counter() - self.last > self.pause_s

    def done(self) -> None:
        """One has been written."""
        self.pause_s = min(2 * self.pause_s, CHECKPOINT_S[1])
        self.last = time.perf_counter()


def steps_per_epoch(recipe: Recipe, train: Batch) -> int:
    """Steps in one epoch: the recipe's number, else the full batches of the training data."""
    return recipe.steps_per_epoch or _length(train) // recipe.batch_size


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _reduced(metric: Metric, parts: Sequence[np.ndarray]) -> float:
    values = np.concatenate(parts).astype(np.float64)
    if metric.reduction == "root-mean-square":
        return float(np.sqrt(np.mean(values**2)))
    return float(np.mean(values))


TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Relative and absolute tolerance alike; below lies the rounding of float32."""

REFERENCE_TOLERANCE = 1e-7
MAX_STEPS = 4096
N_TIMED = 5


def tolerance_sweep(subject: Subject, problem: Problem) -> list[SweepEntry]:
    """Solve a problem at each of `TOLERANCES`.

    Args:
        subject: The cell whose backend and solver are used.
        problem: The problem at the trained weights.

    Returns:
        For each tolerance a mapping of `rtol`, `nfe_forward`, `nfe_backward`, `solution_error` (relative L2 distance of
        the states at the output times from those at `REFERENCE_TOLERANCE`, in the cell's dtype), `forward_s` (median
        time of a solve without gradients) and `reason`, which says why figures are None. Empty for a solver of fixed
        steps.
    """
    if not method(subject.spec.solver).adaptive:
        return []
    try:
        reference = _solution(subject, problem, REFERENCE_TOLERANCE)
    except CellError as error:
        return [_entry(rtol, reason=f"no reference: {error}") for rtol in TOLERANCES]
    return [_measured(subject, problem, rtol, reference) for rtol in TOLERANCES]


def _measured(subject: Subject, problem: Problem, rtol: float, reference: np.ndarray) -> SweepEntry:
    step = subject.gradient_backend().gradient_step(problem, _spec(subject, rtol), subject.framework)
    try:
        error = relative_error(subject.framework.flat_state(step.solution()), reference)
        evaluations = step.forward_evaluations()
    except CellError as failed:
        return _entry(rtol, reason=str(failed))
    if not np.isfinite(error):
        return _entry(rtol, reason="the solve did not come to its end.")
    seconds = []
    for _ in range(N_TIMED):
        start = time.perf_counter()
        step.solution()
        seconds.append(time.perf_counter() - start)
    entry = _entry(rtol, nfe_forward=evaluations, solution_error=error, forward_s=median(seconds))
    try:
        return {**entry, "nfe_backward": step.evaluations().nfe_backward}
    except CellError as failed:
        return {**entry, "reason": f"no backward pass: {failed}"}


def _solution(subject: Subject, problem: Problem, rtol: float) -> np.ndarray:
    step = subject.gradient_backend().gradient_step(problem, _spec(subject, rtol), subject.framework)
    return subject.framework.flat_state(step.solution())


def _spec(subject: Subject, rtol: float) -> SolverSpec:
    return replace(subject.spec, rtol=rtol, atol=rtol, max_steps=max(MAX_STEPS, subject.spec.max_steps))


def _entry(
    rtol: float,
    nfe_forward: int | None = None,
    solution_error: float | None = None,
    forward_s: float | None = None,
    reason: str | None = None,
) -> SweepEntry:
    return SweepEntry(
        rtol=rtol,
        nfe_forward=nfe_forward,
        nfe_backward=None,
        solution_error=solution_error,
        forward_s=forward_s,
        reason=reason,
    )
