"""What a user asks to be measured, as the command line, Python and tests say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nodebench.errors import UserError
from nodebench.registry import split_list

if TYPE_CHECKING:
    from nodebench.tasks.base import Preset

NAMES = ("backends", "tasks", "models", "solvers")
"""Fields of a request that are names."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks to be measured; a sequence left empty means the default.

    Names are taken from a list, or from a string with commas between them, and kept as a tuple.

    Attributes:
        backends: Gradient method, name[option=value]; or `all`.
        tasks: Task, name[option=value]; or `all`.
        models: Model of the task; or `all`.
        dataset: Data set of the task. It is handed to tasks as their option `dataset`.
        measure: gradient, counts (evaluations alone), training or both.
        preset: Budget: smoke, quick, standard or paper.
        solvers: Solver; see `nodebench list solvers`.
        controller: Step-size controller: integral or pi.
        rtols: Relative tolerance.
        atol: Absolute tolerance (default: --rtol, if that is given).
        first_step: First step size, or that of every fixed step (default: 20 steps in all).
        max_steps: Step limit of one solve. The task has its own by default.
        dtype: float32 or float64.
        device: cpu or cuda.
        batch_size: Examples in a step (default: the recipe's).
        seeds: Seed of weights, data order and noise (default: 0).
        threads: Threads of a worker. One by default: on steps as small as these a second one gains little, and where
            another process takes its core for a moment, threads that wait for each other cost many times a step.

    Raises:
        UserError: If a sequence is none.
    """

    backends: Sequence[str] = ()
    tasks: Sequence[str] = ()
    models: Sequence[str] = ()
    dataset: str | None = None
    measure: str = "both"
    preset: "Preset" = "quick"
    solvers: Sequence[str] = ()
    controller: str = "integral"
    rtols: Sequence[float] = ()
    atol: float | None = None
    first_step: float | None = None
    max_steps: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    batch_size: int | None = None
    seeds: Sequence[int] = (0,)
    threads: int = 1

    def __post_init__(self) -> None:
        for name in NAMES:
            given = several(name, getattr(self, name))
            self._keep(name, tuple(part for text in given for part in split_list(text)))
        self._keep("rtols", several("rtols", self.rtols))
        self._keep("seeds", tuple(dict.fromkeys(several("seeds", self.seeds))) or (0,))

    def _keep(self, name: str, values: tuple[Any, ...]) -> None:
        object.__setattr__(self, name, values)


def several(name: str, values: Any) -> tuple[Any, ...]:
    """The values of a list; a name that stands alone is a list of one.

    Raises:
        UserError: If it is no list.
    """
    if isinstance(values, str) and name in NAMES:
        return (values,)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"`{name}` must be a list; got {values!r}.")
    return tuple(values)
