"""The gradient error: a reference in float64, and the relative L2 distance of a gradient from it.

The reference is the gradient of the continuous problem: in closed form where the task has one, else from an exact
discrete gradient at a tolerance far below the cell's, checkpointed so that it fits in memory. It is solved at two
tolerances, one order apart, and states their difference as its own accuracy.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import UnsupportedError
from nodebench.frameworks.base import AbstractFramework
from nodebench.problem import Gradients, Problem, SolverSpec
from nodebench.tasks.base import GradientInputs

REFERENCE_BACKENDS: Mapping[str, str] = {"torch": "checkpoint", "jax": "diffrax"}
"""The backend that computes the reference, by framework."""

TIGHTENING = 1e-4
"""Tolerance of the reference relative to the cell's."""

SMALLEST_TOLERANCE = 1e-12
MAX_STEPS = 100_000


@dataclass(frozen=True)
class Reference:
    """Reference gradients of one problem.

    Attributes:
        y0: d loss / d y0, flat, float64.
        params: d loss / d parameters by name, float64.
        description: How it was computed and how accurate it is.
    """

    y0: np.ndarray
    params: Mapping[str, np.ndarray]
    description: str

    def save(self, path: Path) -> None:
        """Write it as `.npz`, all at once, so that a reader never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"params/{name}": value for name, value in self.params.items()}
        half = path.with_suffix(".half.npz")
        named: dict[str, Any] = {"y0": self.y0, "description": np.array(self.description), **arrays}
        np.savez(half, **named)
        half.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote."""
        with np.load(path) as file:
            params = {name.removeprefix("params/"): file[name] for name in file.files if name.startswith("params/")}
            return cls(file["y0"], params, str(file["description"]))


def rounded(inputs: GradientInputs, dtype: str) -> GradientInputs:
    """The inputs as a cell of `dtype` sees them, so that the reference differentiates the very same function."""
    return replace(inputs, weights=_rounded(inputs.weights, dtype), batch=_rounded(inputs.batch, dtype))


def compute_reference(
    framework: AbstractFramework, model: Any, inputs: GradientInputs, problem: Problem, spec: SolverSpec
) -> Reference:
    """The reference gradients of a problem.

    Args:
        framework: Framework configured for float64.
        model: The model, for error messages.
        inputs: The problem in NumPy; its closed form is used where it has one.
        problem: The problem in the framework, in float64.
        spec: The cell's solver spec.

    Raises:
        UnsupportedError: If the framework has no method to compute a reference with.
    """
    if inputs.closed_form is not None:
        exact = inputs.closed_form()
        return Reference(np.ravel(exact.y0), exact.params, "closed form")
    if framework.name not in REFERENCE_BACKENDS:
        raise UnsupportedError(f"{framework.name} has no reference method, and the problem of {model} no closed form.")
    name = REFERENCE_BACKENDS[framework.name]
    backend: AbstractBackend = registry.load("backend", name, AbstractBackend)
    tolerance = max(min(spec.rtol, spec.atol) * TIGHTENING, SMALLEST_TOLERANCE)
    coarse, fine = (_solve(backend, framework, problem, spec, t) for t in (10 * tolerance, tolerance))
    own = max(relative_error(coarse.params, fine.params), relative_error(coarse.y0, fine.y0))
    text = f"{name}, dopri5, float64, tolerance {tolerance:.0e}, within {own:.0e} of the one at {10 * tolerance:.0e}"
    return Reference(fine.y0, fine.params, text)


def cache_name(inputs: GradientInputs, spec: SolverSpec, model_target: str, version: str) -> str:
    """Name that changes with anything the reference depends on: the arrays themselves, the model, the tolerance."""
    digest = hashlib.sha256(json.dumps([model_target, version, spec.rtol, spec.atol]).encode())
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


def _solve(
    backend: AbstractBackend, framework: AbstractFramework, problem: Problem, spec: SolverSpec, tolerance: float
) -> Reference:
    tight = replace(
        spec, solver="dopri5", rtol=tolerance, atol=tolerance, first_step=None, max_steps=MAX_STEPS, dtype="float64"
    )
    gradients: Gradients = backend.grad(problem, tight, framework)
    found = framework.to_numpy(gradients)
    return Reference(framework.flat_state(gradients.y0), found.params, "")


def _flat(value: Any, names: list[str] | None) -> np.ndarray:
    parts = [value] if names is None else [value[name] for name in names]
    return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts])


def _rounded(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {
        name: a.astype(dtype).astype(np.float64) if np.issubdtype(a.dtype, np.floating) and name != "times" else a
        for name, a in arrays.items()
    }
