"""The passes of a gradient measurement in the worker, each by itself so that none disturbs another.

Peak memory is that of one call above the idle process. On a CPU memray counts every allocation of Python, torch and XLA
alike and repeats to the byte, where the resident set moves by several per cent and counts pages that the allocator
merely keeps.
"""

import gc
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from nodebench.backends.solvers import method
from nodebench.bench.messages import Counts, Preparation, Sizes, Turn
from nodebench.bench.saved import reference_from
from nodebench.bench.worker.subject import BuiltProblem
from nodebench.errors import DivergedError
from nodebench.frameworks.base import GradientStep
from nodebench.problem import Evaluations, Gradients, StepGrid
from nodebench.results.record import Measurement

REPETITIONS = 3
"""How often a call is traced."""


def traced_bytes(call: Callable[[], object]) -> tuple[int | None, int | None]:
    """What a call allocates: the most at once, and what is left when its result is gone; None without memray.

    Neither counts what was there before. The call must have run once before, so that caches and thread pools are not
    counted. It runs several times, and the least counts: now and then the interpreter fetches an arena of a mebibyte,
    which is not the call's.
    """
    from memray import FileReader, Tracker  # noqa: PLC0415  only a worker that traces needs it

    peaks, unreleased = [], []
    for _ in range(REPETITIONS):
        gc.collect()
        with TemporaryDirectory() as folder:
            file = Path(folder) / "allocations"
            with Tracker(file):
                call()
                gc.collect()
            reader = FileReader(file)
            peaks.append(int(reader.metadata.peak_memory))
            unreleased.append(sum(left.size for left in reader.get_leaked_allocation_records(merge_threads=True)))
    return min(peaks), min(unreleased)


def peak_resident_bytes() -> int | None:
    """Highest resident set of this process since it began, or None where `/proc` does not tell.

    `VmHWM` begins anew with the process; `ru_maxrss` would inherit the parent's.
    """
    return _status_bytes("VmHWM")


def data_bytes() -> int | None:
    """Private writable memory of this process, which `RLIMIT_DATA` limits, or None where `/proc` does not tell."""
    return _status_bytes("VmData")


def _status_bytes(name: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


@dataclass(frozen=True)
class FloorTurn:
    """What was timed in one turn, in seconds of one call.

    Attributes:
        step_s: A gradient step.
        eval_s: An evaluation of the field without a graph.
        eval_with_vjp_s: An evaluation with a graph, followed by a VJP by state and parameters.
        loss_s: The loss of the states at the output times, and its gradient by them.
    """

    step_s: float
    eval_s: float
    eval_with_vjp_s: float
    loss_s: float

    def floor_s(self, evaluations: Evaluations) -> float:
        """All evaluations at the cost of one, and all VJPs at the cost of one, in seconds.

        A VJP is charged with what its evaluation costs more for having a graph.
        """
        n_evaluations = evaluations.nfe_forward + evaluations.nfe_backward
        return n_evaluations * self.eval_s + evaluations.n_vjps * (self.eval_with_vjp_s - self.eval_s)

    def ratio(self, evaluations: Evaluations) -> float:
        """The step without its loss, which no solver can help, relative to the floor."""
        return (self.step_s - self.loss_s) / self.floor_s(evaluations)


def above_floor(turns: Sequence[FloorTurn], evaluations: Evaluations) -> Measurement:
    """Medians over the turns of the floor, of the loss, and of the step without its loss relative to the floor."""
    return Measurement(
        floor_ratio=median(turn.ratio(evaluations) for turn in turns),
        floor_s=median(turn.floor_s(evaluations) for turn in turns),
        loss_s=median(turn.loss_s for turn in turns),
    )


TURN_S = 0.05
"""Shortest turn: a faster step is repeated within it, so that the clock's and the messages' cost vanish."""

MAX_STEPS_PER_TURN = 200

WARM_UP = range(1, 11)
"""How many steps warm up after the first: of a compiled program the first few are slow, of a long step none but one."""

SPLITS = range(3, 21)
"""How often forward and backward pass are timed apart: as often as there is time for."""

FLOORS = range(5, 41)
"""How often a step and its field take turns: as often as there is time for."""

FLOOR_PART_S = 0.01, 0.1
"""Shortest part of such a turn, and longest that has no step: between, it takes as long as the step, so that what slows
the machine for a moment slows both alike."""


class GradientPasses:
    """The gradient measurement of one subject; `first_step` comes first.

    Attributes:
        built: The subject and its problem.
        step: Its gradient step.
        timed_step: What `warm_up` and `turn` repeat: that gradient step, or a training step.
        steps_per_turn: Steps in a turn of the timing.
    """

    built: BuiltProblem
    step: GradientStep
    timed_step: Callable[[], object]
    steps_per_turn: int = 1

    def first_step(self, built: BuiltProblem) -> Preparation:
        """Make the first gradient step, compilation and warm-up included.

        Raises:
            DivergedError: If loss or gradient is not finite.
        """
        subject, backend = built.subject, built.subject.gradient_backend()
        # Before the field is evaluated: some keep what they see.
        wanted = conditions(built)
        start = time.perf_counter()
        step = backend.gradient_step(built.problem, subject.spec, subject.framework)
        gradients = step.step()
        first_step_s = time.perf_counter() - start
        self.built, self.step, self.timed_step = built, step, step.step
        found = Measurement(
            first_step_s=first_step_s,
            n_params=subject.framework.n_params(built.model),
            loss=self._finite_loss(gradients),
            dataset=built.inputs.dataset,
            notes=list(filter(None, [built.inputs.note, told_untimed(built)])),
            differences=list(backend.differences(subject.spec)),
            memory_exponent=backend.memory_exponent,
        )
        compiles = subject.framework.compiles or backend.compiles
        return Preparation(found, compiles, backend.exact_counterpart, wanted)

    def count(self) -> Counts:
        """Count evaluations and steps, in instrumented runs of their own."""
        evaluations = self.step.evaluations()
        grid = self._grid()
        told = "" if grid is None or method(self.built.subject.spec.solver).adaptive else _steps(grid)
        steps = (grid.n_accepted, grid.n_rejected) if grid else (None, None)
        found = Measurement(
            nfe_forward=evaluations.nfe_forward,
            nfe_backward=evaluations.nfe_backward,
            n_vjps=evaluations.n_vjps,
            n_accepted=steps[0],
            n_rejected=steps[1],
            n_jacobians=grid.n_jacobians if grid else None,
            n_factorisations=grid.n_factorisations if grid else None,
        )
        return Counts(found, evaluations, told)

    def gradients(self, path: Path) -> None:
        """Write the gradients of a step, and the states at the output times, to be judged with those of other cells."""
        framework = self.built.subject.framework
        found = reference_from(framework, self.step.step(), "")
        replace(found, states=framework.flat_state(self.step.solution())).save(path)

    def memory(self) -> Sizes:
        """Peak memory of one warmed gradient step, what it leaves behind, and the bytes that it keeps."""
        self.step.step()
        on_device = self.built.subject.framework.peak_device_bytes(self.step.step)
        peak, unreleased = traced_bytes(self.step.step)
        found = Measurement(
            peak_memory_bytes=peak if on_device is None else on_device,
            unreleased_bytes=unreleased,
            saved_bytes=self.step.saved_bytes(),
        )
        return Sizes(found, peak_resident_bytes())

    def split(self, seconds: float) -> Measurement:
        """Median times of forward and backward pass, taken for about so long.

        The two calls may cost more than the one that is timed.
        """
        _split(self.step)  # a framework may compile the two calls anew
        splits: list[tuple[float, float]] = []
        with _without_collection():
            while len(splits) < SPLITS.start or (len(splits) < SPLITS.stop and sum(map(sum, splits)) < seconds):
                splits.append(_split(self.step))
        forward, backward = zip(*splits, strict=True)
        return Measurement(forward_s=median(forward), backward_s=median(backward))

    def floor(self, evaluations: Evaluations, seconds: float) -> Measurement:
        """What the step's own evaluations and VJPs cost, its loss, and how far above the first the rest of it is.

        The step, the two calls of the field and the loss take turns, each repeated to some length, so that what slows
        the machine for a while slows all four. Nothing where a step does not consist of calls of its field.

        Args:
            evaluations: What was counted of a step.
            seconds: About how long the turns may take.
        """
        calls = self.step.field_calls()
        if calls is None or not evaluations.nfe_forward:
            return Measurement()
        timed = (_repeated(self.step.step), calls.evaluation, calls.evaluation_with_vjp, calls.loss)
        turns: list[FloorTurn] = []
        with _without_collection():
            for call in timed:
                call(1)
            step_s = _once(timed[0], 1)
            part_s = max(FLOOR_PART_S[0], min(FLOOR_PART_S[1], step_s))
            repetitions = [math.ceil(part_s / step_s), *(_repetitions(call, part_s) for call in timed[1:])]
            began = time.perf_counter()
            while len(turns) < FLOORS.start or (len(turns) < FLOORS.stop and time.perf_counter() - began < seconds):
                costs = [_once(call, n) for call, n in zip(timed, repetitions, strict=True)]
                turns.append(FloorTurn(*costs))
        return above_floor(turns, evaluations)

    def warm_up(self) -> None:
        """The steps before the timing, which also decide how many a turn has: by the fastest, since others may run."""
        costs: list[float] = []
        with _without_collection():
            while len(costs) < WARM_UP.start or (len(costs) < WARM_UP.stop and sum(costs) < 2 * TURN_S):
                costs.append(_timed(self.timed_step, 1)[0])
        self.steps_per_turn = min(MAX_STEPS_PER_TURN, max(1, math.ceil(TURN_S / min(costs))))

    def turn(self) -> Turn:
        """One turn of the timing."""
        with _without_collection():
            return Turn(*_timed(self.timed_step, self.steps_per_turn))

    def _finite_loss(self, gradients: Gradients) -> float:
        framework = self.built.subject.framework
        found = framework.to_numpy(gradients)
        total = sum(float(abs(value).sum()) for value in found.params.values())
        total += float(abs(framework.flat_state(gradients.y0)).sum())
        total += 0.0 if found.times is None else float(abs(found.times).sum())
        loss = float(found.loss)
        if not math.isfinite(total + loss):
            # A library that reports a failed solve as NaN tells its steps on demand: that call raises what happened.
            self._grid()
            where = "in the backward solve: " if math.isfinite(loss) else ""
            raise DivergedError(f"{where}the loss is {loss} and its gradient is not finite.")
        return loss

    def _grid(self) -> StepGrid | None:
        subject, problem = self.built.subject, self.built.problem
        return subject.gradient_backend().grid(problem.field, problem.y0, problem.times, subject.spec)


@contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection may fall into a timed call."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def conditions(built: BuiltProblem) -> dict[str, str]:
    """What must be equal for all cells that are compared, read from the framework's own objects."""
    subject, problem = built.subject, built.problem
    spec = subject.spec
    y0 = subject.framework.flat_state(problem.y0)
    return {
        **_state_conditions(built),
        **{f"batch array `{name}`": _digest(array) for name, array in sorted(built.inputs.batch.items())},
        "state size": str(y0.size),
        "output times": ", ".join(f"{np.float32(t):.9g}" for t in problem.times),
        "tableau": spec.solver,
        "controller": spec.controller,
        "tolerances": f"rtol {spec.rtol:g}, atol {spec.atol:g}, root-mean-square norm",
        "first step": f"{spec.first_step:g}",
        "step limit": str(spec.max_steps),
        **subject.framework.placement(problem),
    }


def _state_conditions(built: BuiltProblem) -> dict[str, str]:
    """The whole state of the model by name: what is trained, and what is not."""
    framework = built.subject.framework
    trained, state = framework.parameters(built.model), framework.state(built.model)
    return {
        f"{'parameter' if name in trained else 'constant'} `{name}`": _digest(array) for name, array in state.items()
    }


def told_untimed(built: BuiltProblem) -> str:
    """That a backend has no d/dtimes where the problem asks for it; empty where it has, or nobody asks."""
    if not built.untimed:
        return ""
    return f"no grad_error_times of {built.subject.cell.backend}, whose step is taken without it: {built.untimed}"


def _digest(array: np.ndarray) -> str:
    array = np.asarray(array)
    wide = array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(wide).tobytes())
    return f"{digest.hexdigest()[:12]} of shape {array.shape}"


def _steps(grid: StepGrid) -> str:
    """Steps in words: how many of which length, one after the other."""
    lengths = [f"{after - before:.6g}" for before, after in pairwise(grid.times)]
    return ", ".join(f"{len(list(same))} of {length}" for length, same in groupby(lengths))


def _timed(call: Callable[[], object], repetitions: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repetitions):
        call()
    return (time.perf_counter() - wall) / repetitions, (time.process_time() - cpu) / repetitions


def _repeated(call: Callable[[], object]) -> Callable[[int], None]:
    def repeat(n: int) -> None:
        for _ in range(n):
            call()

    return repeat


def _repetitions(call: Callable[[int], None], seconds: float) -> int:
    """How many calls take so long. It is found by doubling, since one alone may cost more than each of many."""
    n = 1
    while (cost := _once(call, n)) * n < seconds / 2:
        n *= 2
    return math.ceil(seconds / cost)


def _once(call: Callable[[int], None], n: int) -> float:
    """Wall time of one of n calls, in seconds."""
    start = time.perf_counter()
    call(n)
    return (time.perf_counter() - start) / n


def _split(step: GradientStep) -> tuple[float, float]:
    start = time.perf_counter()
    state = step.forward()
    middle = time.perf_counter()
    step.backward(state)
    return middle - start, time.perf_counter() - middle
