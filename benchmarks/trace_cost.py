"""Cost of the change of log-density against the number M of hidden units: linear by a trace, cubic by a determinant.

    python benchmarks/trace_cost.py

One continuous layer of M units needs the trace of its Jacobian, one discrete layer z + U tanh(W z + b) of M units the
determinant, which the matrix determinant lemma gives at the cost of an M by M factorisation ("Neural Ordinary
Differential Equations", Chen et al., 2018, section 4, https://arxiv.org/abs/1806.07366). In two dimensions the
determinant of the 2 by 2 Jacobian would be cheaper still; what is compared here is how either grows with M where M does
not exceed the dimension. Times are the least of many, which other processes disturb least.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nodebench.tasks.cnf.task import cnf_weights
from nodebench.tasks.cnf.torch import GatedPlanarField

POINTS, DETERMINANT_POINTS = 64, 1

BUDGET_S = 0.5
"""Seconds of repetitions for each number of units."""


def exact_trace(size: int) -> Callable[[], object]:
    """Rates of 64 points and their log-densities by a sum of M gated planar functions."""
    field = GatedPlanarField(size)
    named = cnf_weights(size, 0)
    field.load_state_dict({name.removeprefix("field."): torch.tensor(array) for name, array in named.items()})
    field.double()
    state = (torch.tensor(np.random.default_rng(0).normal(size=(POINTS, 2))), torch.zeros(POINTS, dtype=torch.float64))
    return lambda: field(0.5, state)


def determinant(size: int) -> Callable[[], Tensor]:
    """Log-determinants of a residual layer of M units at a point, by the matrix determinant lemma."""
    rng = np.random.default_rng(0)
    u, w = (torch.tensor(rng.normal(0, 1 / size, (size, size))) for _ in range(2))
    slopes = torch.tensor(rng.uniform(0, 1, (DETERMINANT_POINTS, size)))
    product = w.t() @ u
    identity = torch.eye(size, dtype=torch.float64)
    return lambda: torch.linalg.slogdet(identity + slopes[:, :, None] * product).logabsdet


KINDS: Mapping[str, tuple[Callable[[int], Callable[[], object]], Sequence[int]]] = {
    "exact trace": (exact_trace, (128, 256, 512, 1024, 2048, 4096)),
    "determinant": (determinant, (64, 128, 256, 512)),
}
"""What is computed, by how many units."""


def least_seconds(call: Callable[[], object]) -> float:
    """Time of one call."""
    call()
    least, until = math.inf, time.perf_counter() + BUDGET_S
    while (begin := time.perf_counter()) < until:
        call()
        least = min(least, time.perf_counter() - begin)
    return least


def main() -> None:
    """Print a line for each number of units, with the exponent from the number before it."""
    torch.set_num_threads(1)
    with torch.no_grad():
        for kind, (make, sizes) in KINDS.items():
            before = None
            for size in sizes:
                seconds = least_seconds(make(size))
                grown = "" if before is None else f", exponent {math.log2(seconds / before):.2f}"
                print(f"{kind}: M {size:5d}, {seconds * 1e6:10.1f} us{grown}")
                before = seconds


if __name__ == "__main__":
    main()
