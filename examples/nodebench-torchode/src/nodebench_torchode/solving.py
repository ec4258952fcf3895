"""One solve with torchode, shared by the two backends that differ in how it is differentiated."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchode
from torch import Tensor, nn
from torchode.status_codes import REACHED_MAX_STEPS, SUCCESS

from nodebench import DivergedError, Field, FlatLayout, Problem, SolverSpec, State, StepLimitError, flat_layout

METHODS: Mapping[str, Callable[..., Any]] = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5}
"""The methods that torchode and nodebench have in common."""


def unsupported(problem: Problem, spec: SolverSpec) -> str | None:
    """Why torchode cannot solve or differentiate this, in one sentence, or None."""
    if spec.solver not in METHODS:
        return f"torchode has no `{spec.solver}` like ours; it has {', '.join(METHODS)}."
    if spec.controller != "integral":
        return f"torchode's controllers are used with integral gain alone here, not as `{spec.controller}`."
    if problem.differentiate_times:
        return "gradients with respect to times are not offered."
    return None


class Rate(nn.Module):
    """A field on torchode's batches of vectors: the whole state is one instance, `(1, size)`.

    Args:
        field: The field; where it is a module, its parameters are this one's.
        shape: How its state lies in a vector.
    """

    def __init__(self, field: Field, shape: FlatLayout) -> None:
        super().__init__()
        self.field, self._shape = field, shape

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The derivative, at the one time of the batch."""
        parts = self._shape.evaluate(self.field, t[0].clone(), self._shape.parts(y[0]))
        return torch.cat([part.reshape(-1) for part in parts])[None]


class Loop(torchode.AutoDiffAdjoint):
    """torchode's loop over steps, which raises where torchode returns a status that nobody has to read."""

    def solve(self, *arguments: Any, **options: Any) -> Any:
        """Solve.

        Raises:
            StepLimitError: If the steps do not suffice.
            DivergedError: If it gives up for another reason.
        """
        solution = super().solve(*arguments, **options)
        status = int(solution.status.max())
        if status == REACHED_MAX_STEPS:
            raise StepLimitError(f"torchode: the limit of {self.max_steps} steps was reached.")
        if status != SUCCESS or not torch.isfinite(solution.ys).all():
            raise DivergedError(f"torchode: the solve ended with status {status}, its states not finite.")
        return solution


def loop(term: Any, spec: SolverSpec, *, through_control: bool) -> Loop:
    """The method, a controller with torchdiffeq's and diffrax's defaults, and the loop around them."""
    method = METHODS[spec.solver](term=term)
    controller = torchode.IntegralController(atol=spec.atol, rtol=spec.rtol, term=term)
    return Loop(method, controller, max_steps=spec.max_steps, backprop_through_step_size_control=through_control)


def solve(make: Callable[[Any], Any], field: Field, y0: State, times: Tensor, spec: SolverSpec) -> State:
    """States at `times`, by what `make` makes of the term."""
    shape = flat_layout(y0)
    y = shape.flatten(y0)[None]
    at = times.detach().to(y.dtype)[None]
    term = torchode.ODETerm(Rate(field, shape), with_stats=False)
    first = None
    if spec.first_step is not None:
        first = torch.copysign(torch.full_like(at[:, 0], spec.first_step), at[:, -1] - at[:, 0])
    problem = torchode.InitialValueProblem(y, t_eval=at)
    return shape.state(make(term).solve(problem, term=term, dt0=first).ys[0])
