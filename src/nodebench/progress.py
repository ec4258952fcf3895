"""Progress of a run, as events become lines: live on a terminal, plain when piped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nodebench.bench.events import Event

PLAIN_S = 10.0
"""How often a plain line tells of progress within a phase."""


class PlainDisplay:
    """Lines for a pipe or a log.

    Args:
        console: Where they go.
        n_cells: Cells of the run.
    """

    def __init__(self, console: Console, n_cells: int) -> None:
        self.console = console
        self.n_cells = n_cells
        self.n_done = 0
        self.told = 0.0
        self.phase = ""

    def __call__(self, event: Event) -> None:
        """Print a line where the event deserves one."""
        if event.kind == "run":
            self.n_done = event.done or 0
            self._line(f"{event.text}: {self.n_cells} cells, {self.n_done} done already")
        elif event.kind == "record" and event.cell is not None:
            self.n_done += 1
            reason = f": {event.record.reason}" if event.record is not None and event.record.reason else ""
            self._line(f"[{self.n_done}/{self.n_cells}] {event.cell.label}: {event.text}{reason}")
        elif event.kind == "cell" and event.cell is not None:
            self._line(f"{event.cell.label}: {event.text}")
        elif event.cell is not None:
            self._progress(event, event.cell.label)

    def _progress(self, event: Event, label: str) -> None:
        # A new phase is told at once, progress within it now and then.
        phase = f"{event.kind} {label}"
        if phase != self.phase or time.monotonic() - self.told > PLAIN_S:
            self.phase, self.told = phase, time.monotonic()
            self._line(f"{label}: {event.text}, {event.done} of {event.total or '?'}")

    def interrupted(self, command: str) -> None:
        """Say with which command to go on."""
        self._line(f"interrupted; {command} goes on from here")

    def _line(self, text: str) -> None:
        self.console.print(escape(text), soft_wrap=True)


class LiveDisplay:
    """Two bars on a terminal: all cells, and the phase at work.

    Args:
        progress: The bars.
        n_cells: Cells of the run.
    """

    def __init__(self, progress: Progress, n_cells: int) -> None:
        self.progress = progress
        self.overall: TaskID = progress.add_task("cells", total=n_cells)
        self.phase: TaskID = progress.add_task("starting", total=None)
        self.phase_name = ""

    def __call__(self, event: Event) -> None:
        """Move the bars; a finished cell leaves a line above them."""
        if event.kind == "run":
            self.progress.update(self.overall, completed=event.done or 0, description=event.text)
        elif event.kind == "record" and event.cell is not None:
            self.progress.advance(self.overall)
            reason = f": {event.record.reason}" if event.record is not None and event.record.reason else ""
            self.progress.console.print(escape(f"{event.cell.label}: {event.text}{reason}"))
        elif event.cell is not None:
            self._show_phase(event, f"{event.cell.label}: ")

    def interrupted(self, command: str) -> None:
        """Say with which command to go on."""
        self.progress.console.print(f"interrupted; {command} goes on from here")

    def _show_phase(self, event: Event, label: str) -> None:
        name = f"{event.kind} {label}"
        if name != self.phase_name:
            self.progress.reset(self.phase, total=event.total)
            self.phase_name = name
        description = escape(f"{label}{event.text}")
        self.progress.update(self.phase, description=description, completed=event.done or 0, total=event.total)


@contextmanager
def display(console: Console, n_cells: int) -> Iterator[PlainDisplay | LiveDisplay]:
    """A display fit for the console, to be handed to a runner as `notify`."""
    if not console.is_terminal:
        yield PlainDisplay(console, n_cells)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveDisplay(progress, n_cells)
