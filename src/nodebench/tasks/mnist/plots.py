"""Plots of a classifier of digits: its mistakes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from nodebench.frameworks.base import Batch
from nodebench.plots import Plot, View
from nodebench.tasks.plotting import small_multiples, view_in_batches, without_ticks

LOOKED_AT = 2_000
"""The first test images, so many of them at most."""

SHOWN = 24

ABREAST = 8

INCHES = 1.15

BATCH = 100


def misread_digits(test: Batch, view: View) -> tuple[Plot, ...]:
    """The mistakes among the first test images, those the model is surest of first; nothing where there are none.

    Args:
        test: Test images and labels.
        view: Calls a method of the trained model on a batch.
    """
    images, labels = test["images"][:LOOKED_AT], test["labels"][:LOOKED_AT]
    logits = view_in_batches(view, "scores", {"images": images}, BATCH)["logits"]
    probabilities = softmax(logits.astype(np.float64), axis=1)
    predicted, surest = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        return ()
    shown = wrong[np.argsort(-surest[wrong], kind="stable")][:SHOWN]
    which = f"all {len(wrong)}" if len(shown) == len(wrong) else f"the {len(shown)} surest of {len(wrong):,}"
    among = f"among the first {len(labels):,} test images"
    grey = np.round(255 * images[shown, 0]).astype(np.uint8)
    titles = [f"{labels[i]} -> {predicted[i]} ({surest[i]:.2f})" for i in shown]
    caption = f"Misread digits, true -> predicted (probability): {which} {among}"
    return (Plot("misread-digits", caption, digits(grey, titles)),)


def digits(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """Grey images, 0 black to 255 white, shape `(n, rows, columns)`, each under its title."""
    figure, parts = small_multiples(titles, ABREAST, INCHES)
    for axes, image in zip(parts, images, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
        without_ticks(axes)
    return figure
