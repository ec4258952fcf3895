"""How a reference gradient is solved, level after level, each more accurate than the one before; in the worker.

It is the gradient of the continuous problem: in closed form where the task has one, else from an exact discrete
gradient with far finer steps, checkpointed so that it fits in memory. It is solved twice, with steps twice as long or
tolerances ten times as large (and another method of the same order) the first time, and states the difference as its
own accuracy. Steps of a fixed length begin several times as long as the task's and are halved from level to level; each
solve is compared with the one before it.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from nodebench import __version__, registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.accuracy import Reference, reference_from, relative_error
from nodebench.bench.messages import DiscreteReference, ReferenceFile
from nodebench.bench.plan import Cell
from nodebench.bench.subject import make_subject, prepare_problem
from nodebench.errors import CellError, UnsupportedError
from nodebench.frameworks.base import AbstractFramework
from nodebench.problem import Problem, SolverSpec
from nodebench.solvers.tableau import tableau
from nodebench.tasks.base import GradientInputs

CROSS_CHECK: Mapping[str, str] = {"dopri5": "tsit5", "tsit5": "dopri5"}
"""A method of the same order with other coefficients: where output times set the steps, a coarser tolerance of the same
method would take the very same steps, and agree with itself."""

HALVINGS = 3
"""How often the length of fixed steps may be halved for an accuracy that the first reference does not have."""


def rounded(inputs: GradientInputs, dtype: str) -> GradientInputs:
    """The inputs as a cell of `dtype` sees them, so that the reference differentiates the very same function."""
    return replace(inputs, weights=_rounded(inputs.weights, dtype), batch=_rounded(inputs.batch, dtype))


@dataclass(frozen=True)
class ReferenceSolver:
    """Computes the references of one problem, and keeps them.

    Attributes:
        framework: Framework configured for float64.
        backend: Its reference method; None where it has none.
        inputs: The problem in NumPy; its closed form is used where it has one.
        problem: The problem in the framework, in float64.
        identity: All that makes the problem what it is, beside weights, batch and solver.
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
            UnsupportedError: If the framework has no method to compute a reference with.
        """
        specs = _refinements(spec, [float(t) for t in self.problem.times])
        if self.inputs.closed_form is not None:
            specs = specs[-2:]  # whose states are those of the finest solve
        coarser, path = (
            self.folder / cache_name(self.inputs, one, self.identity) for one in specs[level - 1 : level + 1]
        )
        if not path.exists():
            coarse = Reference.load(coarser) if coarser.exists() else None
            self._compute(specs[level - 1], specs[level], coarse).save(path)
        return ReferenceFile(path, finest=level == len(specs) - 1)

    def _compute(self, coarser: SolverSpec, spec: SolverSpec, coarse: Reference | None) -> Reference:
        solve = self._states_alone if self.inputs.closed_form is not None else self._solve
        coarse = coarse or solve(coarser)
        fine = replace(solve(spec), coarse_states=coarse.states)
        if self.inputs.closed_form is not None:
            return fine
        return replace(
            fine,
            description=f"{self.framework.reference_backend}, {_described(spec)}, compared with {_described(coarser)}",
            params_error=relative_error(coarse.params, fine.params),
            y0_error=relative_error(coarse.y0, fine.y0),
        )

    def _states_alone(self, spec: SolverSpec) -> Reference:
        """The closed form, with the states of a solve."""
        assert self.inputs.closed_form is not None, "else the gradients are solved too"
        exact = self.inputs.closed_form()
        states = None if self.backend is None else self._states(self.backend, spec)
        return Reference(np.ravel(exact.y0), exact.params, "closed form", states=states)

    def _solve(self, spec: SolverSpec) -> Reference:
        if self.backend is None:
            reason = f"{self.framework.name} has no reference method, and the problem no closed form."
            raise UnsupportedError(reason)
        gradients = self.backend.grad(self.problem, spec, self.framework)
        return replace(reference_from(self.framework, gradients, ""), states=self._states(self.backend, spec))

    def _states(self, backend: AbstractBackend, spec: SolverSpec) -> np.ndarray:
        return self.framework.flat_state(backend.gradient_step(self.problem, spec, self.framework).solution())


def solve_reference(cell: Cell, first_step: float, folder: Path, level: int) -> ReferenceFile:
    """Compute, or find in `folder`, the gradients of the continuous problem, as accurate as the level has them."""
    # By a worker that has no backend: one that is broken must not take the others down.
    subject = make_subject(cell, "float64")
    inputs = rounded(subject.inputs(), cell.spec.dtype)
    prepared = prepare_problem(subject, inputs)
    framework, spec = subject.framework, subject.task.reference
    spec = replace(spec, first_step=spec.first_step or first_step)
    name = framework.reference_backend
    try:
        backend: AbstractBackend | None = None if name is None else registry.load("backend", name, AbstractBackend)
        identity = subject.identity(backend)
        return ReferenceSolver(framework, backend, inputs, prepared.problem, identity, folder).find(spec, level)
    except CellError as error:
        return ReferenceFile(None, str(error))


def solve_discrete(cell: Cell, first_step: float, folder: Path) -> DiscreteReference:
    """Compute, in float64, the gradients of this cell's backend: those of the problem as it discretises it."""
    subject = make_subject(cell, "float64", first_step)
    inputs = rounded(subject.inputs(), cell.spec.dtype)
    prepared = prepare_problem(subject, inputs)
    problem, backend = prepared.problem, subject.gradient_backend()
    path = folder / cache_name(inputs, subject.spec, f"{subject.identity(backend)} {cell.backend}")
    if not path.exists():
        gradients = backend.grad(problem, subject.spec, subject.framework)
        reference_from(subject.framework, gradients, f"{cell.backend} in float64").save(path)
    grid = backend.grid(problem.field, problem.y0, problem.times, subject.spec)
    return DiscreteReference(path, (grid.n_accepted, grid.n_rejected) if grid else None)


def cache_name(inputs: GradientInputs, spec: SolverSpec, method: str) -> str:
    """Name that changes with anything a reference depends on: the arrays, the solver, the method, this version."""
    digest = hashlib.sha256(json.dumps([method, __version__, asdict(spec)]).encode())
    for group in (inputs.weights, inputs.batch):
        for name in sorted(group):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(group[name]).tobytes())
    return digest.hexdigest()[:24] + ".npz"


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
    return {
        name: a.astype(dtype).astype(np.float64) if np.issubdtype(a.dtype, np.floating) and name != "times" else a
        for name, a in arrays.items()
    }
