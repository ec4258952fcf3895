"""The frozen values every backend is handed: solver spec, gradient problem, and the gradients it answers with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from nodebench.errors import UserError

Array = Any
"""An array of the framework at hand: `numpy.ndarray`, `torch.Tensor` or `jax.Array`."""

State = Array | tuple[Array, ...]
"""The state of an ODE: one array or a tuple of arrays."""

Field = Callable[[Any, State], State]
"""A vector field `field(t, y)`: `t` is a scalar array of the state's dtype, the result is like `y`."""

Dtype = Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True)
class SolverSpec:
    """How an ODE is solved; one value for all backends of a comparison.

    Attributes:
        solver: Name of the method, for example `"dopri5"`.
        controller: How a method with an error estimate chooses its steps: `"integral"`, from the last error alone, or
            `"pi"`, from the last two (proportional-integral).
        rtol: Relative tolerance of the root-mean-square error norm.
        atol: Absolute tolerance of the same norm, in units of the state.
        first_step: Length of the first step (of every step, for a method without an error estimate), positive, in units
            of time. None leaves the choice to the backend; a benchmark never does.
        n_steps: Where `first_step` is None: the steps that a method without an error estimate is to take over the whole
            time span. A harness turns it into `first_step`; backends do not read it.
        max_steps: Limit of accepted and rejected steps in one solve.
        dtype: Floating-point type of the state and the parameters.

    Raises:
        UserError: If a tolerance, step or limit is not positive and finite, or controller or dtype is unknown.
    """

    solver: str = "dopri5"
    controller: str = "integral"
    rtol: float = 1e-3
    atol: float = 1e-3
    first_step: float | None = None
    n_steps: int = 20
    max_steps: int = 256
    dtype: str = "float32"

    def __post_init__(self) -> None:
        positive = {
            "rtol": self.rtol,
            "atol": self.atol,
            "first_step": self.first_step,
            "n_steps": self.n_steps,
            "max_steps": self.max_steps,
        }
        for name, value in positive.items():
            if value is not None and not (isfinite(value) and value > 0):
                raise UserError(f"`{name}` must be positive and finite; got {value!r}.")
        if self.controller not in ("integral", "pi"):
            raise UserError(f"`controller` must be 'integral' or 'pi'; got {self.controller!r}.")
        if self.dtype not in ("float32", "float64"):
            raise UserError(f"`dtype` must be 'float32' or 'float64'; got {self.dtype!r}.")


@dataclass(frozen=True)
class Problem:
    """What a gradient measurement differentiates: one solve and one loss, with fixed weights and one fixed batch.

    Attributes:
        field: The vector field; its parameters are those of its framework's module (`nn.Module`, `equinox.Module`).
        y0: Initial state at `times[0]`.
        times: Output times, shape `(n,)`, n >= 2, strictly increasing or decreasing. In torch a float64 tensor;
            one that requires a gradient is differentiated.
        loss: Scalar loss of the states at `times`, which have shape `(n, *y0.shape)`, or a tuple of such arrays.
        differentiate_times: Whether the gradient with respect to `times` is wanted too.
    """

    field: Field
    y0: State
    times: Array
    loss: Callable[[State], Array]
    differentiate_times: bool = False


@dataclass(frozen=True)
class Gradients:
    """What a gradient step answers with.

    Attributes:
        loss: The scalar loss.
        y0: Its derivative with respect to the initial state, structured like it.
        params: Its derivative with respect to each parameter of the field, by dotted name.
        times: Its derivative with respect to the output times, shape `(n,)`, or None where not asked for.
    """

    loss: Array
    y0: State
    params: Mapping[str, Array]
    times: Array | None = None


@dataclass(frozen=True)
class StepGrid:
    """The steps an adaptive solve took.

    Attributes:
        times: Boundaries of the accepted steps as Python floats, from the first to the last time, length accepted + 1.
        n_rejected: How many steps were tried and rejected.
        n_jacobians: Jacobians of the field that were formed; None where that is not known, or there are none.
        n_factorisations: Matrices that were factorised to solve the equations of stages; None likewise.
    """

    times: tuple[float, ...]
    n_rejected: int
    n_jacobians: int | None = None
    n_factorisations: int | None = None

    @property
    def n_accepted(self) -> int:
        """Number of accepted steps."""
        return len(self.times) - 1


@dataclass(frozen=True)
class Evaluations:
    """Function evaluations of one gradient step.

    Each of the first two costs an evaluation, whether or not it keeps what a VJP of it needs (residuals, as JAX calls
    them); a VJP costs what keeping that and pulling back add to its evaluation, which one of the first two counts.

    Attributes:
        nfe_forward: Evaluations of the field in the forward solve.
        nfe_backward: Evaluations of the field in the backward pass, recomputations included: of diffrax those of the
            steps between its checkpoints, plain and with residuals.
        n_vjps: Vector-Jacobian products of the field.
    """

    nfe_forward: int
    nfe_backward: int
    n_vjps: int
