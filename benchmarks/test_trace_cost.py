"""Cost of the change of log-density against the number M of hidden units: linear by a trace, cubic by a determinant.

Run with `pytest -o addopts="" -s benchmarks/test_trace_cost.py`. One continuous layer of M units needs the trace of its
Jacobian, one discrete layer z + U tanh(W z + b) of M units the determinant, which the matrix determinant lemma gives at
the cost of an M by M factorisation ("Neural Ordinary Differential Equations", Chen et al., 2018, section 4,
https://arxiv.org/abs/1806.07366). In two dimensions the determinant of the 2 by 2 Jacobian would be cheaper still; what
is compared here is how either grows with M where M does not exceed the dimension.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nodebench.tasks.cnf.task import cnf_weights
from nodebench.tasks.cnf.torch import GatedPlanarField

POINTS = 64
TRACE_SIZES = (128, 256, 512, 1024, 2048, 4096)
DETERMINANT_SIZES = (64, 128, 256, 512)
DETERMINANT_POINTS = 1


@pytest.fixture(scope="module", name="seconds")
def seconds_fixture():
    """Least seconds by kind and size, which other processes disturb least; exponents are printed at the end."""
    measured = {}
    torch.set_num_threads(1)
    yield measured
    for kind in ("exact trace", "determinant"):
        sizes = sorted(size for name, size in measured if name == kind)
        for low, high in pairwise(sizes):
            exponent = math.log(measured[kind, high] / measured[kind, low]) / math.log(high / low)
            per_step = f"{measured[kind, low] * 1e6:10.1f} to {measured[kind, high] * 1e6:10.1f} us"
            print(f"\n{kind}: M {low:5d} to {high:5d}, {per_step}, exponent {exponent:.2f}", end="")


@pytest.mark.parametrize("size", TRACE_SIZES)
def test_exact_trace(benchmark, seconds, size):
    """Rates of 64 points and their log-densities by a sum of M gated planar functions."""
    field = GatedPlanarField(size)
    named = cnf_weights(size, 0)
    field.load_state_dict({name.removeprefix("field."): torch.tensor(array) for name, array in named.items()})
    field.double()
    state = (torch.tensor(np.random.default_rng(0).normal(size=(POINTS, 2))), torch.zeros(POINTS, dtype=torch.float64))
    benchmark.group = "exact trace"
    with torch.no_grad():
        rates = benchmark(field, 0.5, state)
    seconds["exact trace", size] = benchmark.stats.stats.min
    assert torch.isfinite(rates[1]).all()


@pytest.mark.parametrize("size", DETERMINANT_SIZES)
def test_determinant(benchmark, seconds, size):
    """Log-determinants of a residual layer of M units at a point, by the matrix determinant lemma."""
    rng = np.random.default_rng(0)
    u, w = (torch.tensor(rng.normal(0, 1 / size, (size, size))) for _ in range(2))
    slopes = torch.tensor(rng.uniform(0, 1, (DETERMINANT_POINTS, size)))
    product = w.t() @ u
    identity = torch.eye(size, dtype=torch.float64)

    def log_determinants():
        return torch.linalg.slogdet(identity + slopes[:, :, None] * product).logabsdet

    benchmark.group = "determinant"
    with torch.no_grad():
        values = benchmark(log_determinants)
    seconds["determinant", size] = benchmark.stats.stats.min
    assert torch.isfinite(values).all()
