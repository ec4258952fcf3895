"""Operations that are written out before a graph is compiled for a CPU, where what Inductor makes of them is slow."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

VECTOR = 16
"""Numbers in the longest vector of a processor."""

LARGE = 2**18
"""Elements of a tensor from which on the time of a call is nothing beside that of a copy."""


def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """A product and a sum apart, where rows are no multiple of the processor's vectors.

    What follows would end each row with a short vector. A bias in the shape of the product, which is made once in a
    program, lets it be one long loop, of which the sum is part; a kernel would copy the bias into each product.
    """
    rows, columns = a.shape[0], b.shape[1]
    if bias.dim() != 1 or rows == 1 or columns % VECTOR == 0 or rows * columns > LARGE or beta != 1 or alpha != 1:
        return NotImplemented
    spread = torch.mm(bias.new_ones(rows, 1), bias[None])  # a product is stored, where a view would be read again
    return torch.mm(a, b) + spread


WRITTEN_OUT: Mapping[object, Callable[..., Any]] = {torch.ops.aten.addmm.default: addmm}
"""What is written out, as a table of decompositions; one that returns NotImplemented leaves the operation as it is."""
