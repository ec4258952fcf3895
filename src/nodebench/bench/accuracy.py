"""The gradient error: a reference in float64, and the relative L2 distance of a gradient from it.

The reference is the gradient of the continuous problem: in closed form where the task has one, else from an exact
discrete gradient with far finer steps, checkpointed so that it fits in memory. It is solved twice, with steps twice as
long or tolerances ten times as large (and another method of the same order) the first time, and states the difference
as its own accuracy. Steps of a fixed length begin several times as long as the task's and are halved until the
reference is as accurate as what it judges needs; each solve is compared with the one before it.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nodebench import __version__, registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.messages import ReferenceFile
from nodebench.errors import UnsupportedError
from nodebench.frameworks.base import AbstractFramework
from nodebench.problem import Gradients, Problem, SolverSpec
from nodebench.solvers.tableau import tableau
from nodebench.tasks.base import GradientInputs

ROUNDINGS = 32
"""Roundings of the largest entry that a solve may accumulate."""

CROSS_CHECK: Mapping[str, str] = {"dopri5": "tsit5", "tsit5": "dopri5"}
"""A method of the same order with other coefficients: where output times set the steps, a coarser tolerance of the same
method would take the very same steps, and agree with itself."""

HALVINGS = 3
"""How often the length of fixed steps may be halved for an accuracy that the first reference does not have."""


@dataclass(frozen=True)
class Reference:
    """Reference gradients of one problem.

    Attributes:
        y0: d loss / d y0, flat, float64.
        params: d loss / d parameters by name, float64.
        description: How it was computed and how accurate it is.
        params_error: Its own relative error of d loss / d parameters, estimated from above; 0 for a closed form.
        y0_error: The same of d loss / d y0.
        states: States at the output times, flat, float64; None where the framework has no method to solve with.
    """

    y0: np.ndarray
    params: Mapping[str, np.ndarray]
    description: str
    params_error: float = 0.0
    y0_error: float = 0.0
    states: np.ndarray | None = None

    @property
    def own_errors(self) -> dict[str, float]:
        """Its own errors by their names in a record."""
        return {"reference_error_params": self.params_error, "reference_error_y0": self.y0_error}

    def save(self, path: Path) -> None:
        """Write it as `.npz`, all at once, so that a reader never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"params/{name}": value for name, value in self.params.items()}
        half = path.with_suffix(f".{os.getpid()}.npz")  # its own: another run may be writing the same reference
        named: dict[str, Any] = {"y0": self.y0, "description": self.description, **arrays}
        named |= {"params_error": self.params_error, "y0_error": self.y0_error}
        np.savez(half, **named | ({} if self.states is None else {"states": self.states}))
        half.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote."""
        with np.load(path) as file:
            params = {name.removeprefix("params/"): file[name] for name in file.files if name.startswith("params/")}
            states = file["states"] if "states" in file.files else None
            errors = (float(file["params_error"]), float(file["y0_error"]))
            return cls(file["y0"], params, str(file["description"]), *errors, states)


def rounded(inputs: GradientInputs, dtype: str) -> GradientInputs:
    """The inputs as a cell of `dtype` sees them, so that the reference differentiates the very same function."""
    return replace(inputs, weights=_rounded(inputs.weights, dtype), batch=_rounded(inputs.batch, dtype))


@dataclass(frozen=True)
class ReferenceSolver:
    """Computes the references of one problem, and keeps them.

    Attributes:
        framework: Framework configured for float64.
        inputs: The problem in NumPy; its closed form is used where it has one.
        problem: The problem in the framework, in float64.
        identity: All that makes the problem what it is, beside weights, batch and solver.
        folder: Where references are kept.
    """

    framework: AbstractFramework
    inputs: GradientInputs
    problem: Problem
    identity: str
    folder: Path

    def find(self, spec: SolverSpec, wanted: Mapping[str, float]) -> ReferenceFile:
        """The first reference with the accuracy that is wanted, from the finest on that is kept; or the last there is.

        Args:
            spec: How the finest reference is solved, with a first step.
            wanted: Largest own errors by their names in a record; no name, no limit.

        Raises:
            UnsupportedError: If the framework has no method to compute a reference with.
        """
        specs = _refinements(spec, [float(t) for t in self.problem.times])
        if self.inputs.closed_form is not None:
            specs = specs[-2:]  # whose states are those of the finest solve
        paths = [self.folder / cache_name(self.inputs, one, self.identity) for one in specs]
        last = len(specs) - 1
        found = max((i for i in range(1, last + 1) if paths[i].exists()), default=1)
        for i in range(found, last + 1):
            if not paths[i].exists():
                coarse = Reference.load(paths[i - 1]) if paths[i - 1].exists() else None
                self._compute(specs[i - 1], specs[i], coarse).save(paths[i])
            own = Reference.load(paths[i]).own_errors
            if all(own[name] <= limit for name, limit in wanted.items()):
                break
        return ReferenceFile(paths[i], finest=i == last)

    def _compute(self, coarser: SolverSpec, spec: SolverSpec, coarse: Reference | None) -> Reference:
        name = self.framework.reference_backend
        backend: AbstractBackend | None = None if name is None else registry.load("backend", name, AbstractBackend)
        states = None if backend is None else self._states(backend, spec)
        if self.inputs.closed_form is not None:
            exact = self.inputs.closed_form()
            return Reference(np.ravel(exact.y0), exact.params, "closed form", states=states)
        if backend is None:
            reason = f"{self.framework.name} has no reference method, and the problem no closed form."
            raise UnsupportedError(reason)
        coarse = coarse or self._solve(backend, coarser)
        fine = self._solve(backend, spec)
        return replace(
            fine,
            description=f"{name}, {_described(spec)}, compared with {_described(coarser)}",
            params_error=relative_error(coarse.params, fine.params),
            y0_error=relative_error(coarse.y0, fine.y0),
            states=states,
        )

    def _states(self, backend: AbstractBackend, spec: SolverSpec) -> np.ndarray:
        return self.framework.flat_state(backend.gradient_step(self.problem, spec, self.framework).solution())

    def _solve(self, backend: AbstractBackend, spec: SolverSpec) -> Reference:
        return reference_from(self.framework, backend.grad(self.problem, spec, self.framework), "")


def reference_from(framework: AbstractFramework, gradients: Gradients, description: str) -> Reference:
    """Gradients of a framework as a reference."""
    return Reference(framework.flat_state(gradients.y0), framework.to_numpy(gradients).params, description)


def cache_name(inputs: GradientInputs, spec: SolverSpec, method: str) -> str:
    """Name that changes with anything a reference depends on: the arrays, the solver, the method, this version."""
    digest = hashlib.sha256(json.dumps([method, __version__, asdict(spec)]).encode())
    for group in (inputs.weights, inputs.batch):
        for name in sorted(group):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(group[name]).tobytes())
    return digest.hexdigest()[:24] + ".npz"


def relative_error(value: Any, reference: Any) -> float:
    """|value - reference| / |reference| in the L2 norm, over an array or a mapping of arrays as one vector."""
    names = sorted(reference) if isinstance(reference, Mapping) else None
    found, exact = (_flat(x, names) for x in (value, reference))
    norm = float(np.linalg.norm(exact))
    distance = float(np.linalg.norm(found - exact))
    return distance / norm if norm else distance


def in_tolerances(states: np.ndarray, reference: np.ndarray, spec: SolverSpec) -> float:
    """Root mean square of the difference of two states in units of the tolerance, the norm of the solver itself.

    Where rounding is coarser than the tolerance, in units of that.
    """
    rounding = ROUNDINGS * np.finfo(spec.dtype).eps * np.abs(reference).max()
    scale = np.maximum(spec.atol + spec.rtol * np.abs(reference), rounding)
    return float(np.sqrt(np.mean(((states - reference) / scale) ** 2)))


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


def _flat(value: Any, names: list[str] | None) -> np.ndarray:
    parts = [value] if names is None else [value[name] for name in names]
    return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts])


def _rounded(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {
        name: a.astype(dtype).astype(np.float64) if np.issubdtype(a.dtype, np.floating) and name != "times" else a
        for name, a in arrays.items()
    }
