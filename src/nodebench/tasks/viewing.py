"""Views of a trained model on many examples, a batch at a time."""

from collections.abc import Mapping

import numpy as np

from nodebench.frameworks.base import Batch
from nodebench.pictures import View


def view_in_batches(
    view: View, method: str, examples: Batch, size: int, settings: Batch | None = None
) -> Mapping[str, np.ndarray]:
    """What a method returns for all examples, seen in batches of equal size.

    A framework that compiles does so for every new shape; the last batch is therefore filled up with the first examples
    again, and what they add is dropped.

    Args:
        view: Calls a method of the trained model on a batch.
        method: The method, which returns arrays whose first axis is the example.
        examples: Arrays whose first axis is the example.
        size: Examples in a batch.
        settings: Arrays that go into every batch as they are.
    """
    n = len(next(iter(examples.values())))
    parts = []
    for start in range(0, n, size):
        chosen = np.arange(start, start + size) % n
        batch = {name: array[chosen] for name, array in examples.items()}
        parts.append(view(method, {**batch, **(settings or {})}))
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}
