"""What there is to see of a model of the spirals: its reconstructions, and the latent trajectories behind them."""

import numpy as np

from nodebench.frameworks.base import Batch
from nodebench.pictures import Curves, Picture, Plot, Series, View
from nodebench.tasks.spiral.data import N_POINTS

N_PLOTS = 3
"""Trajectories of each direction whose reconstruction is shown."""

N_LATENT = 20
"""Trajectories of each direction whose latent trajectory is shown."""

STRIDE = 4
"""Every so many points of a latent trajectory are kept: 50 make a smooth line."""


def pictures(test: Batch, view: View) -> tuple[Picture, ...]:
    """Reconstructions of test trajectories of both directions and, where the model has any, their latent trajectories.

    Args:
        test: Test trajectories.
        view: Calls a method of the trained model on a batch.
    """
    clockwise = turns_clockwise(test)
    groups = [np.flatnonzero(clockwise == way)[:N_LATENT] for way in (True, False)]
    chosen = np.concatenate(groups)
    batch = {name: values[chosen] for name, values in test.items()}
    found = view("predictions", batch)
    plotted = np.concatenate([np.arange(N_PLOTS), len(groups[0]) + np.arange(N_PLOTS)])
    plots = tuple(
        Plot(_direction(clockwise[chosen[index]]), _series(batch, found["inside"], found["beyond"], index))
        for index in plotted
    )
    reconstructions = Curves("reconstructions", "Test spirals, observed, reconstructed and extrapolated", (), plots)
    if "latent" not in found:
        return (reconstructions,)
    return reconstructions, _latent_space(found["latent"], clockwise[chosen])


def turns_clockwise(batch: Batch) -> np.ndarray:
    """Whether each trajectory turns clockwise, by the sign of the turns between its steps, shape `(n,)`."""
    steps = np.diff(np.concatenate([batch["inside"], batch["beyond"]], axis=1), axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    turns = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    clockwise: np.ndarray = turns.sum(1) < 0
    return clockwise


def _series(batch: Batch, inside: np.ndarray, beyond: np.ndarray, index: int) -> tuple[Series, ...]:
    true = np.concatenate([batch["inside"][index], batch["beyond"][index]])
    return (
        Series("true", true.astype(np.float32)),
        Series("observed", batch["observations"][index].astype(np.float32), "points"),
        Series("reconstructed", inside[index].astype(np.float32)),
        Series("extrapolated", beyond[index].astype(np.float32)),
    )


def _latent_space(latent: np.ndarray, clockwise: np.ndarray) -> Curves:
    """Latent trajectories, shape `(n, times, 4)`, on the two principal components of all their states."""
    kept = latent[:, ::STRIDE].astype(np.float64)
    centred = kept - kept.mean((0, 1))
    _, spread, components = np.linalg.svd(centred.reshape(-1, centred.shape[-1]), full_matrices=False)
    # A component's sign is arbitrary: its largest entry is made positive, so that equal models look equal.
    largest = np.abs(components).argmax(1)
    components *= np.sign(components[np.arange(len(components)), largest])[:, None]
    projected = (centred @ components[:2].T).astype(np.float32)
    shares = 100 * spread[:2] ** 2 / (spread**2).sum()
    return Curves(
        "latent-space",
        f"Latent trajectories of {len(latent)} test spirals over {2 * N_POINTS} times, the observed span and beyond",
        tuple(
            f"{rank} principal component ({share:.0f} % of variance)"
            for rank, share in zip(("first", "second"), shares, strict=True)
        ),
        (
            Plot(
                "",
                tuple(Series(_direction(way), points) for way, points in zip(clockwise, projected, strict=True)),
            ),
        ),
    )


def _direction(clockwise: np.bool_) -> str:
    return "clockwise" if clockwise else "counter-clockwise"
