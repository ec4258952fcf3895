"""Plots of a trained model: the figures that a task returns, and the SVG that is kept of them.

A task returns ordinary figures of matplotlib. They are rendered once, at the end of the training and in its process:
a report made years later needs neither the framework nor the task nor its weights. matplotlib is imported only where a
plot is made, so that whoever trains nothing can do without it.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nodebench.errors import NotInstalledError, PluginError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BYTES = 1_000_000
"""Bytes that the SVG of a plot may have. A store keeps them for every training, and a page embeds them."""

MOST_LETTERS = 1_000
"""Letters of a text alternative."""

View = Callable[[str, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""`view(method, batch)`: what a method of the trained model returns for a batch, without gradients, as NumPy arrays."""


@dataclass(frozen=True)
class Plot:
    """One plot of a trained model.

    Attributes:
        name: Key among the plots of a model, for example `densities`.
        caption: What it shows, in a few words.
        figure: The figure. Titles and labels within it become its text alternative.
    """

    name: str
    caption: str
    figure: "Figure"


@dataclass(frozen=True)
class RenderedPlot:
    """A plot as it is kept and shown.

    Attributes:
        name: Key among the plots of a model.
        caption: What it shows, in a few words.
        alternative: What stands within it, for readers who do not see it.
        svg: The image, which refers to nothing outside itself.
    """

    name: str
    caption: str
    alternative: str
    svg: bytes


def render(make: Callable[[], Iterable[Plot]]) -> tuple[RenderedPlot, ...]:
    """Make plots and render them. Equal figures give equal bytes.

    Args:
        make: Makes the plots.

    Raises:
        NotInstalledError: If matplotlib is missing.
        PluginError: If what is made is no plot, or too large.
    """
    try:
        return tuple(_rendered(plot) for plot in make())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        message = "matplotlib is not installed; install with: pip install 'nodebench[report]'"
        raise NotInstalledError(message) from error


def _rendered(plot: Plot) -> RenderedPlot:
    from matplotlib import rc_context  # noqa: PLC0415  an optional dependency, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    if not (isinstance(plot, Plot) and isinstance(plot.figure, Figure)):
        raise PluginError(f"`plots` gave {plot!r}, not a `Plot` with a figure of matplotlib.")
    buffer = io.BytesIO()
    # Text as outlines, which look alike wherever they are shown; no date, and ids that are the same every time.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "nodebench"}):
        plot.figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    if len(svg) > MOST_BYTES:
        raise PluginError(
            f"plot `{plot.name}` takes {len(svg) / 1e6:.3g} MB as SVG, over {MOST_BYTES / 1e6:g} MB; draw what is "
            "dense with `rasterized=True`."
        )
    words = dict.fromkeys(" ".join(text.split()) for text in _texts(plot.figure))
    alternative = "; ".join(word for word in words if word)[:MOST_LETTERS]
    return RenderedPlot(str(plot.name), str(plot.caption), alternative or str(plot.caption), svg)


def _texts(figure: "Figure") -> Iterator[str]:
    """Titles, labels and legends of a figure."""
    yield figure.get_suptitle()
    for axes in figure.axes:
        yield from (axes.get_title(), axes.get_xlabel(), axes.get_ylabel())
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        yield from (text.get_text() for text in (legend.get_texts() if legend else ()))
