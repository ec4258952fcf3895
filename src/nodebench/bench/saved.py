"""Gradients as files: those of a cell until they are judged, and those that judge them; how far apart two are."""

import hashlib
import os
import platform
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nodebench.frameworks.base import AbstractFramework
from nodebench.problem import Gradients, SolverSpec

UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error)
"""What comes of reading a file that is cut short, damaged or of another kind."""

OPTIONAL = ("times", "states", "coarse_states")
"""What gradients need not have."""

TIMES = "d/dtimes"
"""What the gradient of the output times is called beside the others."""

ROUNDINGS = 32
"""Roundings of the largest entry that a solve may accumulate."""


@dataclass(frozen=True)
class Reference:
    """Gradients of one problem: those that others are judged by, or those that are judged.

    Attributes:
        y0: d loss / d y0, flat, float64.
        params: d loss / d parameters by name, float64.
        description: How it was computed and how accurate it is.
        params_error: Its own relative error of d loss / d parameters, estimated from above; 0 for a closed form.
        y0_error: The same of d loss / d y0.
        times: d loss / d output times, float64; None where it is not asked for, or there is none.
        times_error: Its own relative error of that, likewise.
        states: States at the output times, flat, float64; None where the framework has no method to solve with.
        coarse_states: The same of the coarser solve, of which these are the better; None where there is none.
        doubt: Why nothing may be judged by it, or empty.
        contradicted: Whether that is because the gradient that a solver computes is not that of the loss.
    """

    y0: np.ndarray
    params: Mapping[str, np.ndarray]
    description: str
    params_error: float = 0.0
    y0_error: float = 0.0
    times: np.ndarray | None = None
    times_error: float = 0.0
    states: np.ndarray | None = None
    coarse_states: np.ndarray | None = None
    doubt: str = ""
    contradicted: bool = False

    @property
    def largest(self) -> dict[str, float]:
        """The largest entry of each gradient, by the name of its error in a record."""
        arrays = {"grad_error_params": list(self.params.values()), "grad_error_y0": [self.y0]}
        if self.times is not None:
            arrays["grad_error_times"] = [self.times]
        return {
            name: max((float(np.abs(array).max(initial=0.0)) for array in each), default=0.0)
            for name, each in arrays.items()
        }

    def state_error(self, spec: SolverSpec) -> float | None:
        """Its own error of the states in tolerances of `spec`, estimated from above; None where there are no states."""
        if self.states is None or self.coarse_states is None:
            return None
        return in_tolerances(self.coarse_states, self.states, spec)

    def misfit(self, other: "Reference") -> str | None:
        """What is of another size here than in the other, or None."""
        ours, theirs = self.sizes, other.sizes
        wrong = [name for name in theirs if ours.get(name) != theirs[name]]
        if self.times is None and TIMES in wrong:  # which is no fault: some methods have none
            wrong.remove(TIMES)
        return ", ".join(f"{name} has {ours.get(name, 0)} numbers, not {theirs[name]}" for name in wrong) or None

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers there are of each."""
        arrays = {"d/dy0": self.y0, **{f"d/d{name}": value for name, value in self.params.items()}}
        if self.times is not None:
            arrays[TIMES] = self.times
        if self.states is not None:
            arrays["the solution"] = self.states
        return {name: value.size for name, value in arrays.items()}

    def save(self, path: Path) -> None:
        """Write it as `.npz`, all at once and durably, so that a reader never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"params/{name}": value for name, value in self.params.items()}
        # Its own: another run, here or on another machine, may be writing the same reference.
        half = path.with_suffix(f".{platform.node()}-{os.getpid()}.npz")
        named: dict[str, Any] = {"y0": self.y0, "description": self.description, **arrays}
        named |= {"params_error": self.params_error, "y0_error": self.y0_error}
        named |= {"times_error": self.times_error, "doubt": self.doubt, "contradicted": self.contradicted}
        optional = {name: getattr(self, name) for name in OPTIONAL}
        with half.open("wb") as file:
            np.savez(file, **named | {name: value for name, value in optional.items() if value is not None})
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote; raises one of `UNREADABLE` where it is damaged."""
        with path.open("rb") as stream, np.load(stream) as file:
            params = {name.removeprefix("params/"): file[name] for name in file.files if name.startswith("params/")}
            optional = {name: file[name] for name in OPTIONAL if name in file.files}
            return cls(
                file["y0"],
                params,
                str(file["description"]),
                float(file["params_error"]),
                float(file["y0_error"]),
                times_error=float(file["times_error"]),
                **optional,
                doubt=str(file["doubt"]),
                contradicted=bool(file["contradicted"]),
            )


def reference_from(framework: AbstractFramework, gradients: Gradients, description: str) -> Reference:
    """Gradients of a framework as a reference."""
    found = framework.to_numpy(gradients)
    times = None if found.times is None else np.asarray(found.times, np.float64)
    return Reference(framework.flat_state(gradients.y0), found.params, description, times=times)


def digest(said: str, *groups: Mapping[str, Any]) -> str:
    """What words and groups of arrays by name are known by, 24 hexadecimal digits."""
    found = hashlib.sha256(said.encode())
    for group in groups:
        for name in sorted(group):
            array = np.asarray(group[name])
            found.update(f"{name} {array.shape} {array.dtype}".encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:24]


def relative_error(value: Any, reference: Any) -> float:
    """|value - reference| / |reference| in the L2 norm, over an array or a mapping of arrays as one vector."""
    names = sorted(reference) if isinstance(reference, Mapping) else None
    found, exact = (_flat(x, names) for x in (value, reference))
    length, distance = float(np.linalg.norm(exact)), float(np.linalg.norm(found - exact))
    return distance / length if length else distance


def norm(gradient: Any) -> float:
    """L2 norm of an array, or of a mapping of arrays as one vector."""
    return float(np.linalg.norm(_flat(gradient, sorted(gradient) if isinstance(gradient, Mapping) else None)))


def in_tolerances(states: np.ndarray, reference: np.ndarray, spec: SolverSpec) -> float:
    """Root mean square of the difference of two states in units of the tolerance, the norm of the solver itself.

    Where rounding is coarser than the tolerance, in units of that.
    """
    rounding = ROUNDINGS * np.finfo(spec.dtype).eps * np.abs(reference).max()
    scale = np.maximum(spec.atol + spec.rtol * np.abs(reference), rounding)
    return float(np.sqrt(np.mean(((states - reference) / scale) ** 2)))


def _flat(value: Any, names: list[str] | None) -> np.ndarray:
    parts = [value] if names is None else [value[name] for name in names]
    return np.concatenate([np.zeros(0), *(np.ravel(np.asarray(part, dtype=np.float64)) for part in parts)])
