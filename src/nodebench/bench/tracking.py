"""The gradient error along a training: at which moments it is measured, what is kept of them, and how it is judged.

A reference needs float64, and time that is not the training's. So a training keeps no more than its weights at some
moments, and when it has ended, well or not, its gradient at each is measured and judged by fresh workers, as in a
gradient measurement. What is kept is part of its checkpoint, so that a training that goes on from there has it all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nodebench.bench.cell_run import CellRun
from nodebench.bench.checkpoints import Progress
from nodebench.bench.group import GradientGroup
from nodebench.bench.judge import References
from nodebench.bench.messages import Event
from nodebench.bench.worker.subject import save_inputs
from nodebench.results.machine import available_memory
from nodebench.results.quantities import TrackedError
from nodebench.results.record import Measurement
from nodebench.tasks.base import GradientInputs

PASSED = "the training was not tracked when it passed this moment, and later went on from its checkpoint."

UNSTATED = ("no grad_error:", "no grad_error_params", "no grad_error_y0", "no error of d/dparams")
"""How the notes of `nodebench.bench.judge` begin that say why an error is not stated."""


def moments(epochs: int, n: int) -> tuple[int, ...]:
    """After how many epochs the gradient is judged: none at first, then `n` times as evenly as whole epochs are.

    Args:
        epochs: Epochs of the training; the last moment is their end.
        n: Moments beside the initial weights; every epoch has one where there are fewer. 0 for no moment at all.
    """
    return tuple(sorted({0, *(-(-epochs * k // n) for k in range(1, n + 1))})) if n else ()


@dataclass(frozen=True)
class Moments:
    """Keeps the gradient problem of a training at some of its moments.

    Attributes:
        epochs: The moments, by the epochs that have ended then.
        folder: Where each has a file; it is empty where the moment had passed before anybody asked for it.
        inputs: The gradient problem at the present weights.
    """

    epochs: Sequence[int]
    folder: Path
    inputs: Callable[[], GradientInputs]

    def reach(self, progress: Progress) -> None:
        """Keep the present moment, where it is one of them; where the training stands says which have passed."""
        for epoch in self.epochs:
            path = self.folder / f"{epoch}.npz"
            if path.exists() or epoch > progress.epoch:
                continue
            if (epoch, progress.step) == (progress.epoch, 0):
                save_inputs(path, self.inputs())
            else:
                path.touch()


def tracked_errors(trained: CellRun, folder: Path, notify: Callable[[Event], None]) -> list[TrackedError]:
    """The errors of the gradient at the moments that a training has kept, in their order.

    Args:
        trained: The cell that was trained; nothing of it is changed.
        folder: Where `Moments` has kept them.
        notify: Told how far this is.
    """
    kept = sorted((int(path.stem), path) for path in folder.iterdir())
    found: list[TrackedError] = []
    # The weights of a training are not met again, so that their references are not worth keeping.
    with TemporaryDirectory() as references:
        for at, (epoch, path) in enumerate(kept):
            notify(Event("training", f"gradient error at epoch {epoch}", trained.cell, at, len(kept)))
            found.append(_entry(epoch, _measured(trained, path, Path(references))))
    return found


def _measured(trained: CellRun, inputs: Path, folder: Path) -> Measurement:
    """What is found of the gradient at one moment; whatever fails is its reason, and the training stays as it is."""
    if not inputs.stat().st_size:
        return Measurement(reason=PASSED)
    cell, settings, first_step = trained.cell, trained.settings, trained.first_step
    moment = CellRun(cell, settings, Measurement(first_step=first_step), inputs, clock=trained.clock)
    with moment.failures():
        references = References(cell, settings, first_step, inputs, folder, _unheard, moment.clock)
        group = GradientGroup([moment], first_step, references, folder, available_memory(), settings, _unheard)
        group.compare(folder / "programs")
    return moment.found


def _unheard(event: Event) -> None:
    """The passes of a moment are too short to be told of."""
    del event


def _entry(epoch: int, found: Measurement) -> TrackedError:
    why = found.reason or ""
    unstated = [note for note in found.notes if note.startswith(UNSTATED) and not (why and why in note)]
    return TrackedError(
        epoch=epoch,
        grad_error_params=found.grad_error_params,
        grad_error_y0=found.grad_error_y0,
        grad_cosine_params=found.grad_cosine_params,
        reference_error_params=found.reference_error_params,
        reference_error_y0=found.reference_error_y0,
        nfe_forward=found.nfe_forward,
        nfe_backward=found.nfe_backward,
        reason="; ".join(filter(None, [why, *unstated])) or None,
    )
