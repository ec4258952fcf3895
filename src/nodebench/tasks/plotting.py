"""What the plots of our tasks share: views of a model a batch at a time, and small multiples."""

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nodebench.frameworks.base import Batch
from nodebench.plots import View

ABREAST = 5
"""Small multiples in one row at most."""

INCHES = 2.2
"""Width of one of them."""

TITLE_INCHES = 0.5

LETTERS_PER_INCH = 14
"""Letters of a title, or of the name of an axis, in one line."""

DPI = 110
"""Dots per inch of what is rasterized."""


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


def small_multiples(
    titles: Sequence[str], abreast: int = ABREAST, inches: float = INCHES, below: float = 0.0
) -> tuple[Figure, Sequence[Axes]]:
    """A figure of square parts in rows.

    Args:
        titles: The title of each part.
        abreast: Parts in a row at most.
        inches: Width of a part.
        below: Height of what stands below all of them, in inches.

    Returns:
        The figure, and the axes of each part.
    """
    rows = ceil(len(titles) / abreast)
    columns = ceil(len(titles) / rows)
    size = (columns * inches, rows * (inches + TITLE_INCHES) + below)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    parts = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in parts[len(titles) :]:
        axes.set_axis_off()
    shown = list(parts[: len(titles)])
    for axes, title in zip(shown, titles, strict=True):
        axes.set_title(wrapped(title, inches), fontsize=9)
    return figure, shown


def wrapped(text: str, inches: float = INCHES) -> str:
    """A text in lines that are no wider than a part."""
    return fill(text, round(LETTERS_PER_INCH * inches))


def without_ticks(axes: Axes) -> None:
    """Leave nothing of the axes but what is drawn within them."""
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
