"""How a reference gradient is solved, level after level, each more accurate than the one before; in the worker.

It is the gradient of the continuous problem: in closed form where the task has one, else from an exact discrete
gradient with far finer steps, checkpointed so that it fits in memory. It is solved twice, with steps twice as long or
tolerances ten times as large (and another method of the same order) the first time, and states the difference as its
own accuracy. Steps of a fixed length begin several times as long as the task's and are halved from level to level; each
solve is compared with the one before it.

A gradient is judged by a reference that is `MARGIN` times more accurate. Which level that is, a group finds out when
the gradients of all its cells are there (`suffices`). A reference that knows nothing of a gradient states no error of
it (`ignorance`), and one that its own loss contradicts judges nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nodebench import __version__, registry
from nodebench.backends.base import AbstractBackend
from nodebench.backends.solvers import tableau
from nodebench.bench.messages import DiscreteReference, ReferenceFile, sentence_of
from nodebench.bench.plan import Cell
from nodebench.bench.saved import (
    UNREADABLE,
    Reference,
    digest,
    in_tolerances,
    norm,
    reference_from,
    relative_error,
)
from nodebench.bench.worker.check_up import (
    SLACK,
    Contradiction,
    Direction,
    Doubts,
    differentiated,
    lasting_contradiction,
)
from nodebench.bench.worker.subject import build_problem, load_inputs, make_subject
from nodebench.errors import CellError, UnsupportedError
from nodebench.frameworks.base import AbstractFramework
from nodebench.problem import Problem, SolverSpec, State
from nodebench.results.quantities import CATALOGUE, KNOWN
from nodebench.results.record import Measurement
from nodebench.tasks.base import GradientInputs

CROSS_CHECK: Mapping[str, str] = {"dopri5": "tsit5", "tsit5": "dopri5"}
"""A method of the same order with other coefficients: where output times set the steps, a coarser tolerance of the same
method would take the very same steps, and agree with itself."""

PIECES = 200
"""Parts of the time span of which no step of a second solve is longer, so that it sees what a long step passes over."""

LOSS_STEPS = (1e-4, 1e-6, 1e-8)
"""Relative lengths of finite differences of the loss. Beside the first the error of its solves is small; where
solutions part fast, as those of a chaotic system do, only shorter ones tell of a derivative."""

HALVINGS = 3
"""How often the length of fixed steps may be halved for an accuracy that the first reference does not have."""

MARGIN = 100
"""How many times more accurate than what it judges a reference must be."""

TOLERANCES_PER_STEP = 10
"""Error of a solution, in tolerances for each step, beyond which it is not one of this problem. A step may err by one;
later steps may amplify that, and an interpolant between them errs by a few more."""

STATE_MARGIN = 10
"""How many times more accurate than that the states of the reference must be."""


def sought(error: float) -> float:
    """Largest own error of a reference that can state this one; no limit for one that is no number."""
    return math.inf if math.isnan(error) else error / MARGIN


def ignorance(own: float, largest: float, beside: float, dtype: str) -> str | None:
    """Why a reference knows nothing of a gradient, so that it states no error of it and condemns none; or None.

    Args:
        own: Its own relative error.
        largest: The largest entry of the gradient, as it has it.
        beside: The largest entry of all gradients of the problem.
        dtype: The cell's dtype.
    """
    numbers = np.finfo(dtype)
    if largest < numbers.tiny:
        return f"its largest entry is {largest:.2g}, below what {dtype} can say ({numbers.tiny:.2g})"
    if own <= KNOWN:
        return None
    told = f"the reference's own relative error of it is {own:.2g}, so that it judges nothing"
    if largest < numbers.eps * beside:
        return f"it is {largest:.2g} at most, below what {dtype} can say beside {beside:.2g}, and {told}"
    return told


def refusal(error: float, own: float) -> str | None:
    """Why a reference of the relative error `own` is not good enough to state an error, or None."""
    if own <= error / MARGIN:
        return None
    return f"{error:.2g} was found, but the reference is known to {own:.1e} only, not {MARGIN} times better"


def state_refusal(own: float | None, n_accepted: int | None) -> str | None:
    """Why the states of a reference are not good enough to judge a solution by, or None.

    Args:
        own: Their own error in tolerances, where there are any.
        n_accepted: Steps of the solve that is judged; as one where the library does not tell.
    """
    limit = TOLERANCES_PER_STEP * (n_accepted or 1)
    if own is None or own <= limit / STATE_MARGIN:
        return None
    return (
        f"the reference's own solution is known to {own:.2g} tolerances only, not {STATE_MARGIN} times better than "
        f"the {limit} that {n_accepted or 1} steps allow"
    )


def continuous_errors(found: Reference, reference: Reference, spec: SolverSpec) -> Measurement:
    """Errors of gradients and states against the continuous problem's, and what the reference is."""
    forward = None
    if found.states is not None and reference.states is not None:
        forward = in_tolerances(found.states, reference.states, spec)
    by_params = Alignment.of(found.params, reference.params) if reference.params_error <= KNOWN else Alignment()
    by_y0 = Alignment.of({"": found.y0}, {"": reference.y0}) if reference.y0_error <= KNOWN else Alignment()
    return Measurement(
        grad_error_params=relative_error(found.params, reference.params) if reference.params else None,
        grad_cosine_params=by_params.cosine,
        grad_norm_ratio_params=by_params.ratio,
        grad_error_y0=relative_error(found.y0, reference.y0),
        grad_cosine_y0=by_y0.cosine,
        grad_norm_ratio_y0=by_y0.ratio,
        grad_error_times=times_error(found, reference),
        forward_error=forward,
        reference=reference.description,
        reference_error_params=reference.params_error if reference.params else None,
        reference_error_y0=reference.y0_error,
        reference_error_times=None if reference.times is None else reference.times_error,
    )


def times_error(found: Reference, exact: Reference) -> float | None:
    """Relative error of d/dtimes; None where one of the two has none."""
    return None if found.times is None or exact.times is None else relative_error(found.times, exact.times)


@dataclass(frozen=True)
class Alignment:
    """A gradient as a vector beside another one.

    Attributes:
        cosine: Of the angle between them; None where one of them is zero.
        ratio: Its length relative to the other's; None where that is zero.
    """

    cosine: float | None = None
    ratio: float | None = None

    @classmethod
    def of(cls, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> "Alignment":
        """Of two gradients by name, each as one vector."""
        u, v = (
            np.concatenate([np.zeros(0), *(np.ravel(each[name]) for name in sorted(other))]) for each in (one, other)
        )
        # Lengths first: a product of two long or two short ones may leave the numbers that there are.
        length, others = norm(u), norm(v)
        if not others:
            return cls()
        return cls(float((u / length) @ (v / others)) if length else None, length / others)


def judged_errors(found: Measurement) -> dict[str, tuple[float, float]]:
    """Errors against the reference that are known, by name, each with the reference's own."""
    pairs = {
        name: (getattr(found, name), getattr(found, said.own_error))
        for name, said in CATALOGUE.items()
        if said.own_error
    }
    return {name: pair for name, pair in pairs.items() if None not in pair}


def suffices(reference: Reference, found: Reference, spec: SolverSpec, n_accepted: int | None) -> bool:
    """Whether a reference is accurate enough for all that is judged by it: both gradients and the solution."""
    judged = judged_errors(continuous_errors(found, reference, spec))
    stated = all(reference.largest[name] < tiny(spec) or own <= sought(error) for name, (error, own) in judged.items())
    return stated and state_refusal(reference.state_error(spec), n_accepted) is None


def tiny(spec: SolverSpec) -> float:
    """The smallest number that the dtype of a cell has in full precision."""
    return float(np.finfo(spec.dtype).tiny)


def rounded(inputs: GradientInputs, dtype: str) -> GradientInputs:
    """The inputs as a cell of `dtype` sees them, so that the reference differentiates the very same function."""
    groups = {name: _rounded(vars(inputs)[name], dtype) for name in ("weights", "constants", "batch")}
    return replace(inputs, **groups)  # type: ignore[arg-type]  # each is what it was


@dataclass(frozen=True)
class ReferenceSolver:
    """Computes the references of one problem, and keeps them.

    Attributes:
        framework: Framework configured for float64.
        backend: Its reference method; None where it has none.
        inputs: The problem in NumPy; its closed form is used where it has one.
        problem: The problem in the framework, in float64.
        identity: All that makes the problem what it is, beside state, batch and solver.
        folder: Where references are kept.
    """

    framework: AbstractFramework
    backend: AbstractBackend | None
    inputs: GradientInputs
    problem: Problem
    identity: str
    folder: Path

    def find(self, spec: SolverSpec, level: int) -> ReferenceFile:
        """The reference of a level, computed unless it is kept.

        Args:
            spec: How the finest reference is solved, with a first step.
            level: 1 for the coarsest; each further one is more accurate.

        Raises:
            UnsupportedError: If the framework has no method to compute a reference with, or it cannot solve this.
        """
        if self.backend is not None and (reason := self.backend.unsupported(self.problem, spec)) is not None:
            raise UnsupportedError(reason)
        specs = _refinements(spec, [float(t) for t in self.problem.times])
        if self.inputs.closed_form is not None:
            specs = specs[-2:]  # whose states are those of the finest solve
        coarser, path = (
            self.folder / cache_name(self.inputs, one, self.identity) for one in specs[level - 1 : level + 1]
        )
        notes: list[str] = []
        found = self._kept(path, notes)
        if found is None:
            found = self._compute(specs[level - 1], specs[level], self._kept(coarser, notes))
            found.save(path)
        if found.doubt:
            return ReferenceFile(None, found.doubt, contradicted=found.contradicted, notes=tuple(notes))
        return ReferenceFile(path, finest=level == len(specs) - 1, notes=tuple(notes))

    def _kept(self, path: Path, notes: list[str]) -> Reference | None:
        """What an earlier run has kept; None where there is nothing, or nothing that can be read."""
        if not path.exists():
            return None
        try:
            found = Reference.load(path)
            wanted = self.framework.flat_state(self.problem.y0).size
            misfit = "" if found.y0.size == wanted else f"it has {found.y0.size} initial values, not {wanted}"
            if self.inputs.closed_form is None and self.problem.differentiate_times and found.times is None:
                misfit = "it has no d/dtimes"
        except UNREADABLE as error:
            misfit = sentence_of(error)
        if misfit:
            notes.append(f"the kept reference `{path}` could not be read ({misfit}) and was computed anew")
            return None
        return found

    def _compute(self, coarser: SolverSpec, spec: SolverSpec, coarse: Reference | None) -> Reference:
        if self.inputs.closed_form is not None:
            coarse = coarse or self._states_alone(coarser)
            return replace(self._states_alone(spec), coarse_states=coarse.states)
        chooses = tableau(spec.solver).adaptive
        coarse = coarse or self._solved(self._by_short_steps() if chooses else self._backend, coarser)
        fine = self._solved(self._backend, spec)
        found = replace(
            fine,
            coarse_states=coarse.states,
            description=f"{self.framework.reference_backend}, {_described(spec)}, compared with {_described(coarser)}",
            params_error=relative_error(coarse.params, fine.params),
            y0_error=relative_error(coarse.y0, fine.y0),
            times_error=times_error(coarse, fine) or 0.0,
        )
        # Steps of a fixed length are short already, and those of a field that is not smooth.
        return self._doubted(found, coarse, coarser, spec) if chooses else found

    def _states_alone(self, spec: SolverSpec) -> Reference:
        """The closed form, with the states of a solve."""
        assert self.inputs.closed_form is not None, "else the gradients are solved too"
        exact = self.inputs.closed_form()
        states = None if self.backend is None else self._states(self.backend, self.problem, spec)
        times = exact.times if self.problem.differentiate_times else None
        return Reference(np.ravel(exact.y0), exact.params, "closed form", times=times, states=states)

    def _solved(self, backend: AbstractBackend, spec: SolverSpec) -> Reference:
        gradients = backend.grad(self.problem, spec, self.framework)
        return replace(reference_from(self.framework, gradients, ""), states=self._states(backend, self.problem, spec))

    @property
    def _backend(self) -> AbstractBackend:
        if self.backend is None:
            reason = f"{self.framework.name} has no reference method, and the problem no closed form."
            raise UnsupportedError(reason)
        return self.backend

    def _states(self, backend: AbstractBackend, problem: Problem, spec: SolverSpec) -> np.ndarray:
        return self.framework.flat_state(backend.gradient_step(problem, spec, self.framework).solution())

    def _by_short_steps(self) -> AbstractBackend:
        """The reference method with steps so short that it sees what a longer one passes over, where it can be told."""
        backend: Any = self._backend  # it has the option or not; see `AbstractFramework.reference_backend`
        if "max_step" not in {f.name for f in fields(backend)}:
            return self._backend
        bounded: AbstractBackend = replace(backend, max_step=self._span / PIECES)
        return bounded

    @property
    def _span(self) -> float:
        return abs(float(self.problem.times[-1]) - float(self.problem.times[0]))

    def _doubted(self, found: Reference, seen: Reference, coarser: SolverSpec, spec: SolverSpec) -> Reference:
        """The reference with what speaks against it: a solve by short steps sees something else, or its loss does.

        Args:
            found: The reference.
            seen: The solve by short steps.
            coarser: How that was solved.
            spec: How the reference was solved.
        """
        overlooked = self._overlooked(found, seen, coarser, spec)
        if overlooked:
            return replace(found, doubt=overlooked)
        contradicted = self._contradicted(found, spec)
        return replace(found, doubt=contradicted, contradicted=bool(contradicted))

    def _overlooked(self, found: Reference, seen: Reference, coarser: SolverSpec, spec: SolverSpec) -> str:
        """What a solve by short steps sees that others do not, in a sentence; empty for nothing."""
        apart = {"d/dparams": _apart(found.params, seen.params), "d/dy0": _apart(found.y0, seen.y0)}
        if max(apart.values()) <= SLACK:
            return ""
        other = self._solved(self._backend, coarser)  # it may be that no two solves agree
        own = {"d/dparams": _apart(found.params, other.params), "d/dy0": _apart(found.y0, other.y0)}
        odd = {name: each for name, each in apart.items() if each > max(SLACK, 10 * own[name])}
        if not odd:
            return ""
        start, end = float(self.problem.times[0]), float(self.problem.times[-1])
        between = self._where(spec, np.linspace(start, end, PIECES + 1))
        what = " and ".join(f"{name} by {distance:.2g}" for name, distance in odd.items())
        return (
            f"the reference may have stepped over something{between}: by steps of at most "
            f"{self._span / PIECES:.3g} it comes to another {what} of its size."
        )

    def _where(self, spec: SolverSpec, marks: np.ndarray) -> str:
        """Between which of some times a solve by short steps parts from that by steps of any length."""
        problem = replace(self.problem, times=self.framework.arrays({"times": marks})["times"])
        near, far = (
            self._states(backend, problem, spec).reshape(-1) for backend in (self._by_short_steps(), self._backend)
        )
        apart = np.abs(near - far) > 1e-6 * np.abs(near).max(initial=0.0)
        if not apart.any():
            return ""
        # A tuple's parts come one after the other, each with the times first.
        sizes = [_size(part) for part in _parts(self.problem.y0)]
        ends = np.cumsum([size * len(marks) for size in sizes])
        rows = [part.reshape(len(marks), -1).any(axis=1) for part in np.split(apart, ends[:-1])]
        first = min(int(np.argmax(row)) for row in rows if row.any())
        return f" between t = {marks[max(first - 1, 0)]:.4g} and {marks[first]:.4g}"

    def _contradicted(self, found: Reference, spec: SolverSpec) -> str:
        """How the loss contradicts its gradient, in a sentence; empty where it does not."""
        y0 = self.framework.flat_state(self.problem.y0)
        trained = differentiated(self.framework, self.problem)
        params = {name: np.asarray(value, np.float64) for name, value in trained.items()}
        own = max(found.y0_error, found.params_error)
        if not own <= KNOWN:
            return ""  # what is not known cannot be contradicted
        gradient, along = Direction(found.y0, found.params), Direction.at(y0, params)

        def told(direction: Direction) -> Contradiction | None:
            def value(step: float) -> float:
                with self.framework.moved(self.problem, *direction.moved(y0, params, step)) as moved:
                    try:
                        states = self._backend.gradient_step(moved, spec, self.framework).solution()
                    except CellError:  # where it was moved to, there may be no solution, which says nothing of here
                        return math.nan
                    return float(moved.loss(states))

            doubts = [Doubts(step, MARGIN * spec.rtol, own) for step in LOSS_STEPS]
            return lasting_contradiction(value, direction, gradient, doubts)

        how = told(along)
        if how is None:
            return ""
        odd = [f"`{name}`" for name in params if told(along.only(name))]
        odd += ["the initial state"] if told(along.of_state) else []
        return (
            f"the loss depends on {', '.join(odd) or 'its parameters'} in a way that its derivative does not show (a "
            f"jump at a time that depends on it?): {how}, so that no gradient method can be right."
        )


def solve_reference(cell: Cell, first_step: float, inputs: Path, folder: Path, level: int) -> ReferenceFile:
    """Compute, or find in `folder`, the gradients of the continuous problem, as accurate as the level has them."""
    # By a worker that has no backend: one that is broken must not take the others down.
    subject = make_subject(cell, "float64")
    framework, spec, drawn = subject.framework, subject.task.reference, subject.inputs()
    seen, known = rounded(load_inputs(inputs), cell.spec.dtype), rounded(drawn, cell.spec.dtype).weights
    # A closed form is that of the weights that the task draws, which a training leaves.
    if all(np.array_equal(seen.weights[name], known[name]) for name in known):
        seen = replace(seen, closed_form=drawn.closed_form)
    built = build_problem(subject, seen)
    spec = replace(spec, first_step=spec.first_step or first_step)
    name = framework.reference_backend
    try:
        backend: AbstractBackend | None = None if name is None else registry.load("backend", name, AbstractBackend)
        identity = subject.identity(backend)
        return ReferenceSolver(framework, backend, seen, built.problem, identity, folder).find(spec, level)
    except CellError as error:
        return ReferenceFile(None, str(error))


def solve_discrete(cell: Cell, first_step: float, inputs: Path, folder: Path) -> DiscreteReference:
    """Compute, in float64, the gradients of this cell's backend: those of the problem as it discretises it."""
    subject = make_subject(cell, "float64", first_step)
    seen = rounded(load_inputs(inputs), cell.spec.dtype)
    problem, backend = build_problem(subject, seen).problem, subject.gradient_backend()
    path = folder / cache_name(seen, subject.spec, f"{subject.identity(backend)} {cell.backend}")
    if not _is_readable(path):
        gradients = backend.grad(problem, subject.spec, subject.framework)
        reference_from(subject.framework, gradients, f"{cell.backend} in float64").save(path)
    grid = backend.grid(problem.field, problem.y0, problem.times, subject.spec)
    return DiscreteReference(path, (grid.n_accepted, grid.n_rejected) if grid else None)


def _is_readable(path: Path) -> bool:
    try:
        Reference.load(path)
    except UNREADABLE:  # not there, or damaged: either way it is computed
        return False
    return True


def _apart(one: Any, other: Any) -> float:
    """Distance of two gradients relative to the larger of them; 0 where there is nothing."""
    if not len(one):
        return 0.0
    largest = max(norm(one), norm(other))
    return relative_error(one, other) * (norm(other) or 1.0) / largest if largest else 0.0


def _parts(state: State) -> tuple[Any, ...]:
    return tuple(state) if isinstance(state, tuple) else (state,)


def _size(part: Any) -> int:
    return int(np.prod(part.shape))


def cache_name(inputs: GradientInputs, spec: SolverSpec, method: str) -> str:
    """Name that changes with anything a reference depends on: the arrays, the solver, the method, this version."""
    said = json.dumps([method, __version__, asdict(spec)])
    return f"{digest(said, inputs.weights, inputs.constants, inputs.batch)}.npz"


def _refinements(spec: SolverSpec, times: Sequence[float]) -> tuple[SolverSpec, ...]:
    """Ways to solve a reference, the last as `spec` says and each coarser than the next, which it is compared with."""
    if tableau(spec.solver).adaptive or spec.first_step is None:
        solver = CROSS_CHECK.get(spec.solver, spec.solver)
        return replace(spec, solver=solver, rtol=10 * spec.rtol, atol=10 * spec.atol), spec
    # Steps do not go beyond an output time: longer ones than the way to the next would all be the same.
    steps = min(abs(after - before) for before, after in pairwise(times)) / spec.first_step
    n = min(HALVINGS + 1, max(1, int(math.log2(max(steps, 1.0)))))
    return tuple(replace(spec, first_step=2**i * spec.first_step) for i in reversed(range(n + 1)))


def _described(spec: SolverSpec) -> str:
    how = f"rtol {spec.rtol:.0e}" if tableau(spec.solver).adaptive else f"step {spec.first_step:.3g}"
    return f"{spec.solver} {how}"


def _rounded(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {name: array if name == "times" else _rounded_array(array, dtype) for name, array in arrays.items()}


def _rounded_array(array: np.ndarray, dtype: str) -> np.ndarray:
    if np.iscomplexobj(array):
        return array.astype(np.result_type(dtype, np.complex64)).astype(np.complex128)
    return array.astype(dtype).astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
