"""The gradient error: a reference in float64, and the relative L2 distance of a gradient from it.

The reference is the gradient of the continuous problem: in closed form where the task has one, else from an exact
discrete gradient with far finer steps, checkpointed so that it fits in memory. It is solved twice, with steps twice as
long or tolerances ten times as large (and another method of the same order) the first time, and states the difference
as its own accuracy.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nodebench import __version__, registry
from nodebench.backends.base import AbstractBackend
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


def compute_reference(
    framework: AbstractFramework, inputs: GradientInputs, problem: Problem, spec: SolverSpec
) -> Reference:
    """The reference gradients of a problem.

    Args:
        framework: Framework configured for float64.
        inputs: The problem in NumPy; its closed form is used where it has one.
        problem: The problem in the framework, in float64.
        spec: How the reference is solved, with a first step.

    Raises:
        UnsupportedError: If the framework has no method to compute a reference with.
    """
    name = framework.reference_backend
    backend: AbstractBackend | None = None if name is None else registry.load("backend", name, AbstractBackend)
    states = None if backend is None else _states(backend, framework, problem, spec)
    if inputs.closed_form is not None:
        exact = inputs.closed_form()
        return Reference(np.ravel(exact.y0), exact.params, "closed form", states=states)
    if backend is None:
        raise UnsupportedError(f"{framework.name} has no reference method, and the problem no closed form.")
    coarse, fine = (_solve(backend, framework, problem, s) for s in (_coarser(spec), spec))
    return replace(
        fine,
        description=f"{name}, {_described(spec)}, compared with {_described(_coarser(spec))}",
        params_error=relative_error(coarse.params, fine.params),
        y0_error=relative_error(coarse.y0, fine.y0),
        states=states,
    )


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


def _coarser(spec: SolverSpec) -> SolverSpec:
    if tableau(spec.solver).adaptive or spec.first_step is None:
        solver = CROSS_CHECK.get(spec.solver, spec.solver)
        return replace(spec, solver=solver, rtol=10 * spec.rtol, atol=10 * spec.atol)
    return replace(spec, first_step=2 * spec.first_step)


def _described(spec: SolverSpec) -> str:
    how = f"rtol {spec.rtol:.0e}" if tableau(spec.solver).adaptive else f"step {spec.first_step:.3g}"
    return f"{spec.solver} {how}"


def _states(backend: AbstractBackend, framework: AbstractFramework, problem: Problem, spec: SolverSpec) -> np.ndarray:
    return framework.flat_state(backend.gradient_step(problem, spec, framework).solution())


def _solve(backend: AbstractBackend, framework: AbstractFramework, problem: Problem, spec: SolverSpec) -> Reference:
    return reference_from(framework, backend.grad(problem, spec, framework), "")


def _flat(value: Any, names: list[str] | None) -> np.ndarray:
    parts = [value] if names is None else [value[name] for name in names]
    return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts])


def _rounded(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {
        name: a.astype(dtype).astype(np.float64) if np.issubdtype(a.dtype, np.floating) and name != "times" else a
        for name, a in arrays.items()
    }
